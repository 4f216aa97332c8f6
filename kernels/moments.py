"""Moments of doubles per group, one value or pair of values at a time, and merged.

A state has the count and the mean, and the sum of squared distances from the mean; that of pairs
has both means, both sums of squares and the sum of products. Means move with each value, so that
large values close together lose nothing to the subtraction of larger sums.

A value that is infinite or NaN makes sums of distances NaN, and the mean what the sum of the values
is. Both do so whatever the order in which values come.

References:
    Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
"""

from __future__ import annotations

import math

from millstream.kernels.compile import F64, U8, U32, inlined_kernel, kernel

__all__ = [
    "CO_MOMENTS_WIDTH",
    "MOMENTS_WIDTH",
    "add_co_moments",
    "add_moments",
    "merge_co_moments",
    "merge_moments",
]

MOMENTS_WIDTH = 3
"""Doubles of a state of single values: count, mean, sum of squared distances."""

CO_MOMENTS_WIDTH = 6
"""Doubles of a state of pairs: count, mean of y, of x, sums of y squared, x squared, y times x."""


@inlined_kernel
def _add(state: F64, mean_at: int, squares_at: int, value: float) -> None:
    gap = value - state[mean_at]
    if math.isfinite(gap):
        state[mean_at] += gap / state[0]
        state[squares_at] += gap * (value - state[mean_at])
    else:
        state[mean_at] += value
        state[squares_at] = math.nan


@kernel
def add_moments(values: F64, valid: U8, group_ids: U32, states: F64) -> None:
    """Take values into the moments of their groups.

    Args:
        values: float64[n_rows].
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        states: float64[capacity, MOMENTS_WIDTH], updated. Zeros are a group without values.
    """
    has_nulls = valid.shape[0] > 0
    for row in range(values.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        state = states[group_ids[row]]
        state[0] += 1.0
        _add(state, 1, 2, values[row])


@kernel
def merge_moments(others: F64, group_ids: U32, states: F64) -> None:
    """Merge moments into those of groups.

    Args:
        others: float64[n_rows, MOMENTS_WIDTH].
        group_ids: uint32[n_rows], the group that each belongs to. Unchecked.
        states: float64[capacity, MOMENTS_WIDTH], updated.
    """
    for row in range(others.shape[0]):
        other, state = others[row], states[group_ids[row]]
        if other[0] == 0.0:
            continue
        n_before = state[0]
        state[0] = n_before + other[0]
        share = other[0] / state[0]
        gap = other[1] - state[1]
        if math.isfinite(gap):
            # The factors stand in an order in which those of a first value cannot overflow.
            state[2] += other[2] + gap * (n_before * share) * gap
            state[1] += gap * share
        else:
            state[2] = math.nan
            state[1] += other[1]


@kernel
def add_co_moments(ys: F64, xs: F64, valid: U8, group_ids: U32, states: F64) -> None:
    """Take pairs of values into the moments of their groups.

    Args:
        ys: float64[n_rows], the first value of each pair.
        xs: float64[n_rows], the second.
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        states: float64[capacity, CO_MOMENTS_WIDTH], updated. Zeros are a group without pairs.
    """
    has_nulls = valid.shape[0] > 0
    for row in range(ys.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        state = states[group_ids[row]]
        state[0] += 1.0
        y_gap = ys[row] - state[1]
        _add(state, 1, 3, ys[row])
        _add(state, 2, 4, xs[row])
        # Where one sum of squares is NaN, so is the sum of products.
        state[5] += y_gap * (xs[row] - state[2])
        if state[3] != state[3] or state[4] != state[4]:
            state[5] = math.nan


@kernel
def merge_co_moments(others: F64, group_ids: U32, states: F64) -> None:
    """Merge moments of pairs into those of groups.

    Args:
        others: float64[n_rows, CO_MOMENTS_WIDTH].
        group_ids: uint32[n_rows], the group that each belongs to. Unchecked.
        states: float64[capacity, CO_MOMENTS_WIDTH], updated.
    """
    for row in range(others.shape[0]):
        other, state = others[row], states[group_ids[row]]
        if other[0] == 0.0:
            continue
        n_before = state[0]
        state[0] = n_before + other[0]
        share = other[0] / state[0]
        y_gap, x_gap = other[1] - state[1], other[2] - state[2]
        if math.isfinite(y_gap) and math.isfinite(x_gap):
            state[5] += other[5] + y_gap * (n_before * share) * x_gap
        else:
            state[5] = math.nan
        if math.isfinite(y_gap):
            state[3] += other[3] + y_gap * (n_before * share) * y_gap
            state[1] += y_gap * share
        else:
            state[3] = math.nan
            state[1] += other[1]
        if math.isfinite(x_gap):
            state[4] += other[4] + x_gap * (n_before * share) * x_gap
            state[2] += x_gap * share
        else:
            state[4] = math.nan
            state[2] += other[2]
