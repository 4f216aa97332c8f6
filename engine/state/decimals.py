"""Sums and extremes of 128-bit decimals, per group, and averages of sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values, plain
from millstream.engine.datafusion import TransformFailed
from millstream.engine.state.state_columns import (
    Arrivals,
    StateColumn,
    StateSpec,
    read_only,
    resized,
    valid_flags,
)
from millstream.kernels.compile import U32
from millstream.kernels.decimals import (
    average_decimals,
    greatest_decimals,
    least_decimals,
    sum_decimals,
)

__all__ = ["DecimalSpec", "average_of"]

_FOLDS = {"sum": sum_decimals, "min": least_decimals, "max": greatest_decimals}


@dataclass(frozen=True, slots=True)
class DecimalSpec(StateSpec):
    """A sum or an extreme of decimals.

    Attributes:
        fold: What becomes of the values.
        column: A column of decimals with 128 bits.
        state_type: Type of the result. Sums wrap around at 128 bits and may have more digits than
            the type says.
    """

    fold: Literal["sum", "min", "max"]
    column: str
    state_type: pa.DataType

    def values(self, batch: pa.RecordBatch, arrivals: Arrivals) -> pa.Array:
        return plain(batch.column(self.column))

    def make(self) -> StateColumn:
        return _Decimals(self)


class _Decimals(StateColumn):
    def __init__(self, spec: DecimalSpec) -> None:
        self._type = spec.state_type
        self._fold = _FOLDS[spec.fold]
        self._states = np.zeros((0, 2), np.uint64)
        self._seen = np.zeros(0, np.uint8)

    def add(self, values: pa.Array, group_ids: U32) -> None:
        words = fixed_values(values).view(np.uint64)
        self._fold(words, valid_flags(values), read_only(group_ids), self._states, self._seen)

    def merge(self, states: pa.Array, group_ids: U32) -> None:
        self.add(states, group_ids)

    def take(self, group_ids: U32 | slice) -> pa.Array:
        return array_from_buffers(self._states[group_ids], self._type, self._seen[group_ids])

    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        self._states = resized(self._states, capacity, kept)
        self._seen = resized(self._seen, capacity, kept)

    @property
    def state_bytes(self) -> int:
        return self._states.nbytes + self._seen.nbytes


def average_of(sums: pa.Array, counts: pa.Array, type_: pa.DataType) -> pa.Array:
    """Divide sums of decimals by counts, rounding towards zero as DataFusion does.

    Args:
        sums: decimal128 as a :class:`DecimalSpec` gives them.
        counts: int64, 0 where a sum is NULL.
        type_: Type of the averages: decimal128 with no fewer digits after the point.

    Raises:
        TransformFailed: An average does not fit the type, or the sum does not with as many digits
            after the point.
    """
    averages = np.zeros((len(sums), 2), np.uint64)
    limit = 10**type_.precision
    failed = average_decimals(
        fixed_values(sums).view(np.uint64),
        fixed_values(counts),
        10 ** (type_.scale - sums.type.scale),
        _signed(limit),
        limit >> 64,
        averages,
    )
    if failed >= 0:
        raise TransformFailed(
            f"the average of decimals must fit {type_}, as must their sum: the sum is "
            f"{_text(fixed_values(sums)[failed], sums.type.scale)} over {counts[failed]} values"
        )
    return array_from_buffers(averages, type_, _seen(sums))


def _seen(array: pa.Array) -> np.ndarray | None:
    flags = valid_flags(array)
    return flags if len(flags) > 0 else None


def _signed(value: int) -> int:
    """Return the low 64 bits as a signed number."""
    low = value & (2**64 - 1)
    return low - 2**64 if low >= 2**63 else low


def _text(words: np.ndarray, scale: int) -> str:
    unscaled = (int(words[1]) << 64) | (int(words[0]) & (2**64 - 1))
    return f"{unscaled}e-{scale}"
