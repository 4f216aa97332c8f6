"""The intake of a job: numbers micro-batches and steps, follows event time, deals rows out.

Whatever comes in passes through here one after the other, so that a job sees one order of its
input, however many threads push.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pyarrow as pa

from millstream.engine.batch_size import BatchSizer
from millstream.engine.deadline import Deadline
from millstream.engine.durations import nanoseconds_per, time_unit
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END, WatermarkTracker
from millstream.engine.flow_control import FlowControl
from millstream.engine.late_rows import with_row_numbers
from millstream.engine.operators.windowing import WindowGrid
from millstream.engine.partition import Partition
from millstream.engine.plan_shape import PlanShape
from millstream.engine.step import SourceItem, Step, watermark_at
from millstream.engine.strategies import PartitioningStrategy
from millstream.errors import SourceError
from millstream.planner.catalog import StreamDefinition

__all__ = ["Intake"]

# A batch whose partition has no room is offered to the strategy again after this time at most,
# since by then another partition may be the better choice.
_RETRY_SECONDS = 0.01


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

    Attributes:
        lock: Held by whoever brings something in.
        trackers: Follow the event time of each stream.
        n_readers: In how many places the plan reads each stream.
        rows_taken: Rows taken so far by stream, once for each place where the plan reads them.
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
        self.rows_taken = {stream.name: 0 for stream in streams}
        self.taken_at: dict[str, float] = {}
        self.trackers = {stream.name: WatermarkTracker(stream, clock) for stream in streams}
        self._unit_ns = {stream.name: _unit_nanoseconds(stream) for stream in streams}
        self._may_idle = any(stream.idle_timeout_seconds is not None for stream in streams)
        self._timed = [stream.name for stream in streams if stream.event_time is not None]
        self._grids = [
            (WindowGrid(window, lateness), lateness, bounds)
            for window, lateness, bounds in shape.windows
        ]
        self._closed_below: tuple[int, ...] = ()
        sources = partitions[0].pipelines.sources
        self.n_readers = {
            stream.name: sum(source.stream == stream.name for source in sources)
            for stream in streams
        }
        self._n_batches = 0
        self._n_steps = 0
        self.lock = threading.Lock()

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
        self._check_running()
        if not self._in_flight.enter(n_rows, n_bytes, deadline.remaining()):
            self._check_running()
            return False
        try:
            owners = self._take(stream, batch, source_partition, n_bytes, deadline)
        except BaseException:
            self._in_flight.withdraw(n_rows, n_bytes)
            raise
        if not owners:
            self._in_flight.withdraw(n_rows, n_bytes)
            self._check_running()
            return False
        self._flow.admitted(owners, n_rows, deadline)
        return True

    def advance_watermark(self, stream: str, watermark: int) -> None:
        """Raise the watermark of a stream, waiting for room."""
        self._check_running()
        if not self._in_flight.enter_step():
            self._check_running()
        with self.lock:
            try:
                self._check_running()
                self.trackers[stream].advance(watermark)
            except BaseException:
                self._in_flight.leave_step()
                raise
            self._end_step(is_final=False)

    def replace_table(self, name: str, table: pa.Table) -> None:
        """Use other contents of a table for what is pushed from now on."""
        with self.lock:
            self._tables = {**self._tables, name: table}

    def end(self) -> None:
        """Post the last step: the input has ended. The caller holds the lock."""
        for tracker in self.trackers.values():
            tracker.watermark = WATERMARK_END
        self._in_flight.force_step()
        self._end_step(is_final=True)

    def _take(
        self,
        stream: str,
        batch: pa.RecordBatch,
        source_partition: int,
        n_bytes: int,
        deadline: Deadline,
    ) -> list[int]:
        """Deal out a batch for which the job has room, as soon as its partition has room as well.

        Returns:
            The partitions that got it; none if the time ran out.
        """
        n_readers = self.n_readers[stream]
        while True:
            with self.lock:
                self._check_running()
                tracker = self.trackers[stream]
                mark = tracker.mark(source_partition)
                try:
                    parts = self._observe(stream, batch, source_partition)
                    full = self._full(parts, n_readers, n_bytes)
                except BaseException:
                    tracker.reset(mark)
                    raise
                if full is None:
                    self._deal(stream, parts, n_bytes)
                    return [owner for owner, _ in parts]
                tracker.reset(mark)
            owner, rows = full
            fits = partial(self._flow.fits, owner, rows.num_rows * n_readers, n_bytes)
            self._in_flight.wait(fits, deadline.within(_RETRY_SECONDS))
            if deadline.is_over:
                return []

    def _observe(
        self, stream: str, batch: pa.RecordBatch, source_partition: int
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Follow the event time of a batch and choose its partition."""
        observed = self.trackers[stream].observe(batch, source_partition)
        taken = observed.batch
        if stream in self._wants_late_rows and taken.num_columns > batch.num_columns:
            taken = with_row_numbers(taken)
        return self._route(stream, taken, source_partition)

    def _full(
        self, parts: Sequence[tuple[int, pa.RecordBatch]], n_readers: int, n_bytes: int
    ) -> tuple[int, pa.RecordBatch] | None:
        """Return the first part whose partition has no room for it, or None."""
        for owner, rows in parts:
            if not self._flow.fits(owner, rows.num_rows * n_readers, n_bytes):
                return owner, rows
        return None

    def _route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Let the strategy choose, and check that it neither loses nor invents rows."""
        pending = [partition.rows_pending for partition in self._partitions]
        route = self._strategy.route(stream, batch, source_partition, pending)
        if isinstance(route, int):
            parts = [(route, batch)]
        else:
            parts = [(index, rows) for index, rows in route if rows.num_rows > 0]
        n_routed = sum(rows.num_rows for _, rows in parts)
        n_partitions = len(self._partitions)
        if n_routed != batch.num_rows or any(not 0 <= i < n_partitions for i, _ in parts):
            raise SourceError(
                f"strategy {self._strategy.name} must route each of {batch.num_rows} rows to one of"
                f" {n_partitions} partitions: it routed {n_routed} rows to"
                f" {sorted({index for index, _ in parts})}"
            )
        return parts

    def _deal(self, stream: str, parts: Sequence[tuple[int, pa.RecordBatch]], n_bytes: int) -> None:
        """Post the parts of a batch, and the step that follows if one is due."""
        try:
            self._post_parts(stream, parts, n_bytes)
            if self._shape.pace == "deferred" and self._closes_windows():
                self._in_flight.force_step()
                self._end_step(is_final=False)
        except BaseException as error:
            # Some of it may be under way, so that nothing can be taken back any more.
            self._on_broken(error)
            raise

    def _post_parts(
        self, stream: str, parts: Sequence[tuple[int, pa.RecordBatch]], n_bytes: int
    ) -> None:
        self.taken_at[stream] = self._clock()
        for number, (owner, rows) in enumerate(parts):
            item = self._item(stream, rows, owner)
            if number > 0:
                self._in_flight.force()
            if number == len(parts) - 1:
                # The bytes of the whole are given back with its last slice.
                item.n_bytes = n_bytes
            if self._shape.pace != "deferred":
                self._add_step(item, is_final=False)
            self.rows_taken[stream] += item.n_rows
            self._post(item)
        self._n_batches += 1

    def _item(self, stream: str, batch: pa.RecordBatch | None, owner: int) -> SourceItem:
        return SourceItem(
            batch_number=-1 if batch is None else self._n_batches,
            stream=stream,
            batch=batch,
            step=None,
            pushed_at_ns=int(self._clock() * 1e9),
            tables=self._tables,
            watermarks=self._watermarks(),
            owner=owner,
            n_rows=0 if batch is None else batch.num_rows * self.n_readers[stream],
            bounds=None if batch is None else self.trackers[stream].bounds,
        )

    def _add_step(self, item: SourceItem, *, is_final: bool) -> None:
        begins_everywhere = self._shape.pace in ("broadcast", "deferred")
        n_sources = len(self._partitions) if begins_everywhere else 1
        item.step = Step(self._n_steps, item.watermarks, is_final, n_sources)
        self._n_steps += 1

    def _end_step(self, *, is_final: bool) -> None:
        """Post a step without a micro-batch, which has been let in."""
        item = self._item("", None, 0)
        self._add_step(item, is_final=is_final)
        self._post(item)

    def _post(self, item: SourceItem) -> None:
        reaches_all = item.step is not None and self._shape.reaches_all
        parts = range(len(self._partitions)) if reaches_all else (item.owner,)
        self._flow.backlog.open(item, parts)
        if item.step is None or item.step.n_sources == 1:
            self._partitions[item.owner].post_item(item)
            return
        for partition in self._partitions:
            partition.post_item(item)

    def _watermarks(self) -> dict[str, int]:
        """Return the watermark of each stream, after moving idle ones up to the others."""
        if self._may_idle and len(self._timed) > 1:
            self._lift_idle_streams()
        return {name: tracker.watermark for name, tracker in self.trackers.items()}

    def _lift_idle_streams(self) -> None:
        idle = {name for name in self._timed if self.trackers[name].is_idle()}
        active = [self.trackers[name].watermark for name in self._timed if name not in idle]
        if not idle or not active or NO_WATERMARK in active:
            return
        least_ns = min(
            self.trackers[name].watermark * self._unit_ns[name]
            for name in self._timed
            if name not in idle
        )
        for name in idle:
            tracker = self.trackers[name]
            # Lifting the stream itself makes its rows late if it comes back with older ones.
            tracker.watermark = max(tracker.watermark, least_ns // self._unit_ns[name])

    def _closes_windows(self) -> bool:
        """Say whether the watermarks have passed the end of a window since this was last asked."""
        step = Step(0, self._watermarks(), False, 0)
        closed_below = tuple(
            grid.closed_below(watermark_at(step, bounds), late)
            for grid, lateness, bounds in self._grids
            for late in sorted({0, lateness})
        )
        if closed_below == self._closed_below:
            return False
        self._closed_below = closed_below
        return True


def _unit_nanoseconds(stream: StreamDefinition) -> int:
    """Return the length of a stream's unit of event time; integers count as nanoseconds."""
    if stream.event_time is None:
        return 1
    unit = time_unit(stream.schema.field(stream.event_time).type)
    return 1 if unit == "integer" else nanoseconds_per(unit)
