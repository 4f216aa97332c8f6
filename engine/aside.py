"""Micro-batches put aside, so that those who look at event times do so for several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa

__all__ = ["Aside", "SetAside"]

# Four micro-batches of 65,536 rows: with twice as many, partitions run out of work meanwhile.
_ROWS_MAX = 1 << 18


@dataclass(slots=True, eq=False)
class SetAside:
    """A micro-batch that the job has let in, and that nobody has looked at.

    Attributes:
        stream: Its stream.
        batch: Its rows.
        source_partition: Partition of the source that it comes from.
        n_bytes: Its bytes.
        seen_at: Time on the clock at which it came.
        is_aside: Whether it has been put aside, so that nobody else is to do anything about it.
    """

    stream: str
    batch: pa.RecordBatch
    source_partition: int
    n_bytes: int
    seen_at: float
    is_aside: bool = False


class Aside:
    """Micro-batches that have been put aside, in the order in which they came.

    A thread that gives up the interpreter's lock to look through event times waits longer to have
    it back than it has looked, where several partitions are at work. Put aside, several are looked
    through at once, by whoever pushes one too many or by a partition that has nothing to do.

    Any thread may put something there. It is taken out under the intake's lock, and counts until
    it has been dealt out.

    Args:
        streams: Names of all streams.

    Attributes:
        rows_added: Rows of each stream that have ever been put aside.
    """

    def __init__(self, streams: Iterable[str]) -> None:
        self.rows_added = dict.fromkeys(streams, 0)
        self._lock = threading.Lock()
        self._batches: list[SetAside] = []
        self._rows = 0
        self._bytes = 0
        self._is_closed = False

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, one: SetAside, fits: Callable[[int, int, bool], bool]) -> bool:
        """Put a micro-batch aside.

        Args:
            one: The micro-batch.
            fits: Says whether there is room for so many rows and bytes, those that are aside among
                them, wherever they go; and is told whether they are those of one micro-batch.

        Returns:
            False if there is no room for it, or nothing is taken any more.
        """
        with self._lock:
            n_rows, n_bytes = self._rows + one.batch.num_rows, self._bytes + one.n_bytes
            is_alone = self._rows == 0
            has_room = is_alone or n_rows <= _ROWS_MAX
            if self._is_closed or not has_room or not fits(n_rows, n_bytes, is_alone):
                return False
            # Up to the call of append there is none by which an interrupt could come between.
            self.rows_added[one.stream] += one.batch.num_rows
            one.is_aside = True
            self._rows, self._bytes = n_rows, n_bytes
            self._batches.append(one)
            return True

    def take_all(self) -> Iterator[list[SetAside]]:
        """Take all out; those that follow each other in the event time of one source together."""
        with self._lock:
            batches, self._batches = self._batches, []
        for _, some in groupby(batches, lambda one: (one.stream, one.source_partition)):
            yield list(some)

    def dealt(self, one: SetAside) -> None:
        """Give the room of a micro-batch back: it has been dealt out."""
        with self._lock:
            self._rows -= one.batch.num_rows
            self._bytes -= one.n_bytes

    def close(self) -> None:
        """Let nothing be put aside any more."""
        with self._lock:
            self._is_closed = True
