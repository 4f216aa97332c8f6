"""Filters rows before they are put into windows, of which each row may be in several."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import replace

from millstream.planner.merge import merged
from millstream.planner.nodes import (
    INPUT,
    WINDOW_COLUMNS,
    AssignWindows,
    Projection,
    Transform,
    quoted,
)

__all__ = ["filtered_first"]


def filtered_first(transform: Transform, volatile: Set[str]) -> Transform:
    """Move a condition that says nothing of windows below what puts rows into them.

    A row that it drops is not late either, as in a query that groups by the window right away.

    Args:
        transform: What the condition belongs to.
        volatile: Functions that tell something else of each copy of a row.
    """
    assign, where = transform.input, transform.where
    if not isinstance(assign, AssignWindows) or where is None:
        return transform
    if transform.tables or transform.from_sql != quoted(INPUT):
        return transform
    if any(name in where for name in WINDOW_COLUMNS):
        return transform
    if not volatile.isdisjoint(re.findall(r"\w+", where.lower())):
        return transform
    below = assign.input
    filtered = Transform(
        input=below,
        projections=tuple(Projection(quoted(name), name) for name in below.schema.names),
        where=where,
        schema=below.schema,
        watermark=below.watermark,
    )
    return replace(transform, input=replace(assign, input=merged(filtered)), where=None)
