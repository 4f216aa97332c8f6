"""Whether values of two arrays are equal row by row, for values of any type.

Arrow compares no nested values, and as Python objects some lose their nanoseconds and others cannot
be held at all. So values are compared as they lie in memory, nested ones part by part.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import lib

from millstream.engine.columns import BYTES_TYPES, array_from_buffers, fixed_values, plain
from millstream.kernels.compile import I64, Bool

__all__ = ["equal_values"]

_LISTS_BY_OFFSETS = frozenset({lib.Type_LIST, lib.Type_LARGE_LIST, lib.Type_MAP})
_LIST_VIEWS = frozenset({lib.Type_LIST_VIEW, lib.Type_LARGE_LIST_VIEW})
_LISTS = _LISTS_BY_OFFSETS | _LIST_VIEWS | {lib.Type_FIXED_SIZE_LIST}
_UNIONS = frozenset({lib.Type_SPARSE_UNION, lib.Type_DENSE_UNION})


def equal_values(one: pa.Array, other: pa.Array) -> Bool:
    """Compare values in pairs.

    NULL equals NULL, NaN equals NaN whatever its bits, and zero equals the negative zero, also
    within lists, structs and maps. Maps are equal if they have the same entries in the same order.

    Args:
        one: Values of any type, slices included.
        other: As many values of the same type. Their dictionaries may differ.

    Returns:
        bool[n_rows].

    Raises:
        InternalError: There is no comparison for the type.
        pyarrow.ArrowNotImplementedError: Lists hold values of which Arrow takes no rows, such as
            those with runs; state cannot hold such lists either.
    """
    one, other = _decoded(one), _decoded(other)
    if one.type.id == lib.Type_NA:
        return np.ones(len(one), np.bool_)
    if one.type.id in _UNIONS:
        return _unions_equal(one, other)
    if one.null_count == 0 and other.null_count == 0:
        return _present_equal(one, other, None)
    seen, other_seen = _flags(one.is_valid()), _flags(other.is_valid())
    both = seen & other_seen
    equal: Bool = (both & _present_equal(one, other, both)) | ~(seen | other_seen)
    return equal


def _decoded(array: pa.Array) -> pa.Array:
    """Undo encodings, those of nested values included."""
    if isinstance(array, pa.ExtensionArray):
        return _decoded(array.storage)
    if array.type.id == lib.Type_RUN_END_ENCODED:
        rows = np.arange(array.offset, array.offset + len(array))
        runs = np.searchsorted(fixed_values(array.run_ends), rows, side="right")
        return _decoded(_taken(array.values, runs))
    return plain(array)


def _present_equal(one: pa.Array, other: pa.Array, both: Bool | None) -> Bool:
    """Compare values without encodings.

    Args:
        one: Values.
        other: Values of the same type.
        both: The pairs that matter, others are compared as anything; None if all do.
    """
    type_id = one.type.id
    if type_id in _LISTS:
        return _lists_equal(one, other, both)
    if type_id == lib.Type_STRUCT:
        equal = np.ones(len(one), np.bool_)
        for place in range(one.type.num_fields):
            equal &= equal_values(one.field(place), other.field(place))
        return equal
    if type_id in BYTES_TYPES:
        return _flags(pc.fill_null(pc.equal(one, other), False))
    return _words_equal(fixed_values(one), fixed_values(other))


def _words_equal(values: npt.NDArray[Any], others: npt.NDArray[Any]) -> Bool:
    equal: Bool = values == others
    if equal.ndim > 1:
        equal = np.all(equal, axis=1)
    if values.dtype.kind == "f":
        equal |= np.isnan(values) & np.isnan(others)
    return equal


def _lists_equal(one: pa.Array, other: pa.Array, both: Bool | None) -> Bool:
    starts, lengths = _spans(one)
    other_starts, other_lengths = _spans(other)
    equal: Bool = lengths == other_lengths
    # What lies under a NULL may be of any length.
    is_open = equal & (lengths > 0)
    rows = np.flatnonzero(is_open if both is None else is_open & both)
    if len(rows) == 0:
        return equal
    lengths = lengths[rows]
    entries = _entries(one.values, starts[rows], lengths)
    differ = ~equal_values(entries, _entries(other.values, other_starts[rows], lengths))
    equal[np.repeat(rows, lengths)[differ]] = False
    return equal


def _spans(array: pa.Array) -> tuple[I64, I64]:
    """Return where the entries of each list begin, and how many there are: two int64[n_rows]."""
    n_rows, type_ = len(array), array.type
    if type_.id == lib.Type_FIXED_SIZE_LIST:
        starts = (array.offset + np.arange(n_rows, dtype=np.int64)) * type_.list_size
        return starts, np.full(n_rows, type_.list_size, np.int64)
    if n_rows == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    offsets = fixed_values(array.offsets).astype(np.int64)
    if type_.id in _LIST_VIEWS:
        return offsets, fixed_values(array.sizes).astype(np.int64)
    return offsets[:-1], np.diff(offsets)


def _entries(values: pa.Array, starts: I64, lengths: I64) -> pa.Array:
    """Return the entries of lists, none of which is empty, one list behind the other."""
    first, stop = int(starts.min()), int((starts + lengths).max())
    # Few of many lists, as in a slice, must not cost what all do.
    values = values.slice(first, stop - first)
    if (starts[1:] == (starts + lengths)[:-1]).all():
        return values
    ends = np.cumsum(lengths)
    places = np.arange(ends[-1]) + np.repeat(starts - first - (ends - lengths), lengths)
    return _taken(_decoded(values), places)


def _unions_equal(one: pa.Array, other: pa.Array) -> Bool:
    """Compare unions, which have no NULLs of their own."""
    codes, other_codes = _codes(one), _codes(other)
    equal: Bool = codes == other_codes
    for place, code in enumerate(one.type.type_codes):
        rows = np.flatnonzero((codes == code) & (other_codes == code))
        equal[rows] = equal_values(_members(one, place, rows), _members(other, place, rows))
    return equal


def _codes(array: pa.UnionArray) -> npt.NDArray[np.int8]:
    # The array's own properties do not know of slices.
    return np.frombuffer(array.buffers()[1], np.int8)[array.offset : array.offset + len(array)]


def _members(array: pa.UnionArray, place: int, rows: I64) -> pa.Array:
    places = rows
    if array.type.id == lib.Type_DENSE_UNION:
        places = np.frombuffer(array.buffers()[2], np.int32)[array.offset + rows].astype(np.int64)
    return _taken(_decoded(array.field(place)), places)


def _taken(values: pa.Array, places: I64) -> pa.Array:
    return values.take(array_from_buffers(places.astype(np.int64), pa.int64(), None))


def _flags(array: pa.Array) -> Bool:
    flags: Bool = fixed_values(array).view(np.bool_)
    return flags
