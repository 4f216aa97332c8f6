"""Numbers of panes and windows.

Event time is cut into panes of one step each, numbered from the epoch plus the window's offset. A
row falls into one pane; a window is one pane or several that end together with it, and is known by
the number of its last pane.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, overload

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_columns
from millstream.engine.columns import array_from_buffers, event_times
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.window_room import WindowRoom
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.key_table import Word
from millstream.engine.taking import filter_rows
from millstream.kernels.compile import I64, U8
from millstream.kernels.panes import fill_words
from millstream.kernels.splitting import find_changes
from millstream.kernels.windows import (
    NO_PANE,
    count_expanded,
    cut_ascending,
    cut_panes,
    expand_panes,
    first_open_windows,
    late_for_tumble,
    only_pane,
    pane_indices,
)
from millstream.planner.nodes import WINDOW_COLUMNS, Window

__all__ = [
    "ALL_WINDOWS",
    "PaneCuts",
    "Panes",
    "WindowGrid",
    "or_all_windows",
    "pane_words",
    "window_arrays",
    "word_per_row",
]

_WINDOW_START, _WINDOW_END, _ = WINDOW_COLUMNS

# Rows that one pane has in a row, on average, if rows are worth being cut at the ends of panes: in
# general, and where windows are put together from panes, which takes long if they are not cut.
_CUT_ROWS_LEAST, _SHARED_CUT_ROWS_LEAST = 1 << 12, 1 << 8
# Rows that are told their window while the GIL is kept.
_FEW_ROWS = 1 << 15

ALL_WINDOWS = -(1 << 63)
"""As the first end that a row counts in: all windows of its pane."""


class Panes(NamedTuple):
    """Rows with their panes, without those that are late for every window.

    Attributes:
        batch: The rows that are left.
        panes: int64[n_rows], pane of each, or the one in which all rows lie.
        first_ends: int64[n_rows], the least end index of a window in which the row still counts, or
            None for all.
        n_late: Rows that were taken out.
    """

    batch: pa.RecordBatch
    panes: Word
    first_ends: I64 | None
    n_late: int


class PaneCuts(NamedTuple):
    """Panes of rows that lie in few runs.

    Attributes:
        starts: Numbers of the first rows of the runs, ascending from 0.
        panes: The pane of each run.
    """

    starts: Sequence[int]
    panes: Sequence[int]


class WindowGrid:
    """Arithmetic of one window definition.

    Args:
        window: A window that is not a session.
        allowed_lateness: Units of event time for which rows of a closed window are still taken.
    """

    def __init__(self, window: Window, allowed_lateness: int) -> None:
        assert window.kind != "session", "sessions have no grid"
        self._window = window
        self._lateness = allowed_lateness
        self._panes_per_window = window.size // window.step
        self.is_overlapping = window.kind != "tumble"
        self._room = WindowRoom(window)
        self._cut_rows_least = _SHARED_CUT_ROWS_LEAST if self.is_overlapping else _CUT_ROWS_LEAST

    def assign(
        self, batch: pa.RecordBatch, watermarks: I64 | None, late_rows: LateRows | None
    ) -> Panes:
        """Number the panes of a batch's rows and take out the rows that are late.

        Args:
            batch: Rows with the window's time column.
            watermarks: int64[n_rows], the watermark before each row, or None if none can be late.
            late_rows: Where late rows go, or None.
        """
        window = self._window
        times = event_times(batch.column(window.time_column))
        if watermarks is None and len(times) > 0:
            only = only_pane(times, window.offset, window.step)
            if only != NO_PANE:
                self._room.check((only, only), times)
                return Panes(batch, only, None, 0)
        panes = np.empty(len(times), np.int64)
        pane_indices(times, window.offset, window.step, panes)
        if watermarks is None:
            self._room.check(panes, times)
            return Panes(batch, panes, None, 0)
        late = np.empty(len(panes), np.uint8)
        first_ends = np.empty(len(panes), np.int64) if self.is_overlapping else None
        n_late = self._find_late(panes, watermarks, late, first_ends)
        if late_rows is not None:
            self._report(batch, panes, watermarks, late, first_ends, late_rows)
        if n_late > 0:
            on_time = late == 0
            batch = filter_rows(batch, on_time)
            panes, times = panes[on_time], times[on_time]
            first_ends = None if first_ends is None else first_ends[on_time]
        self._room.check(panes, times)
        return Panes(batch, panes, first_ends, n_late)

    def panes_of(self, rows: SourceRows) -> Word | PaneCuts:
        """Number the panes of rows of which none can be late: of all, of runs or of each."""
        window = self._window
        bounds = rows.bounds(window.time_column)
        if bounds is not None:
            pane = (bounds.least - window.offset) // window.step
            last = (bounds.greatest - window.offset) // window.step
            self._room.check((pane, last), (bounds.least, bounds.greatest))
            if pane == last:
                return pane
        times = event_times(rows.column(window.time_column))
        n_most = len(times) // self._cut_rows_least
        cuts = np.empty((2, n_most), np.int64)
        cut = cut_ascending if bounds is not None and bounds.do_ascend else cut_panes
        n_cuts = cut(times, window.offset, window.step, *cuts)
        if n_cuts <= n_most:
            starts, of_runs = cuts[:, :n_cuts].tolist()
            self._room.check(of_runs, times)
            return PaneCuts(starts, of_runs)
        panes = np.empty(len(times), np.int64)
        pane_indices(times, window.offset, window.step, panes)
        self._room.check(panes, times)
        return panes

    def cut(self, panes: I64) -> PaneCuts | None:
        """Find the runs of rows whose panes are given, int64[n_rows]; None if there are many."""
        changes: I64 = np.empty(len(panes) // self._cut_rows_least, np.int64)
        n_changes: int = find_changes(panes, changes)
        if n_changes > len(changes):
            return None
        starts = [0, *changes[:n_changes].tolist()] if len(panes) > 0 else []
        return PaneCuts(starts, panes[starts].tolist())

    def _find_late(self, panes: I64, watermarks: I64, late: U8, first_ends: I64 | None) -> int:
        window, lateness = self._window, self._lateness
        if first_ends is None:
            return int(
                late_for_tumble(panes, window.offset, window.step, lateness, watermarks, late)
            )
        n_late = first_open_windows(
            panes,
            watermarks,
            window.offset,
            window.step,
            lateness,
            window.kind == "cumulate",
            self._panes_per_window,
            first_ends,
            late,
        )
        return int(n_late)

    def _report(
        self,
        batch: pa.RecordBatch,
        panes: I64,
        watermarks: I64,
        late: U8,
        first_ends: I64 | None,
        late_rows: LateRows,
    ) -> None:
        if first_ends is None:
            rows = np.flatnonzero(late)
            last_panes = panes[rows]
        else:
            # A row can be late for its first windows and in time for the others.
            rows = np.flatnonzero(first_ends > panes + 1)
            places, last_panes = self.expand(panes[rows], None)
            rows = rows[places]
            is_missed = last_panes + 1 < first_ends[rows]
            rows, last_panes = rows[is_missed], last_panes[is_missed]
        starts, ends = self.bounds(last_panes)
        late_rows.write(batch, rows, starts, ends, watermarks[rows])

    def closed_below(self, watermark: int, lateness: int = 0) -> int:
        """Return the number below which the last panes of closed windows lie."""
        if watermark == WATERMARK_END:
            return WATERMARK_END
        if watermark == NO_WATERMARK:
            return NO_WATERMARK
        return (watermark - lateness - self._window.offset) // self._window.step

    def expand(self, panes: I64, first_ends: I64 | None) -> tuple[I64, I64]:
        """Repeat panes once per window that they belong to and in which they still count.

        Returns:
            The index of the pane in the input and the last pane of the window, both int64[n_out].
        """
        is_cumulate = self._window.kind == "cumulate"
        n_panes = self._panes_per_window
        first_ends = word_per_row(or_all_windows(first_ends), len(panes))
        n_out = count_expanded(panes, first_ends, is_cumulate, n_panes)
        rows = np.empty(n_out, np.int64)
        ends = np.empty(n_out, np.int64)
        expand_panes(panes, first_ends, is_cumulate, n_panes, rows, ends)
        ends -= 1
        return rows, ends

    def bounds(self, last_panes: I64) -> tuple[I64, I64]:
        """Return starts and ends of windows given by their last pane."""
        window = self._window
        ends = (last_panes + 1) * window.step + window.offset
        if window.kind != "cumulate":
            return ends - window.size, ends
        return self.first_panes(last_panes) * window.step + window.offset, ends

    def line(self, name: str) -> tuple[int, int] | None:
        """Return factor and term that make one of ``WINDOW_COLUMNS`` of last panes.

        None where it takes more than that.
        """
        window, end = self._window, self._window.step + self._window.offset
        if name == _WINDOW_START:
            return None if window.kind == "cumulate" else (window.step, end - window.size)
        return window.step, end if name == _WINDOW_END else end - 1

    def last_panes(self, panes: I64) -> I64:
        """Return the distinct last panes of all windows that have some distinct panes."""
        if not self.is_overlapping:
            return np.unique(panes)
        return np.unique(self.expand(panes, None)[1])

    def last_panes_between(self, panes: Sequence[int], least: int, limit: int) -> list[int]:
        """Return the last panes, from ``least`` on and below ``limit``, of windows that have panes.

        Args:
            panes: The panes that there are, ascending.
            least: Where to begin.
            limit: Where to end.
        """
        found: list[int] = []
        for pane in panes:
            least = max(least, pane)
            end = min(self.last_of_all(pane) + 1, limit)
            found += range(least, end)
            least = max(least, end)
        return found

    @overload
    def first_panes(self, last_panes: int) -> int: ...

    @overload
    def first_panes(self, last_panes: I64) -> I64: ...

    def first_panes(self, last_panes: I64 | int) -> I64 | int:
        """Return the first panes of windows given by their last ones."""
        if self._window.kind == "cumulate":
            return last_panes // self._panes_per_window * self._panes_per_window
        return last_panes - (self._panes_per_window - 1)

    @overload
    def last_of_all(self, panes: int) -> int: ...

    @overload
    def last_of_all(self, panes: I64) -> I64: ...

    def last_of_all(self, panes: I64 | int) -> I64 | int:
        """Return the last pane of the last window that each pane counts in."""
        first = self.first_panes(panes) if self._window.kind == "cumulate" else panes
        return first + (self._panes_per_window - 1)

    def open_ends(self, panes: I64, closed_below: int) -> I64:
        """Return the distinct ends of windows that have some panes and are not closed."""
        distinct = self.last_panes(np.unique(panes))
        return self.bounds(distinct[distinct >= closed_below])[1]

    def columns_of_one(self, last_pane: int, n_rows: int, names: Sequence[str]) -> list[pa.Array]:
        """Return what :meth:`columns` does for rows of one window."""
        starts, ends = self.bounds(np.array([last_pane], np.int64))
        return window_arrays(starts, ends, self._window.time_type, names, n_rows)

    def columns(self, last_panes: I64, names: Sequence[str]) -> list[pa.Array]:
        """Return columns of windows given by their last pane, those of ``WINDOW_COLUMNS`` named."""
        starts, ends = self.bounds(last_panes)
        return window_arrays(starts, ends, self._window.time_type, names)


def window_arrays(
    starts: I64, ends: I64, type_: pa.DataType, names: Sequence[str], n_rows: int | None = None
) -> list[pa.Array]:
    """Return columns that tell windows.

    Args:
        starts: int64[n_windows].
        ends: int64[n_windows].
        type_: Type of the columns.
        names: Which of ``WINDOW_COLUMNS``.
        n_rows: Number of rows if all are of one window, else each window is that of one row.
    """
    columns = [
        starts if name == _WINDOW_START else ends if name == _WINDOW_END else ends - 1
        for name in names
    ]
    if n_rows is not None:
        columns = _repeated([int(times[0]) for times in columns], n_rows)
    return [_time_array(times, type_) for times in columns]


def _repeated(words: Sequence[int], n_rows: int) -> list[I64]:
    """Return arrays of one word each."""
    if n_rows > _FEW_ROWS:
        return [np.full(n_rows, word, np.int64) for word in words]
    rows = new_columns(len(words), n_rows)
    at = rows.ctypes.data + rows.strides[0] * np.arange(len(words))
    fill_words(at, 0, n_rows, np.array(words, np.int64))
    return list(rows)


def or_all_windows(first_ends: I64 | None) -> Word:
    """Return ``first_ends``, or the value that stands for all windows in every row."""
    return ALL_WINDOWS if first_ends is None else first_ends


def word_per_row(word: Word | PaneCuts, n_rows: int) -> I64:
    """Return a word of each row, where it may be one of all rows or of runs."""
    if isinstance(word, PaneCuts):
        return np.repeat(word.panes, np.diff(word.starts, append=n_rows))
    return np.full(n_rows, word, np.int64) if isinstance(word, int) else word


def pane_words(panes: Word | PaneCuts, n_rows: int) -> Word:
    """Return the pane of all rows or that of each, where there may be runs."""
    return word_per_row(panes, n_rows) if isinstance(panes, PaneCuts) else panes


def _time_array(values: I64, type_: pa.DataType) -> pa.Array:
    """Wrap event times in their Arrow type, which may be narrower than 64 bits."""
    if type_.bit_width == 64:
        return array_from_buffers(values, type_, None)
    dtype = {32: np.int32, 16: np.int16, 8: np.int8}[type_.bit_width]
    if pa.types.is_unsigned_integer(type_):
        dtype = {32: np.uint32, 16: np.uint16, 8: np.uint8}[type_.bit_width]
    return array_from_buffers(values.astype(dtype), type_, None)
