"""Moments of values and of pairs of values over the frame of each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from millstream.engine.column_memory import new_column
from millstream.engine.state.keyed_rows import KeyColumn, KeyedRows
from millstream.engine.state.state_columns import read_only
from millstream.kernels.compile import F64, U8
from millstream.kernels.moments import run_moments, slide_moments

if TYPE_CHECKING:
    from millstream.engine.state.frames import BoundedFrame, Ring

__all__ = ["MomentsFold", "RunningMoments", "SlidingMoments"]

_NO_VALUES: F64 = np.empty(0, np.float64)
_NO_VALUES.setflags(write=False)
_ALL_VALID: U8 = np.empty(0, np.uint8)
_ALL_VALID.setflags(write=False)


class MomentsFold(Protocol):
    """Moments over a frame.

    Attributes:
        out: float64[n_rows, width], of the last step; zeros for frames without values.
    """

    out: F64

    def put(self, ys: F64, xs: F64 | None, valid: U8 | None) -> None:
        """Hand over the values of a step, before the frame folds.

        Args:
            ys: float64[n_rows], read-only: values, or the first of each pair.
            xs: float64[n_rows], read-only: the second of each pair.
            valid: uint8[n_rows], 0 for rows to leave out; None if there are none.
        """


class _Moments:
    def __init__(self, states: KeyColumn) -> None:
        self._states = states
        self._ys, self._xs, self._valid = _NO_VALUES, _NO_VALUES, _ALL_VALID
        self.out: F64 = np.empty((0, states.values.shape[1]), np.float64)

    def put(self, ys: F64, xs: F64 | None, valid: U8 | None) -> None:
        self._ys = ys
        self._xs = _NO_VALUES if xs is None else xs
        self._valid = _ALL_VALID if valid is None else read_only(valid)

    def _new_out(self) -> F64:
        n_rows, width = len(self._ys), self.out.shape[1]
        self.out = new_column(n_rows * width, np.float64).reshape(n_rows, width)
        return self.out


class RunningMoments(_Moments):
    """Moments over all rows so far."""

    def run(self, rows: KeyedRows) -> None:
        """Compute a step."""
        group_ids = read_only(rows.group_ids)
        out, states = self._new_out(), self._states.values
        run_moments(self._ys, self._xs, self._valid, group_ids, states, out)


class SlidingMoments(_Moments):
    """Moments over a bounded number of rows.

    Args:
        ring: Of the frame, with the width of the moments.
        boundaries: A column of int64 per key.
        backs: A column of moments per key.
    """

    def __init__(self, ring: Ring, boundaries: KeyColumn, backs: KeyColumn) -> None:
        super().__init__(backs)
        self._ring = ring
        self._boundaries = boundaries

    def slide(self, frame: BoundedFrame, rows: KeyedRows) -> None:
        """Compute a step, while the frame is open."""
        slide_moments(
            *rows.by_key,
            frame.preceding,
            frame.starts,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._boundaries.values,
            self._ys,
            self._xs,
            self._valid,
            self._ring.slots,
            self._states.values,
            self._new_out(),
        )
