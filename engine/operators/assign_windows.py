"""Windowing table functions without GROUP BY: rows pass, once per window, with its columns."""

from __future__ import annotations

import pyarrow as pa

from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters
from millstream.engine.operators.windowing import WindowGrid, word_per_row
from millstream.engine.row_order import ARRIVAL_NUMBER
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.taking import take_rows
from millstream.planner.nodes import HIDDEN_PREFIX, WINDOW_COLUMNS
from millstream.planner.nodes import AssignWindows as AssignWindowsNode

__all__ = ["AssignWindows"]


class AssignWindows:
    """Appends window_start, window_end and window_time, and keeps nothing.

    Args:
        node: The plan node.
        counters: Of the partition.
        watermarks: Judges rows for what closes the windows further on. None if nothing does: then
            no row is late here, and what lateness is judged by goes on with the rows.
        late_rows: Where late rows go, or None.
        allowed_lateness: Units of event time for which rows of a closed window are still taken.
    """

    def __init__(
        self,
        node: AssignWindowsNode,
        counters: Counters,
        watermarks: RowWatermarks | None,
        late_rows: LateRows | None,
        allowed_lateness: int = 0,
    ) -> None:
        self._node = node
        self._counters = counters
        self._watermarks = watermarks
        self._late_rows = late_rows
        self._grid = WindowGrid(node.window, allowed_lateness)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        watermarks = None if self._watermarks is None else self._watermarks.of(batch)
        assigned = self._grid.assign(batch, watermarks, self._late_rows)
        self._counters.rows_late += assigned.n_late
        rows = assigned.batch
        last_panes = word_per_row(assigned.panes, rows.num_rows)
        if self._grid.is_overlapping:
            indices, last_panes = self._grid.expand(last_panes, assigned.first_ends)
            rows = take_rows(rows, indices)
        n_seen = sum(not name.startswith(HIDDEN_PREFIX) for name in rows.schema.names)
        columns = rows.columns[:n_seen] + self._grid.columns(last_panes, WINDOW_COLUMNS)
        schema = self._node.schema
        for field in list(rows.schema)[n_seen:]:
            if self._watermarks is None or field.name == ARRIVAL_NUMBER:
                columns.append(rows.column(field.name))
                schema = schema.append(field)
        out.emit(pa.RecordBatch.from_arrays(columns, schema=schema))

    def end_batch(self, out: Collector) -> None:
        """Do nothing: nothing is kept."""

    def process_watermark(self, watermark: int, out: Collector) -> None:
        """Do nothing: nothing is kept."""

    def end_input(self, out: Collector) -> None:
        """Do nothing: nothing is kept."""

    @property
    def state_rows(self) -> int:
        return 0

    @property
    def state_bytes(self) -> int:
        return 0
