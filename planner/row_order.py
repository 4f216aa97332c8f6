"""The order in which a node's rows come, as far as it does not depend on how they are processed."""

from __future__ import annotations

from typing import Literal, TypeAlias

from millstream.planner.nodes import (
    Aggregate,
    AssignWindows,
    Node,
    Over,
    Source,
    Transform,
    Union,
)

__all__ = ["RowOrder", "row_order"]

RowOrder: TypeAlias = Literal["arrival", "mixed", "timed", "none"]


def row_order(node: Node) -> RowOrder:
    """Say in which order rows come.

    Returns:
        ``arrival`` where they come as they were pushed; ``mixed`` where those of a step are mixed
        up, but known by their numbers; ``timed`` where they come by event time, and are known by
        their numbers; ``none`` where they are no rows of a stream any more.
    """
    if isinstance(node, Source):
        return "arrival"
    if isinstance(node, Transform | AssignWindows):
        return row_order(node.input)
    if isinstance(node, Over):
        below = row_order(node.input)
        if below == "none":
            return below
        return "mixed" if node.order_column is None else "timed"
    if isinstance(node, Union):
        # Rows of one time that have waited for it come behind others of that time.
        is_known = {"arrival", "mixed"}.issuperset(map(row_order, node.branches))
        return "mixed" if is_known else "none"
    if isinstance(node, Aggregate) and node.emit == "append":
        # Distinct rows have the number of the first one that came, if that is known.
        return "mixed" if row_order(node.input) in ("arrival", "mixed") else "none"
    return "none"
