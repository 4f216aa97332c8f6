"""GROUP BY: rows become groups, and groups rows when their window closes or a change is due."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.event_time import NO_WATERMARK
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters, HeldBack
from millstream.engine.operators.calls import Calls
from millstream.engine.operators.changelog import Changelog
from millstream.engine.operators.reduction import Reduction
from millstream.engine.operators.windowing import WindowGrid, or_all_windows, word_per_row
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.accumulators import Accumulators
from millstream.engine.state.group_state import GroupState
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.step import AtHand
from millstream.kernels.compile import I64, U32
from millstream.planner.nodes import HIDDEN_PREFIX, Node
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = [
    "GROUP_COLUMN",
    "FinalAggregate",
    "PartialAggregate",
    "SingleAggregate",
    "distinct_groups",
]

GROUP_COLUMN = HIDDEN_PREFIX + "group"
_PANE, _FIRST_END, _STATE = "__pane", "__first_end", "__s"
# So many partial groups of one pane are added to each of its windows by a call of its own.
_RUN_ROWS_LEAST = 64


class _Grouping:
    """What all phases share: the state and how rows or partial groups get into it."""

    def __init__(
        self,
        node: AggregateNode,
        rows_schema: pa.Schema,
        functions: Mapping[str, object],
        n_prefix_words: int,
        *,
        merges: bool,
        at_hand: AtHand | None = None,
    ) -> None:
        self.node = node
        self.grid = None if node.window is None else WindowGrid(node.window, node.allowed_lateness)
        self.calls = Calls(node.calls, rows_schema, functions, at_hand)
        self.keeps_rows = any(call.path == "buffered" or call.distinct for call in node.calls)
        key_types = [rows_schema.field(key).type for key in node.keys]
        self.state = GroupState(key_types, n_prefix_words, self.calls.specs, merges=merges)

    def add_rows(self, batch: pa.RecordBatch, prefix: Sequence[Word]) -> U32:
        """Add rows of the input and return their groups."""
        keys = [batch.column(key) for key in self.node.keys]
        group_ids = self.state.update(batch.num_rows, prefix, keys, self.calls.values(batch))
        self.calls.keep(batch, group_ids)
        return group_ids

    def add_parts(self, parts: Sequence[SourceRows], prefixes: Sequence[Sequence[Word]]) -> U32:
        """Add rows that came one after the other, and return the groups of all."""
        keys = [
            KeyPart([rows.column(key) for key in self.node.keys], prefix, rows.num_rows)
            for rows, prefix in zip(parts, prefixes, strict=True)
        ]
        return self.state.update_parts(keys, [self.calls.values(rows) for rows in parts])

    def row_states(self, batch: pa.RecordBatch | SourceRows) -> list[pa.Array]:
        """Return the accumulators of groups of one row each, for every row of a batch."""
        accumulators = Accumulators(self.calls.specs, merges=False)
        rows = np.arange(batch.num_rows, dtype=np.uint32)
        accumulators.update(self.calls.values(batch), rows, batch.num_rows, new_have_rows=True)
        return accumulators.columns(slice(0, batch.num_rows))

    def add_partials(self, batch: pa.RecordBatch, prefix: Sequence[Word]) -> U32:
        """Add groups that another phase has accumulated and return their groups here."""
        keys = [batch.column(key) for key in self.node.keys]
        values = [batch.column(f"{_STATE}{index}") for index in range(len(self.calls.specs))]
        return self.state.update(batch.num_rows, prefix, keys, values)

    def results(self, group_ids: U32 | slice) -> pa.RecordBatch:
        """Return the finished rows of some groups in the node's output schema."""
        columns: list[pa.Array] = []
        if self.grid is not None:
            columns += self.grid.columns(self.state.prefix_words(0)[group_ids])
        columns += self.state.keys(group_ids)
        columns += self.calls.results(self.state.accumulated(group_ids), group_ids)
        return pa.RecordBatch.from_arrays(columns, schema=self.node.schema)

    def held_back(self, ends: I64) -> HeldBack | None:
        """Say that windows with these ends wait for the watermark."""
        if self.node.window is None:
            return None
        # The watermark of the node stays behind that of the stream by this much.
        delay = max((bound.delay for bound in self.node.watermark), default=0)
        return HeldBack("window", ends + delay, self.node.window.time_type)

    def retain(self, group_ids: U32) -> None:
        """Keep only these groups, renumbered from 0 in this order."""
        self.state.retain(group_ids)
        self.calls.retain(group_ids)

    @property
    def state_bytes(self) -> int:
        """Bytes of keys, accumulators and kept rows."""
        return self.state.state_bytes + self.calls.state_bytes


class PartialAggregate:
    """The side of an aggregate before the exchange: accumulates what this partition sees.

    Args:
        node: An aggregate of phase ``partial``.
        counters: Of the partition.
        watermarks: Judges rows.
        late_rows: Where late rows go, or None.
        at_hand: What the partition is working on.
        is_deferred: Whether groups of final results may wait until their window closes; else they
            are handed on after each step, as changes are anyway.
    """

    def __init__(
        self,
        node: AggregateNode,
        counters: Counters,
        watermarks: RowWatermarks,
        late_rows: LateRows | None,
        at_hand: AtHand,
        *,
        is_deferred: bool,
    ) -> None:
        self._counters = counters
        self._watermarks = watermarks
        self._late_rows = late_rows
        self._is_deferred = is_deferred and node.emit == "final"
        self._closed_below = NO_WATERMARK
        self._reduction = Reduction()
        grid_words = 0 if node.window is None else 1 if node.window.kind == "tumble" else 2
        self._grouping = _Grouping(
            node, node.input.schema, {}, grid_words, merges=False, at_hand=at_hand
        )

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        grid = self._grouping.grid
        if grid is None:
            self._add(batch, [], out)
            return
        panes = grid.assign(batch, self._watermarks.of(batch), self._late_rows)
        self._counters.rows_late += panes.n_late
        self._add(panes.batch, self._prefix(panes.panes, panes.first_ends), out)

    @property
    def takes_rows(self) -> bool:
        """Whether it takes micro-batches as they are."""
        return not self._grouping.keeps_rows

    def process_rows(self, parts: Sequence[SourceRows], out: Collector) -> None:
        grouping, grid = self._grouping, self._grouping.grid
        prefixes: list[list[Word]] = [[] for _ in parts]
        if grid is not None:
            prefixes = [self._prefix(grid.panes_of(rows), None) for rows in parts]
        if self._reduction.is_bypassed:
            for rows, prefix in zip(parts, prefixes, strict=True):
                self._bypass(rows, prefix, out)
            return
        n_before = grouping.state.n_groups
        grouping.add_parts(parts, prefixes)
        self._observe(sum(rows.num_rows for rows in parts), n_before, out)

    def _prefix(self, panes: Word, first_ends: I64 | None) -> list[Word]:
        grid = self._grouping.grid
        if grid is not None and grid.is_overlapping:
            return [panes, or_all_windows(first_ends)]
        return [panes]

    def _bypass(
        self, rows: pa.RecordBatch | SourceRows, prefix: Sequence[Word], out: Collector
    ) -> None:
        """Hand rows on as groups of one row each."""
        self._reduction.bypass(rows.num_rows)
        words = [word_per_row(word, rows.num_rows) for word in prefix]
        keys = [rows.column(key) for key in self._grouping.node.keys]
        out.emit(self._partials(keys, words, self._grouping.row_states(rows)))

    def _add(self, batch: pa.RecordBatch, prefix: list[Word], out: Collector) -> None:
        grouping = self._grouping
        if self._reduction.is_bypassed:
            self._bypass(batch, prefix, out)
            return
        n_before = grouping.state.n_groups
        grouping.add_rows(batch, prefix)
        self._observe(batch.num_rows, n_before, out)

    def _observe(self, n_rows: int, n_groups_before: int, out: Collector) -> None:
        if self._reduction.observe(n_rows, self._grouping.state.n_groups - n_groups_before):
            self._flush_all(out)

    def end_batch(self, out: Collector) -> None:
        if not self._is_deferred:
            self._flush_all(out)

    def process_watermark(self, watermark: int, out: Collector) -> None:
        grid = self._grouping.grid
        if grid is None or not self._is_deferred:
            return
        closed_below = grid.closed_below(watermark)
        # Rows that come late but are allowed fall into panes that were closed before.
        if closed_below > self._closed_below or self._grouping.node.allowed_lateness > 0:
            self._closed_below = closed_below
            self._flush(out, *self._grouping.state.split(closed_below))

    def end_input(self, out: Collector) -> None:
        self._flush_all(out)

    @property
    def state_rows(self) -> int:
        return self._grouping.state.n_groups

    @property
    def state_bytes(self) -> int:
        return self._grouping.state_bytes

    def held_back(self) -> HeldBack | None:
        grouping = self._grouping
        if grouping.grid is None or not self._is_deferred:
            return None
        panes = grouping.state.prefix_words(0)
        return grouping.held_back(grouping.grid.open_ends(panes, self._closed_below))

    def _flush_all(self, out: Collector) -> None:
        self._flush(out, slice(0, self._grouping.state.n_groups), np.empty(0, np.uint32))

    def _flush(self, out: Collector, group_ids: U32 | slice, rest: U32) -> None:
        if len(rest) == self._grouping.state.n_groups:
            return
        grouping, state = self._grouping, self._grouping.state
        n_words = 0 if grouping.grid is None else 2 if grouping.grid.is_overlapping else 1
        prefix = [state.prefix_words(index)[group_ids] for index in range(n_words)]
        out.emit(self._partials(state.keys(group_ids), prefix, state.accumulated(group_ids)))
        grouping.retain(rest)

    def _partials(
        self, keys: list[pa.Array], prefix: Sequence[I64], states: list[pa.Array]
    ) -> pa.RecordBatch:
        names = list(self._grouping.node.keys)
        names += [_PANE, _FIRST_END][: len(prefix)]
        names += [f"{_STATE}{index}" for index in range(len(states))]
        words = [array_from_buffers(values, pa.int64(), None) for values in prefix]
        columns = [*keys, *words, *states]
        if not columns:
            # A global aggregate without calls has no columns, but the group itself has to arrive.
            return pa.RecordBatch.from_arrays([pa.nulls(1)], [_PANE])
        return pa.RecordBatch.from_arrays(columns, names)


class _Emitting:
    """The side of an aggregate that owns its groups and emits them.

    A window's row is due when the watermark reaches its end. If lateness is allowed, the window
    stays for as long, and each later change of it is one more version of its row.
    """

    def __init__(
        self,
        grouping: _Grouping,
        counters: Counters,
        changelog: Changelog | None,
        *,
        owns_global_group: bool,
    ) -> None:
        self._grouping = grouping
        self._counters = counters
        self._changelog = changelog
        self._owns_global_group = owns_global_group
        self._touched: list[U32] = []
        self._n_emitted = 0
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
        if emit == "append":
            self._emit_new(out)
        elif self._touched:
            touched = distinct_groups(self._touched, self._grouping.state.n_groups)
            self._touched.clear()
            if self._is_revised:
                # Windows that have not been emitted yet are not revised but wait for their end.
                touched = touched[self._grouping.state.prefix_words(0)[touched] < self._due_below]
            self._emit_versions(touched, out)

    def process_watermark(self, watermark: int, out: Collector) -> None:
        grid, state = self._grouping.grid, self._grouping.state
        if grid is None:
            return
        if self._is_revised:
            self._emit_due(grid.closed_below(watermark), out)
        closed_below = grid.closed_below(watermark, self._grouping.node.allowed_lateness)
        if closed_below <= self._closed_below or self.state_rows == 0:
            return
        closed, rest = state.split(closed_below, self._closed_below)
        self._closed_below = closed_below
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
        return self._grouping.state.n_groups - self._n_closed

    @property
    def state_bytes(self) -> int:
        return self._grouping.state_bytes

    def held_back(self) -> HeldBack | None:
        grouping = self._grouping
        if grouping.grid is None or grouping.node.emit != "final":
            return None
        last_panes = np.unique(grouping.state.prefix_words(0))
        due_below = self._due_below if self._is_revised else self._closed_below
        last_panes = last_panes[last_panes >= due_below]
        return grouping.held_back(grouping.grid.bounds(last_panes)[1])

    def _note(self, group_ids: U32) -> None:
        if self._is_revised or self._grouping.node.emit == "changes":
            self._touched.append(group_ids)

    def _emit_new(self, out: Collector) -> None:
        n_groups = self._grouping.state.n_groups
        if n_groups > self._n_emitted:
            new_ids = np.arange(self._n_emitted, n_groups, dtype=np.uint32)
            self._n_emitted = n_groups
            out.emit(self._grouping.results(new_ids))

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
        self._changelog.touch(group_ids)
        rows = self._grouping.results(group_ids)
        out.emit(rows.append_column(GROUP_COLUMN, array_from_buffers(group_ids, pa.uint32(), None)))


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
        n_words = 0 if node.window is None else 1
        grouping = _Grouping(node, node.input.schema, functions, n_words, merges=False)
        super().__init__(grouping, counters, changelog, owns_global_group=owns_global_group)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        grouping = self._grouping
        if grouping.grid is None:
            self._note(grouping.add_rows(batch, ()))
            return
        assigned = grouping.grid.assign(batch, self._watermarks.of(batch), self._late_rows)
        self._counters.rows_late += assigned.n_late
        rows, last_panes = assigned.batch, assigned.panes
        if grouping.grid.is_overlapping:
            panes = word_per_row(assigned.panes, rows.num_rows)
            indices, last_panes = grouping.grid.expand(panes, assigned.first_ends)
            rows = rows.take(array_from_buffers(indices, pa.int64(), None))
        self._note(grouping.add_rows(rows, (last_panes,)))

    @property
    def takes_rows(self) -> bool:
        """Whether it takes micro-batches as they are."""
        grid = self._grouping.grid
        return not self._grouping.keeps_rows and (grid is None or not grid.is_overlapping)

    def process_rows(self, parts: Sequence[SourceRows], out: Collector) -> None:
        grid = self._grouping.grid
        prefixes: list[tuple[Word, ...]] = [() for _ in parts]
        if grid is not None:
            prefixes = [(grid.panes_of(rows),) for rows in parts]
        self._note(self._grouping.add_parts(parts, prefixes))


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
        grouping = _Grouping(node, _rows_schema(node), {}, n_words, merges=True)
        super().__init__(grouping, counters, changelog, owns_global_group=owns_global_group)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        grouping = self._grouping
        if grouping.grid is None:
            self._note(grouping.add_partials(batch, ()))
            return
        panes = fixed_values(batch.column(_PANE))
        if not grouping.grid.is_overlapping:
            self._note(grouping.add_partials(batch, (panes,)))
            return
        first_ends = fixed_values(batch.column(_FIRST_END))
        starts = np.flatnonzero((np.diff(panes) != 0) | (np.diff(first_ends) != 0)) + 1
        if (len(starts) + 1) * _RUN_ROWS_LEAST > batch.num_rows:
            indices, last_panes = grouping.grid.expand(panes, first_ends)
            repeated = batch.take(array_from_buffers(indices, pa.int64(), None))
            self._note(grouping.add_partials(repeated, (last_panes,)))
            return
        # Whole runs of groups go into one window after the other, without being copied.
        bounds = [0, *starts.tolist(), batch.num_rows]
        for start, stop in pairwise(bounds):
            run = batch.slice(start, stop - start)
            one = slice(start, start + 1)
            for last_pane in grouping.grid.expand(panes[one], first_ends[one])[1].tolist():
                self._note(grouping.add_partials(run, (last_pane,)))


def _rows_schema(node: AggregateNode) -> pa.Schema:
    below: Node = node.input
    while not isinstance(below, AggregateNode):
        (below,) = below.inputs
    return below.input.schema


def distinct_groups(touched: Sequence[U32], n_groups: int) -> U32:
    """Return the distinct group ids in ascending order."""
    n_rows = sum(len(group_ids) for group_ids in touched)
    if n_rows * 8 < n_groups:
        return np.unique(np.concatenate(touched))
    is_touched = np.zeros(n_groups, np.uint8)
    for group_ids in touched:
        is_touched[group_ids] = 1
    return np.flatnonzero(is_touched).astype(np.uint32)
