"""Event time of a stream: its watermark, and the rows that are behind it.

The watermark is a function of the rows in the order in which they were pushed, one by one, so that
it does not depend on how they were cut into micro-batches: a row is judged by the watermark after
the row before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import lib

from millstream.engine.columns import array_from_buffers, event_times
from millstream.errors import SchemaError, SourceError
from millstream.kernels.compile import I64
from millstream.kernels.windows import (
    running_watermarks,
    scan_batches,
    scan_few_times,
    scan_times,
)
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import HIDDEN_PREFIX

__all__ = [
    "FEW_ROWS",
    "NO_WATERMARK",
    "WATERMARK_COLUMN",
    "WATERMARK_END",
    "Observation",
    "SourceProgress",
    "TimeBounds",
    "WatermarkTracker",
]

# Nothing is promised yet: every event time is still possible.
NO_WATERMARK = -(1 << 63)
# The input has ended: no row is still to come.
WATERMARK_END = (1 << 63) - 1
# Hidden column with the watermark before each row; present only where some row is behind.
WATERMARK_COLUMN = HIDDEN_PREFIX + "watermark"

FEW_ROWS = 1 << 14
"""Rows that are looked through before another thread would have noticed that the GIL is free."""
# Rows from which on it takes less time to look at several micro-batches together.
_WAITING_ROWS_MIN = 1 << 9

_WORD_BYTES = 8
# Types of event times whose values are kept as int64.
_INT64 = frozenset({lib.Type_INT64, lib.Type_TIMESTAMP, lib.Type_DATE64})


class TimeBounds(NamedTuple):
    """What event times of some rows lie between.

    Attributes:
        least: The least of them.
        greatest: The greatest of them.
        do_ascend: Whether none is known to be less than the one before.
    """

    least: int
    greatest: int
    do_ascend: bool


class Observation(NamedTuple):
    """What a batch does to the event time of its stream, once it is taken.

    Attributes:
        batch: The batch, with the watermark before each row as hidden column if any is behind it.
        bounds: Of its event times, None if nobody has looked at them.
        watermark: Of the stream after the batch.
        source_partition: Partition of the source that the batch comes from.
        max_time: The greatest event time of that partition after the batch; None if the watermark
            does not follow the rows.
        seen_at: Time on the clock.
    """

    batch: pa.RecordBatch
    bounds: TimeBounds | None
    watermark: int
    source_partition: int
    max_time: int | None
    seen_at: float


class SourceProgress(NamedTuple):
    """How far one partition of a source is.

    Attributes:
        source_partition: Its number.
        max_time: The greatest event time that it has brought, or None.
        silent_seconds: How long ago it brought rows, or how long it has been waited for.
        is_idle: Whether it does not hold the watermark back, for having been silent.
    """

    source_partition: int
    max_time: int | None
    silent_seconds: float
    is_idle: bool


class WatermarkTracker:
    """Follows the watermark of one stream. Called by one thread at a time.

    Args:
        stream: Declaration of the stream; its ``event_time`` may be None, and then the watermark
            moves only when told.
        clock: Seconds of a clock that never goes back, for idleness.

    Attributes:
        watermark: Of the stream.
    """

    def __init__(self, stream: StreamDefinition, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._delay = stream.max_out_of_orderness
        self._clock = clock
        self._place = -1
        self._is_int64 = False
        if stream.event_time is not None:
            self._place = stream.schema.get_field_index(stream.event_time)
            self._is_int64 = stream.schema.field(self._place).type.id in _INT64
        declared = range(stream.source_partitions or 0)
        self._max_times = dict.fromkeys(declared, NO_WATERMARK)
        self._last_seen = dict.fromkeys(declared, clock())
        self.watermark = NO_WATERMARK
        # Batches to come, the greatest time before each, and what scans would find.
        self._ahead: deque[tuple[pa.RecordBatch, int, Sequence[int]]] = deque()

    def observe(
        self, batch: pa.RecordBatch, source_partition: int, seen_at: float | None = None
    ) -> Observation:
        """Look at the rows of a batch, which changes nothing until :meth:`take`.

        Args:
            batch: Rows of the stream's schema, at least one.
            source_partition: Partition of the source that they come from.
            seen_at: Time on the clock at which they came; now if None.

        Raises:
            SchemaError: An event time is NULL.
            SourceError: There is no such source partition.
        """
        if self._stream.source_partitions is not None:
            self._check_partition(source_partition, self._stream.source_partitions)
        now = self._clock() if seen_at is None else seen_at
        if self._place < 0 or self._delay is None:
            self.check_times((batch,))
            return Observation(batch, None, self.watermark, source_partition, None, now)
        before = self._lift(self._max_times.get(source_partition, NO_WATERMARK))
        scanned = self._scanned_before(batch, before)
        if scanned is None:
            times = self._times(batch)
            scan = scan_few_times if len(times) <= FEW_ROWS else scan_times
            scanned = scan(times, before, self._delay)
        max_time, n_behind, least, greatest, do_ascend = scanned
        if n_behind > 0:
            others = self._least_of_others(source_partition, now)
            batch = self._with_row_watermarks(batch, self._times(batch), before, others)
        watermark = max(self.watermark, self._least_after(source_partition, max_time, now))
        bounds = TimeBounds(least, greatest, bool(do_ascend))
        return Observation(batch, bounds, watermark, source_partition, max_time, now)

    def check_times(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Refuse batches with event times that are none. Any thread may ask.

        Raises:
            SchemaError: An event time is NULL, or beyond int64.
        """
        for batch in batches if self._place >= 0 else ():
            column = batch.column(self._place)
            if column.null_count > 0 or pa.types.is_uint64(column.type):
                self._times(batch)

    def can_wait(self, batch: pa.RecordBatch, source_partition: int) -> bool:
        """Say whether a batch may be looked at later, and together with others.

        Looking at it must not lead to an error, which is for whoever pushes it; and very few rows,
        or those that have been looked at, are better dealt out at once.

        Args:
            batch: Rows of the stream's schema.
            source_partition: Partition of the source that they come from.
        """
        if batch.num_rows < _WAITING_ROWS_MIN or self._ahead:
            return False
        if self._delay is None or not self._is_int64:
            return False
        declared = self._stream.source_partitions
        if declared is not None and not 0 <= source_partition < declared:
            return False
        return bool(batch.column(self._place).null_count == 0)

    def look_ahead(self, batches: Sequence[pa.RecordBatch], source_partition: int) -> None:
        """Look through the event times of batches that come next, all in one go.

        What is found out is used where they are observed in this order, and nothing else comes in
        between that makes a difference.

        Args:
            batches: Rows of the stream's schema, each at least one.
            source_partition: Partition of the source that they come from.
        """
        self._ahead.clear()
        if self._delay is None or not self._is_int64:
            return
        # To look through fewer rows by themselves keeps the GIL, which takes less time.
        if len(batches) < 2 or sum(batch.num_rows for batch in batches) <= FEW_ROWS:
            return
        columns = [batch.column(self._place) for batch in batches]
        if any(column.null_count > 0 for column in columns):
            # Whoever observes the batch says which row it is.
            return
        places = [
            (column.buffers()[1].address + _WORD_BYTES * column.offset, len(column))
            for column in columns
        ]
        before = self._lift(self._max_times.get(source_partition, NO_WATERMARK))
        found = np.empty((len(batches), 5), np.int64)
        scan_batches(np.array(places, np.int64), before, self._delay, found)
        for batch, scanned in zip(batches, found.tolist(), strict=True):
            self._ahead.append((batch, before, scanned))
            before = scanned[0]

    def take(self, observed: Observation) -> None:
        """Advance by a batch that was observed; none may have been taken in between."""
        if self._ahead:
            self._ahead.popleft()
        if observed.max_time is not None:
            self._max_times[observed.source_partition] = observed.max_time
            self._last_seen[observed.source_partition] = observed.seen_at
        self.watermark = observed.watermark

    def advance(self, watermark: int) -> None:
        """Raise the watermark to a value that the source knows.

        Raises:
            SourceError: The watermark would go back.
        """
        if watermark < self.watermark:
            raise SourceError(
                f"the watermark of stream {self._stream.name!r} cannot go back from"
                f" {self.watermark} to {watermark}"
            )
        self.watermark = watermark

    def is_idle(self) -> bool:
        """Say whether no partition of the source has brought rows for the idle timeout."""
        if self._stream.idle_timeout_seconds is None or not self._last_seen:
            return False
        now = self._clock()
        return all(self._is_idle(partition, now) for partition in self._max_times)

    @property
    def max_time(self) -> int | None:
        """The greatest event time seen, or None."""
        greatest = max(self._max_times.copy().values(), default=NO_WATERMARK)
        return None if greatest == NO_WATERMARK else greatest

    def progress(self) -> list[SourceProgress]:
        """Return how far each partition of the source is that is known of."""
        now = self._clock()
        last_seen = self._last_seen.copy()
        return [
            SourceProgress(
                partition,
                None if max_time == NO_WATERMARK else max_time,
                max(now - last_seen[partition], 0.0),
                self._is_idle(partition, now),
            )
            for partition, max_time in self._max_times.copy().items()
            if partition in last_seen
        ]

    def _check_partition(self, source_partition: int, declared: int) -> None:
        if not 0 <= source_partition < declared:
            raise SourceError(
                f"stream {self._stream.name!r} has {declared} source partitions, numbered from 0:"
                f" {source_partition}"
            )

    def _scanned_before(self, batch: pa.RecordBatch, before: int) -> Sequence[int] | None:
        """Return what is known of a batch if what has come before it is what was expected."""
        if self._ahead:
            expected, time, scanned = self._ahead[0]
            if expected is batch and time == before:
                return scanned
        return None

    def _times(self, batch: pa.RecordBatch) -> I64:
        column = batch.column(self._place)
        if self._is_int64 and column.null_count == 0:
            # What event_times gives, without its questions: each takes as long as the scan.
            start = _WORD_BYTES * column.offset
            times = np.frombuffer(column.buffers()[1], np.int64, len(column), start)
            times.setflags(write=False)
            return times
        try:
            return event_times(column)
        except SchemaError as error:
            raise SchemaError(
                f"stream {self._stream.name!r}: event time column"
                f" {self._stream.event_time!r}: {error}"
            ) from None

    def _is_idle(self, source_partition: int, now: float) -> bool:
        return self._is_silent(self._last_seen[source_partition], now)

    def _is_silent(self, last_seen: float, now: float) -> bool:
        timeout = self._stream.idle_timeout_seconds
        return timeout is not None and now - last_seen >= timeout

    def _least_after(self, source_partition: int, max_time: int, now: float) -> int:
        """Return the watermark by the source partitions that count: all if all are idle.

        Args:
            source_partition: The one that brings rows now.
            max_time: The greatest event time that it has brought then.
            now: Time on the clock.
        """
        if not self._has_others(source_partition):
            return self._behind(max_time)
        max_times = {**self._max_times, source_partition: max_time}
        last_seen = {**self._last_seen, source_partition: now}
        active = [
            greatest
            for partition, greatest in max_times.items()
            if not self._is_silent(last_seen[partition], now)
        ]
        return self._behind(min(active or max_times.values()))

    def _least_of_others(self, source_partition: int, now: float) -> int | None:
        others = [
            greatest
            for partition, greatest in self._max_times.items()
            if partition != source_partition and not self._is_idle(partition, now)
        ]
        return self._behind(min(others)) if others else None

    def _has_others(self, source_partition: int) -> bool:
        return len(self._max_times) > (source_partition in self._max_times)

    def _behind(self, max_time: int) -> int:
        assert self._delay is not None
        if max_time == NO_WATERMARK:
            return NO_WATERMARK
        return max(max_time - self._delay, NO_WATERMARK)

    def _lift(self, max_time: int) -> int:
        """Return the greatest time that explains the watermark, so that rows behind it show."""
        assert self._delay is not None
        if self.watermark == NO_WATERMARK:
            return max_time
        return min(max(max_time, self.watermark + self._delay), WATERMARK_END)

    def _with_row_watermarks(
        self, batch: pa.RecordBatch, times: I64, max_time: int, least_of_others: int | None
    ) -> pa.RecordBatch:
        assert self._delay is not None
        watermarks = np.empty(len(times), np.int64)
        running_watermarks(times, max_time, self._delay, watermarks)
        if least_of_others is not None:
            # The slowest source partition holds the stream back, but what was reached stays.
            np.minimum(watermarks, least_of_others, out=watermarks)
            np.maximum(watermarks, self.watermark, out=watermarks)
        column = array_from_buffers(watermarks, pa.int64(), None)
        return batch.append_column(WATERMARK_COLUMN, column)
