"""Arrow arrays of text or binary values, made of offsets and bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.errors import SchemaError
from millstream.kernels.bitmaps import pack_bits
from millstream.kernels.compile import I32, I64, U8

__all__ = ["check_size", "new_offsets", "text_array"]

_OFFSET_32_MAX = 2**31 - 1


def new_offsets(type_: pa.DataType, n_rows: int) -> I32 | I64:
    """Return room for the offsets of values: int32 or int64 [n_rows + 1].

    Args:
        type_: Text or binary with 32- or 64-bit offsets.
        n_rows: Number of values.
    """
    return np.empty(n_rows + 1, np.int64) if _is_large(type_) else np.empty(n_rows + 1, np.int32)


def check_size(type_: pa.DataType, n_bytes: int) -> None:
    """Check that values fit into one array.

    Raises:
        SchemaError: They are too long together for 32-bit offsets.
    """
    if not _is_large(type_) and n_bytes > _OFFSET_32_MAX:
        raise SchemaError(
            f"values of type {type_} must have less than 2 GiB in one batch: {n_bytes} bytes; "
            "declare a type with 64-bit offsets, such as large_string"
        )


def text_array(
    type_: pa.DataType, offsets: I32 | I64, data: U8, is_valid: npt.NDArray[np.bool_]
) -> pa.Array:
    """Wrap offsets and bytes as an Arrow array that shares their memory.

    Args:
        type_: Text or binary with 32- or 64-bit offsets.
        offsets: As :func:`new_offsets` gives them.
        data: uint8[n_bytes].
        is_valid: bool[n_rows], whether a value is not NULL.
    """
    bitmap, n_nulls = None, 0
    if not is_valid.all():
        packed = np.empty((len(is_valid) + 7) // 8, np.uint8)
        n_nulls = pack_bits(is_valid.view(np.uint8), packed)
        bitmap = pa.py_buffer(packed)
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(type_, len(is_valid), buffers, n_nulls)


def _is_large(type_: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(type_) or pa.types.is_large_binary(type_))
