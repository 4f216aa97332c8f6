"""Sums and extremes of decimals over all rows so far."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_column
from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.operators.over_accumulators import Inputs
from millstream.engine.state.frames import spread_over_peers
from millstream.engine.state.keyed_rows import KeyColumns
from millstream.engine.state.state_columns import read_only, valid_flags
from millstream.kernels.compile import U8, U64
from millstream.kernels.decimals import ADD, GREATEST, LEAST, run_decimals

__all__ = ["RunningDecimals"]

_OPERATIONS = {"sum": ADD, "min": LEAST, "max": GREATEST}


class RunningDecimals:
    """Folds a column of decimals with 128 bits; sums wrap around at these.

    Args:
        columns: Where columns per key are made.
        column: Of the input.
        fold: What becomes of the values.
        has_peers: Whether later rows of the same time belong to a frame.
    """

    def __init__(
        self,
        columns: KeyColumns,
        column: str,
        fold: Literal["sum", "min", "max"],
        *,
        has_peers: bool,
    ) -> None:
        self._column = column
        self._operation = _OPERATIONS[fold]
        self._has_peers = has_peers
        self._states = columns.add(np.uint64, width=2)
        self._seen = columns.add(np.uint8)
        self.values: U64 = np.empty((0, 2), np.uint64)
        self._out_seen: U8 = np.empty(0, np.uint8)

    def update(self, inputs: Inputs) -> None:
        array, _ = inputs.column(self._column)
        rows = inputs.rows
        self.values = new_column(2 * rows.n_rows, np.uint64).reshape(rows.n_rows, 2)
        self._out_seen = np.empty(rows.n_rows, np.uint8)
        run_decimals(
            self._operation,
            fixed_values(array).view(np.uint64),
            valid_flags(array),
            read_only(rows.group_ids),
            self._states.values,
            self._seen.values,
            self.values,
            self._out_seen,
        )
        if self._has_peers:
            spread_over_peers(rows, self.values)
            spread_over_peers(rows, self._out_seen)

    def finish(self) -> None:
        """Do nothing: all rows so far have no frame to wait for."""

    def array(self, type_: pa.DataType) -> pa.Array:
        """Return the results of the step as decimals with 128 bits of a type."""
        return array_from_buffers(self.values, type_, self._out_seen)
