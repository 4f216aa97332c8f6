"""Accumulators of one word: what they share, and that it does not show."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.programs import Opcode

RANGES = {
    pa.int64(): (Opcode.SUM_I64, Opcode.MIN_I64, Opcode.MAX_I64),
    pa.int16(): (Opcode.SUM_I64, Opcode.MIN_I64, Opcode.MAX_I64),
    pa.float64(): (Opcode.SUM_F64, Opcode.MIN_F64, Opcode.MAX_F64),
    pa.float32(): (Opcode.SUM_F64, Opcode.MIN_F64, Opcode.MAX_F64),
}
SPECS = [
    WordSpec(Opcode.COUNT, "v"),
    WordSpec(Opcode.SUM_F64, "v"),
    WordSpec(Opcode.COUNT, None),
    WordSpec(Opcode.COUNT, "w"),
]


def ids(*group_ids: int) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    return np.array(group_ids, np.uint32)


def update(words: Words, v: list[float | None], group_ids: list[int]) -> None:
    of_v, of_w = pa.array(v, pa.float64()), pa.array(["text"] * len(v))
    arrays = [of_v, of_v, None, of_w]
    bounds = np.array([0, len(v)], np.int64)
    words.update([arrays], bounds, ids(*group_ids), 3, new_have_rows=False)


def taken(words: Words, *group_ids: int) -> list[list[float | None]]:
    return [array.to_pylist() for array in words.take(ids(*group_ids))]


def test_values_are_counted_apart_from_rows_from_the_first_null_on() -> None:
    words = Words(SPECS, merges=False)
    words.reallocate(4, slice(0, 0))
    update(words, [1.0, 2.0, 3.0], [0, 1, 0])
    assert taken(words, 0, 1, 2) == [[2, 1, 0], [4.0, 2.0, None], [2, 1, 0], [2, 1, 0]]
    update(words, [None, 5.0], [0, 1])
    update(words, [7.0], [2])
    assert taken(words, 0, 1, 2) == [[2, 2, 1], [4.0, 7.0, 7.0], [3, 2, 1], [3, 2, 1]]


def test_shared_counts_survive_a_move_and_a_merge() -> None:
    words = Words(SPECS, merges=False)
    words.reallocate(4, slice(0, 0))
    update(words, [1.0, 2.0, 3.0, 4.0], [0, 1, 0, 2])
    words.reallocate(8, ids(2, 0))
    assert taken(words, 0, 1) == [[1, 2], [4.0, 4.0], [1, 2], [1, 2]]
    words.merge(words.take(ids(1)), ids(0), words.n_groups)
    assert taken(words, 0) == [[3], [8.0], [3], [3]]
    update(words, [None], [0])
    words.merge(words.take(ids(1)), ids(0), words.n_groups)
    assert taken(words, 0) == [[5], [12.0], [6], [6]]


def test_partial_counts_are_merged_each_for_itself() -> None:
    words = Words(SPECS, merges=True)
    words.reallocate(4, slice(0, 0))
    columns = [pa.array([1, 0]), pa.array([2.5, None]), pa.array([3, 4]), pa.array([2, 4])]
    words.update([columns], np.array([0, 2], np.int64), ids(0, 1), 2, new_have_rows=True)
    assert taken(words, 0, 1) == [[1, 0], [2.5, None], [3, 4], [2, 4]]


@pytest.mark.parametrize("type_", RANGES)
@pytest.mark.parametrize("n_groups", [1, 3, 700])
@pytest.mark.parametrize("share_of_nulls", [0.0, 0.3])
def test_a_sum_with_its_extremes_is_what_each_is_alone(type_, n_groups, share_of_nulls) -> None:
    # Rows change extremes in nearly all blocks at first, later in few, and of one group in none.
    random = np.random.default_rng(n_groups)
    n_rows = 40_000
    group_ids = random.integers(0, n_groups, n_rows).astype(np.uint32)
    values = np.round(random.normal(0, 1 + np.arange(n_rows) // 30_000 * 50, n_rows) * 40)
    if pa.types.is_floating(type_):
        values[random.random(n_rows) < 0.001] = np.nan
        values[random.random(n_rows) < 0.001] = -0.0
    is_null = random.random(n_rows) < share_of_nulls
    array = pa.array(values.astype(type_.to_pandas_dtype()), type_, mask=is_null)
    total, least, greatest = (WordSpec(opcode, "v") for opcode in RANGES[type_])
    count = WordSpec(Opcode.COUNT, "v")
    for specs in (
        [count, greatest, total],
        [total, least, greatest],
        [count, total, greatest, least],
    ):
        together = of_rows(specs, array, group_ids, n_groups)
        apart = [of_rows([spec], array, group_ids, n_groups)[0] for spec in specs]
        for one, other in zip(together, apart, strict=True):
            np.testing.assert_array_equal(
                one.to_numpy(zero_copy_only=False), other.to_numpy(zero_copy_only=False)
            )
    merged = Words([count, total, least, greatest], merges=True)
    merged.reallocate(n_groups, slice(0, 0))
    bounds = np.array([0, n_groups], np.int64)
    states = of_rows([count, total, least, greatest], array, group_ids, n_groups)
    every = np.arange(n_groups, dtype=np.uint32)
    for _ in range(2):
        merged.update([states], bounds, every, n_groups, new_have_rows=True)
    n_values, sums, minima, maxima = (a.to_numpy(zero_copy_only=False) for a in merged.take(every))
    np.testing.assert_array_equal(n_values, 2 * states[0].to_numpy())
    np.testing.assert_array_equal(sums, 2 * states[1].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(minima, states[2].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(maxima, states[3].to_numpy(zero_copy_only=False))


def test_states_with_extremes_are_merged_each_for_itself() -> None:
    # Rows take a sum and both extremes of a column at once; of states each has values of its own.
    specs = [WordSpec(opcode, "v") for opcode in RANGES[pa.int64()]]
    words = Words(specs, merges=False)
    words.reallocate(3, slice(0, 0))
    values = pa.array([5, -2, 9, 1], pa.int64())
    bounds = np.array([0, 4], np.int64)
    words.update([[values] * 3], bounds, ids(0, 0, 1, 1), 2, new_have_rows=True)
    # Into states without rows, whose changes would make steps be done one by one for a while.
    other = Words(specs, merges=False)
    other.reallocate(3, slice(0, 0))
    other.merge(words.take(ids(0, 1, 1)), ids(0, 1, 2), 3)
    assert taken(other, 0, 1, 2) == [[3, 10, 10], [-2, 1, 1], [5, 9, 9]]


def of_rows(specs, array, group_ids, n_groups) -> list[pa.Array]:
    """The states of some accumulators after rows that came in two micro-batches."""
    words = Words(specs, merges=False)
    words.reallocate(n_groups, slice(0, 0))
    half = len(array) // 3
    for part, part_ids in ((array[:half], group_ids[:half]), (array[half:], group_ids[half:])):
        bounds = np.array([0, len(part)], np.int64)
        words.update([[part] * len(specs)], bounds, part_ids, n_groups, new_have_rows=False)
    return words.take(np.arange(n_groups, dtype=np.uint32))
