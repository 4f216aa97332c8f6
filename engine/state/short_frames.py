"""Frames of so few preceding rows that the values themselves are kept."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np

from millstream.engine.column_memory import like
from millstream.engine.state.frames import Fold, Number, Ring, RowFrame, Values
from millstream.engine.state.keyed_rows import KeyColumns, KeyedRows
from millstream.kernels.sliding import ADD, GREATEST, LEAST, slide_shortly

__all__ = ["SHORT_PRECEDING_MAX", "ShortFrame"]

# With more rows than this, folding all of them for each key and step costs more than it saves.
SHORT_PRECEDING_MAX = 15


class ShortFrame(RowFrame):
    """A small number of preceding rows and the current one.

    Folds of one column share a ring until its first NULL, which each of them counts as something
    else.

    Args:
        columns: Where columns per key are made.
        preceding: From 0 to ``SHORT_PRECEDING_MAX``.
    """

    def __init__(self, columns: KeyColumns, preceding: int) -> None:
        super().__init__(columns, preceding)
        # Those of different operations go through the rows together.
        self._folds: list[_Folds] = []
        self._sources: dict[Hashable, tuple[_SharedRing, _Folds]] = {}

    def new_fold(self, operation: int, dtype: type[Number], source: Hashable) -> Fold:
        known = self._sources.get((source, dtype))
        if known is not None and operation not in known[1]:
            # Only folds that are computed together can share a ring, which each step changes.
            shared, folds = known
        else:
            shared, folds = _SharedRing(self.new_ring(dtype)), self._with_room(operation)
            self._sources[source, dtype] = (shared, folds)
        fold = folds[operation] = _ShortFold(shared)
        return fold

    def new_fold_of_ones(self) -> Fold:
        fold = _ShortFold(_SharedRing(self.new_ring(np.int64, 1)))
        self._with_room(ADD)[ADD] = fold
        return fold

    def fold(self) -> None:
        for folds in self._folds:
            for fold in folds.values():
                fold.part(self)
            self._slide(folds, self.rows)
        super().fold()

    def _with_room(self, operation: int) -> _Folds:
        for folds in self._folds:
            if operation not in folds:
                return folds
        self._folds.append({})
        return self._folds[-1]

    def _slide(self, folds: _Folds, rows: KeyedRows) -> None:
        sums, leasts, greatests = (
            folds[operation].lane() if operation in folds else _NO_LANE
            for operation in (ADD, LEAST, GREATEST)
        )
        slide_shortly(
            *rows.by_key,
            self.preceding,
            self.counts.values,
            self.places.values,
            self.capacities.values,
            sums,
            leasts,
            greatests,
        )


class _SharedRing:
    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self.n_folds = 0


class _ShortFold:
    def __init__(self, shared: _SharedRing) -> None:
        shared.n_folds += 1
        self._shared = shared
        self._has_nulls = False
        self._values: Values = np.empty(0, shared.ring.slots.dtype)
        self.out = self._values

    def put(self, values: Values, *, has_nulls: bool) -> None:
        self._values = values
        self._has_nulls = has_nulls

    def part(self, frame: ShortFrame) -> None:
        """Go on with a ring of its own if its values are not those of others any more."""
        if self._has_nulls and self._shared.n_folds > 1:
            self._shared.n_folds -= 1
            self._shared = _SharedRing(frame.copy_ring(self._shared.ring))
            self._shared.n_folds = 1

    def lane(self) -> tuple[Values, Values, Values]:
        """Return what the kernel reads, keeps and writes in a new step."""
        self.out = like(self._values)
        return self._values, self._shared.ring.slots, self.out


# By operation.
_Folds: TypeAlias = dict[int, _ShortFold]


def _no_lane() -> tuple[Values, Values, Values]:
    values = np.empty(0, np.int64)
    values.setflags(write=False)
    return values, np.empty(0, np.int64), np.empty(0, np.int64)


_NO_LANE = _no_lane()
