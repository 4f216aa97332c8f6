"""When the groups of an aggregate are complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from millstream.planner.context import PlanContext
from millstream.planner.event_time import before, delayed, resolve_time
from millstream.planner.from_clause import From
from millstream.planner.grouping_sets import GroupTerms
from millstream.planner.nodes import WatermarkBound, Window
from millstream.planner.row_order import mixes_waiting_rows
from millstream.planner.scope import bound_sql
from millstream.planner.stage import Stage
from millstream.planner.windows import WindowSyntax, make_window

__all__ = [
    "NEVER",
    "TIME_COLUMN",
    "Closing",
    "allowed_lateness",
    "own_window",
    "unit_window",
    "window_below",
    "with_lateness",
]

TIME_COLUMN = "__time"


@dataclass(frozen=True, slots=True)
class Closing:
    """When groups are complete.

    Attributes:
        window: Window whose end completes a group, or None where only the end of the input does.
        time_sql: SQL of its event time over the input.
        watermark: What closes the window.
        lateness: Event time for which a closed window can still be revised.
        delay: Event time by which ``watermark`` lags behind that of the rows.
    """

    window: Window | None = None
    time_sql: str = ""
    watermark: tuple[WatermarkBound, ...] = ()
    lateness: int = 0
    delay: int = 0


NEVER = Closing()


def own_window(context: PlanContext, source: From, syntax: WindowSyntax) -> Closing:
    """How groups of the block's own window close.

    Raises:
        SqlError: The window cannot work over what is read.
    """
    time = resolve_time(context, source, syntax)
    if syntax.kind == "session" and mixes_waiting_rows(source.stage.node):
        raise context.source.error(
            f"sessions cannot be made of {source.stage.title}, in which rows that have waited for "
            "event time come among rows that have not; let all inputs of the union wait, by OVER "
            "ordered by event time",
            syntax.place,
        )
    window = make_window(context, syntax, TIME_COLUMN, time.data_type)
    return Closing(window, time.sql, time.watermark)


def window_below(context: PlanContext, stage: Stage, terms: GroupTerms) -> Closing:
    """How groups close that have the end of a window of the input among their keys.

    Whatever the shape of that window, the group is complete when the watermark reaches its end. A
    window of one unit with the same end says so, while the columns of the window are plain keys.
    """
    sql = {bound_sql(term): term for term in terms.keys}
    for role in ("window_end", "window_time"):
        column = stage.window_columns.get(role)
        time = stage.event_times.get(column or "")
        term = sql.get(column)
        if column is None or time is None or term is None:
            continue
        if any(kept is not None and term not in kept for kept in terms.sets):
            continue
        moment = stage.window_columns.get("window_time") or before(context, column, time.data_type)
        return Closing(unit_window(time.data_type), moment, time.watermark)
    return NEVER


def unit_window(time_type: pa.DataType) -> Window:
    """A window of the last unit before the end of another one, which closes when that does."""
    return Window("tumble", TIME_COLUMN, time_type, 1, 1, is_of_input=True)


def allowed_lateness(context: PlanContext, watermark: Sequence[WatermarkBound]) -> int:
    """Event time for which the streams behind a watermark let closed windows be revised."""
    return max(context.streams[bound.stream].allowed_lateness for bound in watermark)


def with_lateness(context: PlanContext, stage: Stage, closing: Closing, *, n_sets: int) -> Closing:
    """Say until when rows are waited for: the closing with its watermark and lateness."""
    if closing.window is None:
        return replace(closing, watermark=stage.node.watermark)
    if stage.settled:
        return closing
    lateness = allowed_lateness(context, closing.watermark)
    if context.may_revise and n_sets == 1:
        return replace(closing, lateness=lateness)
    # What follows could not take a result back, so windows close later instead.
    return replace(closing, watermark=delayed(closing.watermark, lateness), delay=lateness)
