"""The oracles agree with each other, so that a difference is the engine's."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.equivalence.case import TIME_UNITS
from tests.equivalence.compare import difference, rows_of
from tests.equivalence.generate import GENERATORS, generate
from tests.equivalence.lateness import assign_windows, windows_of
from tests.equivalence.oracle import answer_of_datafusion, answer_of_duckdb, run_datafusion
from tests.equivalence.windows import Window, WindowKind, windowed_sql

SEEDS = range(12)


@pytest.mark.parametrize("feature", GENERATORS)
def test_datafusion_and_duckdb_give_one_answer(feature: str) -> None:
    for seed in SEEDS:
        case = generate(feature, seed)
        if case.portable:
            expected = answer_of_datafusion(case)
            answer = _in_time_units_of(expected, answer_of_duckdb(case))
            problem = difference(answer, expected, same_types=False)
            assert problem is None, f"seed {seed}: {case.oracle_sql}\n{problem}"


def _in_time_units_of(expected: pa.Table, answer: pa.Table) -> pa.Table:
    for index, field in enumerate(expected.schema):
        column = answer.column(index)
        if pa.types.is_timestamp(field.type) and pa.types.is_timestamp(column.type):
            answer = answer.set_column(index, field.name, column.cast(field.type))
    return answer


@pytest.mark.parametrize("feature", GENERATORS)
def test_equal_seeds_give_equal_cases(feature: str) -> None:
    first, second = generate(feature, 7), generate(feature, 7)
    assert first.sql == second.sql
    assert rows_of(first.streams[0].rows) == rows_of(second.streams[0].rows)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    kinds: tuple[WindowKind, ...] = ("tumble", "hop", "cumulate", "session")
    kind = draw(st.sampled_from(kinds))
    step = draw(st.integers(1, 12))
    n_steps = draw(st.integers(1, 4)) if kind in ("hop", "cumulate") else 1
    remainder = draw(st.integers(0, step - 1)) if kind == "hop" else 0
    offset = 0 if kind == "session" else draw(st.integers(-15, 15))
    return Window(kind, step * n_steps + remainder, step, offset)


@given(windows(), st.lists(st.tuples(st.integers(-60, 60), st.sampled_from("ab")), max_size=12))
def test_the_reference_and_the_arithmetic_of_sql_assign_the_same_windows(
    window: Window, rows: list[tuple[int, str]]
) -> None:
    times, keys = [time for time, _ in rows], [key for _, key in rows]
    table = pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            TIME_UNITS: pa.array(times, pa.int64()),
            "k": pa.array(keys, pa.string()),
        }
    )
    sql = f"SELECT id, window_start, window_end FROM ({windowed_sql(window, 't', ('k',))}) AS q"
    expected = {tuple(row.values()) for row in run_datafusion(sql, {"t": table}).to_pylist()}
    assignment = assign_windows(times, window, delay=1000, keys=keys)
    got = {(entry.row, entry.window_start, entry.window_end) for entry in assignment.punctual}
    assert got == expected
    assert assignment.late == []


@pytest.mark.parametrize(
    ("time", "window", "expected"),
    [
        (-1, Window("tumble", 5, 5), [(-5, 0)]),
        (5, Window("tumble", 5, 5, 2), [(2, 7)]),
        (7, Window("hop", 10, 5), [(0, 10), (5, 15)]),
        (5, Window("hop", 10, 4), [(-4, 6), (0, 10), (4, 14)]),
        (12, Window("cumulate", 30, 10), [(0, 20), (0, 30)]),
        (-12, Window("cumulate", 30, 10), [(-30, -10), (-30, 0)]),
    ],
)
def test_windows_are_half_open_and_aligned(
    time: int, window: Window, expected: list[tuple[int, int]]
) -> None:
    assert windows_of(time, window) == expected


def test_a_row_is_late_when_the_rows_before_it_have_closed_its_window() -> None:
    assignment = assign_windows([1, 5, 4, 5, 12, 9, 10], Window("tumble", 5, 5), delay=0)
    assert [entry.row for entry in assignment.late] == [2, 5]


def test_a_row_may_be_late_for_one_of_its_windows_only() -> None:
    assignment = assign_windows([1, 12, 9], Window("hop", 10, 5), delay=0)
    assert [(entry.window_start, entry.row) for entry in assignment.late] == [(0, 2)]
    assert assignment.rows_late == 0


def test_allowed_lateness_keeps_a_window_open_after_its_end() -> None:
    times = [1, 7, 3, 8, 4]
    assignment = assign_windows(times, Window("tumble", 5, 5), delay=0, allowed_lateness=3)
    assert [entry.row for entry in assignment.late] == [4]


def test_rows_exactly_a_gap_apart_are_one_session_whatever_the_watermark() -> None:
    assignment = assign_windows([0, 10, 10, 21], Window("session", 10, 10), delay=0, keys="abaa")
    found = {(entry.row, entry.window_start, entry.window_end) for entry in assignment.punctual}
    assert found == {(0, 0, 20), (2, 0, 20), (1, 10, 20), (3, 21, 31)}


def test_a_row_that_bridges_two_sessions_merges_them() -> None:
    assignment = assign_windows([0, 20, 10], Window("session", 10, 10), delay=20)
    assert {(entry.window_start, entry.window_end) for entry in assignment.punctual} == {(0, 30)}


def test_a_row_before_the_watermark_is_late_for_a_session_unless_it_joins_an_open_one() -> None:
    times = [0, 100, 80, 95]
    assignment = assign_windows(times, Window("session", 10, 10), delay=0)
    assert [entry.row for entry in assignment.late] == [2]
    assert (3, 95, 110) in {
        (entry.row, entry.window_start, entry.window_end) for entry in assignment.punctual
    }
