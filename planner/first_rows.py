"""Finds out how many rows of a window can reach the result, by the places that are asked for."""

from __future__ import annotations

from dataclasses import replace

import sqlglot
from sqlglot import exp

from millstream.planner.conjunction import conjuncts
from millstream.planner.dialect import MillstreamDialect
from millstream.planner.nodes import Node, Source, Transform, Union, WindowSelect

__all__ = ["limit_windows"]

_COMPARISONS = (exp.LTE, exp.LT, exp.EQ)


def limit_windows(root: Node) -> Node:
    """Tell nodes that compute places in windows which places are kept by the filter above them."""
    if isinstance(root, Source):
        return root
    if isinstance(root, Union):
        return replace(root, branches=tuple(map(limit_windows, root.branches)))
    below = limit_windows(root.input)
    if isinstance(root, Transform) and isinstance(below, WindowSelect):
        first_rows = _first_rows(root.where, below)
        if first_rows is not None:
            below = replace(below, first_rows=first_rows)
    return replace(root, input=below)


def _first_rows(where: str | None, select: WindowSelect) -> int | None:
    """Return the last place that passes a filter, if it sets a limit to places."""
    if where is None or select.order is None or select.order.place is None:
        return None
    terms = conjuncts(sqlglot.parse_one(where, dialect=MillstreamDialect))
    limits = [
        limit for term in terms if (limit := _limit(term.unnest(), select.order.place)) is not None
    ]
    return min(limits, default=None)


def _limit(term: exp.Expr, place: str) -> int | None:
    if not isinstance(term, _COMPARISONS) or not isinstance(term.this, exp.Column):
        return None
    number = term.expression
    if term.this.name != place or not isinstance(number, exp.Literal) or not number.is_int:
        return None
    limit = int(number.this) - isinstance(term, exp.LT)
    return limit if limit > 0 else None
