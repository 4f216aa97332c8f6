"""The groups of an aggregate: how rows and partial groups get in, and results out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from millstream.engine.dictionaries import batch_of
from millstream.engine.operators.base import HeldBack
from millstream.engine.operators.calls import Calls
from millstream.engine.operators.partials import PartialColumns
from millstream.engine.operators.windowing import WindowGrid, pane_words
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.accumulators import Accumulators
from millstream.engine.state.dense_panes import PaneGroups
from millstream.engine.state.group_state import GroupState
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.places import RowPlaces, places_of
from millstream.engine.state.rooms import IdRoom
from millstream.engine.state.step_rows import AssignedSteps
from millstream.engine.state.words import WordSpec
from millstream.engine.step import AtHand
from millstream.kernels.compile import I64, U32
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["Grouping", "held_windows"]


class Grouping:
    """What all phases share: the state and how rows or partial groups get into it.

    Attributes:
        room: Where the groups of rows lie, unless somebody keeps them: the calls, or an operator
            that emits versions of groups.
    """

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
        self._merges = merges
        self.grid = None if node.window is None else WindowGrid(node.window, node.allowed_lateness)
        self.calls = Calls(node.calls, rows_schema, functions, at_hand)
        self.keeps_rows = self.calls.keeps_rows
        is_noted = node.phase != "partial" and (node.emit == "changes" or node.allowed_lateness > 0)
        self.room = None if self.keeps_rows or is_noted else IdRoom()
        columns = self.calls.columns_of_words()
        self._places = None if columns is None else RowPlaces(columns, rows_schema)
        key_types = [rows_schema.field(key).type for key in node.keys]
        self.state = GroupState(key_types, n_prefix_words, self.calls.specs, merges=merges)

    def add_rows(self, batch: pa.RecordBatch, prefix: Sequence[Word]) -> U32:
        """Add rows of the input and return their groups, as :meth:`add_parts` does."""
        group_ids = self.add_parts([batch], [prefix])
        self.calls.keep(batch, group_ids)
        return group_ids

    def add_parts(
        self,
        parts: Sequence[pa.RecordBatch | SourceRows],
        prefixes: Sequence[Sequence[Word]],
    ) -> U32:
        """Add rows that came one after the other, for calls that do not need them kept.

        Returns:
            The groups of all rows, one part after the other. Where there is a ``room`` for them,
            they are good until the next call.
        """
        keys = [
            KeyPart([rows.column(key) for key in self.node.keys], prefix, rows.num_rows)
            for rows, prefix in zip(parts, prefixes, strict=True)
        ]
        if self._places is not None:
            return self.state.update_at(keys, self._places.of(parts), self.room)
        values = [self.calls.values(rows) for rows in parts]
        return self.state.update_parts(keys, values, self.room)

    @property
    def takes_steps(self) -> bool:
        """Whether rows, or partial groups, of several steps can be added at once."""
        if self.grid is not None and self.grid.is_overlapping:
            return False
        are_words = all(isinstance(spec, WordSpec) for spec in self.calls.specs)
        return not self.keeps_rows and (are_words if self._merges else self._places is not None)

    def assign_steps(self, steps: Sequence[Sequence[pa.RecordBatch | SourceRows]]) -> AssignedSteps:
        """Give the rows of several steps, none of which can be late, their groups."""
        assert self._places is not None, "asked for before"
        rows = [part for parts in steps for part in parts]
        keys = [
            KeyPart(
                [part.column(key) for key in self.node.keys], self._prefix_of(part), part.num_rows
            )
            for part in rows
        ]
        return self.state.assign_steps(keys, self._places.of(rows), rows, _first_parts(steps))

    def assign_partial_steps(
        self, steps: Sequence[Sequence[pa.RecordBatch | PaneWords]], columns: PartialColumns
    ) -> AssignedSteps:
        """Do the same for partial groups, all of which come alike."""
        first_parts = _first_parts(steps)
        parts = [part for parts in steps for part in parts]
        words = [part.present() for part in parts if isinstance(part, PaneWords)]
        if words:
            prefixes = [() if self.grid is None else (part.pane,) for part in words]
            return self.state.assign_steps_of_words(words, prefixes, first_parts)
        batches = [part for part in parts if isinstance(part, pa.RecordBatch)]
        keys = [
            KeyPart(
                columns.keys(batch),
                () if self.grid is None else (columns.panes(batch),),
                batch.num_rows,
            )
            for batch in batches
        ]
        states = [columns.states(batch) for batch in batches]
        return self.state.assign_steps(keys, places_of(states), states, first_parts)

    def _prefix_of(self, rows: pa.RecordBatch | SourceRows) -> tuple[Word, ...]:
        """Return the panes of rows, which are windows, if there are windows."""
        if self.grid is None:
            return ()
        if isinstance(rows, SourceRows):
            return (pane_words(self.grid.panes_of(rows), rows.num_rows),)
        return (self.grid.assign(rows, None, None).panes,)

    def row_states(self, batch: pa.RecordBatch | SourceRows) -> list[pa.Array]:
        """Return the accumulators of groups of one row each, for every row of a batch."""
        accumulators = Accumulators(self.calls.specs, merges=False)
        rows = np.arange(batch.num_rows, dtype=np.uint32)
        accumulators.update(self.calls.values(batch), rows, batch.num_rows, new_have_rows=True)
        return accumulators.columns(slice(0, batch.num_rows))

    def results(
        self, group_ids: U32 | slice, states: Sequence[pa.Array] | None = None
    ) -> pa.RecordBatch:
        """Return the finished rows of some groups in the node's output schema.

        Args:
            group_ids: The groups.
            states: What they hold, if that is not what they hold now.
        """
        if states is None:
            states = self.state.accumulated(group_ids)
        columns: list[pa.Array] = []
        if self.grid is not None:
            columns += self.grid.columns(
                self.state.prefix_words(0)[group_ids], self.node.window_columns
            )
        columns += self.state.keys(group_ids)
        columns += self.calls.results(states, group_ids)
        return batch_of(columns, self.node.schema)

    def results_of_pane(self, groups: PaneGroups) -> pa.RecordBatch:
        """Return the finished rows of groups that were kept elsewhere.

        Args:
            groups: Groups of a tumbling window or, without windows, of all rows.
        """
        columns: list[pa.Array] = []
        if self.grid is not None:
            names = self.node.window_columns
            columns = self.grid.columns_of_one(groups.pane, groups.n_groups, names)
        columns += groups.keys
        columns += self.calls.results(groups.states, slice(0, groups.n_groups))
        return batch_of(columns, self.node.schema)

    def held_back(self, ends: I64) -> HeldBack | None:
        """Say that windows with these ends wait for the watermark."""
        return held_windows(self.node, ends)

    def retain(self, group_ids: U32) -> None:
        """Keep only these groups, renumbered from 0 in this order."""
        self.state.retain(group_ids)
        self.calls.retain(group_ids)

    @property
    def state_bytes(self) -> int:
        """Bytes of keys, accumulators and kept rows."""
        return self.state.state_bytes + self.calls.state_bytes


def _first_parts(steps: Sequence[Sequence[object]]) -> I64:
    """Return int64[n_steps + 1], the first part of each step, and the number of parts."""
    return np.array([*accumulate(map(len, steps), initial=0)], np.int64)


def held_windows(node: AggregateNode, ends: I64) -> HeldBack | None:
    """Say that windows of an aggregate with these ends wait for the watermark."""
    if node.window is None:
        return None
    # The watermark of the node stays behind that of the stream by this much.
    delay = max((bound.delay for bound in node.watermark), default=0)
    return HeldBack("window", ends + delay, node.window.time_type)
