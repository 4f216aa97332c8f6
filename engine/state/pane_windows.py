"""Windows put together from panes in which keys have the same numbers: array by array, no hash.

Of few panes, all are added up for each window. Of more, most of the work of a window was done for
the one before: sums from each pane to some pane in the middle are kept, and one of all panes behind
it. A window is the sum of two of these; when the window begins behind the middle, the panes that
there are then get sums of their own. So a pane is added three times, however many windows it is in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from millstream.engine.column_memory import new_columns
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.kernels.compile import I64
from millstream.kernels.panes import combine_panes

__all__ = ["PaneWindows"]

# Windows of more panes are put together from sums.
_FEW_PANES = 8
# Below any pane.
_NO_PANE = -(1 << 63)


class _Sums(NamedTuple):
    """Accumulators by key: int64[n_accumulators, n_keys].

    Attributes:
        at: int64[n_accumulators], addresses of the rows.
        n_keys: Keys from the first on that there are sums of.
        words: The memory, or None if somebody else has it.
        n_groups: How many keys have rows, where the memory is here.
    """

    at: I64
    n_keys: int
    words: I64 | None = None
    n_groups: int = 0


class PaneWindows:
    """Puts windows together in the order in which they end.

    Args:
        panes: The panes. They take nothing any more for panes of windows that were asked for.
        n_panes_most: Panes of the longest window.
    """

    def __init__(self, panes: DensePanes, n_panes_most: int) -> None:
        self._panes = panes
        self._keeps_sums = n_panes_most > _FEW_PANES
        # Sums from each of these panes up to the middle.
        self._front: dict[int, _Sums] = {}
        self._front_panes: list[int] = []
        self._middle = _NO_PANE
        # The sum of the panes behind the middle, and the last pane that is in it.
        self._back: _Sums | None = None
        self._back_last = _NO_PANE

    @property
    def n_groups(self) -> int:
        """Number of groups at most."""
        return self._panes.n_groups + sum(sums.n_keys for sums in self._front.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of keys, accumulators and sums."""
        sums = [*self._front.values(), *([] if self._back is None else [self._back])]
        n_bytes = sum(part.words.nbytes for part in sums if part.words is not None)
        return self._panes.state_bytes + n_bytes

    def panes(self) -> list[int]:
        """Return the panes that have groups, ascending."""
        return sorted({*self._front_panes, *self._panes.numbers()})

    def window(self, first: int, last: int) -> PaneGroups | None:
        """Put a window together; None if it has no groups here.

        Args:
            first: Its first pane.
            last: Its last pane, not before that of the window asked for last.
        """
        self._panes.take_from(last + 1)
        parts = self._summed(first, last) if self._keeps_sums else self._of_panes(first, last)
        if not parts:
            return None
        sums = parts[0]
        if len(parts) > 1 or sums.words is None:
            sums = self._sum(parts, leaves=True)
        assert sums.words is not None, "sums of its own"
        return self._panes.groups_of(last, sums.words, sums.n_groups)

    def drop(self, limit: int) -> None:
        """Forget the panes below a limit, which are in no window any more."""
        n_over = bisect_left(self._front_panes, limit)
        for pane in self._front_panes[:n_over]:
            del self._front[pane]
        del self._front_panes[:n_over]
        self._panes.drop(pane for pane in self._panes.numbers() if pane < limit)
        if not self._front:
            self._panes.begin_anew()

    def _of_panes(self, first: int, last: int) -> list[_Sums]:
        numbers = [pane for pane in self._panes.numbers() if first <= pane <= last]
        return [_Sums(*self._panes.sums_at(pane)) for pane in sorted(numbers)]

    def _summed(self, first: int, last: int) -> list[_Sums]:
        if first > self._middle + 1:
            self._move_middle(first, last)
        elif last > self._back_last:
            more = self._of_panes(max(self._back_last + 1, first), last)
            if more:
                before = [] if self._back is None else [self._back]
                self._back = self._sum([*before, *more])
            self._back_last = last
        index = bisect_left(self._front_panes, first)
        parts = [self._front[pane] for pane in self._front_panes[index : index + 1]]
        return parts if self._back is None else [*parts, self._back]

    def _move_middle(self, first: int, last: int) -> None:
        """Make the last pane of a window the middle, with a sum from each pane up to it."""
        numbers = [pane for pane in sorted(self._panes.numbers()) if first <= pane <= last]
        self._front.clear()
        later: list[_Sums] = []
        for pane in reversed(numbers):
            sums = self._sum([_Sums(*self._panes.sums_at(pane)), *later])
            later = [sums]
            self._front[pane] = sums
            # The sum is all that is asked for from now on.
            self._panes.drop([pane])
        self._front_panes = numbers
        self._middle = self._back_last = last
        self._back = None

    def _sum(self, parts: Sequence[_Sums], *, leaves: bool = False) -> _Sums:
        """Add sums up, in memory that leaves with a window or stays here."""
        n_keys = np.array([part.n_keys for part in parts], np.int64)
        shape = len(self._panes.opcodes), int(n_keys.max())
        words = new_columns(*shape) if leaves else np.empty(shape, np.int64)
        at = np.array([part.at for part in parts])
        n_groups = combine_panes(self._panes.opcodes, self._panes.count_row, at, n_keys, words)
        rows_at = words.ctypes.data + words.strides[0] * np.arange(len(words))
        return _Sums(rows_at, words.shape[1], words, n_groups)
