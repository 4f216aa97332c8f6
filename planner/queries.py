"""Whole queries: WITH clauses, subqueries and UNION ALL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pyarrow as pa
from sqlglot import exp

from millstream.planner.block import lower_select
from millstream.planner.context import INPUT, Cte, Piece, PlanContext
from millstream.planner.nodes import Node, Union, WatermarkBound, quoted
from millstream.planner.scope import Relation, identifier_name
from millstream.planner.typing import TypingError

__all__ = ["lower_query"]

_SUBQUERY_PARTS = frozenset({"this", "alias", "with_"})
# Arguments of UNION ALL BY NAME, CORRESPONDING and the like.
_NAMED_COLUMNS = frozenset({"by_name", "on", "side", "kind"})
_UNION_PARTS = frozenset({"this", "expression", "distinct", "with_"})


def lower_query(context: PlanContext, query: exp.Expr) -> Relation:
    """Lower a SELECT, a UNION ALL, or one of them in parentheses.

    Raises:
        SqlError: The query is not valid or not supported.
    """
    context = _with_ctes(context, query)
    if isinstance(query, exp.Subquery):
        _check_parts(context, query, _SUBQUERY_PARTS)
        return lower_query(context, query.this)
    if isinstance(query, exp.Union):
        return _lower_union(context, query)
    if isinstance(query, exp.SetOperation):
        word = type(query).__name__.upper()
        raise context.source.error(f"{word} is not supported", query.expression)
    if not isinstance(query, exp.Select):
        raise context.source.error("a query is a SELECT or a UNION ALL of them", query)
    return lower_select(context, query)


def _with_ctes(context: PlanContext, query: exp.Expr) -> PlanContext:
    clause = query.args.get("with_")
    if clause is None:
        return context
    if clause.args.get("recursive"):
        raise context.source.error("WITH RECURSIVE is not supported", clause)
    visible = dict(context.ctes)
    for cte in clause.expressions:
        name = identifier_name(cte.args["alias"].this)
        if name in visible and visible[name] not in context.ctes.values():
            raise context.source.error(f"WITH defines {name!r} twice", cte.args["alias"])
        if not isinstance(cte.this, exp.Query):
            raise context.source.error("WITH takes queries", cte)
        visible[name] = Cte(cte, dict(visible))
    query.set("with_", None)
    return replace(context, ctes=visible)


def _check_parts(context: PlanContext, query: exp.Expr, handled: frozenset[str]) -> None:
    for key, value in query.args.items():
        if value and key not in handled:
            place = value[0] if isinstance(value, list) else value
            if key in _NAMED_COLUMNS:
                raise context.source.error("UNION ALL matches columns by position alone", query)
            word = {"order": "ORDER BY", "with_": "WITH"}.get(key, key.strip("_").upper())
            what = "UNION ALL" if isinstance(query, exp.Union) else "a query in parentheses"
            raise context.source.error(f"{word} after {what} is not supported", place)


def _lower_union(context: PlanContext, union: exp.Union) -> Relation:
    _check_parts(context, union, _UNION_PARTS)
    if union.args.get("distinct"):
        raise context.source.error(
            "UNION removes duplicates of all time; use UNION ALL, or SELECT DISTINCT over it",
            union.expression,
        )
    queries = list(_branches(union))
    # Revisions of one query would not say which rows of the union they are about.
    relations = [lower_query(replace(context, may_revise=False), query) for query in queries]
    for query, relation in zip(queries, relations, strict=True):
        if relation.changes:
            raise context.source.error(
                "UNION ALL cannot take results that are still revised; use a window or EMIT FINAL",
                query,
            )
        if len(relation.columns) != len(relations[0].columns):
            raise context.source.error(
                f"all queries of UNION ALL must have as many columns as the first, "
                f"{len(relations[0].columns)}: {len(relation.columns)}",
                query,
            )
    return _united(context, union, relations)


def _branches(query: exp.Expr) -> list[exp.Expr]:
    plain = isinstance(query, exp.Union) and not query.args.get("distinct")
    if not plain or query.args.get("with_") is not None:
        return [query]
    return [*_branches(query.this), *_branches(query.expression)]


def _united(context: PlanContext, union: exp.Union, relations: Sequence[Relation]) -> Relation:
    first = relations[0]
    names = list(first.columns)
    typed = _union_schema(context, union, relations)
    branches = tuple(_branch(context, relation, names, typed) for relation in relations)
    nullable = {
        name: any(branch.schema.field(name).nullable for branch in branches) for name in names
    }
    positions = [dict(zip(relation.columns, names, strict=True)) for relation in relations]
    times: dict[str, tuple[WatermarkBound, ...]] = {}
    for name in names:
        found = [
            bounds
            for relation, position in zip(relations, positions, strict=True)
            for column, bounds in relation.event_times.items()
            if position[column] == name
        ]
        if len(found) == len(relations):
            times[name] = _combined(bound for bounds in found for bound in bounds)
    windows = {
        role: first_name
        for role, first_name in first.window_columns.items()
        if all(
            role in relation.window_columns
            and position[relation.window_columns[role]] == first_name
            for relation, position in zip(relations, positions, strict=True)
        )
    }
    node = Union(
        branches=branches,
        schema=pa.schema([pa.field(n, typed.field(n).type, nullable[n]) for n in names]),
        watermark=_combined(bound for branch in branches for bound in branch.watermark),
    )
    columns = {name: name for name in names}
    return Relation(
        node=node,
        columns=columns,
        event_times=times,
        title="the union",
        window_columns=windows,
        settled=all(relation.settled for relation in relations),
        before_end=frozenset(
            name
            for name in names
            if all(
                any(position[column] == name for column in relation.before_end)
                for relation, position in zip(relations, positions, strict=True)
            )
        ),
    )


def _combined(bounds: Iterable[WatermarkBound]) -> tuple[WatermarkBound, ...]:
    """One bound per stream: the one that lags most."""
    delays: dict[str, int] = {}
    for bound in bounds:
        delays[bound.stream] = max(bound.delay, delays.get(bound.stream, bound.delay))
    return tuple(WatermarkBound(stream, delay) for stream, delay in sorted(delays.items()))


def _union_schema(
    context: PlanContext, union: exp.Union, relations: Sequence[Relation]
) -> pa.Schema:
    """Types of the union's columns, to which each branch is cast."""
    tables = {f"{INPUT}_{index}": relation.node.schema for index, relation in enumerate(relations)}
    names = list(relations[0].columns)
    selects = [
        "SELECT "
        + ", ".join(
            f"{quoted(column)} AS {quoted(name)}"
            for column, name in zip(relation.columns.values(), names, strict=True)
        )
        + f" FROM {table}"
        for relation, table in zip(relations, tables, strict=True)
    ]
    try:
        return context.typer.result_schema(" UNION ALL ".join(selects), tables)
    except TypingError as failure:
        raise context.source.error(
            f"the queries of UNION ALL do not fit each other: {failure}", union
        ) from failure


def _branch(
    context: PlanContext, relation: Relation, names: Sequence[str], typed: pa.Schema
) -> Node:
    columns = []
    for column, name in zip(relation.columns.values(), names, strict=True):
        sql = quoted(column)
        wanted = typed.field(name).type
        if relation.node.schema.field(column).type != wanted:
            sql = f"arrow_cast({sql}, '{context.typer.type_name(wanted)}')"
        columns.append((name, Piece(None, sql)))
    return context.transform(relation.node, columns)
