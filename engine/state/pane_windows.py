"""Windows put together from panes in which keys have the same numbers: array by array, no hash.

Of few panes, all are added up for each window. Of more, most of the work of a window was done for
the one before: sums from each pane to some pane in the middle are kept, and one of all panes behind
it. A window is the sum of two of these; when the window begins behind the middle, the panes that
there are then get sums of their own. So a pane is added three times, however many windows it is in.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from millstream.engine.column_memory import new_columns
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.pane_sums import PaneParts, add_up, rows_at
from millstream.kernels.compile import I64

__all__ = ["PaneWindows"]

# Windows of more panes are put together from sums.
_FEW_PANES = 8
# Below any pane.
_NO_PANE = -(1 << 63)


class _Sums(NamedTuple):
    """Accumulators by key.

    Attributes:
        part: Where they lie.
        words: The memory, or None if somebody else has it: int64[n_accumulators, n_keys].
        n_groups: How many keys have rows, where the memory is here.
    """

    part: PaneParts
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
        # The panes that there were when windows were asked for last, ascending.
        self._numbers: list[int] = []
        # The sum of the panes behind the middle, and the last pane that is in it.
        self._back: _Sums | None = None
        self._back_last = _NO_PANE

    @property
    def n_groups(self) -> int:
        """Number of groups at most."""
        return self._panes.n_groups + sum(sums.part.n_keys for sums in self._front.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of keys, accumulators and sums."""
        sums = [*self._front.values(), *([] if self._back is None else [self._back])]
        n_bytes = sum(part.words.nbytes for part in sums if part.words is not None)
        return self._panes.state_bytes + n_bytes

    def panes(self) -> list[int]:
        """Return the panes that have groups, ascending."""
        return sorted({*self._front_panes, *self._panes.numbers()})

    def windows(self, panes: Sequence[tuple[int, int]]) -> list[PaneGroups | None]:
        """Put windows together; None for one that has no groups here.

        Args:
            panes: Their first and last panes, at least one, by the last ones, which are not before
                that of the window asked for last.
        """
        self._panes.take_from(panes[-1][1] + 1)
        # Those that are dropped on the way are asked for no more.
        self._numbers = sorted(self._panes.numbers())
        parts_of = self._summed if self._keeps_sums else self._of_panes
        of_windows = [parts_of(first, last) for first, last in panes]
        to_make = [parts for parts in of_windows if _is_to_make(parts)]
        made = iter(self._made(to_make, leaves=True))
        found: list[PaneGroups | None] = []
        for (_, last), parts in zip(panes, of_windows, strict=True):
            if not parts:
                found.append(None)
                continue
            sums = next(made) if _is_to_make(parts) else parts[0]
            assert sums.words is not None, "sums of its own"
            found.append(self._panes.groups_of(last, sums.words, sums.n_groups))
        return found

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
        return [_Sums(self._panes.sums_at(pane)) for pane in self._between(first, last)]

    def _between(self, first: int, last: int) -> list[int]:
        """Return the panes that have groups, from one to another, ascending."""
        numbers = self._numbers
        return numbers[bisect_left(numbers, first) : bisect_right(numbers, last)]

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
        numbers = self._between(first, last)
        self._front.clear()
        later: list[_Sums] = []
        for pane in reversed(numbers):
            sums = self._sum([_Sums(self._panes.sums_at(pane)), *later])
            later = [sums]
            self._front[pane] = sums
            # The sum is all that is asked for from now on.
            self._panes.drop([pane])
        self._front_panes = numbers
        self._middle = self._back_last = last
        self._back = None

    def _sum(self, parts: Sequence[_Sums]) -> _Sums:
        """Add sums up, in memory that stays here."""
        return self._made([parts], leaves=False)[0]

    def _made(self, of_sums: Sequence[Sequence[_Sums]], *, leaves: bool) -> list[_Sums]:
        """Add sums up for each of several ones, in memory that leaves with a window or stays."""
        parts = [[sums.part for sums in some] for some in of_sums]
        n_rows = len(self._panes.opcodes)
        shapes = [(n_rows, max(part.n_keys for part in some)) for some in parts]
        rooms = [new_columns(*shape) if leaves else np.empty(shape, np.int64) for shape in shapes]
        counted = add_up(self._panes.opcodes, self._panes.count_row, parts, rooms)
        return [
            _Sums(PaneParts(rows_at(words), words.shape[1]), words, n_groups)
            for words, n_groups in zip(rooms, counted, strict=True)
        ]


def _is_to_make(parts: Sequence[_Sums]) -> bool:
    """Whether a window has sums yet to be added up, or memory that somebody else has."""
    return len(parts) > 1 or (len(parts) == 1 and parts[0].words is None)
