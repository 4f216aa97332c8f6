"""Rows themselves, kept for as long as frames reach them, for functions that are not folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.engine.columns import plain
from millstream.engine.state.frames import BoundedFrame
from millstream.engine.state.keyed_rows import KeyedRows
from millstream.engine.state.row_store import RowStore
from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64
from millstream.kernels.rings import (
    keep_new_rows,
    list_rows,
    look_up_first_rows,
    renumber_positions,
)

__all__ = ["FirstRows", "ListedRows", "RetainedRows", "plain_schema"]

# Up to this many rows that nobody reaches any more are left in peace.
_GARBAGE_ROWS = 1024


@dataclass(frozen=True, slots=True)
class ListedRows:
    """For each key of a step the rows that are kept and then its new ones.

    Attributes:
        values: The rows.
        keys: int64[n_listed], the index of the key among those of the step.
        rows: int64[n_listed], the index of a new row in the step, or -1.
    """

    values: pa.RecordBatch
    keys: I64
    rows: I64


class RetainedRows:
    """Columns of the rows that a bounded frame reaches.

    Args:
        frame: The frame, which is opened before and closed after each step of these rows.
        schema: The columns to keep.
    """

    def __init__(self, frame: BoundedFrame, schema: pa.Schema) -> None:
        self._frame = frame
        self._schema = plain_schema(schema)
        self._ring = frame.new_ring(np.int64)
        self._store = RowStore(self._schema)
        self._fresh: pa.RecordBatch | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes of all rows, those that nobody reaches any more included."""
        return self._store.state_bytes

    def open(self, batch: pa.RecordBatch) -> None:
        """Begin a step with rows that have at least the columns to keep."""
        self._fresh = _picked(batch, self._schema)

    def put_in_place(self, batch: pa.RecordBatch) -> None:
        """Keep other rows in place of those that the step was opened with, one for each."""
        self._fresh = _picked(batch, self._schema)

    def list(self, rows: KeyedRows) -> ListedRows:
        """List what the frames of a step see; to be called before :meth:`first_of_frames`."""
        frame = self._frame
        n_listed = rows.n_rows + int(
            np.sum(frame.counts.values[rows.by_key.groups] - frame.heads.values[rows.by_key.groups])
        )
        positions, keys, indices = np.empty((3, n_listed), np.int64)
        list_rows(
            *rows.by_key,
            frame.heads.values,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._ring.slots,
            self._store.n_rows,
            positions,
            keys,
            indices,
        )
        assert self._fresh is not None, "a step is open"
        return ListedRows(self._store.take_with(positions, self._fresh), keys, indices)

    def first_of_frames(self, rows: KeyedRows) -> pa.RecordBatch:
        """Return for each row the first row of its frame; to be called once per step."""
        positions = self.enter(rows)
        assert self._fresh is not None, "a step is open"
        return self._store.take_with(positions, self._fresh)

    def enter(self, rows: KeyedRows) -> I64:
        """Take new rows in; instead of :meth:`first_of_frames`, of which it is the first half.

        Returns:
            int64[n_rows], where the first row of each frame is.
        """
        frame = self._frame
        positions = np.empty(rows.n_rows, np.int64)
        look_up_first_rows(
            *rows.by_key,
            frame.preceding,
            frame.starts,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._ring.slots,
            self._store.n_rows,
            positions,
        )
        return positions

    def close(self, rows: KeyedRows) -> None:
        """End a step, after the frame has been closed."""
        frame, fresh = self._frame, self._fresh
        assert fresh is not None, "a step is open"
        kept = np.empty(rows.n_rows, np.int64)
        n_kept = keep_new_rows(
            *rows.by_key[:2],
            frame.heads.values,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._ring.slots,
            self._store.n_rows,
            kept,
        )
        self._fresh = None
        self._store.append(take_rows(fresh, kept[:n_kept]))
        self.compact()

    def compact(self) -> None:
        """Give up rows that nobody reaches, if they are more than the others."""
        frame = self._frame
        if self._store.n_rows <= 2 * frame.n_rows + _GARBAGE_ROWS:
            return
        positions = np.empty(frame.n_rows, np.int64)
        renumber_positions(
            frame.heads.values,
            frame.counts.values,
            frame.places.values,
            frame.capacities.values,
            self._ring.slots,
            positions,
        )
        self._store.rewrite(positions)


class FirstRows:
    """The first row of each key, kept for ever: row i of the store is that of key i.

    Args:
        schema: The columns to keep.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = plain_schema(schema)
        self._store = RowStore(self._schema)

    @property
    def state_bytes(self) -> int:
        """Bytes of all rows."""
        return self._store.state_bytes

    def first(self, rows: KeyedRows, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return for each row the first one of its key."""
        is_new = rows.by_key.groups >= rows.n_known_keys
        new_keys = rows.by_key.groups[is_new]
        fresh = _picked(batch, self._schema)
        first_rows = rows.by_key.order[rows.by_key.offsets[:-1][is_new]]
        self._store.append(take_rows(fresh, first_rows[np.argsort(new_keys)]))
        return self._store.take(rows.group_ids.astype(np.int64))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of columns without encodings, so that Arrow can take their rows."""
    return pa.schema([field.with_type(plain(pa.nulls(0, field.type)).type) for field in schema])


def _picked(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [plain(batch.column(name)) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
