"""What a plan of DataFusion keeps from one execution to the next, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = [
    "LogicalPlan",
    "PhysicalPlan",
    "filters_twice",
    "keeps_only_tables",
    "keeps_order",
    "only_passes_rows",
]

# The scan of the rows that change from one execution to the next.
_INPUT = "DatasetExec"
# These give one batch at most for each, and keep nothing.
_SIMPLE = frozenset({"ProjectionExec", "FilterExec", "CooperativeExec", "CoalesceBatchesExec"})
# These keep nothing, or nothing from one execution to the next.
_PASSING = frozenset(
    {
        *_SIMPLE,
        *("UnnestExec", "SortExec", "WindowAggExec", "BoundedWindowAggExec", "AggregateExec"),
    }
)
# But a sort or an aggregate of the first rows remembers what came too late to be one of them.
_REMEMBERS = ("TopK", "fetch=", "lim=")
# These collect their first input once, and go through the second one anew at each execution.
_JOINS = frozenset({"HashJoinExec", "CrossJoinExec", "NestedLoopJoinExec"})
# Of such joins those that note nothing about the rows that they have collected.
_FORGETFUL = frozenset({"Inner", "Right", "RightSemi", "RightAnti", "RightMark"})
# Of such joins by hash those that give what they find in the order of the second input. Where rows
# may be without a match, these come behind all others of their batch.
_ORDERLY = frozenset({"Inner", "RightSemi", "RightAnti"})


class PhysicalPlan(Protocol):
    """What of a plan of DataFusion tells how it works."""

    def display(self) -> str:
        """Return the name of the node and, behind a colon, its attributes."""

    def children(self) -> Sequence[PhysicalPlan]:
        """Return the inputs."""


def only_passes_rows(plan: PhysicalPlan) -> bool:
    """Say whether a plan filters and computes, and nothing else, so that it answers each batch."""
    name = plan.display().partition(":")[0].strip()
    inputs = plan.children()
    return name == _INPUT or (name in _SIMPLE and len(inputs) == 1 and only_passes_rows(inputs[0]))


class LogicalPlan(Protocol):
    """What of a logical plan tells what stands over what."""

    def display(self) -> str:
        """Return the name of the node and, behind a colon, what it does."""

    def inputs(self) -> Sequence[LogicalPlan]:
        """Return the inputs."""


def filters_twice(plan: LogicalPlan) -> bool:
    """Say whether a filter stands over another one, with at most a choice of columns between them.

    DataFusion makes one filter of the two, and finds the columns of the upper one by their names
    alone, whatever relation they are of: so those of joined relations are taken for each other.
    """
    below = list(plan.inputs())
    if plan.display().startswith("Filter:"):
        inner = below[0]
        while inner.display().startswith(("Projection:", "SubqueryAlias:")):
            (inner,) = inner.inputs()
        if inner.display().startswith("Filter:"):
            return True
    return any(map(filters_twice, below))


def keeps_only_tables(plan: PhysicalPlan) -> bool:
    """Say whether a plan can be executed again over other input rows.

    A join keeps what it has collected of its first input. That may be a table, whose hash table
    then need not be made again, but must not be rows of the input. Plans with nodes that are not
    known here are taken for such that keep something.
    """
    name, _, attributes = plan.display().partition(":")
    name = name.strip()
    if name == _INPUT:
        return True
    inputs = plan.children()
    if name in _PASSING and len(inputs) == 1:
        is_forgetful = not any(word in attributes for word in _REMEMBERS)
        return is_forgetful and keeps_only_tables(inputs[0])
    if name not in _JOINS or len(inputs) != 2:
        return False
    is_forgetful = "join_type=" not in attributes or _join_type(attributes) in _FORGETFUL
    return is_forgetful and not _reads_input(inputs[0]) and keeps_only_tables(inputs[1])


def keeps_order(plan: PhysicalPlan) -> bool:
    """Say whether what a plan makes of rows comes in the order of the rows."""
    name, _, attributes = plan.display().partition(":")
    name = name.strip()
    if name == _INPUT:
        return True
    inputs = plan.children()
    if len(inputs) == 1:
        return (name in _SIMPLE or name == "UnnestExec") and keeps_order(inputs[0])
    if name != "HashJoinExec" or _join_type(attributes) not in _ORDERLY:
        return False
    return not _reads_input(inputs[0]) and keeps_order(inputs[1])


def _join_type(attributes: str) -> str:
    return attributes.partition("join_type=")[2].partition(",")[0].strip()


def _reads_input(plan: PhysicalPlan) -> bool:
    is_input = plan.display().partition(":")[0].strip() == _INPUT
    return is_input or any(map(_reads_input, plan.children()))
