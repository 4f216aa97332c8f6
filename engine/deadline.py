"""How long a caller is willing to wait."""

from __future__ import annotations

import time

__all__ = ["NO_DEADLINE", "Deadline"]


class Deadline:
    """A moment until which to wait, however many things are waited for meanwhile.

    Args:
        timeout_seconds: Seconds from now; None is never.
    """

    def __init__(self, timeout_seconds: float | None) -> None:
        self._at = None if timeout_seconds is None else time.monotonic() + timeout_seconds

    def remaining(self) -> float | None:
        """Return the seconds left: 0 if the time is over, None without a limit."""
        return None if self._at is None else max(self._at - time.monotonic(), 0.0)

    def within(self, seconds: float) -> float:
        """Return the seconds left, but at most so many."""
        remaining = self.remaining()
        return seconds if remaining is None else min(seconds, remaining)

    @property
    def is_over(self) -> bool:
        """Whether there is no time left."""
        return self.remaining() == 0.0


NO_DEADLINE = Deadline(None)
