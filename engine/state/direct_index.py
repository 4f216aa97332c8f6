"""Group ids by the key itself, for integer keys that lie close to each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millstream.kernels.compile import I64, U32, U64
from millstream.kernels.direct import assign_group_ids_direct, fill_direct

__all__ = ["DirectIndex"]

_INT64_MIN = -(1 << 63)
_ENTRY_BYTES = 4
# The array may take as much as this per group that there is room for, and this much anyway.
_BYTES_PER_GROUP_MAX = 8
_BYTES_LEAST = 1 << 12
# An array that does not stay in the cache is no better than a hash index.
_BYTES_MAX = 1 << 21
_PANES_MAX = 64
# One row in so many may come to the hash index before another range is worth a try.
_STRANGERS = 8


class DirectIndex:
    """An array over all keys of a range, for each of the latest panes: groups without a hash.

    It has all groups of these panes whose keys are in the range. The hash index beside it has all
    others.

    Args:
        base: Least key of the range.
        n_keys: Keys in the range.
        n_panes: Panes whose groups are found at a time, a power of two.
        between: The words between pane and key that groups in the array have.
    """

    def __init__(self, base: int, n_keys: int, n_panes: int, between: Sequence[int]) -> None:
        self._base = base
        self._between = tuple(between)
        self._owners = np.empty(n_panes, np.int64)
        self._entries = np.empty((n_panes, n_keys + 1), np.uint32)
        self._forget()

    @classmethod
    def for_groups(
        cls, keys: I64, n_groups: int, slots: U64, between: Sequence[int], *, are_moving: bool
    ) -> DirectIndex | None:
        """Make an index of groups, if their keys lie close enough to each other.

        Args:
            keys: int64[n_words, capacity], words of the groups: a pane if there are several words,
                and the key last.
            n_groups: Number of groups, at least 1.
            slots: The hash index, in which all groups are.
            between: The words between pane and key of the rows to come.
            are_moving: Whether keys have come beyond the range of an index before this one.
        """
        key = keys[-1, :n_groups]
        base, last = int(key.min()), int(key.max())
        n_open = 1
        if len(keys) > 1:
            n_open = int(keys[0, :n_groups].max()) - int(keys[0, :n_groups].min()) + 1
        n_panes = 1
        while n_panes < min(n_open, _PANES_MAX):
            n_panes *= 2
        bytes_max = min(max(_BYTES_PER_GROUP_MAX * keys.shape[1], _BYTES_LEAST), _BYTES_MAX)
        n_keys_max = bytes_max // _ENTRY_BYTES - 1
        n_keys = last - base + 1
        while n_panes > 1 and n_panes * n_keys > n_keys_max:
            n_panes //= 2
        if n_keys > n_keys_max:
            return None
        # Keys that ascend, such as numbers of texts, find room for some more.
        n_more = 2 * n_keys if are_moving else n_keys // 4
        n_keys = min(n_keys + n_more, n_keys_max // n_panes, (1 << 63) - base)
        index = cls(base, n_keys, n_panes, between)
        index.refill(keys, n_groups, slots)
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self._entries.nbytes + self._owners.nbytes

    def suits(self, between: tuple[int | None, ...]) -> bool:
        """Say whether rows can be looked up that have these words between pane and key."""
        return between == self._between

    def fits(self, capacity: int) -> bool:
        """Say whether the array is small beside so many groups."""
        return self.nbytes <= max(_BYTES_PER_GROUP_MAX * capacity, _BYTES_LEAST) + 8 * _PANES_MAX

    def refill(self, keys: I64, n_groups: int, slots: U64) -> int:
        """Start anew with the groups that there are now; those without a place go into ``slots``.

        Returns:
            The number of groups without a place.
        """
        self._forget()
        between = self._between[0] if self._between else 0
        index = (self._base, self._owners, self._entries)
        return fill_direct(keys, n_groups, between, *index, slots)

    def assign(
        self,
        columns: I64,
        bounds: I64,
        part: int,
        row: int,
        slots: U64,
        keys: I64,
        n_groups: int,
        group_ids: U32,
        n_by_hash_max: int,
    ) -> tuple[int, int, int, int]:
        """Give rows the ids of their groups, as the kernel does, until too many go by their hash.

        Returns:
            The part and the row to go on from; the number of groups; how many rows and displaced
            groups came to ``slots``.
        """
        index = (self._base, self._owners, self._entries)
        return assign_group_ids_direct(
            columns, bounds, part, row, slots, keys, n_groups, group_ids, *index, n_by_hash_max
        )

    @staticmethod
    def is_stale(n_by_hash: int, n_rows: int) -> bool:
        """Say whether so many of some rows had to be found otherwise that another may be better."""
        return n_by_hash * _STRANGERS > n_rows

    def _forget(self) -> None:
        self._owners.fill(_INT64_MIN)
        self._entries.fill(0)
