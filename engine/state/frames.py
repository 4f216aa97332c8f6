"""Frames of preceding rows per key, and folds of values over them.

A frame is opened with the rows of a step, its folds are computed, and it is closed; closing drops
the rows that no later frame reaches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from millstream.engine.state.keyed_rows import KeyColumn, KeyColumns, KeyedRows
from millstream.kernels.compile import I64
from millstream.kernels.frames import (
    close_row_frames,
    close_time_frames,
    expire_rows,
    number_rows,
    open_row_frames,
    open_time_frames,
    spread_to_peers,
)
from millstream.kernels.rings import allocate_rings, copy_rings, pack_rings
from millstream.kernels.sliding import ADD, LEAST, run, slide

__all__ = [
    "PRECEDING_MAX",
    "BoundedFrame",
    "Fold",
    "Frame",
    "Ring",
    "RowFrame",
    "TimeFrame",
    "WholeFrame",
    "spread_over_peers",
]

Number: TypeAlias = np.int64 | np.float64
Values: TypeAlias = npt.NDArray[Any]

# As many rows as no key ever has.
PRECEDING_MAX = 1 << 62
_SLOTS_LEAST = 1024
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class Fold(Protocol):
    """Folds one column of values over a frame."""

    def fold(self, rows: KeyedRows, values: Values) -> Values:
        """Fold the values in each row's frame; called once while the frame is open.

        Args:
            rows: Rows of the step.
            values: [n_rows] of the fold's type, read-only, with what changes nothing for NULLs.

        Returns:
            [n_rows].
        """


class Frame(Protocol):
    """Which rows of its key each row sees.

    Attributes:
        lengths: int64[n_rows] while open, the number of rows in each row's frame.
    """

    lengths: I64

    @property
    def n_rows(self) -> int:
        """Rows that are kept."""

    @property
    def state_bytes(self) -> int:
        """Bytes that are kept, without those of columns per key."""

    def open(self, rows: KeyedRows) -> None:
        """Begin a step."""

    def close(self, rows: KeyedRows) -> None:
        """End a step."""

    def new_fold(self, operation: int, dtype: type[Number]) -> Fold:
        """Return a fold that has seen no rows."""

    def new_fold_of_ones(self) -> Fold:
        """Return a sum of integers that has seen a one in every row before the step."""


def spread_over_peers(rows: KeyedRows, values: Values) -> None:
    """Give all rows of one key and time what the last of them has; changes ``values``."""
    if rows.has_peers:
        assert rows.times is not None, "peers have one time"
        spread_to_peers(rows.offsets, rows.order, rows.times, values)


def _identity(operation: int) -> int:
    return _INT64_MAX if operation == LEAST else 0


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
        self.lengths: I64 = np.empty(0, np.int64)

    def open(self, rows: KeyedRows) -> None:
        self.lengths = np.empty(rows.n_rows, np.int64)
        number_rows(rows.groups, rows.offsets, rows.order, self._counts.values, self.lengths)
        if self._has_peers:
            spread_over_peers(rows, self.lengths)

    def close(self, rows: KeyedRows) -> None:
        self._counts.values[rows.groups] += np.diff(rows.offsets)

    def new_fold(self, operation: int, dtype: type[Number]) -> Fold:
        totals = self._columns.add(dtype, _identity(operation))
        return _RunningFold(operation, totals, has_peers=self._has_peers)

    def new_fold_of_ones(self) -> Fold:
        totals = self._columns.add(np.int64)
        totals.values[:] = self._counts.values
        return _RunningFold(ADD, totals, has_peers=self._has_peers)


class _RunningFold:
    def __init__(self, operation: int, totals: KeyColumn, *, has_peers: bool) -> None:
        self._operation = operation
        self._totals = totals
        self._has_peers = has_peers

    def fold(self, rows: KeyedRows, values: Values) -> Values:
        out = np.empty_like(values)
        totals = self._totals.values
        run(self._operation, rows.groups, rows.offsets, rows.order, values, totals, out)
        if self._has_peers:
            spread_over_peers(rows, out)
        return out


class Ring:
    """An array of slots, a ring of them for each key.

    Attributes:
        slots: [n_slots], replaced when rings move: not to be kept.
    """

    __slots__ = ("fill", "slots")

    def __init__(self, n_slots: int, dtype: type[Number], fill: int) -> None:
        self.slots: Values = np.full(n_slots, fill, dtype)
        self.fill = fill


class BoundedFrame(ABC):
    """What frames of a bounded number of rows share: rings, which subclasses fill.

    Attributes:
        starts: int64[n_rows] while open, number of the first row in each frame, by position in the
            order of the rows.
        lengths: int64[n_rows] while open, rows in each frame, by row.
        counts: Rows of each key before the step.
        heads: Oldest row of each key that is kept.
        places: Where the ring of each key begins.
        capacities: Slots of the ring of each key.
    """

    has_peers = False

    def __init__(self, columns: KeyColumns) -> None:
        self._columns = columns
        self.counts = columns.add(np.int64)
        self.heads = columns.add(np.int64)
        self.places = columns.add(np.int64)
        self.capacities = columns.add(np.int64)
        self._rings: list[Ring] = []
        self._n_slots, self._n_slots_used = _SLOTS_LEAST, 0
        self.n_rows = 0
        self.starts: I64 = np.empty(0, np.int64)
        self.lengths: I64 = np.empty(0, np.int64)

    @property
    def state_bytes(self) -> int:
        return sum(ring.slots.nbytes for ring in self._rings)

    def new_ring(self, dtype: type[Number], fill: int = 0) -> Ring:
        """Return a ring with ``fill`` in the slots of all rows so far."""
        ring = Ring(self._n_slots, dtype, fill)
        self._rings.append(ring)
        return ring

    def new_fold(self, operation: int, dtype: type[Number]) -> Fold:
        return self._new_fold(operation, dtype, 0)

    def new_fold_of_ones(self) -> Fold:
        return self._new_fold(ADD, np.int64, 1)

    def open(self, rows: KeyedRows) -> None:
        self.starts = np.empty(rows.n_rows, np.int64)
        self.lengths = np.empty(rows.n_rows, np.int64)
        needs = np.empty(len(rows.groups), np.int64)
        self._find(rows, needs)
        self._make_room(rows, needs)

    @abstractmethod
    def close(self, rows: KeyedRows) -> None:
        """End a step."""

    @abstractmethod
    def _find(self, rows: KeyedRows, needs: I64) -> None:
        """Fill ``starts`` and ``lengths``, and write how many slots each key needs."""

    def _new_fold(self, operation: int, dtype: type[Number], fill: int) -> Fold:
        ring = self.new_ring(dtype, fill)
        backs = self._columns.add(dtype, _identity(operation))
        # With the boundary at 0 the folds are made from the values in the ring at the next row.
        return _SlidingFold(self, operation, ring, self._columns.add(np.int64), backs)

    def _make_room(self, rows: KeyedRows, needs: I64) -> None:
        n_keys = len(rows.groups)
        moved = np.empty(n_keys, np.uint32)
        before = np.empty((2, n_keys), np.int64)
        places, capacities = self.places.values, self.capacities.values
        n_moved, n_slots_used = allocate_rings(
            rows.groups,
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
        if n_slots_used > self._n_slots:
            all_before = np.stack([places, capacities])
            all_before[:, moved] = before
            moved, before = np.arange(len(places), dtype=np.uint32), all_before
            n_slots_used = pack_rings(capacities, places)
            self._n_slots = 2 * n_slots_used
        self._n_slots_used = n_slots_used
        for ring in self._rings:
            self._move(ring, moved, before)

    def _move(self, ring: Ring, moved: npt.NDArray[np.uint32], before: I64) -> None:
        source = target = ring.slots
        if len(source) != self._n_slots:
            target = ring.slots = np.full(self._n_slots, ring.fill, source.dtype)
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

    def _find(self, rows: KeyedRows, needs: I64) -> None:
        open_row_frames(
            rows.groups,
            rows.offsets,
            rows.order,
            self.preceding,
            self.counts.values,
            self.starts,
            self.lengths,
            needs,
        )

    def close(self, rows: KeyedRows) -> None:
        heads, counts = self.heads.values, self.counts.values
        n_more = close_row_frames(rows.groups, rows.offsets, self.preceding, heads, counts)
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
        assert rows.times is not None, "frames of time need times"
        open_time_frames(
            rows.groups,
            rows.offsets,
            rows.order,
            rows.times,
            self._reach,
            self.heads.values,
            self.counts.values,
            self.places.values,
            self.capacities.values,
            self._times.slots,
            self.starts,
            self.lengths,
            needs,
        )
        spread_over_peers(rows, self.lengths)

    def close(self, rows: KeyedRows) -> None:
        assert rows.times is not None, "frames of time need times"
        n_more = close_time_frames(
            rows.groups,
            rows.offsets,
            rows.order,
            rows.times,
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


class _SlidingFold:
    def __init__(
        self,
        frame: BoundedFrame,
        operation: int,
        ring: Ring,
        boundaries: KeyColumn,
        backs: KeyColumn,
    ) -> None:
        self._frame = frame
        self._operation = operation
        self._ring = ring
        self._boundaries = boundaries
        self._backs = backs

    def fold(self, rows: KeyedRows, values: Values) -> Values:
        frame = self._frame
        out = np.empty_like(values)
        slide(
            self._operation,
            values.dtype.type(self._backs.fill),
            rows.groups,
            rows.offsets,
            rows.order,
            values,
            frame.starts,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._ring.slots,
            self._boundaries.values,
            self._backs.values,
            out,
        )
        if frame.has_peers:
            spread_over_peers(rows, out)
        return out
