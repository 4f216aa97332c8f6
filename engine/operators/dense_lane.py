"""The quick way of rows into partial groups: panes in which most keys come again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar, cast

import numpy as np
import pyarrow as pa

from millstream.engine.operators.calls import Calls
from millstream.engine.operators.windowing import PaneCuts, WindowGrid
from millstream.engine.routing import moved
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.state.places import RowPlaces, have_nulls
from millstream.engine.state.record_panes import KeyRows, RecordPanes
from millstream.engine.state.state_columns import valid_flags
from millstream.engine.state.words import WordSpec
from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64
from millstream.kernels.splitting import order_rows, part_rows
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["AnyRows", "DenseLane", "Located"]

AnyRows = TypeVar("AnyRows", pa.RecordBatch, SourceRows)
Located: TypeAlias = tuple[AnyRows, Word | PaneCuts]
"""Rows and the pane of all of them, of runs, or of each: int64[n_rows]."""
_Piece: TypeAlias = tuple[pa.RecordBatch | SourceRows, int]

# Of rows that are put in order so many should have one pane, on average, in so many panes at most.
_ORDERED_ROWS_LEAST, _ORDERED_PANES_MAX = 1 << 8, 1 << 6


class DenseLane:
    """Takes those rows that :class:`DensePanes` is good for.

    Args:
        node: An aggregate with keys.
        columns: What each accumulator takes, a column or None for the rows themselves.
        specs: The accumulators.
        grid: Of its windows, or None if all rows are in one pane.
        has_panes: Whether groups of any keys are kept; else those of records alone.

    Attributes:
        panes: Groups of any keys.
        records: Groups of keys that lie close to each other, which are preferred, or None. There
            may be two groups of one pane and key, one here and one there.
    """

    def __init__(
        self,
        node: AggregateNode,
        columns: Sequence[str | None],
        specs: Sequence[WordSpec],
        grid: WindowGrid | None,
        *,
        has_panes: bool,
    ) -> None:
        self._has_panes = has_panes
        self._grid = grid
        schema = node.input.schema
        self._keys = node.keys
        key_types = [schema.field(key).type for key in node.keys]
        self.panes = DensePanes(key_types, specs, merges=False)
        self.records: RecordPanes | None = None
        self.records = RecordPanes.for_keys(key_types, specs)
        self._values = list(dict.fromkeys(name for name in columns if name is not None))
        of_rows = [None] if self.panes.counts_rows else []
        self._places = RowPlaces([*columns, *of_rows], schema)

    @classmethod
    def for_node(
        cls,
        node: AggregateNode,
        calls: Calls,
        grid: WindowGrid | None,
        *,
        has_panes: bool = True,
    ) -> DenseLane | None:
        """Return the lane of an aggregate, or None if its keys, calls or windows do not suit it."""
        columns = calls.columns_of_words()
        specs = [spec for spec in calls.specs if isinstance(spec, WordSpec)]
        if columns is None or not node.keys or calls.keeps_rows:
            return None
        lane = cls(node, columns, specs, grid, has_panes=has_panes)
        return lane if has_panes or lane.records is not None else None

    def add(
        self, located: Sequence[Located[AnyRows]]
    ) -> tuple[Sequence[Located[AnyRows]], int, int]:
        """Add rows, or leave them to others.

        Returns:
            What is left; how many rows have been added, and how many of them have new keys.
        """
        pieces: list[_Piece] = []
        rest: list[Located[AnyRows]] = []
        for rows, panes in located:
            runs = self._runs(rows, panes)
            if runs is None:
                rest.append((rows, panes))
            else:
                pieces += [(part, pane) for part, pane in runs if part.num_rows > 0]
        n_rows, n_before = _n_rows(pieces), self.panes.n_keys
        if self.records is not None:
            pieces = self._add_records(self.records, pieces)
        if pieces and self._has_panes and self.panes.takes_rows and self._add(pieces):
            pieces = []
        n_left = _n_rows(pieces)
        if n_left == n_rows:
            return located, 0, 0
        rest += cast("list[Located[AnyRows]]", pieces)
        return rest, n_rows - n_left, self.panes.n_keys - n_before

    def add_all(self, located: Sequence[Located[AnyRows]]) -> bool:
        """Add all of some rows or, returning False, none of them."""
        pieces: list[_Piece] = []
        for rows, panes in located:
            runs = self._runs(rows, panes)
            if runs is None:
                return False
            pieces += [(part, pane) for part, pane in runs if part.num_rows > 0]
        takes = self.panes.takes
        if not all(takes(pane) and not self._have_nulls(rows) for rows, pane in pieces):
            return False
        if self.records is not None:
            pieces = self._add_records(self.records, pieces)
        if pieces:
            is_added = self._add(pieces)
            assert is_added, "values are not NULL"
        return True

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
        if self._have_nulls(rows):
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

    def _add_records(self, records: RecordPanes, pieces: list[_Piece]) -> list[_Piece]:
        """Add rows to records; return those that have none."""
        pieces, without_key = self._with_keys(pieces)
        return without_key + self._add_with_keys(records, pieces)

    def _with_keys(self, pieces: list[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
        """Part rows whose key is NULL from the others; both are copied then."""
        (key,) = self._keys
        having: list[_Piece] = []
        without: list[_Piece] = []
        for rows, pane in pieces:
            column = rows.column(key)
            is_mixed = 0 < column.null_count < rows.num_rows and _has_whole_bytes(column.type)
            if is_mixed and not self._have_nulls(rows):
                with_key, null = self._parted(rows, key)
                having.append((with_key, pane))
                without.append((null, pane))
            else:
                having.append((rows, pane))
        return having, without

    def _parted(
        self, rows: pa.RecordBatch | SourceRows, key: str
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Return copies of the rows that have a key, and of those that have none."""
        column, names = rows.column(key), [key, *(name for name in self._values if name != key)]
        n_keys, places = rows.num_rows - column.null_count, np.empty(rows.num_rows, np.uint32)
        part_rows(valid_flags(column), n_keys, places)
        # Without their bitmap, keys are moved as quickly as other columns.
        data, offset = column.buffers()[1], column.offset
        keys = pa.Array.from_buffers(column.type, rows.num_rows, [None, data], 0, offset)
        others = [rows.column(name) for name in names[1:]]
        batch = moved(pa.RecordBatch.from_arrays([keys, *others], names), places)
        null = batch.slice(n_keys)
        nulls = pa.nulls(null.num_rows, column.type)
        return batch.slice(0, n_keys), null.set_column(0, key, nulls)

    def _have_nulls(self, rows: pa.RecordBatch | SourceRows) -> bool:
        return any(rows.column(name).null_count > 0 for name in self._values)

    def _add_with_keys(self, records: RecordPanes, pieces: list[_Piece]) -> list[_Piece]:
        places = self._places.of([rows for rows, _ in pieces])
        if not pieces or have_nulls(places):
            return pieces
        (key,) = self._keys
        parts = [KeyRows(rows.column(key), rows.num_rows, pane) for rows, pane in pieces]
        left = records.add(parts, places)
        if left is None:
            return pieces
        return [
            (self._some(rows, indices), pane)
            for (rows, pane), indices in zip(pieces, left, strict=True)
            if len(indices) > 0
        ]

    def _some(self, rows: pa.RecordBatch | SourceRows, indices: I64) -> pa.RecordBatch:
        names = list(dict.fromkeys((*self._keys, *self._values)))
        batch = pa.RecordBatch.from_arrays([rows.column(name) for name in names], names)
        return take_rows(batch, indices)

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


def _has_whole_bytes(type_: pa.DataType) -> bool:
    """Whether values are numbers, or times that are kept as such, but for booleans."""
    return bool(pa.types.is_primitive(type_) and type_.bit_width in (8, 16, 32, 64))


def _n_rows(pieces: Sequence[_Piece]) -> int:
    return sum(rows.num_rows for rows, _ in pieces)


def _slices(rows: AnyRows, cuts: PaneCuts) -> list[tuple[AnyRows, int]]:
    bounds = pairwise([*cuts.starts, rows.num_rows])
    return [
        (rows.slice(start, stop - start), pane)
        for (start, stop), pane in zip(bounds, cuts.panes, strict=True)
    ]
