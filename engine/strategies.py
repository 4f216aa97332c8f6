"""Partitioning strategies: to which partition a micro-batch goes, and what that is worth.

A strategy deals micro-batches to partitions and says how rows are distributed afterwards. What a
query needs beyond that, the planner mends with an exchange; what a strategy is no good for at all,
it refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import pyarrow as pa

from millstream.errors import SqlError
from millstream.planner import Placement
from millstream.planner.catalog import StreamDefinition

__all__ = [
    "STRATEGIES",
    "AlwaysHash",
    "FanIn",
    "PartitioningStrategy",
    "QueryNeeds",
    "RoundRobin",
    "Route",
    "SmartRepartition",
    "StickyPartition",
    "is_ours",
    "make_strategy",
]

Route: TypeAlias = int | Sequence[tuple[int, pa.RecordBatch]]


@dataclass(frozen=True, slots=True)
class QueryNeeds:
    """What a query asks of the distribution of its rows.

    Attributes:
        keys: The columns by which its stateful operators divide rows, one entry per operator; an
            empty entry stands for an operator that needs all rows in one place.
        streams: The streams that it reads.
        n_partitions: Number of partitions of the job.
        n_exchanges: Counts the exchanges that the query needs under a placement.
    """

    keys: tuple[tuple[str, ...], ...]
    streams: tuple[StreamDefinition, ...]
    n_partitions: int
    n_exchanges: Callable[[Placement], int]


class PartitioningStrategy(Protocol):
    """Deals micro-batches to partitions. One object serves one job at a time.

    Attributes:
        name: Name in ``start(strategy=...)``, in hints and in metrics.
    """

    name: str

    def validate(self, needs: QueryNeeds) -> None:
        """Check that the strategy makes sense for a query; called before a job starts.

        Raises:
            SqlError: It does not; the message says why and what to use instead.
        """

    def placement(self, needs: QueryNeeds) -> Placement:
        """Return the distribution of rows that :meth:`route` gives."""

    def route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int, pending: Sequence[int]
    ) -> Route:
        """Choose where a micro-batch goes.

        Called again for the same batch after a while if a partition that was chosen has no room.

        Args:
            stream: Stream of the batch.
            batch: The rows; columns behind the stream's own belong to the engine and have to stay.
            source_partition: Partition of the source that they come from.
            pending: Rows that each partition has still to take in.

        Returns:
            The partition, or slices of the batch with the partition of each.
        """

    def counters(self) -> Mapping[str, int]:
        """Return what the strategy has counted, by name."""


class _Dealer:
    """Gives micro-batches to the partition with the least to do.

    While a partition has nothing to do it gets the next one, too: one thread that does all of a
    light load answers sooner than several that take turns for the interpreter.
    """

    def __init__(self) -> None:
        self._last = 0
        self._n_moves = 0
        self._n_batches = 0

    def validate(self, needs: QueryNeeds) -> None:
        """Accept every query: exchanges bring rows where they are needed."""

    def route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int, pending: Sequence[int]
    ) -> Route:
        self._n_batches += 1
        if pending[self._last] > 0:
            self._last = self._least(pending)
            self._n_moves += 1
        return self._last

    def _least(self, pending: Sequence[int]) -> int:
        """Return the partition with the least to do; of several the next in turn after the last.

        A steady load is thus dealt out evenly.
        """
        n_partitions = len(pending)
        if n_partitions == 1:
            return 0
        turns = [(self._last + step) % n_partitions for step in range(1, n_partitions + 1)]
        return min(turns, key=pending.__getitem__)

    def counters(self) -> Mapping[str, int]:
        return {"batches": self._n_batches, "moves": self._n_moves}


class AlwaysHash(_Dealer):
    """Exchanges rows by the hash of their keys, before anything is added up."""

    name = "always_hash"

    def validate(self, needs: QueryNeeds) -> None:
        if not any(needs.keys):
            raise SqlError(
                "strategy always_hash needs grouping or partitioning keys by which rows can be"
                " divided; this query has none: use round_robin or fan_in"
            )

    def placement(self, needs: QueryNeeds) -> Placement:
        return Placement(splits_aggregates=False)


class SmartRepartition(_Dealer):
    """Exchanges as little as it can: nothing where the source is partitioned by the keys already.

    Elsewhere aggregates add up what they can before the exchange, and where a micro-batch has about
    as many groups as rows, so that adding up is wasted, hand its rows on as they are.
    """

    name = "smart_repartition"

    def __init__(self) -> None:
        super().__init__()
        self._stays: frozenset[str] = frozenset()
        self._n_local = 0

    def placement(self, needs: QueryNeeds) -> Placement:
        declared = _declared(needs.streams)
        local = Placement(stream_keys=declared)
        if not declared or needs.n_exchanges(local) >= needs.n_exchanges(Placement()):
            return Placement()
        self._stays = frozenset(declared)
        return local

    def route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int, pending: Sequence[int]
    ) -> Route:
        if stream in self._stays:
            self._n_local += 1
            return source_partition % len(pending)
        return super().route(stream, batch, source_partition, pending)

    def counters(self) -> Mapping[str, int]:
        return {**super().counters(), "local_batches": self._n_local}


class StickyPartition:
    """Gives all rows of a source partition to one partition, and so keeps their order."""

    name = "sticky_partition"

    def __init__(self) -> None:
        self._n_batches = 0
        self._seen: set[tuple[str, int]] = set()

    def validate(self, needs: QueryNeeds) -> None:
        """Accept every query: exchanges bring rows where they are needed."""

    def placement(self, needs: QueryNeeds) -> Placement:
        return Placement(stream_keys=_declared(needs.streams))

    def route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int, pending: Sequence[int]
    ) -> Route:
        self._n_batches += 1
        self._seen.add((stream, source_partition))
        return source_partition % len(pending)

    def counters(self) -> Mapping[str, int]:
        return {"batches": self._n_batches, "source_partitions": len(self._seen)}


class RoundRobin:
    """Gives micro-batches to the partitions in turn."""

    name = "round_robin"

    def __init__(self) -> None:
        self._n_batches = 0

    def validate(self, needs: QueryNeeds) -> None:
        """Accept every query: exchanges bring rows where they are needed."""

    def placement(self, needs: QueryNeeds) -> Placement:
        return Placement()

    def route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int, pending: Sequence[int]
    ) -> Route:
        turn = self._n_batches % len(pending)
        self._n_batches += 1
        return turn

    def counters(self) -> Mapping[str, int]:
        return {"batches": self._n_batches}


class FanIn:
    """Gives everything to one partition: global aggregates and total order without an exchange."""

    name = "fan_in"

    def __init__(self) -> None:
        self._n_batches = 0

    def validate(self, needs: QueryNeeds) -> None:
        """Accept every query: one partition has all rows."""

    def placement(self, needs: QueryNeeds) -> Placement:
        return Placement(single=True)

    def route(
        self, stream: str, batch: pa.RecordBatch, source_partition: int, pending: Sequence[int]
    ) -> Route:
        self._n_batches += 1
        return 0

    def counters(self) -> Mapping[str, int]:
        return {"batches": self._n_batches}


def _declared(streams: Sequence[StreamDefinition]) -> dict[str, frozenset[str]]:
    return {
        stream.name: frozenset(stream.partitioned_by) for stream in streams if stream.partitioned_by
    }


STRATEGIES: dict[str, type[PartitioningStrategy]] = {
    "always_hash": AlwaysHash,
    "smart_repartition": SmartRepartition,
    "sticky_partition": StickyPartition,
    "round_robin": RoundRobin,
    "fan_in": FanIn,
}
_SHORT_NAMES = {"hash": "always_hash", "smart": "smart_repartition", "sticky": "sticky_partition"}


def make_strategy(strategy: str | PartitioningStrategy | None) -> PartitioningStrategy:
    """Return the strategy for a name, an object, or None for the default.

    Raises:
        SqlError: There is no strategy of that name, or the object is none.
    """
    if strategy is None:
        return SmartRepartition()
    if isinstance(strategy, str):
        make = STRATEGIES.get(_SHORT_NAMES.get(strategy, strategy))
        if make is None:
            known = ", ".join(STRATEGIES)
            raise SqlError(f"there is no partitioning strategy {strategy!r}; known are {known}")
        return make()
    missing = [
        name
        for name in ("name", "validate", "placement", "route", "counters")
        if not hasattr(strategy, name)
    ]
    if missing:
        raise SqlError(f"a partitioning strategy must have {', '.join(missing)}: {strategy!r}")
    return strategy


def is_ours(strategy: PartitioningStrategy) -> bool:
    """Say whether a strategy is one of this module, and not the user's or derived from one."""
    return type(strategy) in STRATEGIES.values()
