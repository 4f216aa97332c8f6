"""Frames of all rows so far, for which nothing is kept but totals."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from millstream.engine.state.frame_interfaces import Fold, Number, Values
from millstream.engine.state.frame_moments import MomentsFold, RunningMoments
from millstream.engine.state.frames import IDENTITY, spread_over_peers
from millstream.engine.state.keyed_rows import KeyColumn, KeyColumns, KeyedRows
from millstream.kernels.compile import I64
from millstream.kernels.frames import number_rows
from millstream.kernels.sliding import ADD, run

__all__ = ["WholeFrame"]


class WholeFrame:
    """All rows up to the current one: nothing is kept but totals.

    Args:
        columns: Where columns per key are made.
        has_peers: Whether later rows of the same time belong to a frame.
    """

    n_rows = 0
    state_bytes = 0

    def __init__(self, columns: KeyColumns, *, has_peers: bool) -> None:
        self._columns = columns
        self._has_peers = has_peers
        self._counts = columns.add(np.int64)
        self._folds: list[_RunningFold] = []
        self._moments: list[RunningMoments] = []
        self._rows: KeyedRows | None = None
        self._lengths: I64 | None = None

    @property
    def lengths(self) -> I64:
        assert self._lengths is not None, "a step is open"
        return self._lengths

    def open(self, rows: KeyedRows) -> None:
        self._rows = rows
        self._lengths = lengths = np.empty(rows.n_rows, np.int64)
        number_rows(rows.group_ids, self._counts.values, lengths)
        if self._has_peers:
            spread_over_peers(rows, lengths)

    def fold(self) -> None:
        assert self._rows is not None, "a step is open"
        folds: list[_RunningFold | RunningMoments] = [*self._folds, *self._moments]
        for fold in folds:
            fold.run(self._rows)
            if self._has_peers:
                spread_over_peers(self._rows, fold.out)

    def close(self) -> None:
        self._rows = self._lengths = None

    def new_fold(self, operation: int, dtype: type[Number], source: Hashable) -> Fold:
        return self._new_fold(operation, self._columns.add(dtype, IDENTITY[operation]))

    def new_fold_of_ones(self) -> Fold:
        totals = self._columns.add(np.int64)
        totals.values[:] = self._counts.values
        if self._rows is not None:
            # The rows of the step have been counted already.
            ids = self._rows.group_ids
            totals.values[:] -= np.bincount(ids, minlength=len(totals.values))
        return self._new_fold(ADD, totals)

    def new_moments(self, width: int) -> MomentsFold:
        moments = RunningMoments(self._columns.add(np.float64, 0, width))
        self._moments.append(moments)
        return moments

    def _new_fold(self, operation: int, totals: KeyColumn) -> Fold:
        fold = _RunningFold(operation, totals)
        self._folds.append(fold)
        return fold


class _RunningFold:
    def __init__(self, operation: int, totals: KeyColumn) -> None:
        self._operation = operation
        self._totals = totals
        self._values: Values = np.empty(0, totals.values.dtype)
        self.out = self._values

    def put(self, values: Values, *, has_nulls: bool) -> None:
        self._values = values

    def run(self, rows: KeyedRows) -> None:
        self.out = np.empty_like(self._values)
        run(self._operation, rows.group_ids, self._values, self._totals.values, self.out)
