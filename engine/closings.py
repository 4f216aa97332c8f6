"""When windows that have ended are closed: a step of all partitions does that, at a price."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from millstream.engine.window_ends import WindowEnds

__all__ = ["FEWER_ROWS_MAX", "ROWS_MAX", "Closings"]

ROWS_MAX = 1 << 19
"""Rows behind which nothing waits any more: a step costs less than they do. With as many rows
again, groups of windows closed at once do not fit into the caches where each has few rows."""
FEWER_ROWS_MAX = 1 << 16
"""The same of one partition, where a step costs least, in a job whose results are waited for."""
# Steps under way, from which on the next windows wait. With one alone, they would wait for all the
# rows that were pushed behind its own.
_STEPS_MAX = 2


class Closings:
    """Says when a step is due that closes windows.

    A step takes all partitions a part of a millisecond, however few windows it closes. Where each
    micro-batch ends some, windows that end while steps are still under way wait for these, and are
    closed together. In a bounded run nobody sees results before the end: there they wait for more
    rows in any case, so that the order of results does not depend on how fast anything was.

    Called under the intake's lock, where nothing else is said.

    Args:
        ends: Of the windows.
        may_wait: Whether windows may be closed together.
        n_under_way: Gives the number of steps without rows that are under way.
        is_bounded: Whether this is a bounded run.
        n_partitions: Number of partitions.
        queue_rows: Rows that the queue of a partition may hold. Windows wait for no more, so that a
            partition which holds up the steps is soon noticed by whoever pushes.
    """

    def __init__(
        self,
        ends: WindowEnds,
        *,
        may_wait: bool,
        n_under_way: Callable[[], int],
        is_bounded: bool,
        n_partitions: int,
        queue_rows: int,
    ) -> None:
        self._ends = ends
        self._may_wait = may_wait
        self._n_under_way = n_under_way
        self._is_bounded = is_bounded
        rows_max = ROWS_MAX if is_bounded or n_partitions > 1 else FEWER_ROWS_MAX
        self._rows_max = min(rows_max, queue_rows)
        self._n_rows = 0
        self._is_waiting = False

    @property
    def wait_for_steps(self) -> bool:
        """Whether windows wait for a step under way to be done. Any thread may ask."""
        return self._is_waiting and not self._is_bounded

    def are_due(self, watermarks: Mapping[str, int], n_rows: int = 0) -> bool:
        """Say whether windows are to be closed now; the caller does it then.

        Args:
            watermarks: Of each stream; none may be less than when this was last asked.
            n_rows: Rows that have come since.
        """
        self._n_rows += n_rows
        # Before looking at what is under way: of whoever ends that and whoever comes here, the
        # later one sees what the other has done.
        self._is_waiting = self._ends.are_passed(watermarks) or self._is_waiting
        if not self._is_waiting or self._must_wait():
            return False
        self._clear()
        return True

    def are_closed(self, watermarks: Mapping[str, int]) -> None:
        """Note that a step closes all windows that have ended."""
        self._ends.are_passed(watermarks)
        self._clear()

    def _must_wait(self) -> bool:
        if not self._may_wait or self._n_rows >= self._rows_max:
            return False
        return self._is_bounded or self._n_under_way() >= _STEPS_MAX

    def _clear(self) -> None:
        self._is_waiting = False
        self._n_rows = 0
