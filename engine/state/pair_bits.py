"""Pairs of a group and a value as bits, where values lie close to each other."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, U32, U64
from millstream.kernels.pair_bits import add_bits, list_bits

__all__ = ["PairBits"]

_WORD_BITS = 64
_WORD_BYTES = 8
_GREATEST = (1 << 63) - 1


class PairBits:
    """A row of bits per group, for the values of a range.

    Args:
        least: The least value that there is room for.
        greatest: The greatest one.
        n_owners: The number of groups.
    """

    def __init__(self, least: int, greatest: int, n_owners: int) -> None:
        self._base, n_words = _range_of(least, greatest)
        self._bits: U64 = np.zeros((n_owners, n_words), np.uint64)

    @staticmethod
    def bytes_for(least: int, greatest: int, n_owners: int) -> int:
        """Return how many bytes a set takes."""
        return n_owners * _range_of(least, greatest)[1] * _WORD_BYTES

    @property
    def n_owners(self) -> int:
        """How many groups there is room for."""
        return len(self._bits)

    @property
    def nbytes(self) -> int:
        """Bytes of the set."""
        return self._bits.nbytes

    def add(
        self, owners: U32, values_at: int, is_null: U8, row: int, new_rows: U32, n_new: int
    ) -> tuple[int, int]:
        """Add the pairs of rows, up to the first for which there is no room: see ``add_bits``."""
        at, n_new = add_bits(
            owners, values_at, is_null, row, self._bits, self._base, new_rows, n_new
        )
        return at, n_new

    def grow(self, least: int, greatest: int, n_owners: int, bytes_max: int) -> bool:
        """Make room for more values and groups, if that takes no more than so many bytes.

        Returns:
            Whether there is room now.
        """
        rows, n_words = self._bits.shape
        last = self._base + n_words * _WORD_BITS - 1
        least, greatest = min(least, self._base), max(greatest, last)
        n_owners = max(n_owners, rows)
        if self.bytes_for(least, greatest, n_owners) > bytes_max:
            return False
        # What ascends, as numbers of texts and of groups do, finds room for some more.
        more_values = min(greatest + (greatest - least) // 2 * (greatest > last), _GREATEST)
        more_owners = n_owners + n_owners // 2 * (n_owners > rows)
        if self.bytes_for(least, more_values, more_owners) <= bytes_max:
            greatest, n_owners = more_values, more_owners
        before, base_before = self._bits, self._base
        self._base, n_words = _range_of(least, greatest)
        self._bits = np.zeros((n_owners, n_words), np.uint64)
        first = (base_before - self._base) // _WORD_BITS
        self._bits[:rows, first : first + before.shape[1]] = before
        return True

    def of(self, numbers: I64, n_pairs: int) -> tuple[U32, I64]:
        """Return the pairs of some groups; see :meth:`PairSet.of`.

        Args:
            numbers: int64[n_groups], the new number of each, or -1.
            n_pairs: How many pairs there are.
        """
        owners, values = np.empty(n_pairs, np.uint32), np.empty(n_pairs, np.int64)
        n_listed: int = list_bits(self._bits, self._base, numbers, owners, values)
        return owners[:n_listed], values[:n_listed].reshape(1, n_listed)

    def clear(self) -> None:
        """Forget all pairs."""
        self._bits.fill(0)


def _range_of(least: int, greatest: int) -> tuple[int, int]:
    """Return the value of the first bit, and how many words there are up to the greatest value."""
    base = least // _WORD_BITS * _WORD_BITS
    return base, (greatest - base) // _WORD_BITS + 1
