"""The least or greatest text of each group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.engine.columns import offsets_and_data, plain
from millstream.engine.state.state_columns import (
    Arrivals,
    StateColumn,
    StateSpec,
    read_only,
    resized,
    valid_flags,
)
from millstream.engine.state.text_arrays import check_size, new_offsets, text_array
from millstream.kernels.compile import U8, U32
from millstream.kernels.text_extremes import (
    NO_TEXT,
    copy_texts,
    lay_out_texts,
    pick_texts,
    put_texts,
)

__all__ = ["TextExtremeSpec"]

_NO_ROW = -1


@dataclass(frozen=True, slots=True)
class TextExtremeSpec(StateSpec):
    """The least or greatest text or binary value of each group, by its bytes.

    Attributes:
        column: Column of the values.
        takes_greatest: Whether the greatest one is kept, else the least.
        value_type: Text or binary with 32- or 64-bit offsets.
    """

    column: str
    takes_greatest: bool
    value_type: pa.DataType

    def values(self, batch: pa.RecordBatch, arrivals: Arrivals) -> pa.Array:
        return plain(batch.column(self.column))

    def make(self) -> StateColumn:
        return _TextExtremes(self)


class _TextExtremes(StateColumn):
    """Texts of groups in one arena, in no order, with what they have replaced in between.

    What nobody has any more gives up its room when there is none left, and there is twice as much
    then as is needed.
    """

    def __init__(self, spec: TextExtremeSpec) -> None:
        self._takes_greatest = spec.takes_greatest
        self._type = spec.value_type
        self._starts = np.zeros(0, np.int64)
        self._lengths = np.zeros(0, np.int64)
        self._heads = np.zeros(0, np.uint64)
        self._winners = np.zeros(0, np.int64)
        self._arena: U8 = np.empty(0, np.uint8)
        self._n_used = 0

    def add(self, values: pa.Array, group_ids: U32) -> None:
        offsets, data = offsets_and_data(values)
        changed = np.empty(len(values), np.uint32)
        n_changed, n_bytes = pick_texts(
            offsets,
            data,
            valid_flags(values),
            read_only(group_ids),
            self._takes_greatest,
            self._starts,
            self._lengths,
            self._heads,
            self._arena,
            self._winners,
            changed,
        )
        if n_changed == 0:
            return
        self._reserve(n_bytes)
        self._n_used = put_texts(
            offsets,
            data,
            changed[:n_changed],
            self._winners,
            self._starts,
            self._lengths,
            self._arena,
            self._n_used,
        )

    def merge(self, states: pa.Array, group_ids: U32) -> None:
        self.add(states, group_ids)

    def take(self, group_ids: U32 | slice) -> pa.Array:
        starts = np.ascontiguousarray(self._starts[group_ids])
        lengths = np.ascontiguousarray(self._lengths[group_ids])

        offsets = new_offsets(self._type, len(lengths))
        n_bytes = lay_out_texts(lengths, offsets)
        check_size(self._type, n_bytes)
        data = np.empty(n_bytes, np.uint8)
        copy_texts(starts, lengths, self._arena, offsets, data)
        return text_array(self._type, offsets, data, lengths != NO_TEXT)

    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        self._starts = resized(self._starts, capacity, kept)
        self._lengths = resized(self._lengths, capacity, kept, NO_TEXT)
        self._heads = resized(self._heads, capacity, kept)
        self._winners = np.full(capacity, _NO_ROW, np.int64)

    @property
    def state_bytes(self) -> int:
        words = (self._starts, self._lengths, self._heads, self._winners)
        return self._arena.nbytes + sum(part.nbytes for part in words)

    def _reserve(self, n_bytes: int) -> None:
        """Make room for more texts."""
        if self._n_used + n_bytes <= len(self._arena):
            return
        offsets = np.empty(len(self._lengths) + 1, np.int64)
        self._n_used = lay_out_texts(self._lengths, offsets)
        arena = np.empty(2 * (self._n_used + n_bytes), np.uint8)
        copy_texts(self._starts, self._lengths, self._arena, offsets, arena)
        self._starts, self._arena = offsets[:-1].copy(), arena
