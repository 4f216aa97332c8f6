"""Partitions: a thread each, with a mailbox, pipelines of its own and a sink of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias, TypeGuard, TypeVar

import pyarrow as pa

from millstream.engine.datafusion import TransformFailed
from millstream.engine.exchange import Receiver
from millstream.engine.gathering import STEPS_ROWS_MAX, Gathering
from millstream.engine.latency import Latencies
from millstream.engine.mailbox import Mailbox
from millstream.engine.operators.base import Counters, Operator
from millstream.engine.pipeline import StepsLink
from millstream.engine.sinks import Sink
from millstream.engine.source_link import SourceLink
from millstream.engine.step import AtHand, Contribution, SourceItem
from millstream.engine.time_sheet import IDLE, TimeSheet
from millstream.engine.turn import Turn

__all__ = ["Hooks", "Partition", "Pipelines", "RowsPending"]


@dataclass(slots=True)
class Pipelines:
    """All links of one partition that others reach by name or number."""

    sources: list[SourceLink] = field(default_factory=list)
    receivers: dict[int, Receiver] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Question:
    """Asks a partition about its operators, which no other thread may touch."""

    ask: Callable[[Sequence[Operator]], object]
    answers: SimpleQueue[Any]


class _Wake:
    """Tells a partition that has nothing to do that there is something."""


_WAKE = _Wake()


class _Stop:
    """Tells a partition to leave its loop."""


class _Close:
    """Tells a partition to close its sink and leave its loop."""


# Rows up to which a copy takes less time than a call of DataFusion does.
_PORTION_ROWS = 1 << 14

Message: TypeAlias = SourceItem | Contribution | _Question | _Wake | _Stop | _Close
T = TypeVar("T")
OnError: TypeAlias = Callable[[BaseException, SourceItem | None, int], None]


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom the thread of a partition tells what.

    Attributes:
        failed: Takes what was raised, the item at hand and the partition; the thread ends then.
        mapped: Takes items that end no step and are done.
        progressed: Called after each message.
        ran_dry: Called when no message is left, before waiting for one.
        closed: Called when the outputs have been closed.
    """

    failed: OnError
    mapped: Callable[[Sequence[SourceItem]], None]
    progressed: Callable[[], None]
    ran_dry: Callable[[], None]
    closed: Callable[[], None]


class SideOutput(Protocol):
    """Something besides the sink that ends with the job."""

    def close(self) -> None:
        """Finish: the job has."""

    def abort(self) -> None:
        """Give up: the job has failed or was cancelled."""


class Partition:
    """One thread, what it owns, and its mailbox.

    Args:
        index: Number of the partition.
        pipelines: Its links.
        sink: Its sink, opened already and closed by its thread.
        side_outputs: Its outputs besides; opened already and closed by its thread.
        counters: Counted by its thread.
        at_hand: Kept by its thread.
        sheet: Kept by its thread.
        hooks: Called by its thread.
        name: Name of the job, for the thread's name.
        merged_rows_max: Rows up to which steps that wait are processed as one; 0 for never.
        gathered_max: Rows and bytes up to which micro-batches that wait are processed together,
            or None if each is processed by itself.
        turn: Taken by its thread for small messages.

    Attributes:
        latencies: Recorded by its thread.
        watermarks: Watermarks of the streams that its results have reached.
        is_idle: Whether its thread waits for a message, or is about to.
    """

    def __init__(
        self,
        index: int,
        pipelines: Pipelines,
        sink: Sink,
        side_outputs: Sequence[SideOutput],
        counters: Counters,
        at_hand: AtHand,
        sheet: TimeSheet,
        hooks: Hooks,
        name: str,
        *,
        gathered_max: tuple[int, int] | None,
        merged_rows_max: int,
        turn: Turn,
    ) -> None:
        self.index = index
        self.pipelines = pipelines
        self.counters = counters
        self.at_hand = at_hand
        self.sheet = sheet
        self.latencies = Latencies()
        self.watermarks: Mapping[str, int] = {}
        self.is_idle = True
        self._rows_posted = 0
        self._bytes_posted = 0
        self._outputs: list[Sink | SideOutput] = [sink, *side_outputs]
        self._mailbox: Mailbox[Message] = Mailbox()
        self._hooks = hooks
        self._is_stopping = False
        self._gathered_max = gathered_max
        # Of a plan with an exchange, its receivers do.
        self._merged_rows_max = 0 if pipelines.receivers else merged_rows_max
        self._turn = turn
        # The interpreter does not wait for daemon threads, so a sink that never returns cannot keep
        # it from exiting.
        self._thread = threading.Thread(target=self._run, name=f"{name}-{index}", daemon=True)

    @property
    def rows_queued(self) -> int:
        """Rows that were posted by ``push`` and not taken up yet."""
        return self._rows_posted - self.counters.rows_in

    @property
    def rows_pending(self) -> int:
        """Rows that were posted by ``push`` and have not passed the source side yet."""
        return self._rows_posted - self.counters.rows_mapped

    @property
    def bytes_pending(self) -> int:
        """Bytes that were posted by ``push`` and have not passed the source side yet."""
        return self._bytes_posted - self.counters.bytes_mapped

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def post(self, contribution: Contribution) -> None:
        """Put a part of an exchange into the mailbox; never blocks."""
        # Before it is there: the thread may have done it by the time that this goes on.
        self.is_idle = False
        self._mailbox.put(contribution)

    def post_item(self, item: SourceItem) -> None:
        """Put a micro-batch or a step into the mailbox; never blocks. For one thread at a time."""
        if item.batch is not None and item.owner == self.index:
            self._rows_posted += item.n_rows
            self._bytes_posted += item.n_bytes
        self.is_idle = False
        self._mailbox.put(item)

    def wake(self) -> None:
        """Let the thread look for something to do; called where it is idle."""
        self.is_idle = False
        self._mailbox.put(_WAKE)

    def ask(self, ask: Callable[[Sequence[Operator]], T], answers: SimpleQueue[T]) -> None:
        """Let the thread ask its operators something, after all messages before.

        Args:
            ask: Is given the operators.
            answers: Takes what it returns.
        """
        self._mailbox.put(_Question(ask, answers))

    def stop(self) -> None:
        """Make the thread leave its loop after the message at hand and abort its sink."""
        self._is_stopping = True
        # A thread that has nothing to do has to be woken.
        self._mailbox.put(_Stop())

    def close(self) -> None:
        """Make the thread close its sink after all messages before, and end."""
        self._mailbox.put(_Close())

    def join(self, timeout_seconds: float | None) -> bool:
        """Wait for the thread's end and say whether it has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        is_committed = False
        at_hand, sheet, progressed = self.at_hand, self.sheet, self._hooks.progressed
        try:
            while True:
                message = self._next()
                sheet.begin_message()
                if self._is_stopping:
                    return
                if isinstance(message, SourceItem):
                    at_hand.item = message
                    self._turn.take(message)
                    self._process_gathered(message)
                elif isinstance(message, Contribution):
                    at_hand.item = message.item
                    self._turn.take(message.item)
                    self._receive(message)
                elif isinstance(message, _Question):
                    message.answers.put(message.ask(self.pipelines.operators))
                elif isinstance(message, _Wake):
                    # Before other messages, since nobody else may have been woken.
                    self._hooks.ran_dry()
                elif isinstance(message, _Close):
                    self._close_outputs()
                    is_committed = True
                    self._hooks.closed()
                    return
                self._turn.give_up()
                progressed()
        except BaseException as error:
            self._hooks.failed(error, at_hand.item, self.index)
        finally:
            self._turn.give_up()
            sheet.end()
            if not is_committed:
                self._abort_outputs()

    def _next(self) -> Message:
        while self._mailbox.is_empty():
            # In this order: whoever puts something aside looks who is idle afterwards.
            self.is_idle = True
            self._hooks.ran_dry()
            if self.is_idle:
                self.sheet.switch(IDLE)
                break
        message = self._mailbox.get()
        self.is_idle = False
        return message

    def _receive(self, first: Contribution) -> None:
        """Hand a contribution to its receiver, and with it all that wait if that is quicker."""
        receiver = self.pipelines.receivers[first.exchange]
        if not receiver.gathers:
            receiver.take(first)
            return

        def fits(message: Message) -> TypeGuard[Contribution]:
            return isinstance(message, Contribution) and message.exchange == first.exchange

        receiver.take_all([first, *self._mailbox.take_among(fits, _is_of_rows)])

    def _gather(self, first: SourceItem) -> list[SourceItem]:
        """Take out of the mailbox what waits and can be processed with an item."""
        sources = [source for source in self.pipelines.sources if source.stream == first.stream]
        if self._gathered_max is None or len(sources) != 1:
            return [first]
        has_taker = len(self.pipelines.sources) == 1 and sources[0].steps_taker is not None
        rows_max, bytes_max = self._gathered_max
        if first.step is not None:
            rows_max = min(rows_max, self._merged_rows_max or STEPS_ROWS_MAX)
        gathering = Gathering(
            first,
            sources[0].n_columns,
            takes_steps=has_taker or self._merged_rows_max > 0,
            rows_max=rows_max,
            bytes_max=bytes_max,
        )
        return [first, *self._mailbox.take_while(gathering.takes)]

    def _process_gathered(self, first: SourceItem) -> None:
        items = self._gather(first)
        if len(items) == 1:
            self._process(first)
        elif first.step is None:
            self._process_together(items)
            self._hooks.mapped(items)
        elif self._merged_rows_max > 0:
            self._process_together(items)
            self.at_hand.item, self.at_hand.merged = items[-1], items[:-1]
            self.pipelines.sources[0].downstream.end_step(items[-1])
        else:
            self._process_steps(items)

    def _process_steps(self, items: list[SourceItem]) -> None:
        (source,) = self.pipelines.sources
        taker = source.steps_taker
        assert taker is not None, "asked for before"
        steps: list[Sequence[Any]] = []
        failure: TransformFailed | None = None
        for item in items:
            self.at_hand.item = item
            try:
                steps.append(self._parts_of(item, source, taker))
            except TransformFailed as error:
                # What came before it goes its way first.
                failure = error
                break
        self.at_hand.item = items[0]
        taker.emit_steps(steps)
        for item in items[: len(steps)]:
            self.at_hand.item = item
            source.downstream.end_step(item)
        if failure is not None:
            self.at_hand.item = items[len(steps)]
            raise failure

    def _parts_of(self, item: SourceItem, source: SourceLink, taker: StepsLink) -> Sequence[Any]:
        """Return the rows of a step as its first operator takes them."""
        if item.owner != self.index:
            return ()
        counters = self.counters
        counters.rows_in += item.n_rows
        counters.batches_in += 1
        counters.bytes_in += item.n_bytes
        if source.taker is not None:
            parts: Sequence[Any] = (source.rows(item),)
        else:
            parts = taker.prepare(source.pick(item.batch))
        counters.rows_mapped += item.n_rows
        counters.bytes_mapped += item.n_bytes
        return [part for part in parts if part.num_rows > 0]

    def _process_together(self, items: list[SourceItem]) -> None:
        (source,) = [s for s in self.pipelines.sources if s.stream == items[0].stream]
        counters = self.counters
        n_rows, n_bytes = sum(item.n_rows for item in items), sum(item.n_bytes for item in items)
        counters.rows_in += n_rows
        counters.batches_in += len(items)
        counters.bytes_in += n_bytes
        if source.taker is not None:
            source.taker.emit_rows([source.rows(item) for item in items])
        else:
            self._emit_whole(items, source)
        counters.rows_mapped += n_rows
        counters.bytes_mapped += n_bytes

    def _emit_whole(self, items: list[SourceItem], source: SourceLink) -> None:
        taker = source.batches_taker
        rows_least = sum(item.n_rows for item in items) if taker is None else _PORTION_ROWS
        try:
            portions = _portions([source.pick(item.batch) for item in items], rows_least)
        except pa.ArrowInvalid:
            # The indices of their dictionaries are too narrow for the values of all.
            self._emit_each(items, source)
            return
        try:
            if taker is not None:
                taker.emit_batches(portions)
            else:
                for whole in portions:
                    source.downstream.emit(whole)
        except TransformFailed:
            # Nothing has been kept of these rows; one by one they tell which of them it was.
            self._emit_each(items, source)
            raise

    def _emit_each(self, items: list[SourceItem], source: SourceLink) -> None:
        for item in items:
            self.at_hand.item = item
            source.downstream.emit(source.pick(item.batch))

    def _process(self, item: SourceItem) -> None:
        sources = self.pipelines.sources
        if item.batch is not None and item.owner == self.index:
            self.counters.rows_in += item.n_rows
            self.counters.batches_in += 1
            self.counters.bytes_in += item.n_bytes
            for source in sources:
                if source.stream != item.stream:
                    continue
                if source.taker is not None and item.batch.num_columns == source.n_columns:
                    source.taker.emit_rows([source.rows(item)])
                else:
                    source.downstream.emit(source.pick(item.batch))
            self.counters.rows_mapped += item.n_rows
            self.counters.bytes_mapped += item.n_bytes
        if item.step is None:
            self._hooks.mapped((item,))
            return
        for source in sources:
            source.downstream.end_step(item)

    def _close_outputs(self) -> None:
        for output in self._outputs:
            output.close()

    def _abort_outputs(self) -> None:
        for output in self._outputs:
            try:
                output.abort()
            except Exception as error:
                self._hooks.failed(error, None, self.index)


class RowsPending(Sequence[int]):
    """Rows that each partition has still to take in, at the moment of looking."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self._partitions = partitions

    def __len__(self) -> int:
        return len(self._partitions)

    def __getitem__(self, index: Any) -> Any:
        return self._partitions[index].rows_pending


def _portions(batches: Sequence[pa.RecordBatch], rows_least: int) -> list[pa.RecordBatch]:
    """Copy neighbours together until each batch but the last has at least so many rows."""
    portions: list[pa.RecordBatch] = []
    first, n_rows = 0, 0
    for place, batch in enumerate(batches):
        n_rows += batch.num_rows
        if n_rows >= rows_least or place == len(batches) - 1:
            is_alone = first == place
            portions.append(batch if is_alone else pa.concat_batches(batches[first : place + 1]))
            first, n_rows = place + 1, 0
    return portions


def _is_of_rows(message: Message) -> bool:
    return isinstance(message, SourceItem | Contribution)
