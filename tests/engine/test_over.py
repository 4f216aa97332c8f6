"""Window functions over a stream answer as DataFusion does over the rows that are on time."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.operators.over_frames import OverFrames
from millstream.engine.state.keyed_rows import Keys
from millstream.engine.state.short_frames import SHORT_PRECEDING_MAX
from millstream.errors import InternalError
from millstream.planner.nodes import OverCall
from tests.engine.over_stream import (
    FOLDS,
    VALUES,
    Frame,
    Stream,
    call_of,
    check,
    lag_calls,
    rank_calls,
    rows_of,
)

frames = st.sampled_from(
    [Frame("rows", n) for n in (0, 1, 3, 20, None)] + [Frame("range", n) for n in (0, 2, 9, None)]
)
batch_cuts = st.sampled_from([1, 7, 1000])
seeds = st.integers(0, 2**32)


@settings(max_examples=60)
@given(
    frames,
    st.lists(st.sampled_from(FOLDS + VALUES), min_size=1, max_size=5, unique=True),
    batch_cuts,
    seeds,
    st.sampled_from([("k",), ("k", "s"), ()]),
    st.sampled_from([0, 6, 1000]),
)
def test_rows_in_the_order_of_event_time(
    frame: Frame,
    texts: list[str],
    batch_rows: int,
    seed: int,
    keys: tuple[str, ...],
    delay: int,
) -> None:
    check(rows_of(90, seed), frame.calls(texts), batch_rows, keys=keys, delay=delay)


@settings(max_examples=30)
@given(
    st.sampled_from([Frame("rows", n) for n in (0, 1, 5, None)]),
    st.lists(st.sampled_from(FOLDS + VALUES), min_size=1, max_size=5, unique=True),
    batch_cuts,
    seeds,
)
def test_rows_in_the_order_of_arrival(
    frame: Frame, texts: list[str], batch_rows: int, seed: int
) -> None:
    calls = [*frame.calls(texts), *lag_calls(), *rank_calls()[:1]]
    check(rows_of(60, seed), calls, batch_rows, by_time=False)


@settings(max_examples=20)
@given(batch_cuts, seeds)
def test_functions_without_a_frame(batch_rows: int, seed: int) -> None:
    check(rows_of(60, seed), [*lag_calls(), *rank_calls()], batch_rows)


def test_frames_of_several_kinds_in_one_operator() -> None:
    texts = ["sum(x)", "min(i)", "first_value(s)", "avg(i)", "count(x)"]
    several = [Frame("rows", 2), Frame("rows", None), Frame("range", 4), Frame("range", None)]
    calls = [call for frame in several for call in frame.calls(texts)]
    check(rows_of(300, 1), [*calls, *lag_calls(), *rank_calls()], 7)


@settings(max_examples=40)
@given(
    st.permutations(
        ["sum(i)", "min(i)", "max(i)", "sum(id)", "min(id)", "max(id)", "sum(u)", "max(u)"]
    ),
    st.integers(2, 8),
    st.sampled_from([0, 1, 2, 5, SHORT_PRECEDING_MAX, SHORT_PRECEDING_MAX + 1]),
    st.sampled_from([7, 100]),
)
def test_folds_of_several_columns_side_by_side(
    texts: list[str], n_calls: int, preceding: int, batch_rows: int
) -> None:
    rows = rows_of(240, preceding)
    check(rows, Frame("rows", preceding).calls(texts[:n_calls]), batch_rows)


def test_rows_of_a_frame_that_is_kept_in_two_ways_count_once() -> None:
    keys = Keys([pa.int64()])
    frames = OverFrames(keys.columns, is_timed=False)
    all_ways = [frames.of(("rows", 3)), frames.with_rings(("rows", 3)), frames.of(("rows", 40))]
    rows = keys.number(12, [pa.array([1, 1, 1, 1, 1, 2] * 2)], None)
    for frame in all_ways:
        frame.open(rows)
        frame.close()
    assert [frame.n_rows for frame in all_ways] == [5, 5, 12]
    assert frames.n_rows == 17


@pytest.mark.parametrize("batch_rows", [37, 5000])
def test_many_keys_and_long_frames_move_rings(batch_rows: int) -> None:
    texts = ["sum(x)", "max(u)", "first_value(s)"]
    frames = [Frame("rows", 40), Frame("range", 300), Frame("rows", None)]
    calls = [call for frame in frames for call in frame.calls(texts)]
    check(rows_of(5000, 3, n_keys=300), calls, batch_rows)


def test_many_rows_of_one_time_stay_in_one_block() -> None:
    rows = rows_of(150_000, 5, n_keys=9)
    times = np.sort(np.arange(150_000) // 40_000)
    rows = rows.set_column(2, "ts", pa.array(times))
    calls = [*Frame("range", 0).calls(["count(*)", "last_value(i)"]), *rank_calls()]
    check(rows, calls, 200_000)


BUFFERED = ("median(x)", "stddev(x)", "nth_value(s, 2)", "array_agg(id)", "count(DISTINCT s)")


@settings(max_examples=20)
@given(frames, st.lists(st.sampled_from(BUFFERED), min_size=1, max_size=3, unique=True), batch_cuts)
def test_functions_without_a_kernel(frame: Frame, texts: list[str], batch_rows: int) -> None:
    calls = [*frame.calls(texts, "buffered"), *frame.calls(["first_value(x)", "sum(i)"])]
    check(rows_of(40, 11), calls, batch_rows)


def test_lag_with_a_default_has_no_kernel() -> None:
    calls = [call_of("lag(i, 2, -1)", "rows", 2, "buffered", "")]
    check(rows_of(60, 12), calls, 7)


def test_functions_of_constants_go_to_datafusion() -> None:
    check(rows_of(40, 13), [*Frame("rows", 2).calls(["sum(1)", "count(*)"])], 7)


def test_an_infinity_that_leaves_a_frame_leaves_nothing_behind() -> None:
    values = [1.0, math.inf, 2.0, -math.inf, 3.0, math.nan, 4.0, 5.0, 6.0]
    rows = rows_of(len(values), 0, n_keys=1, disorder=0)
    rows = rows.set_column(5, "x", pa.array(values))
    got = Stream(Frame("rows", 1).calls(["sum(x)", "avg(x)", "max(x)"])).push_all(rows, 2)
    sums, averages, greatest = (column.to_pylist() for column in got.columns[-3:])
    nan = pytest.approx(math.nan, nan_ok=True)
    assert sums == [1, math.inf, math.inf, -math.inf, -math.inf, nan, nan, 9, 11]
    assert averages[-2:] == [4.5, 5.5]
    assert greatest == [1, math.inf, math.inf, 2, 3, nan, nan, 5, 6]


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_neither_does_an_infinity_among_numbers_of_half_the_width(cut: int) -> None:
    values = [1.0, math.inf, 2.0, -math.inf, 3.0, math.nan, 4.0, 5.0, 6.0]
    halves = pa.array([np.float16(value) for value in values])
    table = pa.table({"ts": range(len(values)), "h": halves})
    over = "OVER (ORDER BY ts ROWS 1 PRECEDING)"
    calls = [f"{call} {over}" for call in ("sum(h)", "avg(h)", "max(h)", "lag(h)")]
    got = answer(f"SELECT {', '.join(calls)} FROM t", table, cut)
    sums, averages, greatest, lags = (column.to_pylist() for column in got.columns)
    nan = pytest.approx(math.nan, nan_ok=True)
    assert sums == [1, math.inf, math.inf, -math.inf, -math.inf, nan, nan, 9, 11]
    assert averages[-2:] == [4.5, 5.5]
    assert greatest == [1, math.inf, math.inf, 2, 3, nan, nan, 5, 6]
    assert lags == [None, *values[:5], nan, *values[6:8]]


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_bits_of_frames_that_all_values_have_left_are_null(cut: int) -> None:
    values = [3, None, None, 5, 5, None, 1, None, None]
    table = pa.table({"ts": range(len(values)), "i": pa.array(values, pa.int64())})
    rows, filtered = (
        answer(f"SELECT bit_xor(i){only} OVER (ORDER BY ts ROWS 1 PRECEDING) FROM t", table, cut)
        for only in ("", " FILTER (WHERE i > 1)")
    )
    assert rows.column(0).to_pylist() == [3, 3, None, 5, 0, 5, 1, 1, None]
    assert filtered.column(0).to_pylist() == [3, 3, None, 5, 0, 5, None, None, None]


@pytest.mark.parametrize("cut", [1, 4])
def test_lists_hold_dictionaries_of_any_type(cut: int) -> None:
    numbers = pa.array([1, 2, 1, None], pa.int32()).dictionary_encode()
    table = pa.table({"ts": range(4), "d": numbers})
    got = answer("SELECT array_agg(d) OVER (ORDER BY ts ROWS 1 PRECEDING) FROM t", table, cut)
    assert got.schema.types == [pa.list_(numbers.type)]
    assert got.column(0).to_pylist() == [[1], [1, 2], [2, 1], [1, None]]


@pytest.mark.parametrize("call_sql", ["first_value(s)", "last_value(s)", "last_value('x')"])
def test_values_of_any_type_are_looked_up_without_keeping_rows(call_sql: str) -> None:
    n_rows, n_keys = 3000, 3
    table = pa.table({"ts": range(n_rows), "s": [str(row) for row in range(n_rows)]})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts")
    results = ms.CollectSink()
    over = "OVER (PARTITION BY ts % 3 ORDER BY ts)"
    with session.sql(f"SELECT s, {call_sql} {over} AS r FROM t").start(results) as job:
        for batch in table.to_batches(max_chunksize=500):
            job.push("t", batch)
        job.finish()
        assert sum(part.state_rows for part in job.stats().partitions) <= 2 * n_keys
    firsts = [str(row % n_keys) for row in range(n_rows)]
    want = {"first_value(s)": firsts, "last_value(s)": table["s"].to_pylist()}
    assert results.table()["r"].to_pylist() == want.get(call_sql, ["x"] * n_rows)


def answer(sql: str, table: pa.Table, cut: int) -> pa.Table:
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts")
    return session.sql(sql).run({"t": table}, batch_rows=cut)


def test_sums_do_not_drift() -> None:
    values = np.tile([1e16, 1.0, -1e16, 0.1], 500)
    rows = rows_of(2000, 0, n_keys=1, disorder=0).set_column(5, "x", pa.array(values))
    got = Stream(Frame("rows", 0).calls(["sum(x)"])).push_all(rows, 300)
    assert got.column(got.num_columns - 1).to_numpy().tolist() == values.tolist()


def test_columns_of_all_types_pass_through() -> None:
    columns = {
        "ts": pa.array([3, 1, 2]),
        "view": pa.array(["a", None, "c"], pa.string_view()),
        "list": pa.array([[1], None, [2, 3]]),
        "struct": pa.array([{"a": 1}, {"a": None}, None]),
        "binary": pa.array([b"x", b"", None]),
        "nothing": pa.nulls(3),
        "flag": pa.array([True, None, False]),
        "decimal": pa.array([1, 2, None], pa.decimal128(20, 2)),
        "zone": pa.array([1, None, 3], pa.timestamp("us", "Europe/Rome")),
    }
    rows = pa.record_batch(columns)
    calls = [
        OverCall(f"{function} {name}", function, (name,), rows.schema.field(name).type, kind, n, "")
        for name in columns
        for function, kind, n in [
            ("lag", "rows", 1),
            ("first_value", "rows", 1),
            ("first_value", "rows", None),
            ("last_value", "range", 0),
        ]
    ]
    stream = Stream(calls, schema=rows.schema, keys=())
    got = stream.push_all(rows, 1)
    order = [1, 2, 0]
    for name, column in columns.items():
        values = [column.to_pylist()[row] for row in order]
        assert got[name].to_pylist() == values
        assert got[f"lag {name}"].to_pylist() == [None, *values[:2]]
        assert got.column(got.schema.names.index(f"last_value {name}")).to_pylist() == values


def test_extremes_of_narrow_and_unsigned_types() -> None:
    types = [pa.int8(), pa.uint16(), pa.uint64(), pa.float32(), pa.time32("s"), pa.timestamp("ns")]
    columns = {f"c{index}": pa.array([1, 0, None, 100], type_) for index, type_ in enumerate(types)}
    rows = pa.record_batch({"ts": pa.array([1, 2, 3, 4]), **columns})
    calls = [
        OverCall(f"{function} {name}", function, (name,), array.type, "rows", 1, "")
        for name, array in columns.items()
        for function in ("min", "max")
    ]
    got = Stream(calls, schema=rows.schema, keys=()).push_all(rows, 3)
    for name, array in columns.items():
        one, zero, _, hundred = array.to_pylist()
        assert got[f"min {name}"].to_pylist() == [one, zero, zero, hundred]
        assert got[f"max {name}"].to_pylist() == [one, one, zero, hundred]


def test_dictionaries_that_hold_a_null_are_merged() -> None:
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), ["a", None, "c"])
    rows = pa.record_batch({"ts": pa.array([1, 2, 3]), "s": dictionary})
    calls = [OverCall("first", "first_value", ("s",), dictionary.type, "rows", 1, "")]
    stream = Stream(calls, schema=rows.schema, keys=("s",), delay=10)
    got = stream.push_all(rows, 1)
    assert got["s"].to_pylist() == got["first"].to_pylist() == ["a", None, "c"]


def test_a_kernel_that_is_not_there_is_an_internal_error() -> None:
    call = OverCall("x", "median", ("x",), pa.float64(), "rows", 1, "median(x)")
    with pytest.raises(InternalError, match="no kernel computes median over 1 columns"):
        Stream([call])
    with pytest.raises(InternalError, match="order by it"):
        Stream(Frame("range", 1).calls(["sum(x)"]), order_column=None)
    with pytest.raises(InternalError, match="rank needs an order"):
        Stream(rank_calls(), order_column=None)
