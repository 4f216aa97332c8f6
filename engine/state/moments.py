"""Moments of values and of pairs of values, per group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values, plain
from millstream.engine.state.state_columns import (
    Arrivals,
    StateColumn,
    StateSpec,
    read_only,
    resized,
    valid_flags,
)
from millstream.kernels.compile import F64, U32
from millstream.kernels.moments import (
    CO_MOMENTS_WIDTH,
    MOMENTS_WIDTH,
    add_co_moments,
    add_moments,
    merge_co_moments,
    merge_moments,
)

__all__ = ["CoMomentsSpec", "MomentsSpec", "as_doubles", "moments_of"]

_Y, _X = "y", "x"


@dataclass(frozen=True, slots=True)
class MomentsSpec(StateSpec):
    """Count, mean and sum of squared distances from it, of a column of numbers."""

    column: str

    def values(self, batch: pa.RecordBatch, arrivals: Arrivals) -> pa.Array:
        return as_doubles(batch.column(self.column))

    def make(self) -> StateColumn:
        return _Moments()


@dataclass(frozen=True, slots=True)
class CoMomentsSpec(StateSpec):
    """Moments of two columns of numbers together, over the rows in which both have a value."""

    y_column: str
    x_column: str

    def values(self, batch: pa.RecordBatch, arrivals: Arrivals) -> pa.Array:
        pair = [as_doubles(batch.column(name)) for name in (self.y_column, self.x_column)]
        return pa.StructArray.from_arrays(pair, [_Y, _X])

    def make(self) -> StateColumn:
        return _CoMoments()


def moments_of(states: pa.Array) -> F64:
    """Read states: float64[n_groups, width], zeros for groups without values."""
    width = states.type.byte_width
    data = np.frombuffer(states.buffers()[1], np.float64)
    values: F64 = data.reshape(-1, width // 8)[states.offset : states.offset + len(states)]
    return values


class _MomentsColumn(StateColumn):
    """States of several doubles, as binary values of a fixed size outside."""

    def __init__(self, width: int) -> None:
        self._states = np.zeros((0, width), np.float64)

    def take(self, group_ids: U32 | slice) -> pa.Array:
        return array_from_buffers(
            self._states[group_ids], pa.binary(8 * self._states.shape[1]), None
        )

    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        self._states = resized(self._states, capacity, kept)

    @property
    def state_bytes(self) -> int:
        return self._states.nbytes


class _Moments(_MomentsColumn):
    def __init__(self) -> None:
        super().__init__(MOMENTS_WIDTH)

    def add(self, values: pa.Array, group_ids: U32) -> None:
        doubles, valid = fixed_values(values), valid_flags(values)
        add_moments(doubles, valid, read_only(group_ids), self._states)

    def merge(self, states: pa.Array, group_ids: U32) -> None:
        merge_moments(moments_of(states), read_only(group_ids), self._states)


class _CoMoments(_MomentsColumn):
    def __init__(self) -> None:
        super().__init__(CO_MOMENTS_WIDTH)

    def add(self, values: pa.Array, group_ids: U32) -> None:
        ys, xs = values.field(_Y), values.field(_X)
        valid, x_valid = valid_flags(ys), valid_flags(xs)
        if len(valid) > 0 and len(x_valid) > 0:
            valid = read_only(valid & x_valid)
        elif len(x_valid) > 0:
            valid = x_valid
        add_co_moments(
            fixed_values(ys), fixed_values(xs), valid, read_only(group_ids), self._states
        )

    def merge(self, states: pa.Array, group_ids: U32) -> None:
        merge_co_moments(moments_of(states), read_only(group_ids), self._states)


def as_doubles(array: pa.Array) -> pa.Array:
    """Convert a column of numbers to float64."""
    array = plain(array)
    # Integers beyond 53 bits are rounded, as DataFusion's own conversion does.
    return array if pa.types.is_float64(array.type) else array.cast(pa.float64(), safe=False)
