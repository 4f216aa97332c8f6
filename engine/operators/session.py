"""GROUP BY with sessions: rows become sessions, and sessions rows when they end or change."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, event_times
from millstream.engine.dictionaries import batch_of
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.aggregate import GROUP_COLUMN
from millstream.engine.operators.base import Collector, Counters, HeldBack
from millstream.engine.operators.calls import Calls
from millstream.engine.operators.changelog import Changelog
from millstream.engine.operators.window_room import time_limits
from millstream.engine.operators.windowing import window_arrays
from millstream.engine.row_order import in_order, together
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.state.session_state import SessionState
from millstream.engine.state.step_rows import distinct_groups
from millstream.engine.taking import filter_rows
from millstream.errors import SchemaError
from millstream.kernels.compile import I64, U32
from millstream.kernels.sessions import LATE
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["SessionAggregate"]

# Below this many rows kept for calls without a kernel, dropping those of closed sessions costs more
# than it frees.
_GARBAGE_ROWS_MIN = 4096


class SessionAggregate:
    """An aggregate whose windows are sessions. All rows of a key arrive here.

    A session ends when its gap has passed after its last row, and it takes no more rows when the
    allowed lateness has passed as well. Both are so once the watermark is beyond that time, not yet
    when it is there: a row at the watermark is on time, and one that is exactly the gap away
    belongs to the session.

    Where rows have versions, they are those of a session, not of its window: as a session grows,
    its window moves, and the changelog takes the old one back.

    Args:
        node: An aggregate over sessions.
        counters: Of the partition.
        changelog: The changelog that is fed, if rows have versions.
        watermarks: Judges rows.
        late_rows: Where late rows go, or None.
        functions: User-defined DataFusion functions by name.
    """

    def __init__(
        self,
        node: AggregateNode,
        counters: Counters,
        changelog: Changelog | None,
        watermarks: RowWatermarks,
        late_rows: LateRows | None,
        functions: Mapping[str, object],
    ) -> None:
        assert node.window is not None, "sessions are windows"
        schema = node.input.schema
        self._node = node
        self._window = node.window
        self._counters = counters
        self._changelog = changelog
        self._watermarks = watermarks
        self._late_rows = late_rows
        self._calls = Calls(node.calls, schema, functions)
        self._state = SessionState(
            [schema.field(key).type for key in node.keys],
            self._calls.specs,
            gap=node.window.size,
            lateness=node.allowed_lateness,
        )
        self._last_max = time_limits(node.window.time_type)[1] - node.window.size
        self._has_versions = node.emit == "changes" or node.allowed_lateness > 0
        # Where rows have versions, the sessions whose last row lies before this have one.
        self._shown_before = WATERMARK_END if node.emit == "changes" else NO_WATERMARK
        # Rows of the step that have to be put in order.
        self._of_step: list[pa.RecordBatch] = []
        self._touched: list[U32] = []
        self._absorbed: list[U32] = []
        self._n_rows_needed = 0

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        if batch.num_rows == 0:
            return
        if self._node.ties == "none":
            self._add(batch)
        else:
            self._of_step.append(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        self._compact()
        times = event_times(batch.column(self._window.time_column))
        self._check_ends(times)
        watermarks = self._watermarks.of(batch)
        keys = [batch.column(key) for key in self._node.keys]
        assigned = self._state.assign(keys, times, watermarks)
        session_ids = assigned.session_ids
        if watermarks is not None and assigned.n_late > 0:
            is_late = session_ids == LATE
            self._report(batch, np.flatnonzero(is_late), times, watermarks)
            batch = filter_rows(batch, ~is_late)
            session_ids = session_ids[~is_late]
        if len(assigned.absorbed) > 0:
            self._calls.merge(assigned.absorbed, assigned.heirs)
        self._state.accumulate(self._calls.values(batch), session_ids)
        self._calls.keep(batch, session_ids)
        if self._has_versions:
            self._touched.append(session_ids)
            self._absorbed.append(assigned.absorbed)

    def end_batch(self, out: Collector) -> None:
        if self._of_step:
            rows, self._of_step = together(self._of_step), []
            self._add(in_order(rows, self._node.input.schema.names, None))
        if not self._touched:
            return
        touched = distinct_groups(self._touched, self._state.n_sessions)
        touched = touched[self._state.is_open(touched)]
        absorbed = np.concatenate(self._absorbed)
        self._touched.clear()
        self._absorbed.clear()
        if len(absorbed) > 0:
            self._versions().withdraw(absorbed)
        # A session that had ended and has grown beyond the watermark is touched but not shown.
        is_shown = self._state.lasts(touched) < self._shown_before
        self._send(touched, touched[is_shown], out)

    def process_watermark(self, watermark: int, out: Collector) -> None:
        if self._has_versions and self._node.emit == "final":
            shown_before = self._state.ended_before(watermark)
            ended = self._state.open_between(self._shown_before, shown_before)
            self._shown_before = max(self._shown_before, shown_before)
            self._send(ended, ended, out)
        closed = self._state.close(self._state.closed_before(watermark))
        if len(closed) > 0 and not self._has_versions:
            out.emit(self._results(closed))

    def end_input(self, out: Collector) -> None:
        """Close all sessions."""
        self.process_watermark(WATERMARK_END, out)

    @property
    def state_rows(self) -> int:
        return self._state.n_open

    @property
    def state_bytes(self) -> int:
        return self._state.state_bytes + self._calls.state_bytes

    def held_back(self) -> HeldBack | None:
        if self._node.emit != "final":
            return None
        shown_before = self._shown_before if self._has_versions else NO_WATERMARK
        waiting = self._state.open_between(shown_before, WATERMARK_END)
        # Once the watermark is beyond the end, not yet when it is there.
        ends = self._state.lasts(waiting) + self._window.size + 1
        return HeldBack("session", ends, self._window.time_type)

    def _versions(self) -> Changelog:
        assert self._changelog is not None, "sessions whose rows have versions feed a changelog"
        return self._changelog

    def _send(self, touched: U32, shown: U32, out: Collector) -> None:
        if len(touched) > 0:
            self._versions().touch(touched)
        if len(shown) > 0:
            groups = array_from_buffers(shown, pa.uint32(), None)
            out.emit(self._results(shown).append_column(GROUP_COLUMN, groups))

    def _results(self, session_ids: U32) -> pa.RecordBatch:
        state, type_ = self._state, self._window.time_type
        starts = state.starts(session_ids)
        ends = state.lasts(session_ids) + self._window.size
        columns = window_arrays(starts, ends, type_, self._node.window_columns)
        columns += state.keys(session_ids)
        columns += self._calls.results(state.accumulated(session_ids), session_ids)
        return batch_of(columns, self._node.schema)

    def _report(self, batch: pa.RecordBatch, rows: I64, times: I64, watermarks: I64) -> None:
        self._counters.rows_late += len(rows)
        if self._late_rows is not None:
            starts = times[rows]
            ends = starts + self._window.size
            self._late_rows.write(batch, rows, starts, ends, watermarks[rows])

    def _check_ends(self, times: I64) -> None:
        if times.max() > self._last_max:
            row = int(np.argmax(times > self._last_max))
            raise SchemaError(
                f"event time must leave room in {self._window.time_type} for the end of a session, "
                f"{self._window.size} later: {times[row]} in row {row}"
            )

    def _compact(self) -> None:
        """Forget closed sessions, if they are many and all that was said of them has been sent."""
        if self._touched:
            return
        n_rows = self._calls.n_rows_kept
        is_heavy = n_rows > 2 * self._n_rows_needed + _GARBAGE_ROWS_MIN
        if not is_heavy and not self._state.is_sparse:
            return
        kept = self._state.compact()
        self._calls.retain(kept)
        self._n_rows_needed = self._calls.n_rows_kept
        if self._changelog is not None:
            self._changelog.retain(kept)
