"""Queries over all rows of a window, run when it closes: Top-N, ORDER BY with LIMIT."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, event_times
from millstream.engine.datafusion import QueryRunner
from millstream.engine.event_time import WATERMARK_END
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters, HeldBack
from millstream.engine.operators.first_rows import first_of_windows
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.taking import filter_rows
from millstream.kernels.compile import I64
from millstream.planner.nodes import ARRIVAL_COLUMN
from millstream.planner.nodes import WindowSelect as WindowSelectNode

__all__ = ["WindowSelect"]


class WindowSelect:
    """Keeps rows until the watermark reaches the end of their window.

    Where rows get their windows right before, none is late any more. Others bring what they are
    judged by.

    Args:
        node: The plan node.
        counters: Of the partition.
        watermarks: Judges rows.
        late_rows: Where late rows go, or None.
        functions: User-defined DataFusion functions by name.
    """

    def __init__(
        self,
        node: WindowSelectNode,
        counters: Counters,
        watermarks: RowWatermarks,
        late_rows: LateRows | None,
        functions: Mapping[str, object],
    ) -> None:
        self._node = node
        self._counters = counters
        self._watermarks = watermarks
        self._late_rows = late_rows
        arrival = pa.field(ARRIVAL_COLUMN, pa.int64(), nullable=False)
        self._schema = node.input.schema.append(arrival)
        self._n_arrived = 0
        self._query = QueryRunner(node.sql, self._schema, node.schema, functions=functions)
        self._chunks: list[pa.RecordBatch] = []
        self._ends: list[I64] = []
        self._next_end = WATERMARK_END

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        batch, ends = self._without_late(batch)
        if batch.num_rows == 0:
            return
        first, self._n_arrived = self._n_arrived, self._n_arrived + batch.num_rows
        places = array_from_buffers(np.arange(first, self._n_arrived), pa.int64(), None)
        columns = batch.columns[: len(self._schema) - 1]
        self._chunks.append(pa.RecordBatch.from_arrays([*columns, places], schema=self._schema))
        self._ends.append(ends)
        self._next_end = min(self._next_end, int(ends.min()))

    def end_batch(self, out: Collector) -> None:
        """Do nothing: only the watermark closes windows."""

    def process_watermark(self, watermark: int, out: Collector) -> None:
        if watermark < self._next_end or not self._chunks:
            return
        closed, ends = self._take_closed(watermark)
        order, n_rows = self._node.order, self._node.first_rows
        if order is not None and n_rows is not None and not self._node.keys:
            # To sort whole rows takes far longer than to find out which have to be.
            closed = first_of_windows(closed, ends, order, n_rows)
        for result in self._query.run(closed):
            out.emit(result)

    def end_input(self, out: Collector) -> None:
        """Do nothing: the last watermark has closed all windows."""

    @property
    def state_rows(self) -> int:
        return sum(len(ends) for ends in self._ends)

    @property
    def state_bytes(self) -> int:
        return int(sum(part.nbytes for part in (*self._chunks, *self._ends)))

    def held_back(self) -> HeldBack | None:
        ends = np.unique(np.concatenate(self._ends)) if self._ends else np.empty(0, np.int64)
        type_ = self._node.input.schema.field(self._node.window_end_column).type
        delay = max((bound.delay for bound in self._node.watermark), default=0)
        return HeldBack("window", ends + delay, type_)

    def _without_late(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, I64]:
        """Return the rows whose windows are open, with the ends of these."""
        ends = event_times(batch.column(self._node.window_end_column))
        watermarks = self._watermarks.of(batch)
        if watermarks is None:
            return batch, ends
        is_late = ends <= watermarks
        late = np.flatnonzero(is_late)
        self._counters.rows_late += len(late)
        if self._late_rows is not None:
            self._late_rows.write(batch, late, None, ends[late], watermarks[late])
        return filter_rows(batch, ~is_late), ends[~is_late]

    def _take_closed(self, watermark: int) -> tuple[list[pa.RecordBatch], list[I64]]:
        """Give away the rows of closed windows, with the ends of these."""
        chunks, all_ends = self._chunks, self._ends
        self._chunks, self._ends, self._next_end = [], [], WATERMARK_END
        closed: list[pa.RecordBatch] = []
        closed_ends: list[I64] = []
        for chunk, ends in zip(chunks, all_ends, strict=True):
            is_closed = ends <= watermark
            if is_closed.all():
                closed.append(chunk)
                closed_ends.append(ends)
                continue
            if is_closed.any():
                closed.append(filter_rows(chunk, is_closed))
                closed_ends.append(ends[is_closed])
                chunk, ends = filter_rows(chunk, ~is_closed), ends[~is_closed]
            self._chunks.append(chunk)
            self._ends.append(ends)
            self._next_end = min(self._next_end, int(ends.min()))
        return closed, closed_ends
