"""Moments of doubles per group, one value or pair of values at a time, and merged.

A state has the count and the mean, and the sum of squared distances from the mean; that of pairs
has both means, both sums of squares and the sum of products. Means move with each value, so that
large values close together lose nothing to the subtraction of larger sums.

A value that is infinite or NaN makes sums of distances NaN, and the mean what the sum of the values
is. Both do so whatever the order in which values come.

Frames of preceding rows are folded as :mod:`millstream.kernels.sliding` does it, as queues of two
stacks: nothing is ever taken out of a state, so that a value leaves nothing behind when it leaves a
frame, neither an infinity nor the digits that it cost the others.

References:
    Welford, "Note on a method for calculating corrected sums of squares and products", 1962.
    Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from millstream.kernels.compile import F64, I64, U8, U32, inlined_kernel, kernel

__all__ = [
    "CO_MOMENTS_WIDTH",
    "MOMENTS_WIDTH",
    "add_co_moments",
    "add_moments",
    "merge_co_moments",
    "merge_moments",
    "run_moments",
    "slide_moments",
]

MOMENTS_WIDTH = 3
"""Doubles of a state of single values: count, mean, sum of squared distances."""

CO_MOMENTS_WIDTH = 6
"""Doubles of a state of pairs: count, mean of y, of x, sums of y squared, x squared, y times x."""

_Index: TypeAlias = int | np.int64 | np.uint32


@inlined_kernel
def _add(states: F64, group: _Index, mean_at: int, squares_at: int, value: float) -> None:
    gap = value - states[group, mean_at]
    if math.isfinite(gap):
        states[group, mean_at] += gap / states[group, 0]
        states[group, squares_at] += gap * (value - states[group, mean_at])
    else:
        states[group, mean_at] += value
        states[group, squares_at] = math.nan


@inlined_kernel
def _add_value(value: float, states: F64, group: _Index) -> None:
    states[group, 0] += 1.0
    _add(states, group, 1, 2, value)


@inlined_kernel
def _add_pair(y: float, x: float, states: F64, group: _Index) -> None:
    states[group, 0] += 1.0
    y_gap = y - states[group, 1]
    _add(states, group, 1, 3, y)
    _add(states, group, 2, 4, x)
    # Where one sum of squares is NaN, so is the sum of products.
    states[group, 5] += y_gap * (x - states[group, 2])
    if states[group, 3] != states[group, 3] or states[group, 4] != states[group, 4]:
        states[group, 5] = math.nan


@inlined_kernel
def _merge(others: F64, row: _Index, states: F64, group: _Index) -> None:
    if others[row, 0] == 0.0:
        return
    n_before = states[group, 0]
    states[group, 0] = n_before + others[row, 0]
    share = others[row, 0] / states[group, 0]
    gap = others[row, 1] - states[group, 1]
    if math.isfinite(gap):
        # The factors stand in an order in which those of a first value cannot overflow.
        states[group, 2] += others[row, 2] + gap * (n_before * share) * gap
        states[group, 1] += gap * share
    else:
        states[group, 2] = math.nan
        states[group, 1] += others[row, 1]


@inlined_kernel
def _merge_pairs(others: F64, row: _Index, states: F64, group: _Index) -> None:
    if others[row, 0] == 0.0:
        return
    n_before = states[group, 0]
    states[group, 0] = n_before + others[row, 0]
    share = others[row, 0] / states[group, 0]
    weight = n_before * share
    y_gap, x_gap = others[row, 1] - states[group, 1], others[row, 2] - states[group, 2]
    if math.isfinite(y_gap) and math.isfinite(x_gap):
        states[group, 5] += others[row, 5] + y_gap * weight * x_gap
    else:
        states[group, 5] = math.nan
    if math.isfinite(y_gap):
        states[group, 3] += others[row, 3] + y_gap * weight * y_gap
        states[group, 1] += y_gap * share
    else:
        states[group, 3] = math.nan
        states[group, 1] += others[row, 1]
    if math.isfinite(x_gap):
        states[group, 4] += others[row, 4] + x_gap * weight * x_gap
        states[group, 2] += x_gap * share
    else:
        states[group, 4] = math.nan
        states[group, 2] += others[row, 2]


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
        if not has_nulls or valid[row] != 0:
            _add_value(values[row], states, group_ids[row])


@kernel
def merge_moments(others: F64, group_ids: U32, states: F64) -> None:
    """Merge moments into those of groups.

    Args:
        others: float64[n_rows, MOMENTS_WIDTH].
        group_ids: uint32[n_rows], the group that each belongs to. Unchecked.
        states: float64[capacity, MOMENTS_WIDTH], updated.
    """
    for row in range(others.shape[0]):
        _merge(others, row, states, group_ids[row])


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
        if not has_nulls or valid[row] != 0:
            _add_pair(ys[row], xs[row], states, group_ids[row])


@kernel
def merge_co_moments(others: F64, group_ids: U32, states: F64) -> None:
    """Merge moments of pairs into those of groups.

    Args:
        others: float64[n_rows, CO_MOMENTS_WIDTH].
        group_ids: uint32[n_rows], the group that each belongs to. Unchecked.
        states: float64[capacity, CO_MOMENTS_WIDTH], updated.
    """
    for row in range(others.shape[0]):
        _merge_pairs(others, row, states, group_ids[row])


@inlined_kernel
def _copy(others: F64, row: _Index, states: F64, group: _Index) -> None:
    for place in range(states.shape[1]):
        states[group, place] = others[row, place]


@inlined_kernel
def _put(states: F64, place: _Index, mean_at: int, squares_at: int, value: float) -> None:
    states[place, mean_at] = value
    states[place, squares_at] = 0.0 if math.isfinite(value) else math.nan


@inlined_kernel
def _put_value(value: float, states: F64, place: _Index) -> None:
    states[place, 0] = 1.0
    _put(states, place, 1, 2, value)


@inlined_kernel
def _put_pair(y: float, x: float, states: F64, place: _Index) -> None:
    states[place, 0] = 1.0
    _put(states, place, 1, 3, y)
    _put(states, place, 2, 4, x)
    states[place, 5] = states[place, 3] + states[place, 4]


@inlined_kernel
def _clear(states: F64, group: _Index) -> None:
    for place in range(states.shape[1]):
        states[group, place] = 0.0


@kernel
def run_moments(ys: F64, xs: F64, valid: U8, group_ids: U32, states: F64, out: F64) -> None:
    """Give each row the moments of its group up to the row itself.

    Args:
        ys: float64[n_rows], values, or the first of each pair.
        xs: float64[n_rows], the second of each pair; empty for single values.
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        states: float64[capacity, width], updated; the width is that of values or of pairs.
        out: float64[n_rows, width], out.
    """
    has_nulls, has_pairs = valid.shape[0] > 0, xs.shape[0] > 0
    for row in range(ys.shape[0]):
        group = group_ids[row]
        if has_nulls and valid[row] == 0:
            pass
        elif has_pairs:
            _add_pair(ys[row], xs[row], states, group)
        else:
            _add_value(ys[row], states, group)
        _copy(states, group, out, row)


@kernel
def slide_moments(
    groups: U32,
    offsets: I64,
    order: U32,
    preceding: int,
    starts: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    boundaries: I64,
    ys: F64,
    xs: F64,
    valid: U8,
    ring: F64,
    backs: F64,
    out: F64,
) -> None:
    """Give each row the moments of its frame. To be called once per step, before it is closed.

    Args:
        groups: uint32[n_keys], sorted by key.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        preceding: Rows before the current one, from 0 to 2**62, or -1 if ``starts`` tells.
        starts: int64[n_rows], starts of frames, by position in ``order``; or none.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups], enough for the longest frame: unchecked.
        boundaries: int64[n_groups], row numbers, 0 for new keys.
        ys: float64[n_rows], values, or the first of each pair.
        xs: float64[n_rows], the second of each pair; empty for single values.
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        ring: float64[n_slots, width], moments from a row to the boundary, or of a row behind it;
            the width is that of values or of pairs.
        backs: float64[n_groups, width], moments of the rows behind the boundary.
        out: float64[n_rows, width], out, by row.
    """
    has_nulls, has_pairs = valid.shape[0] > 0, xs.shape[0] > 0
    for place in range(groups.shape[0]):
        group = np.int64(groups[place])
        slot, mask = places[group], capacities[group] - 1
        number = counts[group]
        for position in range(offsets[place], offsets[place + 1]):
            row = order[position]
            start = max(number - preceding, 0) if preceding >= 0 else starts[position]
            index = slot + (number & mask)
            is_null = has_nulls and valid[row] == 0
            if is_null:
                _clear(ring, index)
            elif has_pairs:
                _put_pair(ys[row], xs[row], ring, index)
            else:
                _put_value(ys[row], ring, index)
            number += 1
            if start >= boundaries[group]:
                boundaries[group] = number
                _clear(backs, group)
                for earlier in range(number - 2, start - 1, -1):
                    later, index = index, slot + (earlier & mask)
                    if has_pairs:
                        _merge_pairs(ring, later, ring, index)
                    else:
                        _merge(ring, later, ring, index)
            elif is_null:
                pass
            elif has_pairs:
                _add_pair(ys[row], xs[row], backs, group)
            else:
                _add_value(ys[row], backs, group)
            _copy(ring, slot + (start & mask), out, row)
            if has_pairs:
                _merge_pairs(backs, group, out, row)
            else:
                _merge(backs, group, out, row)
