"""Partial groups on their way from one phase of an aggregate to the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.operators.windowing import WindowGrid
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["PartialColumns", "PartialGroups", "partial_batch"]

_PANE, _FIRST_END, _STATE = "__pane", "__first_end", "__s"
# So many groups of one pane, on average, are worth a part of their own.
_RUN_ROWS_LEAST = 64


def partial_batch(
    node: AggregateNode, keys: Sequence[pa.Array], prefix: Sequence[I64], states: list[pa.Array]
) -> pa.RecordBatch:
    """Put partial groups into a batch.

    Args:
        node: The aggregate.
        keys: Its key columns.
        prefix: int64[n_groups] each: pane of each group, and the first window that it counts in.
        states: Accumulators.
    """
    names = list(node.keys)
    names += [_PANE, _FIRST_END][: len(prefix)]
    names += [f"{_STATE}{index}" for index in range(len(states))]
    words = [array_from_buffers(values, pa.int64(), None) for values in prefix]
    columns = [*keys, *words, *states]
    if not columns:
        # A global aggregate without calls has no columns, but the group itself has to arrive.
        return pa.RecordBatch.from_arrays([pa.nulls(1)], [_PANE])
    return pa.RecordBatch.from_arrays(columns, names)


class PartialColumns:
    """Finds the columns of batches that :func:`partial_batch` made.

    Args:
        node: The aggregate.
        n_states: Number of accumulators.
    """

    def __init__(self, node: AggregateNode, n_states: int) -> None:
        self._keys = node.keys
        self._states = [f"{_STATE}{index}" for index in range(n_states)]

    def panes(self, batch: pa.RecordBatch) -> I64:
        """Return the pane of each group: int64[n_groups]."""
        panes: I64 = fixed_values(batch.column(_PANE))
        return panes

    def first_ends(self, batch: pa.RecordBatch) -> I64:
        """Return the end of the first window that each group counts in: int64[n_groups]."""
        first_ends: I64 = fixed_values(batch.column(_FIRST_END))
        return first_ends

    def keys(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Return the key columns."""
        return [batch.column(key) for key in self._keys]

    def states(self, batch: pa.RecordBatch) -> list[pa.Array]:
        """Return the accumulators."""
        return [batch.column(name) for name in self._states]


class PartialGroups:
    """Gathers partial groups, so that several batches are merged in one go.

    Args:
        node: The aggregate.
        grid: Of its windows, or None.
        n_states: Number of accumulators.

    Attributes:
        keys: Keys of what has been gathered, with the last pane of the window, in parts.
        states: Accumulators of each part.
        n_rows: Number of groups in all parts.
    """

    def __init__(self, node: AggregateNode, grid: WindowGrid | None, n_states: int) -> None:
        self._columns = PartialColumns(node, n_states)
        self._grid = grid
        self.keys: list[KeyPart] = []
        self.states: list[list[pa.Array]] = []
        self.n_rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in a batch that :func:`partial_batch` made; panes are spread over their windows."""
        if batch.num_rows == 0:
            # All rows of a micro-batch were late, or none passed.
            return
        if self._grid is None:
            self._add(batch, ())
            return
        panes = self._columns.panes(batch)
        if not self._grid.is_overlapping:
            is_one = bool((panes == panes[0]).all())
            self._add(batch, (int(panes[0]) if is_one else panes,))
            return
        first_ends = self._columns.first_ends(batch)
        starts = np.flatnonzero((np.diff(panes) != 0) | (np.diff(first_ends) != 0)) + 1
        if (len(starts) + 1) * _RUN_ROWS_LEAST > batch.num_rows:
            indices, last_panes = self._grid.expand(panes, first_ends)
            repeated = take_rows(batch, indices)
            self._add(repeated, (last_panes,))
            return
        # Whole runs of groups go into one window after the other, without being copied.
        for start, stop in pairwise([0, *starts.tolist(), batch.num_rows]):
            run = batch.slice(start, stop - start)
            one = slice(start, start + 1)
            for last_pane in self._grid.expand(panes[one], first_ends[one])[1].tolist():
                self._add(run, (last_pane,))

    def take(self) -> Iterator[tuple[list[KeyPart], list[list[pa.Array]]]]:
        """Give away what has been gathered, if there is anything: keys and accumulators."""
        if self.keys:
            keys, states = self.keys, self.states
            self.keys, self.states, self.n_rows = [], [], 0
            yield keys, states

    def _add(self, batch: pa.RecordBatch, prefix: tuple[Word, ...]) -> None:
        self.keys.append(KeyPart(self._columns.keys(batch), prefix, batch.num_rows))
        self.states.append(self._columns.states(batch))
        self.n_rows += batch.num_rows
