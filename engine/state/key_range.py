"""Ranges of keys that lie close to each other, so that each may have a place of its own."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64
from millstream.kernels.records import count_distinct, find_range, sample_keys

__all__ = ["KeyRange", "are_too_many"]

# Room for so many keys does not matter; of more, there have to be as many rows.
_LITTLE_ROOM, _KEYS_MAX = 1 << 14, 1 << 20
# A pane with fewer than one in so many of all keys has too much room.
_SPARSE = 4
# With more than one stray in so many rows, a range is not worth having.
_STRANGERS = 8
# Rows after which a range is looked for again; doubled each time that there is none.
_TRY_ROWS_LEAST, _TRY_ROWS_MAX = 1 << 10, 1 << 24
# Keys by which a range is chosen where some are far from the others.
_SAMPLE = 1 << 10
# A range begins at a multiple of a small part of it, so that it is the same in other partitions.
_ALIGNED = 16
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class KeyRange:
    """A range of keys, or none as long as keys lie too far from each other.

    Keys are told to it as int64[n_parts, 2]: per part the address of 64-bit words, and how many.

    Attributes:
        base: The least key.
        n_keys: How many there are, 0 for no range.
    """

    def __init__(self) -> None:
        self.base = self.n_keys = 0
        self._n_rows = 0
        self._rows_until_try = 0
        self._try_rows = _TRY_ROWS_LEAST

    def is_due(self, n_rows: int) -> bool:
        """Note rows that have come; say whether there is a range, or one should be looked for."""
        self._n_rows += n_rows
        if self.n_keys == 0:
            self._rows_until_try -= n_rows
        return self.n_keys > 0 or self._rows_until_try <= 0

    def begin(self, keys: I64) -> bool:
        """Choose a range by the first keys, if most of them lie close enough to each other."""
        least, greatest = find_range(keys)
        base = _aligned(least, greatest - least + 1)
        n_keys = greatest - base + 1
        if not (self._has_room(n_keys) or _is_dense(keys, base, n_keys)):
            base, n_keys = _range_of_most(keys)
            if not self._has_room(n_keys):
                self._try_later()
                return False
        self.base, self.n_keys = base, n_keys
        return True

    def grow(self, keys: I64) -> bool:
        """Include some keys, if the range does not become much larger by them."""
        least, greatest = find_range(keys)
        stop = max(greatest + 1, self.base + self.n_keys)
        base = self.base
        if least < base:
            base = _aligned(least, stop - least)
        n_keys = stop - base
        if greatest >= self.base + self.n_keys:
            # Keys that ascend, such as numbers of texts, find room for some more.
            n_keys = min(n_keys + n_keys // 4, _INT64_MAX + 1 - base)
        if n_keys > max(_LITTLE_ROOM, 4 * self.n_keys) or not self._has_room(n_keys):
            return False
        # Else whoever goes on with these keys would never come to an end.
        assert base <= least, "the least key is in the range"
        assert greatest < base + n_keys, "the greatest key is in the range"
        self.base, self.n_keys = base, n_keys
        return True

    def is_sparse(self, n_groups: int, n_panes: int) -> bool:
        """Say whether a pane has too few groups for its room, where so many panes have as much."""
        return n_groups * _SPARSE < self.n_keys and self.n_keys * n_panes > _LITTLE_ROOM

    def suits(self, n_rows: int, n_panes: int) -> bool:
        """Say whether so many rows are enough for new panes to begin with."""
        return self.n_keys * n_panes <= max(_LITTLE_ROOM, _SPARSE * n_rows)

    def confirm(self) -> None:
        """Note that the range was worth its room."""
        self._try_rows = _TRY_ROWS_LEAST

    def give_up(self) -> None:
        """Forget the range; another one is looked for after some rows."""
        self.base = self.n_keys = self._n_rows = 0
        self._try_later()

    def _has_room(self, n_keys: int) -> bool:
        return n_keys <= _LITTLE_ROOM or n_keys <= min(self._n_rows, _KEYS_MAX)

    def _try_later(self) -> None:
        self._rows_until_try = self._try_rows
        self._try_rows = min(2 * self._try_rows, _TRY_ROWS_MAX)


def are_too_many(n_strays: int, n_rows: int) -> bool:
    """Say whether a range is not worth having for rows of which so many are strays."""
    return n_strays * _STRANGERS > n_rows


def _aligned(least: int, n_keys: int) -> int:
    """Return a number that is hardly less, for a range of so many keys to begin at."""
    step = 1 << max((n_keys // _ALIGNED).bit_length() - 1, 0)
    return max(least // step * step, _INT64_MIN)


def _is_dense(keys: I64, base: int, n_keys: int) -> bool:
    """Whether so many different keys of a range have come at once that it is worth its room."""
    if n_keys > min(_SPARSE * int(keys[:, 1].sum()) * 2, _KEYS_MAX):
        return False
    n_distinct: int = count_distinct(keys, base, np.zeros(n_keys, np.uint8))
    return n_distinct * _SPARSE * 2 > n_keys


def _range_of_most(keys: I64) -> tuple[int, int]:
    """Return the least of a range of keys, and how many, that leaves out what seems to be far."""
    sample = np.empty(_SAMPLE, np.int64)
    n_keys: int = sample_keys(keys, sample)
    ordered = np.sort(sample[:n_keys])
    n_far = n_keys // (2 * _STRANGERS)
    least, greatest = int(ordered[n_far]), int(ordered[n_keys - 1 - n_far])
    more = (greatest - least) // 4
    least, greatest = max(least - more, _INT64_MIN), min(greatest + more, _INT64_MAX)
    base = _aligned(least, greatest - least + 1)
    return base, greatest - base + 1
