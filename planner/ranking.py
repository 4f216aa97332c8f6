"""What is computed when a window closes: ranks within it, and ORDER BY with LIMIT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregates import CallParts
from millstream.planner.closing import allowed_lateness
from millstream.planner.context import INPUT, Piece, PlanContext
from millstream.planner.event_time import delayed
from millstream.planner.nodes import (
    ARRIVAL_COLUMN,
    AssignWindows,
    Node,
    PlaceOrder,
    Projection,
    Source,
    Transform,
    WatermarkBound,
    WindowSelect,
    passing_sql,
    quoted,
)
from millstream.planner.over_clause import OverClause
from millstream.planner.scope import Relation
from millstream.planner.stage import Stage
from millstream.planner.typing import TypingError

__all__ = ["SortTerm", "order_in_windows", "rank_in_windows"]

# Calls by which a row that others are better than can only fall behind as more rows come.
_PLACES = frozenset({"rank", "row_number"})
_ARRIVAL = pa.field(ARRIVAL_COLUMN, pa.int64(), nullable=False)


def rank_in_windows(
    context: PlanContext, stage: Stage, calls: Sequence[tuple[CallParts, OverClause]]
) -> Stage:
    """Compute window functions whose partitions lie within windows.

    Raises:
        SqlError: DataFusion refuses a call.
    """
    partition = [stage.render(context, term) for term in calls[0][1].partition]
    columns = stage.passed()
    names = {sql: name for name, sql in stage.columns.items()}
    for index, (term, sql) in enumerate(zip(calls[0][1].partition, partition, strict=True)):
        if sql not in names:
            names[sql] = f"__p{len(stage.columns) + index}"
            columns.append((names[sql], stage.piece(context, term)))
    node = stage.project(context, columns)
    windows = set(stage.window_columns.values())
    keys = tuple(names[sql] for sql in partition if sql not in windows)
    ties = _tie_breakers(node)
    texts = {
        f"__w{len(stage.columns) + index}": _call_sql(context, stage, parts, clause, ties)
        for index, (parts, clause) in enumerate(calls)
    }
    computed = tuple(Projection(text, name) for name, text in texts.items())
    sql = passing_sql(node.schema.names, computed)
    typed = _typed(context, sql, node.schema.append(_ARRIVAL), calls)
    end = _end_column(stage)
    wait = _wait(context, stage)
    select = WindowSelect(
        input=node,
        window_end_column=names[end],
        keys=keys,
        sql=sql,
        schema=pa.schema([*node.schema, *list(typed)[len(node.schema) :]]),
        watermark=delayed(_watermark(stage), wait),
        computed=computed,
        order=_place_order(context, stage, node, calls, computed),
    )
    by_call = {id(parts.node): name for (parts, _), name in zip(calls, texts, strict=True)}
    below = stage.replace

    def outer(node: exp.Expr) -> str | None:
        name = by_call.get(id(node))
        return below(node) if name is None else quoted(name)

    # Rows wait for their window to close, so their own times are no longer in step with the
    # watermark.
    times = {
        sql: replace(time, watermark=delayed(time.watermark, wait))
        for sql, time in stage.event_times.items()
        if sql in windows
    }
    return replace(
        stage,
        node=select,
        replace=outer,
        columns={name: quoted(name) for name in [*stage.columns, *texts]},
        event_times=times,
        settled=True,
        inferable={},
        where=None,
    )


def _place_order(
    context: PlanContext,
    stage: Stage,
    node: Node,
    calls: Sequence[tuple[CallParts, OverClause]],
    computed: Sequence[Projection],
) -> PlaceOrder | None:
    """Say what places come by, if all that is computed are the places of rows in windows."""
    parts, clause = calls[0]
    partition = {stage.render(context, term) for term in clause.partition}
    if len(calls) > 1 or parts.function not in _PLACES or _end_column(stage) not in partition:
        return None
    if not clause.order:
        return None
    return _order_of(
        node, stage.render(context, clause.order[0].this), clause.order[0], computed[0].name
    )


def _order_of(node: Node, sql: str, term: exp.Ordered, place: str | None) -> PlaceOrder | None:
    """Say that places come by an expression, if that is a column of numbers or times."""
    for field in node.schema:
        if sql == quoted(field.name) and _is_comparable(field.type):
            return PlaceOrder(place, field.name, bool(term.args.get("desc")))
    return None


def _is_comparable(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(type_)
        or pa.types.is_float32(type_)
        or pa.types.is_float64(type_)
        or pa.types.is_timestamp(type_)
        or pa.types.is_date(type_)
    )


# Functions that have no frame, of rows one by one or with their peers.
_BY_ROW = frozenset({"lag", "lead", "ntile", "row_number"})
_BY_PEERS = frozenset({"cume_dist", "dense_rank", "percent_rank", "rank"})
_BY_ORDER = frozenset({"array_agg", "first_value", "last_value", "nth_value", "string_agg"})


def _tie_breakers(node: Node) -> list[str]:
    """Return what orders rows that agree in all else, so that the answer is always the same.

    Rows straight from a stream keep the order in which they came. What other operators give comes
    in an order that depends on how they were run, so there the rows themselves have to decide.
    """
    if isinstance(node, Transform):
        order = _tie_breakers(node.input)
        return order if order == [quoted(ARRIVAL_COLUMN)] else _sortable(node.schema)
    if isinstance(node, Source):
        return [quoted(ARRIVAL_COLUMN)]
    if isinstance(node, AssignWindows):
        # The copies of a row are in different windows: within each, rows are still in order.
        return _tie_breakers(node.input)
    return _sortable(node.schema)


def _sortable(schema: pa.Schema) -> list[str]:
    return [quoted(field.name) for field in schema if not pa.types.is_nested(field.type)]


def _call_sql(
    context: PlanContext,
    stage: Stage,
    parts: CallParts,
    clause: OverClause,
    ties: Sequence[str],
) -> str:
    assert parts.over is not None
    call = context.source.splice_call(parts.over, stage.replace)
    words = []
    if clause.partition:
        terms = ", ".join(stage.render(context, term) for term in clause.partition)
        words.append(f"PARTITION BY {terms}")
    order = [_ordered(stage.render(context, t.this), t) for t in clause.order]
    frame = "" if clause.frame is None else clause.frame.sql(lambda node: _plain(context, node))
    if _tells_peers_apart(parts.function, clause):
        order += ties
        if not clause.order and not frame:
            # With an order, the frame would else end at the current row.
            frame = "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING"
    if clause.order and not frame and parts.function in _BY_ROW | _BY_PEERS:
        # They would else have a frame by values, which they ignore, and not all types can have.
        frame = "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    if order:
        words.append(f"ORDER BY {', '.join(order)}")
    return f"{call} OVER ({' '.join([*words, frame])})"


def _tells_peers_apart(function: str, clause: OverClause) -> bool:
    """Whether a result depends on the order of rows that agree in what they are ordered by.

    A frame by values ends with a row's peers: there, only what its first row tells can be known by
    a further order without another frame.
    """
    frame = clause.frame
    if function in _BY_ROW or (frame is not None and frame.kind == "rows"):
        return function not in _BY_PEERS
    if frame is None and not clause.order:
        return function in _BY_ORDER
    return function == "first_value" and (frame is None or frame.start == "UNBOUNDED")


def _plain(context: PlanContext, node: exp.Expr) -> str:
    if isinstance(node, exp.Literal):
        return str(node.this)
    return context.source.splice(node, lambda _: None)


def _ordered(sql: str, term: exp.Ordered) -> str:
    direction = "DESC" if term.args.get("desc") else "ASC"
    nulls = "FIRST" if term.args.get("nulls_first") else "LAST"
    return f"{sql} {direction} NULLS {nulls}"


def _typed(
    context: PlanContext,
    sql: str,
    schema: pa.Schema,
    calls: Sequence[tuple[CallParts, OverClause]],
) -> pa.Schema:
    try:
        return context.typer.schema(sql, {INPUT: schema})
    except TypingError as failure:
        raise context.source.error(str(failure), calls[0][0].node) from failure


def _end_column(stage: Stage) -> str:
    """SQL of the column that says when a window closes."""
    end = stage.window_columns.get("window_end")
    # window_time is one unit before the end. A window whose last moment the watermark has reached
    # may still get rows, so it cannot stand in for the end.
    assert end is not None, "a stage with windows passes their ends on"
    return end


def _watermark(stage: Stage) -> tuple[WatermarkBound, ...]:
    time = stage.event_times.get(_end_column(stage))
    return stage.node.watermark if time is None else time.watermark


def _wait(context: PlanContext, stage: Stage) -> int:
    """Event time for which windows wait for late rows, since what they give is not revised."""
    return 0 if stage.settled else allowed_lateness(context, _watermark(stage))


@dataclass(frozen=True, slots=True)
class SortTerm:
    """One term of ORDER BY: what it sorts by, and how."""

    piece: Piece
    term: exp.Ordered


def order_in_windows(
    context: PlanContext,
    stage: Stage,
    outputs: Sequence[tuple[str, Piece]],
    order: Sequence[SortTerm],
    limit: int | None,
) -> Relation:
    """Sort the rows of each window when it closes, and keep the first ones.

    Raises:
        SqlError: DataFusion refuses an expression.
    """
    sorts = [(f"__s{index}", term.piece) for index, term in enumerate(order)]
    windows = [
        (f"__{role}", Piece(None, stage.window_columns[role]))
        for role in ("window_end", "window_start")
        if role in stage.window_columns
    ]
    columns = [*outputs, *sorts, *windows]
    node = stage.project(context, columns)
    sorted_by = [
        _ordered(quoted(name), term.term) for (name, _), term in zip(sorts, order, strict=True)
    ]
    terms = ", ".join([*sorted_by, *_tie_breakers(node)])
    partition = ", ".join(quoted(name) for name, _ in windows)
    listed = ", ".join(quoted(name) for name, _ in outputs)
    numbered = (
        f"SELECT *, row_number() OVER (PARTITION BY {partition} ORDER BY {terms}) "
        f'AS "__n" FROM {quoted(INPUT)}'
    )
    kept = "" if limit is None else f' WHERE "__n" <= {limit}'
    sql = f'SELECT {listed} FROM ({numbered}){kept} ORDER BY {partition}, "__n"'
    names = [name for name, _ in outputs]
    wait = _wait(context, stage)
    select = WindowSelect(
        input=node,
        window_end_column="__window_end",
        keys=(),
        sql=sql,
        schema=pa.schema([node.schema.field(name) for name in names]),
        watermark=delayed(_watermark(stage), wait),
        order=_order_of(node, quoted("__s0"), order[0].term, None) if order else None,
        first_rows=limit,
    )
    relation = stage.relation(node, columns)
    shown = set(names)
    roles = {role: name for role, name in relation.window_columns.items() if name in shown}
    times = {
        name: delayed(time, wait)
        for name, time in relation.event_times.items()
        if name in roles.values()
    }
    return replace(
        relation,
        node=select,
        columns={name: name for name in names},
        event_times=times,
        window_columns=roles,
        settled=True,
        before_end=frozenset(),
    )
