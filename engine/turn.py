"""Whose turn it is among partitions that have little to do."""

from __future__ import annotations

import threading

from millstream.engine.step import SourceItem

__all__ = ["Turn"]

# Rows of a micro-batch whose kernels take less time than the Python around them.
_SMALL_ROWS = 1 << 11
# What holds a turn up for longer than this is not Python at work.
_WAIT_SECONDS = 0.002


class Turn:
    """One partition's claim to process a small message while no other partition does.

    Threads that run little but Python would hand the GIL to and fro, which takes longer than what
    they do. Nobody depends on having the turn: after a moment's wait a partition goes on without.
    Its methods are called by the partition's thread.

    Args:
        lock: Shared by all partitions of the job; None where there is only one.
    """

    def __init__(self, lock: threading.Lock | None) -> None:
        self._lock = lock
        self._is_held = False

    def take(self, item: SourceItem) -> None:
        """Wait for the turn before a message, if that is about a small micro-batch.

        A step without rows is none: it can close windows of any size.

        Args:
            item: What the message is about.
        """
        is_small = item.batch is not None and item.n_rows <= _SMALL_ROWS
        if is_small and self._lock is not None:
            self._is_held = self._lock.acquire(timeout=_WAIT_SECONDS)

    def give_up(self) -> None:
        """Let others have their turn: the message is done, or goes on in code of the user's."""
        if self._is_held and self._lock is not None:
            self._is_held = False
            self._lock.release()
