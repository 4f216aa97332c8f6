"""What all has to hold for a condition to hold, and what asks for rows of a subquery."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

__all__ = ["conjuncts", "is_semi_join"]


def conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    """List the terms that AND joins, also those in parentheses, as they stand in the tree."""
    inner = condition.unnest()
    if isinstance(inner, exp.And):
        yield from conjuncts(inner.left)
        yield from conjuncts(inner.right)
    else:
        yield condition


def is_semi_join(node: exp.Expr) -> bool:
    """Say whether a predicate has EXISTS, or IN over a subquery, of which joins are made."""
    if isinstance(node, exp.In) and node.args.get("query") is not None:
        return True
    if isinstance(node, exp.Exists | exp.Any | exp.All):
        return True
    return not isinstance(node, exp.Query) and any(map(is_semi_join, node.iter_expressions()))
