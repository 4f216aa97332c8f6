"""The quick way of rows into partial groups: panes in which most keys come again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from millstream.engine.operators.calls import Calls
from millstream.engine.operators.windowing import PaneCuts, WindowGrid
from millstream.engine.routing import moved
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.state.places import RowPlaces, have_nulls
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64
from millstream.kernels.splitting import order_rows
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["AnyRows", "DenseLane", "Located"]

AnyRows = TypeVar("AnyRows", pa.RecordBatch, SourceRows)
Located: TypeAlias = tuple[AnyRows, Word | PaneCuts]
"""Rows and the pane of all of them, of runs, or of each: int64[n_rows]."""


# Of rows that are put in order so many should have one pane, on average, in so many panes at most.
_ORDERED_ROWS_LEAST, _ORDERED_PANES_MAX = 1 << 8, 1 << 6


class DenseLane:
    """Takes those rows that :class:`DensePanes` is good for.

    Args:
        node: An aggregate with keys.
        columns: What each accumulator takes, a column or None for the rows themselves.
        specs: The accumulators.
        grid: Of its windows, or None if all rows are in one pane.

    Attributes:
        panes: The groups.
    """

    def __init__(
        self,
        node: AggregateNode,
        columns: Sequence[str | None],
        specs: Sequence[WordSpec],
        grid: WindowGrid | None,
    ) -> None:
        self._grid = grid
        schema = node.input.schema
        self._keys = node.keys
        key_types = [schema.field(key).type for key in node.keys]
        self.panes = DensePanes(key_types, specs, merges=False)
        self._values = list(dict.fromkeys(name for name in columns if name is not None))
        of_rows = [None] if self.panes.counts_rows else []
        self._places = RowPlaces([*columns, *of_rows], schema)

    @classmethod
    def for_node(
        cls, node: AggregateNode, calls: Calls, grid: WindowGrid | None
    ) -> DenseLane | None:
        """Return the lane of an aggregate, or None if its keys, calls or windows do not suit it."""
        columns = calls.columns_of_words()
        specs = [spec for spec in calls.specs if isinstance(spec, WordSpec)]
        if columns is None or not node.keys or calls.keeps_rows:
            return None
        return cls(node, columns, specs, grid)

    def add(
        self, located: Sequence[Located[AnyRows]]
    ) -> tuple[Sequence[Located[AnyRows]], int, int]:
        """Add rows, or leave them to others.

        Returns:
            What is left; how many rows have been added, and how many of them have new keys.
        """
        if not self.panes.takes_rows:
            return located, 0, 0
        pieces: list[tuple[pa.RecordBatch | SourceRows, int]] = []
        rest: list[Located[AnyRows]] = []
        for rows, panes in located:
            runs = self._runs(rows, panes)
            if runs is None or not all(self.panes.takes(pane) for _, pane in runs):
                rest.append((rows, panes))
            else:
                pieces += runs
        n_before = self.panes.n_keys
        if not pieces or not self._add(pieces):
            return located, 0, 0
        return rest, sum(rows.num_rows for rows, _ in pieces), self.panes.n_keys - n_before

    def add_all(self, located: Sequence[Located[AnyRows]]) -> bool:
        """Add all of some rows or, returning False, none of them."""
        pieces: list[tuple[pa.RecordBatch | SourceRows, int]] = []
        for rows, panes in located:
            runs = self._runs(rows, panes)
            if runs is None:
                return False
            pieces += runs
        takes = self.panes.takes
        return not pieces or (all(takes(pane) for _, pane in pieces) and self._add(pieces))

    def _runs(
        self, rows: AnyRows, panes: Word | PaneCuts
    ) -> Sequence[tuple[pa.RecordBatch | SourceRows, int]] | None:
        """Cut rows where their pane changes, or order them by pane; None if these are too many."""
        if isinstance(panes, int):
            return [(rows, panes)]
        assert self._grid is not None, "without windows there is one pane"
        cuts = panes if isinstance(panes, PaneCuts) else self._grid.cut(panes)
        if cuts is not None:
            return _slices(rows, cuts)
        assert isinstance(panes, np.ndarray), "a pane for each row"
        return self._ordered(rows, panes)

    def _ordered(self, rows: AnyRows, panes: I64) -> list[tuple[pa.RecordBatch, int]] | None:
        """Return a copy of rows, ordered by pane; None if there are too many panes or NULLs."""
        if any(rows.column(name).null_count > 0 for name in self._values):
            return None
        n_most = min(len(panes) // _ORDERED_ROWS_LEAST, _ORDERED_PANES_MAX)
        offsets, places = np.empty(n_most + 1, np.int64), np.empty(len(panes), np.uint32)
        least, n_panes = order_rows(panes, offsets, places)
        if n_panes == 0:
            return None
        names = list(dict.fromkeys((*self._keys, *self._values)))
        columns = [rows.column(name) for name in names]
        batch = moved(pa.RecordBatch.from_arrays(columns, names), places)
        bounds = pairwise(offsets[: n_panes + 1].tolist())
        return [
            (batch.slice(start, stop - start), least + index)
            for index, (start, stop) in enumerate(bounds)
            if stop > start
        ]

    def _add(self, pieces: Sequence[tuple[pa.RecordBatch | SourceRows, int]]) -> bool:
        batches = [rows for rows, _ in pieces]
        places = self._places.of(batches)
        if have_nulls(places):
            return False
        parts = [
            KeyPart([rows.column(key) for key in self._keys], (), rows.num_rows) for rows in batches
        ]
        self.panes.add(parts, [pane for _, pane in pieces], places)
        return True


def _slices(rows: AnyRows, cuts: PaneCuts) -> list[tuple[AnyRows, int]]:
    bounds = pairwise([*cuts.starts, rows.num_rows])
    return [
        (rows.slice(start, stop - start), pane)
        for (start, stop), pane in zip(bounds, cuts.panes, strict=True)
    ]
