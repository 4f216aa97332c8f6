"""The select list: what it computes and what the results are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp

from millstream.planner.context import PlanContext
from millstream.planner.from_clause import From
from millstream.planner.nodes import OP_COLUMN, WINDOW_COLUMNS
from millstream.planner.place import Replace, span_of
from millstream.planner.scope import (
    alias_of,
    bound_sql,
    identifier_name,
    is_of_subquery,
    nearest,
    note_alias,
)

__all__ = ["SelectItem", "bind_with_aliases", "is_star", "select_items", "with_aliases"]


@dataclass(frozen=True, slots=True)
class SelectItem:
    """One term of the select list: its expression, without the alias, and its name."""

    node: exp.Expr
    name: str


def select_items(context: PlanContext, select: exp.Select, source: From) -> tuple[SelectItem, ...]:
    """Read the select list, with stars written out.

    Raises:
        SqlError: Two columns have one name, or a name is reserved.
    """
    items: list[SelectItem] = []
    for term in select.expressions:
        if is_star(term):
            if span_of(term) is None:
                place = select.args.get("from_") or select
                raise context.source.error("SELECT is missing before FROM", place)
            items.extend(_expand_star(context, term, source))
            continue
        node = term.this if isinstance(term, exp.Alias) else term
        name = identifier_name(term.args["alias"]) if isinstance(term, exp.Alias) else None
        items.append(SelectItem(node, _default_name(context, node) if name is None else name))
    _check_names(context, select, items)
    return tuple(items)


def bind_with_aliases(source: From, root: exp.Expr, aliases: Mapping[str, exp.Expr]) -> None:
    """Bind an expression that may also name output columns; input columns come first.

    Subqueries in it see no output columns, but may have columns of the same names.
    """
    for column in root.find_all(exp.Column):
        name = identifier_name(column.this)
        unqualified = len(column.parts) == 1 and bound_sql(column) is None
        known = source.scope.knows(name) or is_of_subquery(column, root)
        if unqualified and name in aliases and not known:
            note_alias(column, name)
    source.scope.bind(root)


def with_aliases(
    context: PlanContext, replace: Replace, aliases: Mapping[str, exp.Expr]
) -> Replace:
    """Also replace names of output columns, by their expressions."""

    def outer(node: exp.Expr) -> str | None:
        alias = alias_of(node)
        if alias is not None:
            return f"({context.source.splice(aliases[alias], outer)})"
        return replace(node)

    return outer


def is_star(term: exp.Expr) -> bool:
    """Whether a term is ``*`` or ``t.*``."""
    return isinstance(term, exp.Star) or (
        isinstance(term, exp.Column) and isinstance(term.this, exp.Star)
    )


def _expand_star(context: PlanContext, term: exp.Expr, source: From) -> list[SelectItem]:
    star = term.this if isinstance(term, exp.Column) else term
    scope = source.scope
    alias = identifier_name(term.args["table"]) if isinstance(term, exp.Column) else None
    left_out = _left_out(context, star)
    pairs: list[tuple[str, str]] = []
    for index, item in enumerate(scope.items):
        if alias in (None, item.alias):
            pairs.extend(
                (item.alias, name)
                for name in item.columns
                if alias is not None or (item.alias, name) not in scope.merged
            )
        if index == 0 and scope.window_alias is not None and alias in (None, item.alias):
            pairs.extend((scope.window_alias, name) for name in WINDOW_COLUMNS)
    if not pairs:
        known = [item.alias for item in scope.items]
        raise context.source.error(f"unknown relation {alias!r}{nearest(alias or '', known)}", term)
    unknown = left_out - {name for _, name in pairs}
    if unknown:
        raise context.source.error(f"EXCEPT names no column of *: {sorted(unknown)[0]!r}", term)
    return [
        SelectItem(_star_column(owner, name, term), name)
        for owner, name in pairs
        if name not in left_out
    ]


def _left_out(context: PlanContext, star: exp.Expr) -> set[str]:
    for key, value in star.args.items():
        if value and key not in ("except_", "except"):
            raise context.source.error(
                f"* takes no {key.strip('_').upper()}; list the columns", star
            )
    listed = star.args.get("except_") or star.args.get("except") or []
    return {identifier_name(column) for column in listed}


def _star_column(owner: str, name: str, place: exp.Expr) -> exp.Column:
    column = exp.Column(
        this=exp.to_identifier(name, quoted=True), table=exp.to_identifier(owner, quoted=True)
    )
    column.meta.update(place.meta)
    return column


def _default_name(context: PlanContext, node: exp.Expr) -> str:
    if isinstance(node, exp.Column):
        return identifier_name(node.this)
    span = span_of(node)
    if span is None:
        raise context.source.error("give this expression a name with AS", node)
    return context.source.name(span)


def _check_names(context: PlanContext, select: exp.Select, items: Sequence[SelectItem]) -> None:
    if not items:
        raise context.source.error("the select list is empty", select)
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise context.source.error(
                f"two output columns are called {item.name!r}; give one an alias with AS", item.node
            )
        if item.name.startswith("__") or item.name == OP_COLUMN:
            raise context.source.error(
                f"names that begin with two underscores, and {OP_COLUMN}, are reserved: "
                f"{item.name!r}",
                item.node,
            )
        seen.add(item.name)
