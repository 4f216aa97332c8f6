"""Filters rows of streams and tables before they are joined, and joins them by what WHERE says."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlglot import exp

from millstream.planner.conjunction import conjuncts
from millstream.planner.joins import Join
from millstream.planner.nodes import INPUT, quoted
from millstream.planner.scope import bound_sql

__all__ = ["push_down"]

# The rows of the stream as FROM names them where there are joins.
_ROWS = re.compile(f'{quoted(INPUT)} AS ("(?:[^"]|"")*")')
# The relation that a column is of.
_RELATION = re.compile(r'("(?:[^"]|"")*")\.')
# What neither fails on a row, nor gives another answer when it is asked again: rows that find no
# match would not have been asked.
_HARMLESS = (
    *(exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Between, exp.In, exp.Is),
    *(exp.Like, exp.ILike, exp.And, exp.Or, exp.Not, exp.Paren, exp.Neg),
    *(exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null),
)


def push_down(
    condition: exp.Expr, render: Callable[[exp.Expr], str], rows: str, joins: Sequence[Join]
) -> tuple[list[exp.Expr], str, tuple[Join, ...]]:
    """Move what a condition says to where the columns that it names come in.

    DataFusion would do so by itself, but for what it may not know: which filters the table that
    stands for the stream would apply. What is said of one relation filters it; columns that have to
    be equal become the condition of a join. What is said of the table of a LEFT JOIN is about the
    rows that come of it, and stays.

    Args:
        condition: Of WHERE.
        render: Gives the SQL of a part of it.
        rows: SQL of the rows that stand first in FROM.
        joins: What they are joined with, in order.

    Returns:
        The terms that are left of the condition; the rows; and the joins.
    """
    named = _ROWS.fullmatch(rows)
    if named is None or not joins:
        return list(conjuncts(condition)), rows, tuple(joins)
    places = {named[1]: 0, **{quoted(join.alias): n for n, join in enumerate(joins, 1)}}
    filters: dict[int, list[str]] = defaultdict(list)
    links: dict[int, list[str]] = defaultdict(list)
    left: list[exp.Expr] = []
    for term in conjuncts(condition):
        read = _relations(term, places)
        last = max(read, default=-1)
        if last < 0 or (last > 0 and joins[last - 1].words == "LEFT JOIN"):
            left.append(term)
        elif len(read) == 1:
            filters[last].append(f"({render(term)})")
        elif _is_of_equal_columns(term) and "USING" not in joins[last - 1].condition[:6]:
            links[last].append(f"({render(term)})")
        else:
            left.append(term)
    if 0 in filters:
        rows = f"(SELECT * FROM {rows} WHERE {' AND '.join(filters[0])}) AS {named[1]}"
    moved = [_with(join, filters.get(n, []), links.get(n, [])) for n, join in enumerate(joins, 1)]
    return left, rows, tuple(moved)


def _with(join: Join, filters: Sequence[str], links: Sequence[str]) -> Join:
    """The join with a filter, and with more that has to be equal."""
    if filters:
        join = replace(join, filter=" AND ".join(filters))
    if not links:
        return join
    own = join.condition.removeprefix(" ON ")
    condition = " AND ".join([*([f"({own})"] if own else []), *links])
    is_keyed = join.is_keyed or not own
    return replace(join, words="INNER JOIN", condition=f" ON {condition}", is_keyed=is_keyed)


def _relations(term: exp.Expr, places: dict[str, int]) -> set[int]:
    """Places in FROM of the relations that a term reads; none if it must stay where it stands."""
    if not _is_harmless(term):
        return set()
    read: set[int] = set()
    for column in term.find_all(exp.Column):
        relation = _RELATION.match(bound_sql(column) or "")
        if relation is None or relation[1] not in places:
            return set()
        read.add(places[relation[1]])
    return read


def _is_harmless(node: exp.Expr) -> bool:
    if _is_constant(node):
        return True
    return isinstance(node, _HARMLESS) and all(map(_is_harmless, node.iter_expressions()))


def _is_constant(node: exp.Expr) -> bool:
    """Whether this is a literal of some type, as in ``DATE '2024-01-15'``, or an interval from one.

    One that fails does so when the query is typed.
    """
    if isinstance(node, exp.Cast):
        return isinstance(node.this, exp.Literal)
    if not isinstance(node, exp.Add | exp.Sub):
        return False
    interval = node.right
    is_interval = isinstance(interval, exp.Interval) and isinstance(interval.this, exp.Literal)
    return is_interval and _is_constant(node.left)


def _is_of_equal_columns(term: exp.Expr) -> bool:
    inner = term.unnest()
    return isinstance(inner, exp.EQ) and all(
        isinstance(side.unnest(), exp.Column) for side in (inner.left, inner.right)
    )
