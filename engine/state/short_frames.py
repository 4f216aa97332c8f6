"""Frames of so few preceding rows that each is folded anew, of rows as they come."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np

from millstream.engine.column_memory import like, new_column
from millstream.engine.state.frame_interfaces import FirstWords, Fold, Number, Values
from millstream.engine.state.keyed_rows import KeyColumns, KeyedRows
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.short_frames import (
    WIDTH_MAX,
    copy_short_rings,
    first_short_values,
    fold_short_frames,
    fold_values_thrice,
    pack_short_rings,
    phase_rows,
    place_short_rings,
)
from millstream.kernels.sliding import ADD, GREATEST, LEAST

__all__ = ["SHORT_PRECEDING_MAX", "ShortFrame"]

# With more rows, to fold all of them for each row takes as long as to sort rows by key.
SHORT_PRECEDING_MAX = 31

_SLOTS_LEAST = 1024
# Rings are packed, which also brings them in the order of keys, once those that have moved left
# behind more than one slot in so many that are in use.
_USED_PER_LEFT = 4
_NO_PHASES: U8 = np.empty(0, np.uint8)


class ShortFrame:
    """A small number of preceding rows and the current one.

    Each key has a ring of its latest values for each column that is folded, with room for twice as
    many at most. Folds of one column share it until its first NULL, which each of them counts as
    something else.

    Args:
        columns: Where columns per key are made.
        preceding: From 0 to ``SHORT_PRECEDING_MAX``.
    """

    def __init__(self, columns: KeyColumns, preceding: int) -> None:
        self._width = preceding + 1
        assert self._width <= WIDTH_MAX, "phases have no more bits"
        self._next_phases = columns.add(np.uint8)
        self._places = columns.add(np.int64)
        self._slots: list[_Slots] = []
        self._n_slots, self._n_slots_used, self._n_slots_left = _SLOTS_LEAST, 1, 0
        self._rings: list[_FoldedRing] = []
        self._sources: dict[Hashable, _FoldedRing] = {}
        self._rows: KeyedRows | None = None
        self._phases, self._are_full = _NO_PHASES, False
        self._lengths: I64 | None = None
        self.n_rows = 0

    @property
    def state_bytes(self) -> int:
        # The system gives no memory for slots that have never been used.
        return sum(self._n_slots_used * slots.values.itemsize for slots in self._slots)

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
        growing = np.empty(rows.n_rows, np.uint32)
        n_short, n_growing = phase_rows(
            rows.group_ids, self._width, self._next_phases.values, self._phases, growing
        )
        self._are_full = n_short == 0
        self.n_rows += int(n_short)
        if n_growing > 0:
            self._make_room(rows.group_ids, growing[:n_growing])

    def fold(self) -> None:
        opened = self._opened()
        self._part()
        for ring in self._rings:
            ring.fold(opened)

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
        return _FirstWords(self, self._new_slots(np.int64, fill))

    def first_words(self, words: I64, slots: _Slots) -> I64:
        """Return what the first row of each frame has: int64[n_rows].

        Args:
            words: int64[n_rows], read-only.
            slots: Of words so far; changed.
        """
        out = like(words)
        first_short_values(*self._opened(), words, slots.values, out)
        return out

    def _opened(self) -> _Opened:
        assert self._rows is not None, "a step is open"
        return _Opened(self._rows.group_ids, self._phases, self._width, self._places.values)

    def _new_ring(self, dtype: type[Number], fill: int = 0) -> _FoldedRing:
        ring = _FoldedRing(self._new_slots(dtype, fill))
        self._rings.append(ring)
        return ring

    def _new_slots(self, dtype: type[Number], fill: int) -> _Slots:
        slots = _Slots(np.empty(self._n_slots, dtype))
        slots.values[: self._n_slots_used] = fill
        self._slots.append(slots)
        return slots

    def _make_room(self, group_ids: U32, growing: U32) -> None:
        next_phases, places = self._next_phases.values, self._places.values
        moved, sizes = like(growing), np.empty(len(growing), np.uint8)
        before = np.empty(len(growing), np.int64)
        n_moved, n_used = place_short_rings(
            growing,
            group_ids,
            self._phases,
            self._width,
            next_phases,
            self._n_slots_used,
            places,
            moved,
            sizes,
            before,
        )
        moved, sizes, before = moved[:n_moved], sizes[:n_moved], before[:n_moved]
        self._n_slots_left += int(sizes.sum())
        is_packed = n_used > self._n_slots or _USED_PER_LEFT * self._n_slots_left > n_used
        if is_packed:
            all_sizes, all_before = like(next_phases), places.copy()
            all_before[moved] = before
            n_used = pack_short_rings(next_phases, self._width, places, all_sizes)
            all_sizes[moved] = sizes
            moved, sizes, before = np.arange(len(places), dtype=np.uint32), all_sizes, all_before
            self._n_slots, self._n_slots_left = max(self._n_slots, 2 * n_used), 0
        self._n_slots_used = n_used
        for slots in self._slots:
            source = slots.values
            if is_packed:
                slots.values = np.empty(self._n_slots, source.dtype)
            copy_short_rings(moved, sizes, before, places, source, slots.values)

    def _part(self) -> None:
        """Give folds rings of their own if their values are not those of others any more."""
        for ring in list(self._rings):
            for operation, fold in list(ring.folds.items()):
                if fold.has_nulls and len(ring.folds) > 1:
                    del ring.folds[operation]
                    own = self._new_ring(ring.slots.values.dtype.type)
                    used = slice(0, self._n_slots_used)
                    own.slots.values[used] = ring.slots.values[used]
                    own.folds[operation] = fold


class _Opened(NamedTuple):
    """What the kernels have to know of a step.

    Attributes:
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        width: Rows of a full frame.
        places: int64[n_groups], where the ring of each key begins.
    """

    group_ids: U32
    phases: U8
    width: int
    places: I64


class _Slots:
    """An array of slots, [n_slots], replaced when rings are packed: not to be kept."""

    __slots__ = ("values",)

    def __init__(self, values: Values) -> None:
        self.values = values


class _ShortFold:
    def __init__(self, dtype: np.dtype[Number]) -> None:
        self.values: Values = np.empty(0, dtype)
        self.out = self.values
        self.has_nulls = False

    def put(self, values: Values, *, has_nulls: bool) -> None:
        self.values, self.has_nulls = values, has_nulls


class _FoldedRing:
    """Values of the latest rows of each key, and the folds of them by operation."""

    def __init__(self, slots: _Slots) -> None:
        self.slots = slots
        self.folds: dict[int, _ShortFold] = {}

    def new_fold(self, operation: int) -> Fold:
        fold = self.folds[operation] = _ShortFold(self.slots.values.dtype)
        return fold

    def fold(self, opened: _Opened) -> None:
        (operation, first), *others = self.folds.items()
        for fold in self.folds.values():
            fold.out = like(fold.values)
        slots = self.slots.values
        if not others:
            fold_short_frames(operation, *opened, first.values, slots, first.out)
            return
        # To find what nobody asks for takes no time beside finding the rows.
        outs = (
            self.folds[operation].out if operation in self.folds else like(first.values)
            for operation in (ADD, LEAST, GREATEST)
        )
        fold_values_thrice(*opened, first.values, slots, *outs)


class _FirstWords:
    def __init__(self, frame: ShortFrame, slots: _Slots) -> None:
        self._frame = frame
        self._slots = slots

    def of(self, words: I64) -> I64:
        return self._frame.first_words(words, self._slots)
