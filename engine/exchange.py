"""Exchanges: rows change partitions between a sender and a receiver, and steps stay in order.

A sender collects what a step produces and, at the step's end, gives each receiver its part, empty
or not. A receiver takes up a step when every sender has contributed to it and all earlier steps are
done. So all partitions see the steps in one order, though the threads run freely. No thread ever
waits for room in an exchange: what is on its way is bounded by what ``push`` has let in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from millstream.engine.pipeline import Link, step_of
from millstream.engine.routing import split
from millstream.engine.step import AtHand, Contribution, SourceItem
from millstream.planner.nodes import ExchangeKind

__all__ = ["Receiver", "Sender"]

Post = Callable[[int, Contribution], None]


class Sender:
    """The near side of an exchange in one partition.

    Args:
        exchange: Number of the exchange in the plan.
        kind: To whom rows go.
        keys: Columns whose hash decides, for kind ``hash``.
        partition: The partition that sends.
        n_partitions: Number of receivers.
        post: Puts a contribution into the mailbox of a partition.
    """

    def __init__(
        self,
        exchange: int,
        kind: ExchangeKind,
        keys: Sequence[str],
        partition: int,
        n_partitions: int,
        post: Post,
    ) -> None:
        self._exchange = exchange
        self._kind = kind
        self._keys = keys
        self._partition = partition
        self._n_partitions = n_partitions
        self._post = post
        self._parts: list[list[pa.RecordBatch]] = [[] for _ in range(n_partitions)]

    def emit(self, batch: pa.RecordBatch) -> None:
        if self._kind == "hash":
            for part, rows in zip(
                self._parts, split(batch, self._keys, self._n_partitions), strict=True
            ):
                if rows.num_rows > 0:
                    part.append(rows)
        elif self._kind == "single":
            self._parts[0].append(batch)
        elif self._kind == "forward":
            self._parts[self._partition].append(batch)
        else:
            for part in self._parts:
                part.append(batch)

    def end_step(self, item: SourceItem) -> None:
        parts, self._parts = self._parts, [[] for _ in range(self._n_partitions)]
        for receiver, batches in enumerate(parts):
            self._post(receiver, Contribution(self._exchange, item, self._partition, batches))


class Receiver:
    """The far side of an exchange in one partition.

    Args:
        n_senders: Partitions that contribute to each step; None where those of the step's source
            side do.
        at_hand: Of the partition; follows the steps.
        downstream: What follows.
    """

    def __init__(self, n_senders: int | None, at_hand: AtHand, downstream: Link) -> None:
        self._n_senders = n_senders
        self._at_hand = at_hand
        self._downstream = downstream
        self._next_step = 0
        self._arrived: dict[int, list[Contribution]] = {}

    def take(self, contribution: Contribution) -> None:
        """Take in a contribution, and process all steps that are complete now."""
        number = step_of(contribution.item).number
        self._arrived.setdefault(number, []).append(contribution)
        while self._is_complete(self._next_step):
            self._process(self._arrived.pop(self._next_step))

    def _is_complete(self, number: int) -> bool:
        contributions = self._arrived.get(number)
        if contributions is None:
            return False
        n_senders = self._n_senders
        return len(contributions) == (
            step_of(contributions[0].item).n_sources if n_senders is None else n_senders
        )

    def _process(self, contributions: list[Contribution]) -> None:
        self._next_step += 1
        self._at_hand.item = contributions[0].item
        # In the order of the senders, so that the same run gives the same order of rows.
        for contribution in sorted(contributions, key=lambda contribution: contribution.sender):
            for batch in contribution.batches:
                self._downstream.emit(batch)
        self._downstream.end_step(contributions[0].item)
