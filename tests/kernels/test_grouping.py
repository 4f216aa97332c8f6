"""Group ids against a dictionary of tuples."""

from __future__ import annotations

from collections.abc import Sequence

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.grouping import (
    assign_group_ids_at,
    move_slots,
    rebuild_slots,
)

INT64 = np.iinfo(np.int64)

few_words = st.one_of(
    st.integers(-3, 3), st.sampled_from([INT64.min, INT64.max]), st.integers(INT64.min, INT64.max)
)


def parts_of(*parts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Addresses and bounds of parts, each int64[n_words, n_rows] and to be kept alive."""
    columns = [[[row.ctypes.data, 8] for row in part] for part in parts]
    shape = len(parts), parts[0].shape[0], 2
    bounds = np.cumsum([0, *(part.shape[1] for part in parts)])
    return np.array(columns, np.int64).reshape(shape), bounds


@st.composite
def word_tables(draw: st.DrawFn) -> npt.NDArray[np.int64]:
    shape = draw(st.integers(0, 4)), draw(st.integers(0, 60))
    return draw(hnp.arrays(np.int64, shape, elements=few_words))


class Table:
    """The caller's part: allocates, and doubles whatever is full."""

    def __init__(self, n_words: int, *, moves: bool = True) -> None:
        self.slots = np.zeros(2, np.uint64)
        self.keys = np.zeros((n_words, 1), np.int64)
        self.n_groups = 0
        self.n_growths = 0
        self.moves = moves

    def grow(self) -> None:
        self.keys = np.concatenate([self.keys, np.zeros_like(self.keys)], axis=1)
        before, n_slots = self.slots, self.slots.shape[0] * 2
        if self.moves:
            self.slots = np.zeros(n_slots, np.uint64)
            move_slots(before, self.slots)
        else:
            self.slots = np.full(n_slots, 99, np.uint64)
            rebuild_slots(self.keys, self.n_groups, self.slots)
        self.n_growths += 1

    def assign(self, *parts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
        columns, bounds = parts_of(*parts)
        group_ids = np.full(bounds[-1], 77, np.uint32)
        place = 0, 0
        while place[0] < len(parts):
            *place, self.n_groups = assign_group_ids_at(
                columns, bounds, *place, self.slots, self.keys, self.n_groups, group_ids
            )
            if place[0] < len(parts):
                self.grow()
        return group_ids


def ids_by_dictionary(
    batches: Sequence[npt.NDArray[np.int64]],
) -> tuple[list[list[int]], list[tuple[int, ...]]]:
    known: dict[tuple[int, ...], int] = {}
    ids = [
        [known.setdefault(tuple(row), len(known)) for row in batch.T.tolist()] for batch in batches
    ]
    return ids, list(known)


@given(word_tables(), st.integers(0, 60), st.booleans())
def test_ids_are_dense_in_order_of_first_sight(
    words: npt.NDArray[np.int64], cut: int, moves: bool
) -> None:
    batches = [words[:, :cut].copy(), words[:, cut:].copy()]
    expected_ids, expected_keys = ids_by_dictionary(batches)
    table = Table(words.shape[0], moves=moves)
    assert table.assign(*batches).tolist() == expected_ids[0] + expected_ids[1]
    table = Table(words.shape[0], moves=moves)
    assert [table.assign(batch).tolist() for batch in batches] == expected_ids
    assert table.n_groups == len(expected_keys)
    keys = table.keys[:, : table.n_groups].T.tolist()
    assert [tuple(key) for key in keys] == expected_keys


@pytest.mark.parametrize("n_words", [1, 2, 3])
def test_many_groups_over_many_blocks_and_growths(n_words: int) -> None:
    random = np.random.default_rng(7)
    words = random.integers(0, 40, (n_words, 5000)) << random.integers(0, 58)
    for moves in (True, False):
        table = Table(n_words, moves=moves)
        expected_ids, _ = ids_by_dictionary([words])
        assert table.assign(words).tolist() == expected_ids[0]
        assert table.n_growths > 3


@pytest.mark.parametrize("factor", [2, 4, 64])
def test_a_larger_index_has_the_entries_of_the_smaller_one(factor: int) -> None:
    # Half of all slots are taken, by runs that go on at the other end.
    words = np.random.default_rng(3).integers(0, 1 << 60, (2, 512))
    keys, slots = np.zeros((2, 512), np.int64), np.zeros(1024, np.uint64)
    group_ids = np.zeros(512, np.uint32)
    parts = parts_of(words)
    assert assign_group_ids_at(*parts, 0, 0, slots, keys, 0, group_ids) == (1, 0, 512)
    grown, rebuilt = np.zeros(factor * 1024, np.uint64), np.full(factor * 1024, 99, np.uint64)
    move_slots(slots, grown)
    rebuild_slots(keys, 512, rebuilt)
    assert sorted(grown.tolist()) == sorted(rebuilt.tolist())
    found = np.full(512, 77, np.uint32)
    assert assign_group_ids_at(*parts, 0, 0, grown, keys, 512, found) == (1, 0, 512)
    assert found.tolist() == list(range(512))


def test_columns_by_address_may_be_slices_of_other_arrays() -> None:
    first = np.arange(10, dtype=np.int64)[3:]
    second = np.zeros(7, np.int64)
    columns = np.array([[[first.ctypes.data, 8], [second.ctypes.data, 0]]], np.int64)
    keys = np.zeros((2, 8), np.int64)
    group_ids = np.full(9, 77, np.uint32)
    bounds = np.array([1, 7])
    done = assign_group_ids_at(columns, bounds, 0, 1, np.zeros(16, np.uint64), keys, 0, group_ids)
    assert done == (1, 0, 5)
    assert group_ids.tolist() == [77, 77, 0, 1, 2, 3, 4, 77, 77]
    assert keys[:, :5].tolist() == [[4, 5, 6, 7, 8], [0] * 5]


def test_a_full_table_stops_at_the_first_row_without_room() -> None:
    words = np.array([[5, 6, 5, 7, 6]], np.int64)
    group_ids = np.full(5, 77, np.uint32)
    keys = np.zeros((1, 2), np.int64)
    slots = np.zeros(64, np.uint64)
    parts = parts_of(words)
    assert assign_group_ids_at(*parts, 0, 0, slots, keys, 0, group_ids) == (0, 3, 2)
    assert group_ids[:3].tolist() == [0, 1, 0]
    # A known key after the stop would still have been found: it is not lost, only not reached.
    assert assign_group_ids_at(*parts, 0, 4, slots, keys, 2, group_ids) == (1, 0, 2)
    assert group_ids[4] == 1


def test_an_index_half_full_counts_as_full() -> None:
    words = np.arange(9, dtype=np.int64).reshape(1, 9)
    group_ids = np.zeros(9, np.uint32)
    keys = np.zeros((1, 100), np.int64)
    done = assign_group_ids_at(*parts_of(words), 0, 0, np.zeros(8, np.uint64), keys, 0, group_ids)
    assert done == (0, 4, 4)
