"""What the words of accumulators are, by opcode: their types, and what they hold at first."""

from __future__ import annotations

import numpy as np

from millstream.kernels.programs import Opcode

__all__ = ["IDENTITY", "STATE_DTYPE"]

_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1

IDENTITY: dict[Opcode, int | float] = {
    Opcode.COUNT: 0,
    Opcode.SUM_I64: 0,
    Opcode.SUM_U64: 0,
    Opcode.SUM_F64: 0.0,
    Opcode.MIN_I64: _INT64_MAX,
    Opcode.MAX_I64: _INT64_MIN,
    Opcode.MIN_U64: 2**64 - 1,
    Opcode.MAX_U64: 0,
    Opcode.MIN_F64: float("nan"),
    Opcode.MAX_F64: float("-inf"),
    Opcode.BIT_AND: -1,
    Opcode.BIT_OR: 0,
    Opcode.BIT_XOR: 0,
}
"""What states of new groups hold, by opcode: ``state[n_before:n_after] = IDENTITY[opcode]``."""

STATE_DTYPE: dict[Opcode, np.dtype[np.float64 | np.int64 | np.uint64]] = {
    opcode: np.dtype(
        np.float64
        if opcode >= Opcode.SUM_F64
        else np.uint64
        if opcode in (Opcode.SUM_U64, Opcode.MIN_U64, Opcode.MAX_U64)
        else np.int64
    )
    for opcode in Opcode
}
"""Type of the words of a state, one per group, by opcode."""
