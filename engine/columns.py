"""Arrow arrays as NumPy arrays and back, without copies where Arrow's layout allows it.

What is read from an array is read-only, also where it had to be copied or is empty: Arrow's memory
may be shared, and kernels are compiled once for read-only arguments instead of once for each kind.
NULLs have arbitrary values under them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import lib

from millstream.errors import InternalError, SchemaError
from millstream.kernels.bitmaps import expand_bits, pack_bits
from millstream.kernels.compile import I32, I64, U8

__all__ = [
    "BYTES_TYPES",
    "array_from_buffers",
    "empty_batch",
    "event_times",
    "first_null",
    "fixed_values",
    "has_views",
    "offsets_and_data",
    "plain",
    "validity",
]

_STORAGE: dict[int, np.dtype[Any]] = {
    lib.Type_INT8: np.dtype(np.int8),
    lib.Type_INT16: np.dtype(np.int16),
    lib.Type_INT32: np.dtype(np.int32),
    lib.Type_INT64: np.dtype(np.int64),
    lib.Type_UINT8: np.dtype(np.uint8),
    lib.Type_UINT16: np.dtype(np.uint16),
    lib.Type_UINT32: np.dtype(np.uint32),
    lib.Type_UINT64: np.dtype(np.uint64),
    lib.Type_HALF_FLOAT: np.dtype(np.float16),
    lib.Type_FLOAT: np.dtype(np.float32),
    lib.Type_DOUBLE: np.dtype(np.float64),
    lib.Type_DATE32: np.dtype(np.int32),
    lib.Type_DATE64: np.dtype(np.int64),
    lib.Type_TIME32: np.dtype(np.int32),
    lib.Type_TIME64: np.dtype(np.int64),
    lib.Type_TIMESTAMP: np.dtype(np.int64),
    lib.Type_DURATION: np.dtype(np.int64),
    lib.Type_DECIMAL32: np.dtype(np.int32),
    lib.Type_DECIMAL64: np.dtype(np.int64),
}
_PAIRS = frozenset({lib.Type_DECIMAL128, lib.Type_INTERVAL_MONTH_DAY_NANO})
_FIXED_BYTES = frozenset({lib.Type_FIXED_SIZE_BINARY, lib.Type_DECIMAL256})
_OFFSETS: dict[int, np.dtype[Any]] = {
    lib.Type_STRING: np.dtype(np.int32),
    lib.Type_BINARY: np.dtype(np.int32),
    lib.Type_LARGE_STRING: np.dtype(np.int64),
    lib.Type_LARGE_BINARY: np.dtype(np.int64),
}
BYTES_TYPES = frozenset(
    {
        lib.Type_STRING,
        lib.Type_BINARY,
        lib.Type_LARGE_STRING,
        lib.Type_LARGE_BINARY,
        lib.Type_FIXED_SIZE_BINARY,
        lib.Type_DECIMAL256,
    }
)
"""Ids of types whose values are strings of bytes, as :func:`offsets_and_data` gives them."""
_VIEWS = {
    lib.Type_STRING_VIEW: pa.large_string(),
    lib.Type_BINARY_VIEW: pa.large_binary(),
}
_LISTS = {lib.Type_LIST: pa.list_, lib.Type_LARGE_LIST: pa.large_list}
_NESTED = frozenset({*_LISTS, lib.Type_FIXED_SIZE_LIST, lib.Type_STRUCT, lib.Type_MAP})
_TIMES = frozenset({lib.Type_TIMESTAMP, lib.Type_DATE32, lib.Type_DATE64})


def plain(array: pa.Array) -> pa.Array:
    """Undo encodings that kernels do not read.

    Dictionaries and run-end encoding are decoded, extension types give way to their storage, views
    become text with 64-bit offsets, also those within lists, structs and maps. Other arrays are
    returned as they are.
    """
    type_id = array.type.id
    if type_id in _VIEWS:
        return array.cast(_VIEWS[type_id])
    if type_id == lib.Type_DICTIONARY:
        # Arrow decodes a dictionary by take, which it does not have for views.
        return plain(array.dictionary).take(array.indices)
    if type_id == lib.Type_RUN_END_ENCODED:
        return plain(pc.run_end_decode(array))
    if isinstance(array, pa.ExtensionArray):
        return plain(array.storage)
    if type_id in _NESTED:
        type_ = _without_views(array.type)
        return array if type_ is array.type else array.cast(type_)
    return array


def has_views(type_: pa.DataType) -> bool:
    """Tell whether values of a type have text or binary views in them, which Arrow cannot take.

    Those in dictionaries and in list views do not count, for there Arrow takes only what refers to
    them.
    """
    return type_.id in _VIEWS or (type_.id in _NESTED and _without_views(type_) is not type_)


def fixed_values(array: pa.Array) -> npt.NDArray[Any]:
    """View the values of a fixed-width array.

    Args:
        array: Integers, floats, booleans, decimals, dates, times, timestamps, durations or
            month-day-nano intervals.

    Returns:
        [n_rows] in the type's storage: dates and times as integers, booleans expanded to bytes of
        0 and 1. Values of 16 bytes are int64[n_rows, 2], low word first.

    Raises:
        InternalError: The type is none of these.
    """
    type_id, n_rows = array.type.id, len(array)
    if type_id == lib.Type_BOOL:
        expanded = np.empty(n_rows, np.uint8)
        if n_rows > 0:
            expand_bits(_view(array.buffers()[1], np.dtype(np.uint8)), array.offset, expanded)
        return _locked(expanded)
    if type_id in _PAIRS:
        return _slots(array, np.dtype(np.int64), 2).reshape(n_rows, 2)
    if type_id in _STORAGE:
        return _slots(array, _STORAGE[type_id], 1)
    raise InternalError(f"the type must have a fixed width: {array.type}")


def validity(array: pa.Array) -> tuple[U8 | None, int]:
    """View the validity bitmap.

    Returns:
        The bitmap and the bit of row 0, or None and 0 if no row is NULL. Dictionary-encoded and
        run-end encoded arrays have NULLs elsewhere too: make them :func:`plain` first.
    """
    if array.null_count == 0:
        return None, 0
    bitmap = array.buffers()[0]
    if bitmap is None:
        # The null type has no bitmap, and all of its rows are NULL.
        return _locked(np.zeros((len(array) + 7) // 8, np.uint8)), 0
    return _view(bitmap, np.dtype(np.uint8)), array.offset


def offsets_and_data(array: pa.Array) -> tuple[I32 | I64, U8]:
    """View text or binary values: row ``i`` is ``data[offsets[i]:offsets[i + 1]]``.

    Args:
        array: Any kind of text or binary, dictionary-encoded or not; also decimal256. Encodings are
            undone with a copy; NULLs of a dictionary stay behind unless the caller makes the array
            :func:`plain`.

    Returns:
        int32 or int64 offsets [n_rows + 1], the first not always 0, and uint8 data.

    Raises:
        InternalError: The type is none of these.
    """
    array = plain(array)
    type_id, n_rows = array.type.id, len(array)
    if type_id in _FIXED_BYTES:
        n_bytes = array.type.byte_width
        rows = np.arange(array.offset, array.offset + n_rows + 1, dtype=np.int64)
        return _locked(rows * n_bytes), _view(array.buffers()[1], np.dtype(np.uint8))
    if type_id not in _OFFSETS:
        raise InternalError(f"the type must be text or binary: {array.type}")
    dtype = _OFFSETS[type_id]
    if n_rows == 0:
        return _locked(np.zeros(1, dtype)), _locked(np.empty(0, np.uint8))
    _, offsets, data = array.buffers()
    view = _view(offsets, dtype)[array.offset : array.offset + n_rows + 1]
    return view, _view(data, np.dtype(np.uint8))


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch without rows, of any types."""
    # Other ways to make one know dictionaries of few types.
    return pa.RecordBatch.from_arrays([pa.nulls(0, type_) for type_ in schema.types], schema=schema)


def event_times(array: pa.Array) -> I64:
    """Read event times as int64 in the type's own unit.

    Args:
        array: Timestamps, dates or integers, without NULLs.

    Raises:
        SchemaError: Another type, a NULL, or an unsigned integer beyond int64.
    """
    type_ = array.type
    if not (type_.id in _TIMES or pa.types.is_integer(type_)):
        raise SchemaError(f"event time must be a timestamp, a date or an integer: {type_}")
    if array.null_count > 0:
        raise SchemaError(f"event time must not be NULL: row {first_null(array)}")
    values = fixed_values(array)
    if values.dtype == np.uint64 and len(values) > 0 and int(values.max()) >= 2**63:
        row = int(np.argmax(values >= np.uint64(2**63)))
        raise SchemaError(f"event time must be below 2**63: {values[row]} in row {row}")
    return _locked(values.astype(np.int64, copy=False))


def first_null(array: pa.Array) -> int | None:
    """Find the first row that is NULL, also by a NULL in a dictionary, or None."""
    if array.null_count == 0 and array.type.id not in (
        lib.Type_DICTIONARY,
        lib.Type_RUN_END_ENCODED,
    ):
        return None
    row: int = pc.index(pc.is_null(plain(array)), True).as_py()
    return row if row >= 0 else None


def array_from_buffers(values: npt.NDArray[Any], type_: pa.DataType, seen: U8 | None) -> pa.Array:
    """Wrap values as an Arrow array that shares their memory: later changes to them show.

    Args:
        values: Contiguous [n_rows] in the storage of ``type_``: int64[n_rows, 2] for values of 16
            bytes, bytes of 0 and 1 for booleans, which are packed.
        type_: A fixed-width type.
        seen: uint8[n_rows], 0 where a row is NULL and else 1; None if no row is.

    Raises:
        InternalError: The memory is not laid out as the type needs.
    """
    n_rows = len(values)
    if type_.id == lib.Type_BOOL:
        data, _ = _packed(values)
    elif values.flags.c_contiguous and values.nbytes * 8 == n_rows * type_.bit_width:
        data = pa.py_buffer(values)
    else:
        raise InternalError(
            f"values must be contiguous and as wide as {type_}: {values.dtype}{values.shape}"
        )
    if seen is None:
        return pa.Array.from_buffers(type_, n_rows, [None, data], 0)
    bitmap, n_nulls = _packed(seen)
    return pa.Array.from_buffers(type_, n_rows, [bitmap if n_nulls > 0 else None, data], n_nulls)


def _without_views(type_: pa.DataType) -> pa.DataType:
    """Return the type that :func:`plain` gives views and nested values, itself if it has none."""
    type_id = type_.id
    if type_id in _VIEWS:
        return _VIEWS[type_id]
    if type_id not in _NESTED:
        return type_
    if type_id == lib.Type_MAP:
        fields = [type_.key_field, type_.item_field]
    else:
        fields = [type_.field(place) for place in range(type_.num_fields)]
    types = [_without_views(field.type) for field in fields]
    if all(new is field.type for new, field in zip(types, fields, strict=True)):
        return type_
    fields = [field.with_type(new) for field, new in zip(fields, types, strict=True)]
    if type_id == lib.Type_STRUCT:
        return pa.struct(fields)
    if type_id == lib.Type_MAP:
        return pa.map_(*fields, keys_sorted=type_.keys_sorted)
    if type_id == lib.Type_FIXED_SIZE_LIST:
        return pa.list_(*fields, type_.list_size)
    return _LISTS[type_id](*fields)


def _packed(values: U8) -> tuple[pa.Buffer, int]:
    bitmap = np.empty((len(values) + 7) // 8, np.uint8)
    n_zeros = pack_bits(values, bitmap)
    return pa.py_buffer(bitmap), n_zeros


def _slots(array: pa.Array, dtype: np.dtype[Any], n_slots: int) -> npt.NDArray[Any]:
    n_values = len(array) * n_slots
    if n_values == 0:
        return _locked(np.empty(0, dtype))
    start_bytes = array.offset * n_slots * dtype.itemsize
    return _locked(np.frombuffer(array.buffers()[1], dtype, n_values, start_bytes))


def _view(buffer: pa.Buffer | None, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    if buffer is None or buffer.size == 0:
        return _locked(np.empty(0, dtype))
    # Padding may end in a part of a value.
    return _locked(np.frombuffer(buffer, dtype, buffer.size // dtype.itemsize))


def _locked(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values.setflags(write=False)
    return values
