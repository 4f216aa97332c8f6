"""Event time of a stream: its watermark, and the rows that are behind it.

The watermark is a function of the rows in the order in which they were pushed, one by one, so that
it does not depend on how they were cut into micro-batches: a row is judged by the watermark after
the row before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, event_times
from millstream.errors import SchemaError, SourceError
from millstream.kernels.compile import I64
from millstream.kernels.windows import running_watermarks, scan_times
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import HIDDEN_PREFIX

__all__ = [
    "NO_WATERMARK",
    "WATERMARK_COLUMN",
    "WATERMARK_END",
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


class TimeBounds(NamedTuple):
    """The least and the greatest event time of some rows."""

    least: int
    greatest: int


class _Observed(NamedTuple):
    batch: pa.RecordBatch
    watermark: int


class _Mark(NamedTuple):
    source_partition: int
    max_time: int | None
    last_seen: float | None
    watermark: int


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
        bounds: Of the event times of the batch observed last, None if nobody has looked at them.
    """

    def __init__(self, stream: StreamDefinition, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._delay = stream.max_out_of_orderness
        self._clock = clock
        declared = range(stream.source_partitions or 0)
        self._max_times = dict.fromkeys(declared, NO_WATERMARK)
        self._last_seen = dict.fromkeys(declared, clock())
        self.watermark = NO_WATERMARK
        self.bounds: TimeBounds | None = None

    def observe(self, batch: pa.RecordBatch, source_partition: int) -> _Observed:
        """Advance by the rows of a batch.

        Args:
            batch: Rows of the stream, at least one.
            source_partition: Partition of the source that they come from.

        Returns:
            The batch, with the watermark before each row as hidden column if any row is behind it,
            and the watermark after the batch.

        Raises:
            SchemaError: An event time is NULL.
            SourceError: There is no such source partition.
        """
        self._check_partition(source_partition)
        column = self._stream.event_time
        if column is None:
            return _Observed(batch, self.watermark)
        times = self._times(batch, column)
        if self._delay is None:
            return _Observed(batch, self.watermark)
        now = self._clock()
        max_time = self._lift(self._max_times.get(source_partition, NO_WATERMARK))
        max_time_after, n_behind, least, greatest = scan_times(times, max_time, self._delay)
        self.bounds = TimeBounds(least, greatest)
        if n_behind > 0:
            others = self._least_of_others(source_partition, now)
            batch = self._with_row_watermarks(batch, times, max_time, others)
        self._max_times[source_partition] = int(max_time_after)
        self._last_seen[source_partition] = now
        self.watermark = max(self.watermark, self._least(now))
        return _Observed(batch, self.watermark)

    def mark(self, source_partition: int) -> _Mark:
        """Return what :meth:`reset` needs to undo the observation of a source partition's batch."""
        max_time = self._max_times.get(source_partition)
        last_seen = self._last_seen.get(source_partition)
        return _Mark(source_partition, max_time, last_seen, self.watermark)

    def reset(self, mark: _Mark) -> None:
        """Forget the batch that was observed since a mark: it was not taken after all."""
        self.watermark = mark.watermark
        if mark.max_time is None or mark.last_seen is None:
            self._max_times.pop(mark.source_partition, None)
            self._last_seen.pop(mark.source_partition, None)
            return
        self._max_times[mark.source_partition] = mark.max_time
        self._last_seen[mark.source_partition] = mark.last_seen

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

    def _check_partition(self, source_partition: int) -> None:
        declared = self._stream.source_partitions
        if declared is not None and not 0 <= source_partition < declared:
            raise SourceError(
                f"stream {self._stream.name!r} has {declared} source partitions, numbered from 0:"
                f" {source_partition}"
            )

    def _times(self, batch: pa.RecordBatch, column: str) -> I64:
        try:
            return event_times(batch.column(column))
        except SchemaError as error:
            raise SchemaError(
                f"stream {self._stream.name!r}: event time column {column!r}: {error}"
            ) from None

    def _is_idle(self, source_partition: int, now: float) -> bool:
        timeout = self._stream.idle_timeout_seconds
        return timeout is not None and now - self._last_seen[source_partition] >= timeout

    def _least(self, now: float) -> int:
        """Return the watermark by the source partitions that count: all if all are idle."""
        active = [
            greatest
            for partition, greatest in self._max_times.items()
            if not self._is_idle(partition, now)
        ]
        return self._behind(min(active or self._max_times.values()))

    def _least_of_others(self, source_partition: int, now: float) -> int | None:
        others = [
            greatest
            for partition, greatest in self._max_times.items()
            if partition != source_partition and not self._is_idle(partition, now)
        ]
        return self._behind(min(others)) if others else None

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
