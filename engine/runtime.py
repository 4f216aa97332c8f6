"""The runtime of a job: numbers what comes in, deals it out, and knows when it is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal, TypeAlias, TypeVar

import pyarrow as pa

from millstream.engine.backpressure import Listener
from millstream.engine.build import build_pipelines
from millstream.engine.config import SessionConfig
from millstream.engine.dead_letters import DeadLetters, dead_letter_schema
from millstream.engine.deadline import Deadline
from millstream.engine.exchange import Mail
from millstream.engine.failures import describe_failure
from millstream.engine.flow_control import FlowControl, QueueLimits
from millstream.engine.intake import Intake
from millstream.engine.late_rows import LateRows, late_schema
from millstream.engine.latency import LatencyHistogram
from millstream.engine.operators.base import Counters, Operator
from millstream.engine.operators.registry import OperatorContext
from millstream.engine.partition import Hooks, Partition
from millstream.engine.pipeline import SinkLink, wants_info
from millstream.engine.plan_shape import plan_shape
from millstream.engine.sinks import Sink
from millstream.engine.snapshot import Observer
from millstream.engine.stats import JobStats
from millstream.engine.step import AtHand, Contribution, SourceItem
from millstream.engine.strategies import PartitioningStrategy
from millstream.engine.time_sheet import TimedSinkLink, TimeSheet, timed_sinks
from millstream.engine.turn import Turn
from millstream.errors import JobFailed, SourceError
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import Node

__all__ = ["Runtime"]

T = TypeVar("T")
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
        dead_sinks: Per partition, the sinks for rows on which the query fails by stream; None where
            such a row fails the job.
        listener: Is told when the state of a partition's queue changes, or None.
        config: Of the session.
        is_bounded: Whether nobody sees results before the input has ended.
    """

    def __init__(
        self,
        name: str,
        *,
        root: Node,
        strategy: PartitioningStrategy,
        is_single: bool,
        streams: Sequence[StreamDefinition],
        tables: Mapping[str, pa.Table],
        functions: Mapping[str, object],
        sinks: Sequence[Sink],
        late_sinks: Sequence[Mapping[str, Sink]],
        dead_sinks: Sequence[Mapping[str, Sink] | None],
        listener: Listener | None,
        config: SessionConfig,
        is_bounded: bool = False,
    ) -> None:
        self.name = name
        self.root = root
        self._config = config
        self._is_bounded = is_bounded
        self._tables, self._functions = dict(tables), dict(functions)
        self.streams = {stream.name: stream for stream in streams}
        self._n_partitions = len(sinks)
        self._shape = plan_shape(root, self._n_partitions, is_single=is_single)
        self._partitions: list[Partition] = []
        self._turn_lock = threading.Lock() if self._n_partitions > 1 else None
        self._flow = FlowControl(
            self._partitions,
            n_partitions=self._n_partitions,
            limits=QueueLimits(config.inbox_rows_max, config.inbox_bytes_max),
            clock=config.clock,
            listener=listener,
            on_error=lambda error, partition: self._fail(error, None, partition),
        )
        self._in_flight = self._flow.in_flight
        # Reentrant, because the garbage collector may cancel a job in any thread at any place.
        self._state_lock = threading.RLock()
        self.state: State = "running"
        self._is_ending = False
        self._is_closing = False
        self._error: JobFailed | None = None
        for index, outputs in enumerate(zip(sinks, late_sinks, dead_sinks, strict=True)):
            self._partitions.append(self._partition(index, name, *outputs))
        self.intake = Intake(
            streams=streams,
            shape=self._shape,
            strategy=strategy,
            partitions=self._partitions,
            flow=self._flow,
            tables=tables,
            wants_late_rows=frozenset(stream for late in late_sinks for stream in late),
            check_running=self.check_running,
            on_broken=lambda error: self._fail(error, None, None),
            clock=config.clock,
            is_bounded=is_bounded,
        )
        self.observer = Observer(
            name, self.streams, self._partitions, self._flow, self.intake, strategy, config.clock
        )
        self._open(sinks, late_sinks, dead_sinks)
        for partition in self._partitions:
            partition.start()

    def _partition(
        self,
        index: int,
        name: str,
        sink: Sink,
        late_sinks: Mapping[str, Sink],
        dead_sinks: Mapping[str, Sink] | None,
    ) -> Partition:
        counters, at_hand, sheet = Counters(), AtHand(), TimeSheet(self._config.clock)
        turn = Turn(self._turn_lock)
        acknowledge = partial(self._acknowledge, index)

        late_rows, dead_letters = None, None
        if late_sinks:
            late_rows = LateRows(timed_sinks(late_sinks, sheet), self.streams, at_hand)
        if dead_sinks is not None:
            dead_letters = DeadLetters(
                timed_sinks(dead_sinks, sheet), self.streams, counters, at_hand
            )

        def post(receiver: int, contribution: Contribution) -> None:
            self._partitions[receiver].post(contribution)

        # In a bounded run on several partitions, results are put in order by their steps.
        is_told = self._is_bounded and self._n_partitions > 1
        merged_rows_max = 0 if is_told or wants_info(sink) else self._shape.merged_rows_max
        context = OperatorContext(
            partition=index,
            counters=counters,
            at_hand=at_hand,
            is_deferred=self._shape.pace != "ordered",
            functions=self._functions,
            changelog=None,
            late_rows=late_rows,
            dead_letters=dead_letters,
        )
        pipelines = build_pipelines(
            self.root,
            TimedSinkLink(
                SinkLink(sink, len(self.root.schema), counters, acknowledge, index, at_hand),
                sheet,
                turn,
            ),
            context,
            streams=self.streams,
            tables=self._tables,
            n_partitions=self._n_partitions,
            mail=Mail(post, self._flow.backlog.hold, partial(self._end_part, index)),
            sheet=sheet,
            is_eager=self._shape.pace == "deferred",
            merged_rows_max=merged_rows_max,
        )
        return Partition(
            index,
            pipelines,
            sink,
            [output for output in (late_rows, dead_letters) if output is not None],
            counters,
            at_hand,
            sheet,
            Hooks(
                failed=self._fail,
                mapped=acknowledge,
                progressed=partial(self._flow.progressed, index),
                # The intake is made when all partitions have been.
                ran_dry=lambda: self.intake.ran_dry(index),
                closed=self._in_flight.leave_step,
            ),
            f"millstream-{name}",
            gathered_max=(self._config.batch_rows_max, self._config.batch_bytes_max)
            if self._shape.gathers and dead_letters is None
            else None,
            merged_rows_max=merged_rows_max,
            turn=turn,
        )

    def _open(
        self,
        sinks: Sequence[Sink],
        late_sinks: Sequence[Mapping[str, Sink]],
        dead_sinks: Sequence[Mapping[str, Sink] | None],
    ) -> None:
        opened: list[Sink] = []
        late_schemas = {name: late_schema(self.streams[name]) for name in late_sinks[0]}
        dead_schemas = {
            name: dead_letter_schema(self.streams[name]) for name in dead_sinks[0] or ()
        }
        try:
            for index, (sink, late, dead) in enumerate(
                zip(sinks, late_sinks, dead_sinks, strict=True)
            ):
                outputs = [(sink, self.root.schema)]
                outputs += [(output, late_schemas[name]) for name, output in late.items()]
                outputs += [(output, dead_schemas[name]) for name, output in (dead or {}).items()]
                for output, schema in outputs:
                    output.open(index, schema)
                    opened.append(output)
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

    @property
    def error(self) -> JobFailed | None:
        """Why the job failed, or None if it has not."""
        return self._error

    def ask(
        self,
        ask: Callable[[Sequence[Operator]], T],
        partitions: Iterable[int],
        timeout_seconds: float,
    ) -> list[T]:
        """Ask the operators of some partitions something.

        Args:
            ask: Is given the operators of a partition, by its thread.
            partitions: Whom to ask.
            timeout_seconds: How long to wait for partitions that are at work.

        Returns:
            The answers that came in time.
        """
        answers: SimpleQueue[T] = SimpleQueue()
        asked = [self._partitions[index] for index in partitions]
        for partition in asked:
            partition.ask(ask, answers)
        deadline, found = Deadline(timeout_seconds), []
        for _ in asked:
            try:
                found.append(answers.get(timeout=deadline.remaining()))
            except Empty:
                break
        return found

    def stats(self, *, state_age_max: float = 0.0) -> JobStats:
        """Return what has been counted so far.

        Args:
            state_age_max: How many seconds old the sizes of operators' states may be.
        """
        return self.observer.stats(self.state, state_age_max=state_age_max)

    def _acknowledge(self, partition: int, items: Sequence[SourceItem]) -> None:
        """Note that items have passed a partition."""
        passed, now_ns = self._partitions[partition], self._now_ns()
        passed.watermarks = items[-1].watermarks
        _record(passed.latencies.parts, items, now_ns)
        self._end_parts(partition, items, now_ns)

    def _end_part(self, partition: int, item: SourceItem) -> None:
        """Note that a partition has done one of its parts in an item."""
        self._end_parts(partition, (item,), self._now_ns())

    def _end_parts(self, partition: int, items: Sequence[SourceItem], now_ns: int) -> None:
        complete = self._flow.backlog.done(items, partition)
        if not complete:
            return
        _record(self._partitions[partition].latencies.items, complete, now_ns)
        n_rows = n_bytes = n_batches = 0
        for item in complete:
            if item.batch is None:
                self._in_flight.leave_step()
                self.intake.step_done()
            else:
                n_rows += item.n_rows
                n_bytes += item.n_bytes
                n_batches += 1
        if n_batches > 0:
            self._in_flight.leave(n_rows, n_bytes, n_batches)

    def _now_ns(self) -> int:
        return int(self._config.clock() * 1e9)

    def _fail(self, error: BaseException, item: SourceItem | None, partition: int | None) -> None:
        # The others need not wait until it is known which row it was.
        for other in self._partitions:
            other.stop()
        failure = describe_failure(error, item, partition, self.root, self._tables, self._functions)
        with self._state_lock:
            if self._error is None and self.state != "cancelled":
                self._error = failure
                self.state = "failed"
        self._stop_threads()

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    def _set_state(self, state: State) -> None:
        with self._state_lock:
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


def _record(latencies: LatencyHistogram, items: Sequence[SourceItem], now_ns: int) -> None:
    # The last step is taken when the job is told to finish; nobody has pushed it.
    latencies.record_all(
        now_ns - item.pushed_at_ns for item in items if item.step is None or not item.step.is_final
    )
