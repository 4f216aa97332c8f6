"""Event time of a stream: its watermark, and the rows that are behind it.

The watermark is a function of the rows in the order in which they were pushed, one by one, so that it does not depend
on how they were cut into micro-batches: a row is judged by the watermark after the row before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, event_times
from millstream.errors import SchemaError, SourceError
from millstream.kernels.windows import running_watermarks, scan_times
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import HIDDEN_PREFIX

__all__ = ["NO_WATERMARK", "WATERMARK_COLUMN", "WATERMARK_END", "WatermarkTracker"]

# Nothing is promised yet: every event time is still possible.
NO_WATERMARK = -(1 << 63)
# The input has ended: no row is still to come.
WATERMARK_END = (1 << 63) - 1
# Hidden column with the watermark before each row; present only on batches in which some row is behind.
WATERMARK_COLUMN = HIDDEN_PREFIX + "watermark"


class _Observed(NamedTuple):
    batch: pa.RecordBatch
    watermark: int


class WatermarkTracker:
    """Follows the watermark of one stream. Called by one thread at a time.

    Args:
        stream: Declaration of the stream; its ``event_time`` may be None, and then the watermark moves only when told.
    """

    def __init__(self, stream: StreamDefinition) -> None:
        self._stream = stream
        self._delay = stream.max_out_of_orderness
        self._max_time_by_partition: dict[int, int] = {}
        self.watermark = NO_WATERMARK

    def observe(self, batch: pa.RecordBatch, source_partition: int = 0) -> _Observed:
        """Advance by the rows of a batch.

        Returns:
            The batch, with the watermark before each row as hidden column if any row is behind it, and the watermark
            after the batch.

        Raises:
            SchemaError: If an event time is NULL.
        """
        column = self._stream.event_time
        if column is None or batch.num_rows == 0:
            return _Observed(batch, self.watermark)
        try:
            times = event_times(batch.column(column))
        except SchemaError as error:
            raise SchemaError(f"stream {self._stream.name!r}: event time column {column!r}: {error}") from None
        if self._delay is None:
            return _Observed(batch, self.watermark)
        max_time_before = self._max_time_by_partition.get(source_partition, NO_WATERMARK)
        max_time = self._lift(max_time_before)
        max_time_after, n_behind = scan_times(times, max_time, self._delay)
        if n_behind > 0:
            batch = self._with_row_watermarks(batch, times, max_time, source_partition)
        self._max_time_by_partition[source_partition] = int(max_time_after)
        self.watermark = max(self.watermark, self._least())
        return _Observed(batch, self.watermark)

    def advance(self, watermark: int) -> int:
        """Raise the watermark to a value that the source knows, and return it.

        Raises:
            SourceError: If the watermark would go back.
        """
        if watermark < self.watermark:
            raise SourceError(
                f"the watermark of stream {self._stream.name!r} cannot go back from {self.watermark} to {watermark}"
            )
        self.watermark = watermark
        return watermark

    def _least(self) -> int:
        assert self._delay is not None
        least = min(self._max_time_by_partition.values(), default=NO_WATERMARK)
        return NO_WATERMARK if least == NO_WATERMARK else max(least - self._delay, NO_WATERMARK)

    def _lift(self, max_time: int) -> int:
        """Return the greatest time that would explain the watermark, so that rows behind it are noticed."""
        assert self._delay is not None
        if self.watermark == NO_WATERMARK:
            return max_time
        return min(max(max_time, self.watermark + self._delay), WATERMARK_END)

    def _with_row_watermarks(
        self, batch: pa.RecordBatch, times: np.ndarray, max_time: int, source_partition: int
    ) -> pa.RecordBatch:
        assert self._delay is not None
        watermarks = np.empty(len(times), np.int64)
        running_watermarks(times, max_time, self._delay, watermarks)
        others = [
            greatest
            for partition, greatest in self._max_time_by_partition.items()
            if partition != source_partition
        ]
        if others:
            least_other = min(others)
            # The stream is held back by its slowest partition, but a watermark once reached is not taken back.
            np.minimum(watermarks, max(least_other - self._delay, NO_WATERMARK), out=watermarks)
            np.maximum(watermarks, self.watermark, out=watermarks)
        column = array_from_buffers(watermarks, pa.int64(), None)
        return batch.append_column(WATERMARK_COLUMN, column)
