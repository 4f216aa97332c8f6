"""Keys of groups: rows of Arrow columns in, dense group ids out, and the keys of groups back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millstream.engine.state.direct_index import DirectIndex
from millstream.engine.state.key_columns import key_column
from millstream.engine.state.rooms import IdRoom, WordRoom
from millstream.errors import InternalError
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.grouping import (
    BLOCK_ROWS,
    assign_group_ids_at,
    move_slots,
    rebuild_slots,
)
from millstream.kernels.panes import are_same_words

__all__ = ["KeyPart", "KeyTable", "Word"]

Word: TypeAlias = I64 | int
"""One word of many keys: int64[n_rows], or the word that all of them have."""

_CAPACITY_LEAST = 64
# Up to this capacity the index has four slots per group, which keeps probes short; beyond it the
# index would leave the cache, and two have to do.
_SPARSE_CAPACITY_MAX = 1 << 16
_SLOTS_MAX = 1 << 32
_NULLS_PER_WORD = 64
_WORD_BYTES = 8
# Constant words that are kept spread out, about as many as there are open windows.
_CONSTANTS_MAX = 64
# Rows after which keys are looked at for whether they lie close to each other; doubled each time
# that they do not, up to the second figure.
_TRY_ROWS_LEAST, _TRY_ROWS_MAX = 1 << 10, 1 << 24
# In one go, so many rows may come whose keys are beyond the array, or as many as there are groups,
# before it is made anew; twice as many the next time.
_STRANGERS_LEAST = 1 << 12


class KeyPart(NamedTuple):
    """Keys of some rows.

    Attributes:
        columns: The key columns' values, of the table's types or encoded as dictionaries.
        prefix: Prefix words, of all rows or of each: int64[n_rows].
        n_rows: Number of rows.
    """

    columns: Sequence[pa.Array]
    prefix: Sequence[Word]
    n_rows: int


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
        self._direct: DirectIndex | None = None
        # Pane and key, with at most one word between.
        self._may_be_direct = len(self._columns) == 1 == n_words - n_prefix_words and n_words <= 3
        self._rows_until_try = self._try_rows = _TRY_ROWS_LEAST
        # Of a key column that Arrow keeps as words already.
        has_words = len(types) == 1 and self._columns[0].has_words
        self._word_type = self._columns[0].type if has_words else None
        self._places = _Places()
        self._word_room = WordRoom()
        self._keys: I64
        self._slots = np.zeros(0, np.uint64)
        # Groups may be in the direct index alone.
        self._is_indexed, self._are_slots_empty = True, True
        self._allocate(n_words, _CAPACITY_LEAST)

    @property
    def capacity(self) -> int:
        """Number of groups that there is memory for."""
        return int(self._keys.shape[1])

    @property
    def state_bytes(self) -> int:
        """Bytes of all memory that the table holds."""
        of_columns = sum(column.state_bytes for column in self._columns)
        direct = 0 if self._direct is None else self._direct.nbytes
        return self._keys.nbytes + self._slots.nbytes + direct + of_columns

    def assign(
        self, columns: Sequence[pa.Array], prefix: Sequence[Word] = (), n_rows: int | None = None
    ) -> U32:
        """Give each row the id of its key; new keys get the next ids.

        Args:
            columns: The key columns' values, of the table's types or encoded as dictionaries.
            prefix: Prefix words, of all rows or of each: int64[n_rows].
            n_rows: Number of rows; may be left out where an array tells.

        Returns:
            uint32[n_rows].

        Raises:
            SchemaError: A column is not of its type.
        """
        if n_rows is None:
            n_rows = len((*columns, *prefix)[0])
        return self.assign_parts(
            [KeyPart(columns, prefix, n_rows)], np.array([0, n_rows], np.int64)
        )

    def assign_parts(
        self, parts: Sequence[KeyPart], bounds: I64, room: IdRoom | None = None
    ) -> U32:
        """Do what :meth:`assign` does for several batches in one go.

        Args:
            parts: The keys of each batch.
            bounds: int64[n_parts + 1], the number of the first row of each batch, and of all rows.
            room: Where the ids may lie, if nobody keeps them.

        Returns:
            uint32[n_rows], the ids of all parts one after the other.

        Raises:
            SchemaError: A column is not of its type.
        """
        self._word_room.clear()
        encoded = list(map(self._encode, parts))
        if self._n_null_words > 0 or any(nulls is not None for _, nulls in encoded):
            for (words, nulls), part in zip(encoded, parts, strict=True):
                words += self._null_words(nulls or (), part.n_rows)
        words_of_parts = [words for words, _ in encoded]
        if not self._columns and len(parts) == 1 and bounds[-1] > 1:
            (words,) = words_of_parts
            if all(isinstance(word, int) for word in words):
                (group_id,) = self._assign([words], np.array([0, 1], np.int64), None)
                return np.full(bounds[-1], group_id, np.uint32)
        return self._assign(words_of_parts, bounds, room)

    def assign_words(
        self,
        parts: Sequence[I64],
        prefixes: Sequence[Sequence[int]],
        bounds: I64,
        room: IdRoom | None,
    ) -> U32:
        """Do what :meth:`assign_parts` does for keys as :meth:`words` of another table gives them.

        Args:
            parts: int64[n_words, n_rows] each, a row in one piece.
            prefixes: Per part the prefix words of all its rows.
            bounds: As for :meth:`assign_parts`.
            room: As for :meth:`assign_parts`.
        """
        encoded: list[list[Word | _Address]] = []
        for words, prefix in zip(parts, prefixes, strict=True):
            at, stride = words.ctypes.data, words.strides[0]
            rows = [_Address(at + row * stride) for row in range(len(words))]
            encoded.append([*prefix, *rows, *[0] * self._n_null_words])
        return self._assign(encoded, bounds, room)

    def are_in_order(self, words: I64) -> bool:
        """Say whether keys have the numbers from 0 on, in their order; new ones may get them.

        Args:
            words: int64[n_words, n_rows], keys as :meth:`words` of another table gives them.
        """
        n_rows, n_words = int(words.shape[1]), len(words)
        n_known = min(n_rows, self.n_groups)
        if len(self._keys) != n_words or not are_same_words(
            words[:, :n_known], self._keys[:, :n_known]
        ):
            return False
        if n_known < n_rows:
            bounds = np.array([0, n_rows - n_known], np.int64)
            self.assign_words([words[:, n_known:]], [()], bounds, None)
        return self.n_groups >= n_rows

    def words(self) -> I64 | None:
        """View the words of all keys, if they tell the keys to any table of the same types.

        Returns:
            int64[n_words, n_groups], not to be written to; or None if words are numbers of texts,
            or some keys are NULL.
        """
        if self._n_null_words > 0 or not all(column.tells_values for column in self._columns):
            return None
        return self._keys[self._n_prefix_words :, : self.n_groups]

    def prefix_words(self, index: int) -> I64:
        """View one prefix word of each group: int64[n_groups], not to be written to."""
        return self._keys[index, : self.n_groups]

    def addresses(self) -> list[int] | None:
        """Return where the words of all keys lie, word by word, a word for each group in a row.

        None where more words tell which values are NULL. Good until keys are added or renumbered.
        """
        return None if self._n_null_words else self._addresses

    def words_of_columns(self) -> list[int] | None:
        """Return which word of a key is that of each column; None if a column has several."""
        if any(column.n_words != 1 for column in self._columns):
            return None
        return [self._n_prefix_words + index for index in range(len(self._columns))]

    def decoded(self, index: int, words: list[I64]) -> pa.Array:
        """Return values of a key column: ``n_words`` arrays int64[n] of which none is NULL."""
        return self._columns[index].decode(words, None)

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
        # Memory shrinks to a quarter or less at a time, or not at all: a window that begins before
        # the last one has ended brings the same number of groups again and again.
        if 4 * capacity > before.shape[1]:
            capacity = before.shape[1]
        self._allocate(before.shape[0], capacity)
        for row, words in enumerate(before):
            np.take(words, group_ids, out=self._keys[row, : self.n_groups])
        place = self._n_prefix_words
        for column in self._columns:
            kept = self._keys[place : place + column.n_words, : self.n_groups]
            for row, words in enumerate(column.retain(list(kept))):
                kept[row] = words
            place += column.n_words
        if self._direct is not None and self._direct.fits(self.capacity):
            self._are_slots_empty = self._direct.refill(self._keys, self.n_groups, self._slots) == 0
            self._is_indexed = self.n_groups == 0
            return
        self._direct = None
        self._index_all()

    def _encode(self, part: KeyPart) -> tuple[list[Word | _Address], Sequence[U8 | None] | None]:
        """Return the words of keys, and per column which rows are NULL if any is."""
        assert len(part.columns) == len(self._columns), "one array per key column"
        assert len(part.prefix) == self._n_prefix_words, "one array per prefix word"
        words: list[Word | _Address] = list(part.prefix)
        if len(part.columns) == 1:
            array = part.columns[0]
            if array.type == self._word_type and array.null_count == 0 and part.n_rows > 0:
                # Arrow has the words as they are.
                address = array.buffers()[1].address + array.offset * _WORD_BYTES
                words.append(_Address(address))
                return words, None
        nulls: list[U8 | None] = []
        for column, array in zip(self._columns, part.columns, strict=True):
            values, is_null = column.encode(array, self._word_room)
            words += values
            nulls.append(is_null)
        assert words, "a key has at least one word"
        return words, None if all(is_null is None for is_null in nulls) else nulls

    def _assign(
        self, parts: Sequence[Sequence[Word | _Address]], bounds: I64, room: IdRoom | None
    ) -> U32:
        columns, n_rows = self._places.of(parts), int(bounds[-1])
        group_ids = np.empty(n_rows, np.uint32) if room is None else room.of(n_rows)
        direct = self._direct_for(parts)
        if direct is None and not self._is_indexed:
            self._index_all()
        part, row, n_by_hash, n_before = 0, 0, 0, self.n_groups
        n_strangers_max = max(_STRANGERS_LEAST, self.n_groups)
        while part < len(parts):
            n_known = self.n_groups
            state = (self._slots, self._keys, n_known, group_ids)
            if direct is None:
                part, row, self.n_groups = assign_group_ids_at(columns, bounds, part, row, *state)
            else:
                part, row, self.n_groups, more = direct.assign(
                    columns, bounds, part, row, *state, n_strangers_max
                )
                n_by_hash += more
                # New groups are mostly in the array alone.
                self._is_indexed &= self.n_groups == n_known
            self._are_slots_empty &= direct is not None and n_by_hash == 0
            if part == len(parts):
                break
            if self.n_groups == self.capacity:
                self._reallocate(len(parts[0]), 2 * self.capacity)
            else:
                # Keys have moved away from the array.
                self._make_direct(_between(parts[part]))
                direct, n_by_hash, n_strangers_max = self._direct, 0, 2 * n_strangers_max
        if direct is None and self._direct is not None and self.n_groups > n_before:
            # Some of the new groups may have a place in the array.
            self._direct.refill(self._keys, self.n_groups, self._slots)
        if self._may_be_direct and (direct is None or direct.is_stale(n_by_hash, n_rows)):
            self._look_for_direct(parts, n_rows)
        return group_ids

    def _direct_for(self, parts: Sequence[Sequence[Word | _Address]]) -> DirectIndex | None:
        direct = self._direct
        if direct is None or len(parts[0]) < 3 or all(map(direct.suits, map(_between, parts))):
            return direct
        return None

    def _look_for_direct(self, parts: Sequence[Sequence[Word | _Address]], n_rows: int) -> None:
        """Try now and then whether groups can be found by their keys themselves."""
        between = _between(parts[-1])
        if self.n_groups == 0 or None in between:
            return
        self._rows_until_try -= n_rows
        if self._rows_until_try > 0:
            return
        self._make_direct(between)

    def _make_direct(self, between: Sequence[int | None]) -> None:
        """Let there be an array for the keys that there are, if these are close to each other."""
        known = [word for word in between if word is not None]
        if not self._is_indexed:
            self._index_all()
        groups = (self._keys, self.n_groups, self._slots)
        are_moving = self._direct is not None
        self._direct = DirectIndex.for_groups(*groups, known, are_moving=are_moving)
        # Where it pays, it is worth a look at each group as often as there are that many rows.
        is_found = self._direct is not None
        self._try_rows = min(self.n_groups if is_found else 2 * self._try_rows, _TRY_ROWS_MAX)
        self._rows_until_try = self._try_rows

    def _null_words(self, nulls: Sequence[U8 | None], n_rows: int) -> list[I64]:
        if self._n_null_words == 0:
            # Keys seen so far have no NULL, and get words of zeros. With more words, the last one
            # is not the key any more, by which the direct index goes.
            self._n_null_words = -(-len(self._columns) // _NULLS_PER_WORD)
            self._direct, self._may_be_direct = None, False
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
        self._allocate_keys(n_words, capacity)
        n_slots = _slots_for(capacity)
        if len(self._slots) != n_slots:
            self._slots = np.zeros(n_slots, np.uint64)
        elif not self._are_slots_empty:
            # Nobody else has them, and fresh memory costs more than old.
            self._slots.fill(0)
        self._are_slots_empty = True

    def _allocate_keys(self, n_words: int, capacity: int) -> None:
        self._keys = np.empty((n_words, capacity), np.int64)
        at = self._keys.ctypes.data
        self._addresses = [at + row * capacity * _WORD_BYTES for row in range(n_words)]

    def _reallocate(self, n_words: int, capacity: int) -> None:
        before, had_slots = self._keys, not self._are_slots_empty
        if self._direct is None and self._is_indexed and n_words == len(before):
            self._allocate_keys(n_words, capacity)
            self._keys[:, : self.n_groups] = before[:, : self.n_groups]
            self._grow_index(_slots_for(capacity))
            return
        self._allocate(n_words, capacity)
        self._keys[: before.shape[0], : self.n_groups] = before[:, : self.n_groups]
        self._keys[before.shape[0] :, : self.n_groups] = 0
        if self._direct is None:
            self._index_all()
            return
        # What the array tells needs no hash, unless rows come that it cannot tell the groups of.
        self._is_indexed = self.n_groups == 0
        if had_slots:
            self._are_slots_empty = self._direct.refill(self._keys, self.n_groups, self._slots) == 0

    def _grow_index(self, n_slots: int) -> None:
        """Let the hash index have more slots, or as many as it has."""
        if n_slots != len(self._slots):
            before, self._slots = self._slots, np.zeros(n_slots, np.uint64)
            move_slots(before, self._slots)

    def _index_all(self) -> None:
        """Make the hash index anew, with all groups."""
        if self.n_groups > 0 or not self._are_slots_empty:
            rebuild_slots(self._keys, self.n_groups, self._slots)
            self._are_slots_empty = self.n_groups == 0
        self._is_indexed = True


def _slots_for(capacity: int) -> int:
    n_slots = (4 if capacity <= _SPARSE_CAPACITY_MAX else 2) * capacity
    if n_slots > _SLOTS_MAX:
        raise InternalError(f"a table of keys holds {_SLOTS_MAX // 2} groups at most")
    return n_slots


class _Address(NamedTuple):
    """Where 64-bit words lie, which somebody keeps alive."""

    address: int


class _Places:
    """Tells kernels where the words of keys are. For one call at a time."""

    def __init__(self) -> None:
        self._constants: dict[int, tuple[I64, int]] = {}

    def of(self, parts: Sequence[Sequence[Word | _Address]]) -> I64:
        """Return int64[n_parts, n_words, 2], address and stride of each; for this call only."""
        if len(self._constants) > _CONSTANTS_MAX:
            self._constants.clear()
        places: list[int] = []
        for words in parts:
            for word in words:
                places += self._place(word)
        return np.array(places, np.int64).reshape(len(parts), len(parts[0]), 2)

    def _place(self, word: Word | _Address) -> tuple[int, int]:
        if isinstance(word, _Address):
            return word.address, _WORD_BYTES
        if not isinstance(word, int):
            assert word.dtype == np.int64, "words of 64 bits"
            assert word.flags.c_contiguous, "words one after the other"
            return word.ctypes.data, _WORD_BYTES
        known = self._constants.get(word)
        if known is None:
            # Once for each row of a block.
            values = np.full(BLOCK_ROWS, word, np.int64)
            known = self._constants[word] = values, values.ctypes.data
        return known[1], 0


def _between(words: Sequence[Word | _Address]) -> tuple[int | None, ...]:
    """Return the words between pane and key, None for one that is not the same in all rows."""
    if len(words) < 3:
        return ()
    return tuple(word if isinstance(word, int) else None for word in words[1:-1])


def _null_bits(null_words: Sequence[I64], index: int) -> U8 | None:
    if not null_words:
        return None
    word = null_words[index // _NULLS_PER_WORD]
    is_null = ((word >> np.int64(index % _NULLS_PER_WORD)) & 1).astype(np.uint8)
    return is_null if is_null.any() else None
