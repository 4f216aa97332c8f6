"""Every aggregate with a kernel against DataFusion's answer over the whole table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from tests.equivalence.compare import difference, fold
from tests.equivalence.execution import cut, push_through
from tests.equivalence.oracle import run_datafusion

SIZE, STEP, GAP = 20, 10, 6
N_ROWS_MAX = 40
# Sums of quarters are exact, so that rounding errors of statistics stay near those of their result.
QUARTERS = st.integers(-4000, 4000).map(lambda n: n / 4)
TEXTS = st.sampled_from(["", "a", "ab", "b", "ä", "z" * 20])


def integers(n_bits: int, *, signed: bool = True) -> st.SearchStrategy[int]:
    least, greatest = (-(1 << n_bits - 1), (1 << n_bits - 1) - 1) if signed else (0, 2**n_bits - 1)
    near_zero = st.integers(max(least, -9), min(greatest, 9))
    return st.integers(least, greatest) | near_zero | st.sampled_from([least, greatest])


def unscaled(digits: int, scale: int) -> st.SearchStrategy[Decimal]:
    bound = 10**digits - 1
    whole = st.integers(-bound, bound) | st.integers(-99, 99)
    return whole.map(lambda n: Decimal(f"{n}E-{scale}"))


TIMES = st.integers(-(2**40), 2**40)
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "i8": (pa.int8(), integers(8)),
    "i16": (pa.int16(), integers(16)),
    "i32": (pa.int32(), integers(32)),
    "i64": (pa.int64(), integers(64)),
    "u8": (pa.uint8(), integers(8, signed=False)),
    "u16": (pa.uint16(), integers(16, signed=False)),
    "u32": (pa.uint32(), integers(32, signed=False)),
    "u64": (pa.uint64(), integers(64, signed=False)),
    "tame": (pa.int64(), st.integers(-1000, 1000)),
    "f16": (pa.float16(), st.integers(-100, 100).map(np.float16)),
    "f32": (pa.float32(), QUARTERS),
    "f64": (pa.float64(), QUARTERS),
    "flag": (pa.bool_(), st.booleans()),
    "date": (pa.date32(), st.integers(-9999, 9999)),
    "date_ms": (pa.date64(), st.integers(-9999, 9999).map(lambda day: 86_400_000 * day)),
    "time_s": (pa.time32("s"), st.integers(0, 86_399)),
    "time_ns": (pa.time64("ns"), st.integers(0, 86_399)),
    "stamp": (pa.timestamp("us"), TIMES),
    "zoned": (pa.timestamp("ms", "Europe/Berlin"), TIMES),
    "span": (pa.duration("us"), TIMES),
    "dec": (pa.decimal128(10, 2), unscaled(10, 2)),
    "dec_wide": (pa.decimal128(38, 3), unscaled(38, 3)),
    "dec_64": (pa.decimal64(12, 2), unscaled(12, 2)),
    "text": (pa.string(), TEXTS),
    "long_text": (pa.large_string(), TEXTS),
    "bytes": (pa.binary(), TEXTS.map(str.encode)),
    "word": (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    "code": (pa.dictionary(pa.int8(), pa.int64()), st.integers(-3, 3)),
}
INTS = ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"]
TEMPORAL = ["date", "date_ms", "time_s", "time_ns", "stamp", "zoned", "span"]
BYTES = ["text", "long_text", "bytes", "word"]
STATISTICS = ["var_pop", "var_samp", "var", "stddev", "stddev_pop", "stddev_samp"]
PAIR_STATISTICS = [
    *("covar_pop", "covar_samp", "covar", "corr", "regr_slope", "regr_intercept", "regr_count"),
    *("regr_r2", "regr_avgx", "regr_avgy", "regr_sxx", "regr_syy", "regr_sxy"),
]


def each(templates: Sequence[str], columns: Sequence[str]) -> list[str]:
    return [template.format(column) for column in columns for template in templates]


def picks() -> list[str]:
    plain = [
        *("first_value({})", "last_value({})", "any_value({})"),
        "first_value({}) FILTER (WHERE flag) IGNORE NULLS",
        "last_value({}) FILTER (WHERE flag)",
    ]
    ordered = [
        f"{name}_value(tame ORDER BY {{}}{direction}{nulls}, arrival)"
        for name in ("first", "last")
        for direction in ("", " DESC")
        for nulls in ("", " NULLS FIRST", " NULLS LAST")
    ]
    values = ["i8", "u64", "f16", "f32", "flag", "date", "zoned", "dec_wide", *BYTES]
    return [
        *each(plain, values),
        *each(ordered, ["i8", "u64", "f32", "flag", "stamp"]),
        "first_value(text ORDER BY span DESC, arrival) FILTER (WHERE tame > 0)",
        "last_value(dec ORDER BY i8, date DESC, arrival)",
        "first_value(1)",
    ]


FAMILIES: dict[str, list[str]] = {
    "counts": ["count(*)", *each(["count({})"], list(COLUMNS)), "count(1) FILTER (WHERE flag)"],
    "sums": [
        *each(["sum({})"], [*INTS, "f16", "f32", "f64", "span", "dec", "dec_wide", "code"]),
        # Doubles are exact for all sums of these, in whatever order they are added.
        *each(["avg({})"], [*INTS[:3], *INTS[4:7], "tame", "f16", "f32", "f64", "span", "dec"]),
    ],
    "extremes": each(
        ["min({})", "max({})"],
        [*INTS, "f16", "f32", "f64", "flag", *TEMPORAL, "dec", "dec_wide", "dec_64", *BYTES],
    ),
    "bits": [
        *each(["bit_and({})", "bit_or({})", "bit_xor({})"], [*INTS, "code"]),
        *("bool_and(flag)", "bool_or(flag)", "bool_or(tame > 0)", "bit_or(DISTINCT i8)"),
    ],
    "moments": [
        *(f"{name}({column})" for name in STATISTICS for column in ("tame", "f32", "dec", "u8")),
        *(f"{name}(tame, i8)" for name in PAIR_STATISTICS),
        # DataFusion's corr takes rounding errors of sums for a variance.
        *(f"{name}(f32, f16)" for name in PAIR_STATISTICS if name != "corr"),
        *("corr(code, u8)", "var_pop(tame) FILTER (WHERE flag)"),
        "regr_slope(f64, code) FILTER (WHERE tame > 0)",
    ],
    "picks": picks(),
    "distinct": [
        *each(["count(DISTINCT {})"], [c for c in COLUMNS if c not in ("f16", "dec_64")]),
        *each(["sum(DISTINCT {})", "avg(DISTINCT {})"], ["i8", "tame", "f32", "dec", "code"]),
        *("sum(DISTINCT span)", "max(DISTINCT text)", "count(DISTINCT 1)"),
        *("count(DISTINCT tame) FILTER (WHERE flag)", "count(*)", "sum(DISTINCT i64)"),
    ],
}


@dataclass(frozen=True)
class Rows:
    """Rows with keys, event times in order, and values of all types, some of them NULL."""

    table: pa.Table
    window: str
    batch_rows: int | None
    partitions: int
    emit: str

    def expanded(self) -> pa.Table:
        """Give each row once per window that it is in, with the start of the window."""
        times = self.table["ts"].to_pylist()
        if self.window == "session":
            return self.table.append_column("w", pa.array(self._sessions(), pa.int64()))
        if self.window == "none":
            return self.table.append_column("w", pa.array([0] * len(times), pa.int64()))
        reach = SIZE // STEP if self.window == "hop" else 1
        size = STEP if self.window == "hop" else SIZE
        rows = [
            (row, (t // size - back) * size) for row, t in enumerate(times) for back in range(reach)
        ]
        taken = self.table.take(pa.array([row for row, _ in rows], pa.int64()))
        return taken.append_column("w", pa.array([w for _, w in rows], pa.int64()))

    def _sessions(self) -> list[int]:
        order = sorted(range(self.table.num_rows), key=lambda row: self.table["ts"][row].as_py())
        starts, last = [0] * len(order), {}
        for row in order:
            key, time = self.table["k"][row].as_py(), self.table["ts"][row].as_py()
            known = last.get(key)
            starts[row] = known[0] if known is not None and time - known[1] <= GAP else time
            last[key] = (starts[row], time)
        return starts


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    n_rows = draw(st.integers(0, N_ROWS_MAX))
    # Few values per column and many rows: values repeat, and drawing stays quick.
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    times = np.arange(n_rows) + random.integers(0, 3 * STEP, n_rows)
    columns: dict[str, pa.Array] = {
        "arrival": pa.array(range(n_rows), pa.int64()),
        "k": array_of(random.choice([0, 1, 2, None], n_rows).tolist(), pa.int64()),
        "ts": pa.array(times, pa.int64()),
    }
    for name, (type_, values) in COLUMNS.items():
        pool = [*draw(st.lists(values, min_size=3, max_size=3)), None]
        picks = random.integers(0, random.integers(1, 5), n_rows)
        columns[name] = array_of([pool[pick] for pick in picks], type_)
    return pa.table(columns)


def array_of(values: list[Any], type_: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(type_) and type_.value_type == pa.int64():
        # An entry of the dictionary may be NULL itself.
        entries = [*dict.fromkeys(values)]
        indices = pa.array([entries.index(value) for value in values], type_.index_type)
        return pa.DictionaryArray.from_arrays(indices, pa.array(entries, type_.value_type))
    if pa.types.is_temporal(type_):
        integers = pa.int32() if type_.bit_width == 32 else pa.int64()
        return pa.array(values, integers).cast(type_)
    return pa.array(values, type_)


def rows(window: str) -> st.SearchStrategy[Rows]:
    return st.builds(
        Rows,
        table=tables(),
        window=st.just(window),
        batch_rows=st.sampled_from([1, 3, 7, None]),
        partitions=st.sampled_from([1, 2, 3]),
        emit=st.sampled_from(["FINAL", "CHANGES"]),
    )


WINDOWS = {
    "none": "",
    "tumble": f"WINDOW TUMBLING(ts, {SIZE})",
    "hop": f"WINDOW SLIDING(ts, {SIZE}, {STEP})",
    "session": f"WINDOW SESSION(ts, {GAP})",
}


def run(case: Rows, calls: Sequence[str]) -> pa.Table:
    session = ms.Session(partitions=case.partitions)
    session.create_stream("t", case.table.schema, event_time="ts", max_out_of_orderness=4 * STEP)
    names = ", ".join(f"{call} AS c{index}" for index, call in enumerate(calls))
    start = "0" if case.window == "none" else "window_start"
    query = session.sql(
        f"SELECT k, {start} AS w, {names} FROM t GROUP BY k {WINDOWS[case.window]} EMIT {case.emit}"
    )
    assert "buffered" not in query.explain()
    outcome = push_through(query, cut({"t": case.table}, case.batch_rows))
    assert outcome.counts is not None
    assert outcome.counts.rows_late == 0
    columns = ["k", "w", *(f"c{index}" for index in range(len(calls)))]
    return fold(outcome.rows, query.key_columns).select(columns)


def answer(case: Rows, calls: Sequence[str]) -> pa.Table:
    names = ", ".join(f"{call} AS c{index}" for index, call in enumerate(calls))
    table = case.expanded()
    return run_datafusion(f"SELECT k, w, {names} FROM t GROUP BY k, w", {"t": table})


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=8)
def test_kernels_answer_as_datafusion_does(window: str, family: str, data: st.DataObject) -> None:
    case = data.draw(rows(window))
    calls = FAMILIES[family]
    got, expected = run(case, calls), answer(case, calls)
    for index, call in enumerate(calls):
        columns = ["k", "w", f"c{index}"]
        problem = difference(got.select(columns), expected.select(columns))
        assert problem is None, f"{call}\n{problem}"


def values_of(sql: str, table: pa.Table, partitions: int = 2, batch_rows: int = 1) -> list[Any]:
    """Give the values of a query of one row, run in pieces."""
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema)
    query = session.sql(f"{sql} EMIT FINAL")
    assert "buffered" not in query.explain()
    (row,) = query.run({"t": table}, batch_rows=batch_rows).to_pylist()
    return list(row.values())


ODD_TYPES = [
    pa.null(),
    pa.list_(pa.int64()),
    pa.struct([("a", pa.int64())]),
    pa.binary(3),
    pa.decimal256(40, 2),
    pa.month_day_nano_interval(),
]


@pytest.mark.parametrize("type_", ODD_TYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1, 9])
def test_counts_of_odd_types_leave_nulls_out(type_: pa.DataType, offset: int) -> None:
    samples = {
        pa.list_(pa.int64()): [[], [None], [1, 2]],
        pa.struct([("a", pa.int64())]): [{"a": None}, {"a": 1}],
        pa.binary(3): [b"abc", b"xyz"],
        pa.decimal256(40, 2): [Decimal("1.00"), Decimal("-2.00")],
        pa.month_day_nano_interval(): [pa.MonthDayNano([1, 2, 3])],
    }
    values = ([*samples.get(type_, []), None, None] * 20)[: 20 + offset]
    table = pa.table({"x": pa.array(values, type_)}).slice(offset)
    n_values = sum(value is not None for value in values[offset:])
    for batch_rows in (1, 100):
        counted = values_of("SELECT count(x), count(*) FROM t", table, batch_rows=batch_rows)
        assert counted == [n_values, 20]


@pytest.mark.parametrize("type_", [t for t in ODD_TYPES if not pa.types.is_nested(t)], ids=str)
def test_values_of_odd_types_are_picked(type_: pa.DataType) -> None:
    samples = {
        pa.binary(3): b"abc",
        pa.decimal256(40, 2): Decimal("1.00"),
        pa.month_day_nano_interval(): pa.MonthDayNano([1, 2, 3]),
    }
    sample = samples.get(type_)
    table = pa.table({"x": pa.array([None, sample, None], type_)})
    picked = values_of("SELECT first_value(x), last_value(x), any_value(x) FROM t", table)
    assert picked == [None, None, sample]


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("batch_rows", [1, 2, 5, 100])
def test_picks_follow_arrival_across_partitions(partitions: int, batch_rows: int) -> None:
    # Rows 3 to 7 agree in the order, and so do all others.
    order = [1, 1, 1, 0, 0, 0, 0, 0, *[1] * 12]
    table = pa.table({"x": range(20), "o": order, "k": [0] * 20, "ts": [0] * 20})
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema, event_time="ts")
    calls = [
        *("first_value(x)", "last_value(x)", "any_value(x)"),
        *("first_value(x ORDER BY o)", "last_value(x ORDER BY o)"),
        *("first_value(x ORDER BY o DESC)", "last_value(x ORDER BY o DESC)"),
    ]
    for clause in ("GROUP BY k", "GROUP BY k WINDOW TUMBLING(ts, 10)"):
        query = session.sql(f"SELECT {', '.join(calls)} FROM t {clause} EMIT FINAL")
        (row,) = query.run({"t": table}, batch_rows=batch_rows).to_pylist()
        assert list(row.values()) == [0, 19, 0, 3, 19, 0, 7]


def test_groups_without_values_are_null_or_zero() -> None:
    calls = [*FAMILIES["sums"], *FAMILIES["extremes"], *FAMILIES["bits"], *FAMILIES["moments"]]
    columns = {name: pa.array([], type_) for name, (type_, _) in COLUMNS.items()}
    table = pa.table(columns)
    got = values_of(f"SELECT {', '.join(calls)} FROM t", table)
    expected = [0 if call.startswith("regr_count") else None for call in calls]
    assert got == expected
    assert values_of("SELECT count(i8), count(DISTINCT text), sum(DISTINCT i8) FROM t", table) == [
        *(0, 0, None)
    ]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "least", "greatest"),
    [
        ([1.0, NAN, 2.0], 1.0, NAN),
        ([NAN, NAN], NAN, NAN),
        ([INF, INF], INF, INF),
        ([-INF, 3.0], -INF, 3.0),
    ],
)
@pytest.mark.parametrize("type_", [pa.float32(), pa.float64()], ids=str)
def test_nan_is_the_greatest_float(
    values: list[float], least: float, greatest: float, type_: pa.DataType
) -> None:
    for ordered in (values, values[::-1]):
        table = pa.table({"x": pa.array(ordered, type_)})
        got = values_of("SELECT min(x), max(x) FROM t", table)
        assert repr(got) == repr([least, greatest])


def test_floats_have_one_zero_and_one_nan_where_they_are_distinct() -> None:
    table = pa.table({"x": [0.0, -0.0, NAN, -NAN, 2.0, None, 2.0]})
    assert values_of("SELECT count(DISTINCT x) FROM t", table) == [3]
    table = pa.table({"x": [0.0, -0.0, 2.0, None, 2.0]})
    assert values_of("SELECT sum(DISTINCT x), avg(DISTINCT x) FROM t", table) == [2.0, 1.0]


def test_floats_are_picked_bit_for_bit() -> None:
    table = pa.table({"x": [-0.0, 1.0, -0.0], "o": [0.0, -0.0, 0.0]})
    sql = "SELECT first_value(x), last_value(x), first_value(x ORDER BY o) FROM t"
    assert repr(values_of(sql, table)) == repr([-0.0, -0.0, 1.0])


@pytest.mark.parametrize("values", [[1.0, INF], [INF, 1.0], [-INF, INF], [NAN, 1.0], [INF]])
def test_statistics_of_infinities_are_nan(values: list[float]) -> None:
    table = pa.table({"x": values, "y": list(range(len(values)))})
    sql = "SELECT var_pop(x), stddev_pop(x), covar_pop(x, y), regr_sxy(y, x) FROM t"
    assert [str(value) for value in values_of(sql, table)] == ["nan"] * 4


def test_a_correlation_needs_two_columns_that_vary() -> None:
    columns = {"x": [1.0, 2.0, 4.0], "same": [0.1] * 3, "odd": [1.0, NAN, 2.0]}
    table = pa.table(columns)
    calls = ["corr(x, x)", "corr(x, same)", "corr(same, x)", "corr(x, odd)", "corr(odd, odd)"]
    got = values_of(f"SELECT {', '.join(calls)}, regr_r2(same, x) FROM t", table)
    assert got[0] == pytest.approx(1.0)
    assert [str(value) for value in got[1:]] == ["None", "None", "None", "nan", "None"]


def test_integer_sums_wrap_around_as_in_datafusion() -> None:
    columns = {
        "i": pa.array([2**63 - 1, 1], pa.int64()),
        "u": pa.array([2**64 - 1, 3], pa.uint64()),
        "d": pa.array([10**38 - 1] * 2, pa.decimal128(38, 0)),
    }
    table = pa.table(columns)
    sql = "SELECT sum(i), sum(u), sum(d) FROM t"
    expected = list(run_datafusion(sql, {"t": table}).to_pylist()[0].values())
    assert expected[:2] == [-(2**63), 2]
    assert values_of(sql, table) == expected


@pytest.mark.parametrize("values", [[10**38 - 1], [10**34, 10**34]])
def test_averages_of_decimals_that_do_not_fit_are_errors(values: list[int]) -> None:
    table = pa.table({"d": pa.array(values, pa.decimal128(38, 0))})
    with pytest.raises(ms.JobFailed, match=r"average of decimals must fit decimal128\(38, 4\)"):
        values_of("SELECT avg(d) FROM t", table)


def test_text_is_kept_only_while_a_group_has_it() -> None:
    n_rows, batch_rows = 60_000, 2_000
    texts = [f"text number {row}" for row in range(n_rows)]
    table = pa.table({"k": [row % 5 for row in range(n_rows)], "x": texts})
    session = ms.Session()
    session.create_stream("t", table.schema)
    query = session.sql("SELECT k, last_value(x), max(x) FROM t GROUP BY k EMIT FINAL")
    with query.start(sink=lambda _: None) as job:
        for batch in table.to_batches(max_chunksize=batch_rows):
            job.push("t", batch)
    assert job.stats().partitions[0].state_bytes < 1_000_000


def test_groups_of_single_rows_are_handed_on_and_merged() -> None:
    # With about as many groups as rows, nothing is added up before the exchange.
    n_rows, n_keys = 100_000, 60_000
    random = np.random.default_rng(7)
    numbers = random.integers(-1000, 1000, n_rows)
    table = pa.table(
        {
            "k": np.arange(n_rows) % n_keys,
            "ts": np.arange(n_rows) // (n_rows // 2) * SIZE,
            "x": pa.array(numbers, mask=numbers > 900),
            "y": random.integers(0, 9, n_rows),
            "d": pa.array(numbers).cast(pa.decimal128(19, 0)),
            "s": [f"text {number}" for number in numbers],
        }
    )
    calls = [
        *("count(*)", "sum(x)", "avg(x)", "min(x)", "max(x)", "bit_xor(x)", "var_pop(x)"),
        *("covar_samp(x, y)", "sum(d)", "avg(d)", "first_value(x)", "last_value(s)"),
        *("last_value(d ORDER BY y, ts)", "min(s)", "any_value(x)"),
    ]
    columns = ", ".join(f"{call} AS c{index}" for index, call in enumerate(calls))
    session = ms.Session(partitions=2)
    session.create_stream("t", table.schema, event_time="ts")
    for window, by in (("", ""), (f"WINDOW TUMBLING(ts, {SIZE})", ", ts")):
        query = session.sql(f"SELECT k, {columns} FROM t GROUP BY k {window} EMIT FINAL")
        got = query.run({"t": table}, batch_rows=10_000)
        expected = run_datafusion(f"SELECT k, {columns} FROM t GROUP BY k{by}", {"t": table})
        keys = [("k", "ascending"), ("c12", "ascending"), ("c1", "ascending")]
        problem = difference(got.sort_by(keys), expected.sort_by(keys), ordered=True)
        assert problem is None, problem
