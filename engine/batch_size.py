"""How many bytes a batch holds, without asking Arrow to look at every buffer."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["BatchSizer"]


class BatchSizer:
    """Measures batches of one schema.

    Values of fixed width are counted by the row, without their bitmaps of NULLs; Arrow measures the
    other columns, which takes some microseconds each.

    Args:
        schema: Of the batches. Columns behind it do not count.
    """

    def __init__(self, schema: pa.Schema) -> None:
        bits = 0
        self._others = []
        for index, field in enumerate(schema):
            if _has_fixed_width(field.type):
                bits += field.type.bit_width
            else:
                self._others.append(index)
        self._bits_per_row = bits

    def size(self, batch: pa.RecordBatch) -> int:
        """Return the bytes of a batch, of a slice only its own."""
        n_bytes: int = (batch.num_rows * self._bits_per_row + 7) // 8
        for index in self._others:
            n_bytes += batch.column(index).nbytes
        return n_bytes


def _has_fixed_width(type_: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(type_) or pa.types.is_decimal(type_))
