"""How many bytes a batch holds, without asking Arrow to look at every buffer."""

from __future__ import annotations

import struct

import pyarrow as pa

__all__ = ["BatchSizer"]

_OFFSETS_32, _OFFSETS_64 = struct.Struct("<i"), struct.Struct("<q")


class BatchSizer:
    """Measures batches of one schema.

    Values of fixed width are counted by the row, text and binary by their offsets, both without
    their bitmaps of NULLs; Arrow measures the other columns, which takes some microseconds each.

    Args:
        schema: Of the batches. Columns behind it do not count.
    """

    def __init__(self, schema: pa.Schema) -> None:
        bits = 0
        self._texts: list[tuple[int, struct.Struct]] = []
        self._others: list[int] = []
        for index, field in enumerate(schema):
            if _has_fixed_width(field.type):
                bits += field.type.bit_width
                continue
            offsets = _offsets_of(field.type)
            if offsets is None:
                self._others.append(index)
            else:
                bits += 8 * offsets.size
                self._texts.append((index, offsets))
        self._bits_per_row = bits

    def size(self, batch: pa.RecordBatch) -> int:
        """Return the bytes of a batch, of a slice only its own."""
        n_bytes: int = (batch.num_rows * self._bits_per_row + 7) // 8
        if batch.num_rows > 0:
            for index, offsets in self._texts:
                n_bytes += _text_bytes(batch.column(index), offsets)
        for index in self._others:
            n_bytes += batch.column(index).nbytes
        return n_bytes


def _text_bytes(array: pa.Array, offsets: struct.Struct) -> int:
    buffer, place = array.buffers()[1], array.offset * offsets.size
    (first,) = offsets.unpack_from(buffer, place)
    (last,) = offsets.unpack_from(buffer, place + len(array) * offsets.size)
    return int(last - first)


def _offsets_of(type_: pa.DataType) -> struct.Struct | None:
    if pa.types.is_string(type_) or pa.types.is_binary(type_):
        return _OFFSETS_32
    is_large = pa.types.is_large_string(type_) or pa.types.is_large_binary(type_)
    return _OFFSETS_64 if is_large else None


def _has_fixed_width(type_: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(type_) or pa.types.is_decimal(type_))
