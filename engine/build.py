"""From a distributed plan to the pipelines of a partition."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress

import pyarrow as pa

from millstream.engine.datafusion import TransformRunner
from millstream.engine.exchange import Mail, Receiver, Sender
from millstream.engine.operators.changelog import Changelog
from millstream.engine.operators.registry import OperatorContext, make_operator
from millstream.engine.partition import Pipelines
from millstream.engine.pipeline import (
    Link,
    OperatorLink,
    Run,
    TableTransformLink,
    TransformLink,
    union_ports,
)
from millstream.engine.plan_shape import has_exchange
from millstream.engine.source_link import SourceLink
from millstream.engine.time_sheet import TimedLink, TimeSheet
from millstream.planner import nodes
from millstream.planner.catalog import StreamDefinition

__all__ = ["build_pipelines"]


class _Builder:
    def __init__(
        self,
        context: OperatorContext,
        streams: Mapping[str, StreamDefinition],
        tables: Mapping[str, pa.Table],
        n_partitions: int,
        mail: Mail,
        sheet: TimeSheet,
        is_eager: bool,
        merged_rows_max: int,
    ) -> None:
        self._merged_rows_max = merged_rows_max
        self._context = context
        self._streams = streams
        self._tables = tables
        self._n_partitions = n_partitions
        self._mail = mail
        self._sheet = sheet
        self._is_eager = is_eager
        self._n_nodes = 0
        self._n_exchanges = 0
        self.pipelines = Pipelines()

    def build(self, node: nodes.Node, downstream: Link) -> None:
        """Build what computes ``node`` and feeds ``downstream``."""
        self._n_nodes += 1
        if isinstance(node, nodes.Source):
            self.pipelines.sources.append(self._source(node, node.schema, None, downstream))
        elif (
            isinstance(node, nodes.Transform)
            and node.picks
            and isinstance(node.input, nodes.Source)
        ):
            # Columns have to be picked out of the stream's anyway.
            self._n_nodes += 1
            source = self._source(node.input, node.schema, node.picks, downstream)
            self.pipelines.sources.append(source)
        elif isinstance(node, nodes.Transform):
            runner = TransformRunner(node, self._tables, self._context.functions)
            run = self._run_of(node, runner)
            link: Link = TransformLink(run, downstream)
            if node.tables:
                link = TableTransformLink(runner, run, self._context.at_hand, downstream)
            self.build(node.input, self._timed(node, link))
        elif isinstance(node, nodes.Exchange):
            self._exchange(node, downstream)
        elif isinstance(node, nodes.Union):
            at_hand = self._context.at_hand
            ports = union_ports(len(node.branches), node.schema, downstream, at_hand)
            for branch, port in zip(node.branches, ports, strict=True):
                self.build(branch, port)
        else:
            self._operator(node, downstream)

    def _run_of(self, node: nodes.Transform, runner: TransformRunner) -> Run:
        """Return how a transform treats rows on which it fails."""
        dead_letters = self._context.dead_letters
        if dead_letters is None or not isinstance(node.input, nodes.Source):
            return runner.run
        return partial(dead_letters.run, runner)

    def _source(
        self,
        node: nodes.Source,
        schema: pa.Schema,
        picks: Sequence[str] | None,
        downstream: Link,
    ) -> SourceLink:
        definition = self._streams[node.stream]
        stream = definition.schema
        names = node.schema.names if picks is None else picks
        columns = tuple(stream.get_field_index(name) for name in names)
        is_all = picks is None and columns == tuple(range(len(stream)))
        of_time = [n == definition.event_time for n in names]
        time_names = frozenset(compress(schema.names, of_time))
        return SourceLink(
            node.stream, None if is_all else columns, schema, len(stream), time_names, downstream
        )

    def _operator(self, node: nodes.Node, downstream: Link) -> None:
        operator = make_operator(
            node, replace(self._context, is_deferred=self._sees_every_step(node))
        )
        self.pipelines.operators.append(operator)
        link = self._timed(node, OperatorLink(operator, node.watermark, downstream))
        outer = self._context
        if isinstance(operator, Changelog):
            self._context = replace(outer, changelog=operator)
        elif not isinstance(node, nodes.Aggregate) or node.phase != "partial":
            # A changelog belongs to the nearest aggregate below it and to none further down.
            self._context = replace(outer, changelog=None, closing=_closing(node))
        for below in node.inputs:
            self.build(below, link)
        self._context = outer

    def _sees_every_step(self, node: nodes.Node) -> bool:
        """Say whether an operator takes part in each step, so that it may keep groups for later."""
        return self._context.is_deferred or has_exchange(node)

    def _exchange(self, node: nodes.Exchange, downstream: Link) -> None:
        number = self._n_exchanges
        self._n_exchanges += 1
        is_first = not has_exchange(node.input)
        at_hand = self._context.at_hand
        n_senders = None if is_first else self._n_partitions
        self.pipelines.receivers[number] = Receiver(
            n_senders, at_hand, self._mail, downstream, merged_rows_max=self._merged_rows_max
        )
        sender = Sender(
            number,
            node.kind,
            node.keys,
            self._context.partition,
            self._n_partitions,
            self._mail,
            at_hand,
            is_eager=self._is_eager and is_first,
        )
        self.build(node.input, self._timed(node, sender))

    def _timed(self, node: nodes.Node, link: Link) -> Link:
        """Give a node an account of the time that it takes."""
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(node).__name__).lower()
        if isinstance(node, nodes.Aggregate) and node.phase != "single":
            kind = f"{node.phase}_{kind}"
        account = self._sheet.add_operator(f"{self._n_nodes}:{kind}")
        works_at_steps = not isinstance(node, nodes.Transform)
        return TimedLink(link, self._sheet, account, works_at_steps=works_at_steps)


def _closing(node: nodes.Node) -> nodes.Aggregate | nodes.WindowSelect | None:
    """Return a node that closes the windows which its input's rows are in."""
    if isinstance(node, nodes.WindowSelect):
        return node
    if isinstance(node, nodes.Aggregate) and node.window is not None and node.window.is_of_input:
        return node
    return None


def build_pipelines(
    root: nodes.Node,
    sink: Link,
    context: OperatorContext,
    *,
    streams: Mapping[str, StreamDefinition],
    tables: Mapping[str, pa.Table],
    n_partitions: int,
    mail: Mail,
    sheet: TimeSheet,
    is_eager: bool,
    merged_rows_max: int,
) -> Pipelines:
    """Build the pipelines of one partition.

    Args:
        root: Distributed plan.
        sink: Link behind the root.
        context: Of the partition.
        streams: Streams of the plan by name.
        tables: Contents of the session's tables.
        n_partitions: Number of partitions of the job.
        mail: Between the partitions.
        sheet: Of the partition.
        is_eager: Whether rows may pass the first exchange before their step ends, in any order.
        merged_rows_max: Rows up to which steps that wait are processed as one; 0 for never.
    """
    builder = _Builder(
        context, streams, tables, n_partitions, mail, sheet, is_eager, merged_rows_max
    )
    builder.build(root, sink)
    return builder.pipelines
