"""A growing table of rows addressed by position, in chunks whose sizes grow geometrically."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, empty_batch, has_views, plain
from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64, U8

__all__ = ["RowStore"]


class RowStore:
    """Arrow rows that are appended, read by position and dropped by rewriting.

    Neighbouring chunks of similar size are merged, so that n rows appended one by one are copied
    O(log n) times each and lie in O(log n) chunks.

    Args:
        schema: Schema of the rows.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        # What is read from is kept without views, which Arrow cannot take: only what comes and goes
        # is converted.
        self._views = [place for place, type_ in enumerate(schema.types) if has_views(type_)]
        self._kept_schema = _without_views(schema, self._views)
        self._chunks: list[pa.RecordBatch] = []
        self.n_rows = 0

    @property
    def state_bytes(self) -> int:
        """Bytes of all rows, those that nobody refers to any more included."""
        return sum(chunk.get_total_buffer_size() for chunk in self._chunks)

    def append(self, rows: pa.RecordBatch) -> int:
        """Append rows and return the position of the first."""
        first = self.n_rows
        if rows.num_rows == 0:
            return first
        self._chunks.append(self._kept(rows))
        self.n_rows += rows.num_rows
        while len(self._chunks) > 1 and self._chunks[-2].num_rows <= 2 * self._chunks[-1].num_rows:
            newest, older = self._chunks.pop(), self._chunks.pop()
            self._chunks.append(pa.concat_batches([older, newest]))
        return first

    def take(self, positions: I64) -> pa.RecordBatch:
        """Return the rows at int64[n] positions, in that order."""
        rows = self._take_kept(positions)
        if not self._views:
            return rows
        columns = rows.columns
        for place in self._views:
            columns[place] = columns[place].cast(self._schema.field(place).type)
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def take_with(
        self, positions: I64, fresh: pa.RecordBatch, valid: U8 | None = None
    ) -> pa.RecordBatch:
        """Take rows also of some that could be appended, and have no views.

        Args:
            positions: int64[n > 0]; those of ``fresh`` come behind the stored ones.
            fresh: More rows.
            valid: uint8[n], 0 for positions of no row, all of whose columns will be NULL.
        """
        indices = array_from_buffers(positions, pa.int64(), valid)
        if not self._chunks and valid is None:
            return take_rows(fresh, positions)
        taken = pa.Table.from_batches([*self._chunks, fresh]).take(indices)
        return taken.combine_chunks().to_batches()[0]

    def rewrite(self, positions: I64) -> None:
        """Keep only the rows at these positions, which become 0, 1, 2 and so on."""
        kept = self._take_kept(positions) if len(positions) > 0 else None
        self._chunks = [] if kept is None else [kept]
        self.n_rows = len(positions)

    def _take_kept(self, positions: I64) -> pa.RecordBatch:
        if len(self._chunks) == 1:
            return self._chunks[0].take(_indices(positions))
        table = pa.Table.from_batches(self._chunks, self._kept_schema).take(_indices(positions))
        batches = table.combine_chunks().to_batches()
        return batches[0] if batches else empty_batch(self._kept_schema)

    def _kept(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        if not self._views:
            return rows
        columns = rows.columns
        for place in self._views:
            columns[place] = plain(columns[place])
        return pa.RecordBatch.from_arrays(columns, schema=self._kept_schema)


def _without_views(schema: pa.Schema, places: Sequence[int]) -> pa.Schema:
    """Return a schema with other types at some places: those that views are undone to."""
    for place in places:
        field = schema.field(place)
        schema = schema.set(place, field.with_type(plain(pa.nulls(0, field.type)).type))
    return schema


def _indices(positions: I64) -> pa.Array:
    return array_from_buffers(np.ascontiguousarray(positions), pa.int64(), None)
