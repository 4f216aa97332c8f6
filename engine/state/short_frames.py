"""Frames of so few preceding rows that each is folded anew, of rows as they come."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from millstream.engine.column_memory import like, new_column
from millstream.engine.state.frame_interfaces import FirstWords, Fold, Number, Values
from millstream.engine.state.keyed_rows import KeyColumn, KeyColumns, KeyedRows
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.short_frames import (
    WIDTH_MAX,
    first_short_values,
    fold_short_frames,
    fold_values_thrice,
    phase_rows,
)
from millstream.kernels.sliding import ADD, GREATEST, LEAST

__all__ = ["SHORT_PRECEDING_MAX", "ShortFrame"]

# With more rows, to fold all of them for each row takes as long as to sort rows by key, and keys
# with few rows would have too much room.
SHORT_PRECEDING_MAX = 31

_NO_PHASES: U8 = np.empty(0, np.uint8)


class ShortFrame:
    """A small number of preceding rows and the current one.

    Each key has a ring of as many values as a full frame for each column that is folded. Folds of
    one column share it until its first NULL, which each of them counts as something else.

    Args:
        columns: Where columns per key are made.
        preceding: From 0 to ``SHORT_PRECEDING_MAX``.
    """

    state_bytes = 0

    def __init__(self, columns: KeyColumns, preceding: int) -> None:
        self._columns = columns
        self._width = preceding + 1
        assert self._width <= WIDTH_MAX, "phases have no more bits"
        self._next_phases = columns.add(np.uint8)
        self._rings: list[_FoldedRing] = []
        self._sources: dict[Hashable, _FoldedRing] = {}
        self._rows: KeyedRows | None = None
        self._phases, self._are_full = _NO_PHASES, False
        self._lengths: I64 | None = None
        self.n_rows = 0

    @property
    def lengths(self) -> I64:
        if self._lengths is None:
            self._lengths = lengths = new_column(len(self._phases), np.int64)
            if self._are_full:
                lengths.fill(self._width)
            else:
                np.minimum(self._phases, self._width - 1, out=lengths)
                lengths += 1
        return self._lengths

    def open(self, rows: KeyedRows) -> None:
        self._rows = rows
        self._phases = np.empty(rows.n_rows, np.uint8)
        n_short = phase_rows(rows.group_ids, self._width, self._next_phases.values, self._phases)
        self._are_full = n_short == 0
        self.n_rows += int(n_short)

    def fold(self) -> None:
        group_ids, phases = self._opened()
        self._part()
        for ring in self._rings:
            ring.fold(group_ids, phases)

    def close(self) -> None:
        self._rows = self._lengths = None
        self._phases = _NO_PHASES

    def new_fold(self, operation: int, dtype: type[Number], source: Hashable) -> Fold:
        ring = self._sources.get((source, dtype))
        if ring is None or operation in ring.folds:
            ring = self._new_ring(dtype)
            self._sources[source, dtype] = ring
        return ring.new_fold(operation)

    def new_fold_of_ones(self) -> Fold:
        return self._new_ring(np.int64, 1).new_fold(ADD)

    def new_first_words(self, fill: int = 0) -> FirstWords:
        return _FirstWords(self, self._columns.add(np.int64, fill, self._width))

    def first_words(self, words: I64, ring: KeyColumn) -> I64:
        """Return what the first row of each frame has: int64[n_rows].

        Args:
            words: int64[n_rows], read-only.
            ring: Of words so far; changed.
        """
        out = like(words)
        first_short_values(*self._opened(), words, ring.values, out)
        return out

    def _opened(self) -> tuple[U32, U8]:
        assert self._rows is not None, "a step is open"
        return self._rows.group_ids, self._phases

    def _new_ring(self, dtype: type[Number], fill: int = 0) -> _FoldedRing:
        ring = _FoldedRing(self._columns.add(dtype, fill, self._width))
        self._rings.append(ring)
        return ring

    def _part(self) -> None:
        """Give folds rings of their own if their values are not those of others any more."""
        for ring in list(self._rings):
            for operation, fold in list(ring.folds.items()):
                if fold.has_nulls and len(ring.folds) > 1:
                    del ring.folds[operation]
                    own = _FoldedRing(self._columns.copy(ring.values))
                    own.folds[operation] = fold
                    self._rings.append(own)


class _ShortFold:
    def __init__(self, dtype: np.dtype[Number]) -> None:
        self.values: Values = np.empty(0, dtype)
        self.out = self.values
        self.has_nulls = False

    def put(self, values: Values, *, has_nulls: bool) -> None:
        self.values, self.has_nulls = values, has_nulls


class _FoldedRing:
    """Values of the latest rows of each key, and the folds of them by operation."""

    def __init__(self, values: KeyColumn) -> None:
        self.values = values
        self.folds: dict[int, _ShortFold] = {}

    def new_fold(self, operation: int) -> Fold:
        fold = self.folds[operation] = _ShortFold(self.values.values.dtype)
        return fold

    def fold(self, group_ids: U32, phases: U8) -> None:
        (operation, first), *others = self.folds.items()
        for fold in self.folds.values():
            fold.out = like(fold.values)
        slots = self.values.values
        if not others:
            fold_short_frames(operation, group_ids, phases, first.values, slots, first.out)
            return
        # To find what nobody asks for takes no time beside finding the rows.
        outs = (
            self.folds[operation].out if operation in self.folds else like(first.values)
            for operation in (ADD, LEAST, GREATEST)
        )
        fold_values_thrice(group_ids, phases, first.values, slots, *outs)


class _FirstWords:
    def __init__(self, frame: ShortFrame, ring: KeyColumn) -> None:
        self._frame = frame
        self._ring = ring

    def of(self, words: I64) -> I64:
        return self._frame.first_words(words, self._ring)
