"""What NumPy calls the kinds of values that kernels are told of."""

from __future__ import annotations

import numpy as np

from millstream.kernels.programs import ValueKind

__all__ = ["DTYPES"]

DTYPES: dict[ValueKind, type[np.generic]] = {
    ValueKind.I8: np.int8,
    ValueKind.I16: np.int16,
    ValueKind.I32: np.int32,
    ValueKind.I64: np.int64,
    ValueKind.U8: np.uint8,
    ValueKind.U16: np.uint16,
    ValueKind.U32: np.uint32,
    ValueKind.U64: np.uint64,
    ValueKind.F32: np.float32,
    ValueKind.F64: np.float64,
}
