"""Rows taken out of columns and batches, also where Arrow takes none: of text and binary views."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.columns import array_from_buffers, has_views, plain
from millstream.kernels.compile import I64, U32, Bool

__all__ = ["filter_rows", "take", "take_rows"]


def take(column: pa.Array, indices: pa.Array) -> pa.Array:
    """Return the rows of a column at some indices.

    Args:
        column: Values of any type that Arrow takes rows of, or of one with views in it at any
            depth.
        indices: Integers, NULL for rows that are to be NULL. The others must be indices of rows:
            unchecked.
    """
    if not has_views(column.type):
        return pc.take(column, indices, boundscheck=False)
    return pc.take(plain(column), indices, boundscheck=False).cast(column.type)


def take_rows(rows: pa.RecordBatch, indices: I64 | U32) -> pa.RecordBatch:
    """Return the rows at int64[n] or uint32[n] indices, which must be there: unchecked."""
    array = array_from_buffers(indices, pa.from_numpy_dtype(indices.dtype), None)
    if not any(map(has_views, rows.schema.types)):
        return pc.take(rows, array, boundscheck=False)
    columns = [take(column, array) for column in rows.columns]
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema)


def filter_rows(rows: pa.RecordBatch, are_kept: Bool) -> pa.RecordBatch:
    """Return the rows that are marked by bool[n_rows]."""
    if not any(map(has_views, rows.schema.types)):
        return rows.filter(array_from_buffers(are_kept.view(np.uint8), pa.bool_(), None))
    return take_rows(rows, np.flatnonzero(are_kept))
