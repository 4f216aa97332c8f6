"""OVER: window functions over the rows of a key, in the order of event time or of arrival."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from millstream.engine.columns import event_times
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters, HeldBack
from millstream.engine.operators.over_accumulators import Inputs
from millstream.engine.operators.over_functions import OverFunctions
from millstream.engine.row_order import ARRIVAL_NUMBER, in_order, together
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.state.keyed_rows import Keys
from millstream.engine.state.waiting_rows import TimedRows, WaitingRows
from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64
from millstream.planner.nodes import Over as OverNode

__all__ = ["Over"]

# Rows are computed this many at a time, so that what they need stays in a core's cache.
_BLOCK_ROWS = 1 << 16
# Looking through all keys is worth it once there are twice as many as last time, or once steps have
# earned so many credits for each key: one for each row that left, and these for the step itself.
_CREDITS_PER_KEY = 8
_CREDITS_PER_STEP = 4096
# Fewer keys than this are not worth forgetting.
_KEYS_LEAST = 1024


class Over:
    """Appends the results of window functions to rows.

    With an order by event time, rows wait for the watermark, and leave in the order of (time,
    arrival); a row behind its running watermark is late, and dropped. The watermark has to reach a
    row, since rows that are still to come are behind it then; where functions see later rows of the
    same time, or rows of one time are ordered by their values, it has to be past the row. Without
    such an order, rows leave as they come; or with the end of their step, in the order of their
    numbers, where something has mixed them up.

    Args:
        node: The plan node. All rows of a key arrive here.
        counters: Of the partition.
        watermarks: Of the node, row by row.
        late_rows: Where late rows go, or None.
        functions: User-defined DataFusion functions by name.
    """

    def __init__(
        self,
        node: OverNode,
        counters: Counters,
        watermarks: RowWatermarks,
        late_rows: LateRows | None,
        functions: Mapping[str, object],
    ) -> None:
        self._node = node
        self._names = node.input.schema.names
        self._counters = counters
        self._row_watermarks = watermarks
        self._late_rows = late_rows
        self._keys = Keys([node.input.schema.field(key).type for key in node.keys])
        self._functions = OverFunctions(node, self._keys, functions)
        # How far beyond a row the watermark has to be.
        self._distance = 1 if self._functions.sees_peers or node.ties == "columns" else 0
        # Rows of the step that have no time to wait for.
        self._of_step: list[pa.RecordBatch] = []
        self._waiting = WaitingRows()
        self._watermark = NO_WATERMARK
        self._credits = 0
        self._n_keys_max = _KEYS_LEAST

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        order_column = self._node.order_column
        if order_column is None:
            if self._node.ties == "none":
                self._emit(TimedRows(batch, _NO_TIMES), out)
            else:
                self._of_step.append(batch)
            return
        rows, times = self._without_late(batch, event_times(batch.column(order_column)))
        if rows.num_columns > len(self._names):
            # Where values order rows, some inputs of a union may have numbers, and others none.
            is_numbered = self._node.ties != "columns" and ARRIVAL_NUMBER in rows.schema.names
            rows = rows.select(self._names + ([ARRIVAL_NUMBER] if is_numbered else []))
        self._waiting.add(rows, times)

    def end_batch(self, out: Collector) -> None:
        if self._of_step:
            rows, self._of_step = together(self._of_step), []
            self._emit(TimedRows(in_order(rows, self._names, None), _NO_TIMES), out)

    def process_watermark(self, watermark: int, out: Collector) -> None:
        self._watermark = watermark
        if self._node.order_column is None:
            return
        self._release(None if watermark == WATERMARK_END else watermark + 1 - self._distance, out)
        self._credits += _CREDITS_PER_STEP
        n_keys = self._keys.n_keys
        if self._credits > _CREDITS_PER_KEY * n_keys or n_keys > self._n_keys_max:
            self._credits = 0
            self._expire()
            self._n_keys_max = max(2 * self._keys.n_keys, _KEYS_LEAST)

    def end_input(self, out: Collector) -> None:
        self._release(None, out)

    @property
    def state_rows(self) -> int:
        return self._waiting.n_rows + self._functions.state_rows + self._keys.n_keys

    @property
    def state_bytes(self) -> int:
        kept = self._functions.state_bytes + self._keys.state_bytes
        return kept + self._waiting.state_bytes

    def held_back(self) -> HeldBack | None:
        column = self._node.order_column
        if column is None:
            return None
        times = self._waiting.times + self._distance
        return HeldBack("row", times, self._node.input.schema.field(column).type)

    def _without_late(self, batch: pa.RecordBatch, times: I64) -> TimedRows:
        """Take out the rows that are behind the watermark before them."""
        watermarks = self._row_watermarks.of(batch)
        if watermarks is None:
            return TimedRows(batch, times)
        is_late = times < watermarks
        late = np.flatnonzero(is_late)
        if len(late) == 0:
            return TimedRows(batch, times)
        self._counters.rows_late += len(late)
        if self._late_rows is not None:
            self._late_rows.write(batch, late, None, None, watermarks[late])
        on_time = np.flatnonzero(~is_late)
        times = times[on_time]
        times.setflags(write=False)
        return TimedRows(take_rows(batch, on_time), times)

    def _release(self, limit: int | None, out: Collector) -> None:
        released = self._waiting.release(limit)
        if released is None:
            return
        self._credits += len(released.times)
        if self._node.ties != "none":
            rows = in_order(released.rows, self._names, released.times)
            released = released._replace(rows=rows)
        self._emit(released, out)

    def _emit(self, timed: TimedRows, out: Collector) -> None:
        """Compute rows in blocks, none of which ends between rows that see each other as peers."""
        n_rows, start = timed.rows.num_rows, 0
        if 0 < n_rows <= _BLOCK_ROWS:
            out.emit(self._compute(timed))
            return
        while start < n_rows:
            stop = min(start + _BLOCK_ROWS, n_rows)
            if self._functions.sees_peers and stop < n_rows:
                stop = int(np.searchsorted(timed.times, timed.times[stop - 1], side="right"))
            out.emit(self._compute(timed.slice(start, stop)))
            start = stop

    def _compute(self, timed: TimedRows) -> pa.RecordBatch:
        batch = timed.rows
        times = None if self._node.order_column is None else timed.times
        key_columns = [batch.column(key) for key in self._node.keys]
        rows = self._keys.number(batch.num_rows, key_columns, times)
        results = self._functions.compute(Inputs(rows, batch))
        columns, schema = batch.columns, self._node.schema
        n_columns = len(self._names)
        if len(columns) == n_columns:
            return pa.RecordBatch.from_arrays([*columns, *results], schema=schema)
        # Rows that leave as they came may still be late further down.
        for field in list(batch.schema)[n_columns:]:
            schema = schema.append(field)
        columns[n_columns:n_columns] = results
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _expire(self) -> None:
        self._functions.expire(self._watermark)
        is_live = self._functions.live_keys()
        if is_live is None or len(is_live) < _KEYS_LEAST or not self._node.keys:
            return
        live = np.flatnonzero(is_live).astype(np.uint32)
        if 2 * len(live) < len(is_live):
            self._keys.retain(live)


_NO_TIMES: I64 = np.empty(0, np.int64)
