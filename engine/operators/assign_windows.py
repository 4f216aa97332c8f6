"""Windowing table functions without GROUP BY: rows pass through, once per window, with the window's columns."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, event_times
from millstream.engine.operators.base import Collector
from millstream.engine.operators.windowing import WindowGrid
from millstream.kernels.windows import pane_indices
from millstream.planner.nodes import AssignWindows as AssignWindowsNode

__all__ = ["AssignWindows"]


class AssignWindows:
    """Appends window_start, window_end and window_time. Keeps nothing; what follows judges lateness."""

    def __init__(self, node: AssignWindowsNode) -> None:
        self._node = node
        self._grid = WindowGrid(node.window, 0)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        window = self._node.window
        times = event_times(batch.column(window.time_column))
        last_panes = np.empty(len(times), np.int64)
        pane_indices(times, window.offset, window.step, last_panes)
        if self._grid.is_overlapping:
            rows, last_panes = self._grid.expand(last_panes, None)
            batch = batch.take(array_from_buffers(rows, pa.int64(), None))
        n_columns = len(self._node.schema) - 3
        columns = batch.columns[:n_columns] + self._grid.columns(last_panes) + batch.columns[n_columns:]
        schema = self._node.schema
        for field in list(batch.schema)[n_columns:]:
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
