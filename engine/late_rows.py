"""The side output for late rows: each as it was pushed, with the window that it missed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.sinks import Sink
from millstream.engine.step import AtHand
from millstream.engine.taking import take_rows
from millstream.errors import SchemaError
from millstream.kernels.compile import I64
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import HIDDEN_PREFIX

__all__ = ["ROW_COLUMN", "LateRows", "late_schema", "with_row_numbers"]

# Hidden column with the index of each row in its micro-batch; present where late rows are wanted.
ROW_COLUMN = HIDDEN_PREFIX + "row"
_COLUMNS = ("window_start", "window_end", "watermark")


def with_row_numbers(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Append the hidden column with row numbers."""
    numbers = array_from_buffers(np.arange(batch.num_rows), pa.int64(), None)
    return batch.append_column(ROW_COLUMN, numbers)


def late_schema(stream: StreamDefinition) -> pa.Schema:
    """Return the schema of a stream's late rows.

    Raises:
        SchemaError: If the stream has a column whose name is needed.
    """
    assert stream.event_time is not None, "only a stream with event time has late rows"
    schema = stream.schema
    type_ = schema.field(stream.event_time).type
    for name in _COLUMNS:
        if name in schema.names:
            raise SchemaError(
                f"late rows get a column {name!r}, which stream {stream.name!r} has already"
            )
        schema = schema.append(pa.field(name, type_))
    return schema


class LateRows:
    """Where one partition puts late rows.

    Args:
        sinks: Per stream its sink, opened and closed by the partition.
        streams: Definitions of these streams.
        at_hand: What the partition is working on.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        streams: Mapping[str, StreamDefinition],
        at_hand: AtHand,
    ) -> None:
        self._sinks = dict(sinks)
        self._schemas = {name: late_schema(streams[name]) for name in sinks}
        self._n_columns = {name: len(streams[name].schema) for name in sinks}
        self._at_hand = at_hand

    def write(
        self,
        batch: pa.RecordBatch,
        rows: I64,
        starts: I64 | None,
        ends: I64 | None,
        watermarks: I64,
    ) -> None:
        """Write late rows.

        Args:
            batch: Batch that an operator was given.
            rows: int64[n_late] indices of rows in it; a row may occur once per window that it
                missed.
            starts: int64[n_late] start of the window, or None where there are no windows.
            ends: int64[n_late] end of the window, or None.
            watermarks: int64[n_late] watermark that the row met.
        """
        item = self._at_hand.item
        if item is None or item.stream not in self._sinks or len(rows) == 0:
            return
        index = batch.schema.get_field_index(ROW_COLUMN)
        assert index >= 0, "rows that can be late carry their number"
        assert item.batch is not None, "rows that can be late carry their number"
        numbers = fixed_values(batch.column(index))[rows]
        schema = self._schemas[item.stream]
        columns = take_rows(item.batch, numbers).columns[: self._n_columns[item.stream]]
        for field, values in zip(list(schema)[-3:], (starts, ends, watermarks), strict=True):
            columns.append(_times(values, field.type, len(rows)))
        self._sinks[item.stream].write(pa.RecordBatch.from_arrays(columns, schema=schema))

    def close(self) -> None:
        """Close the sinks: the job has finished."""
        for sink in self._sinks.values():
            sink.close()

    def abort(self) -> None:
        """Give up: the job has failed or was cancelled."""
        for sink in self._sinks.values():
            sink.abort()


def _times(values: I64 | None, type_: pa.DataType, n_rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(n_rows, type_)
    storage = pa.int32() if type_ == pa.date32() else pa.int64()
    array = array_from_buffers(np.ascontiguousarray(values), pa.int64(), None).cast(storage)
    return array.view(type_) if type_.bit_width == storage.bit_width else array.cast(type_)
