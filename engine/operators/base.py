"""What an operator is: the stateful part of a stage, driven by one partition thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa

from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.pane_words import PaneWords
from millstream.kernels.compile import I64

__all__ = [
    "Collector",
    "Counters",
    "GroupsCollector",
    "HeldBack",
    "HoldsBack",
    "Operator",
    "TakesGroups",
    "TakesRows",
    "TakesSteps",
]


class Collector(Protocol):
    """Where an operator's output goes."""

    def emit(self, batch: pa.RecordBatch) -> None:
        """Hand on a batch of the operator's output schema; it is not written to afterwards."""


@runtime_checkable
class GroupsCollector(Protocol):
    """Where an operator's output goes, if it may be partial groups as they are in state."""

    @property
    def n_receivers(self) -> int:
        """Number of partitions that own keys; 0 if groups are not taken like that."""

    def emit_groups(self, parts: Sequence[PaneWords]) -> None:
        """Hand on groups of a pane, those of each receiver; they are not written to afterwards."""

    def share_panes(self, panes: DensePanes) -> bool:
        """Offer panes that groups are kept in from now on; say whether the receiver reads them.

        Then they need not be handed on: the receiver is in the same thread, and asks the panes
        itself when it is told of the watermark.
        """


class Counters:
    """What a partition counts; written by its own thread alone, read by any."""

    __slots__ = (
        "batches_in",
        "batches_out",
        "bytes_in",
        "bytes_mapped",
        "rows_dead_lettered",
        "rows_in",
        "rows_late",
        "rows_mapped",
        "rows_out",
    )

    def __init__(self) -> None:
        self.rows_in = 0
        self.rows_mapped = 0
        self.batches_in = 0
        self.bytes_in = 0
        self.bytes_mapped = 0
        self.rows_late = 0
        self.rows_dead_lettered = 0
        self.rows_out = 0
        self.batches_out = 0


class Operator(Protocol):
    """Keyed or windowed state and what rows and time do to it, in the order of a step."""

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        """Take in rows. Columns whose names begin with ``__ms_`` come from the engine."""

    def end_batch(self, out: Collector) -> None:
        """Note that all rows of the current step are in; changes are due now."""

    def process_watermark(self, watermark: int, out: Collector) -> None:
        """Note that no row before ``watermark`` is still to come; called when it has risen."""

    def end_input(self, out: Collector) -> None:
        """Note that no row at all is still to come; called once, after the last watermark."""

    @property
    def state_rows(self) -> int:
        """Groups or rows held in state."""

    @property
    def state_bytes(self) -> int:
        """Bytes held in state."""


@dataclass(frozen=True, slots=True)
class HeldBack:
    """What an operator keeps until the watermark lets it go.

    Attributes:
        kind: What is kept: windows that partitions share, sessions of single keys, or rows.
        times: int64[n], the watermark at which each comes out; for windows without duplicates.
        time_type: Arrow type of the times.
    """

    kind: Literal["window", "session", "row"]
    times: I64
    time_type: pa.DataType


@runtime_checkable
class HoldsBack(Protocol):
    """An operator whose results wait for the watermark."""

    def held_back(self) -> HeldBack | None:
        """Return what waits, or None if nothing of the kind ever does."""


@runtime_checkable
class TakesRows(Protocol):
    """An operator that may take micro-batches as they are, several at once.

    That is less work than a batch made of them.
    """

    @property
    def takes_rows(self) -> bool:
        """Whether it does."""

    def process_rows(self, parts: Sequence[SourceRows], out: Collector) -> None:
        """Take in rows that came one after the other, none of which is behind the watermark."""


@runtime_checkable
class TakesSteps(Protocol):
    """An operator that may take the rows of several steps at once.

    What it makes of each step comes out at the end of that step, as if they had come one by one.
    """

    @property
    def takes_steps(self) -> bool:
        """Whether it does."""

    def process_steps(self, steps: Sequence[Sequence[Any]], out: Collector) -> None:
        """Take in rows, before the first of these steps ends. None of them is the final one.

        Args:
            steps: Per step its rows, in no or several parts: micro-batches as they are, where an
                operator takes such, or batches; or partial groups, all of one kind.
            out: Takes what may come out already.
        """


@runtime_checkable
class TakesGroups(Protocol):
    """An operator that takes partial groups as they are in state."""

    def process_groups(self, groups: PaneWords, out: Collector) -> None:
        """Take in groups of a pane that count in all of its windows."""

    def share_panes(self, panes: DensePanes) -> bool:
        """Take groups from panes where they are kept; return False if it would not."""
