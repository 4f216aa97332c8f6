"""Spreads a plan over partitions: exchanges where rows are not yet where they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from millstream.errors import InternalError
from millstream.planner.nodes import (
    Aggregate,
    AssignWindows,
    Changelog,
    Exchange,
    Node,
    Over,
    Source,
    Transform,
    Union,
    WindowSelect,
    quoted,
)
from millstream.planner.row_order import needs_order

__all__ = ["Placement", "distribute"]


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Where rows are: anywhere, in one partition, or in the one that owns values of ``keys``."""

    single: bool = False
    keys: frozenset[str] | None = None
    # Partitions that own by hash and those that own as the source does are not the same.
    owner: str = "hash"

    def satisfies(self, required: Sequence[str]) -> bool:
        """Whether rows that agree in ``required`` are in one partition already."""
        if self.single:
            return True
        return self.keys is not None and self.keys <= set(required)


_ANYWHERE = _Distribution()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where rows of streams are before any exchange, and how exchanges are to be used.

    Attributes:
        single: Whether all rows are given to one partition.
        stream_keys: Per stream the columns by which its rows are partitioned: rows that agree in
            them are in one partition. Streams without an entry may have any row anywhere.
        splits_aggregates: Whether aggregates add up what they can before an exchange; else rows
            themselves are exchanged.
        splits_changes: Whether those do, too, that send changes of groups after each micro-batch:
            of a small one, what there is to add up is less work than to add it up twice.
    """

    single: bool = False
    stream_keys: Mapping[str, frozenset[str]] = field(default_factory=dict)
    splits_aggregates: bool = True
    splits_changes: bool = True


_NO_PLACEMENT = Placement()


def distribute(root: Node, n_partitions: int, placement: Placement = _NO_PLACEMENT) -> Node:
    """Put in the exchanges that ``n_partitions`` partitions need, and split aggregates around them.

    An aggregate that kernels compute adds up what it can before the exchange. With one partition
    there are no exchanges, but overlapping windows are still aggregated in two phases: the first
    counts each row once, the second adds up the parts of each window.
    """
    return _Distributor(n_partitions, placement).place(root)[0]


@dataclass(frozen=True, slots=True)
class _Distributor:
    n_partitions: int
    placement: Placement

    def place(
        self, node: Node, in_order: frozenset[str] | None = None
    ) -> tuple[Node, _Distribution]:
        """Give the distributed form of a subtree and where its rows are.

        Args:
            node: Root of the subtree.
            in_order: If its rows are to come in their order, the columns in which rows agree that
                are to be in one partition for that; None where their order does not matter.
        """
        match node:
            case Source():
                return node, self._source(node)
            case Transform():
                below, where = self.place(node.input, _below(node, in_order))
                return replace(node, input=below), _renamed(node, where)
            case AssignWindows() | Changelog():
                below, where = self.place(node.input, _below(node, in_order))
                return replace(node, input=below), where
            case Aggregate():
                return self._aggregate(node)
            case Over() | WindowSelect():
                keys = node.keys
                if in_order is not None:
                    # An exchange behind it would mix up what several partitions put out.
                    keys = tuple(key for key in keys if key in in_order)
                below, where = self._required(node.input, keys)
                return replace(node, input=below), where
            case Union():
                return self._union(node, in_order)
            case Exchange():
                raise InternalError("a plan is distributed once")

    def _source(self, node: Source) -> _Distribution:
        if self.placement.single or self.n_partitions == 1:
            return _Distribution(single=True)
        keys = self.placement.stream_keys.get(node.stream)
        if keys is None or not keys <= set(node.schema.names):
            return _ANYWHERE
        return _Distribution(keys=keys, owner=f"source of {node.stream}")

    def _required(self, node: Node, keys: tuple[str, ...]) -> tuple[Node, _Distribution]:
        # What asks for keys puts rows back in order.
        below, where = self.place(node)
        if where.satisfies(keys):
            return below, where
        return _exchange(below, keys)

    def _aggregate(self, node: Aggregate) -> tuple[Node, _Distribution]:
        below, where = self.place(node.input, frozenset(node.keys) if needs_order(node) else None)
        exchanged = not where.satisfies(node.keys)
        splits = _overlaps(node) or (exchanged and self._adds_up(node))
        if _splits(node) and splits:
            partial: Node = replace(node, input=below, phase="partial", schema=node.input.schema)
            if exchanged:
                partial, where = _exchange(partial, node.keys)
            return replace(node, input=partial, phase="final"), where
        if exchanged:
            below, where = _exchange(below, node.keys)
        return replace(node, input=below), where

    def _adds_up(self, node: Aggregate) -> bool:
        """Say whether an aggregate is worth adding up before an exchange."""
        # Without keys, all rows would go to one partition.
        pays = self.placement.splits_changes or node.emit != "changes" or not node.keys
        return pays and self.placement.splits_aggregates

    def _union(self, node: Union, in_order: frozenset[str] | None) -> tuple[Node, _Distribution]:
        placed = [self.place(branch, in_order) for branch in node.branches]
        branches = tuple(branch for branch, _ in placed)
        if any(_has_exchange(branch) for branch in branches):
            # All partitions take part in a step behind an exchange, so they have to before one too.
            branches = tuple(b if _has_exchange(b) else _forward(b) for b in branches)
        everywhere = {where for _, where in placed}
        where = everywhere.pop() if len(everywhere) == 1 else _ANYWHERE
        return replace(node, branches=branches), where


def _has_exchange(node: Node) -> bool:
    return isinstance(node, Exchange) or any(_has_exchange(below) for below in node.inputs)


def _forward(node: Node) -> Exchange:
    return Exchange(node, "forward", (), node.schema, node.watermark)


def _exchange(node: Node, keys: tuple[str, ...]) -> tuple[Exchange, _Distribution]:
    kind = "hash" if keys else "single"
    exchange = Exchange(
        input=node,
        kind="hash" if kind == "hash" else "single",
        keys=keys,
        schema=node.schema,
        watermark=node.watermark,
    )
    where = _Distribution(keys=frozenset(keys)) if keys else _Distribution(single=True)
    return exchange, where


def _splits(node: Aggregate) -> bool:
    """Whether parts can be merged: kernels only, no sessions, and nothing distinct."""
    mergeable = all(call.path == "kernel" and not call.distinct for call in node.calls)
    mergeable = mergeable and node.emit != "append"
    return mergeable and (node.window is None or node.window.kind != "session")


def _overlaps(node: Aggregate) -> bool:
    return node.window is not None and node.window.kind in ("hop", "cumulate")


def _below(
    node: Transform | AssignWindows | Changelog, columns: frozenset[str] | None
) -> frozenset[str] | None:
    """Return the columns of a node's input that are ``columns`` of its output."""
    if columns is None:
        return None
    names = node.input.schema.names
    if not isinstance(node, Transform):
        return columns & set(names)
    if node.tables:
        return frozenset()
    wanted = {projection.sql for projection in node.projections if projection.name in columns}
    return frozenset(name for name in names if quoted(name) in wanted)


def _renamed(node: Transform, where: _Distribution) -> _Distribution:
    """Where a transform's rows are: its keys must all still be columns, under whatever name."""
    if where.keys is None:
        return where
    names = {projection.sql: projection.name for projection in reversed(node.projections)}
    keys = [names.get(quoted(key)) for key in where.keys]
    if node.tables or None in keys:
        return _ANYWHERE
    renamed = frozenset(key for key in keys if key is not None)
    return _Distribution(keys=renamed, owner=where.owner)
