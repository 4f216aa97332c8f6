"""Statistics over the frames of window functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millstream.engine.columns import fixed_values
from millstream.engine.operators.over_accumulators import Inputs
from millstream.engine.state.frame_interfaces import MomentsFrame
from millstream.engine.state.moments import as_doubles
from millstream.kernels.compile import F64
from millstream.kernels.moments import CO_MOMENTS_WIDTH, MOMENTS_WIDTH

__all__ = ["FrameMoments"]


class FrameMoments:
    """Moments of a column, or of the rows in which both columns of a pair have a value.

    Args:
        frame: Which rows each row sees.
        columns: One column of numbers, or two: y and x.

    Attributes:
        values: float64[n_rows, width] of the last step.
    """

    def __init__(self, frame: MomentsFrame, columns: Sequence[str]) -> None:
        self._columns = columns
        width = MOMENTS_WIDTH if len(columns) == 1 else CO_MOMENTS_WIDTH
        self._moments = frame.new_moments(width)
        self.values: F64 = np.empty((0, width), np.float64)

    def update(self, inputs: Inputs) -> None:
        doubles, valid = [], None
        for name in self._columns:
            array, flags = inputs.column(name)
            doubles.append(fixed_values(as_doubles(array)))
            if flags is not None:
                valid = flags if valid is None else valid & flags
        self._moments.put(doubles[0], doubles[1] if len(doubles) > 1 else None, valid)

    def finish(self) -> None:
        self.values = self._moments.out
