"""Rows back in order, after an exchange has mixed them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.columns import array_from_buffers, fixed_values, plain
from millstream.engine.event_time import NO_WATERMARK
from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64
from millstream.planner.nodes import HIDDEN_PREFIX

__all__ = ["ARRIVAL_NUMBER", "in_order", "together", "with_arrival"]

ARRIVAL_NUMBER = HIDDEN_PREFIX + "arrival"
"""Hidden column with the number of each row in the job; present where the plan asks for it."""


def with_arrival(batch: pa.RecordBatch, n_before: int) -> pa.RecordBatch:
    """Append the hidden column, for rows before which so many have come."""
    numbers = np.arange(n_before, n_before + batch.num_rows, dtype=np.int64)
    return batch.append_column(ARRIVAL_NUMBER, array_from_buffers(numbers, pa.int64(), None))


def together(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Put the rows of a step together, of which some may not be judged as late any more."""
    longest = max(batches, key=lambda batch: batch.num_columns)
    return pa.concat_batches([_with_hidden(batch, longest.schema) for batch in batches])


def _with_hidden(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Add the hidden columns that a batch lacks, of which a watermark says that there is none."""
    if batch.num_columns == len(schema):
        return batch
    known = set(batch.schema.names)
    none = array_from_buffers(np.full(batch.num_rows, NO_WATERMARK), pa.int64(), None)
    columns = [batch.column(name) if name in known else none for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def in_order(rows: pa.RecordBatch, names: Sequence[str], times: I64 | None) -> pa.RecordBatch:
    """Order rows by time, by their numbers if they have such, and what is equal then by value.

    Args:
        rows: The rows, which are in the order of time already.
        names: Their own columns. Those of nested types say nothing of the order.
        times: int64[n_rows], ascending; None if there is no time to order by.
    """
    numbers = None
    if rows.schema.get_field_index(ARRIVAL_NUMBER) >= 0:
        numbers = fixed_values(rows.column(ARRIVAL_NUMBER))
        if _ascends(numbers, times):
            return rows
        order = np.argsort(numbers, kind="stable")
        if times is not None:
            order = order[np.argsort(times[order], kind="stable")]
        if _ascends(numbers[order], None if times is None else times[order]):
            return take_rows(rows, order)
    sorted_by = [array for array in (times, numbers) if array is not None]
    keys = [array_from_buffers(array, pa.int64(), None) for array in sorted_by]
    values = (_sortable(rows.column(name)) for name in names)
    keys += [array for array in values if array is not None]
    table = pa.RecordBatch.from_arrays(keys, [str(place) for place in range(len(keys))])
    order = pc.sort_indices(table, [(name, "ascending") for name in table.schema.names])
    return take_rows(rows, order.to_numpy())


def _ascends(numbers: I64, times: I64 | None) -> bool:
    """Say whether no two rows have the same place, and all are in theirs."""
    is_behind = numbers[1:] > numbers[:-1]
    if times is not None:
        is_behind |= times[1:] > times[:-1]
    return bool(is_behind.all())


def _sortable(array: pa.Array) -> pa.Array | None:
    """Return values of a type that Arrow sorts, equal only where the given ones are."""
    array = plain(array)
    if pa.types.is_interval(array.type):
        return array.view(pa.binary(16))
    if pa.types.is_float16(array.type):
        return array.cast(pa.float32())
    is_told = not (pa.types.is_nested(array.type) or pa.types.is_null(array.type))
    return array if is_told else None
