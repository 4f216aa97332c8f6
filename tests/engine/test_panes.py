"""Groups by pane against sums in dictionaries: dense panes, and windows out of pane runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.operators.windowing import ALL_WINDOWS, WindowGrid
from millstream.engine.state import dense_pane, dense_panes, pane_runs
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.key_table import KeyPart
from millstream.engine.state.pane_runs import PaneRuns, WindowGroups
from millstream.engine.state.places import RowPlaces
from millstream.engine.state.words import WordSpec
from millstream.kernels.programs import Opcode
from millstream.planner.nodes import Window

KEYS = st.sampled_from(["a", "b", "c", None])
SUM = WordSpec(Opcode.SUM_I64, "v")
MAX = WordSpec(Opcode.MAX_I64, "v")
COUNT = WordSpec(Opcode.COUNT, None)
Row = tuple[Any, int]
rows_of_a_part = st.lists(st.tuples(KEYS, st.integers(-5, 5)), min_size=1, max_size=6)


def batch_of(rows: list[Row]) -> pa.RecordBatch:
    keys, values = zip(*rows, strict=True)
    return pa.record_batch({"k": pa.array(keys, pa.string()), "v": pa.array(values, pa.int64())})


@given(
    steps=st.lists(st.tuples(st.integers(0, 4), rows_of_a_part), max_size=12),
    has_count=st.booleans(),
    limits=st.lists(st.integers(0, 5), max_size=3),
)
def test_dense_panes_add_up_what_dictionaries_do(
    steps: list[tuple[int, list[Row]]], has_count: bool, limits: list[int]
) -> None:
    specs = [SUM, MAX, COUNT] if has_count else [SUM, MAX]
    panes = DensePanes([pa.string()], specs, merges=False)
    assert panes.counts_rows is not has_count
    schema = pa.schema({"k": pa.string(), "v": pa.int64()})
    places = RowPlaces(["v", "v", None], schema)
    wanted: dict[tuple[int, Any], list[int]] = defaultdict(list)
    got: dict[tuple[int, Any], tuple[int, ...]] = {}

    def close(limit: int) -> None:
        for groups in panes.close(limit):
            assert groups.n_groups == len(groups.keys[0])
            columns = [groups.keys[0], *groups.states]
            assert len(groups.states) == len(specs)
            for key, *states in zip(*(column.to_pylist() for column in columns), strict=True):
                assert (groups.pane, key) not in got
                got[groups.pane, key] = tuple(states)

    later = iter(limits)
    done_below = 0
    for number, (pane, rows) in enumerate(steps):
        pane += done_below
        if not panes.takes_rows:
            close(ALL_PANES)
        if number % 3 == 2:
            done_below = max(done_below, next(later, 0))
            close(done_below)
            pane = max(pane, done_below)
        if any((closed, key) in got for closed in [pane] for key in ("a", "b", "c", None)):
            continue
        batch = batch_of(rows)
        panes.add([KeyPart([batch.column("k")], (), len(rows))], [pane], places.of([batch]))
        for key, value in rows:
            wanted[pane, key].append(value)
    close(ALL_PANES)
    assert panes.n_groups == 0
    assert got == {
        group: (sum(values), max(values), len(values))[: len(specs)]
        for group, values in wanted.items()
    }


ALL_PANES = 1 << 62


def test_parts_of_several_panes_go_in_at_once() -> None:
    panes = DensePanes([pa.int64()], [COUNT], merges=False)
    batches = [pa.record_batch({"k": [1, 2, 1]}), pa.record_batch({"k": [2]})] * 2
    places = RowPlaces([None], batches[0].schema).of(batches)
    parts = [KeyPart([batch.column("k")], (), batch.num_rows) for batch in batches]
    panes.add(parts, [3, 3, 4, 3], places)
    found = {groups.pane: groups for groups in panes.close(5)}
    assert {pane: groups.states[0].to_pylist() for pane, groups in found.items()} == {
        3: [2, 3],
        4: [2, 1],
    }
    assert (found[3].n_old, found[4].n_old) == (0, 0)


@pytest.mark.parametrize("has_count", [True, False])
def test_groups_are_added_to_those_of_rows(has_count: bool) -> None:
    specs = [SUM, COUNT, WordSpec(Opcode.COUNT, "v"), MAX] if has_count else [SUM, MAX]
    panes, other = (DensePanes([pa.string()], specs, merges=False) for _ in range(2))
    places = RowPlaces([spec.column for spec in panes._specs], batch_of([("a", 1)]).schema)

    def add(target: DensePanes, rows: list[Row]) -> None:
        batch = batch_of(rows)
        target.add([KeyPart([batch.column("k")], (), len(rows))], [3], places.of([batch]))

    add(panes, [("a", 5), ("b", 7)])
    add(other, [("c", -1), ("b", 2), ("b", 9), ("e", 4)])
    panes.add_groups(other.close(4)[0])
    add(panes, [("c", -3), ("d", 0)])
    (groups,) = panes.close(4)
    columns = [groups.keys[0], *groups.states]
    found = {key: states for key, *states in zip(*(c.to_pylist() for c in columns), strict=True)}
    want = {"a": [5, 1, 1, 5], "b": [18, 3, 3, 9], "c": [-4, 2, 2, -1], "d": [0, 1, 1, 0]}
    want["e"] = [4, 1, 1, 4]
    assert found == {key: v if has_count else [v[0], v[3]] for key, v in want.items()}


def test_a_table_with_too_many_keys_is_left_when_its_panes_have_ended(monkeypatch) -> None:
    monkeypatch.setattr(dense_panes, "_LITTLE_ROOM", 0)
    panes = DensePanes([pa.int64()], [COUNT], merges=False)

    def add(pane: int, keys: list[int]) -> None:
        batch = pa.record_batch({"k": keys})
        places = RowPlaces([None], batch.schema).of([batch])
        panes.add([KeyPart([batch.column("k")], (), len(keys))], [pane], places)

    add(0, list(range(100)))
    add(1, [7])
    panes.close(1)
    assert panes.takes_rows
    add(2, [8, 9])
    # The pane before has hardly a key of them all.
    assert not panes.takes_rows
    (sparse,) = panes.close(2)
    assert (sparse.n_groups, sparse.n_old, sparse.keys[0].to_pylist()) == (1, 1, [7])
    assert not panes.takes_rows
    panes.close(3)
    assert panes.takes_rows
    assert panes.n_keys == 0


def test_small_panes_that_often_have_too_much_room_are_given_up(monkeypatch) -> None:
    monkeypatch.setattr(dense_panes, "_LITTLE_ROOM", 0)
    panes = DensePanes([pa.int64()], [COUNT], merges=False)

    def add(pane: int, n_keys: int) -> None:
        batch = pa.record_batch({"k": range(pane, pane + n_keys)})
        places = RowPlaces([None], batch.schema).of([batch])
        panes.add([KeyPart([batch.column("k")], (), n_keys)], [pane], places)

    def leaves_keys() -> bool:
        for pane in range(6):
            add(pane, 1)
        panes.close(6)
        assert panes.n_keys == 0
        return panes.takes_rows

    assert [leaves_keys(), leaves_keys()] == [True, True]
    add(7, 600)
    panes.close(8)
    assert [leaves_keys() for _ in range(3)] == [True, True, False]
    # Nor are partial groups taken then.
    assert not panes.takes(8)


def expected(
    grid: WindowGrid, partials: list[tuple[int, int, list[Row]]]
) -> dict[tuple[int, Any], tuple[int, int]]:
    sums: dict[tuple[int, Any], list[int]] = defaultdict(list)
    for pane, first_end, rows in partials:
        last_panes = grid.expand(np.array([pane]), np.array([first_end]))[1]
        for last_pane in last_panes.tolist():
            for key, value in rows:
                sums[last_pane, key].append(value)
    return {group: (sum(values), max(values)) for group, values in sums.items()}


def of_groups(groups: WindowGroups | None) -> Counter[tuple[int, Any, int, int]]:
    if groups is None:
        return Counter()
    keys, sums, maxima = (column.to_pylist() for column in (*groups.keys, *groups.states))
    last_panes = groups.last_panes
    panes = [last_panes] * len(keys) if isinstance(last_panes, int) else last_panes.tolist()
    assert panes == sorted(panes)
    return Counter(zip(panes, keys, sums, maxima, strict=True))


@pytest.mark.parametrize("kind", ["hop", "cumulate"])
@given(data=st.data())
def test_windows_out_of_panes_are_those_of_dictionaries(kind: Any, data: st.DataObject) -> None:
    window = Window(kind, "ts", pa.int64(), size=6, step=2)
    grid = WindowGrid(window, 0)
    unique_keys = st.lists(
        st.tuples(KEYS, st.integers(-5, 5)), max_size=4, unique_by=lambda r: r[0]
    )
    drawn = st.lists(
        st.tuples(
            st.integers(-3, 6), st.one_of(st.just(ALL_WINDOWS), st.integers(0, 7)), unique_keys
        ),
        max_size=10,
    )
    partials = [partial for partial in data.draw(drawn) if partial[2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pane_runs, "_SPARSE", data.draw(st.sampled_from([0, 8])))
        patch.setattr(pane_runs, "_RUNS_MAX", data.draw(st.sampled_from([1, 4])))
        patch.setattr(pane_runs, "_UNMERGED_ROWS_MAX", data.draw(st.sampled_from([0, 64])))
        patch.setattr(pane_runs, "_GARBAGE_KEYS_MIN", 0)
        runs = PaneRuns([pa.string()], [SUM, MAX], ALL_WINDOWS)
        for pane, first_end, rows in partials:
            batch = batch_of(rows)
            keys, states = [batch.column("k")], [batch.column("v")] * 2
            if first_end == ALL_WINDOWS:
                runs.add_run(pane, keys, states, len(rows))
            else:
                panes = np.full(len(rows), pane, np.int64)
                runs.add_mixed(panes, np.full(len(rows), first_end, np.int64), keys, states)
        wanted = Counter(
            (last_pane, key, *states)
            for (last_pane, key), states in expected(grid, partials).items()
        )
        cut = data.draw(st.integers(-3, 9))
        if data.draw(st.booleans()):
            got = (
                of_groups(runs.windows(grid.last_of_all, ALL_WINDOWS, cut))
                if partials
                else Counter()
            )
        else:
            got = Counter()
            for last in grid.last_panes(runs.panes()):
                if last < cut:
                    first = int(grid.first_panes(np.array([last]))[0])
                    got += of_groups(runs.window(first, int(last)))
        runs.drop(lambda panes: grid.last_of_all(panes) < cut)
        if runs.n_rows > 0:
            got += of_groups(runs.windows(grid.last_of_all, cut, ALL_PANES))
    assert got == wanted
    assert runs.state_bytes > 0


def test_a_run_is_given_away_by_each_window_and_keys_are_not_copied() -> None:
    runs = PaneRuns([pa.int64()], [SUM], ALL_WINDOWS)
    keys = pa.array(range(100))
    for pane in (0, 1):
        runs.add_run(pane, [keys], [pa.array(range(100))], 100)
    both, first = runs.window(0, 1), runs.window(0, 0)
    assert both is not None
    assert first is not None
    assert both.states[0].to_pylist() == [2 * value for value in range(100)]
    assert first.states[0].to_pylist() == list(range(100))
    addresses = {groups.keys[0].buffers()[1].address for groups in (both, first)}
    assert len(addresses) == 1


def test_the_least_capacity_is_for_a_handful_of_keys() -> None:
    assert dense_pane._capacity(0, 3) == dense_pane._CAPACITY_LEAST
    assert dense_pane._capacity(0, 1000) == 1000
    assert dense_pane._capacity(1000, 1001) == 2000


def test_many_open_panes_of_few_keys_take_little_room() -> None:
    panes = DensePanes([pa.int64()], [COUNT], merges=False)
    n_taken = 0
    for pane in range(1000):
        if panes.takes_rows:
            n_taken += 1
            batch = pa.record_batch({"k": [2 * pane, 2 * pane + 1]})
            places = RowPlaces([None], batch.schema).of([batch])
            panes.add([KeyPart([batch.column("k")], (), 2)], [pane], places)
    assert n_taken < 100
    assert panes.n_groups < 10_000
