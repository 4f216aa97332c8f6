"""The order in which a node's rows come, as far as it does not depend on how they are processed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal, TypeAlias

from millstream.planner.aggregate_kernels import PICKING_FUNCTIONS
from millstream.planner.nodes import (
    Aggregate,
    AssignWindows,
    Exchange,
    Node,
    Over,
    Source,
    Transform,
    Union,
    WindowSelect,
)

__all__ = ["RowOrder", "mixes_waiting_rows", "needs_order", "row_order", "without_needless_order"]

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


def mixes_waiting_rows(node: Node) -> bool:
    """Whether rows that have waited for event time come among others that have not.

    Where they come among these depends on how rows are processed: no number tells it.
    """
    while isinstance(node, Transform | AssignWindows | Aggregate | Over):
        waits = node.order_column is not None if isinstance(node, Over) else False
        if waits or (isinstance(node, Aggregate) and node.emit != "append"):
            return False
        node = node.input
    if not isinstance(node, Union):
        return False
    waiting = {row_order(branch) in ("timed", "none") for branch in node.branches}
    return len(waiting) > 1 or any(map(mixes_waiting_rows, node.branches))


def needs_order(node: Aggregate) -> bool:
    """Whether results depend on the order in which rows come, such as the first of several."""
    return any(call.path == "buffered" or call.function in PICKING_FUNCTIONS for call in node.calls)


def without_needless_order(node: Node, *, is_judged: bool = False, is_ordered: bool = True) -> Node:
    """Let rows come in any order where nothing asks for it.

    Args:
        node: Root of the plan, or of a part of it.
        is_judged: Whether something above asks which of equal distinct rows is the first: it judges
            rows by when they came, or orders them.
        is_ordered: Whether what is above takes rows in their order, as users do.
    """
    if isinstance(node, Source | Exchange):
        return node
    if isinstance(node, Transform):
        node = replace(node, is_ordered=is_ordered)
    elif isinstance(node, Aggregate):
        if node.emit == "append" and not is_judged:
            node = replace(node, ties="none")
        is_session = node.window is not None and node.window.kind == "session"
        is_ordered = node.emit == "append" or is_session or needs_order(node)
        is_judged |= node.window is not None or len(node.calls) > 0
    elif not isinstance(node, Union):
        is_ordered = True
        is_judged |= isinstance(node, Over | AssignWindows | WindowSelect)
    below = partial(without_needless_order, is_judged=is_judged, is_ordered=is_ordered)
    if isinstance(node, Union):
        return replace(node, branches=tuple(map(below, node.branches)))
    return replace(node, input=below(node.input))
