"""The backlog of each partition: the items that it still has a part in."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from millstream.engine.step import SourceItem

__all__ = ["Backlog"]


class Backlog:
    """Knows for which partitions each item waits, and what waits for each partition.

    An item counts once for every partition that has a part in it, with all its rows, until that
    partition has done all its parts. So the backlog of a partition which holds up the job grows to
    all that the job may hold, whatever share of the rows is its own.

    Attributes:
        rows: Source rows by partition.
        bytes: Bytes of Arrow data by partition.
        items: Micro-batches and steps by partition.
        steps: Steps without rows by partition.
    """

    def __init__(self, n_partitions: int) -> None:
        # Reentrant, because the garbage collector may cancel a job in any thread at any place.
        self._lock = threading.RLock()
        self.rows = [0] * n_partitions
        self.bytes = [0] * n_partitions
        self.items = [0] * n_partitions
        self.steps = [0] * n_partitions

    def open(self, item: SourceItem, partitions: Iterable[int]) -> None:
        """Note that some partitions have one part each in a new item."""
        with self._lock:
            item.parts_left = dict.fromkeys(partitions, 1)
            for partition in item.parts_left:
                self._add(partition, item)

    def hold(self, item: SourceItem, partition: int) -> None:
        """Note that a partition has one more part in an item, which is open."""
        with self._lock:
            n_parts = item.parts_left.get(partition, 0)
            item.parts_left[partition] = n_parts + 1
            if n_parts == 0:
                self._add(partition, item)

    def done(self, items: Sequence[SourceItem], partition: int) -> list[SourceItem]:
        """Note that a partition has done a part of each item; return those that are complete."""
        complete = []
        n_done = n_steps = n_rows = n_bytes = 0
        with self._lock:
            for item in items:
                parts_left = item.parts_left
                n_parts = parts_left[partition] - 1
                if n_parts > 0:
                    parts_left[partition] = n_parts
                    continue
                del parts_left[partition]
                n_done += 1
                if item.batch is None:
                    n_steps += 1
                else:
                    n_rows += item.n_rows
                    n_bytes += item.n_bytes
                if not parts_left:
                    complete.append(item)
            self.items[partition] -= n_done
            self.steps[partition] -= n_steps
            self.rows[partition] -= n_rows
            self.bytes[partition] -= n_bytes
        return complete

    def _add(self, partition: int, item: SourceItem) -> None:
        self.items[partition] += 1
        if item.batch is None:
            self.steps[partition] += 1
            return
        self.rows[partition] += item.n_rows
        self.bytes[partition] += item.n_bytes
