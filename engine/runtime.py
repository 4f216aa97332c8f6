"""The runtime of a job: numbers what comes in, deals it out, and knows when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import pyarrow as pa

from millstream.engine.build import PlanShape, build_pipelines, plan_shape
from millstream.engine.config import SessionConfig
from millstream.engine.durations import nanoseconds_per, time_unit
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END, WatermarkTracker
from millstream.engine.failures import describe_failure
from millstream.engine.in_flight import InFlight
from millstream.engine.late_rows import LateRows, late_schema, with_row_numbers
from millstream.engine.latency import LatencyHistogram
from millstream.engine.operators.base import Counters
from millstream.engine.operators.registry import OperatorContext
from millstream.engine.operators.windowing import WindowGrid
from millstream.engine.partition import Partition
from millstream.engine.pipeline import SinkLink
from millstream.engine.sinks import Sink
from millstream.engine.stats import JobStats, PartitionStats
from millstream.engine.step import AtHand, Contribution, SourceItem, Step, watermark_at
from millstream.errors import JobFailed, SourceError
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import Node

__all__ = ["Runtime"]

State: TypeAlias = Literal["running", "finished", "cancelled", "failed"]


class Runtime:
    """Partitions of a job and the order of what they get.

    Args:
        name: Name of the job.
        root: Distributed plan.
        streams: Streams that the plan reads.
        tables: Contents of the session's tables by name.
        functions: User-defined DataFusion functions by name.
        sinks: One per partition.
        late_sinks: Per partition, the sinks for late rows by stream.
        config: Of the session.
    """

    def __init__(
        self,
        *,
        name: str,
        root: Node,
        streams: Sequence[StreamDefinition],
        tables: Mapping[str, pa.Table],
        functions: Mapping[str, object],
        sinks: Sequence[Sink],
        late_sinks: Sequence[Mapping[str, Sink]],
        config: SessionConfig,
    ) -> None:
        self._root = root
        self._config = config
        self._tables, self._functions = dict(tables), dict(functions)
        self._streams = {stream.name: stream for stream in streams}
        self._trackers = {stream.name: WatermarkTracker(stream, config.clock) for stream in streams}
        self._may_idle = any(stream.idle_timeout_seconds is not None for stream in streams)
        self._unit_ns = {stream.name: _unit_nanoseconds(stream) for stream in streams}
        self._n_partitions = len(sinks)
        self._shape: PlanShape = plan_shape(root)
        self._grids = [
            (WindowGrid(window, lateness), lateness, bounds)
            for window, lateness, bounds in self._shape.windows
        ]
        self._closed_below: tuple[int, ...] = ()
        self.in_flight = InFlight(
            config.inbox_rows_max * self._n_partitions, config.inbox_bytes_max * self._n_partitions
        )
        self._lock = threading.Lock()
        self._ack_lock = threading.Lock()
        self._latency = LatencyHistogram()
        self._n_batches = 0
        self._n_steps = 0
        self._turn = 0
        self.state: State = "running"
        self._error: JobFailed | None = None
        self._wants_late_rows = {stream for by_stream in late_sinks for stream in by_stream}
        self._partitions = [
            self._partition(index, name, sink, late)
            for index, (sink, late) in enumerate(zip(sinks, late_sinks, strict=True))
        ]
        self._open(sinks, late_sinks)
        readers = self._partitions[0].pipelines.sources
        self._n_readers = {
            stream: sum(source.stream == stream for source in readers) for stream in self._streams
        }
        for partition in self._partitions:
            partition.start()

    def _partition(
        self, index: int, name: str, sink: Sink, late_sinks: Mapping[str, Sink]
    ) -> Partition:
        counters, at_hand = Counters(), AtHand()
        late_rows = LateRows(late_sinks, self._streams, at_hand) if late_sinks else None

        def post(receiver: int, contribution: Contribution) -> None:
            self._partitions[receiver].post(contribution)

        context = OperatorContext(
            partition=index,
            counters=counters,
            at_hand=at_hand,
            is_deferred=self._shape.is_deferred,
            functions=self._functions,
            changelog=None,
            late_rows=late_rows,
        )
        pipelines = build_pipelines(
            self._root,
            SinkLink(sink, len(self._root.schema), counters, self._acknowledge),
            context,
            streams=self._streams,
            tables=self._tables,
            n_partitions=self._n_partitions,
            post=post,
        )
        return Partition(
            index,
            pipelines,
            sink,
            late_rows,
            counters,
            at_hand,
            on_error=self._fail,
            on_mapped=self._acknowledge,
            name=name,
        )

    def _open(self, sinks: Sequence[Sink], late_sinks: Sequence[Mapping[str, Sink]]) -> None:
        opened: list[Sink] = []
        schemas = {name: late_schema(self._streams[name]) for name in self._wants_late_rows}
        try:
            for index, (sink, late) in enumerate(zip(sinks, late_sinks, strict=True)):
                sink.open(index, self._root.schema)
                opened.append(sink)
                for name, late_sink in late.items():
                    late_sink.open(index, schemas[name])
                    opened.append(late_sink)
        except BaseException:
            for done in opened:
                done.abort()
            raise

    def push(
        self,
        stream: str,
        batch: pa.RecordBatch,
        source_partition: int,
        timeout_seconds: float | None,
    ) -> bool:
        """Take in one micro-batch, waiting for room.

        Returns:
            False if the time ran out; the batch has not been taken then.
        """
        n_rows = batch.num_rows * self._n_readers[stream]
        n_bytes = batch.nbytes
        self.check_running()
        if not self.in_flight.enter(n_rows, n_bytes, timeout_seconds):
            self.check_running()
            return False
        with self._lock:
            try:
                self.check_running()
                observed = self._trackers[stream].observe(batch, source_partition)
            except BaseException:
                self.in_flight.withdraw(n_rows, n_bytes)
                raise
            taken = observed.batch
            if stream in self._wants_late_rows and taken.num_columns > batch.num_columns:
                taken = with_row_numbers(taken)
            item = self._item(stream, taken, n_rows, n_bytes)
            self._n_batches += 1
            if not self._shape.is_deferred:
                self._add_step(item, is_final=False)
            self._choose().post_item(item)
            if self._shape.is_deferred and self._closes_windows():
                self._broadcast(is_final=False)
        return True

    def advance_watermark(self, stream: str, watermark: int) -> None:
        """Raise the watermark of a stream."""
        self.check_running()
        with self._lock:
            self._trackers[stream].advance(watermark)
            self._end_step(is_final=False)

    def replace_table(self, name: str, table: pa.Table) -> None:
        """Use other contents of a table for what is pushed from now on."""
        with self._lock:
            self._tables = {**self._tables, name: table}

    def finish(self) -> None:
        """End the input, wait until everything is at the sinks, close them and end the threads."""
        with self._lock:
            if self.state == "running":
                for tracker in self._trackers.values():
                    tracker.watermark = WATERMARK_END
                self._end_step(is_final=True)
                self._set_state("finished")
            elif self.state != "failed":
                return
        self.in_flight.wait_empty()
        self._raise_failure()
        for partition in self._partitions:
            partition.close()
        for partition in self._partitions:
            partition.join(None)
        self._raise_failure()

    def cancel(self) -> None:
        """Stop without flushing; what was written stays, what is open is dropped."""
        self._set_state("cancelled")
        self._stop()

    def check_running(self) -> None:
        """Raise unless the job takes input.

        Raises:
            JobFailed: If it failed.
            SourceError: If it was finished or cancelled.
        """
        if self.state == "running":
            return
        self._raise_failure()
        raise SourceError(f"the job is {self.state} and takes no more input")

    def stats(self) -> JobStats:
        """Return what has been counted so far."""
        partitions = tuple(self._partition_stats(partition) for partition in self._partitions)
        rows_late = sum(part.rows_late for part in partitions)
        rows_dead = sum(part.rows_dead_lettered for part in partitions)
        rows_in, rows_done = self.in_flight.snapshot()
        # A row that was found late just now may belong to a micro-batch that is still under way.
        rows_processed = max(rows_done - rows_late - rows_dead, 0)
        return JobStats(
            state=self.state,
            rows_in=rows_in,
            rows_processed=rows_processed,
            rows_late=rows_late,
            rows_dead_lettered=rows_dead,
            rows_waiting=rows_in - rows_processed - rows_late - rows_dead,
            rows_out=sum(part.rows_out for part in partitions),
            watermarks={
                name: None if tracker.watermark == NO_WATERMARK else tracker.watermark
                for name, tracker in self._trackers.items()
            },
            latency_p50_us=self._latency.quantile_us(0.5),
            latency_p95_us=self._latency.quantile_us(0.95),
            latency_p99_us=self._latency.quantile_us(0.99),
            partitions=partitions,
        )

    @staticmethod
    def _partition_stats(partition: Partition) -> PartitionStats:
        counters = partition.counters
        operators = partition.pipelines.operators
        return PartitionStats(
            partition=partition.index,
            rows_in=counters.rows_in,
            batches_in=counters.batches_in,
            bytes_in=counters.bytes_in,
            rows_queued=max(partition.rows_queued, 0),
            rows_late=counters.rows_late,
            rows_dead_lettered=counters.rows_dead_lettered,
            rows_out=counters.rows_out,
            batches_out=counters.batches_out,
            state_rows=sum(operator.state_rows for operator in operators),
            state_bytes=sum(operator.state_bytes for operator in operators),
        )

    def _item(
        self, stream: str, batch: pa.RecordBatch | None, n_rows: int, n_bytes: int
    ) -> SourceItem:
        number = -1 if batch is None else self._n_batches
        now = time.perf_counter_ns()
        watermarks = self._watermarks()
        return SourceItem(
            number, stream, batch, None, now, self._tables, watermarks, n_rows, n_bytes
        )

    def _add_step(self, item: SourceItem, *, is_final: bool) -> None:
        n_sources = self._n_partitions if self._shape.is_deferred else 1
        item.step = Step(self._n_steps, item.watermarks, is_final, n_sources)
        item.n_waiting = self._n_partitions if self._shape.reaches_all else 1
        self._n_steps += 1

    def _watermarks(self) -> dict[str, int]:
        """Return the watermark of each stream, after moving idle ones up to the others."""
        if self._may_idle and len(self._trackers) > 1:
            self._lift_idle_streams()
        return {name: tracker.watermark for name, tracker in self._trackers.items()}

    def _lift_idle_streams(self) -> None:
        idle = [name for name, tracker in self._trackers.items() if tracker.is_idle()]
        active = [
            self._trackers[name].watermark * self._unit_ns[name]
            for name, stream in self._streams.items()
            if name not in idle and stream.event_time is not None
        ]
        if not active or min(active) <= NO_WATERMARK:
            return
        for name in idle:
            tracker = self._trackers[name]
            # Lifting the stream itself makes its rows late if it comes back with older ones.
            tracker.watermark = max(tracker.watermark, min(active) // self._unit_ns[name])

    def _closes_windows(self) -> bool:
        """Say whether the watermarks have passed the end of a window since this was last asked."""
        step = Step(0, self._watermarks(), False, 0)
        closed_below = tuple(
            grid.closed_below(watermark_at(step, bounds), late)
            for grid, lateness, bounds in self._grids
            for late in {0, lateness}
        )
        if closed_below == self._closed_below:
            return False
        self._closed_below = closed_below
        return True

    def _end_step(self, *, is_final: bool) -> None:
        if self._shape.is_deferred:
            self._broadcast(is_final=is_final)
            return
        item = self._item("", None, 0, 0)
        self._add_step(item, is_final=is_final)
        self.in_flight.force()
        self._partitions[self._turn].post_item(item)

    def _broadcast(self, *, is_final: bool) -> None:
        item = self._item("", None, 0, 0)
        self._add_step(item, is_final=is_final)
        self.in_flight.force()
        for partition in self._partitions:
            partition.post_item(item)

    def _choose(self) -> Partition:
        """Return the partition for a micro-batch: the last one, unless it still has work."""
        if self._partitions[self._turn].rows_pending > 0:
            # Ties go to the next in turn, so that a steady load is dealt out evenly.
            order = [
                (self._turn + step) % self._n_partitions
                for step in range(1, self._n_partitions + 1)
            ]
            self._turn = min(order, key=lambda index: self._partitions[index].rows_pending)
        return self._partitions[self._turn]

    def _acknowledge(self, item: SourceItem) -> None:
        with self._ack_lock:
            item.n_waiting -= 1
            if item.n_waiting > 0:
                return
            if item.batch is not None:
                self._latency.record(time.perf_counter_ns() - item.pushed_at_ns)
        self.in_flight.leave(item.n_rows, item.n_bytes)

    def _fail(self, error: BaseException, item: SourceItem | None, partition: int) -> None:
        failure = describe_failure(
            error, item, partition, self._root, self._tables, self._functions
        )
        with self._ack_lock:
            if self._error is None and self.state != "cancelled":
                self._error = failure
                self.state = "failed"
        self._stop_threads()

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    def _set_state(self, state: State) -> None:
        with self._ack_lock:
            if self.state == "running":
                self.state = state

    def _stop_threads(self) -> None:
        self.in_flight.close()
        for partition in self._partitions:
            partition.stop()

    def _stop(self) -> None:
        self._stop_threads()
        deadline = time.monotonic() + self._config.stop_timeout_seconds
        for partition in self._partitions:
            partition.join(max(0.0, deadline - time.monotonic()))


def _unit_nanoseconds(stream: StreamDefinition) -> int:
    """Return the length of a stream's unit of event time; integers count as nanoseconds."""
    if stream.event_time is None:
        return 1
    unit = time_unit(stream.schema.field(stream.event_time).type)
    return 1 if unit == "integer" else nanoseconds_per(unit)
