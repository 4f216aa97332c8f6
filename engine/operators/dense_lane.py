"""The quick way of rows into partial groups: panes in which most keys come again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from millstream.engine.operators.calls import Calls
from millstream.engine.source_rows import SourceRows
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.key_table import KeyPart, Word
from millstream.engine.state.places import RowPlaces, have_nulls
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64
from millstream.kernels.splitting import find_changes
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["AnyRows", "DenseLane", "Located"]

AnyRows = TypeVar("AnyRows", pa.RecordBatch, SourceRows)
Located: TypeAlias = tuple[AnyRows, Word]
"""Rows and the pane of all of them, or of each: int64[n_rows]."""

# Rows that one pane has in a row, if a micro-batch is worth being cut at the ends of panes.
_RUN_ROWS_LEAST = 1 << 12


class DenseLane:
    """Takes those rows that :class:`DensePanes` is good for.

    Args:
        node: A windowed aggregate with keys.
        columns: What each accumulator takes, a column or None for the rows themselves.
        specs: The accumulators.
    """

    def __init__(
        self, node: AggregateNode, columns: Sequence[str | None], specs: Sequence[WordSpec]
    ) -> None:
        schema = node.input.schema
        self._keys = node.keys
        self._panes = DensePanes([schema.field(key).type for key in node.keys], specs)
        of_rows = [None] if self._panes.counts_rows else []
        self._places = RowPlaces([*columns, *of_rows], schema)

    @classmethod
    def for_node(cls, node: AggregateNode, calls: Calls) -> DenseLane | None:
        """Return the lane of an aggregate, or None if it has keys or calls that do not suit it."""
        columns = calls.columns_of_words()
        specs = [spec for spec in calls.specs if isinstance(spec, WordSpec)]
        if columns is None or not node.keys or calls.keeps_rows:
            return None
        return cls(node, columns, specs)

    def add(
        self, located: Sequence[Located[AnyRows]]
    ) -> tuple[Sequence[Located[AnyRows]], int, int]:
        """Add rows, or leave them to others.

        Returns:
            What is left; how many rows have been added, and how many of them have new keys.
        """
        if not self._panes.takes_rows:
            return located, 0, 0
        pieces: list[tuple[AnyRows, int]] = []
        rest: list[Located[AnyRows]] = []
        for rows, panes in located:
            runs = _runs(rows, panes)
            if runs is None:
                rest.append((rows, panes))
            else:
                pieces += runs
        if not pieces:
            return located, 0, 0
        batches = [rows for rows, _ in pieces]
        places = self._places.of(batches)
        if have_nulls(places):
            return located, 0, 0
        parts = [
            KeyPart([rows.column(key) for key in self._keys], (), rows.num_rows) for rows in batches
        ]
        n_before = self._panes.n_keys
        self._panes.add(parts, [pane for _, pane in pieces], places)
        return rest, sum(rows.num_rows for rows in batches), self._panes.n_keys - n_before

    def close(self, limit: int) -> list[PaneGroups]:
        """Give away the groups of all panes below a limit, in the order of the panes."""
        return self._panes.close(limit)

    def panes(self) -> I64:
        """Return the panes that have groups: int64[n]."""
        return self._panes.panes()

    @property
    def n_groups(self) -> int:
        """Number of groups at most."""
        return self._panes.n_groups

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        return self._panes.state_bytes


def _runs(rows: AnyRows, panes: Word) -> list[tuple[AnyRows, int]] | None:
    """Cut rows where their pane changes; None if it does so too often."""
    if isinstance(panes, int):
        return [(rows, panes)]
    n_rows = len(panes)
    if n_rows == 0:
        return None
    changes: I64 = np.empty(n_rows // _RUN_ROWS_LEAST, np.int64)
    n_changes: int = find_changes(panes, changes)
    if n_changes > len(changes):
        return None
    bounds = [0, *changes[:n_changes].tolist(), n_rows]
    return [
        (rows.slice(start, stop - start), int(panes[start])) for start, stop in pairwise(bounds)
    ]
