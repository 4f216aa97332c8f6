"""The first or last value of a column that is not NULL, over all rows so far."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_column
from millstream.engine.operators.over_accumulators import Inputs
from millstream.engine.state.frames import spread_over_peers
from millstream.engine.state.keyed_rows import KeyColumns, KeyedRows
from millstream.engine.state.retained_rows import plain_schema
from millstream.engine.state.row_store import RowStore
from millstream.engine.state.state_columns import read_only
from millstream.engine.taking import take_rows
from millstream.kernels.compile import U8, U32
from millstream.kernels.picking import NO_ROW, run_picks

__all__ = ["ValidRows"]

# Up to this many values that newer ones have taken the place of are left in peace.
_GARBAGE_ROWS = 1024
_ALL_VALID: U8 = read_only(np.empty(0, np.uint8))


class ValidRows:
    """Finds for each row a value of its key, of which one is kept.

    Args:
        columns: Where columns per key are made.
        column: Of the input.
        type_: Its type.
        takes_first: Whether the first value is wanted, else the last.
        is_before: Whether the row itself does not count.
        has_peers: Whether later rows of the same time count.
    """

    def __init__(
        self,
        columns: KeyColumns,
        column: str,
        type_: pa.DataType,
        *,
        takes_first: bool,
        is_before: bool,
        has_peers: bool,
    ) -> None:
        self._column = column
        self._takes_first = takes_first
        self._is_before = is_before
        self._has_peers = has_peers
        # Where the value of each key is in the store.
        self._places = columns.add(np.int64, NO_ROW)
        self._schema = plain_schema(pa.schema([(column, type_)]))
        self._store = RowStore(self._schema)
        self._n_rows_max = _GARBAGE_ROWS
        self._result: pa.Array | None = None

    @property
    def state_bytes(self) -> int:
        return self._store.state_bytes

    def update(self, inputs: Inputs) -> None:
        """Take in a step."""
        rows, n_stored = inputs.rows, self._store.n_rows
        array, valid = inputs.column(self._column)
        picks = new_column(rows.n_rows, np.int64)
        run_picks(
            read_only(rows.group_ids),
            _ALL_VALID if valid is None else read_only(valid),
            self._takes_first,
            self._is_before,
            n_stored,
            self._places.values,
            picks,
        )
        if self._has_peers:
            spread_over_peers(rows, picks)
        fresh = pa.RecordBatch.from_arrays([array], schema=self._schema)
        seen = (picks != NO_ROW).view(np.uint8)
        self._result = self._store.take_with(np.maximum(picks, 0), fresh, seen).column(0)
        self._keep(rows.by_key.groups, fresh)

    def result(self) -> pa.Array:
        """Return the values of the step, by row."""
        assert self._result is not None, "a step is open"
        return self._result

    def close(self, rows: KeyedRows) -> None:
        """End a step."""
        self._result = None
        self.compact()

    def compact(self) -> None:
        """Give up values that newer ones have taken the place of, if they are more than these."""
        if self._store.n_rows <= self._n_rows_max:
            return
        places = self._places.values
        live = np.flatnonzero(places != NO_ROW)
        self._store.rewrite(places[live])
        places[live] = np.arange(len(live))
        self._n_rows_max = 2 * len(live) + _GARBAGE_ROWS

    def _keep(self, groups: U32, fresh: pa.RecordBatch) -> None:
        """Append the new values of keys to the store."""
        n_stored, places = self._store.n_rows, self._places.values
        changed = groups[places[groups] >= n_stored]
        self._store.append(take_rows(fresh, places[changed] - n_stored))
        places[changed] = n_stored + np.arange(len(changed))
