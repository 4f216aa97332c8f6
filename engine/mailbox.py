"""A thread's mailbox, out of which it may take several messages that go well together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeGuard, TypeVar

__all__ = ["Mailbox"]

M = TypeVar("M")
T = TypeVar("T")


class Mailbox(Generic[M]):
    """Messages in the order in which they came. Any thread may put, one thread takes."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[M] = SimpleQueue()
        # Taken out of the queue, but not by whoever takes the next message.
        self._held: deque[M] = deque()

    def put(self, message: M) -> None:
        """Add a message; never blocks."""
        self._inbox.put(message)

    def is_empty(self) -> bool:
        """Say whether :meth:`get` would wait."""
        return not self._held and self._inbox.empty()

    def get(self) -> M:
        """Take the next message; wait for one if there is none."""
        return self._held.popleft() if self._held else self._inbox.get()

    def take_while(self, fits: Callable[[M], TypeGuard[T]]) -> list[T]:
        """Take messages from the front as long as they fit and there are some."""
        taken: list[T] = []
        while True:
            message = self._poll()
            if message is None:
                return taken
            if not fits(message):
                self._held.appendleft(message)
                return taken
            taken.append(message)

    def take_among(self, fits: Callable[[M], TypeGuard[T]], passes: Callable[[M], bool]) -> list[T]:
        """Take what fits among the messages that are there; the others keep their order.

        Args:
            fits: Says of a message whether to take it.
            passes: Says of another one whether messages behind it may be taken before it.
        """
        taken: list[T] = []
        passed: list[M] = []
        while True:
            message = self._poll()
            if message is None:
                break
            if fits(message):
                taken.append(message)
                continue
            passed.append(message)
            if not passes(message):
                break
        self._held.extendleft(reversed(passed))
        return taken

    def _poll(self) -> M | None:
        if self._held:
            return self._held.popleft()
        try:
            return self._inbox.get_nowait()
        except Empty:
            return None
