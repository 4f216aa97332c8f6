"""Event time: which column a window or an order follows, and putting rows into windows."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
from sqlglot import exp

from millstream.planner.context import PlanContext
from millstream.planner.from_clause import From
from millstream.planner.nodes import WINDOW_COLUMNS, AssignWindows, WatermarkBound, Window, quoted
from millstream.planner.scope import bound_column, bound_sql
from millstream.planner.stage import EventTime, Stage
from millstream.planner.windows import (
    WindowSyntax,
    check_time_type,
    make_window,
    not_event_time,
)

__all__ = [
    "assign_windows",
    "before",
    "delayed",
    "find_event_time",
    "resolve_time",
    "waited_for",
    "window_times",
]


def resolve_time(context: PlanContext, source: From, syntax: WindowSyntax) -> EventTime:
    """Find the event time of a window.

    Raises:
        SqlError: The column is no event time of what is read.
    """
    stage = source.stage
    if syntax.time is None:
        if not stage.event_times:
            raise context.source.error(
                f"{stage.title} has no event time, which a window needs; declare one with "
                "event_time=, or name the column in the window",
                syntax.place,
            )
        return next(iter(stage.event_times.values()))
    if not isinstance(syntax.time, exp.Column):
        raise context.source.error(
            "a window needs a plain column as event time; compute it in a subquery", syntax.time
        )
    source.scope.bind(syntax.time, within_window=False)
    time = find_event_time(context, stage, syntax.time)
    if time is None:
        known = tuple(known.name for known in stage.event_times.values())
        name = bound_column(syntax.time) or ""
        raise not_event_time(context, syntax.time, name, stage.title, known)
    return time


def find_event_time(context: PlanContext, stage: Stage, column: exp.Expr) -> EventTime | None:
    """The event time that a bound column is, or can be declared to be; None if it is none.

    Raises:
        SqlError: The column is of a type that cannot be event time.
    """
    sql = bound_sql(column)
    if sql is None:
        return None
    known = stage.event_times.get(sql)
    if known is not None:
        return known
    candidate = stage.inferable.get(sql)
    if candidate is None:
        return None
    check_time_type(context, column, candidate.name, candidate.data_type)
    definition = context.streams[candidate.stream]
    if not context.catalog.infer_event_time or definition.event_time not in (
        None,
        candidate.column,
    ):
        return None
    context.streams[candidate.stream] = replace(
        definition, event_time=candidate.column, max_out_of_orderness=None
    )
    bound = WatermarkBound(candidate.stream)
    return EventTime(candidate.name, sql, candidate.data_type, (bound,))


def assign_windows(context: PlanContext, source: From, syntax: WindowSyntax) -> Stage:
    """Put rows into windows without grouping them.

    Raises:
        SqlError: The window is a session, or the rows have window columns already.
    """
    if syntax.kind == "session":
        raise context.source.error(
            "a session exists only for groups; GROUP BY window_start and window_end", syntax.place
        )
    stage = source.stage
    taken = next((name for name in WINDOW_COLUMNS if name in stage.node.schema.names), None)
    if taken is not None:
        raise context.source.error(
            f"{stage.title} has a column {taken!r} already; rename it in a subquery", syntax.place
        )
    time = resolve_time(context, source, syntax)
    column = next(name for name in stage.node.schema.names if time.sql.endswith(quoted(name)))
    window = make_window(context, syntax, column, time.data_type)
    fields = [pa.field(name, window.time_type, nullable=False) for name in WINDOW_COLUMNS]
    node = AssignWindows(
        input=stage.node,
        window=window,
        schema=pa.schema([*stage.node.schema, *fields]),
        watermark=time.watermark,
    )
    sql = {name: source.scope.window_prefix + quoted(name) for name in WINDOW_COLUMNS}
    times = window_times(window, time.watermark, 0)
    return replace(
        stage,
        node=node,
        columns={**stage.columns, **sql},
        event_times={
            **stage.event_times,
            **{
                sql[name]: EventTime(name, sql[name], window.time_type, bounds)
                for name, bounds in times.items()
            },
        },
        window_columns=sql,
        before_end=frozenset({time.sql}),
        inferable={},
    )


def waited_for(stage: Stage, time: EventTime) -> Stage:
    """Say what columns are good for after rows have waited for the watermark of an event time.

    Rows still to come are not before that watermark, whatever else they were in step with. So the
    ends of their windows are beyond it if the time lies before the end, and beyond the watermark of
    a unit earlier if it is the end itself. Where it may lie after the end, nobody knows when all
    rows of a window have come, and its columns are columns like others.
    """
    times = {time.sql: time}
    is_end = time.sql == stage.window_columns.get("window_end")
    if not is_end and not stage.is_before_end(time.sql):
        return replace(
            stage, event_times=times, window_columns={}, before_end=frozenset(), settled=True
        )
    watermark = delayed(time.watermark, 1) if is_end else time.watermark
    for role in ("window_end", "window_time"):
        known = stage.event_times.get(stage.window_columns.get(role, ""))
        if known is not None:
            times[known.sql] = replace(known, watermark=watermark)
    return replace(stage, event_times=times, settled=True)


def delayed(watermark: tuple[WatermarkBound, ...], delay: int) -> tuple[WatermarkBound, ...]:
    """A watermark that lags by so much more."""
    return tuple(WatermarkBound(bound.stream, bound.delay + delay) for bound in watermark)


def before(context: PlanContext, sql: str, data_type: pa.DataType) -> str:
    """SQL of the moment one unit before a time."""
    number = "Int32" if pa.types.is_date32(data_type) else "Int64"
    name = context.typer.type_name(data_type)
    return f"arrow_cast(arrow_cast({sql}, '{number}') - 1, '{name}')"


def window_times(
    window: Window, watermark: tuple[WatermarkBound, ...], lateness: int
) -> dict[str, tuple[WatermarkBound, ...]]:
    """How far window columns of rows to come may be behind the watermark that closes the windows.

    Windows still to come end after the watermark, or up to the allowed lateness before it when they
    are revised. So their end and their last moment are not before it, and they began at most their
    size earlier. A session still to come may end right at the watermark, with its last moment one
    unit before. An end counts as behind a watermark that has reached it, so that neither is in step
    with this one, but with one that comes a unit later; and nothing bounds how long ago it began.
    """
    late = delayed(watermark, lateness)
    if window.kind == "session":
        later = delayed(late, 1)
        return {"window_end": later, "window_time": later}
    return {
        "window_end": late,
        "window_time": late,
        "window_start": delayed(late, window.size),
    }
