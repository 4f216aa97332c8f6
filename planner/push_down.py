"""Filters rows of a stream before they are joined with tables."""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlglot import exp

from millstream.planner.conjunction import conjuncts
from millstream.planner.nodes import INPUT, quoted
from millstream.planner.scope import bound_sql

__all__ = ["push_down"]

# The rows of the stream as FROM names them; they stand before all conditions of joins.
_ROWS = re.compile(f'{quoted(INPUT)} AS ("(?:[^"]|"")*")')
# What neither fails on a row, nor gives another answer when it is asked again: rows that find no
# match would not have been asked.
_HARMLESS = (
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Is),
    *(exp.Like, exp.ILike, exp.And, exp.Or, exp.Not, exp.Paren, exp.Neg),
    *(exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null),
)


def push_down(
    condition: exp.Expr, render: Callable[[exp.Expr], str], from_sql: str
) -> tuple[str | None, str] | None:
    """Move what a condition says of the stream alone to the stream.

    DataFusion would do so by itself, but for what it may not know: which filters the table that
    stands for the stream would apply.

    Args:
        condition: Of WHERE.
        render: Gives the SQL of a part of it.
        from_sql: FROM with joins, all of which keep the rows of the stream or drop them for want of
            a match.

    Returns:
        What is left of the condition, or None; and the FROM. None if there is nothing to move.
    """
    rows = _ROWS.search(from_sql)
    if rows is None:
        return None
    moved: list[str] = []
    left: list[str] = []
    for term in conjuncts(condition):
        is_of_rows = _is_harmless(term) and _is_of(f"{rows[1]}.", term)
        (moved if is_of_rows else left).append(f"({render(term)})")
    if not moved:
        return None
    filtered = f"(SELECT * FROM {rows[0]} WHERE {' AND '.join(moved)}) AS {rows[1]}"
    joined = from_sql[: rows.start()] + filtered + from_sql[rows.end() :]
    return " AND ".join(left) or None, joined


def _is_harmless(term: exp.Expr) -> bool:
    return all(isinstance(node, _HARMLESS) for node in term.walk())


def _is_of(prefix: str, term: exp.Expr) -> bool:
    """Whether an expression reads columns of one relation, and no others."""
    columns = [bound_sql(column) for column in term.find_all(exp.Column)]
    return bool(columns) and all(sql is not None and sql.startswith(prefix) for sql in columns)
