"""GROUP BY over windows that share panes, behind an exchange: windows are put together as they end.

For final results alone. Where results may be revised, each window keeps groups of its own: see
:mod:`millstream.engine.operators.aggregate`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.engine.dictionaries import batch_of
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.operators.base import Collector, HeldBack
from millstream.engine.operators.calls import Calls
from millstream.engine.operators.dense_groups import DenseGroups, words_of
from millstream.engine.operators.emission import emit_together
from millstream.engine.operators.grouping import held_windows
from millstream.engine.operators.partials import PartialColumns
from millstream.engine.operators.windowing import ALL_WINDOWS, WindowGrid
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.pane_runs import PaneRuns, WindowGroups
from millstream.engine.state.pane_windows import PaneWindows
from millstream.engine.state.pane_words import PaneWords
from millstream.kernels.compile import I64, Bool
from millstream.kernels.splitting import find_changes
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["SlidingAggregate"]

# So many groups of one pane, on average, are worth a run of their own: with fewer, to look after
# runs would take longer than to look at each group.
_RUN_ROWS_LEAST = 1 << 9
# So many windows are put together in one go: more would only need more memory at a time.
_WINDOWS_MAX = 1 << 6
# So many groups for each window that ends, and windows are better put together one by one.
_WINDOW_ROWS_LEAST = 1 << 11


class SlidingAggregate:
    """The side of an aggregate behind the exchange, for final results of overlapping windows.

    Args:
        node: An aggregate of phase ``final`` over hopping or cumulating windows, without lateness.
        rows_schema: Schema of the rows that are aggregated.
    """

    def __init__(self, node: AggregateNode, rows_schema: pa.Schema) -> None:
        assert node.window is not None, "windows that overlap"
        assert node.emit == "final", "results that nothing revises"
        assert node.allowed_lateness == 0, "results that nothing revises"
        self._node = node
        self._grid = WindowGrid(node.window, 0)
        self._calls = Calls(node.calls, rows_schema, {})
        self._columns = PartialColumns(node, len(self._calls.specs))
        key_types = [rows_schema.field(key).type for key in node.keys]
        self._key_types = key_types
        self._runs = PaneRuns(key_types, self._calls.specs, ALL_WINDOWS)
        self._dense = DenseGroups.for_node(node, rows_schema, self._calls)
        self._windows: PaneWindows | None = None
        if self._dense is not None:
            self._windows = self._windows_of(self._dense.panes)
        self._closed_below = NO_WATERMARK

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        if batch.num_rows == 0:
            # All rows of a micro-batch were late, or none passed.
            return
        panes, first_ends = self._columns.panes(batch), self._columns.first_ends(batch)
        bounds = _runs(panes, first_ends)
        is_whole = bounds is not None
        if bounds is None:
            bounds = [0, batch.num_rows]
        for start, stop in pairwise(bounds):
            run = batch if stop - start == batch.num_rows else batch.slice(start, stop - start)
            keys, states = self._columns.keys(run), self._columns.states(run)
            some = slice(start, stop)
            if is_whole and first_ends[start] <= panes[start] + 1:
                if self._dense is None or not self._dense.add_arrays(panes[some], keys, states):
                    self._runs.add_run(int(panes[start]), keys, states, stop - start)
            else:
                self._runs.add_mixed(panes[some], first_ends[some], keys, states)

    def process_groups(self, groups: PaneWords, out: Collector) -> None:
        if self._dense is not None and self._dense.add(groups):
            return
        specs = words_of(self._calls)
        assert specs is not None, "state that is words on both sides"
        # They stay, and what they lie in may be much larger.
        groups = groups.present().copied()
        keys, states = groups.arrays(self._key_types, specs)
        self._runs.add_run(groups.pane, keys, states, groups.n_groups)

    def share_panes(self, panes: DensePanes) -> bool:
        if self._dense is None or self._windows is None:
            return False
        # What has been handed on may be in no pane any more, but in sums of several.
        if self._dense.has_groups or self._windows.panes():
            return False
        self._dense = None
        self._windows = self._windows_of(panes)
        return True

    def end_batch(self, out: Collector) -> None:
        if self._dense is not None:
            self._dense.settle()

    def process_watermark(self, watermark: int, out: Collector) -> None:
        least, limit = self._closed_below, self._grid.closed_below(watermark)
        if limit <= least:
            return
        self._closed_below = limit
        last_panes = self._grid.last_panes_between(self._panes(), least, limit)
        if last_panes:
            self._emit_windows(last_panes, out)
        self._runs.drop(self._is_over)
        if self._windows is not None:
            self._windows.drop(self._grid.first_panes(limit))

    def _emit_windows(self, last_panes: list[int], out: Collector) -> None:
        """Put windows together that end now, ascending."""
        n_rows, n_windows = self._runs.n_rows, len(last_panes)
        if not self._dense_panes() and n_windows * _WINDOW_ROWS_LEAST > n_rows and n_windows > 1:
            groups = self._runs.windows(self._grid.last_of_all, last_panes[0], last_panes[-1] + 1)
            if groups is not None:
                out.emit(self._results(groups))
            return
        first_panes = self._grid.first_panes(np.array(last_panes, np.int64)).tolist()
        panes = list(zip(first_panes, last_panes, strict=True))
        results: list[pa.RecordBatch] = []
        for start in range(0, len(panes), _WINDOWS_MAX):
            some = panes[start : start + _WINDOWS_MAX]
            dense: list[PaneGroups | None] = [None] * len(some)
            if self._windows is not None:
                dense = self._windows.windows(some)
            found = [self._window(*of, groups) for of, groups in zip(some, dense, strict=True)]
            results += [self._results(groups) for groups in found if groups is not None]
        emit_together(results, out)

    def _window(self, first: int, last: int, dense: PaneGroups | None) -> WindowGroups | None:
        """Put one window together of dense groups and others; None if nothing counts in it."""
        if dense is None:
            return self._runs.window(first, last)
        if not self._runs.has_groups(first, last):
            return WindowGroups(last, dense.keys, dense.states)
        return self._runs.window(first, last, (dense.keys, dense.states))

    def _dense_panes(self) -> list[int]:
        return [] if self._windows is None else self._windows.panes()

    def _panes(self) -> list[int]:
        """Return the distinct panes that have groups, ascending."""
        panes = self._dense_panes()
        if self._runs.n_rows == 0:
            return panes
        return sorted({*panes, *self._runs.panes().tolist()})

    def end_input(self, out: Collector) -> None:
        """Do nothing: the last watermark has closed all windows."""

    @property
    def state_rows(self) -> int:
        return self._runs.n_rows + (0 if self._windows is None else self._windows.n_groups)

    @property
    def state_bytes(self) -> int:
        n_dense = 0 if self._windows is None else self._windows.state_bytes
        return self._runs.state_bytes + n_dense

    def held_back(self) -> HeldBack | None:
        least, limit = self._closed_below, WATERMARK_END
        last_panes = self._grid.last_panes_between(self._panes(), least, limit)
        ends = self._grid.bounds(np.array(last_panes, np.int64))[1]
        return held_windows(self._node, ends)

    def _windows_of(self, panes: DensePanes) -> PaneWindows:
        window = self._node.window
        assert window is not None, "windows that overlap"
        return PaneWindows(panes, window.size // window.step)

    def _is_over(self, panes: I64) -> Bool:
        over: Bool = self._grid.last_of_all(panes) < self._closed_below
        return over

    def _results(self, groups: WindowGroups) -> pa.RecordBatch:
        last_panes, names = groups.last_panes, self._node.window_columns
        if isinstance(last_panes, int):
            arrays = [*groups.keys, *groups.states]
            # Without keys and calls, the group itself is all there is.
            n_groups = len(arrays[0]) if arrays else 1
            columns = self._grid.columns_of_one(last_panes, n_groups, names)
        else:
            n_groups = len(last_panes)
            columns = self._grid.columns(last_panes, names)
        columns += groups.keys
        columns += self._calls.results(groups.states, slice(0, n_groups))
        return batch_of(columns, self._node.schema)


def _runs(panes: I64, first_ends: I64) -> list[int] | None:
    """Return where rows of one pane and one first end begin, and the end; None if too often."""
    n_rows = len(panes)
    if n_rows < _RUN_ROWS_LEAST:
        return None
    starts = {0, n_rows}
    changes: I64 = np.empty(n_rows // _RUN_ROWS_LEAST, np.int64)
    for values in (panes, first_ends):
        n_changes: int = find_changes(values, changes)
        if n_changes > len(changes):
            return None
        starts.update(changes[:n_changes].tolist())
    return sorted(starts)
