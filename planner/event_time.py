"""Event time: which column a window follows, and how its watermark comes from those of the streams."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
from sqlglot import exp

from millstream.planner.context import PlanContext
from millstream.planner.from_clause import From
from millstream.planner.nodes import Source, WatermarkBound, quoted
from millstream.planner.scope import bound_sql
from millstream.planner.windows import WindowSyntax, check_time_type, not_event_time

__all__ = ["EventTime", "resolve_time"]


@dataclass(frozen=True, slots=True)
class EventTime:
    """A column that a watermark follows: its name, SQL over the block's input, type and watermark."""

    name: str
    sql: str
    data_type: pa.DataType
    watermark: tuple[WatermarkBound, ...]


def resolve_time(context: PlanContext, source: From, syntax: WindowSyntax) -> EventTime:
    """Find the event time of a window.

    Raises:
        SqlError: The column is no event time of what is read.
    """
    if syntax.time is None:
        return _default_time(context, source, syntax.place)
    if not isinstance(syntax.time, exp.Column):
        raise context.source.error(
            "a window needs a plain column as event time; compute it in a subquery", syntax.time
        )
    source.scope.bind(syntax.time, within_window=False)
    return named_time(context, source, syntax.time)


def named_time(context: PlanContext, source: From, column: exp.Expr) -> EventTime:
    """The event time that a bound column is.

    Raises:
        SqlError: The column is no event time of what is read.
    """
    sql = bound_sql(column)
    relation = source.relation
    for name, node_column in relation.columns.items():
        if sql != source.scope.items[0].columns[name]:
            continue
        data_type = relation.field(name).type
        check_time_type(context, column, name, data_type)
        if name in relation.event_times:
            return EventTime(name, sql, data_type, relation.event_times[name])
        if not relation.event_times and isinstance(relation.node, Source):
            watermark = _inferred(context, relation.node.stream, node_column)
            if watermark is not None:
                return EventTime(name, sql, data_type, watermark)
        raise not_event_time(context, column, name, relation.title, tuple(relation.event_times))
    raise context.source.error("event time must be a column of the stream", column)


def _default_time(context: PlanContext, source: From, place: exp.Expr) -> EventTime:
    relation = source.relation
    if not relation.event_times:
        raise context.source.error(
            f"{relation.title} has no event time, which a window needs; declare one with "
            "event_time=, or name the column in the window",
            place,
        )
    name = next(iter(relation.event_times))
    return EventTime(
        name,
        quoted(relation.columns[name]),
        relation.field(name).type,
        relation.event_times[name],
    )


def _inferred(context: PlanContext, stream: str, column: str) -> tuple[WatermarkBound, ...] | None:
    definition = context.streams[stream]
    if not context.catalog.infer_event_time or definition.event_time not in (None, column):
        return None
    context.streams[stream] = replace(definition, event_time=column, max_out_of_orderness=None)
    return (WatermarkBound(stream),)
