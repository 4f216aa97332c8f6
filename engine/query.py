"""A planned query: what it gives, how it runs, and the ways to run it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from millstream.engine.backpressure import Listener
from millstream.engine.config import SessionConfig
from millstream.engine.dead_letters import FailurePolicy
from millstream.engine.gathering import gathered
from millstream.engine.inputs import batches, interleave, stream_clock
from millstream.engine.job import Job
from millstream.engine.job_registry import JobRegistry
from millstream.engine.plan_shape import walk
from millstream.engine.runtime import Runtime
from millstream.engine.side_outputs import side_sinks
from millstream.engine.sinks import AnySink, Sink, as_sinks
from millstream.engine.strategies import PartitioningStrategy, QueryNeeds, make_strategy
from millstream.errors import SourceError, SqlError
from millstream.planner import Placement, distribute, explain
from millstream.planner.catalog import QueryPlan, StreamDefinition
from millstream.planner.nodes import Exchange

__all__ = ["Explanation", "Query"]

_SESSION_BATCH_ROWS = -1
# Rows of a micro-batch from which on changes are added up before an exchange. What is pushed into a
# job is taken for small.
_SPLIT_ROWS_LEAST, _SMALL = 1 << 15, 0
_EXPLANATION_SCHEMA = pa.schema([pa.field("plan", pa.string(), nullable=False)])


class Query:
    """A planned query. Made by :meth:`Session.sql`; may be run any number of times."""

    def __init__(
        self,
        plan: QueryPlan,
        config: SessionConfig,
        tables: Mapping[str, pa.Table],
        functions: Mapping[str, object],
        jobs: JobRegistry,
    ) -> None:
        self._plan = plan
        self._jobs = jobs
        self._config = config
        self._tables = tables
        self._functions = dict(functions)

    @property
    def sql(self) -> str:
        """Text of the query."""
        return self._plan.sql

    @property
    def schema(self) -> pa.Schema:
        """Schema of the results; ends with ``_op`` if results can be revised."""
        return self._plan.schema

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Columns that identify a row with versions; empty if results are only appended."""
        return self._plan.key_columns

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams that the query reads."""
        return tuple(stream.name for stream in self._plan.streams)

    def explain(self, strategy: str | PartitioningStrategy | None = None) -> str:
        """Return the plan as a readable tree, distributed as a strategy asks.

        Raises:
            SqlError: If the strategy does not fit the query.
        """
        placement = self._placed(make_strategy(strategy or self._plan.strategy), _SMALL)
        return explain(distribute(self._plan.root, self._config.partitions, placement))

    def start(
        self,
        sink: AnySink | None = None,
        *,
        sinks: Sequence[AnySink] | None = None,
        late_sink: AnySink | Mapping[str, AnySink] | None = None,
        on_error: FailurePolicy | None = None,
        dead_letter_sink: AnySink | Mapping[str, AnySink] | None = None,
        strategy: str | PartitioningStrategy | None = None,
        name: str | None = None,
        on_backpressure: Listener | None = None,
    ) -> Job:
        """Start the query on unbounded input.

        Args:
            sink: Where results go: a callable that takes a RecordBatch, or an object with the
                methods of :class:`millstream.Sink`. It is called by one thread at a time.
            sinks: Instead of ``sink``, one per partition, each called by the thread of its
                partition.
            late_sink: Where late rows go: each as it was pushed, with ``window_start`` and
                ``window_end`` of the window that it missed and the ``watermark`` that it met. A
                mapping from stream names gives each stream its own. Without one, late rows are
                dropped and counted.
            on_error: What a row does on which an expression fails, such as a division by zero:
                ``fail`` the job (the default), be left out and counted (``skip``), or go to
                ``dead_letter_sink`` as it was pushed, with the ``error`` (``dead_letter``, the
                default where there is such a sink). An expression over results of aggregates fails
                the job in any case.
            dead_letter_sink: Where rows go on which an expression fails, as for ``late_sink``.
            strategy: How micro-batches are dealt to partitions: ``smart_repartition`` (the
                default), ``always_hash``, ``sticky_partition``, ``round_robin``, ``fan_in``, or an
                object with the methods of :class:`millstream.PartitioningStrategy`.
            name: Name of the job in metrics and in the names of its threads; by default ``job-0``
                or the next that no running job of the session has.
            on_backpressure: Is called with a :class:`millstream.BackpressureEvent` when the queue
                of a partition becomes fuller or emptier, by the thread that brings it about. If it
                raises, the job fails.

        Raises:
            SchemaError: If a running job has the name.
            SinkError: If what is given is not a sink, or their number is not that of the
                partitions.
            SourceError: If there can be no late rows of a stream, or ``on_error`` does not go with
                ``dead_letter_sink``.
            SqlError: If the strategy does not fit the query.
        """
        n_partitions = self._config.partitions
        streams = self._plan.streams
        timed = [stream.name for stream in streams if stream.event_time is not None]
        late = side_sinks("late_sink", late_sink, timed, n_partitions)
        names = [stream.name for stream in streams]
        dead = side_sinks("dead_letter_sink", dead_letter_sink, names, n_partitions)
        policy = _failure_policy(on_error, has_sink=dead_letter_sink is not None)
        return self._start(
            as_sinks(sink, sinks, n_partitions),
            late,
            [None] * n_partitions if policy == "fail" else dead,
            strategy,
            name=name,
            listener=on_backpressure,
        )

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        batch_rows: int | None = _SESSION_BATCH_ROWS,
        strategy: str | PartitioningStrategy | None = None,
    ) -> pa.Table:
        """Run the query over bounded input and return all that comes out, every version included.

        Args:
            inputs: Per stream a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, an
                iterable of batches, a data frame with ``__arrow_c_stream__``, or the path of a
                Parquet, Arrow IPC, CSV or NDJSON file. Several streams are interleaved by event
                time.
            batch_rows: Rows per micro-batch at most; None takes tables whole. The session's by
                default.
            strategy: As for :meth:`start`.

        Raises:
            SourceError: If a stream has no input, or an input cannot be read.
            SchemaError: If rows do not fit their stream.
            JobFailed: If an expression fails on a row.
        """
        rows = self._config.batch_rows if batch_rows == _SESSION_BATCH_ROWS else batch_rows
        definitions = {stream.name: stream for stream in self._plan.streams}
        _check_inputs(inputs, definitions)
        collectors = [_OrderedCollector() for _ in range(self._config.partitions)]
        with self._start(
            collectors,
            [{} for _ in collectors],
            [None for _ in collectors],
            strategy,
            is_bounded=True,
            batch_rows=_SPLIT_ROWS_LEAST if rows is None else rows,
        ) as job:
            ordered = _in_event_time_order(inputs, definitions, rows)
            for stream, of_stream in groupby(ordered, key=itemgetter(0)):
                for some in gathered(batch for _, batch in of_stream):
                    job.push(stream, some)
        return _merged(collectors, self._plan.schema)

    def _placed(self, strategy: PartitioningStrategy, batch_rows: int) -> Placement:
        """Return the placement that a strategy gives, after it has accepted the query.

        Args:
            strategy: Deals micro-batches out.
            batch_rows: Rows of a micro-batch, as far as they are known.
        """
        root, spread = self._plan.root, max(self._config.partitions, 2)
        needs = QueryNeeds(
            keys=tuple(node.keys for node in _exchanges(distribute(root, spread))),
            streams=self._plan.streams,
            n_partitions=self._config.partitions,
            n_exchanges=lambda placement: len(_exchanges(distribute(root, spread, placement))),
        )
        strategy.validate(needs)
        return replace(strategy.placement(needs), splits_changes=batch_rows >= _SPLIT_ROWS_LEAST)

    def _start(
        self,
        sinks: Sequence[Sink],
        late_sinks: Sequence[Mapping[str, Sink]],
        dead_sinks: Sequence[Mapping[str, Sink] | None],
        strategy: str | PartitioningStrategy | None,
        name: str | None = None,
        listener: Listener | None = None,
        is_bounded: bool = False,
        batch_rows: int = _SMALL,
    ) -> Job:
        chosen = make_strategy(strategy or self._plan.strategy)
        placement = self._placed(chosen, batch_rows)
        make = partial(
            Runtime,
            root=distribute(self._plan.root, self._config.partitions, placement),
            strategy=chosen,
            is_single=placement.single,
            streams=self._plan.streams,
            tables=self._tables,
            functions=self._functions,
            sinks=sinks,
            late_sinks=late_sinks,
            dead_sinks=dead_sinks,
            listener=listener,
            config=self._config,
            is_bounded=is_bounded,
        )
        runtime = self._jobs.start(name, make)
        return Job(
            runtime,
            {stream.name: stream for stream in self._plan.streams},
            batch_rows_max=self._config.batch_rows_max,
            linger_seconds=self._config.linger_seconds,
        )


class Explanation(Query):
    """A query after the word EXPLAIN: its result is the plan, and it needs no input."""

    @property
    def schema(self) -> pa.Schema:
        return _EXPLANATION_SCHEMA

    @property
    def key_columns(self) -> tuple[str, ...]:
        return ()

    @property
    def streams(self) -> tuple[str, ...]:
        return ()

    def start(self, *arguments: Any, **options: Any) -> Job:
        """Refuse: a plan is not a stream.

        Raises:
            SqlError: Always.
        """
        raise SqlError("EXPLAIN gives a plan and starts no job; use run, or explain of the query")

    def run(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        batch_rows: int | None = None,
        strategy: str | PartitioningStrategy | None = None,
    ) -> pa.Table:
        """Return the plan, one row for each line."""
        return pa.table({"plan": self.explain(strategy).splitlines()}, _EXPLANATION_SCHEMA)


def _failure_policy(on_error: FailurePolicy | None, *, has_sink: bool) -> FailurePolicy:
    if on_error is None:
        return "dead_letter" if has_sink else "fail"
    if on_error not in ("fail", "skip", "dead_letter"):
        raise SourceError(f"on_error must be 'fail', 'skip' or 'dead_letter': {on_error!r}")
    if has_sink != (on_error == "dead_letter"):
        wanted = "needs" if on_error == "dead_letter" else "has no use for"
        raise SourceError(f"on_error={on_error!r} {wanted} a dead_letter_sink")
    return on_error


def _exchanges(root: Any) -> list[Exchange]:
    return [node for node in walk(root) if isinstance(node, Exchange)]


class _OrderedCollector(Sink):
    """Keeps the batches of one partition with the steps that they belong to."""

    def __init__(self) -> None:
        self._open: list[pa.RecordBatch] = []
        self.steps: list[tuple[int, list[pa.RecordBatch]]] = []

    def open(self, partition: int, schema: pa.Schema) -> None:
        pass

    def write(self, batch: pa.RecordBatch) -> None:
        self._open.append(batch)

    def end_step(self, number: int) -> None:
        if self._open:
            self.steps.append((number, self._open))
            self._open = []

    def close(self) -> None:
        pass

    def take(self) -> list[tuple[int, list[pa.RecordBatch]]]:
        """Give away all batches, by step: the job, which knows the sink, may live for longer."""
        steps, self.steps = self.steps, []
        return steps


def _merged(collectors: Sequence[_OrderedCollector], schema: pa.Schema) -> pa.Table:
    """Put results into the order of the input, and those of one micro-batch by partition."""
    steps = [
        (number, partition, batches)
        for partition, collector in enumerate(collectors)
        for number, batches in collector.take()
    ]
    steps.sort(key=lambda step: step[:2])
    return pa.Table.from_batches([batch for _, _, batches in steps for batch in batches], schema)


def _check_inputs(inputs: Mapping[str, Any], definitions: Mapping[str, StreamDefinition]) -> None:
    if not isinstance(inputs, Mapping):
        raise SourceError(
            f"inputs must be a mapping from stream names to data: {type(inputs).__name__}"
        )
    missing = sorted(definitions.keys() - inputs.keys())
    if missing:
        raise SourceError(f"no input is given for the streams {', '.join(map(repr, missing))}")
    unknown = sorted(inputs.keys() - definitions.keys())
    if unknown:
        raise SourceError(f"the query does not read the streams {', '.join(map(repr, unknown))}")


def _in_event_time_order(
    inputs: Mapping[str, Any], definitions: Mapping[str, StreamDefinition], batch_rows: int | None
) -> Iterator[tuple[str, pa.RecordBatch]]:
    opened = {
        name: batches(inputs[name], stream.schema, batch_rows)
        for name, stream in definitions.items()
    }
    if len(opened) == 1:
        ((name, only),) = opened.items()
        return ((name, batch) for batch in only)
    return interleave(opened, {name: stream_clock(stream) for name, stream in definitions.items()})
