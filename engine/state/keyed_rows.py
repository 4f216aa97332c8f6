"""Arrays with one value per key, and the rows of a step by key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.engine.state.key_table import KeyTable
from millstream.kernels.compile import I64, U32
from millstream.kernels.ordering import group_rows, take_times

__all__ = ["KeyColumn", "KeyColumns", "KeyedRows", "Keys", "RowsByKey"]

_CAPACITY_LEAST = 64


class KeyColumn:
    """An array with one value per key; new keys have ``fill``.

    Attributes:
        values: [capacity] or [capacity, width], replaced when the columns grow: not to be kept.
    """

    __slots__ = ("fill", "values")

    def __init__(self, values: npt.NDArray[Any], fill: float) -> None:
        self.values = values
        self.fill = fill


class KeyColumns:
    """Columns that grow and are renumbered together."""

    def __init__(self) -> None:
        self._columns: list[KeyColumn] = []
        self._capacity = _CAPACITY_LEAST

    @property
    def state_bytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.values.nbytes for column in self._columns)

    def add(self, dtype: type[np.generic], fill: float = 0, width: int | None = None) -> KeyColumn:
        """Return a new column in which all keys have ``fill``, ``width`` times if it is given."""
        shape = (self._capacity,) if width is None else (self._capacity, width)
        column = KeyColumn(np.full(shape, fill, dtype), fill)
        self._columns.append(column)
        return column

    def grow(self, n_keys: int) -> None:
        """Make room for at least ``n_keys``."""
        if n_keys > self._capacity:
            self._reallocate(max(2 * self._capacity, n_keys), slice(0, self._capacity))

    def retain(self, group_ids: U32) -> None:
        """Keep the values of these keys only, renumbered from 0 in this order."""
        self._reallocate(max(_CAPACITY_LEAST, 2 * len(group_ids)), group_ids)

    def _reallocate(self, capacity: int, kept: U32 | slice) -> None:
        self._capacity = capacity
        for column in self._columns:
            values = column.values[kept]
            column.values = np.full((capacity, *values.shape[1:]), column.fill, values.dtype)
            column.values[: len(values)] = values


class RowsByKey(NamedTuple):
    """Rows of a step sorted by key, as they come within a key.

    Attributes:
        groups: uint32[n_keys], the keys that occur.
        offsets: int64[n_keys + 1], where in ``order`` the rows of each begin.
        order: uint32[n_rows], the indices of the rows, key after key.
    """

    groups: U32
    offsets: I64
    order: U32


class KeyedRows:
    """Rows of a step and their keys. What not every frame needs is made when it is asked for.

    Args:
        group_ids: uint32[n_rows > 0], key of each row.
        n_known_keys: Keys that were known before the step; the ids of new ones come after.
        marks: uint32[all keys], all 0, scratch.
        times: int64[n_rows] event times, ascending, read-only; None where rows are in the order of
            arrival.
    """

    __slots__ = (
        "_by_key",
        "_has_peers",
        "_marks",
        "_sorted_times",
        "group_ids",
        "n_known_keys",
        "times",
    )

    def __init__(self, group_ids: U32, n_known_keys: int, marks: U32, times: I64 | None) -> None:
        self.group_ids = group_ids
        self.n_known_keys = n_known_keys
        self.times = times
        self._marks = marks
        self._by_key: RowsByKey | None = None
        self._sorted_times: I64 | None = None
        self._has_peers: bool | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.group_ids)

    @property
    def by_key(self) -> RowsByKey:
        """The rows, key after key."""
        if self._by_key is None:
            n_found_max = min(self.n_rows, len(self._marks))
            groups = np.empty(n_found_max, np.uint32)
            offsets = np.empty(n_found_max + 1, np.int64)
            order = np.empty(self.n_rows, np.uint32)
            n_found = group_rows(self.group_ids, self._marks, groups, offsets, order)
            self._by_key = RowsByKey(groups[:n_found], offsets[: n_found + 1], order)
        return self._by_key

    @property
    def sorted_times(self) -> I64:
        """The times, key after key: int64[n_rows]."""
        if self._sorted_times is None:
            assert self.times is not None, "rows in the order of arrival have no times"
            self._sorted_times = np.empty(self.n_rows, np.int64)
            take_times(self.times, self.by_key.order, self._sorted_times)
        return self._sorted_times

    @property
    def has_peers(self) -> bool:
        """Whether any two rows may have one key and time."""
        if self._has_peers is None:
            times = self.times
            self._has_peers = times is not None and bool(np.any(times[1:] == times[:-1]))
        return self._has_peers


class Keys:
    """The keys of an operator, numbered from 0.

    Args:
        types: Types of the key columns; without any there is one key.
    """

    def __init__(self, types: Sequence[pa.DataType]) -> None:
        self._table = KeyTable(types) if types else None
        self.columns = KeyColumns()
        self._marks = self.columns.add(np.uint32)
        self.n_keys = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of the keys and of all columns."""
        of_table = 0 if self._table is None else self._table.state_bytes
        return of_table + self.columns.state_bytes

    def number(self, n_rows: int, columns: Sequence[pa.Array], times: I64 | None) -> KeyedRows:
        """Find the keys of rows and make room for new keys in all columns.

        Args:
            n_rows: Number of rows, at least 1.
            columns: Key columns.
            times: int64[n_rows], ascending, read-only; or None.
        """
        n_known_keys = self.n_keys
        if self._table is None:
            self.n_keys = 1
            group_ids = np.zeros(n_rows, np.uint32)
        else:
            group_ids = self._table.assign(columns)
            self.n_keys = self._table.n_groups
        self.columns.grow(self.n_keys)
        return KeyedRows(group_ids, n_known_keys, self._marks.values[: self.n_keys], times)

    def retain(self, group_ids: U32) -> None:
        """Keep only these keys, renumbered from 0 in this order."""
        assert self._table is not None, "the only key there is stays"
        self._table.retain(group_ids)
        self.n_keys = self._table.n_groups
        self.columns.retain(group_ids)
