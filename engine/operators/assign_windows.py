"""Windowing table functions without GROUP BY: rows pass, once per window, with its columns."""

from __future__ import annotations

import pyarrow as pa

from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters
from millstream.engine.operators.windowing import WindowGrid, word_per_row
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
        watermarks: Judges rows.
        late_rows: Where late rows go, or None.
        drops_late: Whether what follows closes the windows, so that rows for closed ones have to be
            left out. Where rows only pass through, none is late.
    """

    def __init__(
        self,
        node: AssignWindowsNode,
        counters: Counters,
        watermarks: RowWatermarks,
        late_rows: LateRows | None,
        *,
        drops_late: bool,
    ) -> None:
        self._node = node
        self._counters = counters
        self._watermarks = watermarks
        self._late_rows = late_rows
        self._drops_late = drops_late
        self._grid = WindowGrid(node.window, 0)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        if not self._drops_late:
            batch = _without_hidden(batch)
        assigned = self._grid.assign(batch, self._watermarks.of(batch), self._late_rows)
        self._counters.rows_late += assigned.n_late
        rows = _without_hidden(assigned.batch)
        last_panes = word_per_row(assigned.panes, rows.num_rows)
        if self._grid.is_overlapping:
            indices, last_panes = self._grid.expand(last_panes, assigned.first_ends)
            rows = take_rows(rows, indices)
        columns = rows.columns + self._grid.columns(last_panes, WINDOW_COLUMNS)
        out.emit(pa.RecordBatch.from_arrays(columns, schema=self._node.schema))

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


def _without_hidden(batch: pa.RecordBatch) -> pa.RecordBatch:
    names = [name for name in batch.schema.names if not name.startswith(HIDDEN_PREFIX)]
    return batch if len(names) == batch.num_columns else batch.select(names)
