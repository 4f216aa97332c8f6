"""The watermark that each row met, as an operator sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import fixed_values
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_COLUMN
from millstream.engine.step import AtHand
from millstream.kernels.compile import I64
from millstream.planner.nodes import WatermarkBound

__all__ = ["RowWatermarks"]


class RowWatermarks:
    """Judges rows by the watermark of an operator, which is the least of its streams'.

    Args:
        bounds: Of the operator's plan node.
        at_hand: What the partition is working on: the micro-batch tells the stream of the rows.
    """

    def __init__(self, bounds: Sequence[WatermarkBound], at_hand: AtHand) -> None:
        self._bounds = tuple(bounds)
        self._at_hand = at_hand

    def of(self, batch: pa.RecordBatch) -> I64 | None:
        """Return the operator's watermark before each row, or None if no row is behind.

        The array is int64[n_rows]. A watermark of INT64_MIN stands for none.
        """
        index = batch.schema.get_field_index(WATERMARK_COLUMN)
        if index < 0:
            return None
        watermarks = fixed_values(batch.column(index))
        item = self._at_hand.item
        assert item is not None, "rows with a watermark come with their micro-batch"
        for bound in self._bounds:
            if bound.stream == item.stream:
                watermarks = _delayed(watermarks, bound.delay)
        for bound in self._bounds:
            if bound.stream != item.stream:
                # Other streams did not move while this batch came in.
                other = item.watermarks[bound.stream]
                least = NO_WATERMARK if other == NO_WATERMARK else other - bound.delay
                watermarks = np.minimum(watermarks, max(least, NO_WATERMARK))
        return watermarks


def _delayed(watermarks: I64, delay: int) -> I64:
    if delay == 0:
        return watermarks
    # Rows before the first watermark, and those near the least time, have none.
    floor = NO_WATERMARK + delay
    return np.where(watermarks < floor, NO_WATERMARK, watermarks - delay)
