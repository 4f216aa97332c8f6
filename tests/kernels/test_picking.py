"""Picks against sorted lists of rows."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.picking import (
    NO_ROW,
    pick_by_arrival,
    pick_by_words,
    run_picks,
)

N_GROUPS = 4
ORDERS = st.sampled_from([-(2**63), -1, 0, 3, 2**63 - 1])


def group_ids_of(draw: st.DrawFn, n_rows: int) -> Any:
    ids = draw(hnp.arrays(np.uint32, n_rows, elements=st.integers(0, N_GROUPS - 1)))
    valid = draw(
        st.just(np.empty(0, np.uint8)) | hnp.arrays(np.uint8, n_rows, elements=st.integers(0, 1))
    )
    return ids, valid


@st.composite
def ordered_rows(draw: st.DrawFn) -> Any:
    n_rows, n_words = draw(st.integers(0, 30)), draw(st.integers(1, 3))
    orders = draw(hnp.arrays(np.int64, (n_words, n_rows), elements=ORDERS))
    return orders, *group_ids_of(draw, n_rows)


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@pytest.mark.parametrize("takes_last", [False, True])
@given(ordered_rows(), st.integers(0, 30))
def test_picks_are_the_ends_of_the_order(takes_last: bool, drawn: Any, cut: int) -> None:
    orders, group_ids, valid = drawn
    n_rows = len(group_ids)
    bests = np.zeros((N_GROUPS, len(orders)), np.int64)
    seen = np.zeros(N_GROUPS, np.uint8)
    winners = np.full(N_GROUPS, NO_ROW, np.int64)
    picked: dict[int, int] = {}
    for start, stop in ((0, min(cut, n_rows)), (min(cut, n_rows), n_rows)):
        changed = np.empty(stop - start, np.uint32)
        n_changed = pick_by_words(
            frozen(orders[:, start:stop]),
            frozen(valid[start:stop]),
            frozen(group_ids[start:stop]),
            takes_last,
            bests,
            seen,
            winners,
            changed,
        )
        groups = changed[:n_changed].tolist()
        assert len(set(groups)) == len(groups)
        picked.update((group, start + int(winners[group])) for group in groups)
        winners[changed[:n_changed]] = NO_ROW
        assert set(winners.tolist()) == {NO_ROW}
    for group in range(N_GROUPS):
        rows = [
            row
            for row in range(n_rows)
            if group_ids[row] == group and (len(valid) == 0 or valid[row])
        ]
        in_order = sorted(rows, key=lambda row: (*orders[:, row].tolist(), row))
        assert seen[group] == bool(rows)
        assert picked.get(group) == (in_order[-1 if takes_last else 0] if rows else None)
        if rows:
            assert bests[group].tolist() == orders[:, picked[group]].tolist()


@st.composite
def rows_of_groups(draw: st.DrawFn) -> Any:
    return group_ids_of(draw, draw(st.integers(0, 30)))


@pytest.mark.parametrize("takes_last", [False, True])
@given(rows_of_groups(), st.lists(st.booleans(), min_size=N_GROUPS, max_size=N_GROUPS))
def test_arrival_picks_the_first_row_ever_or_the_last(
    takes_last: bool, drawn: Any, seen_before: list[bool]
) -> None:
    group_ids, valid = drawn
    seen = np.array(seen_before, np.uint8)
    winners = np.full(N_GROUPS, NO_ROW, np.int64)
    changed = np.empty(len(group_ids), np.uint32)
    n_changed = pick_by_arrival(
        frozen(valid), frozen(group_ids), takes_last, seen, winners, changed
    )
    assert sorted(changed[:n_changed]) == np.flatnonzero(winners != NO_ROW).tolist()
    for group in range(N_GROUPS):
        rows = [
            row
            for row in range(len(group_ids))
            if group_ids[row] == group and (len(valid) == 0 or valid[row])
        ]
        is_open = bool(rows) and (takes_last or not seen_before[group])
        assert winners[group] == (rows[-1 if takes_last else 0] if is_open else NO_ROW)
        assert seen[group] == (seen_before[group] or bool(rows))


@given(ordered_rows(), st.integers(0, 30), st.booleans(), st.booleans())
def test_running_picks_are_the_ends_of_the_rows_so_far(
    drawn: Any, cut: int, takes_first: bool, is_before: bool
) -> None:
    _, group_ids, valid = drawn
    places = np.full(N_GROUPS, NO_ROW, np.int64)
    found: list[int] = []
    for step in (slice(0, cut), slice(cut, None)):
        out = np.empty(len(group_ids[step]), np.int64)
        columns = frozen(group_ids[step]), frozen(valid[step])
        run_picks(*columns, takes_first, is_before, 100 + len(found), places, out)
        found += out.tolist()
    for row, place in enumerate(found):
        earlier = [
            other
            for other in range(row if is_before else row + 1)
            if group_ids[other] == group_ids[row] and (len(valid) == 0 or valid[other])
        ]
        assert place == (100 + earlier[0 if takes_first else -1] if earlier else NO_ROW)
