"""Text and binary values, each kept once and known by a number."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import pyarrow as pa

from millstream.engine.columns import offsets_and_data, validity
from millstream.engine.state.rooms import WordRoom
from millstream.engine.state.text_arrays import check_size, new_offsets, text_array
from millstream.kernels.compile import I64, U64
from millstream.kernels.interning import (
    copy_strings,
    intern_strings,
    rebuild_string_slots,
    string_lengths,
)

__all__ = ["StringTable"]

Values = TypeVar("Values", I64, U64)

_CAPACITY_LEAST = 64
_ARENA_BYTES_LEAST = 1024
# More slots make probes shorter, as long as the index stays in the cache.
_SLOTS_PER_STRING, _SLOTS_PER_STRING_IF_FEW = 4, 8
_FEW = 1 << 12
# Data is read word by word, so there has to be one.
_DATA_BYTES_LEAST = 8
_NO_NULLS = np.empty(0, np.uint8)
_NO_NULLS.setflags(write=False)


class StringTable:
    """Numbers values from 0 in the order in which they are first seen. NULL is -1."""

    def __init__(self) -> None:
        self.n_strings = 0
        self._offsets = np.zeros(_CAPACITY_LEAST + 1, np.int64)
        self._arena = np.zeros(_ARENA_BYTES_LEAST, np.uint8)
        self._words = np.zeros(_CAPACITY_LEAST + 1, np.uint64)
        self._slots = np.zeros(_SLOTS_PER_STRING_IF_FEW * _CAPACITY_LEAST, np.uint32)

    @property
    def state_bytes(self) -> int:
        """Bytes of all memory that the table holds."""
        index = self._words.nbytes + self._slots.nbytes
        return self._offsets.nbytes + self._arena.nbytes + index

    def intern(self, array: pa.Array, room: WordRoom | None = None) -> I64:
        """Number values; new ones get the next ids.

        Args:
            array: Text or binary, with 32- or 64-bit offsets, or values of a fixed size in bytes.
            room: Where the numbers may lie.

        Returns:
            int64[n_rows].
        """
        offsets, data = offsets_and_data(array)
        if len(data) < _DATA_BYTES_LEAST:
            data = np.concatenate([data, np.zeros(_DATA_BYTES_LEAST, np.uint8)])
            data.setflags(write=False)
        bitmap, bit_offset = validity(array)
        ids = np.empty(len(array), np.int64) if room is None else room.of(len(array))
        row = 0
        while True:
            row, self.n_strings = intern_strings(
                offsets,
                data,
                _NO_NULLS if bitmap is None else bitmap,
                bit_offset,
                row,
                self._slots,
                self._words,
                self._offsets,
                self._arena,
                self.n_strings,
                ids,
            )
            if row == len(ids):
                return ids
            self._grow(int(offsets[row + 1]) - int(offsets[row]))

    def take(self, ids: I64, type_: pa.DataType) -> pa.Array:
        """Return the values of ids.

        Args:
            ids: int64[n], -1 for NULL.
            type_: Text or binary with 32- or 64-bit offsets.

        Raises:
            SchemaError: The values are too long together for 32-bit offsets.
        """
        offsets = new_offsets(type_, len(ids))
        ids = _read_only(ids)
        n_bytes = string_lengths(ids, self._offsets, offsets)
        check_size(type_, n_bytes)
        data = np.empty(n_bytes, np.uint8)
        copy_strings(ids, self._offsets, self._arena, offsets, data)
        return text_array(type_, offsets, data, ids >= 0)

    def retain(self, ids: I64) -> I64:
        """Forget all other values, if they are at least half of all values.

        Args:
            ids: int64[n], any number of times each, -1 for NULL.

        Returns:
            int64[n], the numbers that the same values have from now on.
        """
        # Repeats only make this estimate of what is still in use too high, so that a table is
        # rewritten later than it could be, but its size stays within twice the number of ids.
        if 2 * len(ids) > self.n_strings or self.n_strings <= _CAPACITY_LEAST:
            return ids
        used = np.unique(ids[ids >= 0])
        # One more than there are, so that -1, the last of them, stays -1.
        numbers = np.full(self.n_strings + 1, -1, np.int64)
        numbers[used] = np.arange(len(used))
        self._keep(used)
        renumbered: I64 = numbers[ids]
        return renumbered

    def _grow(self, n_bytes: int) -> None:
        """Make room for one more value of this size."""
        capacity = len(self._offsets) - 1
        if self.n_strings == capacity:
            self._offsets = _extended(self._offsets, 2 * capacity + 1)
            self._words = _extended(self._words, 2 * capacity + 1)
            self._index(2 * capacity)
        n_bytes_used = int(self._offsets[self.n_strings])
        if n_bytes_used + n_bytes > len(self._arena):
            arena = np.empty(2 * len(self._arena) + n_bytes, np.uint8)
            arena[:n_bytes_used] = self._arena[:n_bytes_used]
            self._arena = arena

    def _keep(self, ids: I64) -> None:
        offsets_before, arena_before, words_before = self._offsets, self._arena, self._words
        self.n_strings = len(ids)
        capacity = max(_CAPACITY_LEAST, 1 << self.n_strings.bit_length())
        ids = _read_only(ids)
        self._offsets = np.zeros(capacity + 1, np.int64)
        n_bytes = string_lengths(ids, offsets_before, self._offsets)
        self._arena = np.empty(max(_ARENA_BYTES_LEAST, 2 * n_bytes), np.uint8)
        copy_strings(ids, offsets_before, arena_before, self._offsets, self._arena)
        self._words = np.zeros(capacity + 1, np.uint64)
        self._words[1 : self.n_strings + 1] = words_before[ids + 1]
        self._index(capacity)

    def _index(self, capacity: int) -> None:
        slots_per_string = _SLOTS_PER_STRING_IF_FEW if capacity <= _FEW else _SLOTS_PER_STRING
        self._slots = np.empty(slots_per_string * capacity, np.uint32)
        rebuild_string_slots(self._words, self.n_strings, self._slots)


def _read_only(values: I64) -> I64:
    # Kernels are compiled once more for arguments that may be written to.
    view = values.view()
    view.setflags(write=False)
    return view


def _extended(values: Values, length: int) -> Values:
    new = np.zeros(length, values.dtype)
    new[: len(values)] = values
    return new
