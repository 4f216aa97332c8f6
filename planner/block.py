"""One SELECT: its clauses in the order in which they act, from FROM to the select list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from millstream.planner.aggregates import aggregate_calls
from millstream.planner.context import Piece, PlanContext
from millstream.planner.from_clause import From, lower_from
from millstream.planner.grouping import Grouped, group, has_group_window
from millstream.planner.nodes import Transform, quoted
from millstream.planner.place import span_of
from millstream.planner.scope import Relation, bound_sql, identifier_name
from millstream.planner.streaming_clauses import WindowCall

__all__ = ["SelectItem", "lower_select"]

_HANDLED = frozenset(
    {"expressions", "from_", "where", "group", "having", "windows", "emit", "kind"}
)
_REFUSED: Mapping[str, str] = {
    "limit": "LIMIT needs a window, within which rows are counted",
    "offset": "OFFSET is not supported",
    "order": "ORDER BY needs a window, within which rows are sorted",
    "locks": "FOR UPDATE and the like mean nothing for a stream; leave them out",
    "sample": "TABLESAMPLE is not supported",
    "pivots": "PIVOT is not supported; use aggregates with FILTER",
    "laterals": "LATERAL is not supported",
    "into": "SELECT INTO is not supported; give the query a sink",
    "hint": "hints are not supported; leave them out",
    "match": "MATCH_RECOGNIZE is not supported",
    "connect": "CONNECT BY is not supported",
}


@dataclass(frozen=True, slots=True)
class SelectItem:
    """One term of the select list: its expression without the alias, and the output column's name."""

    node: exp.Expr
    name: str


def lower_select(context: PlanContext, select: exp.Select) -> Relation:
    """Lower one SELECT to nodes.

    Raises:
        SqlError: A clause is not supported or does not fit the others.
    """
    _check_clauses(context, select)
    source = lower_from(context, select)
    items = _select_items(context, select, source)
    clause = _window_clause(select)
    if clause is not None or has_group_window(select):
        source.scope.windowed = True
    where = _where(context, select, source)
    if _is_grouped(context, select, items, clause):
        grouped = group(
            context, select, source, items_by_name(items), [i.node for i in items], clause, where
        )
        return _project_grouped(context, select, grouped, items)
    return _project(context, select, source, items, where)


def _check_clauses(context: PlanContext, select: exp.Select) -> None:
    for key, value in select.args.items():
        if value and key not in _HANDLED:
            place = value[0] if isinstance(value, list) else value
            reason = _REFUSED.get(key, f"{key.upper()} is not supported")
            raise context.source.error(reason, place if isinstance(place, exp.Expr) else select)


def _window_clause(select: exp.Select) -> WindowCall | None:
    for window in select.args.get("windows") or ():
        if isinstance(window, WindowCall):
            return window
    return None


def _select_items(context: PlanContext, select: exp.Select, source: From) -> tuple[SelectItem, ...]:
    items: list[SelectItem] = []
    for term in select.expressions:
        if _is_star(term):
            items.extend(_expand_star(context, term, source))
            continue
        node = term.this if isinstance(term, exp.Alias) else term
        name = identifier_name(term.args["alias"]) if isinstance(term, exp.Alias) else None
        items.append(SelectItem(node, _default_name(context, node) if name is None else name))
    _check_names(context, select, items)
    return tuple(items)


def _is_star(term: exp.Expr) -> bool:
    return isinstance(term, exp.Star) or (
        isinstance(term, exp.Column) and isinstance(term.this, exp.Star)
    )


def _expand_star(context: PlanContext, term: exp.Expr, source: From) -> list[SelectItem]:
    star = term.this if isinstance(term, exp.Column) else term
    if any(star.args.values()):
        raise context.source.error("* takes no EXCEPT or REPLACE; list the columns", term)
    alias = identifier_name(term.args["table"]) if isinstance(term, exp.Column) else None
    found = [item for item in source.scope.items if alias is None or item.alias == alias]
    if not found:
        raise context.source.error(f"unknown relation {alias!r}", term)
    items = []
    for item in found:
        for name in item.columns:
            column = exp.Column(
                this=exp.to_identifier(name, quoted=True),
                table=exp.to_identifier(item.alias, quoted=True),
            )
            column.meta.update(term.meta)
            items.append(SelectItem(column, name))
    return items


def _default_name(context: PlanContext, node: exp.Expr) -> str:
    if isinstance(node, exp.Column):
        return identifier_name(node.this)
    span = span_of(node)
    return "?column?" if span is None else context.source.name(span)


def _check_names(context: PlanContext, select: exp.Select, items: Sequence[SelectItem]) -> None:
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise context.source.error(
                f"two output columns are called {item.name!r}; give one an alias with AS", item.node
            )
        if item.name.startswith("__") or item.name == "_op":
            raise context.source.error(
                f"output column names that begin with two underscores, and _op, are reserved: {item.name!r}",
                item.node,
            )
        seen.add(item.name)
    if not items:
        raise context.source.error("the select list is empty", select)


def items_by_name(items: Sequence[SelectItem]) -> dict[str, exp.Expr]:
    """Select list by output name, for clauses that may name an alias."""
    return {item.name: item.node for item in items}


def _where(context: PlanContext, select: exp.Select, source: From) -> exp.Expr | None:
    clause = select.args.get("where")
    if clause is None:
        return None
    condition: exp.Expr = clause.this
    for parts in aggregate_calls(context, condition):
        raise context.source.error(
            f"{parts.function} is an aggregate and cannot be used in WHERE; use HAVING", parts.node
        )
    source.scope.bind(condition, within_window=False)
    return condition


def _is_grouped(
    context: PlanContext,
    select: exp.Select,
    items: Sequence[SelectItem],
    clause: WindowCall | None,
) -> bool:
    if select.args.get("group") or clause is not None:
        return True
    roots = [item.node for item in items]
    if any(True for root in roots for _ in aggregate_calls(context, root)):
        return True
    having = select.args.get("having")
    if having is not None:
        raise context.source.error("HAVING needs GROUP BY or an aggregate; use WHERE", having.this)
    return False


def _project(
    context: PlanContext,
    select: exp.Select,
    source: From,
    items: Sequence[SelectItem],
    where: exp.Expr | None,
) -> Relation:
    for item in items:
        source.scope.bind(item.node)

    def render(node: exp.Expr) -> str:
        return context.source.splice(node, bound_sql)

    columns = [(item.name, Piece(item.node, render(item.node), render)) for item in items]
    condition = None if where is None else Piece(where, render(where), render)
    node = context.transform(source.relation.node, columns, where=condition)
    return relation_over(node, source.relation)


def relation_over(node: Transform, below: Relation) -> Relation:
    """The relation that a transform of another relation gives: event times follow columns that are picked."""
    picked = {projection.name: projection.sql for projection in node.projections}
    times = {
        name: below.event_times[time]
        for name, sql in picked.items()
        for time in below.event_times
        if sql == quoted(below.columns[time])
    }
    windows = {
        role: name
        for name, sql in picked.items()
        for role, column in below.window_columns.items()
        if sql == quoted(below.columns[column])
    }
    return replace(
        below,
        node=node,
        columns={name: name for name in node.schema.names},
        event_times=times,
        window_columns=windows,
    )


def _project_grouped(
    context: PlanContext, select: exp.Select, grouped: Grouped, items: Sequence[SelectItem]
) -> Relation:
    columns = [
        (item.name, Piece(item.node, grouped.render(item.node), grouped.render)) for item in items
    ]
    node = context.transform(grouped.relation.node, columns, where=grouped.having)
    relation = relation_over(node, grouped.relation)
    keys = tuple(
        projection.name
        for projection in node.projections
        if projection.sql in {quoted(key) for key in grouped.relation.key_columns}
    )
    return replace(relation, key_columns=keys)
