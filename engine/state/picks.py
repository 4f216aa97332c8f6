"""The value of the first or last row of each group, by an order or by arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.columns import array_from_buffers, fixed_values, plain
from millstream.engine.state.key_columns import key_column
from millstream.engine.state.rooms import WordRoom
from millstream.engine.state.state_columns import (
    Arrivals,
    StateColumn,
    StateSpec,
    read_only,
    resized,
    valid_flags,
)
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.picking import NO_ROW, pick_by_arrival, pick_by_words
from millstream.planner.nodes import SortKey

__all__ = ["PickSpec", "picked_values"]

_VALUE, _ORDER = "value", "order"
# Each term of an ORDER BY has two words as well.
_ARRIVAL_WORDS = 2
# Texts that groups held before are kept until there are this many of them and more than groups.
_GARBAGE_MIN = 4096


@dataclass(frozen=True, slots=True)
class PickSpec(StateSpec):
    """The value of one row per group.

    Attributes:
        column: Column of the value, which may be NULL.
        takes_last: Whether the last row in the order is picked, else the first.
        order_by: Numbers, booleans, dates or times; rows that agree in them, or all without any,
            are in the order in which they came in.
        condition: Boolean column that is true for the rows to pick from, or None for all.
        ignores_nulls: Whether rows whose value is NULL are not picked.
        value_type: Type of the values, without a dictionary.
    """

    column: str
    takes_last: bool
    order_by: tuple[SortKey, ...]
    condition: str | None
    ignores_nulls: bool
    value_type: pa.DataType

    def values(self, batch: pa.RecordBatch, arrivals: Arrivals) -> pa.Array:
        values = plain(batch.column(self.column))
        words: list[I64] = []
        for key in self.order_by:
            words += _order_words(plain(batch.column(key.column)), key)
        words += arrivals.words()
        return _struct(values, words, self._left_out(batch, values))

    def make(self) -> StateColumn:
        return _Picks(self)

    def _left_out(self, batch: pa.RecordBatch, values: pa.Array) -> pa.Array | None:
        left_out = None
        if self.condition is not None:
            left_out = pc.invert(pc.fill_null(batch.column(self.condition), False))
        if self.ignores_nulls and values.null_count > 0:
            is_null = values.is_null()
            left_out = is_null if left_out is None else pc.or_(left_out, is_null)
        return left_out


def picked_values(states: pa.Array) -> pa.Array:
    """Return the values of picks as :class:`PickSpec` gives them, NULL where nothing is picked."""
    return states.field(_VALUE)


class _Values:
    """A value per group, of any type that can be a key."""

    def __init__(self, type_: pa.DataType) -> None:
        self._type = type_
        # A key has one zero and one NaN, but a value that is handed back is what came in.
        self._stored_type = _bits_type(type_)
        self._column = key_column(self._stored_type)
        null_words, _ = self._column.encode(pa.nulls(1, self._stored_type), WordRoom())
        self._fills = [int(words[0]) for words in null_words]
        self._words = [np.zeros(0, np.int64) for _ in self._fills]
        self._is_null = np.zeros(0, np.uint8)
        self._n_written = 0

    def put(self, values: pa.Array, group_ids: U32) -> None:
        """Give groups other values."""
        stored = values if self._stored_type == self._type else values.view(self._stored_type)
        words, is_null = self._column.encode(stored, WordRoom())
        for kept, new in zip(self._words, words, strict=True):
            kept[group_ids] = new
        self._is_null[group_ids] = 0 if is_null is None else is_null
        self._n_written += len(group_ids)
        if self._n_written > len(self._is_null) + _GARBAGE_MIN:
            self._n_written = 0
            self._words = [words.copy() for words in self._column.retain(self._words)]

    def take(self, group_ids: U32 | slice) -> pa.Array:
        """Return the values of groups, NULL for those that have got none."""
        words = [np.ascontiguousarray(words[group_ids]) for words in self._words]
        is_null = self._is_null[group_ids]
        values = self._column.decode(words, is_null if is_null.any() else None)
        return values if self._stored_type == self._type else values.view(self._type)

    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        """Make room for ``capacity`` groups, the first of which are those of ``kept``."""
        self._words = [
            resized(words, capacity, kept, fill)
            for words, fill in zip(self._words, self._fills, strict=True)
        ]
        self._is_null = resized(self._is_null, capacity, kept, 1)

    @property
    def state_bytes(self) -> int:
        """Bytes of all values."""
        of_words = sum(words.nbytes for words in self._words)
        return of_words + self._is_null.nbytes + self._column.state_bytes


class _Picks(StateColumn):
    def __init__(self, spec: PickSpec) -> None:
        self._is_ordered = bool(spec.order_by)
        self._takes_last = spec.takes_last
        self._values = _Values(spec.value_type)
        self._bests = np.zeros((0, 2 * len(spec.order_by) + _ARRIVAL_WORDS), np.int64)
        self._seen = np.zeros(0, np.uint8)
        self._winners = np.zeros(0, np.int64)

    def add(self, values: pa.Array, group_ids: U32) -> None:
        if self._is_ordered:
            self.merge(values, group_ids)
            return
        # Rows come in after all that have been added before.
        changed = np.empty(len(values), np.uint32)
        n_changed = pick_by_arrival(
            valid_flags(values),
            read_only(group_ids),
            self._takes_last,
            self._seen,
            self._winners,
            changed,
        )
        if n_changed > 0:
            changed = changed[:n_changed]
            rows = _taken(self._winners, changed)
            for index in range(self._bests.shape[1]):
                words = fixed_values(values.field(f"{_ORDER}{index}"))
                self._bests[changed, index] = words[fixed_values(rows)]
            self._values.put(picked_values(values).take(rows), changed)

    def merge(self, states: pa.Array, group_ids: U32) -> None:
        n_words = self._bests.shape[1]
        orders = np.empty((n_words, len(states)), np.int64)
        for index, words in enumerate(orders):
            words[:] = fixed_values(states.field(f"{_ORDER}{index}"))
        changed = np.empty(len(states), np.uint32)
        n_changed = pick_by_words(
            read_only(orders),
            valid_flags(states),
            read_only(group_ids),
            self._takes_last,
            self._bests,
            self._seen,
            self._winners,
            changed,
        )
        if n_changed > 0:
            changed = changed[:n_changed]
            rows = _taken(self._winners, changed)
            self._values.put(picked_values(states).take(rows), changed)

    def take(self, group_ids: U32 | slice) -> pa.Array:
        seen = self._seen[group_ids]
        missing = None if seen.all() else array_from_buffers(1 - seen, pa.bool_(), None)
        orders = np.ascontiguousarray(self._bests[group_ids].T)
        return _struct(self._values.take(group_ids), list(orders), missing)

    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        self._values.reallocate(capacity, kept)
        self._bests = resized(self._bests, capacity, kept)
        self._seen = resized(self._seen, capacity, kept)
        self._winners = np.full(capacity, NO_ROW, np.int64)

    @property
    def state_bytes(self) -> int:
        own = self._bests.nbytes + self._seen.nbytes + self._winners.nbytes
        return own + self._values.state_bytes


def _taken(winners: I64, changed: U32) -> pa.Array:
    """Return the picked rows of groups and forget them."""
    rows = winners[changed]
    winners[changed] = NO_ROW
    return array_from_buffers(rows, pa.int64(), None)


def _struct(values: pa.Array, orders: Sequence[I64], missing: pa.Array | None) -> pa.Array:
    columns = [values, *(array_from_buffers(words, pa.int64(), None) for words in orders)]
    names = [_VALUE, *(f"{_ORDER}{index}" for index in range(len(orders)))]
    return pa.StructArray.from_arrays(columns, names, mask=missing)


def _bits_type(type_: pa.DataType) -> pa.DataType:
    if not pa.types.is_floating(type_):
        return type_
    return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[type_.bit_width]


def _order_words(array: pa.Array, key: SortKey) -> list[I64]:
    """Return where NULLs stand and the order of the others: two int64[n_rows].

    Floats are in the total order of IEEE 754, in which -0.0 comes before 0.0 and NaN, by its sign,
    first or last.
    """
    words = _ascending(fixed_values(array))
    if key.descending:
        words = ~words
    rank, rank_of_null = (1, 0) if key.nulls_first else (0, 1)
    valid: U8 = valid_flags(array)
    if len(valid) == 0:
        return [np.full(len(array), rank, np.int64), words]
    return [np.where(valid, rank, rank_of_null), np.where(valid, words, 0)]


def _ascending(values: npt.NDArray[Any]) -> I64:
    if values.dtype == np.uint64:
        return (values ^ np.uint64(1 << 63)).view(np.int64)
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    n_bits = 8 * values.itemsize
    bits = values.view(f"i{values.itemsize}")
    # Negative floats ascend as their bits descend.
    magnitude = bits.dtype.type((1 << (n_bits - 1)) - 1)
    ascending: I64 = (bits ^ ((bits >> (n_bits - 1)) & magnitude)).astype(np.int64)
    return ascending
