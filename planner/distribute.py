"""Spreads a plan over partitions: exchanges where rows are not yet where they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

__all__ = ["distribute"]


@dataclass(frozen=True, slots=True)
class _Distribution:
    """Where rows are: anywhere, in one partition, or in the one that owns values of ``keys``."""

    single: bool = False
    keys: frozenset[str] | None = None

    def satisfies(self, required: Sequence[str]) -> bool:
        """Whether rows that agree in ``required`` are in one partition already."""
        if self.single:
            return True
        return self.keys is not None and self.keys <= set(required)


_ANYWHERE = _Distribution()


def distribute(root: Node, n_partitions: int) -> Node:
    """Put in the exchanges that ``n_partitions`` partitions need, and split aggregates around them.

    An aggregate that kernels compute adds up what it can before the exchange. With one partition
    there are no exchanges, but overlapping windows are still aggregated in two phases: the first
    counts each row once, the second adds up the parts of each window.
    """
    return _Distributor(n_partitions).place(root)[0]


@dataclass(frozen=True, slots=True)
class _Distributor:
    n_partitions: int

    def place(self, node: Node) -> tuple[Node, _Distribution]:
        """Give the distributed form of a subtree and where its rows are."""
        match node:
            case Source():
                return node, _Distribution(single=self.n_partitions == 1)
            case Transform():
                below, where = self.place(node.input)
                return replace(node, input=below), _renamed(node, where)
            case AssignWindows() | Changelog():
                below, where = self.place(node.input)
                return replace(node, input=below), where
            case Aggregate():
                return self._aggregate(node)
            case Over() | WindowSelect():
                below, where = self._required(node.input, node.keys)
                return replace(node, input=below), where
            case Union():
                return self._union(node)
            case Exchange():
                raise InternalError("a plan is distributed once")

    def _required(self, node: Node, keys: tuple[str, ...]) -> tuple[Node, _Distribution]:
        below, where = self.place(node)
        if where.satisfies(keys):
            return below, where
        return _exchange(below, keys)

    def _aggregate(self, node: Aggregate) -> tuple[Node, _Distribution]:
        below, where = self.place(node.input)
        exchanged = not where.satisfies(node.keys)
        if _splits(node) and (exchanged or _overlaps(node)):
            partial: Node = replace(node, input=below, phase="partial", schema=node.input.schema)
            if exchanged:
                partial, where = _exchange(partial, node.keys)
            return replace(node, input=partial, phase="final"), where
        if exchanged:
            below, where = _exchange(below, node.keys)
        return replace(node, input=below), where

    def _union(self, node: Union) -> tuple[Node, _Distribution]:
        placed = [self.place(branch) for branch in node.branches]
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
    """Whether parts can be merged: kernels only, no sessions, and not mere distinct rows."""
    mergeable = all(call.path == "kernel" for call in node.calls) and node.emit != "append"
    return mergeable and (node.window is None or node.window.kind != "session")


def _overlaps(node: Aggregate) -> bool:
    return node.window is not None and node.window.kind in ("hop", "cumulate")


def _renamed(node: Transform, where: _Distribution) -> _Distribution:
    """Where a transform's rows are: its keys must all still be columns, under whatever name."""
    if where.keys is None:
        return where
    names = {projection.sql: projection.name for projection in reversed(node.projections)}
    keys = [names.get(quoted(key)) for key in where.keys]
    if node.tables or None in keys:
        return _ANYWHERE
    return _Distribution(keys=frozenset(key for key in keys if key is not None))
