"""The intake of a job: numbers micro-batches and steps, follows event time, deals rows out.

Whatever comes in passes through here one after the other, so that a job sees one order of its
input, however many threads push.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import pyarrow as pa

from millstream.engine.aside import Aside, SetAside
from millstream.engine.batch_size import BatchSizer
from millstream.engine.closings import Closings
from millstream.engine.deadline import Deadline
from millstream.engine.event_time import (
    FEW_ROWS,
    WATERMARK_END,
    Observation,
    WatermarkTracker,
)
from millstream.engine.flow_control import FlowControl
from millstream.engine.late_rows import with_row_numbers
from millstream.engine.partition import Partition, RowsPending
from millstream.engine.plan_shape import PlanShape
from millstream.engine.row_order import with_arrival
from millstream.engine.step import SourceItem, Step
from millstream.engine.strategies import PartitioningStrategy, is_ours
from millstream.engine.stream_watermarks import StreamWatermarks
from millstream.engine.window_ends import WindowEnds
from millstream.errors import SourceError
from millstream.planner.catalog import StreamDefinition

__all__ = ["Intake"]

# A batch whose partition has no room is offered to the strategy again after this time at most,
# since by then another partition may be the better choice.
_RETRY_SECONDS = 0.01

# Slices of a micro-batch, each with the partition that it goes to.
_Parts: TypeAlias = Sequence[tuple[int, pa.RecordBatch]]


class Intake:
    """Takes in micro-batches and posts them to partitions.

    Args:
        streams: Streams of the plan.
        shape: Of the distributed plan.
        strategy: Deals micro-batches to partitions.
        partitions: All of the job.
        flow: Bounds what is under way.
        tables: Contents of the session's tables by name.
        wants_late_rows: Streams whose late rows go to a side output.
        check_running: Raises unless the job takes input.
        on_broken: Takes the error if one interrupts the dealing of a batch, so that part of it is
            under way.
        clock: Seconds of a clock that never goes back.
        is_bounded: Whether nobody sees results before the input has ended.

    Attributes:
        lock: Held by whoever brings something in.
        trackers: Follow the event time of each stream.
        n_readers: In how many places the plan reads each stream.
        taken_at: Time on the clock at which rows of each stream were last taken.
        started_at: Time on the clock at which the job began.
    """

    def __init__(
        self,
        *,
        streams: Sequence[StreamDefinition],
        shape: PlanShape,
        strategy: PartitioningStrategy,
        partitions: Sequence[Partition],
        flow: FlowControl,
        tables: Mapping[str, pa.Table],
        wants_late_rows: frozenset[str],
        check_running: Callable[[], None],
        on_broken: Callable[[BaseException], None],
        clock: Callable[[], float],
        is_bounded: bool,
    ) -> None:
        self._shape = shape
        self._strategy = strategy
        self._partitions = partitions
        self._flow = flow
        self._in_flight = flow.in_flight
        self._tables = dict(tables)
        self._wants_late_rows = wants_late_rows
        self._check_running = check_running
        self._on_broken = on_broken
        self._clock = clock
        self.started_at = clock()
        self._sizers = {stream.name: BatchSizer(stream.schema) for stream in streams}
        self._rows_dealt = {stream.name: 0 for stream in streams}
        self.taken_at: dict[str, float] = {}
        self.trackers = {stream.name: WatermarkTracker(stream, clock) for stream in streams}
        self._watermarks = StreamWatermarks(streams, self.trackers)
        self._closings = Closings(
            WindowEnds(shape.windows),
            may_wait=shape.may_close_later,
            n_under_way=lambda: flow.in_flight.steps,
            is_bounded=is_bounded,
            n_partitions=len(partitions),
            queue_rows=flow.limits.rows,
        )
        self._everyone = range(len(partitions))
        self._queues = RowsPending(partitions)
        self._is_strategy_ours = is_ours(strategy)
        # By when a stream has brought rows, others are judged; a user's strategy has its thread.
        self._may_put_aside = self._is_strategy_ours and not self._watermarks.may_idle
        self._aside = Aside(stream.name for stream in streams)
        sources = partitions[0].pipelines.sources
        self.n_readers = {
            stream.name: sum(source.stream == stream.name for source in sources)
            for stream in streams
        }
        self._n_batches = 0
        self._n_parts = 0
        self._n_rows = 0
        self._n_steps = 0
        self.lock = threading.Lock()

    @property
    def rows_taken(self) -> dict[str, int]:
        """Rows taken so far by stream, once for each place where the plan reads them."""
        return {
            name: (n_dealt + self._aside.rows_added[name]) * self.n_readers[name]
            for name, n_dealt in self._rows_dealt.items()
        }

    def push(
        self,
        stream: str,
        batch: pa.RecordBatch,
        source_partition: int,
        deadline: Deadline,
    ) -> bool:
        """Take in one micro-batch, waiting for room.

        Returns:
            False if the time ran out; the batch has not been taken then.
        """
        n_rows = batch.num_rows * self.n_readers[stream]
        n_bytes = self._sizers[stream].size(batch)
        if not self._in_flight.enter(n_rows, n_bytes, deadline.remaining()):
            self._check_running()
            return False
        one: SetAside | None = None
        owners: Sequence[int]
        try:
            if self._may_wait(stream, batch, source_partition):
                one = SetAside(stream, batch, source_partition, n_bytes, self._clock())
            if one is not None and self._put_aside(one):
                owners = self._everyone
            else:
                owners = self._take(stream, batch, source_partition, n_bytes, deadline)
        except BaseException:
            # What is aside will be dealt out, though an interrupt comes now.
            if one is None or not one.is_aside:
                self._in_flight.withdraw(n_rows, n_bytes)
            raise
        if not owners:
            self._in_flight.withdraw(n_rows, n_bytes)
            self._check_running()
            return False
        self._flow.admitted(owners, n_rows, deadline)
        return True

    def look_ahead(
        self, stream: str, batches: Sequence[pa.RecordBatch], source_partition: int
    ) -> None:
        """Look at micro-batches, none of them empty, that will be pushed one after the other."""
        if len(batches) < 2:
            return
        self.catch_up()
        with self.lock:
            self.trackers[stream].look_ahead(batches, source_partition)

    def check_times(self, stream: str, batches: Sequence[pa.RecordBatch]) -> None:
        """Refuse micro-batches with event times that are none.

        Raises:
            SchemaError: An event time of some batch is NULL, or beyond int64.
        """
        self.trackers[stream].check_times(batches)

    def advance_watermark(self, stream: str, watermark: int) -> None:
        """Raise the watermark of a stream, waiting for room."""
        self._check_running()
        self.catch_up()
        if not self._in_flight.enter_step():
            self._check_running()
        with self.lock:
            try:
                self._check_running()
                self.trackers[stream].advance(watermark)
            except BaseException:
                self._in_flight.leave_step()
                raise
            watermarks = self._watermarks.of_all()
            self._closings.are_closed(watermarks)
            self._end_step(watermarks, is_final=False)

    def replace_table(self, name: str, table: pa.Table) -> None:
        """Use other contents of a table for what is pushed from now on."""
        self.catch_up()
        with self.lock:
            self._tables = {**self._tables, name: table}

    def end(self) -> None:
        """Post the last step: the input has ended. The caller holds the lock."""
        self._aside.close()
        self._deal_aside()
        for tracker in self.trackers.values():
            tracker.watermark = WATERMARK_END
        watermarks = self._watermarks.of_all()
        self._closings.are_closed(watermarks)
        self._in_flight.force_step()
        self._end_step(watermarks, is_final=True)

    def ran_dry(self, partition: int) -> None:
        """Deal out what has been put aside. Called by a partition that has nothing to do."""
        if self._aside:
            self._partitions[partition].is_idle = False
            self.catch_up()

    def catch_up(self, *, blocking: bool = True) -> None:
        """Deal out what has been put aside so far, after which nobody can tell that it was.

        The caller holds no lock, unless it does not want to wait.

        Args:
            blocking: Whether to wait for whoever brings something in at the moment.
        """
        # Where it is held, the one who asks may be the one who holds it.
        if not self._aside or (not blocking and self.lock.locked()):
            return
        with self.lock:
            self._deal_aside()
        self._flow.observe(self._everyone)

    def step_done(self) -> None:
        """Close windows that have waited for a step under way; one is done."""
        if not self._closings.wait_for_steps:
            return
        with self.lock:
            watermarks = self._watermarks.of_all()
            if self._closings.are_due(watermarks):
                self._in_flight.force_step()
                self._end_step(watermarks, is_final=False)

    def _may_wait(self, stream: str, batch: pa.RecordBatch, source_partition: int) -> bool:
        """Say whether a batch is better looked at with others, or by another thread."""
        tracker = self.trackers[stream]
        if not self._may_put_aside or not tracker.can_wait(batch, source_partition):
            return False
        if batch.num_rows <= FEW_ROWS:
            return not any(partition.is_idle for partition in self._partitions)
        # The only partition would look at them itself, while whoever pushes has time to.
        return len(self._partitions) > 1

    def _put_aside(self, one: SetAside) -> bool:
        """Put a batch aside for which the job has room; say whether there was room for it there."""
        if not self._aside.add(one, self._fits_anywhere):
            self.catch_up()
            if not self._aside.add(one, self._fits_anywhere):
                return False
        self.taken_at[one.stream] = one.seen_at
        # After putting it there: who is done says so before looking whether there is something.
        for partition in self._partitions:
            if partition.is_idle:
                # All of them, since one may have got something else to do just now.
                partition.wake()
        return True

    def _fits_anywhere(self, n_rows: int, n_bytes: int, is_alone: bool) -> bool:
        """Say whether each partition has room for so much, which one of them may get."""
        # No stream is read more often than all of them.
        n_rows *= max(self.n_readers.values())
        limits = self._flow.limits
        if not is_alone and (n_rows > limits.rows or n_bytes > limits.bytes):
            # One micro-batch fits into an empty queue whatever its size, but not several.
            return False
        return all(self._flow.fits(owner, n_rows, n_bytes) for owner in self._everyone)

    def _deal_aside(self) -> bool:
        """Deal out what has been put aside; there was room for it then. The caller holds the lock.

        Nothing in it can be refused any more.

        Returns:
            Whether there was something.
        """
        if not self._aside:
            return False
        try:
            for some in self._aside.take_all():
                tracker = self.trackers[some[0].stream]
                tracker.look_ahead([one.batch for one in some], some[0].source_partition)
                for one in some:
                    self._deal_one(one)
        except BaseException as error:
            # Those who have pushed it believe that it is taken.
            self._on_broken(error)
            raise
        return True

    def _deal_one(self, one: SetAside) -> None:
        tracker, source_partition = self.trackers[one.stream], one.source_partition
        observed = tracker.observe(one.batch, source_partition, one.seen_at)
        carried = self._carried(one.stream, one.batch, observed)
        parts = self._route(one.stream, carried, source_partition)
        self._deal(one.stream, parts, observed, one.n_bytes)
        self._aside.dealt(one)

    def _take(
        self,
        stream: str,
        batch: pa.RecordBatch,
        source_partition: int,
        n_bytes: int,
        deadline: Deadline,
    ) -> Sequence[int]:
        """Deal out a batch for which the job has room, as soon as its partition has room as well.

        Returns:
            The partitions that got it or what was aside; none if the time ran out.
        """
        n_readers, tracker = self.n_readers[stream], self.trackers[stream]
        has_dealt = False
        while True:
            with self.lock:
                self._check_running()
                has_dealt = self._deal_aside() or has_dealt
                observed = tracker.observe(batch, source_partition)
                parts = self._route(
                    stream, self._carried(stream, batch, observed), source_partition
                )
                full = self._full(parts, n_readers, n_bytes)
                if full is None:
                    self.taken_at[stream] = observed.seen_at
                    # Before dealing them out, so that never more are done than were taken.
                    self._rows_dealt[stream] += batch.num_rows
                    self._deal(stream, parts, observed, n_bytes)
                    return self._everyone if has_dealt else [owner for owner, _ in parts]
            owner, rows = full
            fits = partial(self._flow.fits, owner, rows.num_rows * n_readers, n_bytes)
            self._in_flight.wait(fits, deadline.within(_RETRY_SECONDS))
            if deadline.is_over:
                return []

    def _carried(self, stream: str, batch: pa.RecordBatch, observed: Observation) -> pa.RecordBatch:
        """Return an observed batch with all that is carried along with its rows."""
        carried = observed.batch
        if carried is not batch and stream in self._wants_late_rows:
            carried = with_row_numbers(carried)
        return with_arrival(carried, self._n_rows) if self._shape.numbers_rows else carried

    def _full(
        self, parts: _Parts, n_readers: int, n_bytes: int
    ) -> tuple[int, pa.RecordBatch] | None:
        """Return the first part whose partition has no room for it, or None."""
        for owner, rows in parts:
            if not self._flow.fits(owner, rows.num_rows * n_readers, n_bytes):
                return owner, rows
        return None

    def _route(self, stream: str, batch: pa.RecordBatch, source_partition: int) -> _Parts:
        """Let the strategy choose, and check that it neither loses nor invents rows."""
        # A strategy of the user's gets numbers that stay as they are while it looks at them.
        pending: Sequence[int] = self._queues
        if not self._is_strategy_ours:
            pending = [partition.rows_pending for partition in self._partitions]
        route = self._strategy.route(stream, batch, source_partition, pending)
        n_partitions = len(self._partitions)
        if isinstance(route, int):
            if 0 <= route < n_partitions:
                return [(route, batch)]
            parts = [(route, batch)]
        else:
            parts = [(index, rows) for index, rows in route if rows.num_rows > 0]
        n_routed = sum(rows.num_rows for _, rows in parts)
        if n_routed != batch.num_rows or any(not 0 <= i < n_partitions for i, _ in parts):
            raise SourceError(
                f"strategy {self._strategy.name} must route each of {batch.num_rows} rows to one of"
                f" {n_partitions} partitions: it routed {n_routed} rows to"
                f" {sorted({index for index, _ in parts})}"
            )
        return parts

    def _deal(self, stream: str, parts: _Parts, observed: Observation, n_bytes: int) -> None:
        """Take a batch: post its parts, and the step that follows if one is due.

        Args:
            stream: Stream of the batch.
            parts: Slices of the batch with the partition of each, or the whole with its own.
            observed: What the batch has done to the event time of the stream.
            n_bytes: Bytes of the batch.
        """
        tracker = self.trackers[stream]
        before = tracker.watermark
        tracker.take(observed)
        n_rows = sum(rows.num_rows for _, rows in parts)
        self._n_rows += n_rows
        try:
            watermarks = self._watermarks.of_all()
            self._post_parts(stream, parts, observed, before, watermarks, n_bytes)
            if self._shape.pace == "deferred" and self._closings.are_due(watermarks, n_rows):
                self._in_flight.force_step()
                self._end_step(watermarks, is_final=False)
        except BaseException as error:
            # Some of it may be under way, so that nothing can be taken back any more.
            self._on_broken(error)
            raise

    def _post_parts(
        self,
        stream: str,
        parts: _Parts,
        observed: Observation,
        before: int,
        watermarks: Mapping[str, int],
        n_bytes: int,
    ) -> None:
        n_readers, pushed_at_ns = self.n_readers[stream], int(observed.seen_at * 1e9)
        bounds = observed.bounds
        if bounds is not None and not self._is_strategy_ours:
            # Who knows in which order a strategy of the user's gives the rows.
            bounds = bounds._replace(do_ascend=False)
        for number, (owner, rows) in enumerate(parts):
            if number > 0:
                self._in_flight.force()
            n_rows = rows.num_rows * n_readers
            is_last = number == len(parts) - 1
            # A batch moves the watermark when all of its rows are in, so with its last part.
            reached = watermarks if is_last else {**watermarks, stream: before}
            is_step = self._shape.pace != "deferred"
            # By position, which takes less than half of the time that names take.
            item = SourceItem(
                self._n_batches,
                stream,
                rows,
                self._step(reached, is_final=False) if is_step else None,
                pushed_at_ns,
                self._tables,
                reached,
                owner,
                n_rows,
                # The bytes of the whole are given back with its last slice.
                n_bytes if is_last else 0,
                bounds,
                self._n_parts,
            )
            self._n_parts += 1
            self._post(item)
        self._n_batches += 1

    def _end_step(self, watermarks: Mapping[str, int], *, is_final: bool) -> None:
        """Post a step without a micro-batch, which has been let in."""
        step = self._step(watermarks, is_final=is_final)
        pushed_at_ns = int(self._clock() * 1e9)
        self._post(SourceItem(-1, "", None, step, pushed_at_ns, self._tables, watermarks))

    def _step(self, watermarks: Mapping[str, int], *, is_final: bool) -> Step:
        begins_everywhere = self._shape.pace in ("broadcast", "deferred")
        n_sources = len(self._partitions) if begins_everywhere else 1
        step = Step(self._n_steps, watermarks, is_final, n_sources)
        self._n_steps += 1
        return step

    def _post(self, item: SourceItem) -> None:
        step, partitions = item.step, self._partitions
        reaches_all = step is not None and self._shape.reaches_all
        self._flow.backlog.open(item, range(len(partitions)) if reaches_all else (item.owner,))
        if step is None or step.n_sources == 1:
            partitions[item.owner].post_item(item)
            return
        for partition in partitions:
            partition.post_item(item)
