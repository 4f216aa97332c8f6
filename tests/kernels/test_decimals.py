"""Decimals of two words against Python's integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.decimals import (
    ADD,
    GREATEST,
    LEAST,
    average_decimals,
    greatest_decimals,
    least_decimals,
    run_decimals,
    sum_decimals,
)

N_GROUPS = 4
LIMIT = 10**38
WORD = 2**64
I128 = st.integers(-(2**127), 2**127 - 1) | st.integers(-1000, 1000)


def words(values: Sequence[int]) -> npt.NDArray[np.uint64]:
    stored = b"".join(value.to_bytes(16, "little", signed=True) for value in values)
    return np.frombuffer(stored, np.uint64).reshape(-1, 2)


def numbers(array: npt.NDArray[np.uint64]) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little", signed=True) for row in array]


def wrap(value: int) -> int:
    return (value + 2**127) % 2**128 - 2**127


@given(st.lists(I128, max_size=30), st.data())
def test_folds_are_exact(values: list[int], data: st.DataObject) -> None:
    n_rows = len(values)
    group_ids = data.draw(hnp.arrays(np.uint32, n_rows, elements=st.integers(0, N_GROUPS - 1)))
    valid = data.draw(
        st.just(np.empty(0, np.uint8)) | hnp.arrays(np.uint8, n_rows, elements=st.integers(0, 1))
    )
    for array in (group_ids, valid):
        array.flags.writeable = False
    folds: list[tuple[Any, Any]] = [
        (sum_decimals, lambda members: wrap(sum(members))),
        (least_decimals, min),
        (greatest_decimals, max),
    ]
    for fold, definition in folds:
        states, seen = np.zeros((N_GROUPS, 2), np.uint64), np.zeros(N_GROUPS, np.uint8)
        fold(words(values), valid, group_ids, states, seen)
        for group, state in enumerate(numbers(states)):
            members = [
                value
                for row, value in enumerate(values)
                if group_ids[row] == group and (len(valid) == 0 or valid[row])
            ]
            assert seen[group] == bool(members)
            assert not members or state == definition(members)


@given(
    st.lists(st.tuples(st.integers(0, N_GROUPS - 1), st.none() | I128), max_size=30),
    st.integers(0, 30),
    st.sampled_from([(ADD, lambda seen: wrap(sum(seen))), (LEAST, min), (GREATEST, max)]),
)
def test_running_folds_have_all_values_so_far(
    rows: list[tuple[int, int | None]], cut: int, fold: tuple[int, Any]
) -> None:
    operation, definition = fold
    states, seen = np.zeros((N_GROUPS, 2), np.uint64), np.zeros(N_GROUPS, np.uint8)
    results: list[int | None] = []
    for step in (rows[:cut], rows[cut:]):
        values = words([0 if value is None else value for _, value in step])
        valid = np.array([value is not None for _, value in step], np.uint8)
        group_ids = np.array([group for group, _ in step], np.uint32)
        for array in (valid, group_ids):
            array.flags.writeable = False
        valid = valid if not valid.all() else valid[:0]
        out, out_seen = np.empty((len(step), 2), np.uint64), np.empty(len(step), np.uint8)
        run_decimals(operation, values, valid, group_ids, states, seen, out, out_seen)
        found = zip(numbers(out), out_seen.tolist(), strict=True)
        results += [number if is_there else None for number, is_there in found]
    for place, (group, _) in enumerate(rows):
        of_group = [v for g, v in rows[: place + 1] if g == group and v is not None]
        assert results[place] == (definition(of_group) if of_group else None)


def average(sums: list[int], counts: list[int], factor: int) -> tuple[int, list[int]]:
    averages = np.zeros((len(sums), 2), np.uint64)
    low = LIMIT % WORD
    signed_low = low - WORD if low >= WORD // 2 else low
    divisors = np.array(counts, np.int64)
    divisors.flags.writeable = False
    failed = average_decimals(words(sums), divisors, factor, signed_low, LIMIT // WORD, averages)
    return failed, numbers(averages)


COUNTS = st.integers(0, 1000) | st.integers(1, 2**63 - 1)


@given(
    st.lists(st.tuples(I128, COUNTS), min_size=1, max_size=10),
    st.sampled_from([1, 10, 10_000]),
)
def test_averages_round_towards_zero(rows: list[tuple[int, int]], factor: int) -> None:
    failed, averages = average([s for s, _ in rows], [c for _, c in rows], factor)
    for row, (total, count) in enumerate(rows):
        exact = abs(total) * factor // max(count, 1)
        if abs(total) * factor >= 2**127 or exact >= LIMIT:
            assert failed == row
            return
        assert averages[row] == (-exact if total < 0 else exact)
    assert failed == -1


@pytest.mark.parametrize("total", [LIMIT - 1, 1 - LIMIT])
def test_averages_reach_the_limit_but_for_one(total: int) -> None:
    assert average([total], [1], 1) == (-1, [total])
    assert average([total + (1 if total > 0 else -1)], [1], 1)[0] == 0
