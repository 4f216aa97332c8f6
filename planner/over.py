"""Window functions over the rows of a key, in event-time order or as rows arrive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregate_kernels import (
    FOLDING_FUNCTIONS,
)
from millstream.planner.aggregates import CallParts
from millstream.planner.context import Piece, PlanContext
from millstream.planner.event_time import find_event_time, waited_for
from millstream.planner.grouping import check_key_type
from millstream.planner.nodes import Node, Over, OverCall, quoted
from millstream.planner.over_call import RANKINGS, PendingCall, counts_rows
from millstream.planner.over_clause import Frame, OverClause, over_calls, read_over
from millstream.planner.place import Replace
from millstream.planner.ranking import rank_in_windows
from millstream.planner.row_order import row_order
from millstream.planner.scope import bound_column, bound_sql
from millstream.planner.stage import EventTime, Stage
from millstream.planner.unnest import refuse_unnest
from millstream.planner.windows import interval_units, is_time_type

__all__ = ["add_window_functions"]

# These depend on rows of the partition that come later.
_WHOLE_PARTITION = frozenset({"lead", "ntile", "percent_rank", "cume_dist"})
# These give a value of another row.
_LOOK_UPS = frozenset({"first_value", "last_value", "lag"})


def add_window_functions(
    context: PlanContext,
    stage: Stage,
    roots: Sequence[exp.Expr],
    named: Mapping[str, exp.Window],
) -> Stage:
    """Compute all window functions under ``roots``.

    Calls over the same rows in the same order share a node. Where the partition lies within a
    window, they are computed when the window closes, in any order; else rows must follow event
    time.

    Raises:
        SqlError: A call needs rows that are still to come, or its order is not known to streams.
    """
    groups: dict[_Rows, list[tuple[CallParts, OverClause]]] = {}
    for root in roots:
        for parts in over_calls(root):
            _check_call(context, parts)
            clause = read_over(context, parts, named)
            for part in (*parts.arguments, *clause.partition, *clause.order):
                refuse_unnest(context, part, "a window function", stage.replace)
            partition = tuple(stage.render(context, term) for term in clause.partition)
            within = _within_window(stage, partition)
            order = () if within else tuple(stage.render(context, t.this) for t in clause.order)
            groups.setdefault((within, partition, order), []).append((parts, clause))
    if not groups:
        return stage
    if stage.changes:
        raise context.source.error(
            f"window functions cannot follow results of {stage.title} that are still revised; "
            "use EMIT FINAL there",
            next(iter(groups.values()))[0][0].node,
        )
    # Rows that have waited for event time are not in the order of arrival any more.
    for (within, _, _), calls in sorted(groups.items(), key=_waits):
        stage = rank_in_windows(context, stage, calls) if within else _over(context, stage, calls)
    return stage


def _check_call(context: PlanContext, parts: CallParts) -> None:
    for argument in parts.arguments:
        for nested in over_calls(argument):
            raise context.source.error(
                "a window function cannot be an argument of another; use a subquery", nested.node
            )
    known = context.typer.aggregates | context.typer.window_functions
    if parts.function not in known:
        raise context.source.error(f"{parts.function} cannot be used with OVER", parts.node)


def _within_window(stage: Stage, partition: Sequence[str]) -> bool:
    if "window_end" not in stage.window_columns:
        return False
    ends = {stage.window_columns.get("window_end"), stage.window_columns.get("window_time")}
    return bool(ends & set(partition))


def _over(
    context: PlanContext, stage: Stage, calls: Sequence[tuple[CallParts, OverClause]]
) -> Stage:
    clause = calls[0][1]
    time = _order(context, stage, clause)
    builder = _Builder(context, stage)
    keys = tuple(builder.column(term) for term in clause.partition)
    order = None if time is None else builder.plain(time.sql)
    pending = [builder.call(parts, over, time) for parts, over in calls]
    node = stage.project(context, [*stage.passed(), *builder.columns.items()])
    for term, key in zip(clause.partition, keys, strict=True):
        check_key_type(context, term, node.schema.field(key).type)
    first = len(stage.columns)
    typed: dict[PendingCall, OverCall] = {}
    for call in pending:
        if call not in typed:
            name = f"__w{first + len(typed)}"
            typed[call] = call.typed(context, name, node.schema, keys, order)
    fields = [pa.field(call.name, call.result_type) for call in typed.values()]
    over = Over(
        input=node,
        keys=keys,
        order_column=order,
        calls=tuple(typed.values()),
        schema=pa.schema([*node.schema, *fields]),
        watermark=node.watermark if time is None else time.watermark,
        ties=_ties(context, stage, node, calls[0][0], time),
    )
    names = {
        id(parts.node): typed[call].name for (parts, _), call in zip(calls, pending, strict=True)
    }
    return replace(
        stage if time is None else waited_for(stage, time),
        node=over,
        replace=_with_calls(stage.replace, names),
        columns={name: quoted(name) for name in [*stage.columns, *names.values()]},
        inferable={},
        where=None,
    )


def _waits(group: tuple[_Rows, object]) -> bool:
    within, _, order = group[0]
    return within or bool(order)


def _ties(
    context: PlanContext, stage: Stage, node: Node, parts: CallParts, time: EventTime | None
) -> Literal["none", "arrival", "columns"]:
    """What orders rows that event time does not."""
    order = row_order(node)
    if time is not None:
        return "columns" if order == "none" else "none" if order == "arrival" else "arrival"
    if order in ("arrival", "mixed"):
        return "none" if order == "arrival" else "arrival"
    known = " or ".join(repr(known.name) for known in stage.event_times.values())
    advice = f"add ORDER BY {known}" if known else "pass an event time on and ORDER BY it"
    place = "in the order of event time" if order == "timed" else "in no particular order"
    raise context.source.error(
        f"rows of {stage.title} come {place}, so that OVER cannot take them as they come; {advice}",
        parts.node,
    )


def _with_calls(replace_below: Replace, names: Mapping[int, str]) -> Replace:
    def outer(node: exp.Expr) -> str | None:
        name = names.get(id(node))
        return replace_below(node) if name is None else quoted(name)

    return outer


def _order(context: PlanContext, stage: Stage, clause: OverClause) -> EventTime | None:
    """The event time by which rows are ordered; None for the order of arrival."""
    if not clause.order:
        return None
    term = clause.order[0]
    candidate = stage.inferable.get(bound_sql(term.this) or "")
    # A column of another type is refused for what it was meant for: as the order of rows.
    is_possible = candidate is None or is_time_type(candidate.data_type)
    time = find_event_time(context, stage, term.this) if is_possible else None
    known = " or ".join(repr(time.name) for time in stage.event_times.values())
    advice = f"use {known}" if known else "declare one with event_time="
    if time is None:
        name = bound_column(term.this) or "this"
        raise context.source.error(
            f"rows of a stream can be ordered by event time only, which {name} is not; {advice}, "
            "or add the end of a window to PARTITION BY",
            term,
        )
    if term.args.get("desc"):
        raise context.source.error("rows of a stream can be ordered by ascending time only", term)
    if len(clause.order) > 1:
        raise context.source.error(
            "rows of a stream are ordered by event time alone; rows of one time keep the order in "
            "which they came",
            clause.order[1],
        )
    return time


# Whether rows are those of a window, then the partition and the order as SQL.
_Rows = tuple[bool, tuple[str, ...], tuple[str, ...]]


@dataclass(slots=True)
class _Builder:
    """Collects the columns that window functions need."""

    context: PlanContext
    stage: Stage
    columns: dict[str, Piece] = field(default_factory=dict)

    def column(self, node: exp.Expr) -> str:
        """Name of a column with the value of an expression."""
        return self._named(self.stage.piece(self.context, node))

    def plain(self, sql: str) -> str:
        """Name of a column with the value of SQL over the stage."""
        return self._named(Piece(None, sql))

    def _named(self, piece: Piece) -> str:
        for name, sql in self.stage.columns.items():
            if sql == piece.sql:
                return name
        for name, known in self.columns.items():
            if known.sql == piece.sql:
                return name
        name = f"__v{len(self.stage.columns) + len(self.columns)}"
        self.columns[name] = piece
        return name

    def call(self, parts: CallParts, clause: OverClause, time: EventTime | None) -> PendingCall:
        """A call with its arguments as columns."""
        kind, preceding, frame_sql = _frame(self.context, parts, clause, time)
        names: dict[int, str] = {}
        if self._is_folded(parts):
            columns = self._folded(parts)
            sql = f"{parts.function}({', '.join(map(quoted, columns))})"
            return PendingCall(parts, sql, columns, kind, preceding, frame_sql)
        for place, argument in enumerate(parts.arguments):
            # Functions that look a value up do so in a column, be it of a constant.
            is_looked_up = place == 0 and parts.function in _LOOK_UPS
            if is_looked_up or self.stage.refers(argument) or argument.find(exp.Query) is not None:
                names[id(argument)] = self.column(argument)
        for term in parts.order:
            names[id(term.this)] = self.column(term.this)
        if parts.filter is not None:
            names[id(parts.filter)] = self.column(parts.filter)

        def put(node: exp.Expr) -> str | None:
            name = names.get(id(node))
            return None if name is None else quoted(name)

        assert parts.over is not None
        sql = self.context.source.splice_call(parts.over, put)
        return PendingCall(
            parts, sql, tuple(dict.fromkeys(names.values())), kind, preceding, frame_sql
        )

    def _is_folded(self, parts: CallParts) -> bool:
        """Whether all that a call reads can be columns whose NULLs it ignores."""
        name = parts.function
        if name not in FOLDING_FUNCTIONS or name in self.context.catalog.functions:
            return False
        if parts.distinct or parts.order or parts.nulls == "ignore":
            return False
        # Others take all arguments from columns, even constants, or the same one twice.
        return parts.filter is not None or not counts_rows(parts)

    def _folded(self, parts: CallParts) -> tuple[str, ...]:
        """Columns for the arguments of a call; rows that FILTER leaves out have NULL there."""
        if parts.filter is None:
            return tuple(self.column(argument) for argument in parts.arguments)
        condition = self.stage.render(self.context, parts.filter)
        values = [
            "1" if isinstance(argument, exp.Star) else self.stage.render(self.context, argument)
            for argument in parts.arguments
        ]
        return tuple(
            self._named(
                Piece(
                    parts.filter,
                    f"CASE WHEN {condition} THEN {value} END",
                    beside=parts.arguments,
                )
            )
            for value in values or ["1"]
        )


def _frame(
    context: PlanContext, parts: CallParts, clause: OverClause, time: EventTime | None
) -> tuple[Literal["rows", "range"], int | None, str]:
    """Kind, reach and text of the frame of a call."""
    function = parts.function
    if function in _WHOLE_PARTITION:
        raise context.source.error(
            f"{function} needs rows that are still to come; use it within a window, by adding the "
            "window's end to PARTITION BY",
            parts.node,
        )
    if function == "lag":
        # Rows that are NULL do not count, so the row looked for may be any distance away.
        is_anywhere = parts.nulls == "ignore"
        return "rows", None if is_anywhere else _lag_offset(context, parts), ""
    if function in RANKINGS:
        if function != "row_number" and time is None:
            raise context.source.error(f"{function} needs ORDER BY", parts.node)
        return "rows", None, ""
    frame = clause.frame
    if frame is None:
        if time is None:
            raise context.source.error(
                "without ORDER BY the frame is the whole partition, of which rows are still to "
                "come; add ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
                parts.node,
            )
        return "range", None, ""
    preceding = _preceding(context, frame, time)
    text = frame.sql(lambda node: _bound_text(context, node))
    return ("rows" if frame.kind == "rows" else "range"), preceding, text


def _bound_text(context: PlanContext, node: exp.Expr) -> str:
    if isinstance(node, exp.Literal):
        return str(node.this)
    return context.source.splice(node, lambda _: None)


def _preceding(context: PlanContext, frame: Frame, time: EventTime | None) -> int | None:
    if "following" in (frame.start_side, frame.end_side):
        raise context.source.error(
            "a frame with FOLLOWING needs rows that are still to come; end it at CURRENT ROW",
            frame.place,
        )
    if frame.kind == "groups":
        raise context.source.error(
            "GROUPS frames are not supported; use ROWS or RANGE", frame.place
        )
    if not frame.ends_now:
        raise context.source.error("a frame must end at CURRENT ROW", frame.place)
    if frame.kind == "range" and time is None:
        raise context.source.error("a RANGE frame needs ORDER BY event time", frame.place)
    if frame.start == "UNBOUNDED":
        return None
    if frame.start == "CURRENT ROW":
        return 0
    assert isinstance(frame.start, exp.Expr)
    if frame.kind == "range":
        assert time is not None
        return interval_units(context, frame.start, time.data_type, "range")
    text = _bound_text(context, frame.start)
    if not text.isdigit():
        raise context.source.error(
            f"a ROWS frame takes a whole number of rows: {text}", frame.place
        )
    return int(text)


def _lag_offset(context: PlanContext, parts: CallParts) -> int:
    if len(parts.arguments) < 2:
        return 1
    text = _bound_text(context, parts.arguments[1])
    if not text.isdigit():
        raise context.source.error(
            f"lag takes a whole number of rows to look back: {text}", parts.arguments[1]
        )
    return int(text)
