"""Frames of few rows, step by step, against lists of values."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from millstream.kernels.short_frames import (
    WIDTH_MAX,
    first_short_values,
    fold_short_frames,
    fold_values_thrice,
    phase_rows,
)
from millstream.kernels.sliding import ADD, GREATEST, LEAST
from tests.kernels.rows_of_keys import N_KEYS, Array, locked, long, steps_of
from tests.kernels.test_sliding import FOLDS, folded, int64s, same

widths = st.integers(1, 5) | st.just(16) | st.just(WIDTH_MAX)
# So that keys have many times as many rows as a frame.
STEPS = [[(0, 7 * row % 11) for row in range(400)], [(1, 1), (0, -5), (1, 2)]]


class ShortRows:
    """Phases of steps of rows, and the frame of each row as a list."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.next_phases = np.zeros(N_KEYS, np.uint8)
        self.seen: dict[int, list[Any]] = defaultdict(list)

    def begin(self, step: list[tuple[int, Any]]) -> tuple[Array, Array]:
        """Begin a step; return its groups and phases."""
        n_before = self.n_kept
        ids, phases = np.array([key for key, _ in step], np.uint32), np.empty(len(step), np.uint8)
        n_short = phase_rows(ids, self.width, self.next_phases, phases)
        self.frames: list[list[Any]] = []
        for key, value in step:
            self.seen[key].append(value)
            self.frames.append(self.seen[key][-self.width :])
        assert np.minimum(phases.astype(int) + 1, self.width).tolist() == self.lengths
        assert n_short == sum(length < self.width for length in self.lengths)
        assert n_short == self.n_kept - n_before
        return ids, phases

    @property
    def lengths(self) -> list[int]:
        """How many rows each frame has."""
        return [len(frame) for frame in self.frames]

    @property
    def n_kept(self) -> int:
        """Rows that later frames can reach."""
        return sum(min(len(rows), self.width - 1) for rows in self.seen.values())


@pytest.mark.parametrize(("operation", "dtype", "values"), FOLDS)
def test_values_are_folded_of_each_frame_alone(operation: int, dtype: type, values: Any) -> None:
    @given(steps_of(values), widths)
    @example(STEPS, 1)
    @example(STEPS, 10)
    @example(STEPS, WIDTH_MAX)
    def check(steps: list[list[tuple[int, Any]]], width: int) -> None:
        state, rings = ShortRows(width), np.zeros((N_KEYS, width), dtype)
        for step in steps:
            rows = state.begin(step)
            column, out = locked([value for _, value in step], dtype), np.empty(len(step), dtype)
            fold_short_frames(operation, *rows, column, rings, out)
            for got, frame in zip(out.tolist(), state.frames, strict=True):
                assert same(got, folded(operation, frame, dtype))

    check()


@given(steps_of(int64s), widths)
@example(STEPS, 3)
def test_three_folds_of_the_same_values(steps: list[list[tuple[int, int]]], width: int) -> None:
    state, rings = ShortRows(width), np.zeros((N_KEYS, width), np.int64)
    for step in steps:
        rows = state.begin(step)
        outs = long(len(step)), long(len(step)), long(len(step))
        fold_values_thrice(*rows, locked([value for _, value in step], np.int64), rings, *outs)
        for operation, out in zip((ADD, LEAST, GREATEST), outs, strict=True):
            assert out.tolist() == [folded(operation, frame, np.int64) for frame in state.frames]


@given(steps_of(st.integers(-9, 9)), widths)
@example(STEPS, 1)
@example(STEPS, 2)
@example(STEPS, 7)
def test_first_values_of_frames(steps: list[list[tuple[int, int]]], width: int) -> None:
    state, rings = ShortRows(width), np.zeros((N_KEYS, width), np.int64)
    for step in steps:
        rows, out = state.begin(step), long(len(step))
        first_short_values(*rows, locked([value for _, value in step], np.int64), rings, out)
        assert out.tolist() == [frame[0] for frame in state.frames]
