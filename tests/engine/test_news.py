"""News made from words of state are the news that a changelog finds by comparing rows."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine import query as query_module
from millstream.engine.operators import changelog
from millstream.engine.operators.news import NewsMaker
from tests.engine.stalling import wait_until

N_BATCHES, N_ROWS = 12, 40
TYPES = {
    "i64": pa.int64(),
    "u64": pa.uint64(),
    "i8": pa.int8(),
    "u32": pa.uint32(),
    "b": pa.bool_(),
    "f64": pa.float64(),
    "f32": pa.float32(),
    "d32": pa.date32(),
    "us": pa.timestamp("us", "UTC"),
    "s": pa.string(),
    "bin": pa.binary(),
    "dict": pa.dictionary(pa.int32(), pa.string()),
    "dec": pa.decimal128(12, 2),
    "dec64": pa.decimal64(12, 2),
    "x": pa.int64(),
    "y": pa.float64(),
    "n": pa.int64(),
    "e": pa.int64(),
}
SCHEMA = pa.schema(TYPES)


def value_of(type_, number):
    """Return the value of a type for a number from -3 to 3; some floats are special."""
    if pa.types.is_floating(type_):
        return {3: float("nan"), -3: float("-inf"), 0: -0.0}.get(number, number / 4)
    if pa.types.is_boolean(type_):
        return number > 0
    if pa.types.is_unsigned_integer(type_):
        return 2**type_.bit_width - 1 + number if number < 0 else number
    if pa.types.is_integer(type_):
        return number - 2 ** (type_.bit_width - 1) + 3 if number < -1 else number
    if pa.types.is_date(type_):
        return dt.date(1970, 1, 1) + dt.timedelta(number)
    if pa.types.is_timestamp(type_):
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
    if pa.types.is_decimal(type_):
        return Decimal(number) / 4
    return f"v{number}".encode() if pa.types.is_binary(type_) else f"v{number}"


def batches(*, nulls_in=(), null_batches=range(4, 8), seed=0, spread=1):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(N_BATCHES):
        numbers = rng.integers(-3, 4, (len(SCHEMA), N_ROWS))
        columns = []
        for place, field in enumerate(SCHEMA):
            values = [value_of(field.type, int(n)) for n in numbers[place]]
            if field.name == "e":
                values = [10 * number + spread * int(n) for n in numbers[place]]
            if field.name in nulls_in and number in null_batches:
                values = [None if n > 1 else v for n, v in zip(numbers[place], values, strict=True)]
            columns.append(pa.array(values, field.type))
        made.append(pa.record_batch(columns, schema=SCHEMA))
    return made


def ran(sql, inputs, *, partitions=1, by_words=True, refuse=(), one_by_one=True, **options):
    """Return what came out, batch by batch, and of each call whether it made news of words."""
    made = []
    make, make_of_steps = NewsMaker.make, NewsMaker.make_of_steps

    def noted(self, group_ids):
        news = None if len(made) in refuse else make(self, group_ids)
        made.append(news is not None)
        return news

    def noted_steps(self, steps):
        news = make_of_steps(self, steps)
        made.append(news is not None)
        return news

    session = ms.Session(partitions=partitions)
    options = {"max_out_of_orderness": 100, **options}
    session.create_stream("t", SCHEMA, event_time="e", **options)
    out = [[] for _ in range(partitions)]

    def sink(batch, info):
        batch.validate(full=True)
        out[info.partition].append((info.micro_batch, batch))

    patches = [
        mock.patch.object(NewsMaker, "make", noted),
        mock.patch.object(NewsMaker, "make_of_steps", noted_steps),
        mock.patch.object(query_module, "_SPLIT_ROWS_LEAST", 0),
    ]
    if not by_words:
        patches.append(mock.patch.object(changelog.NewsMaker, "for_changelog", return_value=None))
    for patch in patches:
        patch.start()
    try:
        with session.sql(sql).start(sink) as job:
            for batch in inputs:
                job.push("t", batch)
                if one_by_one:
                    wait_until(lambda: job.stats().rows_waiting == 0)
    finally:
        for patch in patches:
            patch.stop()
    rows = [
        [(number, batch.schema, [str(row) for row in batch.to_pylist()]) for number, batch in part]
        for part in out
    ]
    return rows, made


KEYS = ["i64", "u64", "i8", "u32", "b", "f64", "f32", "d32", "us", "s", "bin", "dict", "dec64"]
RESULTS = "count(*) AS n, sum(x) AS t, avg(y) AS a, max(us) AS m, min(u64) AS u, count(y) AS c"


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("key", KEYS)
def test_keys_of_all_types(key, partitions):
    sql = f"SELECT {key}, {RESULTS} FROM t GROUP BY {key} EMIT CHANGES"
    inputs = batches()
    rows, made = ran(sql, inputs, partitions=partitions)
    assert rows == ran(sql, inputs, partitions=partitions, by_words=False)[0]
    assert (True in made) == (key != "f32")


QUERIES = [
    f"SELECT {RESULTS} FROM t",
    f"SELECT i64, s, {RESULTS} FROM t GROUP BY i64, s",
    "SELECT max(x) AS hi, min(f64) AS lo, s AS name FROM t GROUP BY s",
    "SELECT i8, i8 AS again, max(us) AS m, max(us) AS same FROM t GROUP BY i8",
    "SELECT us, window_start, window_end, window_time, sum(y) AS t FROM t GROUP BY us "
    "WINDOW TUMBLING(e, 20)",
    "SELECT window_end, i64, avg(x) AS a FROM t GROUP BY i64 WINDOW SLIDING(e, 30, 10)",
    "SELECT window_start, count(*) AS n FROM TABLE(CUMULATE(TABLE t, DESCRIPTOR(e), 10, 30)) "
    "GROUP BY window_start, window_end",
]


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("sql", QUERIES)
def test_queries(sql, partitions, one_by_one):
    inputs = batches()
    rows, made = ran(f"{sql} EMIT CHANGES", inputs, partitions=partitions, one_by_one=one_by_one)
    assert rows == ran(f"{sql} EMIT CHANGES", inputs, partitions=partitions, by_words=False)[0]
    # The starts of cumulating windows lie on no line.
    assert (True in made) == ("CUMULATE" not in sql)


@pytest.mark.parametrize("nulls_in", [["x"], ["s"], ["i64"], ["y", "us"]])
@pytest.mark.parametrize("sql", QUERIES[:4])
def test_values_that_are_null_come_and_go(sql, nulls_in):
    inputs = batches(nulls_in=nulls_in)
    rows, made = ran(f"{sql} EMIT CHANGES", inputs)
    assert rows == ran(f"{sql} EMIT CHANGES", inputs, by_words=False)[0]
    assert made[0]


@pytest.mark.parametrize("refuse", [range(1, 100, 2), range(3), range(3, 6), range(0, 100, 3)])
@pytest.mark.parametrize("sql", QUERIES[:6])
def test_both_ways_know_what_the_other_has_sent(sql, refuse):
    inputs = batches()
    rows, made = ran(f"{sql} EMIT CHANGES", inputs, refuse=refuse)
    assert rows == ran(f"{sql} EMIT CHANGES", inputs, by_words=False)[0]
    assert True in made


def test_windows_that_late_rows_revise():
    """What a step revises, and what ends with it, comes out in one step."""
    sql = "SELECT i8, window_start, count(*) AS n, max(x) AS hi FROM t GROUP BY i8 "
    sql += "WINDOW TUMBLING(e, 10) EMIT FINAL"
    inputs = batches(spread=8)
    options = {"max_out_of_orderness": 0, "allowed_lateness": 30}
    rows, made = ran(sql, inputs, **options)
    assert rows == ran(sql, inputs, by_words=False, **options)[0]
    assert all(made)
    ops = [row for _, _, texts in rows[0] for row in texts]
    assert any("'_op': '+U'" in row for row in ops)
    numbers = [number for number, _, _ in rows[0]]
    assert len(numbers) > len(set(numbers)), "some steps brought several batches"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT i8, count(*) AS n FROM t GROUP BY i8 HAVING count(*) > 3",
        "SELECT i8, min(s) AS lo FROM t GROUP BY i8",
        "SELECT i8, sum(dec) AS t FROM t GROUP BY i8",
        "SELECT dec, count(*) AS n FROM t GROUP BY dec",
        "SELECT i8, min(u32) AS lo FROM t GROUP BY i8",
        "SELECT i8, 2 * count(*) AS n FROM t GROUP BY i8",
        "SELECT i8, count(DISTINCT s) AS n FROM t GROUP BY i8",
    ],
)
def test_what_is_more_than_words_goes_the_other_way(sql):
    rows, made = ran(f"{sql} EMIT CHANGES", batches())
    assert not made
    assert rows[0]


def test_a_changelog_that_tells_former_versions_compares_rows():
    session = ms.Session(changelog="retract")
    session.create_stream("t", SCHEMA)
    with mock.patch.object(NewsMaker, "make", side_effect=AssertionError):
        query = session.sql("SELECT i8, count(*) AS n FROM t GROUP BY i8")
        table = query.run({"t": pa.Table.from_batches(batches())}, batch_rows=N_ROWS)
    assert "-U" in table["_op"].to_pylist()
