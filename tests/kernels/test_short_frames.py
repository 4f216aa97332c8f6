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
    copy_short_rings,
    first_short_values,
    fold_short_frames,
    fold_values_thrice,
    pack_short_rings,
    phase_rows,
    place_short_rings,
)
from millstream.kernels.sliding import ADD, GREATEST, LEAST
from tests.kernels.rows_of_keys import N_KEYS, Array, locked, long, steps_of
from tests.kernels.test_sliding import FOLDS, folded, int64s, same

widths = st.integers(1, 5) | st.just(16) | st.just(WIDTH_MAX)
# So that keys have many times as many rows as a frame.
STEPS = [[(0, 7 * row % 11) for row in range(400)], [(1, 1), (0, -5), (1, 2)]]


class ShortRows:
    """Phases of steps of rows, rings that grow and are packed, and the frames as lists."""

    def __init__(self, width: int, dtype: type) -> None:
        self.width = width
        self.next_phases = np.zeros(N_KEYS, np.uint8)
        self.places, self.n_used = long(N_KEYS), 1
        self.places[:] = 0
        self.rings: Array = np.zeros(1, dtype)
        self.n_steps = 0
        self.seen: dict[int, list[Any]] = defaultdict(list)

    def begin(self, step: list[tuple[int, Any]]) -> tuple[Array, Array, int, Array]:
        """Begin a step; return its groups and phases, the width and places of rings."""
        n_before = self.n_kept
        self.n_steps += 1
        if self.n_steps % 2 == 0:
            self._pack()
        ids, phases = np.array([key for key, _ in step], np.uint32), np.empty(len(step), np.uint8)
        growing = np.empty(len(step), np.uint32)
        rows_before = np.minimum(self.next_phases, self.width)
        n_short, n_growing = phase_rows(ids, self.width, self.next_phases, phases, growing)
        moved = self._make_room(growing[:n_growing], ids, phases)
        rows = np.minimum(self.next_phases, self.width)
        assert moved == [
            key
            for key in range(N_KEYS)
            if self._capacity(rows[key]) != self._capacity(rows_before[key])
        ]
        self.frames: list[list[Any]] = []
        for key, value in step:
            self.seen[key].append(value)
            self.frames.append(self.seen[key][-self.width :])
        assert np.minimum(phases.astype(int) + 1, self.width).tolist() == self.lengths
        assert n_short == sum(length < self.width for length in self.lengths)
        assert n_short == self.n_kept - n_before
        return ids, phases, self.width, self.places

    def _capacity(self, n_rows: int) -> int:
        if n_rows == 0:
            return 0
        return min(max(1 << (int(n_rows) - 1).bit_length(), 2), self.width)

    def _make_room(self, growing: Array, ids: Array, phases: Array) -> list[int]:
        before, n_before = self.places.copy(), self.n_used
        moved, sizes = np.empty(len(growing), np.uint32), np.empty(len(growing), np.uint8)
        places_before = long(len(growing))
        n_moved, self.n_used = place_short_rings(
            growing,
            ids,
            phases,
            self.width,
            self.next_phases,
            self.n_used,
            self.places,
            moved,
            sizes,
            places_before,
        )
        moved = moved[:n_moved]
        assert sorted(moved) == np.flatnonzero(self.places != before).tolist()
        assert places_before[:n_moved].tolist() == before[moved].tolist()
        assert (self.places[moved] >= n_before).all()
        self.rings = np.resize(self.rings, self.n_used)
        copy_short_rings(moved, sizes, places_before, self.places, self.rings, self.rings)
        self._check_ends()
        return sorted(moved.tolist())

    def _pack(self) -> None:
        places, sizes = long(N_KEYS), np.empty(N_KEYS, np.uint8)
        self.n_used = pack_short_rings(self.next_phases, self.width, places, sizes)
        for key, phase in enumerate(self.next_phases.tolist()):
            n_rows = min(phase, self.width)
            assert n_rows <= sizes[key] <= 2 * n_rows
            assert (places[key] == 0) == (n_rows == 0)
        rings, ids = np.zeros(self.n_used, self.rings.dtype), np.arange(N_KEYS, dtype=np.uint32)
        copy_short_rings(ids, sizes, self.places, places, self.rings, rings)
        self.places, self.rings = places, rings
        self._check_ends()

    def _check_ends(self) -> None:
        """No ring reaches into the next."""
        ends = [*sorted(self.places[self.places > 0]), self.n_used]
        for key, place in enumerate(self.places.tolist()):
            n_rows = min(self.next_phases[key], self.width)
            assert (place == 0) == (n_rows == 0)
            assert n_rows == 0 or place + n_rows <= ends[ends.index(place) + 1]

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
        state = ShortRows(width, dtype)
        for step in steps:
            rows = state.begin(step)
            column = locked([value for _, value in step], dtype)
            out: Array = np.empty(len(step), dtype)
            fold_short_frames(operation, *rows, column, state.rings, out)
            for got, frame in zip(out.tolist(), state.frames, strict=True):
                assert same(got, folded(operation, frame, dtype))

    check()


@given(steps_of(int64s), widths)
@example(STEPS, 3)
def test_three_folds_of_the_same_values(steps: list[list[tuple[int, int]]], width: int) -> None:
    state = ShortRows(width, np.int64)
    for step in steps:
        rows = state.begin(step)
        outs = long(len(step)), long(len(step)), long(len(step))
        fold_values_thrice(
            *rows, locked([value for _, value in step], np.int64), state.rings, *outs
        )
        for operation, out in zip((ADD, LEAST, GREATEST), outs, strict=True):
            assert out.tolist() == [folded(operation, frame, np.int64) for frame in state.frames]


@given(steps_of(st.integers(-9, 9)), widths)
@example(STEPS, 1)
@example(STEPS, 2)
@example(STEPS, 7)
def test_first_values_of_frames(steps: list[list[tuple[int, int]]], width: int) -> None:
    state = ShortRows(width, np.int64)
    for step in steps:
        rows, out = state.begin(step), long(len(step))
        first_short_values(*rows, locked([value for _, value in step], np.int64), state.rings, out)
        assert out.tolist() == [frame[0] for frame in state.frames]
