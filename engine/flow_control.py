"""Flow control: how full a job is, in all and by partition, and what that means for its sources.

A push needs room twice: in the job as a whole, and in the queue of the partition that gets the
batch. Partitions never wait for room, so that whatever is let in can also leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from millstream.engine.backlog import Backlog
from millstream.engine.backpressure import CRITICAL, WARNING, Gauges, Listener, Throttle
from millstream.engine.deadline import Deadline
from millstream.engine.in_flight import InFlight
from millstream.engine.partition import Partition

__all__ = ["FlowControl", "QueueLimits"]

# Micro-batches and steps per partition; the smallest takes a few kilobytes.
_ITEMS_MAX = 1 << 14
# Steps without rows that may be under way. At each of them, what the other partitions know of a
# window may wait in the mailbox of one that is slow.
_STEPS_MAX = 64


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the queue of one partition may hold; the job may hold as much for each partition.

    Attributes:
        rows: Source rows.
        bytes: Bytes of Arrow data.
    """

    rows: int
    bytes: int


class FlowControl:
    """Decides what may come in and how fast.

    Args:
        partitions: Of the job; may still be empty, and is not changed once rows come in.
        n_partitions: How many there will be.
        limits: Of each partition's queue.
        clock: Seconds of a clock that never goes back.
        listener: Is told when the state of a partition's queue changes, or None.
        on_error: Takes what the listener raises, and the partition.

    Attributes:
        limits: Of each partition's queue.
        in_flight: What the job has taken in and not finished.
        backlog: What each partition has still a part in.
        gauges: How full each partition's queue is.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        *,
        n_partitions: int,
        limits: QueueLimits,
        clock: Callable[[], float],
        listener: Listener | None,
        on_error: Callable[[BaseException, int], None],
    ) -> None:
        self._partitions = partitions
        self.limits = limits
        self._total_rows = limits.rows * n_partitions
        self._total_bytes = limits.bytes * n_partitions
        self._total_items = _ITEMS_MAX * n_partitions
        self.in_flight = InFlight(
            self._total_rows, self._total_bytes, _STEPS_MAX, self._total_items
        )
        self.backlog = Backlog(n_partitions)
        self.gauges = Gauges(n_partitions, self.utilization, clock, listener, on_error)
        self._throttle = Throttle(clock)

    def utilization(self, partition: int) -> float:
        """Return how full the queue of a partition is, by the limit that is nearest.

        That is either the partition's own, for what it has not taken up from the source, or the
        job's, for all that the partition has still a part in. Where it reaches 1, sources wait;
        beyond 1 it gets by a single batch that is larger than the limit.
        """
        own, backlog = self._partitions[partition], self.backlog
        return max(
            own.rows_pending / self.limits.rows,
            own.bytes_pending / self.limits.bytes,
            backlog.rows[partition] / self._total_rows,
            backlog.bytes[partition] / self._total_bytes,
            backlog.items[partition] / self._total_items,
            backlog.steps[partition] / _STEPS_MAX,
        )

    def fits(self, partition: int, n_rows: int, n_bytes: int) -> bool:
        """Say whether a batch fits into a partition's queue. Any batch fits into an empty one."""
        own = self._partitions[partition]
        rows, n_bytes_before = own.rows_pending, own.bytes_pending
        if rows <= 0:
            return True
        return rows + n_rows <= self.limits.rows and n_bytes_before + n_bytes <= self.limits.bytes

    def admitted(self, partitions: Iterable[int], n_rows: int, deadline: Deadline) -> None:
        """Note that partitions have got a batch, and hold its source back if queues get too full.

        The caller holds no lock.

        Args:
            partitions: Those that got it.
            n_rows: Rows of the batch.
            deadline: Until when the source may be held back.
        """
        self.observe(partitions)
        utilization = self.in_flight.utilization
        if utilization >= CRITICAL:
            self._pace(utilization, n_rows, deadline)

    def observe(self, partitions: Iterable[int]) -> None:
        """Note that partitions have got something. The caller holds no lock.

        Args:
            partitions: Those that got it.
        """
        if self.gauges.are_healthy and self.in_flight.is_below(WARNING):
            # What the job holds is the most that any backlog can be, so that only the queues which
            # got the batch may have left the first state.
            for partition in partitions:
                if not self._is_below(WARNING, partition):
                    self.gauges.observe(partition)
            return
        # What all partitions have a part in can change the state of each.
        for partition in range(len(self._partitions)):
            self.gauges.observe(partition)

    def progressed(self, partition: int) -> None:
        """Note that a partition is done with something. Called by its thread."""
        self.gauges.relieve(partition)
        self.in_flight.wake()

    def _is_below(self, share: float, partition: int) -> bool:
        """Say whether less than a share of a partition's own limits is taken."""
        own = self._partitions[partition]
        return (
            own.rows_pending < share * self.limits.rows
            and own.bytes_pending < share * self.limits.bytes
        )

    def _pace(self, utilization: float, n_rows: int, deadline: Deadline) -> None:
        delay = self._throttle.delay_seconds(utilization, n_rows, self.in_flight.rows_done)
        if delay > 0.0:
            self.in_flight.pause(deadline.within(delay))
