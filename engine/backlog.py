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
                self._add(partition, item, 1)

    def hold(self, item: SourceItem, partition: int) -> None:
        """Note that a partition has one more part in an item, which is open."""
        with self._lock:
            n_parts = item.parts_left.get(partition, 0)
            item.parts_left[partition] = n_parts + 1
            if n_parts == 0:
                self._add(partition, item, 1)

    def done(self, items: Sequence[SourceItem], partition: int) -> list[SourceItem]:
        """Note that a partition has done a part of each item; return those that are complete."""
        with self._lock:
            return [item for item in items if self._is_complete_after(item, partition)]

    def _is_complete_after(self, item: SourceItem, partition: int) -> bool:
        n_parts = item.parts_left[partition] - 1
        if n_parts > 0:
            item.parts_left[partition] = n_parts
            return False
        del item.parts_left[partition]
        self._add(partition, item, -1)
        return not item.parts_left

    def _add(self, partition: int, item: SourceItem, sign: int) -> None:
        self.items[partition] += sign
        if item.batch is None:
            self.steps[partition] += sign
            return
        self.rows[partition] += sign * item.n_rows
        self.bytes[partition] += sign * item.n_bytes
