"""How far the partitions of a job have to walk together, read off its distributed plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from millstream.planner import nodes

__all__ = ["Pace", "PlanShape", "has_exchange", "plan_shape", "walk"]

# These take one of a group's rows by the order of arrival, or have it decide among equals.
_PICKING = frozenset({"any_value", "first_value", "last_value"})

# Rows of steps that are processed as one: of more, none is quicker.
_MERGED_ROWS_MAX = 1 << 16
# Each of these may meet many rows of a table.
_JOINED_ROWS_MAX = 1 << 13

Pace: TypeAlias = Literal["single", "ordered", "broadcast", "deferred"]


@dataclass(frozen=True, slots=True)
class PlanShape:
    """What the runtime has to know of a distributed plan.

    Attributes:
        pace: Who takes part in a step. ``single``: one partition does everything. ``ordered``: each
            micro-batch is a step that begins in the partition which got it, and reaches the others
            by exchanges. ``broadcast``: each micro-batch is a step of all partitions, because they
            keep state before any exchange. ``deferred``: micro-batches only feed aggregates of
            final results, and a step of all partitions follows when a window closes; this is so
            for one partition, too.
        reaches_all: Whether a step ends in all partitions.
        gathers: Whether a partition may take micro-batches that wait together, at once.
        may_close_later: Whether windows that have ended may be closed with later ones in one step:
            nothing behind them makes versions step by step.
        merged_rows_max: Rows up to which steps that wait may be processed as one, or 0. They may
            where results are no versions of others and come in the same order, and nothing fails on
            them; and where rows are not only passed on, which needs no copy.
        windows: Windows whose ends are worth a step, with the lateness that they allow.
        numbers_rows: Whether rows carry their number in the job, to be put in order by.
    """

    pace: Pace
    reaches_all: bool
    gathers: bool
    may_close_later: bool
    merged_rows_max: int
    windows: tuple[tuple[nodes.Window, int, tuple[nodes.WatermarkBound, ...]], ...]
    numbers_rows: bool


def plan_shape(root: nodes.Node, n_partitions: int, *, is_single: bool) -> PlanShape:
    """Look over a distributed plan.

    Args:
        root: The plan.
        n_partitions: Number of partitions of the job.
        is_single: Whether one partition gets all rows.
    """
    windows = tuple(
        (node.window, node.allowed_lateness, node.watermark)
        for node in walk(root)
        if isinstance(node, nodes.Aggregate)
        and node.window is not None
        and node.window.kind != "session"
    )
    pace = _pace(root, n_partitions, is_single=is_single)
    reaches_all = pace in ("broadcast", "deferred") or (pace == "ordered" and has_exchange(root))
    gathers = pace != "deferred" or not _picks_rows(root)
    may_close_later = not any(isinstance(node, nodes.Changelog) for node in walk(root))
    may_merge = pace in ("single", "ordered") and _may_merge(root)
    merged_rows_max = _merged_rows_max(root) if may_merge else 0
    numbers_rows = any(
        isinstance(node, nodes.Over | nodes.Aggregate) and node.ties == "arrival"
        for node in walk(root)
    )
    return PlanShape(
        pace, reaches_all, gathers, may_close_later, merged_rows_max, windows, numbers_rows
    )


def walk(node: nodes.Node) -> Iterator[nodes.Node]:
    """Iterate over a plan, inputs after what they feed."""
    yield node
    for below in node.inputs:
        yield from walk(below)


def has_exchange(node: nodes.Node) -> bool:
    """Say whether rows change partitions anywhere in a plan."""
    return any(isinstance(found, nodes.Exchange) for found in walk(node))


def _pace(root: nodes.Node, n_partitions: int, *, is_single: bool) -> Pace:
    if _is_deferrable(root) and not is_single:
        return "deferred"
    if n_partitions == 1 or is_single:
        return "single"
    return "broadcast" if _keeps_state_early(root) else "ordered"


def _is_deferrable(node: nodes.Node) -> bool:
    """Say whether each source feeds an aggregate of final results before anything else."""
    if _defers(node):
        return all(_is_stateless(below) for below in node.inputs)
    return bool(node.inputs) and all(_is_deferrable(below) for below in node.inputs)


def _defers(node: nodes.Node) -> bool:
    if not isinstance(node, nodes.Aggregate) or node.emit != "final" or node.phase == "final":
        return False
    if node.allowed_lateness > 0:
        # Each late row revises a result at once.
        return False
    # Sessions end anywhere, so no step can be told to close them.
    return node.window is None or node.window.kind != "session"


def _is_stateless(node: nodes.Node) -> bool:
    if not isinstance(node, nodes.Source | nodes.Transform | nodes.AssignWindows | nodes.Union):
        return False
    return all(_is_stateless(below) for below in node.inputs)


def _picks_rows(root: nodes.Node) -> bool:
    """Say whether an aggregate asks for the order in which micro-batches came."""
    calls = [
        call for node in walk(root) if isinstance(node, nodes.Aggregate) for call in node.calls
    ]
    return any(call.function in _PICKING and call.path == "kernel" for call in calls)


def _may_merge(root: nodes.Node) -> bool:
    """Say whether steps of a plan can be processed as one, and nobody can tell but by the time."""
    found = list(walk(root))
    if not all(map(_has_rows_of_their_own, found)):
        return False
    # A row on which something fails is told with its micro-batch. Rows of several can be looked
    # through again for it if nothing has become of any of them.
    computing = [node for node in found if isinstance(node, nodes.Transform) and not node.picks]
    if len(computing) > 1 or not all(_is_stateless(node) for node in computing):
        return False
    only_passes = not computing and _is_stateless(root)
    return not only_passes and sum(isinstance(node, nodes.Exchange) for node in found) <= 1


def _merged_rows_max(root: nodes.Node) -> int:
    joins = any(isinstance(node, nodes.Transform) and node.tables for node in walk(root))
    return _JOINED_ROWS_MAX if joins else _MERGED_ROWS_MAX


def _has_rows_of_their_own(node: nodes.Node) -> bool:
    """Say whether results of a node are no versions of others."""
    if isinstance(node, nodes.Over):
        return all(call.path == "kernel" for call in node.calls)
    if isinstance(node, nodes.Aggregate):
        is_once = node.emit != "changes" and node.allowed_lateness == 0
        return is_once and node.phase == "single" and all(c.path == "kernel" for c in node.calls)
    return not isinstance(node, nodes.Changelog | nodes.Union | nodes.WindowSelect)


def _keeps_state_early(node: nodes.Node) -> bool:
    """Say whether an operator before any exchange keeps something from one step to the next."""
    if isinstance(node, nodes.Exchange):
        return _keeps_state_early(node.input)
    is_flushed = isinstance(node, nodes.Aggregate) and node.phase == "partial"
    is_stateless = isinstance(
        node, nodes.Source | nodes.Transform | nodes.AssignWindows | nodes.Union
    )
    if not is_flushed and not is_stateless and not has_exchange(node):
        return True
    return any(_keeps_state_early(below) for below in node.inputs)
