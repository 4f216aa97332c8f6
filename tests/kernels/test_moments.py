"""Moments against sums over all values of a group."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.moments import (
    CO_MOMENTS_WIDTH,
    MOMENTS_WIDTH,
    add_co_moments,
    add_moments,
    merge_co_moments,
    merge_moments,
)

N_GROUPS = 4
F64 = npt.NDArray[np.float64]
MODEST = st.floats(-1e6, 1e6)
ALL_VALID = np.empty(0, np.uint8)


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@st.composite
def pairs(draw: st.DrawFn, elements: st.SearchStrategy[float] = MODEST) -> Any:
    n_rows = draw(st.integers(0, 40))
    ys = draw(hnp.arrays(np.float64, n_rows, elements=elements))
    xs = draw(hnp.arrays(np.float64, n_rows, elements=elements))
    group_ids = draw(hnp.arrays(np.uint32, n_rows, elements=st.integers(0, N_GROUPS - 1)))
    valid = draw(st.just(ALL_VALID) | hnp.arrays(np.uint8, n_rows, elements=st.integers(0, 1)))
    return ys, xs, group_ids, valid


def moments(values: F64, valid: npt.NDArray[np.uint8], group_ids: npt.NDArray[np.uint32]) -> F64:
    states = np.zeros((N_GROUPS, MOMENTS_WIDTH))
    add_moments(frozen(values), frozen(valid), frozen(group_ids), states)
    return states


def co_moments(
    ys: F64, xs: F64, valid: npt.NDArray[np.uint8], group_ids: npt.NDArray[np.uint32]
) -> F64:
    states = np.zeros((N_GROUPS, CO_MOMENTS_WIDTH))
    add_co_moments(frozen(ys), frozen(xs), frozen(valid), frozen(group_ids), states)
    return states


def in_parts(compute: Any, merge: Any, cut: int, *columns: npt.NDArray[Any]) -> F64:
    """Compute over the rows before and after a cut, and merge."""
    parts = [
        compute(*(column[rows] if len(column) else column for column in columns))
        for rows in (slice(0, cut), slice(cut, None))
    ]
    merged = np.zeros_like(parts[0])
    group_ids = np.tile(np.arange(N_GROUPS, dtype=np.uint32), 2)
    merge(frozen(np.concatenate(parts)), frozen(group_ids), merged)
    return merged


def members(
    values: F64, valid: npt.NDArray[np.uint8], group_ids: npt.NDArray[np.uint32], group: int
) -> F64:
    is_member = group_ids == group
    return values[is_member if len(valid) == 0 else is_member & (valid == 1)]


@given(pairs(), st.integers(0, 40))
def test_moments_are_those_of_all_values(drawn: Any, cut: int) -> None:
    values, _, group_ids, valid = drawn
    whole = moments(values, valid, group_ids)
    merged = in_parts(moments, merge_moments, cut, values, valid, group_ids)
    for group in range(N_GROUPS):
        of_group = members(values, valid, group_ids, group)
        mean = of_group.mean() if len(of_group) else 0.0
        scale = float((of_group**2).sum()) + 1.0
        for state in (whole[group], merged[group]):
            assert state[0] == len(of_group)
            assert state[1] == pytest.approx(mean, rel=1e-9, abs=1e-7)
            assert state[2] == pytest.approx(((of_group - mean) ** 2).sum(), abs=1e-12 * scale)


@given(pairs(), st.integers(0, 40))
def test_co_moments_are_those_of_all_pairs(drawn: Any, cut: int) -> None:
    ys, xs, group_ids, valid = drawn
    whole = co_moments(ys, xs, valid, group_ids)
    merged = in_parts(co_moments, merge_co_moments, cut, ys, xs, valid, group_ids)
    for group in range(N_GROUPS):
        y, x = (members(values, valid, group_ids, group) for values in (ys, xs))
        y_gaps, x_gaps = (v - (v.mean() if len(v) else 0.0) for v in (y, x))
        scale = float((y**2).sum() + (x**2).sum()) + 1.0
        for state in (whole[group], merged[group]):
            assert state[0] == len(y)
            expected = [(y_gaps**2).sum(), (x_gaps**2).sum(), (y_gaps * x_gaps).sum()]
            assert state[3:].tolist() == pytest.approx(expected, abs=1e-12 * scale)


SPECIAL = st.sampled_from([1.0, -2.0, math.inf, -math.inf, math.nan])


def kinds(states: F64) -> list[list[str]]:
    """Tell numbers, infinities and NaN apart, and nothing else."""
    return [[repr(v) if math.isinf(v) else str(math.isnan(v)) for v in state] for state in states]


@given(pairs(SPECIAL), st.integers(0, 40), st.randoms())
def test_infinities_do_not_depend_on_order(drawn: Any, cut: int, random: Any) -> None:
    ys, xs, group_ids, valid = drawn
    order = list(range(len(ys)))
    random.shuffle(order)
    shuffled = [column[order] if len(column) else column for column in (ys, xs, valid, group_ids)]
    expected = kinds(co_moments(ys, xs, valid, group_ids))
    assert kinds(co_moments(*shuffled)) == expected
    assert kinds(in_parts(co_moments, merge_co_moments, cut, *shuffled)) == expected
    single = kinds(moments(ys, valid, group_ids))
    assert single == [[state[0], state[1], state[3]] for state in expected]
    values, _, valid, group_ids = shuffled
    assert kinds(in_parts(moments, merge_moments, cut, values, valid, group_ids)) == single


def test_moments_of_huge_values_are_finite() -> None:
    states = moments(np.array([1e300, 1e300]), ALL_VALID, np.zeros(2, np.uint32))
    assert states[0].tolist() == [2.0, 1e300, 0.0]
    merged = np.zeros((N_GROUPS, MOMENTS_WIDTH))
    merge_moments(frozen(states[[0, 0]]), frozen(np.zeros(2, np.uint32)), merged)
    assert merged[0].tolist() == [4.0, 1e300, 0.0]
