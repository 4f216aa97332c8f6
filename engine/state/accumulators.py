"""Accumulators: the columns of an aggregate's state, arrays indexed by group id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.kernels.aggregation import IDENTITY, Opcode, ValueKind, accumulate
from millstream.kernels.compile import I64, U8, U32

__all__ = ["AccumulatorSpec", "Accumulators"]

_KINDS: dict[pa.DataType, ValueKind] = {
    pa.int8(): ValueKind.I8,
    pa.int16(): ValueKind.I16,
    pa.int32(): ValueKind.I32,
    pa.int64(): ValueKind.I64,
    pa.uint8(): ValueKind.U8,
    pa.uint16(): ValueKind.U16,
    pa.uint32(): ValueKind.U32,
    pa.uint64(): ValueKind.U64,
    pa.float32(): ValueKind.F32,
    pa.float64(): ValueKind.F64,
    pa.date32(): ValueKind.I32,
    pa.time32("s"): ValueKind.I32,
    pa.time32("ms"): ValueKind.I32,
}
_STATE_DTYPES = {pa.int64(): np.int64, pa.uint64(): np.uint64, pa.float64(): np.float64}
_CAPACITY_LEAST = 64
# Columns of one row of an accumulate program.
_VALUE, _KIND, _VALIDITY, _BIT_OFFSET = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class AccumulatorSpec:
    """One running value per group.

    Attributes:
        opcode: What a row does to it.
        merge_opcode: What a partial value of the same group does to it.
        column: Input column that is accumulated, or None to count rows.
        state_type: int64, uint64 or float64.
        can_be_null: Whether a group without a value is NULL.
    """

    opcode: Opcode
    merge_opcode: Opcode
    column: str | None
    state_type: pa.DataType
    can_be_null: bool


def value_kind(type_: pa.DataType) -> ValueKind:
    """Return how a kernel reads the values of an Arrow type of at most 64 bits."""
    kind = _KINDS.get(type_)
    if kind is not None:
        return kind
    is_word = type_.bit_width == 64 and (pa.types.is_temporal(type_) or pa.types.is_duration(type_))
    assert is_word, f"no kernel reads values of type {type_}"
    return ValueKind.I64


class Accumulators:
    """State arrays for a list of accumulators, grown together.

    Args:
        specs: The accumulators.
        merges: Whether rows are partial values of the accumulators themselves, in the order of
            ``specs``.
    """

    def __init__(self, specs: Sequence[AccumulatorSpec], *, merges: bool) -> None:
        self.specs = tuple(specs)
        self._program = np.zeros((len(specs), 8), np.int64)
        for index, spec in enumerate(specs):
            self._program[index, 0] = spec.merge_opcode if merges else spec.opcode
        self._merges = merges
        self._capacity = 0
        self._values: list[np.ndarray] = []
        self._seen: list[U8 | None] = []
        self._allocate(_CAPACITY_LEAST)

    def update(self, arrays: Sequence[pa.Array | None], group_ids: U32, n_groups: int) -> None:
        """Add one value per row to each accumulator.

        Args:
            arrays: Per accumulator the values of the batch, or None to count rows. Same length as
                ``group_ids``.
            group_ids: uint32[n_rows], each below ``n_groups``.
            n_groups: Number of groups that exist now.
        """
        if n_groups > self._capacity:
            self._grow(n_groups)
        if not self.specs:
            return
        program = self._program
        for index, array in enumerate(arrays):
            _point_at(program[index], array)
        accumulate(program, group_ids, 0, len(group_ids))

    def merge(self, sources: U32, targets: U32) -> None:
        """Add the states of groups, which keep them, to those of other groups.

        Args:
            sources: uint32[n], groups that have a state already, none of which is in ``targets``.
            targets: uint32[n], groups that have a state already.
        """
        if not self.specs:
            return
        program = self._program.copy()
        program[:, 0] = [spec.merge_opcode for spec in self.specs]
        columns = self.columns(sources)
        for row, column in zip(program, columns, strict=True):
            _point_at(row, column)
        accumulate(program, targets, 0, len(targets))

    def columns(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the state of some groups as Arrow arrays; a slice is not copied."""
        columns = []
        for spec, values, seen in zip(self.specs, self._values, self._seen, strict=True):
            taken_seen = None if seen is None else seen[group_ids]
            columns.append(array_from_buffers(values[group_ids], spec.state_type, taken_seen))
        return columns

    def retain(self, group_ids: U32) -> None:
        """Keep only these groups, renumbered from 0 in this order, in arrays of their own."""
        old_values, old_seen = self._values, self._seen
        self._allocate(max(_CAPACITY_LEAST, 2 * len(group_ids)))
        n_kept = len(group_ids)
        for values, old in zip(self._values, old_values, strict=True):
            np.take(old, group_ids, out=values[:n_kept])
        for seen, old_flags in zip(self._seen, old_seen, strict=True):
            if seen is not None and old_flags is not None:
                np.take(old_flags, group_ids, out=seen[:n_kept])

    @property
    def state_bytes(self) -> int:
        """Bytes of all state arrays."""
        flags = sum(seen.nbytes for seen in self._seen if seen is not None)
        return flags + sum(values.nbytes for values in self._values)

    def _grow(self, n_groups: int) -> None:
        n_old, old_values, old_seen = self._capacity, self._values, self._seen
        self._allocate(max(2 * n_old, n_groups))
        for values, old in zip(self._values, old_values, strict=True):
            values[:n_old] = old
        for seen, old_flags in zip(self._seen, old_seen, strict=True):
            if seen is not None and old_flags is not None:
                seen[:n_old] = old_flags

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        self._values, self._seen = [], []
        for index, spec in enumerate(self.specs):
            opcode = spec.merge_opcode if self._merges else spec.opcode
            values = np.full(capacity, IDENTITY[opcode], _STATE_DTYPES[spec.state_type])
            seen = np.zeros(capacity, np.uint8) if spec.can_be_null else None
            self._values.append(values)
            self._seen.append(seen)
            self._program[index, 5] = values.ctypes.data
            self._program[index, 6] = 0 if seen is None else seen.ctypes.data


def _point_at(row: I64, array: pa.Array | None) -> None:
    if array is None:
        row[_VALUE] = row[_VALIDITY] = 0
        return
    validity, values = array.buffers()[:2]
    offset = array.offset
    has_nulls = validity is not None and array.null_count > 0
    row[_VALIDITY] = validity.address if has_nulls else 0
    row[_BIT_OFFSET] = offset
    type_ = array.type
    if values is None or type_.num_buffers > 2 or not _is_word(type_):
        # Only COUNT accepts such a column, and it looks at validity alone; without NULLs it counts
        # rows.
        row[_VALUE] = 0
        return
    row[_KIND] = value_kind(type_)
    row[_VALUE] = values.address + offset * (type_.bit_width // 8)


def _is_word(type_: pa.DataType) -> bool:
    return (
        pa.types.is_primitive(type_)
        and type_.bit_width in (8, 16, 32, 64)
        and type_ != pa.float16()
    )
