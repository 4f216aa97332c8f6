"""GROUP BY: rows become groups, and groups rows when their window closes or a change is due."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.dictionaries import rows_that_fit
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters, HeldBack
from millstream.engine.operators.changelog import Changelog
from millstream.engine.operators.dense_groups import DenseGroups
from millstream.engine.operators.dense_lane import AnyRows, DenseLane, Located
from millstream.engine.operators.emission import emit_together
from millstream.engine.operators.grouping import Grouping
from millstream.engine.operators.partials import PartialColumns, PartialGroups
from millstream.engine.operators.window_lane import WindowLane
from millstream.engine.operators.windowing import PaneCuts, pane_words, word_per_row
from millstream.engine.row_order import in_order, together
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.step_rows import AssignedSteps, distinct_groups
from millstream.engine.taking import take_rows
from millstream.kernels.compile import U32
from millstream.planner.nodes import HIDDEN_PREFIX, Node
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = [
    "GROUP_COLUMN",
    "FinalAggregate",
    "SingleAggregate",
    "rows_schema",
]

GROUP_COLUMN = HIDDEN_PREFIX + "group"
# Partial groups up to which those of several batches are gathered.
_GATHERED_ROWS_MAX = 1 << 16


class _Emitting:
    """The side of an aggregate that owns its groups and emits them.

    A window's row is due when the watermark reaches its end. If lateness is allowed, the window
    stays for as long, and each later change of it is one more version of its row.
    """

    def __init__(
        self,
        grouping: Grouping,
        counters: Counters,
        changelog: Changelog | None,
        *,
        owns_global_group: bool,
    ) -> None:
        self._grouping = grouping
        # Windows whose groups are kept densely, and not in the state.
        self._dense: DensePanes | WindowLane | None = None
        self._counters = counters
        self._changelog = changelog
        self._owns_global_group = owns_global_group
        self._n_appended_most = rows_that_fit(grouping.node.schema)
        self._touched: list[U32] = []
        self._n_emitted = 0
        # Of steps that are processed at once, those whose ends have not come, and the watermark of
        # those whose ends have.
        self._n_steps_left = 0
        self._owed_watermark = NO_WATERMARK
        self._due_below = NO_WATERMARK
        self._closed_below = NO_WATERMARK
        # Groups of closed windows that are still in the state.
        self._n_closed = 0
        node = grouping.node
        self._is_revised = (
            node.emit == "final" and node.window is not None and node.allowed_lateness > 0
        )

    def end_batch(self, out: Collector) -> None:
        emit = self._grouping.node.emit
        if self._n_steps_left > 0:
            self._n_steps_left -= 1
            if self._n_steps_left == 0:
                self.process_watermark(self._owed_watermark, out)
        elif emit == "append":
            self._emit_new(out)
        elif self._touched:
            touched = distinct_groups(self._touched, self._grouping.state.n_groups)
            self._touched.clear()
            if self._is_revised:
                # Windows that have not been emitted yet are not revised but wait for their end.
                touched = touched[self._grouping.state.prefix_words(0)[touched] < self._due_below]
            self._emit_versions(touched, out)

    @property
    def takes_steps(self) -> bool:
        """Whether several steps can be processed at once, with the versions that each makes."""
        grouping, changelog = self._grouping, self._changelog
        if grouping.node.emit != "changes" or changelog is None:
            return False
        return grouping.takes_steps and changelog.takes_steps

    def _emit_steps(self, n_steps: int, assigned: AssignedSteps, out: Collector) -> None:
        """Add the rows of several steps, and emit the versions of all in one batch."""
        assert self._changelog is not None, "asked for before"
        self._n_steps_left = n_steps
        if self._changelog.take_steps(assigned, self._grouping):
            return
        steps = self._grouping.state.update_steps(assigned)
        self._changelog.touch_steps(steps.group_ids, np.diff(steps.bounds))
        if len(steps.group_ids) > 0:
            out.emit(self._grouping.results(steps.group_ids, steps.states))

    def process_watermark(self, watermark: int, out: Collector) -> None:
        grid, state = self._grouping.grid, self._grouping.state
        if grid is None:
            return
        if self._n_steps_left > 0:
            # To forget groups takes as long for those of one step as for those of all.
            self._owed_watermark = watermark
            return
        if self._is_revised:
            self._emit_due(grid.closed_below(watermark), out)
        closed_below = grid.closed_below(watermark, self._grouping.node.allowed_lateness)
        if closed_below <= self._closed_below:
            return
        closed_before, self._closed_below = self._closed_below, closed_below
        if state.n_groups > self._n_closed:
            self._close(closed_before, out)
        if self._dense is not None:
            results = map(self._grouping.results_of_pane, self._dense.close(closed_below))
            emit_together([rows for rows in results if rows.num_rows > 0], out)

    def _close(self, closed_before: int, out: Collector) -> None:
        """Emit and forget the closed windows of the state."""
        state = self._grouping.state
        closed, rest = state.split(self._closed_below, closed_before)
        n_closed = state.n_groups - self._n_closed - len(rest)
        if n_closed == 0:
            return
        self._n_closed += n_closed
        is_emitted_once = self._grouping.node.emit == "final" and not self._is_revised
        if is_emitted_once:
            out.emit(self._grouping.results(closed))
            if self._n_closed < len(rest) and not self._grouping.keeps_rows:
                # Moving what is left costs more than keeping what is not needed any more. No row
                # comes for a window that is closed.
                return
        elif self._grouping.node.emit == "append":
            self._n_emitted -= n_closed
        self._n_closed = 0
        self._grouping.retain(rest)
        if self._changelog is not None:
            self._changelog.retain(rest)

    def end_input(self, out: Collector) -> None:
        state, node = self._grouping.state, self._grouping.node
        if node.window is not None:
            return
        if self._owns_global_group and state.n_groups == 0 and not node.keys:
            # A query over no rows at all still has one row, as in every SQL database.
            state.update(0, (), (), [None] * len(self._grouping.calls.specs))
            self._note(np.zeros(1, np.uint32))
            self.end_batch(out)
        if node.emit == "final" and state.n_groups > 0:
            out.emit(self._grouping.results(slice(0, state.n_groups)))

    @property
    def state_rows(self) -> int:
        n_dense = 0 if self._dense is None else self._dense.n_groups
        return self._grouping.state.n_groups - self._n_closed + n_dense

    @property
    def state_bytes(self) -> int:
        n_dense = 0 if self._dense is None else self._dense.state_bytes
        return self._grouping.state_bytes + n_dense

    def held_back(self) -> HeldBack | None:
        grouping = self._grouping
        if grouping.grid is None or grouping.node.emit != "final":
            return None
        last_panes = np.unique(grouping.state.prefix_words(0))
        due_below = self._due_below if self._is_revised else self._closed_below
        last_panes = last_panes[last_panes >= due_below]
        if self._dense is not None:
            last_panes = np.union1d(last_panes, self._dense.panes())
        return grouping.held_back(grouping.grid.bounds(last_panes)[1])

    @property
    def _may_be_dense(self) -> bool:
        """Whether results are final, and each pane is a window."""
        node, grid = self._grouping.node, self._grouping.grid
        if grid is None or grid.is_overlapping:
            return False
        return node.emit == "final" and node.allowed_lateness == 0

    def _leave_dense(self, panes: Iterable[Word | PaneCuts]) -> None:
        """Move dense windows into the state, as far as there are rows to come for them."""
        assert self._dense is not None, "asked for before"
        of_rows = [part.panes if isinstance(part, PaneCuts) else part for part in panes]
        last = max((int(np.max(part)) for part in of_rows if np.size(part) > 0), default=None)
        if last is None:
            return
        for groups in self._dense.leave(last + 1):
            part = KeyPart(groups.keys, (groups.pane,), groups.n_groups)
            self._grouping.state.merge(part, groups.states)

    def _note(self, group_ids: U32) -> None:
        if self._is_revised or self._grouping.node.emit == "changes":
            self._touched.append(group_ids)

    def _emit_new(self, out: Collector, brought: pa.RecordBatch | None = None) -> None:
        """Emit the groups that have not been, with hidden columns if they have brought such."""
        n_groups = self._grouping.state.n_groups
        if n_groups > self._n_emitted:
            new_ids = np.arange(self._n_emitted, n_groups, dtype=np.uint32)
            self._n_emitted = n_groups
            # How many there are at once depends on how fast everything is.
            for start in range(0, len(new_ids), self._n_appended_most):
                some = new_ids[start : start + self._n_appended_most]
                rows = self._grouping.results(some)
                if brought is not None:
                    hidden = brought.slice(start, len(some))
                    for name in hidden.schema.names:
                        rows = rows.append_column(name, hidden.column(name))
                out.emit(rows)

    def _emit_due(self, due_below: int, out: Collector) -> None:
        if self._grouping.state.n_groups > 0:
            last_panes = self._grouping.state.prefix_words(0)
            is_due = (last_panes >= self._due_below) & (last_panes < due_below)
            due = np.flatnonzero(is_due)
            due = due[np.argsort(last_panes[due], kind="stable")]
            self._emit_versions(due.astype(np.uint32), out)
        self._due_below = max(self._due_below, due_below)

    def _emit_versions(self, group_ids: U32, out: Collector) -> None:
        if len(group_ids) == 0:
            return
        assert self._changelog is not None, (
            "an aggregate whose rows have versions feeds a changelog"
        )
        if self._changelog.take_groups(group_ids, self._grouping):
            return
        self._changelog.touch(group_ids)
        rows = self._grouping.results(group_ids)
        if self._changelog.needs_groups:
            groups = array_from_buffers(group_ids, pa.uint32(), None)
            rows = rows.append_column(GROUP_COLUMN, groups)
        out.emit(rows)


class SingleAggregate(_Emitting):
    """An aggregate in one phase: every row of a group arrives here."""

    def __init__(
        self,
        node: AggregateNode,
        counters: Counters,
        changelog: Changelog | None,
        watermarks: RowWatermarks,
        late_rows: LateRows | None,
        functions: Mapping[str, object],
        *,
        owns_global_group: bool,
    ) -> None:
        self._watermarks = watermarks
        self._late_rows = late_rows
        # Rows of the step that have to be put in order.
        self._of_step: list[pa.RecordBatch] = []
        n_words = 0 if node.window is None else 1
        grouping = Grouping(node, node.input.schema, functions, n_words, merges=False)
        super().__init__(grouping, counters, changelog, owns_global_group=owns_global_group)
        self._lane: WindowLane | None = None
        if self._may_be_dense and grouping.grid is not None:
            self._lane = WindowLane.for_node(node, grouping.calls, grouping.grid)
        self._dense = self._lane
        # Groups whose results come at the end of the input.
        self._last: DenseLane | None = None
        if node.window is None and node.emit == "final":
            self._last = DenseLane.for_node(node, grouping.calls, None, has_panes=False)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        if self._grouping.node.ties == "none":
            self._add(batch, out)
        else:
            self._of_step.append(batch)

    def end_batch(self, out: Collector) -> None:
        if self._of_step:
            rows, self._of_step = together(self._of_step), []
            self._add(in_order(rows, self._grouping.node.input.schema.names, None), out)
        super().end_batch(out)

    def _add(self, batch: pa.RecordBatch, out: Collector) -> None:
        grouping = self._grouping
        if grouping.grid is None:
            for rows in self._add_last([batch]):
                self._add_rows(rows, (), out)
            return
        assigned = grouping.grid.assign(batch, self._watermarks.of(batch), self._late_rows)
        self._counters.rows_late += assigned.n_late
        rows, last_panes = assigned.batch, assigned.panes
        if grouping.grid.is_overlapping:
            panes = word_per_row(assigned.panes, rows.num_rows)
            indices, last_panes = grouping.grid.expand(panes, assigned.first_ends)
            rows = take_rows(rows, indices)
        if self._add_dense([(rows, last_panes)]):
            return
        self._add_rows(rows, (last_panes,), out)

    def _add_rows(self, rows: pa.RecordBatch, prefix: Sequence[Word], out: Collector) -> None:
        grouping, hidden = self._grouping, []
        if grouping.node.emit == "append":
            hidden = [name for name in rows.schema.names if name.startswith(HIDDEN_PREFIX)]
        if not hidden:
            self._note(grouping.add_rows(rows, prefix))
            return
        # What comes out may be late further down, as the first row of each group is.
        self._emit_new(out)
        n_before = grouping.state.n_groups
        groups, firsts = np.unique(grouping.add_rows(rows, prefix), return_index=True)
        self._emit_new(out, take_rows(rows.select(hidden), firsts[groups >= n_before]))

    @property
    def takes_rows(self) -> bool:
        """Whether it takes micro-batches as they are."""
        grid, is_ordered = self._grouping.grid, self._grouping.node.ties == "none"
        is_grown = grid is not None and grid.is_overlapping
        return is_ordered and not self._grouping.keeps_rows and not is_grown

    def process_rows(self, parts: Sequence[SourceRows], out: Collector) -> None:
        grid = self._grouping.grid
        if grid is None:
            rows_left = self._add_last(parts)
            if rows_left:
                self._note(self._grouping.add_parts(rows_left, [()] * len(rows_left)))
        else:
            located = [(rows, grid.panes_of(rows)) for rows in parts]
            if self._add_dense(located):
                return
            prefixes = [(pane_words(panes, rows.num_rows),) for rows, panes in located]
            self._note(self._grouping.add_parts(parts, prefixes))

    def process_steps(
        self, steps: Sequence[Sequence[pa.RecordBatch | SourceRows]], out: Collector
    ) -> None:
        if any(steps):
            self._emit_steps(len(steps), self._grouping.assign_steps(steps), out)

    def end_input(self, out: Collector) -> None:
        if self._last is not None:
            self._end_last(self._last, out)
        super().end_input(out)

    @property
    def state_rows(self) -> int:
        records = None if self._last is None else self._last.records
        return super().state_rows + (0 if records is None else records.n_groups)

    @property
    def state_bytes(self) -> int:
        records = None if self._last is None else self._last.records
        return super().state_bytes + (0 if records is None else records.state_bytes)

    def _add_last(self, parts: Sequence[AnyRows]) -> Sequence[AnyRows]:
        """Add rows to groups that stay until the end of the input; return those that have none."""
        if self._last is None:
            return parts
        rest, _, _ = self._last.add([(rows, 0) for rows in parts])
        return [rows for rows, _ in rest]

    def _end_last(self, lane: DenseLane, out: Collector) -> None:
        state, records = self._grouping.state, lane.records
        assert records is not None, "a lane of records alone"
        for groups in records.close(WATERMARK_END):
            if state.n_groups == 0:
                out.emit(self._grouping.results_of_pane(groups))
            else:
                # Some keys may have groups on both sides.
                state.merge(KeyPart(groups.keys, (), groups.n_groups), groups.states)

    def _add_dense(self, located: Sequence[Located[AnyRows]]) -> bool:
        """Add rows where that is quickest or, returning False, none; then the state gets them."""
        if self._lane is None:
            return False
        if self._lane.add_all(located):
            return True
        self._leave_dense(panes for _, panes in located)
        return False


class FinalAggregate(_Emitting):
    """The side of an aggregate behind the exchange: merges partial groups, panes into windows."""

    def __init__(
        self,
        node: AggregateNode,
        counters: Counters,
        changelog: Changelog | None,
        *,
        owns_global_group: bool,
    ) -> None:
        n_words = 0 if node.window is None else 1
        schema = rows_schema(node)
        grouping = Grouping(node, schema, {}, n_words, merges=True)
        super().__init__(grouping, counters, changelog, owns_global_group=owns_global_group)
        self._partials = PartialGroups(node, grouping.grid, len(grouping.calls.specs))
        self._columns = PartialColumns(node, len(grouping.calls.specs))
        self._waiting: list[PaneWords] = []
        self._n_waiting = 0
        self._lane: DenseGroups | None = None
        if self._may_be_dense:
            self._lane = DenseGroups.for_node(node, schema, grouping.calls)
            self._dense = None if self._lane is None else self._lane.panes

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        if self._lane is not None and batch.num_rows > 0:
            columns, panes = self._columns, self._columns.panes(batch)
            if self._lane.add_arrays(panes, columns.keys(batch), columns.states(batch)):
                return
            self._lane.settle()
            self._leave_dense([panes])
        self._partials.add(batch)
        self._merge_at_least(_GATHERED_ROWS_MAX)

    def process_groups(self, groups: PaneWords, out: Collector) -> None:
        if self._lane is not None:
            if self._lane.add(groups):
                return
            self._lane.settle()
            self._leave_dense([groups.pane])
        groups = groups.present()
        self._waiting.append(groups)
        self._n_waiting += groups.n_groups
        self._merge_at_least(_GATHERED_ROWS_MAX)

    def share_panes(self, panes: DensePanes) -> bool:
        """Do not: what comes the general way goes into the same windows."""
        return False

    def process_steps(
        self, steps: Sequence[Sequence[pa.RecordBatch | PaneWords]], out: Collector
    ) -> None:
        if any(steps):
            self._emit_steps(
                len(steps), self._grouping.assign_partial_steps(steps, self._columns), out
            )

    def end_batch(self, out: Collector) -> None:
        if self._lane is not None:
            self._lane.settle()
        self._merge_at_least(1)
        super().end_batch(out)

    def _merge_at_least(self, n_rows: int) -> None:
        """Merge what has come from several partitions in a step in one go, if it is so much."""
        if self._partials.n_rows >= n_rows:
            for keys, states in self._partials.take():
                room = self._grouping.room
                self._note(self._grouping.state.update_parts(keys, states, room))
        if self._n_waiting >= n_rows:
            waiting, self._waiting, self._n_waiting = self._waiting, [], 0
            self._merge_words(waiting)

    def _merge_words(self, parts: Sequence[PaneWords]) -> None:
        grouping, grid = self._grouping, self._grouping.grid
        prefixes: list[tuple[int, ...]] = [() for _ in parts]
        if grid is not None and not grid.is_overlapping:
            prefixes = [(part.pane,) for part in parts]
        elif grid is not None:
            # Each group goes into all windows of its pane.
            panes = np.array([part.pane for part in parts], np.int64)
            places, last_panes = grid.expand(panes, None)
            parts = [parts[place] for place in places.tolist()]
            prefixes = [(last_pane,) for last_pane in last_panes.tolist()]
        self._note(grouping.state.update_words(parts, prefixes, grouping.room))


def rows_schema(node: AggregateNode) -> pa.Schema:
    """Return the schema of the rows that the final phase of an aggregate has the groups of."""
    below: Node = node.input
    while not isinstance(below, AggregateNode):
        (below,) = below.inputs
    return below.input.schema
