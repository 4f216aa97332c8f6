"""Pairs of a group and a value, each kept once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.pairs import add_pairs, list_pairs, move_pairs

__all__ = ["PairSet"]

_SLOTS_LEAST = 64
_NO_NULLS = np.empty(0, np.uint8)


class PairSet:
    """A set of pairs: the number of a group, and the 64-bit words of a value.

    Args:
        n_words: Words of a value, one or more.
    """

    def __init__(self, n_words: int) -> None:
        self._n_words = n_words
        self.n_pairs = 0
        self._entries = self._room(_SLOTS_LEAST)

    @property
    def state_bytes(self) -> int:
        """Bytes of all memory that the set holds."""
        return self._entries.nbytes

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
        while True:
            row, self.n_pairs, n_new = add_pairs(
                owners, addresses, flags, row, self._entries, self.n_pairs, new_rows, n_new
            )
            if row == len(owners):
                return new_rows[:n_new]
            self._grow()

    def of(self, numbers: I64) -> tuple[U32, I64]:
        """Return the pairs of some groups, whose groups get other numbers.

        Args:
            numbers: int64[n_groups], the new number of each, or -1 for one to be left out. So are
                groups that it does not reach to.

        Returns:
            uint32[n], the new numbers, and int64[n_words, n], the values.
        """
        owners = np.empty(self.n_pairs, np.uint32)
        words = np.empty((self._n_words, self.n_pairs), np.int64)
        n_listed = list_pairs(self._entries, numbers, owners, words)
        return owners[:n_listed], words[:, :n_listed]

    def replace(self, words: Sequence[I64], owners: U32) -> None:
        """Have these pairs instead of all, as :meth:`add` takes them, each of them once."""
        n_slots = _SLOTS_LEAST
        while n_slots < 2 * len(owners):
            n_slots *= 2
        # Memory shrinks to a quarter or less at a time: the next window is like the last.
        if 4 * n_slots > len(self._entries):
            n_slots = len(self._entries)
        self.n_pairs = 0
        self._entries = self._room(n_slots)
        self.add(words, None, owners)

    def _grow(self) -> None:
        before, self._entries = self._entries, self._room(2 * len(self._entries))
        move_pairs(before, self._entries)

    def _room(self, n_slots: int) -> I64:
        return np.zeros((n_slots, 1 + self._n_words), np.int64)
