"""Moments over frames, step by step, against moments of the rows of each frame alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.frames import close_row_frames
from millstream.kernels.moments import (
    CO_MOMENTS_WIDTH,
    MOMENTS_WIDTH,
    add_co_moments,
    add_moments,
    run_moments,
    slide_moments,
)
from tests.kernels.rows_of_keys import CAPACITY, N_KEYS, Array, RowsOfKeys, locked, long, steps_of

numbers = st.integers(-9, 9).map(float) | st.sampled_from([1e8 + 0.5, 1e8 - 0.25])
lost_digits = st.sampled_from([1e16, -1e140, math.inf, -math.inf, math.nan])
maybe = st.none() | numbers | lost_digits
Pair = tuple[float | None, float | None]


def moments_of(pairs: list[Pair], width: int) -> Array:
    """Moments of all values of a frame, as a group of their own has them."""
    kept = [(y, 0.0 if x is None else x) for y, x in pairs if y is not None and x is not None]
    if width == MOMENTS_WIDTH:
        kept = [(y, 0.0) for y, _ in pairs if y is not None]
    state = np.zeros((1, width))
    ys, xs = (locked([pair[side] for pair in kept], np.float64) for side in (0, 1))
    ids, valid = locked([0] * len(kept), np.uint32), locked([], np.uint8)
    if width == MOMENTS_WIDTH:
        add_moments(ys, valid, ids, state)
    else:
        add_co_moments(ys, xs, valid, ids, state)
    return state[0]


def columns_of(pairs: list[Pair], width: int) -> tuple[Array, Array, Array]:
    """Both values of each pair, and which rows have them."""
    has_pairs = width == CO_MOMENTS_WIDTH
    valid = [y is not None and (x is not None or not has_pairs) for y, x in pairs]
    ys, xs = (locked([pair[side] or 0.0 for pair in pairs], np.float64) for side in (0, 1))
    return ys, xs if has_pairs else xs[:0], locked([] if all(valid) else valid, np.uint8)


def assert_close(got: Array, pairs: list[Pair], width: int) -> None:
    want = moments_of(pairs, width)
    finite = [v for pair in pairs for v in pair if v is not None and math.isfinite(v)]
    scale = max((abs(value) for value in finite), default=0.0) or 1.0
    # Means and sums of squares are exact to the digits of the largest value in the frame.
    powers = [0, 1, 2] if width == MOMENTS_WIDTH else [0, 1, 1, 2, 2, 2]
    for value, expected, power in zip(got.tolist(), want.tolist(), powers, strict=True):
        if math.isfinite(expected):
            error = 1e-13 * len(pairs) * scale**power if power else 0.0
            assert value == pytest.approx(expected, rel=1e-9, abs=error)
        else:
            assert value == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("width", [MOMENTS_WIDTH, CO_MOMENTS_WIDTH])
@given(steps_of(st.tuples(maybe, maybe)), st.integers(0, 9), st.booleans())
def test_slide_leaves_nothing_of_values_that_left(
    width: int, steps: list[list[tuple[int, Any]]], preceding: int, tells_starts: bool
) -> None:
    state, boundaries = RowsOfKeys(), long()
    ring, backs = np.full((N_KEYS * CAPACITY, width), math.nan), np.zeros((N_KEYS, width))
    seen: dict[int, list[Pair]] = {}
    for step in steps:
        state.sort([key for key, _ in step])
        state.open(preceding)
        told = (-1, state.starts) if tells_starts else (preceding, long(0))
        out = np.full((len(step), width), math.nan)
        columns = columns_of([pair for _, pair in step], width)
        slide_moments(*state.rows, *told, *state.rings, boundaries, *columns, ring, backs, out)
        close_row_frames(state.groups, state.offsets, preceding, state.heads, state.counts)
        for row, (key, pair) in enumerate(step):
            seen.setdefault(key, []).append(pair)
            assert_close(out[row], seen[key][-preceding - 1 :], width)


@pytest.mark.parametrize("width", [MOMENTS_WIDTH, CO_MOMENTS_WIDTH])
@given(steps_of(st.tuples(st.none() | numbers, st.none() | numbers)))
def test_run_has_the_moments_of_all_rows_so_far(
    width: int, steps: list[list[tuple[int, Any]]]
) -> None:
    states = np.zeros((N_KEYS, width))
    seen: dict[int, list[Pair]] = {}
    for step in steps:
        out = np.full((len(step), width), math.nan)
        columns = columns_of([pair for _, pair in step], width)
        run_moments(*columns, locked([key for key, _ in step], np.uint32), states, out)
        for row, (key, pair) in enumerate(step):
            seen.setdefault(key, []).append(pair)
            assert_close(out[row], seen[key], width)
