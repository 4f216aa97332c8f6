"""The table that maps plan nodes to operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from millstream.engine.dead_letters import DeadLetters
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.aggregate import FinalAggregate, SingleAggregate, rows_schema
from millstream.engine.operators.assign_windows import AssignWindows
from millstream.engine.operators.base import Counters, Operator
from millstream.engine.operators.changelog import Changelog
from millstream.engine.operators.dense_groups import DenseGroups
from millstream.engine.operators.over import Over
from millstream.engine.operators.partial_aggregate import PartialAggregate
from millstream.engine.operators.session import SessionAggregate
from millstream.engine.operators.sliding_aggregate import SlidingAggregate
from millstream.engine.operators.window_select import WindowSelect
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.step import AtHand
from millstream.errors import InternalError
from millstream.planner import nodes

__all__ = ["OperatorContext", "make_operator"]

# Of more panes a window is sooner kept up than put together in the end: of so many, and of so many
# if keys have the same numbers in all panes.
_PANES_MAX, _DENSE_PANES_MAX = 16, 1 << 12


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """What an operator may know of where it runs.

    Attributes:
        partition: Number of the partition.
        counters: Of the partition.
        at_hand: What the partition is working on.
        is_deferred: Whether the partition takes part in every step, so that operators may keep for
            a later one what is not due yet.
        functions: User-defined DataFusion functions by name.
        changelog: The changelog that is fed by the aggregate to be made, if there is one.
        late_rows: Where late rows go, or None.
        dead_letters: Takes rows on which the source side fails, or None if they fail the job.
        closing: The node above that closes the windows which rows are put into, or None.
    """

    partition: int
    counters: Counters
    at_hand: AtHand
    is_deferred: bool
    functions: Mapping[str, object]
    changelog: Changelog | None
    late_rows: LateRows | None = None
    dead_letters: DeadLetters | None = None
    closing: nodes.Aggregate | nodes.WindowSelect | None = None

    def watermarks(self, node: nodes.Node) -> RowWatermarks:
        """Return what judges the rows of a node."""
        return RowWatermarks(node.watermark, self.at_hand)


def _aggregate(node: nodes.Aggregate, context: OperatorContext) -> Operator:
    if node.phase == "partial":
        return PartialAggregate(
            node,
            context.counters,
            context.watermarks(node),
            context.late_rows,
            context.at_hand,
            is_deferred=context.is_deferred,
        )
    if node.window is not None and node.window.kind == "session":
        return SessionAggregate(
            node,
            context.counters,
            context.changelog,
            context.watermarks(node),
            context.late_rows,
            context.functions,
        )
    # Rows without keys all go to the first partition.
    is_owner = context.partition == 0
    if node.phase == "final":
        if _is_sliding(node):
            return SlidingAggregate(node, rows_schema(node))
        return FinalAggregate(node, context.counters, context.changelog, owns_global_group=is_owner)
    return SingleAggregate(
        node,
        context.counters,
        context.changelog,
        context.watermarks(node),
        context.late_rows,
        context.functions,
        owns_global_group=is_owner,
    )


def _is_sliding(node: nodes.Aggregate) -> bool:
    """Whether results are final, and windows share panes but do not have many."""
    if node.window is None or node.window.kind == "tumble":
        return False
    panes_max = _DENSE_PANES_MAX if DenseGroups.suits(node, rows_schema(node)) else _PANES_MAX
    is_short = node.window.size <= panes_max * node.window.step
    return is_short and node.emit == "final" and node.allowed_lateness == 0


def _changelog(node: nodes.Changelog, context: OperatorContext) -> Operator:
    return Changelog(node)


def _assign_windows(node: nodes.AssignWindows, context: OperatorContext) -> Operator:
    if context.closing is None:
        return AssignWindows(node, context.counters, None, context.late_rows)
    watermarks = context.watermarks(context.closing)
    lateness = 0
    if isinstance(context.closing, nodes.Aggregate):
        lateness = context.closing.allowed_lateness
    return AssignWindows(node, context.counters, watermarks, context.late_rows, lateness)


def _over(node: nodes.Over, context: OperatorContext) -> Operator:
    watermarks = context.watermarks(node)
    return Over(node, context.counters, watermarks, context.late_rows, context.functions)


def _window_select(node: nodes.WindowSelect, context: OperatorContext) -> Operator:
    watermarks = context.watermarks(node)
    return WindowSelect(node, context.counters, watermarks, context.late_rows, context.functions)


_OPERATORS: dict[type, Callable[..., Operator]] = {
    nodes.Aggregate: _aggregate,
    nodes.AssignWindows: _assign_windows,
    nodes.Changelog: _changelog,
    nodes.Over: _over,
    nodes.WindowSelect: _window_select,
}


def make_operator(node: nodes.Node, context: OperatorContext) -> Operator:
    """Return a new operator for a stateful plan node.

    Raises:
        InternalError: If no operator runs such a node.
    """
    make = _OPERATORS.get(type(node))
    if make is None:
        raise InternalError(f"no operator runs the plan node {type(node).__name__}")
    return make(node, context)
