"""Steps: the clock of a job. All operators of all partitions go through the same steps in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END, TimeBounds
from millstream.engine.state.pane_words import PaneWords
from millstream.planner.nodes import WatermarkBound

__all__ = ["AtHand", "Contribution", "SourceItem", "Step", "delayed_watermark", "watermark_at"]


@dataclass(slots=True, eq=False)
class Step:
    """A point in the input at which all partitions agree on what has come in before.

    Attributes:
        number: Position in the job, from 0, without gaps.
        watermarks: Watermark of each stream after what came before this step.
        is_final: Whether the input has ended.
        n_sources: Number of partitions whose source side takes part: the one that got the
            micro-batch, or all.
    """

    number: int
    watermarks: Mapping[str, int]
    is_final: bool
    n_sources: int


@dataclass(slots=True, eq=False)
class SourceItem:
    """One micro-batch on its way, or a bare step (``batch`` is None).

    Attributes:
        batch_number: Number of the micro-batch within the job, from 0; -1 for a bare step.
        stream: Stream of the batch.
        batch: The rows.
        step: Step that the item ends, or None if it ends none.
        pushed_at_ns: Monotonic clock at the push.
        tables: Contents of the session's tables at the push.
        watermarks: Watermark of each stream after the push.
        owner: Partition that takes the batch in, if the item goes to several.
        n_rows: Rows of the batch, once for each place where the plan reads them.
        n_bytes: Bytes of the batch.
        bounds: Of the event times of a batch that this one is, or is a part of; None if not known.
        place: Place of the rows among those of all items, from 0; each part of a batch has its own.
        parts_left: Parts still to do before the item is complete, by partition.
    """

    batch_number: int
    stream: str
    batch: pa.RecordBatch | None
    step: Step | None
    pushed_at_ns: int
    tables: Mapping[str, pa.Table]
    watermarks: Mapping[str, int]
    owner: int = 0
    n_rows: int = 0
    n_bytes: int = 0
    bounds: TimeBounds | None = None
    place: int = 0
    parts_left: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Contribution:
    """What one partition gives to one receiver of an exchange in one step.

    Attributes:
        exchange: Number of the exchange in the plan.
        item: Item that ends the step; for an early contribution the one whose rows it carries.
        sender: Partition that gives it.
        batches: Rows for the receiver, or partial groups.
        early_for: Number of the step to come that an early contribution belongs to, or None for the
            contribution that ends its step.
    """

    exchange: int
    item: SourceItem
    sender: int
    batches: list[pa.RecordBatch | PaneWords] = field(default_factory=list)
    early_for: int | None = None


class AtHand:
    """What a partition is working on.

    Attributes:
        item: The item whose rows or step it processes.
        merged: Items before it whose steps end with its own.
    """

    __slots__ = ("item", "merged")

    def __init__(self) -> None:
        self.item: SourceItem | None = None
        self.merged: Sequence[SourceItem] = ()


def watermark_at(step: Step, bounds: tuple[WatermarkBound, ...]) -> int:
    """Return the watermark of a plan node at a step: the least of its bounds."""
    least = WATERMARK_END
    for bound in bounds:
        watermark = step.watermarks[bound.stream]
        if bound.delay > 0:
            watermark = delayed_watermark(watermark, bound.delay)
        least = min(least, watermark)
    return least


def delayed_watermark(watermark: int, delay: int) -> int:
    """Return the watermark of a stream as one of the bounds of a node."""
    if watermark in (NO_WATERMARK, WATERMARK_END):
        return watermark
    return max(watermark - delay, NO_WATERMARK)
