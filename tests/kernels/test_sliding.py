"""Folds over frames, step by step, against folds over lists of values."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.frames import close_row_frames
from millstream.kernels.sliding import (
    ADD,
    GREATEST,
    LEAST,
    first_values,
    from_comparable,
    run,
    slide,
    to_comparable,
)
from tests.kernels.rows_of_keys import CAPACITY, N_KEYS, Array, RowsOfKeys, locked, long, steps_of

INT64 = np.iinfo(np.int64)
SIGN = INT64.min

int64s = st.integers(-9, 9) | st.integers(INT64.min, INT64.max)
float64s = st.sampled_from([0.5, -2.0, 3.0, 1e6, math.inf, -math.inf, math.nan])
all_floats = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)

FOLDS = [
    (ADD, np.int64, int64s),
    (LEAST, np.int64, int64s),
    (GREATEST, np.int64, int64s),
    (ADD, np.float64, float64s),
]
IDENTITY = {ADD: 0, LEAST: INT64.max, GREATEST: INT64.min}


def folded(operation: int, values: list[Any], dtype: type) -> Any:
    if operation == LEAST:
        return min(values)
    if operation == GREATEST:
        return max(values)
    with np.errstate(invalid="ignore"):
        return np.array(values, dtype).sum(dtype=dtype).item()


def same(left: float, right: float) -> bool:
    return left == right or left == pytest.approx(right, rel=1e-12, nan_ok=True)


class Lanes:
    """What is kept of folds of several operations over the same values."""

    def __init__(self, operations: set[int], dtype: type) -> None:
        self.dtypes = {ADD: dtype, LEAST: np.int64, GREATEST: np.int64}
        self.operations = operations
        self.rings = {op: np.zeros(N_KEYS * CAPACITY, self.dtypes[op]) for op in self.dtypes}
        self.backs = {op: np.full(N_KEYS, IDENTITY[op], self.dtypes[op]) for op in self.dtypes}
        self.outs: dict[int, Array] = {}
        self.boundaries = long()

    def slide(self, state: RowsOfKeys, values: list[Any], preceding: int, starts: Array) -> None:
        lanes = []
        for operation, dtype in self.dtypes.items():
            wanted = values if operation in self.operations else []
            self.outs[operation] = np.empty(len(wanted), dtype)
            kept = self.rings[operation], self.backs[operation], self.outs[operation]
            lanes.append((locked(wanted, dtype), *kept))
        slide(*state.rows, preceding, starts, *state.rings, self.boundaries, *lanes)


@pytest.mark.parametrize(
    ("operations", "dtype", "values"),
    [
        *(({operation}, dtype, values) for operation, dtype, values in FOLDS),
        ({ADD, LEAST, GREATEST}, np.int64, int64s),
        ({LEAST, GREATEST}, np.int64, int64s),
        ({ADD, GREATEST}, np.float64, st.integers(-9, 9)),
    ],
)
def test_slide_folds_each_frame_alone(operations: set[int], dtype: type, values: Any) -> None:
    @given(steps_of(values), st.integers(0, 9), st.booleans())
    def check(steps: list[list[tuple[int, Any]]], preceding: int, tells_starts: bool) -> None:
        state, lanes = RowsOfKeys(), Lanes(operations, dtype)
        seen: dict[int, list[Any]] = {}
        for step in steps:
            state.sort([key for key, _ in step])
            state.open(preceding)
            column = [value for _, value in step]
            if tells_starts:
                lanes.slide(state, column, -1, state.starts)
            else:
                lanes.slide(state, column, preceding, long(0))
            close_row_frames(state.groups, state.offsets, preceding, state.heads, state.counts)
            for row, (key, value) in enumerate(step):
                seen.setdefault(key, []).append(value)
                frame = seen[key][-preceding - 1 :]
                for operation in operations:
                    want = folded(operation, frame, lanes.dtypes[operation])
                    assert same(lanes.outs[operation][row].item(), want)

    check()


@pytest.mark.parametrize("n_keys", [1, 2])
def test_slide_goes_on_where_a_chunk_of_rows_ended(n_keys: int) -> None:
    n_rows, preceding = 2500, 30
    rows, values = np.arange(n_rows) % n_keys, np.arange(n_rows) * 7919 % 1000
    state, lanes = RowsOfKeys(), Lanes({ADD, LEAST, GREATEST}, np.int64)
    state.sort(rows.tolist())
    lanes.slide(state, values.tolist(), preceding, long(0))
    for operation, out in lanes.outs.items():
        for key in range(n_keys):
            of_key = values[rows == key].tolist()
            frames = [of_key[max(0, row - preceding) : row + 1] for row in range(len(of_key))]
            want = [folded(operation, frame, np.int64) for frame in frames]
            assert out[rows == key].tolist() == want


@pytest.mark.parametrize(("operation", "dtype", "values"), FOLDS)
def test_run_folds_all_rows_so_far(operation: int, dtype: type, values: Any) -> None:
    @given(steps_of(values))
    def check(steps: list[list[tuple[int, Any]]]) -> None:
        state = RowsOfKeys()
        seen: dict[int, list[Any]] = {}
        totals = np.full(N_KEYS, IDENTITY[operation], dtype)
        for step in steps:
            state.sort([key for key, _ in step])
            out = np.empty(len(step), dtype)
            column = locked([value for _, value in step], dtype)
            run(operation, state.group_ids, column, totals, out)
            for row, (key, value) in enumerate(step):
                seen.setdefault(key, []).append(value)
                assert same(out[row].item(), folded(operation, seen[key], dtype))

    check()


def there_and_back(words: Array, is_float: bool, flip: int) -> tuple[list[int], Array]:
    comparable, back = long(len(words)), long(len(words))
    to_comparable(locked(words, np.int64), is_float, flip, comparable)
    from_comparable(locked(comparable, np.int64), is_float, flip, back)
    return comparable.tolist(), back


@given(hnp.arrays(np.int64, st.integers(0, 20), elements=int64s))
def test_comparable_integers(values: Array) -> None:
    comparable, back = there_and_back(values, False, 0)
    assert comparable == values.tolist() == back.tolist()


@given(hnp.arrays(np.uint64, st.integers(0, 20)))
def test_comparable_unsigned_integers(values: Array) -> None:
    comparable, back = there_and_back(values.view(np.int64), False, SIGN)
    assert comparable == [value - 2**63 for value in values.tolist()]
    assert back.view(np.uint64).tolist() == values.tolist()


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=all_floats))
def test_comparable_floats_ascend_as_floats_do_and_nan_is_last(values: Array) -> None:
    values = np.concatenate([values, [-math.nan, math.nan, math.inf, -0.0, 0.0]])
    comparable, back = there_and_back(values.view(np.int64), True, 0)
    ordered = sorted(
        range(len(values)),
        key=lambda row: (math.isnan(values[row]), values[row], math.copysign(1, values[row])),
    )
    is_nan = [comparable[row] for row in ordered if math.isnan(values[row])]
    assert len(set(is_nan)) == 1
    assert comparable == sorted(comparable) or sorted(comparable) == [
        comparable[r] for r in ordered
    ]
    np.testing.assert_array_equal(back.view(np.float64), values)


@given(steps_of(st.integers(-9, 9)), st.integers(0, 4), st.booleans())
def test_values_of_the_first_row_of_each_frame(
    steps: list[list[tuple[int, int]]], preceding: int, tells_starts: bool
) -> None:
    state, ring = RowsOfKeys(), long(N_KEYS * CAPACITY)
    seen: dict[int, list[int]] = {key: [] for key in range(N_KEYS)}
    for step in steps:
        state.sort([key for key, _ in step])
        state.open(preceding)
        told = (-1, state.starts) if tells_starts else (preceding, long(0))
        values, first = locked([value for _, value in step], np.int64), long(len(step))
        first_values(*state.rows, *told, *state.rings, values, ring, first)
        for row, (key, value) in enumerate(step):
            seen[key].append(value)
            assert first[row] == seen[key][-preceding - 1 :][0]
        close_row_frames(state.groups, state.offsets, preceding, state.heads, state.counts)
