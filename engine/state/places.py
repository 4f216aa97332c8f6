"""Where the values of rows lie, for kernels that read Arrow's memory by address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from millstream.kernels.compile import I64
from millstream.kernels.programs import ValueKind

__all__ = [
    "NOWHERE",
    "PLACE_WORDS",
    "VALIDITY_WORD",
    "RowPlaces",
    "Rows",
    "have_nulls",
    "is_taken_as_it_is",
    "place_of",
]

_KINDS: dict[pa.DataType, ValueKind] = {
    pa.int8(): ValueKind.I8,
    pa.int16(): ValueKind.I16,
    pa.int32(): ValueKind.I32,
    pa.int64(): ValueKind.I64,
    pa.uint8(): ValueKind.U8,
    pa.uint16(): ValueKind.U16,
    pa.uint32(): ValueKind.U32,
    pa.uint64(): ValueKind.U64,
    pa.float32(): ValueKind.F32,
    pa.float64(): ValueKind.F64,
    pa.date32(): ValueKind.I32,
    pa.time32("s"): ValueKind.I32,
    pa.time32("ms"): ValueKind.I32,
}

PLACE_WORDS = 4
"""Words of a place: the address of the first value, its kind, the address of the bitmap of NULLs or
0 if there are none, and the bit of the first row in it."""

VALIDITY_WORD = 2
"""Which of these words tells whether there are NULLs."""

NOWHERE = (0, 0, 0, 0)
"""The place of values that are not there, since rows are what is counted."""


class Rows(Protocol):
    """Rows whose columns can be asked for: a batch, or a part of a micro-batch."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""

    def column(self, name: str) -> pa.Array:
        """Return a column."""


class RowPlaces:
    """Finds the values of some columns in batches, with few questions to Arrow.

    Args:
        columns: Per value that a kernel takes its column, or None for rows themselves.
        schema: Of the batches; :func:`is_taken_as_it_is` says yes to the types of these columns.
    """

    def __init__(self, columns: Sequence[str | None], schema: pa.Schema) -> None:
        distinct = list(dict.fromkeys(name for name in columns if name is not None))
        self._columns = []
        for name in distinct:
            type_ = schema.field(name).type
            self._columns.append((name, type_, type_.bit_width // 8, int(_KINDS[type_])))
        order = {name: index for index, name in enumerate(distinct)}
        # Behind the columns there is the place of no values.
        self._order = np.array(
            [len(distinct) if name is None else order[name] for name in columns], np.int64
        )

    def of(self, parts: Sequence[Rows]) -> I64:
        """Return int64[n_parts, n_values, PLACE_WORDS], good for as long as the rows are there."""
        words: list[int] = []
        for rows in parts:
            for name, type_, width, kind in self._columns:
                array = rows.column(name)
                assert array.type == type_, f"column {name} must be {type_}: {array.type}"
                validity, values = array.buffers()
                offset = array.offset
                validity_at = validity.address if array.null_count > 0 else 0
                words += (values.address + offset * width, kind, validity_at, offset)
            words += NOWHERE
        shape = len(parts), len(self._columns) + 1, PLACE_WORDS
        places: I64 = np.array(words, np.int64).reshape(shape)[:, self._order]
        return places


def places_of(parts: Sequence[Sequence[pa.Array | None]]) -> I64:
    """Return where values lie, None for rows themselves.

    Returns:
        int64[n_parts, n_values, PLACE_WORDS], good for as long as the arrays are there.
    """
    places = np.empty((len(parts), len(parts[0]), PLACE_WORDS), np.int64)
    for index, arrays in enumerate(parts):
        # Several accumulators often take one array.
        distinct = {id(array): array for array in arrays}
        known = {key: place_of(array) for key, array in distinct.items()}
        if arrays:
            places[index] = [known[id(array)] for array in arrays]
    return places


def have_nulls(places: I64) -> bool:
    """Say whether there are NULLs among values at int64[..., PLACE_WORDS]."""
    return bool(np.count_nonzero(places[..., VALIDITY_WORD]) > 0)


def is_taken_as_it_is(type_: pa.DataType) -> bool:
    """Say whether kernels read values of a type as Arrow has them."""
    return type_ in _KINDS


def place_of(array: pa.Array | None) -> tuple[int, int, int, int]:
    """Return where an array lies, which has to stay there: PLACE_WORDS numbers."""
    if array is None:
        return NOWHERE
    validity, values = array.buffers()[:2]
    offset = array.offset
    validity_at = validity.address if array.null_count > 0 else 0
    kind = _value_kind(array.type)
    if kind is None:
        # Only COUNT takes such a column, and looks at validity alone; without NULLs it counts rows.
        return 0, 0, validity_at, offset
    return values.address + offset * (array.type.bit_width // 8), kind, validity_at, offset


def _value_kind(type_: pa.DataType) -> ValueKind | None:
    kind = _KINDS.get(type_)
    if kind is not None:
        return kind
    if pa.types.is_decimal32(type_):
        return ValueKind.I32
    is_word = pa.types.is_temporal(type_) and not pa.types.is_interval(type_)
    return ValueKind.I64 if is_word or pa.types.is_decimal64(type_) else None
