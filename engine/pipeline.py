"""Pipelines: the links through which batches of a partition flow, from its sources to its sink.

Everything here runs in the partition's own thread. A link takes batches, and after the last batch
of a step the end of that step; it passes both on. Links that wait for other partitions are in
:mod:`millstream.engine.exchange`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import pyarrow as pa

from millstream.engine.datafusion import TransformRunner
from millstream.engine.event_time import NO_WATERMARK
from millstream.engine.operators.base import (
    Counters,
    Operator,
    TakesGroups,
    TakesRows,
    TakesSteps,
)
from millstream.engine.sinks import BatchInfo, Sink
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.step import AtHand, SourceItem, Step, watermark_at
from millstream.planner.nodes import WatermarkBound

__all__ = [
    "BatchesLink",
    "Link",
    "OperatorLink",
    "RowsLink",
    "SinkLink",
    "StepSink",
    "StepsLink",
    "TableTransformLink",
    "TransformLink",
    "UnionPort",
    "step_of",
    "union_ports",
    "wants_info",
]


Run: TypeAlias = Callable[[pa.RecordBatch], list[pa.RecordBatch]]


class Link(Protocol):
    """One place on the way of a batch."""

    def emit(self, batch: pa.RecordBatch) -> None:
        """Take a batch of the current step."""

    def end_step(self, item: SourceItem) -> None:
        """Take the end of the step of ``item``: all its batches have come."""


@runtime_checkable
class RowsLink(Protocol):
    """A link that may take micro-batches of the current step as they are, several at once."""

    @property
    def takes_rows(self) -> bool:
        """Whether it does."""

    def emit_rows(self, parts: Sequence[SourceRows]) -> None:
        """Take rows of which none is behind the watermark."""


@runtime_checkable
class BatchesLink(Protocol):
    """A link that may take several batches of the current step at once, each where it lies."""

    @property
    def takes_batches(self) -> bool:
        """Whether it does."""

    def emit_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Take rows of which none is behind the watermark. If it fails, none has been taken."""


@runtime_checkable
class StepsLink(Protocol):
    """A link that may take the rows of several steps at once, and then the end of each."""

    @property
    def takes_steps(self) -> bool:
        """Whether it does."""

    def prepare(self, part: Any) -> Sequence[Any]:
        """Return what becomes of a part of a step's rows before an operator takes it."""

    def emit_steps(self, steps: Sequence[Sequence[Any]]) -> None:
        """Take the rows of steps, in parts that have been prepared; the operator behind does."""


def step_of(item: SourceItem) -> Step:
    """Return the step that an item ends, as all do that reach a link by ``end_step``."""
    assert item.step is not None, "an item without a step has no end"
    return item.step


class TransformLink:
    """Runs a stateless transform on what passes.

    Args:
        run: Gives the results of a batch.
        downstream: What follows.
    """

    def __init__(self, run: Run, downstream: Link) -> None:
        self._run = run
        self._downstream = downstream
        self._rows_taker = downstream if isinstance(downstream, RowsLink) else None
        self._steps_taker = downstream if isinstance(downstream, StepsLink) else None

    def emit(self, batch: pa.RecordBatch) -> None:
        for result in self._run(batch):
            self._downstream.emit(result)

    @property
    def takes_batches(self) -> bool:
        """Whether what follows takes rows of several batches where they lie."""
        return self._rows_taker is not None and self._rows_taker.takes_rows

    def emit_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        assert self._rows_taker is not None, "asked for before"
        results = [result for batch in batches for result in self._run(batch)]
        if results:
            places = {name: place for place, name in enumerate(results[0].schema.names)}
            rows = [SourceRows(result, places, frozenset(), None) for result in results]
            self._rows_taker.emit_rows(rows)

    @property
    def takes_steps(self) -> bool:
        """Whether what follows takes the rows of several steps at once."""
        return self._steps_taker is not None and self._steps_taker.takes_steps

    def prepare(self, part: pa.RecordBatch) -> Sequence[Any]:
        assert self._steps_taker is not None, "asked for before"
        prepare = self._steps_taker.prepare
        return [rows for result in self._run(part) for rows in prepare(result)]

    def emit_steps(self, steps: Sequence[Sequence[Any]]) -> None:
        assert self._steps_taker is not None, "asked for before"
        self._steps_taker.emit_steps(steps)

    def end_step(self, item: SourceItem) -> None:
        self._downstream.end_step(item)


class TableTransformLink:
    """Runs a transform that reads tables, as they were when the rows at hand were pushed.

    Args:
        runner: The transform.
        run: Gives the results of a batch, by the runner.
        at_hand: What the partition is working on.
        downstream: What follows.
    """

    def __init__(
        self, runner: TransformRunner, run: Run, at_hand: AtHand, downstream: Link
    ) -> None:
        self._runner = runner
        self._run = run
        self._at_hand = at_hand
        self._downstream = downstream
        self._tables: Mapping[str, pa.Table] | None = None

    def emit(self, batch: pa.RecordBatch) -> None:
        item = self._at_hand.item
        assert item is not None, "rows come with an item"
        if item.tables is not self._tables:
            self._tables = item.tables
            self._runner.replace_tables(item.tables)
        for result in self._run(batch):
            self._downstream.emit(result)

    def end_step(self, item: SourceItem) -> None:
        self._downstream.end_step(item)


class OperatorLink:
    """Drives an operator through the steps."""

    def __init__(
        self, operator: Operator, bounds: tuple[WatermarkBound, ...], downstream: Link
    ) -> None:
        self.operator = operator
        # Asking for a protocol takes long, so it is done once.
        self._taker = operator if isinstance(operator, TakesRows) else None
        self._groups_taker = operator if isinstance(operator, TakesGroups) else None
        self._steps_taker = operator if isinstance(operator, TakesSteps) else None
        self._bounds = bounds
        self._downstream = downstream
        self._watermark = NO_WATERMARK

    @property
    def takes_rows(self) -> bool:
        """Whether :meth:`emit_rows` may be called."""
        return self._taker is not None and self._taker.takes_rows

    def emit(self, batch: pa.RecordBatch) -> None:
        self.operator.process_batch(batch, self._downstream)

    def emit_rows(self, parts: Sequence[SourceRows]) -> None:
        assert self._taker is not None, "asked for before"
        self._taker.process_rows(parts, self._downstream)

    @property
    def n_receivers(self) -> int:
        """1 if :meth:`emit_groups` may be called, else 0."""
        return 0 if self._groups_taker is None else 1

    def emit_groups(self, parts: Sequence[PaneWords]) -> None:
        assert self._groups_taker is not None, "asked for before"
        (groups,) = parts
        self._groups_taker.process_groups(groups, self._downstream)

    def share_panes(self, panes: DensePanes) -> bool:
        return self._groups_taker is not None and self._groups_taker.share_panes(panes)

    @property
    def takes_steps(self) -> bool:
        """Whether :meth:`emit_steps` may be called."""
        return self._steps_taker is not None and self._steps_taker.takes_steps

    def prepare(self, part: Any) -> Sequence[Any]:
        return (part,)

    def emit_steps(self, steps: Sequence[Sequence[Any]]) -> None:
        assert self._steps_taker is not None, "asked for before"
        self._steps_taker.process_steps(steps, self._downstream)

    def end_step(self, item: SourceItem) -> None:
        step, operator, out = step_of(item), self.operator, self._downstream
        operator.end_batch(out)
        watermark = watermark_at(step, self._bounds)
        if watermark > self._watermark:
            self._watermark = watermark
            operator.process_watermark(watermark, out)
        if step.is_final:
            operator.end_input(out)
        out.end_step(item)


class UnionPort:
    """One input of a union. Batches that are a step ahead of the other inputs wait here."""

    def __init__(self, union: _Union) -> None:
        self._union = union
        self.is_ended = False
        # Batches, each with the item that it is of; None for the end of the item's step.
        self._ahead: deque[tuple[pa.RecordBatch | None, SourceItem | None]] = deque()

    def emit(self, batch: pa.RecordBatch) -> None:
        if self.is_ended:
            self._ahead.append((batch, self._union.at_hand.item))
        else:
            self._union.downstream.emit(self._union.relabelled(batch))

    def end_step(self, item: SourceItem) -> None:
        if self.is_ended:
            self._ahead.append((None, item))
            return
        self.is_ended = True
        self._union.port_ended(item)

    def resume(self) -> None:
        """Pass on what waited, up to the end of the next step if that has come already."""
        while self._ahead and not self.is_ended:
            batch, item = self._ahead.popleft()
            # What follows asks for it: the input that ended the step before is not as far yet.
            self._union.at_hand.item = item
            if batch is not None:
                self.emit(batch)
            else:
                assert item is not None, "a step ends with an item"
                self.end_step(item)


class _Union:
    def __init__(self, schema: pa.Schema, downstream: Link, at_hand: AtHand) -> None:
        self.downstream = downstream
        self.at_hand = at_hand
        self.ports: list[UnionPort] = []
        self._schema = schema

    def relabelled(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Give a batch the schema of the union: branches differ in what may be NULL."""
        n_columns = len(self._schema)
        if batch.num_columns == n_columns:
            return pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
        schema = self._schema
        for field in list(batch.schema)[n_columns:]:
            schema = schema.append(field)
        return pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    def port_ended(self, item: SourceItem) -> None:
        if not all(port.is_ended for port in self.ports):
            return
        self.downstream.end_step(item)
        for port in self.ports:
            port.is_ended = False
        for port in self.ports:
            port.resume()


def union_ports(
    n_ports: int, schema: pa.Schema, downstream: Link, at_hand: AtHand
) -> list[UnionPort]:
    """Return the inputs of a new union that feeds ``downstream`` with batches of ``schema``."""
    union = _Union(schema, downstream, at_hand)
    union.ports = [UnionPort(union) for _ in range(n_ports)]
    return union.ports


@runtime_checkable
class StepSink(Protocol):
    """A sink that wants to know where in the input its batches belong."""

    def end_step(self, number: int) -> None:
        """Note that the batches since the last call belong to step ``number``."""


@runtime_checkable
class InformedSink(Protocol):
    """A sink that may want to know where batches come from."""

    @property
    def takes_info(self) -> bool:
        """Whether it does."""

    def write(self, batch: pa.RecordBatch, info: BatchInfo | None) -> None:
        """Take a batch and what is known of it."""


def wants_info(sink: Sink | InformedSink) -> bool:
    """Say whether a sink is to be told where each batch comes from."""
    return isinstance(sink, InformedSink) and sink.takes_info


class SinkLink:
    """The end: writes batches to the partition's sink and reports finished steps."""

    def __init__(
        self,
        sink: Sink | InformedSink,
        n_columns: int,
        counters: Counters,
        acknowledge: Callable[[Sequence[SourceItem]], None],
        partition: int,
        at_hand: AtHand,
    ) -> None:
        informed = wants_info(sink)
        self._sink = None if informed else cast("Sink", sink)
        self._informed = cast("InformedSink", sink) if informed else None
        self._partition = partition
        self._at_hand = at_hand
        self._n_columns = n_columns
        self._steps = sink if isinstance(sink, StepSink) else None
        self._counters = counters
        self._acknowledge = acknowledge

    def emit(self, batch: pa.RecordBatch) -> None:
        if batch.num_columns > self._n_columns:
            # What the engine carried along is not the user's.
            batch = batch.select(range(self._n_columns))
        if self._sink is not None:
            self._sink.write(batch)
        elif self._informed is not None:
            self._informed.write(batch, self._info())
        self._counters.rows_out += batch.num_rows
        self._counters.batches_out += 1

    def _info(self) -> BatchInfo:
        item = self._at_hand.item
        assert item is not None, "results come of an item"
        watermarks = {
            stream: None if watermark == NO_WATERMARK else watermark
            for stream, watermark in item.watermarks.items()
        }
        number = None if item.batch is None else item.batch_number
        return BatchInfo(self._partition, number, watermarks)

    def end_step(self, item: SourceItem) -> None:
        if self._steps is not None:
            self._steps.end_step(step_of(item).number)
        merged, self._at_hand.merged = self._at_hand.merged, ()
        self._acknowledge((*merged, item))
