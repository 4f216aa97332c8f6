"""Windows put together from panes, and keys that are given up where panes have few of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine import closings
from millstream.engine.operators import sliding_aggregate
from millstream.engine.state import dense_panes, pane_windows
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.pane_windows import PaneWindows
from tests.engine.pane_groups import WINDOW_SPECS, int_words, little_rooms, rows_of


def window_of(groups: PaneGroups | None) -> dict[int, tuple[Any, ...]]:
    if groups is None:
        return {}
    found = {key: tuple(states) for key, *states in rows_of([*groups.keys, *groups.states])}
    assert len(found) == groups.n_groups == len(groups.keys[0])
    return found


def window_by_definition(
    rows: dict[int, list[tuple[int, int]]], first: int, last: int
) -> dict[int, tuple[Any, ...]]:
    of_keys: dict[int, list[int]] = defaultdict(list)
    for pane in range(first, last + 1):
        for key, value in rows.get(pane, ()):
            of_keys[key].append(value)
    return {key: (sum(v), max(v), min(v) / 4) for key, v in of_keys.items()}


@pytest.mark.parametrize("few_panes", [0, pane_windows._FEW_PANES])
@pytest.mark.parametrize("kind", ["hop", "cumulate"])
@settings(max_examples=60)
@given(data=st.data())
def test_windows_out_of_panes_are_those_of_dictionaries(
    kind: str, few_panes: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, 20))
    with patch.object(pane_windows, "_FEW_PANES", few_panes):
        panes = DensePanes(
            [pa.int64()], WINDOW_SPECS, merges=True, keeps_panes=data.draw(st.booleans())
        )
        windows = PaneWindows(panes, k)
    asks_for_empty_windows, room = data.draw(st.booleans()), data.draw(little_rooms)

    def first_of(last: int) -> int:
        return last // k * k if kind == "cumulate" else last - k + 1

    rows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    results: list[tuple[PaneGroups | None, dict[int, tuple[Any, ...]]]] = []
    limit = data.draw(st.integers(-25, 25))
    for number in range(data.draw(st.integers(1, 10))):
        # Keys that appear later have no words in the panes before.
        keys = st.integers(0, 2 + 2 * number)
        new = st.lists(st.tuples(keys, st.integers(-9, 9)), min_size=1, max_size=8)
        # Panes ahead, in any order, with gaps, some of them again and again.
        for of_step in data.draw(st.lists(st.lists(st.integers(0, k + 3)), max_size=6)):
            assert all(panes.takes(limit + ahead) is panes.takes_rows for ahead in of_step)
            if panes.takes_rows:
                step = [(limit + ahead, data.draw(new)) for ahead in of_step]
                with patch.object(dense_panes, "_LITTLE_ROOM", room):
                    panes.add_words([int_words(pane, added) for pane, added in step])
                for pane, added in step:
                    rows[pane] += added
        least, limit = limit, limit + data.draw(st.integers(1, k + 4))
        asked = [(first_of(last), last) for last in range(least, limit)]
        defined = {some: window_by_definition(rows, *some) for some in asked}
        if not asks_for_empty_windows:
            asked = [some for some in asked if defined[some]]
        while asked:
            n_asked = data.draw(st.integers(1, len(asked)))
            together, asked = asked[:n_asked], asked[n_asked:]
            for some, groups in zip(together, windows.windows(together), strict=True):
                expected = defined[some]
                assert (groups is None) is (not expected)
                assert window_of(groups) == expected
                results.append((groups, expected))
                # What came now would be missing in windows that were put together before.
                assert not panes.takes(some[1])
        windows.drop(first_of(limit))
        left = [pane for pane in sorted(rows) if pane >= first_of(limit)]
        assert windows.panes() == left
        assert len(left) <= windows.n_groups <= panes.n_keys * len(left)
        assert windows.state_bytes > 0
    # Nobody has written to what was given away.
    for groups, expected in results:
        assert window_of(groups) == expected


def test_a_pane_has_a_part_in_few_sums_however_many_windows_it_is_in() -> None:
    panes = DensePanes([pa.int64()], WINDOW_SPECS, merges=True)
    windows = PaneWindows(panes, 100)
    with patch.object(pane_windows, "add_up", wraps=pane_windows.add_up) as added:
        for last in range(500):
            panes.add_words([int_words(last, [(1, last)])])
            windows.windows([(last - 99, last)])
            windows.drop(last - 98)
    # Three sums, of two parts each.
    n_parts = sum(len(some) for call in added.call_args_list for some in call.args[2])
    assert 0 < n_parts <= 6 * 500


@pytest.mark.parametrize("few_panes", [0, 8])
def test_a_table_with_too_many_keys_is_begun_anew_once_nothing_is_left(few_panes: int) -> None:
    with patch.object(pane_windows, "_FEW_PANES", few_panes):
        panes = DensePanes([pa.int64()], WINDOW_SPECS, merges=True)
        windows = PaneWindows(panes, 3)
    rows = {0: [(key, key) for key in range(100)], 1: [(7, 1)], 2: [(7, 2)]}
    with patch.object(dense_panes, "_LITTLE_ROOM", 0):
        for pane, added in rows.items():
            panes.add_words([int_words(pane, added)])
    # The pane before has hardly a key of them all.
    assert not panes.takes(3)
    for last in range(5):
        found = window_of(windows.windows([(last - 2, last)])[0])
        assert found == window_by_definition(rows, last - 2, last)
        assert panes.n_keys == 100
        windows.drop(last - 1)
        assert panes.takes_rows is (last == 4)
    assert (panes.n_keys, windows.panes()) == (0, [])
    # The same keys have other numbers now.
    panes.add_words([int_words(5, [(9, 3), (7, 4)])])
    panes.add_words([int_words(6, [(7, 5)])])
    found = [window_of(groups) for groups in windows.windows([(3, 5), (4, 6)])]
    assert found == [{9: (3, 3, 0.75), 7: (4, 4, 1.0)}, {9: (3, 3, 0.75), 7: (9, 5, 1.0)}]


@pytest.mark.parametrize("keeps_panes", [False, True])
@pytest.mark.parametrize("are_together", [False, True])
def test_keys_are_given_up_where_a_pane_before_the_last_has_few(keeps_panes, are_together) -> None:
    many, few = [(key, key) for key in range(100)], [(0, 1)]

    def taking(*panes_of_steps: list[list[tuple[int, int]]]) -> bool:
        panes = DensePanes([pa.int64()], WINDOW_SPECS, merges=True, keeps_panes=keeps_panes)
        parts = [
            [int_words(pane, rows) for pane, rows in enumerate(of_step)]
            for of_step in panes_of_steps
        ]
        with patch.object(dense_panes, "_LITTLE_ROOM", 0):
            for of_step in parts:
                for some in [of_step] if are_together else [[part] for part in of_step]:
                    panes.add_words(some)
        return panes.takes_rows

    assert taking([many, many, many])
    # The last pane may have more to come.
    assert taking([many, few])
    assert not taking([many, few, many])


@pytest.mark.parametrize("keeps_panes", [False, True])
def test_a_pane_that_had_few_groups_may_have_got_more(keeps_panes) -> None:
    panes = DensePanes([pa.int64()], WINDOW_SPECS, merges=True, keeps_panes=keeps_panes)
    many = [(key, key) for key in range(100)]
    with patch.object(dense_panes, "_LITTLE_ROOM", 0):
        for pane, rows in ((0, many), (1, [(0, 1)]), (1, many), (2, many)):
            panes.add_words([int_words(pane, rows)])
    assert panes.takes_rows


def test_panes_that_are_used_again_are_counted_anew() -> None:
    panes = DensePanes([pa.int64()], WINDOW_SPECS, merges=True)
    many = [(key, key) for key in range(100)]
    with patch.object(dense_panes, "_LITTLE_ROOM", 0):
        # In no order of the keys, so that the memory is the pane's own.
        panes.add_words([int_words(0, many)])
        panes.add_words([int_words(1, many[::-1])])
        panes.add_words([int_words(2, many)])
        panes.drop([0, 1])
        panes.add_words([int_words(3, [(0, 1)])])
        assert panes.takes_rows
        panes.add_words([int_words(4, many)])
    assert not panes.takes_rows


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("n_most", [1, 7, sliding_aggregate._WINDOWS_MAX])
def test_many_windows_that_end_at_once_are_put_together_in_portions(partitions, n_most) -> None:
    # So many rows of a pane that they are taken as one.
    n_panes, n_keys = 70, 300
    session = ms.Session(partitions=partitions)
    times = [pane for pane in range(n_panes) for _ in range(n_keys)]
    table = pa.table({"ts": times, "k": list(range(n_keys)) * n_panes})
    session.create_stream("t", table.schema, event_time="ts")
    query = session.sql(
        "SELECT window_end, k, count(*) AS n FROM t GROUP BY k WINDOW SLIDING(3, 1)"
    )
    with (
        patch.object(sliding_aggregate, "_WINDOWS_MAX", n_most),
        patch.object(closings, "ROWS_MAX", 1 << 19),
    ):
        found = query.run({"t": table}, batch_rows=4000)
    rows = zip(*(found[name].to_pylist() for name in ("window_end", "k", "n")), strict=True)
    expected = {
        (end, key): len([pane for pane in range(end - 3, end) if 0 <= pane < n_panes])
        for end in range(1, n_panes + 3)
        for key in range(n_keys)
    }
    assert {(end, key): n for end, key, n in rows} == expected
    assert found.num_rows == len(expected)
