"""Frames of preceding rows per key, and folds of values over them.

A frame is opened with the rows of a step, its folds are computed, and it is closed; closing drops
the rows that no later frame reaches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from millstream.engine.column_memory import like, new_column
from millstream.engine.state.frame_interfaces import FirstWords, Fold, Number, Values
from millstream.engine.state.frame_moments import MomentsFold, SlidingMoments
from millstream.engine.state.keyed_rows import KeyColumn, KeyColumns, KeyedRows
from millstream.kernels.compile import I64
from millstream.kernels.frames import (
    close_row_frames,
    close_time_frames,
    expire_rows,
    measure_frames,
    open_time_frames,
    size_row_frames,
    spread_to_peers,
)
from millstream.kernels.rings import allocate_rings, copy_rings, pack_rings
from millstream.kernels.sliding import ADD, GREATEST, LEAST, first_values, slide

__all__ = [
    "IDENTITY",
    "PRECEDING_MAX",
    "BoundedFrame",
    "Ring",
    "RowFrame",
    "TimeFrame",
    "spread_over_peers",
]

# As many rows as no key ever has.
PRECEDING_MAX = 1 << 62
_SLOTS_LEAST = 1024
# Rings are packed, which also brings them in the order of keys, once those that have moved left
# behind more than one slot in so many that are in use.
_USED_PER_LEFT = 8
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
IDENTITY = {ADD: 0, LEAST: _INT64_MAX, GREATEST: _INT64_MIN}


def spread_over_peers(rows: KeyedRows, values: Values) -> None:
    """Give all rows of one key and time what the last of them has; changes ``values``."""
    if rows.has_peers:
        spread_to_peers(*rows.by_key[1:], rows.sorted_times, values)


class Ring:
    """An array of slots, a ring of them for each key.

    Attributes:
        slots: [n_slots] or [n_slots, width], replaced when rings move: not to be kept.
    """

    __slots__ = ("fill", "slots")

    def __init__(self, slots: Values, fill: int) -> None:
        self.slots = slots
        self.fill = fill


class BoundedFrame(ABC):
    """What frames of a bounded number of rows share: rings, which subclasses fill.

    Attributes:
        preceding: Rows before the current one that a frame reaches; -1 if ``starts`` tells.
        starts: int64[n_rows] while open, number of the first row in each frame, by position in the
            order of the rows; empty if ``preceding`` tells.
        counts: Rows of each key before the step.
        heads: Oldest row of each key that is kept.
        places: Where the ring of each key begins.
        capacities: Slots of the ring of each key.
    """

    has_peers = False
    preceding = -1

    def __init__(self, columns: KeyColumns) -> None:
        self._columns = columns
        self.counts = columns.add(np.int64)
        self.heads = columns.add(np.int64)
        self.places = columns.add(np.int64)
        self.capacities = columns.add(np.int64)
        self._rings: list[Ring] = []
        self._lanes: list[_Lanes] = []
        self._moments: list[SlidingMoments] = []
        self._n_slots, self._n_slots_used, self._n_slots_left = _SLOTS_LEAST, 0, 0
        self.n_rows = 0
        self.starts: I64 = _NO_STARTS
        self._lengths: I64 | None = None
        self._rows: KeyedRows | None = None

    @property
    def state_bytes(self) -> int:
        return sum(ring.slots.nbytes for ring in self._rings)

    @property
    def rows(self) -> KeyedRows:
        """Rows of the step while open."""
        assert self._rows is not None, "a step is open"
        return self._rows

    @property
    def lengths(self) -> I64:
        if self._lengths is None:
            self._lengths = self._measured(self.rows)
        return self._lengths

    def new_ring(self, dtype: type[Number], fill: int = 0, width: int | None = None) -> Ring:
        """Return a ring with ``fill`` in the slots of all rows so far."""
        shape = (self._n_slots,) if width is None else (self._n_slots, width)
        ring = Ring(np.full(shape, fill, dtype), fill)
        self._rings.append(ring)
        return ring

    def new_fold(self, operation: int, dtype: type[Number], source: Hashable) -> Fold:
        return self._new_fold(operation, dtype, 0)

    def new_fold_of_ones(self) -> Fold:
        return self._new_fold(ADD, np.int64, 1)

    def new_moments(self, width: int) -> MomentsFold:
        columns = self._columns
        ring, backs = self.new_ring(np.float64, width=width), columns.add(np.float64, 0, width)
        moments = SlidingMoments(ring, columns.add(np.int64), backs)
        self._moments.append(moments)
        return moments

    def new_first_words(self, fill: int = 0) -> FirstWords:
        return _FirstWords(self, self.new_ring(np.int64, fill))

    def open(self, rows: KeyedRows) -> None:
        self._rows = rows
        needs = np.empty(len(rows.by_key.groups), np.int64)
        self._find(rows, needs)
        self._make_room(rows, needs)

    def fold(self) -> None:
        rows = self.rows
        for lanes in self._lanes:
            lanes.slide(self, rows)
        for moments in self._moments:
            moments.slide(self, rows)
            if self.has_peers:
                spread_over_peers(rows, moments.out)

    def close(self) -> None:
        self._drop(self.rows)
        self._rows = self._lengths = None
        self.starts = _NO_STARTS

    def _measured(self, rows: KeyedRows) -> I64:
        lengths = new_column(rows.n_rows, np.int64)
        measure_frames(
            *rows.by_key,
            self.preceding,
            self.starts,
            self.counts.values,
            lengths,
        )
        if self.has_peers:
            spread_over_peers(rows, lengths)
        return lengths

    @abstractmethod
    def _find(self, rows: KeyedRows, needs: I64) -> None:
        """Find the frames of a step, and write how many slots each key needs."""

    @abstractmethod
    def _drop(self, rows: KeyedRows) -> None:
        """Count the rows of a step in, and drop what is not reached any more."""

    def _new_fold(self, operation: int, dtype: type[Number], fill: int) -> Fold:
        ring, backs = self.new_ring(dtype, fill), self._columns.add(dtype, IDENTITY[operation])
        fold = _SlidingFold(ring, backs)
        for lanes in self._lanes:
            if lanes.has_room(operation):
                lanes.add(operation, fold)
                return fold
        # With the boundary at 0 the folds are made from the values in the ring at the next row.
        lanes = _Lanes(self._columns.add(np.int64))
        lanes.add(operation, fold)
        self._lanes.append(lanes)
        return fold

    def _make_room(self, rows: KeyedRows, needs: I64) -> None:
        n_keys = len(rows.by_key.groups)
        moved = np.empty(n_keys, np.uint32)
        before = np.empty((2, n_keys), np.int64)
        places, capacities = self.places.values, self.capacities.values
        n_moved, n_slots_used = allocate_rings(
            rows.by_key.groups,
            needs,
            places,
            capacities,
            self._n_slots_used,
            moved,
            before[0],
            before[1],
        )
        if n_moved == 0:
            return
        moved, before = moved[:n_moved], before[:, :n_moved]
        self._n_slots_left += int(before[1].sum())
        is_packed = (
            n_slots_used > self._n_slots or _USED_PER_LEFT * self._n_slots_left > n_slots_used
        )
        if is_packed:
            all_before = np.stack([places, capacities])
            all_before[:, moved] = before
            moved, before = np.arange(len(places), dtype=np.uint32), all_before
            n_slots_used = pack_rings(capacities, places)
            self._n_slots = max(self._n_slots, 2 * n_slots_used)
            self._n_slots_left = 0
        self._n_slots_used = n_slots_used
        for ring in self._rings:
            self._move(ring, moved, before, is_packed=is_packed)

    def _move(
        self, ring: Ring, moved: npt.NDArray[np.uint32], before: I64, *, is_packed: bool
    ) -> None:
        source = target = ring.slots
        if is_packed:
            shape = (self._n_slots, *source.shape[1:])
            target = ring.slots = np.full(shape, ring.fill, source.dtype)
        copy_rings(
            moved,
            self.heads.values,
            self.counts.values,
            before[0],
            before[1],
            self.places.values,
            self.capacities.values,
            source,
            target,
        )


class RowFrame(BoundedFrame):
    """A number of preceding rows and the current one.

    Args:
        columns: Where columns per key are made.
        preceding: From 0 to ``PRECEDING_MAX``.
    """

    def __init__(self, columns: KeyColumns, preceding: int) -> None:
        super().__init__(columns)
        self.preceding = preceding
        self._are_full = False

    def _find(self, rows: KeyedRows, needs: I64) -> None:
        counts = self.counts.values
        self._are_full = size_row_frames(*rows.by_key[:2], self.preceding, counts, needs)

    def _measured(self, rows: KeyedRows) -> I64:
        if self._are_full:
            lengths = new_column(rows.n_rows, np.int64)
            lengths.fill(self.preceding + 1)
            return lengths
        return super()._measured(rows)

    def _drop(self, rows: KeyedRows) -> None:
        heads, counts = self.heads.values, self.counts.values
        n_more = close_row_frames(*rows.by_key[:2], self.preceding, heads, counts)
        self.n_rows += int(n_more)


class TimeFrame(BoundedFrame):
    """Rows that are at most ``reach`` units of event time older, the current one and its peers.

    Args:
        columns: Where columns per key are made.
        reach: 0 or more.
    """

    has_peers = True

    def __init__(self, columns: KeyColumns, reach: int) -> None:
        super().__init__(columns)
        self._reach = reach
        self._times = self.new_ring(np.int64)

    def _find(self, rows: KeyedRows, needs: I64) -> None:
        self.starts = new_column(rows.n_rows, np.int64)
        open_time_frames(
            *rows.by_key[:2],
            rows.sorted_times,
            self._reach,
            self.heads.values,
            self.counts.values,
            self.places.values,
            self.capacities.values,
            self._times.slots,
            self.starts,
            needs,
        )

    def _drop(self, rows: KeyedRows) -> None:
        n_more = close_time_frames(
            *rows.by_key[:2],
            rows.sorted_times,
            self.starts,
            self.heads.values,
            self.counts.values,
            self.places.values,
            self.capacities.values,
            self._times.slots,
        )
        self.n_rows += int(n_more)

    def expire(self, watermark: int) -> None:
        """Drop what no row at or after the watermark reaches, of all keys."""
        self.n_rows -= int(
            expire_rows(
                max(watermark - self._reach, _INT64_MIN),
                self.heads.values,
                self.counts.values,
                self.places.values,
                self.capacities.values,
                self._times.slots,
            )
        )


class _FirstWords:
    def __init__(self, frame: BoundedFrame, ring: Ring) -> None:
        self._frame = frame
        self._ring = ring

    def of(self, words: I64) -> I64:
        frame, out = self._frame, like(words)
        first_values(
            *frame.rows.by_key,
            frame.preceding,
            frame.starts,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            words,
            self._ring.slots,
            out,
        )
        return out


class _SlidingFold:
    def __init__(self, ring: Ring, backs: KeyColumn) -> None:
        self._ring = ring
        self._backs = backs
        self._values: Values = np.empty(0, ring.slots.dtype)
        self.out = self._values

    def put(self, values: Values, *, has_nulls: bool) -> None:
        self._values = values

    def lane(self) -> tuple[Values, Values, Values, Values]:
        """Return what the kernel reads, keeps and writes in a new step."""
        self.out = like(self._values)
        return self._values, self._ring.slots, self._backs.values, self.out


class _Lanes:
    """Folds of different operations that go through the rows together."""

    def __init__(self, boundaries: KeyColumn) -> None:
        self._boundaries = boundaries
        self._folds: dict[int, _SlidingFold] = {}
        self._has_slid = False

    def has_room(self, operation: int) -> bool:
        """Tell whether a fold may join: it shares the boundary, so none has been set yet."""
        return not self._has_slid and operation not in self._folds

    def add(self, operation: int, fold: _SlidingFold) -> None:
        self._folds[operation] = fold

    def slide(self, frame: BoundedFrame, rows: KeyedRows) -> None:
        self._has_slid = True
        sums, leasts, greatests = (
            self._folds[operation].lane() if operation in self._folds else _NO_LANE
            for operation in (ADD, LEAST, GREATEST)
        )
        slide(
            *rows.by_key,
            frame.preceding,
            frame.starts,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._boundaries.values,
            sums,
            leasts,
            greatests,
        )
        if frame.has_peers:
            for fold in self._folds.values():
                spread_over_peers(rows, fold.out)


def _no_lane() -> tuple[Values, Values, Values, Values]:
    values = np.empty(0, np.int64)
    values.setflags(write=False)
    return values, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)


_NO_LANE = _no_lane()
_NO_STARTS: I64 = np.empty(0, np.int64)
