"""Keys of groups: rows of Arrow columns in, dense group ids out, and the keys of groups back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.state.key_columns import key_column
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.grouping import assign_group_ids_at, rebuild_slots

__all__ = ["KeyTable"]

_CAPACITY_LEAST = 64
# Up to this capacity the index has four slots per group, which keeps probes short; beyond it the
# index would leave the cache, and two have to do.
_SPARSE_CAPACITY_MAX = 1 << 16
_NULLS_PER_WORD = 64


class KeyTable:
    """Numbers keys from 0 in the order in which they are first seen.

    A key is a row of 64-bit words: prefix words that the caller gives as they are, then the words
    of the key columns, then, from the first NULL on that a column cannot tell by its words, one
    bit per column.

    Arrays that were given out stay as they are: a group's words are written once, and whatever
    reorders groups works on new memory.

    Args:
        types: Types of the key columns.
        n_prefix_words: Words of a key that are no column, such as the number of a window.

    Raises:
        SchemaError: Rows cannot be grouped by one of the types.
    """

    def __init__(self, types: Sequence[pa.DataType], n_prefix_words: int = 0) -> None:
        self._columns = [key_column(type_) for type_ in types]
        self._n_prefix_words = n_prefix_words
        self._n_null_words = 0
        self.n_groups = 0
        n_words = n_prefix_words + sum(column.n_words for column in self._columns)
        self._keys: I64
        self._allocate(n_words, _CAPACITY_LEAST)

    @property
    def capacity(self) -> int:
        """Number of groups that there is memory for."""
        return int(self._keys.shape[1])

    @property
    def state_bytes(self) -> int:
        """Bytes of all memory that the table holds."""
        of_columns = sum(column.state_bytes for column in self._columns)
        return self._keys.nbytes + self._slots.nbytes + of_columns

    def assign(self, columns: Sequence[pa.Array], prefix: Sequence[I64] = ()) -> U32:
        """Give each row the id of its key; new keys get the next ids.

        Args:
            columns: The key columns' values, of the table's types or encoded as dictionaries.
            prefix: int64[n_rows] per prefix word.

        Returns:
            uint32[n_rows].

        Raises:
            SchemaError: A column is not of its type.
        """
        assert len(columns) == len(self._columns), "one array per key column"
        assert len(prefix) == self._n_prefix_words, "one array per prefix word"
        words = [np.ascontiguousarray(values, np.int64) for values in prefix]
        nulls: list[U8 | None] = []
        for column, array in zip(self._columns, columns, strict=True):
            values, is_null = column.encode(array)
            words += values
            nulls.append(is_null)
        assert words, "a key has at least one word"
        words += self._null_words(nulls, len(words[0]))
        return self._assign(words)

    def prefix_words(self, index: int) -> I64:
        """View one prefix word of each group: int64[n_groups], not to be written to."""
        return self._keys[index, : self.n_groups]

    def columns(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the keys of some groups.

        Args:
            group_ids: uint32[n], or a slice without a step, which is copied only where the type is
                not 64 bits wide.

        Returns:
            The key columns, in the table's types; a dictionary type gives its values' type.
        """
        null_words = [self._chosen(-1 - index, group_ids) for index in range(self._n_null_words)]
        arrays = []
        place = self._n_prefix_words
        for index, column in enumerate(self._columns):
            words = [self._chosen(place + word, group_ids) for word in range(column.n_words)]
            place += column.n_words
            arrays.append(column.decode(words, _null_bits(null_words, index)))
        return arrays

    def retain(self, group_ids: U32) -> None:
        """Keep only these groups, renumbered from 0 in this order.

        Args:
            group_ids: uint32[n], each group at most once.
        """
        before, n_before = self._keys, self.n_groups
        self.n_groups = len(group_ids)
        capacity = _CAPACITY_LEAST
        # As many groups as now are likely to come again: the next window is like the last.
        while capacity < max(2 * self.n_groups, n_before):
            capacity *= 2
        # Memory shrinks by half or more at a time, or not at all.
        self._allocate(before.shape[0], min(capacity, before.shape[1]))
        for row, words in enumerate(before):
            np.take(words, group_ids, out=self._keys[row, : self.n_groups])
        place = self._n_prefix_words
        for column in self._columns:
            kept = self._keys[place : place + column.n_words, : self.n_groups]
            for row, words in enumerate(column.retain(list(kept))):
                kept[row] = words
            place += column.n_words
        rebuild_slots(self._keys, self.n_groups, self._slots)

    def _assign(self, words: Sequence[I64]) -> U32:
        n_rows = len(words[0])
        addresses = np.array([values.ctypes.data for values in words], np.int64)
        group_ids = np.empty(n_rows, np.uint32)
        row = 0
        while row < n_rows:
            row, self.n_groups = assign_group_ids_at(
                addresses, row, n_rows, self._slots, self._keys, self.n_groups, group_ids
            )
            if row < n_rows:
                self._reallocate(len(words), 2 * self.capacity)
        return group_ids

    def _null_words(self, nulls: Sequence[U8 | None], n_rows: int) -> list[I64]:
        if self._n_null_words == 0:
            if all(is_null is None for is_null in nulls):
                return []
            # Keys seen so far have no NULL, and get words of zeros.
            self._n_null_words = -(-len(nulls) // _NULLS_PER_WORD)
            self._reallocate(self._keys.shape[0] + self._n_null_words, self.capacity)
        words = [np.zeros(n_rows, np.int64) for _ in range(self._n_null_words)]
        for index, is_null in enumerate(nulls):
            if is_null is not None:
                # The last word has the bits of the first columns, as columns() reads them.
                word = words[-1 - index // _NULLS_PER_WORD]
                word |= is_null.astype(np.int64) << np.int64(index % _NULLS_PER_WORD)
        return words

    def _chosen(self, place: int, group_ids: U32 | slice) -> I64:
        return self._keys[place, : self.n_groups][group_ids]

    def _allocate(self, n_words: int, capacity: int) -> None:
        slots_per_group = 4 if capacity <= _SPARSE_CAPACITY_MAX else 2
        self._keys = np.zeros((n_words, capacity), np.int64)
        self._slots = np.zeros(slots_per_group * capacity, np.uint64)

    def _reallocate(self, n_words: int, capacity: int) -> None:
        before = self._keys
        self._allocate(n_words, capacity)
        self._keys[: before.shape[0], : self.n_groups] = before[:, : self.n_groups]
        rebuild_slots(self._keys, self.n_groups, self._slots)


def _null_bits(null_words: Sequence[I64], index: int) -> U8 | None:
    if not null_words:
        return None
    word = null_words[index // _NULLS_PER_WORD]
    is_null = ((word >> np.int64(index % _NULLS_PER_WORD)) & 1).astype(np.uint8)
    return is_null if is_null.any() else None
