"""Sums of a column and a constant, which the sum of the column tells along with its count.

Reports with many of them, ``sum(width), sum(width + 1), sum(width + 2)`` and so on, then have one
column to add up, and not one each that has to be computed first.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot import exp

from millstream.planner.place import unwrapped

__all__ = ["Shifted", "shifted"]

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Shifted:
    """A column and what is added to it.

    Attributes:
        column: The column.
        shift: The constant, an int64 other than the least one.
    """

    column: exp.Column
    shift: int


def shifted(argument: exp.Expr) -> Shifted | None:
    """Take ``column + constant``, ``constant + column`` or ``column - constant`` apart."""
    node = unwrapped(argument)
    if not isinstance(node, exp.Add | exp.Sub):
        return None
    left, right = unwrapped(node.this), unwrapped(node.expression)
    if isinstance(node, exp.Add) and isinstance(right, exp.Column):
        left, right = right, left
    constant = _constant(right)
    if not isinstance(left, exp.Column) or constant is None:
        return None
    return Shifted(left, constant if isinstance(node, exp.Add) else -constant)


def _constant(node: exp.Expr) -> int | None:
    if isinstance(node, exp.Neg):
        constant = _constant(unwrapped(node.this))
        return None if constant is None else -constant
    if not isinstance(node, exp.Literal) or node.is_string or not str(node.this).isdigit():
        return None
    constant = int(node.this)
    return constant if constant <= _INT64_MAX else None
