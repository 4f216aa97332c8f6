"""GROUP BY before an exchange: each partition adds up what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import cast

import numpy as np
import pyarrow as pa

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.late_rows import LateRows
from millstream.engine.operators.base import Collector, Counters, GroupsCollector, HeldBack
from millstream.engine.operators.dense_lane import AnyRows, DenseLane, Located
from millstream.engine.operators.grouping import Grouping
from millstream.engine.operators.partials import partial_batch
from millstream.engine.operators.reduction import Reduction
from millstream.engine.operators.windowing import or_all_windows, pane_words, word_per_row
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.key_table import Word
from millstream.engine.state.record_panes import RecordPanes
from millstream.engine.step import AtHand
from millstream.kernels.compile import I64, U32
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["PartialAggregate"]

# It takes longer to hand on a pane with fewer groups by itself than to add them one by one.
_SMALL_PANE_GROUPS = 1 << 11
# With so many rows for each group, adding them to records first is quicker than adding them where
# the other phase has its groups.
_RECORD_ROWS_PER_GROUP_LEAST = 8


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
        self._grouping = Grouping(
            node, node.input.schema, {}, grid_words, merges=False, at_hand=at_hand
        )
        self._out: Collector | None = None
        self._groups_out: GroupsCollector | None = None
        # Whether the other phase takes dense groups from where they are, which is asked once.
        self._are_panes_shared = False
        self._has_asked = False
        # Groups that stay until the end of the input need no panes.
        self._dense = DenseLane.for_node(
            node,
            self._grouping.calls,
            self._grouping.grid,
            has_panes=node.window is not None or not self._is_deferred,
        )

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        self._look_behind(out)
        grid = self._grouping.grid
        if grid is None:
            for rows, _ in self._add_dense([(batch, 0)], out):
                self._add(rows, [], out)
            return
        panes = grid.assign(batch, self._watermarks.of(batch), self._late_rows)
        self._counters.rows_late += panes.n_late
        if panes.first_ends is not None:
            self._add(panes.batch, self._prefix(panes.panes, panes.first_ends), out)
            return
        for rows, pane in self._add_dense([(panes.batch, panes.panes)], out):
            self._add(rows, self._prefix(pane_words(pane, rows.num_rows), None), out)

    @property
    def takes_rows(self) -> bool:
        """Whether it takes micro-batches as they are."""
        return not self._grouping.keeps_rows

    def process_rows(self, parts: Sequence[SourceRows], out: Collector) -> None:
        self._look_behind(out)
        grouping, grid = self._grouping, self._grouping.grid
        # Without windows, all rows are in one pane.
        panes = [0 if grid is None else grid.panes_of(rows) for rows in parts]
        located = self._add_dense(list(zip(parts, panes, strict=True)), out)
        if not located:
            return
        parts = [rows for rows, _ in located]
        prefixes = [self._prefix(pane_words(pane, rows.num_rows), None) for rows, pane in located]
        if self._reduction.is_bypassed:
            for rows, prefix in zip(parts, prefixes, strict=True):
                self._bypass(rows, prefix, out)
            return
        n_before = grouping.state.n_groups
        grouping.add_parts(parts, prefixes)
        self._observe(sum(rows.num_rows for rows in parts), n_before, out)

    def _add_dense(
        self, located: Sequence[Located[AnyRows]], out: Collector
    ) -> Sequence[Located[AnyRows]]:
        """Add rows of all windows of their panes where that is quickest; return the others."""
        if self._dense is None or self._reduction.is_bypassed:
            return located
        rest, n_rows, n_new = self._dense.add(located)
        if n_rows > 0 and self._reduction.observe(n_rows, n_new):
            self._flush_all(out)
        return rest

    def _prefix(self, panes: Word, first_ends: I64 | None) -> list[Word]:
        grid = self._grouping.grid
        if grid is None:
            return []
        return [panes, or_all_windows(first_ends)] if grid.is_overlapping else [panes]

    def _bypass(
        self, rows: pa.RecordBatch | SourceRows, prefix: Sequence[Word], out: Collector
    ) -> None:
        """Hand rows on as groups of one row each."""
        self._reduction.bypass(rows.num_rows)
        words = [word_per_row(word, rows.num_rows) for word in prefix]
        keys = [rows.column(key) for key in self._grouping.node.keys]
        out.emit(partial_batch(self._grouping.node, keys, words, self._grouping.row_states(rows)))

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
        elif self._closed_below > NO_WATERMARK and self._grouping.node.allowed_lateness > 0:
            # Rows that come late but are allowed fall into panes that were closed before, and
            # revise results at once.
            self._flush_closed(out)

    def process_watermark(self, watermark: int, out: Collector) -> None:
        grid = self._grouping.grid
        if grid is None or not self._is_deferred:
            return
        closed_below = grid.closed_below(watermark)
        if closed_below > self._closed_below:
            self._closed_below = closed_below
            self._flush_closed(out)

    def end_input(self, out: Collector) -> None:
        self._flush_all(out)

    @property
    def state_rows(self) -> int:
        n_dense = sum(panes.n_groups for panes in self._own_panes)
        return self._grouping.state.n_groups + n_dense

    @property
    def state_bytes(self) -> int:
        n_bytes = sum(panes.state_bytes for panes in self._own_panes)
        return self._grouping.state_bytes + n_bytes

    def held_back(self) -> HeldBack | None:
        grouping = self._grouping
        if grouping.grid is None or not self._is_deferred:
            return None
        panes = grouping.state.prefix_words(0)
        for own in self._own_panes:
            panes = np.concatenate([panes, np.array(own.numbers(), np.int64)])
        return grouping.held_back(grouping.grid.open_ends(panes, self._closed_below))

    def _flush_all(self, out: Collector) -> None:
        self._flush_dense(WATERMARK_END, out)
        self._flush(out, slice(0, self._grouping.state.n_groups), np.empty(0, np.uint32))

    def _flush_closed(self, out: Collector) -> None:
        self._flush_dense(self._closed_below, out)
        self._flush(out, *self._grouping.state.split(self._closed_below))

    def _flush_dense(self, closed_below: int, out: Collector) -> None:
        self._choose(closed_below)
        n_old = sum(self._hand_on(panes, closed_below, out) for panes in self._own_panes)
        self._reduction.count_old(n_old)

    def _hand_on(self, panes: DensePanes | RecordPanes, closed_below: int, out: Collector) -> int:
        """Hand on panes that have ended; return how many groups have not been counted as new."""
        if self._groups_out is not None:
            dealt = panes.deal(closed_below, self._groups_out.n_receivers)
            if dealt is not None:
                for pane in dealt:
                    self._groups_out.emit_groups(pane.parts)
                return sum(pane.n_old for pane in dealt)
        # Of panes without groups, all rows were strays.
        closed = [groups for groups in panes.close(closed_below) if groups.n_groups > 0]
        for is_small, run in groupby(closed, lambda groups: groups.n_groups < _SMALL_PANE_GROUPS):
            batches = [self._as_batch(groups) for groups in run]
            for batch in [pa.concat_batches(batches)] if is_small else batches:
                out.emit(batch)
        return sum(groups.n_old for groups in closed)

    def _as_batch(self, groups: PaneGroups) -> pa.RecordBatch:
        words = self._prefix(groups.pane, None)
        prefix = [word_per_row(word, groups.n_groups) for word in words]
        return partial_batch(self._grouping.node, groups.keys, prefix, groups.states)

    @property
    def _own_panes(self) -> list[DensePanes | RecordPanes]:
        """Dense groups that have to be handed on."""
        if self._dense is None or self._are_panes_shared:
            return []
        records = self._dense.records
        return [self._dense.panes] if records is None else [records, self._dense.panes]

    def _look_behind(self, out: Collector) -> None:
        """Find out what the other phase takes, the first time that it is there."""
        if self._out is not None or self._dense is None:
            return
        self._out = out
        if isinstance(out, GroupsCollector) and out.n_receivers > 0:
            self._groups_out = cast("GroupsCollector", out)
            records = self._dense.records
            if records is None or not records.tells_values:
                self._ask_to_share()

    def _choose(self, closed_below: int) -> None:
        """When the first panes end, choose who adds rows up: this phase, or both in one place."""
        if self._has_asked or self._groups_out is None or self._dense is None:
            return
        records = self._dense.records
        assert records is not None, "else it has been asked for at once"
        numbers = [*records.numbers(), *self._dense.panes.numbers()]
        if min(numbers, default=WATERMARK_END) >= closed_below:
            return
        if records.rows_per_group(closed_below) < _RECORD_ROWS_PER_GROUP_LEAST:
            self._ask_to_share()
        self._has_asked = True

    def _ask_to_share(self) -> None:
        assert self._groups_out is not None, "someone takes groups"
        assert self._dense is not None, "there are some"
        self._has_asked = True
        self._are_panes_shared = self._groups_out.share_panes(self._dense.panes)
        if self._are_panes_shared:
            records, self._dense.records = self._dense.records, None
            for groups in [] if records is None else records.close(WATERMARK_END):
                # Of panes without groups, all rows were strays: they would seem to have much room.
                if groups.n_groups > 0:
                    self._dense.panes.add_groups(groups)

    def _flush(self, out: Collector, group_ids: U32 | slice, rest: U32) -> None:
        if len(rest) == self._grouping.state.n_groups:
            return
        grouping, state = self._grouping, self._grouping.state
        n_words = 0 if grouping.grid is None else 2 if grouping.grid.is_overlapping else 1
        prefix = [state.prefix_words(index)[group_ids] for index in range(n_words)]
        keys, states = state.keys(group_ids), state.accumulated(group_ids)
        out.emit(partial_batch(grouping.node, keys, prefix, states))
        grouping.retain(rest)
