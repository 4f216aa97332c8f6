"""The runtime of a job: numbers what comes in, deals it out, and knows when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import pyarrow as pa

from millstream.engine.build import build_pipelines
from millstream.engine.config import SessionConfig
from millstream.engine.event_time import NO_WATERMARK
from millstream.engine.exchange import Mail
from millstream.engine.failures import describe_failure
from millstream.engine.in_flight import InFlight
from millstream.engine.intake import Intake
from millstream.engine.late_rows import LateRows, late_schema
from millstream.engine.latency import LatencyHistogram
from millstream.engine.operators.base import Counters
from millstream.engine.operators.registry import OperatorContext
from millstream.engine.partition import Partition
from millstream.engine.pipeline import SinkLink
from millstream.engine.plan_shape import plan_shape
from millstream.engine.sinks import Sink
from millstream.engine.stats import JobStats, PartitionStats
from millstream.engine.step import AtHand, Contribution, SourceItem
from millstream.engine.strategies import PartitioningStrategy
from millstream.errors import JobFailed, SourceError
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import Node

__all__ = ["Runtime"]

# Steps without rows that may be under way. At each of them, what the other partitions know of a
# window may wait in the mailbox of one that is slow.
_STEPS_MAX = 64

State: TypeAlias = Literal["running", "finished", "cancelled", "failed"]


class Runtime:
    """Partitions of a job, and its life from start to end.

    Args:
        name: Name of the job.
        root: Distributed plan.
        strategy: Deals micro-batches to partitions.
        is_single: Whether the strategy gives all rows to one partition.
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
        strategy: PartitioningStrategy,
        is_single: bool,
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
        self._n_partitions = len(sinks)
        self._shape = plan_shape(root, self._n_partitions, is_single=is_single)
        self._in_flight = InFlight(
            config.inbox_rows_max * self._n_partitions,
            config.inbox_bytes_max * self._n_partitions,
            _STEPS_MAX,
        )
        # Reentrant, because the garbage collector may cancel a job in any thread at any place.
        self._ack_lock = threading.RLock()
        self._latency = LatencyHistogram()
        self.state: State = "running"
        self._is_ending = False
        self._is_closing = False
        self._error: JobFailed | None = None
        self._partitions = [
            self._partition(index, name, sink, late)
            for index, (sink, late) in enumerate(zip(sinks, late_sinks, strict=True))
        ]
        self.intake = Intake(
            streams=streams,
            shape=self._shape,
            strategy=strategy,
            partitions=self._partitions,
            in_flight=self._in_flight,
            tables=tables,
            wants_late_rows=frozenset(stream for late in late_sinks for stream in late),
            check_running=self.check_running,
            clock=config.clock,
        )
        self._open(sinks, late_sinks)
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
            is_deferred=self._shape.pace != "ordered",
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
            mail=Mail(post, self._hold, self._acknowledge),
            is_eager=self._shape.pace == "deferred",
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
            on_closed=self._in_flight.leave_step,
            name=name,
        )

    def _open(self, sinks: Sequence[Sink], late_sinks: Sequence[Mapping[str, Sink]]) -> None:
        opened: list[Sink] = []
        schemas = {name: late_schema(self._streams[name]) for name in late_sinks[0]}
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

    def finish(self) -> None:
        """End the input, wait until everything is at the sinks, close them and end the threads.

        Raises:
            JobFailed: If the job fails or has failed.
            SourceError: If the job is cancelled meanwhile.
        """
        if self.state in ("finished", "cancelled"):
            return
        with self.intake.lock:
            if self.state == "running" and not self._is_ending:
                self._is_ending = True
                self.intake.end()
        if self._in_flight.wait_empty():
            self._close_partitions()
            if self._in_flight.wait_empty():
                self._set_state("finished")
                for partition in self._partitions:
                    partition.join(None)
        self._raise_failure()
        if self.state != "finished":
            raise SourceError(f"the job was {self.state} before it had finished")

    def _close_partitions(self) -> None:
        with self.intake.lock:
            if self._is_closing:
                return
            self._is_closing = True
            for partition in self._partitions:
                self._in_flight.force_step()
                partition.close()

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
        if self.state == "running" and not self._is_ending:
            return
        self._raise_failure()
        state = "finished" if self._is_ending else self.state
        raise SourceError(f"the job is {state} and takes no more input")

    def stats(self) -> JobStats:
        """Return what has been counted so far."""
        partitions = tuple(self._partition_stats(partition) for partition in self._partitions)
        rows_late = sum(part.rows_late for part in partitions)
        rows_dead = sum(part.rows_dead_lettered for part in partitions)
        rows_in, rows_done = self._in_flight.snapshot()
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
                for name, tracker in self.intake.trackers.items()
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

    def _hold(self, item: SourceItem) -> None:
        with self._ack_lock:
            item.n_waiting += 1

    def _acknowledge(self, item: SourceItem) -> None:
        with self._ack_lock:
            item.n_waiting -= 1
            if item.n_waiting > 0:
                return
            if item.batch is not None:
                self._latency.record(time.perf_counter_ns() - item.pushed_at_ns)
        if item.batch is None:
            self._in_flight.leave_step()
        else:
            self._in_flight.leave(item.n_rows, item.n_bytes)

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
        self._in_flight.close()
        for partition in self._partitions:
            partition.stop()

    def _stop(self) -> None:
        self._stop_threads()
        deadline = time.monotonic() + self._config.stop_timeout_seconds
        for partition in self._partitions:
            partition.join(max(0.0, deadline - time.monotonic()))
