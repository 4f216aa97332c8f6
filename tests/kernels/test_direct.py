"""Group ids by the key itself, against what they have to be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from millstream.kernels.direct import assign_group_ids_direct, fill_direct
from millstream.kernels.grouping import assign_group_ids_at

INT64 = np.iinfo(np.int64)
I64Array = npt.NDArray[np.int64]


class Rows:
    """Rows of panes and keys in one part, and the table that they go to."""

    def __init__(self) -> None:
        self.slots, self.keys = np.zeros(64, np.uint64), np.zeros((2, 16), np.int64)
        self.owners, self.direct = np.full(1, INT64.min), np.zeros((1, 5), np.uint32)
        self.n_groups = 0

    def assign(self, panes: list[int], keys: list[int]) -> tuple[list[int], int]:
        """Return the ids, and how many rows and groups came to the hash index."""
        columns, arrays = _columns(panes, keys)
        ids = np.zeros(len(keys), np.uint32)
        bounds = np.array([0, len(keys)])
        *place, self.n_groups, n_by_hash = assign_group_ids_direct(
            *(columns, bounds, 0, 0, self.slots, self.keys, self.n_groups, ids),
            *(6, self.owners, self.direct, len(keys)),
        )
        assert place == [1, 0]
        assert arrays
        return ids.tolist(), n_by_hash

    def assign_by_hash(self, panes: list[int], keys: list[int]) -> list[int]:
        columns, arrays = _columns(panes, keys)
        ids = np.zeros(len(keys), np.uint32)
        bounds = np.array([0, len(keys)])
        *_, self.n_groups = assign_group_ids_at(
            columns, bounds, 0, 0, self.slots, self.keys, self.n_groups, ids
        )
        assert arrays
        return ids.tolist()


def _columns(panes: list[int], keys: list[int]) -> tuple[I64Array, list[I64Array]]:
    arrays = [np.array(panes, np.int64), np.array(keys, np.int64)]
    return np.array([[[array.ctypes.data, 8] for array in arrays]], np.int64), arrays


def test_what_has_no_place_in_the_array_is_found_by_its_hash() -> None:
    rows = Rows()
    # The later pane has the array, and the key beyond its end is not in it.
    panes, keys = [3, 3, 2, 3, 3, 2], [7, 9, 7, 100, 9, 7]
    assert rows.assign(panes, keys) == ([0, 1, 2, 3, 1, 2], 3)
    assert rows.owners.tolist() == [3]
    assert rows.direct.tolist() == [[0, 1, 0, 2, 0]]
    assert np.count_nonzero(rows.slots) == 2
    assert rows.assign(panes, keys) == ([0, 1, 2, 3, 1, 2], 3)


def test_groups_whose_pane_is_displaced_are_found_by_their_hash_from_then_on() -> None:
    rows = Rows()
    assert rows.assign([3, 3], [7, 9]) == ([0, 1], 0)
    assert np.count_nonzero(rows.slots) == 0
    assert rows.assign([4, 3, 4], [7, 9, 9]) == ([2, 1, 3], 3)
    assert rows.assign([3, 3], [9, 7]) == ([1, 0], 2)
    assert rows.assign_by_hash([3, 3], [7, 9]) == [0, 1]


def test_a_table_without_room_stops_at_the_row() -> None:
    rows = Rows()
    columns, arrays = _columns([3, 3, 3], [7, 9, 8])
    ids = np.zeros(3, np.uint32)
    done = assign_group_ids_direct(
        *(columns, np.array([0, 3]), 0, 0, rows.slots, rows.keys[:, :2], 0, ids),
        *(6, rows.owners, rows.direct, 3),
    )
    assert done == (0, 2, 2, 0)
    assert ids[:2].tolist() == [0, 1]
    assert rows.direct.tolist() == [[0, 1, 0, 2, 0]]
    assert arrays


def test_too_many_rows_that_go_by_their_hash_end_it_with_their_block() -> None:
    rows = Rows()
    block = [7] * 511 + [100]
    columns, arrays = _columns([3] * 5 * 512, 5 * block)
    ids = np.zeros(5 * 512, np.uint32)
    # In parts of two blocks and three.
    columns = np.concatenate([columns, columns + np.array([2 * 512 * 8, 0])])
    bounds, table = np.array([0, 1024, 2560]), (rows.slots, rows.keys)
    index = (6, rows.owners, rows.direct)
    stops = []
    part = row = n_groups = 0
    while part < 2:
        part, row, n_groups, n_by_hash = assign_group_ids_direct(
            columns, bounds, part, row, *table, n_groups, ids, *index, 1
        )
        stops.append((part, row, n_by_hash))
    # The end of a part is none of the call.
    assert stops == [(1, 512, 3), (2, 0, 2)]
    assert ids.tolist() == 5 * ([0] * 511 + [1])
    assert arrays


@pytest.mark.parametrize("n_panes", [1, 2, 4])
def test_groups_are_entered_for_the_latest_panes(n_panes: int) -> None:
    keys = np.array([[1, 2, 2, 3, 1], [0, 0, 0, 0, 9], [5, 5, 8, 5, 6]], np.int64)
    owners, direct = np.full(n_panes, INT64.min), np.zeros((n_panes, 4), np.uint32)
    slots = np.zeros(16, np.uint64)
    n_others = fill_direct(keys, 5, 0, 5, owners, direct, slots)
    assert n_others == 5 - np.count_nonzero(direct) == np.count_nonzero(slots)
    expected = {
        1: ([3], [[4, 0, 0, 0]]),
        2: ([2, 3], [[2, 0, 0, 0], [4, 0, 0, 0]]),
        4: (
            [INT64.min, 1, 2, 3],
            [[0, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0], [4, 0, 0, 0]],
        ),
    }
    assert (owners.tolist(), direct.tolist()) == expected[n_panes]
