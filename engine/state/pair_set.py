"""Pairs of a group and a value, each kept once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millstream.engine.state.pair_bits import PairBits
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.pair_bits import find_pairs_bounds, find_rows_bounds
from millstream.kernels.pairs import add_pairs, list_pairs, move_pairs

__all__ = ["PairSet"]

_SLOTS_LEAST = 64
_NO_NULLS = np.empty(0, np.uint8)
# Bits take the place of slots when they take this many bytes per pair or less, and stay up to the
# second figure; a slot with its share of free ones takes 26 to 51. The two are so far apart that
# bits which did not last come back for no less than four times the pairs.
_BITS_BYTES, _BITS_BYTES_MAX = 16, 64


class PairSet:
    """A set of pairs: the number of a group, and the 64-bit words of a value.

    Pairs lie in the slots of a hash table. Where values are one word, and so close to each other
    that it takes less memory, each is a bit.

    Args:
        n_words: Words of a value, one or more.
    """

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words
        self.n_pairs = 0
        self._entries = self._room(_SLOTS_LEAST)
        self._bits: PairBits | None = None
        # Pairs before the last ones were replaced: as many are likely to come again.
        self._n_before = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of all memory that the set holds."""
        return self._entries.nbytes if self._bits is None else self._bits.nbytes

    def add(self, words: Sequence[I64], is_null: U8 | None, owners: U32) -> U32:
        """Add one pair per row.

        Args:
            words: ``n_words`` arrays int64[n_rows], each in one piece.
            is_null: uint8[n_rows], 1 where a row has no value and so no pair; None if all have.
            owners: uint32[n_rows], the group of each.

        Returns:
            uint32[n_new], the rows that brought a pair which was not there, ascending.
        """
        assert len(words) == self._n_words, "all words of the values"
        assert all(array.flags.c_contiguous for array in words), "words one after the other"
        addresses = np.array([array.ctypes.data for array in words], np.int64)
        flags = _NO_NULLS if is_null is None else is_null
        new_rows = np.empty(len(owners), np.uint32)
        row = n_new = 0
        while row < len(owners):
            if self._bits is None:
                row, self.n_pairs, n_new = add_pairs(
                    owners, addresses, flags, row, self._entries, self.n_pairs, new_rows, n_new
                )
                if row < len(owners):
                    self._grow()
                continue
            n_known, values_at = n_new, int(addresses[0])
            row, n_new = self._bits.add(owners, values_at, flags, row, new_rows, n_new)
            self.n_pairs += n_new - n_known
            if row < len(owners):
                self._grow_bits(self._bits, *find_rows_bounds(owners, values_at, flags, row))
        return new_rows[:n_new]

    def of(self, numbers: I64) -> tuple[U32, I64]:
        """Return the pairs of some groups, whose groups get other numbers.

        Args:
            numbers: int64[n_groups], the new number of each, or -1 for one to be left out. So are
                groups that it does not reach to.

        Returns:
            uint32[n], the new numbers, and int64[n_words, n], the values.
        """
        if self._bits is not None:
            return self._bits.of(numbers, self.n_pairs)
        owners = np.empty(self.n_pairs, np.uint32)
        words = np.empty((self._n_words, self.n_pairs), np.int64)
        n_listed = list_pairs(self._entries, numbers, owners, words)
        return owners[:n_listed], words[:, :n_listed]

    def replace(self, words: Sequence[I64], owners: U32) -> None:
        """Have these pairs instead of all, as :meth:`add` takes them, each of them once."""
        self._n_before, self.n_pairs = self.n_pairs, 0
        if self._bits is not None and self._bits.nbytes <= self._bits_bytes_max(len(owners)):
            self._bits.clear()
        else:
            self._bits = None
            self._make_slots(len(owners))
        self.add(words, None, owners)

    def _make_slots(self, n_pairs: int) -> None:
        """Have no pairs, and slots for so many."""
        n_slots = _SLOTS_LEAST
        while n_slots < 2 * n_pairs:
            n_slots *= 2
        # Memory shrinks to a quarter or less at a time: the next window is like the last.
        if 4 * n_slots > len(self._entries):
            n_slots = max(len(self._entries), n_slots)
        self._entries = self._room(n_slots)

    def _grow(self) -> None:
        if self._n_words == 1:
            least, greatest, last_owner = find_pairs_bounds(self._entries)
            shape = least, greatest, last_owner + 1
            if PairBits.bytes_for(*shape) <= _BITS_BYTES * self.n_pairs:
                bits = PairBits(*shape)
                owners, (values,) = self.of(np.arange(last_owner + 1))
                bits.add(owners, values.ctypes.data, _NO_NULLS, 0, np.empty_like(owners), 0)
                self._bits, self._entries = bits, self._room(0)
                return
        before, self._entries = self._entries, self._room(2 * len(self._entries))
        move_pairs(before, self._entries)

    def _grow_bits(self, bits: PairBits, least: int, greatest: int, last_owner: int) -> None:
        """Have bits for some more values and groups, or slots again."""
        n_owners = last_owner + 1
        if bits.grow(least, greatest, n_owners, self._bits_bytes_max(self.n_pairs)):
            return
        owners, values = bits.of(np.arange(bits.n_owners), self.n_pairs)
        self._bits = None
        self._make_slots(self.n_pairs)
        self.n_pairs = 0
        self.add(list(values), None, owners)

    def _bits_bytes_max(self, n_pairs: int) -> int:
        return _BITS_BYTES_MAX * max(n_pairs, self._n_before)

    def _room(self, n_slots: int) -> I64:
        return np.zeros((n_slots, 1 + self._n_words), np.int64)
