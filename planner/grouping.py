"""GROUP BY, HAVING and the aggregates of a block, with or without a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregates import Aggregates, aggregate_calls, call_parts
from millstream.planner.context import Piece, PlanContext
from millstream.planner.event_time import resolve_time
from millstream.planner.from_clause import From
from millstream.planner.nodes import Aggregate, Emit, Node, WatermarkBound, Window, quoted
from millstream.planner.place import span_of
from millstream.planner.scope import (
    WINDOW_COLUMNS,
    Relation,
    bound_column,
    bound_sql,
    identifier_name,
    window_role,
)
from millstream.planner.streaming_clauses import WindowCall
from millstream.planner.windows import (
    GROUP_WINDOWS,
    WindowSyntax,
    make_window,
    read_group_window,
    read_window_call,
)

__all__ = ["Grouped", "group", "has_group_window"]

_TIME = "__time"


@dataclass(frozen=True, slots=True)
class Grouped:
    """An aggregate and the words for what stands after it.

    Attributes:
        relation: Rows of the aggregate node; its columns are the node's own.
        having: Condition on groups, or None.
        block: Renders expressions of the select list over the node's columns.
    """

    relation: Relation
    having: Piece | None
    block: GroupBlock

    def render(self, node: exp.Expr) -> str:
        """SQL of a select-list expression over the aggregate's output."""
        return self.block.render(node)


@dataclass(slots=True)
class GroupBlock:
    """Replaces keys and aggregates in expressions that are computed after grouping."""

    context: PlanContext
    aggregates: Aggregates
    aliases: Mapping[str, exp.Expr]
    keys: dict[exp.Expr, str] = field(default_factory=dict)
    windowed: bool = False

    def render(self, node: exp.Expr) -> str:
        """SQL of ``node`` over the aggregate's output.

        Raises:
            SqlError: A column is neither grouped nor aggregated.
        """
        return self.context.source.splice(node, self.replace)

    def replace(self, node: exp.Expr) -> str | None:
        """SQL for a key, an aggregate or a window column; None for what merely holds some."""
        key = self.keys.get(node.unnest())
        if key is not None and span_of(node) is not None:
            return quoted(key)
        parts = call_parts(node)
        if (
            parts is not None
            and parts.over is None
            and parts.function in self.context.typer.aggregates
        ):
            return quoted(self.aggregates.reference(parts))
        if parts is not None and parts.function in GROUP_WINDOWS and self.windowed:
            raise self.context.source.error(
                "the window itself has no value; select window_start or window_end", node
            )
        if isinstance(node, exp.Column):
            return self._column(node)
        return None

    def _column(self, node: exp.Column) -> str:
        role = window_role(node)
        if role is not None and self.windowed:
            return quoted(role)
        alias = self.aliases.get(node.meta.get("millstream_alias", ""))
        if alias is not None:
            return f"({self.render(alias)})"
        raise self.context.source.error(
            f"column {bound_column(node)!r} is neither grouped nor aggregated; add it to GROUP BY "
            f"or aggregate it, such as first_value({bound_column(node)})",
            node,
        )


def group(
    context: PlanContext,
    select: exp.Select,
    source: From,
    aliases: Mapping[str, exp.Expr],
    roots: Sequence[exp.Expr],
    clause: WindowCall | None,
    where: exp.Expr | None,
) -> Grouped:
    """Lower grouping: transform, aggregate, and what HAVING becomes.

    Raises:
        SqlError: The clauses do not fit each other.
    """
    for root in roots:
        source.scope.bind(root)
    terms = _group_terms(context, select, source, aliases, roots)
    syntax, terms = _window_of(context, source, clause, terms)
    aggregates = Aggregates(context, bound_sql)
    block = GroupBlock(context, aggregates, aliases, windowed=syntax is not None)
    for term in terms:
        if window_role(term) is None:
            block.keys.setdefault(term, f"__k{len(block.keys)}")
    having = _bind_having(context, select, source, aliases)
    # Rendering finds the aggregates, which decides what the transform below has to compute.
    for root in (*roots, *([having] if having is not None else [])):
        block.render(root)
    node, window, watermark = _aggregate_input(context, source, block, syntax, where)
    relation = _aggregate(context, source, block, node, window, watermark)
    piece = None if having is None else Piece(having, block.render(having), block.render)
    return Grouped(relation, piece, block)


def _group_terms(
    context: PlanContext,
    select: exp.Select,
    source: From,
    aliases: Mapping[str, exp.Expr],
    roots: Sequence[exp.Expr],
) -> list[exp.Expr]:
    clause = select.args.get("group")
    if clause is None:
        return []
    for key, value in clause.args.items():
        if value and key != "expressions":
            raise context.source.error(f"GROUP BY {key.upper()} is not supported", clause)
    terms = []
    for written in clause.expressions:
        term = _resolve_term(context, written, source, aliases, roots)
        source.scope.bind(term)
        for parts in aggregate_calls(context, term):
            raise context.source.error(
                f"{parts.function} is an aggregate and cannot be grouped by", written
            )
        terms.append(term)
    return terms


def _resolve_term(
    context: PlanContext,
    term: exp.Expr,
    source: From,
    aliases: Mapping[str, exp.Expr],
    roots: Sequence[exp.Expr],
) -> exp.Expr:
    term = term.unnest()
    if isinstance(term, exp.Literal) and not term.is_string:
        position = int(term.this) if str(term.this).isdigit() else 0
        if not 1 <= position <= len(roots):
            raise context.source.error(
                f"GROUP BY position must be from 1 to {len(roots)}: {term.this}", term
            )
        return roots[position - 1].unnest()
    if isinstance(term, exp.Column) and len(term.parts) == 1 and bound_sql(term) is None:
        name = identifier_name(term.this)
        known = any(name in item.columns for item in source.scope.items)
        is_window = source.scope.windowed and name in WINDOW_COLUMNS
        if not known and not is_window and name in aliases:
            return aliases[name].unnest()
    return term


def has_group_window(select: exp.Select) -> bool:
    """Whether GROUP BY holds a window such as ``tumble(ts, INTERVAL '1' MINUTE)``."""
    clause = select.args.get("group")
    return clause is not None and any(_is_group_window(term) for term in clause.expressions)


def _is_group_window(term: exp.Expr) -> bool:
    return isinstance(term, exp.Anonymous) and str(term.name).lower() in GROUP_WINDOWS


def _window_of(
    context: PlanContext, source: From, clause: WindowCall | None, terms: list[exp.Expr]
) -> tuple[WindowSyntax | None, list[exp.Expr]]:
    found: list[WindowSyntax] = []
    if source.window is not None:
        found.append(source.window)
    if clause is not None:
        found.append(read_window_call(context, clause, clause=True))
    rest = []
    for term in terms:
        if isinstance(term, exp.Anonymous) and _is_group_window(term):
            found.append(read_group_window(context, term))
        else:
            rest.append(term)
    if len(found) > 1:
        raise context.source.error(
            "a query can have one window on each level; nest a second one in a subquery",
            found[1].place,
        )
    return (found[0] if found else None), rest


def _bind_having(
    context: PlanContext, select: exp.Select, source: From, aliases: Mapping[str, exp.Expr]
) -> exp.Expr | None:
    clause = select.args.get("having")
    if clause is None:
        return None
    condition: exp.Expr = clause.this
    bind_with_aliases(source, condition, aliases)
    return condition


def bind_with_aliases(source: From, root: exp.Expr, aliases: Mapping[str, exp.Expr]) -> None:
    """Bind an expression that may also name output columns; input columns come first."""
    for column in root.find_all(exp.Column):
        name = identifier_name(column.this)
        known = any(name in item.columns for item in source.scope.items)
        is_window = source.scope.windowed and name in WINDOW_COLUMNS
        if len(column.parts) == 1 and name in aliases and not known and not is_window:
            column.meta["millstream_alias"] = name
            column.meta["millstream_sql"] = ""
    source.scope.bind(root)


def _aggregate_input(
    context: PlanContext,
    source: From,
    block: GroupBlock,
    syntax: WindowSyntax | None,
    where: exp.Expr | None,
) -> tuple[Node, Window | None, tuple[WatermarkBound, ...]]:
    def render(node: exp.Expr) -> str:
        return context.source.splice(node, bound_sql)

    columns = [(name, Piece(term, render(term), render)) for term, name in block.keys.items()]
    columns.extend(block.aggregates.columns.items())
    window = None
    watermark = source.relation.node.watermark
    if syntax is not None:
        time = resolve_time(context, source, syntax)
        window = make_window(context, syntax, _TIME, time.data_type)
        watermark = time.watermark
        columns.append((_TIME, Piece(syntax.time, time.sql)))
    if not columns:
        columns.append(("__x0", Piece(None, _narrowest(source.relation))))
    condition = None if where is None else Piece(where, render(where), render)
    return context.transform(source.relation.node, columns, where=condition), window, watermark


def _narrowest(relation: Relation) -> str:
    def width(name: str) -> int:
        try:
            return int(relation.field(name).type.bit_width)
        except ValueError:
            return 1 << 16

    name = min(relation.columns, key=width)
    return quoted(relation.columns[name])


def _aggregate(
    context: PlanContext,
    source: From,
    block: GroupBlock,
    node: Node,
    window: Window | None,
    watermark: tuple[WatermarkBound, ...],
) -> Relation:
    calls = block.aggregates.typed(node.schema)
    keys = tuple(block.keys.values())
    fields: list[pa.Field] = []
    if window is not None:
        fields.extend(pa.field(name, window.time_type, nullable=False) for name in WINDOW_COLUMNS)
    fields.extend(node.schema.field(key) for key in keys)
    fields.extend(pa.field(call.name, call.result_type, call.function != "count") for call in calls)
    emit = _emit(context, window)
    lateness = max(
        (context.streams[bound.stream].allowed_lateness for bound in watermark), default=0
    )
    aggregate = Aggregate(
        input=node,
        keys=keys,
        window=window,
        calls=calls,
        emit=emit,
        schema=pa.schema(fields),
        watermark=watermark,
        allowed_lateness=lateness if window is not None else 0,
    )
    windows = {} if window is None else {name: name for name in WINDOW_COLUMNS}
    return Relation(
        node=aggregate,
        columns={name: name for name in aggregate.schema.names},
        event_times=_window_times(window, watermark, lateness),
        title="the grouped query",
        window_columns=windows,
        changes=emit == "changes",
        key_columns=(*windows, *keys),
    )


def _emit(context: PlanContext, window: Window | None) -> Emit:
    if context.emit is not None:
        return context.emit
    return "changes" if window is None else "final"


def _window_times(
    window: Window | None, watermark: tuple[WatermarkBound, ...], lateness: int
) -> dict[str, tuple[WatermarkBound, ...]]:
    """How far window columns of results to come may be behind the input's watermark.

    Windows that are still to close end after the watermark, or up to the allowed lateness before it when they
    are revised, so their end and their last moment are at or after it; they began up to their size earlier.
    Nothing bounds how long ago a session began.
    """
    if window is None:
        return {}
    late = tuple(WatermarkBound(b.stream, b.delay + lateness) for b in watermark)
    times = {"window_end": late, "window_time": late}
    if window.kind != "session":
        times["window_start"] = tuple(WatermarkBound(b.stream, b.delay + window.size) for b in late)
    return times
