"""The bound on what a job has taken in and not finished: it makes every queue of the job finite."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

__all__ = ["InFlight"]

# An interrupt from the keyboard that comes just before a wait begins is seen when it ends.
_WAIT_SECONDS_MAX = 0.5


class InFlight:
    """Counts rows and bytes under way, and blocks who would exceed the limits.

    What ``push`` has taken is under way until it is processed. A batch larger than a limit is let
    in when nothing else is under way, so that no batch is ever stuck.

    Args:
        rows_max: Rows that may be under way.
        bytes_max: Bytes that may be under way.
        steps_max: Steps without rows that may be under way.
        items_max: Micro-batches and steps that may be under way, since the smallest has its weight.
    """

    def __init__(
        self, rows_max: int, bytes_max: int, steps_max: int, items_max: int = 1 << 14
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._steps_max = steps_max
        self._items_max = items_max
        # Taken by itself where nobody waits, because a condition hands on to it in Python.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        # Those who wait for the end need not look each time that something changes on the way.
        self._emptied = threading.Condition(self._lock)
        self._closing = threading.Condition()
        # Who waits for anything, and who of them for something that is not of this object.
        self._n_waiters = 0
        self._n_watchers = 0
        self._is_closed = False
        self.rows_in = 0
        self.rows_done = 0
        self._bytes = 0
        self._items = 0
        self._steps = 0

    @property
    def rows_waiting(self) -> int:
        """Rows under way."""
        with self._changed:
            return self.rows_in - self.rows_done

    @property
    def steps(self) -> int:
        """Steps without rows under way, as they were a moment ago."""
        return self._steps

    def snapshot(self) -> tuple[int, int]:
        """Return rows let in and rows done, of one moment."""
        with self._changed:
            return self.rows_in, self.rows_done

    @property
    def utilization(self) -> float:
        """Share of the scarcest limit that is taken; more than 1 if a large batch goes alone."""
        return max(
            (self.rows_in - self.rows_done) / self._rows_max,
            self._bytes / self._bytes_max,
            self._steps / self._steps_max,
            self._items / self._items_max,
        )

    def is_below(self, share: float) -> bool:
        """Say whether less than a share of each limit is taken."""
        return (
            self.rows_in - self.rows_done < share * self._rows_max
            and self._bytes < share * self._bytes_max
            and self._steps < share * self._steps_max
            and self._items < share * self._items_max
        )

    def enter(self, n_rows: int, n_bytes: int, timeout_seconds: float | None) -> bool:
        """Wait for room and take it.

        Returns:
            False if the time ran out or the job was closed while waiting; nothing has been taken
            then.
        """
        with self._lock:
            has_room = self._has_room(n_rows, n_bytes) or self._wait(
                partial(self._has_room, n_rows, n_bytes), timeout_seconds
            )
            if not has_room or self._is_closed:
                return False
            self.rows_in += n_rows
            self._bytes += n_bytes
            self._items += 1
            return True

    def force(self) -> None:
        """Take part with one more item of a batch that has entered."""
        with self._changed:
            self._items += 1

    def enter_step(self) -> bool:
        """Wait for room for a step without rows and take it.

        Returns:
            False if the job was closed; nothing has been taken then.
        """
        with self._changed:
            if not self._wait(lambda: self._has_room(0, 0), None) or self._is_closed:
                return False
            self._add_step()
            return True

    def force_step(self) -> None:
        """Take part with a step without rows, room or not."""
        with self._changed:
            self._add_step()

    def withdraw(self, n_rows: int, n_bytes: int) -> None:
        """Undo ``enter`` for a batch that was refused after all."""
        with self._changed:
            self.rows_in -= n_rows
            self._bytes -= n_bytes
            self._items -= 1
            self._changed.notify_all()
            self._note_empty()

    def leave(self, n_rows: int, n_bytes: int, n_items: int = 1) -> None:
        """Give the room of micro-batches back: they are done.

        Args:
            n_rows: Rows of all of them.
            n_bytes: Bytes of all of them.
            n_items: How many.
        """
        with self._lock:
            self.rows_done += n_rows
            self._bytes -= n_bytes
            self._items -= n_items
            if self._n_waiters > 0:
                self._changed.notify_all()
            self._note_empty()

    def leave_step(self) -> None:
        """Note that a step without rows is done."""
        with self._changed:
            self._items -= 1
            self._steps -= 1
            self._changed.notify_all()
            self._note_empty()

    def wait(self, is_met: Callable[[], bool], timeout_seconds: float | None) -> bool:
        """Wait until something is so that the progress of the job brings about.

        Args:
            is_met: Says whether it is so; asked after each change of what is under way, and when
                :meth:`wake` is called.
            timeout_seconds: How long to wait at most.

        Returns:
            False if the time ran out or the job was closed.
        """
        with self._changed:
            self._n_watchers += 1
            try:
                return self._wait(is_met, timeout_seconds) and not self._is_closed
            finally:
                self._n_watchers -= 1

    def wake(self) -> None:
        """Let those look again who :meth:`wait` for something; costs nothing while nobody does."""
        # A watcher announces itself before it looks, so one that missed the change is seen here.
        if self._n_watchers > 0:
            with self._changed:
                self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait for some time, or until the job is closed; nothing else ends it."""
        with self._closing:
            if not self._is_closed:
                self._closing.wait(seconds)

    def wait_empty(self, timeout_seconds: float | None = None) -> bool:
        """Wait until nothing is under way; return False if closed, or out of time, before that."""
        with self._emptied:
            is_met = self._wait(lambda: self._items == 0, timeout_seconds, self._emptied)
            return is_met and self._items == 0

    def close(self) -> None:
        """Let everybody who waits return, and nobody in any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            self._emptied.notify_all()
        with self._closing:
            self._closing.notify_all()

    def _has_room(self, n_rows: int, n_bytes: int) -> bool:
        if self._items == 0:
            return True
        if self._steps >= self._steps_max or self._items >= self._items_max:
            return False
        n_rows_under_way = self.rows_in - self.rows_done
        return (
            n_rows_under_way + n_rows <= self._rows_max and self._bytes + n_bytes <= self._bytes_max
        )

    def _add_step(self) -> None:
        self._items += 1
        self._steps += 1

    def _note_empty(self) -> None:
        if self._items == 0:
            self._emptied.notify_all()

    def _wait(
        self,
        is_met: Callable[[], bool],
        timeout_seconds: float | None,
        condition: threading.Condition | None = None,
    ) -> bool:
        if is_met() or self._is_closed:
            return True
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        changed = self._changed if condition is None else condition
        self._n_waiters += 1
        try:
            while not is_met() and not self._is_closed:
                remaining = _WAIT_SECONDS_MAX if deadline is None else deadline - time.monotonic()
                if remaining <= 0:
                    return False
                changed.wait(min(remaining, _WAIT_SECONDS_MAX))
            return True
        finally:
            self._n_waiters -= 1
