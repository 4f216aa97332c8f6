"""Exchanges: rows change partitions between a sender and a receiver, and steps stay in order.

A sender collects what a step produces and, at the step's end, gives each receiver its part, empty
or not. A receiver takes up a step when every sender has contributed to it and all earlier steps are
done. So all partitions see the steps in one order, though the threads run freely. No thread ever
waits for room in an exchange: what is on its way is bounded by what ``push`` has let in.

Where steps are far apart, a sender does not wait for the end of one with all that it has: rows that
only add to the state behind the exchange, whose order does not matter, go early. They count as part
of the item that brought them, so that its room is not given back before they have arrived.

What travels are Arrow batches, split by the hash of keys; or partial groups as the words of state
that they are, which the sending aggregate has dealt out already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import pyarrow as pa

from millstream.engine.event_time import WATERMARK_COLUMN
from millstream.engine.gathering import STEPS_MAX, STEPS_ROWS_MAX
from millstream.engine.operators.base import GroupsCollector
from millstream.engine.pipeline import Link, StepsLink, step_of
from millstream.engine.routing import split, split_together
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.step import AtHand, Contribution, SourceItem
from millstream.planner.nodes import ExchangeKind

__all__ = ["Mail", "Receiver", "Sender"]

# Rows for one receiver that are worth a message of their own.
_EARLY_ROWS = 1 << 13
# Rows per step up to which a copy that puts steps together takes less time than to split each.
_SMALL_ROWS = 1 << 12

_Parts: TypeAlias = list[list[pa.RecordBatch | PaneWords]]
"""Per receiver what it gets."""


@dataclass(frozen=True, slots=True)
class Mail:
    """How contributions travel between partitions.

    Attributes:
        post: Puts a contribution into the mailbox of a partition; never blocks.
        hold: Keeps an item from being complete until a partition has acknowledged it once more.
        acknowledge: Takes one acknowledgement of an item.
    """

    post: Callable[[int, Contribution], None]
    hold: Callable[[SourceItem, int], None]
    acknowledge: Callable[[SourceItem], None]


class Sender:
    """The near side of an exchange in one partition.

    Args:
        exchange: Number of the exchange in the plan.
        kind: To whom rows go.
        keys: Columns whose hash decides, for kind ``hash``.
        partition: The partition that sends.
        n_partitions: Number of receivers.
        mail: Between the partitions.
        at_hand: Of the partition.
        is_eager: Whether rows may go before their step ends, in any order.
    """

    def __init__(
        self,
        exchange: int,
        kind: ExchangeKind,
        keys: Sequence[str],
        partition: int,
        n_partitions: int,
        mail: Mail,
        at_hand: AtHand,
        *,
        is_eager: bool,
    ) -> None:
        self._exchange = exchange
        self._kind = kind
        self._keys = keys
        self._partition = partition
        self._n_partitions = n_partitions
        self._mail = mail
        self._at_hand = at_hand
        self._is_eager = is_eager
        self._n_steps_ended = 0
        self._parts: _Parts = [[] for _ in range(n_partitions)]
        self._n_rows = [0] * n_partitions
        # Of steps whose rows have come and whose ends have not.
        self._steps: deque[_Parts] = deque()

    def emit(self, batch: pa.RecordBatch) -> None:
        if self._kind == "hash":
            slices = split(batch, self._keys, self._n_partitions)
            for receiver, rows in enumerate(slices):
                if rows.num_rows > 0:
                    self._add(receiver, rows)
        elif self._kind == "single":
            self._add(0, batch)
        elif self._kind == "forward":
            self._add(self._partition, batch)
        else:
            for receiver in range(self._n_partitions):
                self._add(receiver, batch)

    @property
    def takes_steps(self) -> bool:
        """Whether rows of several steps may come at once."""
        return self._kind == "hash" and not self._is_eager

    def prepare(self, part: pa.RecordBatch) -> Sequence[pa.RecordBatch]:
        return (part,)

    def emit_steps(self, steps: Sequence[Sequence[pa.RecordBatch]]) -> None:
        """Take the rows of steps, and then the end of each."""
        batches = [batch for parts in steps for batch in parts]
        n_rows = sum(batch.num_rows for batch in batches)
        if n_rows > _SMALL_ROWS * len(batches):
            divided = [split(batch, self._keys, self._n_partitions) for batch in batches]
        else:
            divided = split_together(batches, self._keys, self._n_partitions) if batches else []
        rest = iter(divided)
        for parts in steps:
            of_step = [next(rest) for _ in parts]
            self._steps.append(
                [
                    [slices[receiver] for slices in of_step if slices[receiver].num_rows > 0]
                    for receiver in range(self._n_partitions)
                ]
            )

    @property
    def n_receivers(self) -> int:
        """Number of partitions if keys decide to whom rows go, else 0."""
        return self._n_partitions if self._kind == "hash" else 0

    def emit_groups(self, parts: Sequence[PaneWords]) -> None:
        """Give each receiver groups of a pane whose keys it owns."""
        for receiver, groups in enumerate(parts):
            if groups.n_groups > 0:
                self._parts[receiver].append(groups)

    def share_panes(self, panes: DensePanes) -> bool:
        """Do not: receivers are in other threads."""
        return False

    def end_step(self, item: SourceItem) -> None:
        self._n_steps_ended += 1
        if self._steps:
            parts = self._steps.popleft()
        else:
            parts, self._parts = self._parts, [[] for _ in range(self._n_partitions)]
            self._n_rows = [0] * self._n_partitions
        for receiver, batches in enumerate(parts):
            self._mail.post(receiver, Contribution(self._exchange, item, self._partition, batches))

    def _add(self, receiver: int, rows: pa.RecordBatch) -> None:
        self._parts[receiver].append(rows)
        self._n_rows[receiver] += rows.num_rows
        item = self._at_hand.item
        if self._is_eager and self._n_rows[receiver] >= _EARLY_ROWS and item is not None:
            batches, self._parts[receiver] = self._parts[receiver], []
            self._n_rows[receiver] = 0
            self._mail.hold(item, receiver)
            self._mail.post(
                receiver,
                Contribution(self._exchange, item, self._partition, batches, self._n_steps_ended),
            )


class Receiver:
    """The far side of an exchange in one partition.

    Args:
        n_senders: Partitions that contribute to each step; None where those of the step's source
            side do.
        at_hand: Of the partition; follows the steps.
        mail: Between the partitions.
        downstream: What follows.
        merged_rows_max: Rows up to which steps that wait are processed as one; 0 for never.
    """

    def __init__(
        self,
        n_senders: int | None,
        at_hand: AtHand,
        mail: Mail,
        downstream: Link,
        *,
        merged_rows_max: int = 0,
    ) -> None:
        self._n_senders = n_senders
        self._at_hand = at_hand
        self._mail = mail
        self._downstream = downstream
        self._merged_rows_max = merged_rows_max
        self._groups_taker = downstream if isinstance(downstream, GroupsCollector) else None
        self._steps_taker = downstream if isinstance(downstream, StepsLink) else None
        self._next_step = 0
        self._arrived: dict[int, list[Contribution]] = {}
        self._early: dict[int, list[Contribution]] = {}

    def take(self, contribution: Contribution) -> None:
        """Take in a contribution, and process all steps that are complete now."""
        if contribution.early_for is not None:
            self._early.setdefault(contribution.early_for, []).append(contribution)
            self._process_early()
            return
        self._arrive(contribution)
        self._process_complete()

    def take_all(self, contributions: Sequence[Contribution]) -> None:
        """Take in several contributions, before any step is processed."""
        for contribution in contributions:
            if contribution.early_for is None:
                self._arrive(contribution)
            else:
                self.take(contribution)
        self._process_complete()

    @cached_property
    def takes_steps(self) -> bool:
        """Whether steps that wait can be processed at once."""
        return self._steps_taker is not None and self._steps_taker.takes_steps

    @property
    def gathers(self) -> bool:
        """Whether it is quicker to take in all that waits before anything is processed."""
        return self._merged_rows_max > 0 or self.takes_steps

    def _arrive(self, contribution: Contribution) -> None:
        number = step_of(contribution.item).number
        self._arrived.setdefault(number, []).append(contribution)

    def _process_complete(self) -> None:
        while self._is_complete(self._next_step):
            steps = self._steps_alike() if self.takes_steps else []
            n_merged = self._count_mergeable() if self._merged_rows_max > 0 else 0
            if len(steps) > 1:
                self._process_steps(steps)
            elif n_merged > 1:
                self._process_merged(n_merged)
            else:
                self._process(self._arrived.pop(self._next_step))
                self._process_early()

    def _steps_alike(self) -> list[list[pa.RecordBatch | PaneWords]]:
        """Return the parts of the next steps, as far as these can be processed at once."""
        assert self._steps_taker is not None, "asked for before"
        steps: list[list[pa.RecordBatch | PaneWords]] = []
        kinds: frozenset[type] = frozenset()
        n_rows = 0
        while len(steps) < STEPS_MAX and self._is_complete(self._next_step + len(steps)):
            contributions = self._arrived[self._next_step + len(steps)]
            parts = [part for sent in _by_sender(contributions) for part in sent.batches]
            parts = [part for part in parts if _n_rows(part) > 0]
            kinds = kinds | {type(part) for part in parts}
            step = step_of(contributions[0].item)
            if step.is_final or len(kinds) > 1 or any(map(_is_judged, parts)):
                break
            n_rows += sum(map(_n_rows, parts))
            if steps and n_rows > STEPS_ROWS_MAX:
                break
            steps.append(parts)
        return steps

    def _process_steps(self, steps: Sequence[Sequence[pa.RecordBatch | PaneWords]]) -> None:
        assert self._steps_taker is not None, "asked for before"
        self._at_hand.item = self._arrived[self._next_step][0].item
        self._steps_taker.emit_steps(steps)
        for _ in steps:
            item = self._arrived.pop(self._next_step)[0].item
            self._next_step += 1
            self._at_hand.item = item
            self._downstream.end_step(item)

    def _count_mergeable(self) -> int:
        """Return how many of the next steps can be processed as one."""
        n_steps = n_rows = 0
        while n_steps < STEPS_MAX and self._is_complete(self._next_step + n_steps):
            contributions = self._arrived[self._next_step + n_steps]
            parts = [part for sent in contributions for part in sent.batches]
            n_rows += sum(part.num_rows for part in parts if isinstance(part, pa.RecordBatch))
            if n_rows > self._merged_rows_max or any(map(_is_judged, parts)):
                break
            n_steps += 1
        return n_steps

    def _process_merged(self, n_steps: int) -> None:
        """Process all rows of the next steps, and then the end of the last one for all of them."""
        steps = [self._arrived.pop(self._next_step + place) for place in range(n_steps)]
        self._next_step += n_steps
        *merged, item = [contributions[0].item for contributions in steps]
        self._at_hand.item, self._at_hand.merged = item, merged
        sent = [contribution for step in steps for contribution in _by_sender(step)]
        for batch in _in_one([part for contribution in sent for part in contribution.batches]):
            self._downstream.emit(batch)
        self._downstream.end_step(item)

    def _is_complete(self, number: int) -> bool:
        contributions = self._arrived.get(number)
        if contributions is None:
            return False
        n_senders = self._n_senders
        if n_senders is None:
            n_senders = step_of(contributions[0].item).n_sources
        return len(contributions) == n_senders

    def _process(self, contributions: list[Contribution]) -> None:
        self._next_step += 1
        self._at_hand.item = contributions[0].item
        for contribution in _by_sender(contributions):
            self._emit(contribution)
        self._downstream.end_step(contributions[0].item)

    def _process_early(self) -> None:
        """Process what has come for the step that is next to end."""
        for contribution in self._early.pop(self._next_step, ()):
            self._at_hand.item = contribution.item
            self._emit(contribution)
            self._mail.acknowledge(contribution.item)

    def _emit(self, contribution: Contribution) -> None:
        for batch in contribution.batches:
            if isinstance(batch, PaneWords):
                assert self._groups_taker is not None, "groups come from an aggregate's other phase"
                self._groups_taker.emit_groups([batch])
            else:
                self._downstream.emit(batch)


def _by_sender(contributions: Sequence[Contribution]) -> list[Contribution]:
    """Put contributions in an order that is the same in each run."""
    return sorted(contributions, key=lambda contribution: contribution.sender)


def _in_one(parts: Sequence[pa.RecordBatch | PaneWords]) -> Sequence[pa.RecordBatch]:
    """Copy rows together, or leave them as they are where that is not possible."""
    batches = [part for part in parts if isinstance(part, pa.RecordBatch)]
    assert len(batches) == len(parts), "groups do not come where steps are processed as one"
    if len(batches) < 2:
        return batches
    try:
        return (pa.concat_batches(batches),)
    except pa.ArrowInvalid:
        # The indices of their dictionaries are too narrow for the values of all.
        return batches


def _n_rows(part: pa.RecordBatch | PaneWords) -> int:
    return int(part.n_groups if isinstance(part, PaneWords) else part.num_rows)


def _is_judged(part: pa.RecordBatch | PaneWords) -> bool:
    """Whether rows carry what the lateness of each is judged by, with the item at hand."""
    return isinstance(part, pa.RecordBatch) and part.schema.get_field_index(WATERMARK_COLUMN) >= 0
