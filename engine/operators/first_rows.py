"""Which rows of windows can be among the first ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import fixed_values
from millstream.engine.state.state_columns import valid_flags
from millstream.engine.taking import filter_rows
from millstream.kernels.compile import I64, Bool
from millstream.planner.nodes import PlaceOrder

__all__ = ["first_of_windows"]


def first_of_windows(
    chunks: Sequence[pa.RecordBatch], ends: Sequence[I64], order: PlaceOrder, n_rows: int
) -> list[pa.RecordBatch]:
    """Leave out rows that so many others of their window are better than.

    What is left is more than the first rows: all that are as good as the last of them, and those
    without a value, wherever these may come.

    Args:
        chunks: Rows of windows.
        ends: Per chunk int64[n_rows], the end of each row's window.
        order: What tells better rows.
        n_rows: How many rows of a window are the first ones.
    """
    columns = [_values_of(chunk.column(order.column)) for chunk in chunks]
    kept = [~has_value for _, has_value in columns]
    for window in sorted(set().union(*map(_distinct, ends))):
        within = [part == window for part in ends]
        values = np.concatenate(
            [
                column[has_value & is_in]
                for (column, has_value), is_in in zip(columns, within, strict=True)
            ]
        )
        place = len(values) - n_rows if order.descending else n_rows - 1
        is_limited = len(values) > n_rows
        last = np.partition(values, place)[place] if is_limited else None
        for keep, (column, _), is_in in zip(kept, columns, within, strict=True):
            if last is None:
                keep |= is_in
            else:
                keep |= is_in & (column >= last if order.descending else column <= last)
    return [
        chunk if keep.all() else filter_rows(chunk, keep)
        for chunk, keep in zip(chunks, kept, strict=True)
        if keep.any()
    ]


def _distinct(ends: I64) -> set[int]:
    """Return the windows of some rows, of which there is mostly one."""
    if ends.min() == ends.max():
        return {int(ends[0])}
    return set(np.unique(ends).tolist())


def _values_of(array: pa.Array) -> tuple[np.ndarray, Bool]:
    """Return values as they lie, and which of them are neither NULL nor NaN."""
    values = fixed_values(array)
    flags = valid_flags(array)
    has_value = flags.view(np.bool_).copy() if len(flags) > 0 else np.ones(len(values), np.bool_)
    if values.dtype.kind == "f":
        has_value &= ~np.isnan(values)
    return values, has_value
