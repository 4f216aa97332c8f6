"""Accumulators of one word: what they share, and that it does not show."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.aggregation import Opcode

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
