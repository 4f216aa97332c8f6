"""What all has to hold for a condition to hold."""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

__all__ = ["conjuncts"]


def conjuncts(condition: exp.Expr) -> Iterator[exp.Expr]:
    """List the terms that AND joins, also those in parentheses, as they stand in the tree."""
    inner = condition.unnest()
    if isinstance(inner, exp.And):
        yield from conjuncts(inner.left)
        yield from conjuncts(inner.right)
    else:
        yield condition
