"""Where a partition's thread spends its time: one account per operator, and those of the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from millstream.engine.operators.base import GroupsCollector
from millstream.engine.pipeline import BatchesLink, Link, RowsLink, StepsLink
from millstream.engine.sinks import Sink
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.step import SourceItem
from millstream.engine.turn import Turn

__all__ = ["TimeSheet", "TimedLink", "TimedSinkLink", "timed_sinks"]

# Waiting for a message, waiting for a sink to take a batch, and all work between the operators.
IDLE, BLOCKED, ENGINE = range(3)


class TimeSheet:
    """Adds up time by account. Written by one thread, read by any.

    At every moment time runs into exactly one account, so that shares add up to one.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._names: list[str] = []
        self._seconds = [0.0] * 3
        self._account = IDLE
        self._since = clock()
        self._ended_at: float | None = None
        self._message_since = self._since

    def add_operator(self, name: str) -> int:
        """Open an account for an operator and return its number."""
        self._names.append(name)
        self._seconds.append(0.0)
        return len(self._seconds) - 1

    def switch(self, account: int) -> int:
        """Let time run into another account from now on and return the one before."""
        before = self._account
        if account == before:
            return before
        now = self._clock()
        # No call separates these, so that no reader comes between: an interval is counted once.
        self._seconds[before] += now - self._since
        self._since = now
        self._account = account
        return before

    def begin_message(self) -> None:
        """Note that a message is taken up. Before it waits for one, the thread is ``IDLE``."""
        # First, so that nobody takes the message before for one that takes that long.
        self._message_since = self._clock()
        self.switch(ENGINE)

    def end(self) -> None:
        """Note that the thread ends: no more time passes."""
        self.switch(IDLE)
        self._ended_at = self._clock()

    def seconds(self) -> list[float]:
        """Return the time spent by account, the time since the last switch included."""
        now = self._clock() if self._ended_at is None else self._ended_at
        seconds = self._seconds.copy()
        seconds[self._account] += max(now - self._since, 0.0)
        return seconds

    def by_operator(self, seconds: list[float]) -> dict[str, float]:
        """Name the accounts of operators in what :meth:`seconds` gave."""
        return dict(zip(self._names, seconds[ENGINE + 1 :], strict=True))

    def blocked_for(self) -> float:
        """Return for how many seconds a sink has not returned; 0 if none is being written to."""
        return self._clock() - self._since if self._account == BLOCKED else 0.0

    def busy_for(self) -> float:
        """Return for how many seconds the message at hand has been worked on; 0 if there is none.

        Time in sinks counts, since it cannot be told apart while it lasts.
        """
        return 0.0 if self._account == IDLE else self._clock() - self._message_since

    @property
    def operator_at_work(self) -> str | None:
        """The operator whose account is running, or None."""
        account = self._account
        return self._names[account - ENGINE - 1] if account > ENGINE else None


class TimedLink:
    """Puts the time that a link takes, without the links behind it, into an account.

    Args:
        link: The link.
        sheet: Of the partition.
        account: Where the time goes.
        works_at_steps: Whether the link does anything at the end of a step but pass it on.
    """

    def __init__(
        self, link: Link, sheet: TimeSheet, account: int, *, works_at_steps: bool = True
    ) -> None:
        self._link = link
        # Asking for a protocol takes long, so it is done once.
        self._taker = link if isinstance(link, RowsLink) else None
        self._batches_taker = link if isinstance(link, BatchesLink) else None
        self._groups_taker = link if isinstance(link, GroupsCollector) else None
        self._steps_taker = link if isinstance(link, StepsLink) else None
        self._switch = sheet.switch
        self._account = account
        if not works_at_steps:
            self.end_step = link.end_step  # type: ignore[method-assign]

    def emit(self, batch: pa.RecordBatch) -> None:
        before = self._switch(self._account)
        self._link.emit(batch)
        self._switch(before)

    @property
    def takes_rows(self) -> bool:
        """Whether the link takes micro-batches as they are."""
        return self._taker is not None and self._taker.takes_rows

    def emit_rows(self, parts: Sequence[SourceRows]) -> None:
        assert self._taker is not None, "asked for before"
        before = self._switch(self._account)
        self._taker.emit_rows(parts)
        self._switch(before)

    @property
    def takes_batches(self) -> bool:
        """Whether the link takes several batches at once."""
        return self._batches_taker is not None and self._batches_taker.takes_batches

    def emit_batches(self, batches: Sequence[pa.RecordBatch]) -> None:
        assert self._batches_taker is not None, "asked for before"
        before = self._switch(self._account)
        self._batches_taker.emit_batches(batches)
        self._switch(before)

    @property
    def n_receivers(self) -> int:
        """Number of partitions that take partial groups as they are in state, or 0."""
        return 0 if self._groups_taker is None else self._groups_taker.n_receivers

    def emit_groups(self, parts: Sequence[PaneWords]) -> None:
        assert self._groups_taker is not None, "asked for before"
        before = self._switch(self._account)
        self._groups_taker.emit_groups(parts)
        self._switch(before)

    @property
    def takes_steps(self) -> bool:
        """Whether the link takes the rows of several steps at once."""
        return self._steps_taker is not None and self._steps_taker.takes_steps

    def prepare(self, part: Any) -> Sequence[Any]:
        assert self._steps_taker is not None, "asked for before"
        before = self._switch(self._account)
        prepared = self._steps_taker.prepare(part)
        self._switch(before)
        return prepared

    def emit_steps(self, steps: Sequence[Sequence[Any]]) -> None:
        assert self._steps_taker is not None, "asked for before"
        before = self._switch(self._account)
        self._steps_taker.emit_steps(steps)
        self._switch(before)

    def share_panes(self, panes: DensePanes) -> bool:
        return self._groups_taker is not None and self._groups_taker.share_panes(panes)

    def end_step(self, item: SourceItem) -> None:
        before = self._switch(self._account)
        self._link.end_step(item)
        self._switch(before)


class TimedSinkLink:
    """Counts the time in which a partition's sink takes batches as blocked.

    Args:
        link: The sink's link.
        sheet: Of the partition.
        turn: Of the partition, which others need not wait for while the sink takes its time.
    """

    def __init__(self, link: Link, sheet: TimeSheet, turn: Turn) -> None:
        self._link = link
        self._turn = turn
        self._switch = sheet.switch

    def emit(self, batch: pa.RecordBatch) -> None:
        self._turn.give_up()
        before = self._switch(BLOCKED)
        self._link.emit(batch)
        self._switch(before)

    def end_step(self, item: SourceItem) -> None:
        before = self._switch(ENGINE)
        self._link.end_step(item)
        self._switch(before)


def timed_sinks(sinks: Mapping[str, Sink], sheet: TimeSheet) -> dict[str, Sink]:
    """Count the time in which sinks of side outputs take batches as blocked, too."""
    return {name: _TimedSink(sink, sheet) for name, sink in sinks.items()}


class _TimedSink(Sink):
    def __init__(self, sink: Sink, sheet: TimeSheet) -> None:
        self._sink = sink
        self._switch = sheet.switch

    def open(self, partition: int, schema: pa.Schema) -> None:
        self._sink.open(partition, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        before = self._switch(BLOCKED)
        self._sink.write(batch)
        self._switch(before)

    def close(self) -> None:
        self._sink.close()

    def abort(self) -> None:
        self._sink.abort()
