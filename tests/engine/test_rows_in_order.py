"""Window functions over rows that are equal in their order, or have been mixed up before."""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_COLUMN
from millstream.engine.row_order import ARRIVAL_NUMBER, in_order, together, with_arrival
from tests.engine.stalling import wait_until

N_ROWS = 240


def table(seed=3, spread=30, disorder=0):
    chooser = random.Random(seed)
    times = sorted(chooser.randint(0, spread) for _ in range(N_ROWS))
    return pa.table(
        {
            "id": range(N_ROWS),
            "k": [chooser.randint(0, 4) for _ in times],
            "g": [chooser.randint(0, 4) for _ in times],
            "v": [chooser.randint(0, 99) for _ in times],
            "ts": [time - chooser.randint(0, disorder) for time in times],
        }
    )


def sums(rows, key, value, n_rows=3):
    """The sum of the last values of each row's key."""
    kept = defaultdict(lambda: deque(maxlen=n_rows))
    found = []
    for row in rows:
        kept[row[key]].append(row[value])
        found.append(sum(kept[row[key]]))
    return found


def add_sums(rows, key, value, column):
    for row, total in zip(rows, sums(rows, key, value), strict=True):
        row[column] = total


def by_id(rows, *columns):
    return sorted(tuple(row[column] for column in ("id", *columns)) for row in rows)


@pytest.fixture(params=[1, 7, N_ROWS])
def batch_rows(request):
    return request.param


@pytest.fixture(params=[1, 2, 3])
def partitions(request):
    return request.param


def answer(sql, rows, batch_rows, partitions, delay=0):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", rows.schema, event_time="ts", max_out_of_orderness=delay)
    results = ms.CollectSink()
    job = session.sql(sql).start(results)
    for number, batch in enumerate(rows.to_batches(max_chunksize=batch_rows)):
        job.push("t", batch)
        if number % 3 == 0:
            wait_until(lambda: job.stats().rows_waiting == 0)
    job.finish()
    assert job.stats().rows_late == 0
    return results.table().to_pylist()


LAST = "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW"


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
def test_functions_of_different_partitions_see_one_order(order, batch_rows, partitions):
    rows = table()
    sql = (
        f"SELECT id, sum(v) OVER (PARTITION BY k {order} {LAST}) AS a,"
        f" sum(v) OVER (PARTITION BY g {order} {LAST}) AS b FROM t"
    )
    given = rows.to_pylist()
    expected = zip(range(N_ROWS), sums(given, "k", "v"), sums(given, "g", "v"), strict=True)
    assert by_id(answer(sql, rows, batch_rows, partitions), "a", "b") == list(expected)


def test_an_order_by_time_follows_one_by_arrival_whichever_is_written_first(batch_rows, partitions):
    rows = table(disorder=6)
    sql = (
        f"SELECT id, sum(v) OVER (PARTITION BY k ORDER BY ts {LAST}) AS a,"
        f" sum(v) OVER (PARTITION BY g {LAST}) AS b FROM t"
    )
    given = rows.to_pylist()
    add_sums(given, "g", "v", "b")
    given.sort(key=lambda row: (row["ts"], row["id"]))
    add_sums(given, "k", "v", "a")
    results = answer(sql, rows, batch_rows, partitions, delay=6)
    assert by_id(results, "a", "b") == by_id(given, "a", "b")


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
def test_functions_over_results_of_others_see_one_order(order, batch_rows, partitions):
    rows = table()
    sql = (
        f"SELECT id, sum(a) OVER (PARTITION BY g {order} {LAST}) AS b FROM"
        f" (SELECT id, g, ts, sum(v) OVER (PARTITION BY k {order} {LAST}) AS a FROM t) AS s"
    )
    given = rows.to_pylist()
    add_sums(given, "k", "v", "a")
    expected = list(zip(range(N_ROWS), sums(given, "g", "a"), strict=True))
    assert by_id(answer(sql, rows, batch_rows, partitions), "b") == expected


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
def test_distinct_rows_come_as_the_first_of_them_came(order, batch_rows, partitions):
    rows = table(spread=12, disorder=4)
    sql = (
        f"SELECT v AS id, k, ts, sum(v) OVER (PARTITION BY k {order} {LAST}) AS a FROM"
        " (SELECT DISTINCT k, ts, v FROM t) AS s"
    )
    distinct = dict.fromkeys((row["ts"], row["k"], row["v"]) for row in rows.to_pylist())
    given = [{"ts": ts, "k": k, "v": v, "id": v} for ts, k, v in distinct]
    if order:
        given.sort(key=lambda row: row["ts"])
    add_sums(given, "k", "v", "a")
    results = answer(sql, rows, batch_rows, partitions, delay=4)
    assert by_id(results, "k", "ts", "a") == by_id(given, "k", "ts", "a")


def test_distinct_rows_of_windows_come_as_the_first_of_them_came(batch_rows, partitions):
    rows = table()
    sql = (
        f"SELECT v AS id, k, window_end, sum(v) OVER (PARTITION BY k {LAST}) AS a FROM"
        " (SELECT DISTINCT k, v, window_end FROM TUMBLE(t, ts, 10)) AS s"
    )
    distinct = dict.fromkeys(
        (row["ts"] // 10 * 10 + 10, row["k"], row["v"]) for row in rows.to_pylist()
    )
    given = [{"window_end": end, "k": k, "v": v, "id": v} for end, k, v in distinct]
    add_sums(given, "k", "v", "a")
    results = answer(sql, rows, batch_rows, partitions)
    assert by_id(results, "k", "window_end", "a") == by_id(given, "k", "window_end", "a")


MIXED = {
    "functions": "(SELECT k, v, ts, count(*) OVER (PARTITION BY g ROWS UNBOUNDED PRECEDING) > 0"
    " AS is_one FROM t)",
    "union": "(SELECT k, v, ts, true AS is_one FROM t WHERE v > 50 UNION ALL"
    " SELECT k, v, ts, true AS is_one FROM t WHERE v <= 50)",
    "distinct": "(SELECT DISTINCT k, v, ts, true AS is_one, g FROM t)",
}


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
@pytest.mark.parametrize("below", list(MIXED))
def test_distinct_rows_of_mixed_ones_come_as_the_first_came(below, order, batch_rows, partitions):
    rows = table(spread=12, disorder=4)
    sql = (
        f"SELECT v AS id, k, ts, sum(v) OVER (PARTITION BY k {order} {LAST}) AS a FROM"
        f" (SELECT DISTINCT k, ts, v, is_one FROM {MIXED[below]} AS s) AS d"
    )
    distinct = dict.fromkeys((row["ts"], row["k"], row["v"]) for row in rows.to_pylist())
    given = [{"ts": ts, "k": k, "v": v, "id": v} for ts, k, v in distinct]
    if order:
        given.sort(key=lambda row: row["ts"])
    add_sums(given, "k", "v", "a")
    results = answer(sql, rows, batch_rows, partitions, delay=4)
    assert by_id(results, "k", "ts", "a") == by_id(given, "k", "ts", "a")


@pytest.mark.parametrize("window", ["TUMBLING", "SESSION"])
@pytest.mark.parametrize("below", ["functions", "union"])
def test_the_first_of_equal_rows_says_whether_they_are_late(below, window, batch_rows, partitions):
    rows = pa.table(
        {
            "g": [1, 3, 2, 4, 5, 6, 7],
            "k": [1, 1, 1, 1, 1, 1, 1],
            "v": [1, 9, 60, 1, 1, 60, 1],
            "ts": [5, 30, 5, 5, 5, 5, 50],
        }
    )
    # Equal rows of which one comes out of either half of the union.
    distinct = f"SELECT DISTINCT k, ts, is_one FROM {MIXED[below]} AS s"
    sql = f"SELECT count(*) AS n FROM ({distinct}) AS d WINDOW {window}(ts, 10)"
    assert [row["n"] for row in answer(sql, rows, batch_rows, partitions)] == [1, 1, 1]


def test_distinct_rows_without_a_number_come_by_their_values(batch_rows, partitions):
    rows = table(spread=12, disorder=4)
    timed = f"SELECT k, ts, v, min(v) OVER (PARTITION BY g ORDER BY ts {LAST}) < 0 AS b FROM t"
    sql = (
        f"SELECT v AS id, k, ts, sum(v) OVER (PARTITION BY k ORDER BY ts {LAST}) AS a FROM"
        f" (SELECT DISTINCT k, ts, v, b FROM ({timed}) AS u) AS s"
    )
    distinct = {(row["ts"], row["k"], row["v"]) for row in rows.to_pylist()}
    given = [{"ts": ts, "k": k, "v": v, "id": v} for ts, k, v in sorted(distinct)]
    add_sums(given, "k", "v", "a")
    # Rows of a time also come when the watermark is there already.
    results = answer(sql, rows, batch_rows, partitions, delay=4)
    assert by_id(results, "k", "ts", "a") == by_id(given, "k", "ts", "a")


def test_groups_of_one_window_come_by_their_values(batch_rows, partitions):
    rows = table()
    sql = (
        f"SELECT g AS id, k, window_end, sum(n) OVER (PARTITION BY k ORDER BY window_time {LAST})"
        " AS a FROM (SELECT g, k, window_end, window_time, count(*) AS n FROM t GROUP BY g, k"
        " WINDOW TUMBLING(ts, 5)) AS s"
    )
    counts = defaultdict(int)
    for row in rows.to_pylist():
        counts[row["ts"] // 5 * 5 + 5, row["g"], row["k"]] += 1
    given = [
        {"window_end": end, "id": g, "k": k, "n": n} for (end, g, k), n in sorted(counts.items())
    ]
    add_sums(given, "k", "n", "a")
    results = answer(sql, rows, batch_rows, partitions)
    assert by_id(results, "k", "window_end", "a") == by_id(given, "k", "window_end", "a")


def test_rows_with_numbers_and_without_come_by_their_values(batch_rows, partitions):
    rows = table(spread=60)
    arrived = f"SELECT k, v, ts, id, sum(v) OVER (PARTITION BY k {LAST}) AS a FROM t"
    numbered = f"SELECT k, ts, sum(a) OVER (PARTITION BY id {LAST}) AS a FROM ({arrived}) AS s"
    groups = "SELECT k, count(*) AS n, window_time FROM t GROUP BY k WINDOW TUMBLING(ts, 10)"
    sql = (
        f"SELECT k AS id, ts, a, sum(a) OVER (PARTITION BY k ORDER BY ts {LAST}) AS c FROM"
        f" (SELECT k, ts, a FROM ({numbered}) AS s"
        f" UNION ALL SELECT k, window_time, n FROM ({groups}) AS g) AS u"
    )
    given = rows.to_pylist()
    add_sums(given, "k", "v", "a")
    sizes = Counter((row["k"], row["ts"] // 10 * 10 + 9) for row in given)
    given += [{"k": k, "ts": ts, "a": n} for (k, ts), n in sizes.items()]
    given.sort(key=lambda row: (row["ts"], row["k"], row["a"]))
    add_sums(given, "k", "a", "c")
    expected = sorted((row["k"], row["ts"], row["a"], row["c"]) for row in given)
    assert by_id(answer(sql, rows, batch_rows, partitions), "ts", "a", "c") == expected


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
def test_copies_of_a_row_come_by_their_values(order, batch_rows, partitions):
    rows = table()
    sql = (
        f"SELECT id, c, sum(c) OVER (PARTITION BY k {order} {LAST}) AS a FROM"
        " (SELECT id, k, ts, v AS c FROM t UNION ALL SELECT id, k, ts, 2 * v AS c FROM t) AS s"
    )
    given = [
        {"id": row["id"], "k": row["k"], "c": c}
        for row in rows.to_pylist()
        for c in (row["v"], 2 * row["v"])
    ]
    add_sums(given, "k", "c", "a")
    assert by_id(answer(sql, rows, batch_rows, partitions), "c", "a") == by_id(given, "c", "a")


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
def test_copies_of_a_row_in_several_windows_come_by_window(order, batch_rows, partitions):
    rows = table()
    sql = (
        f"SELECT id, window_end, sum(n) OVER (PARTITION BY g {order} {LAST}) AS a FROM"
        f" (SELECT *, count(*) OVER (PARTITION BY k {order} ROWS UNBOUNDED PRECEDING) AS n"
        " FROM HOP(t, ts, 5, 10)) AS s"
    )
    given = []
    n_of_key = defaultdict(int)
    for row in rows.to_pylist():
        for end in (row["ts"] // 5 * 5 + 5, row["ts"] // 5 * 5 + 10):
            n_of_key[row["k"]] += 1
            given.append({**row, "window_end": end, "n": n_of_key[row["k"]]})
    add_sums(given, "g", "n", "a")
    results = answer(sql, rows, batch_rows, partitions)
    assert by_id(results, "window_end", "a") == by_id(given, "window_end", "a")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("first_value(id) OVER (PARTITION BY window_end, k ORDER BY ts)", lambda ids: [ids[0]]),
        ("first_value(id) OVER (PARTITION BY window_end, k)", lambda ids: [ids[0]]),
        ("last_value(id) OVER (PARTITION BY window_end, k)", lambda ids: [ids[-1]]),
        ("nth_value(id, 2) OVER (PARTITION BY window_end, k)", lambda ids: [ids[1]]),
        (
            f"sum(id) OVER (PARTITION BY window_end, k ORDER BY ts {LAST})",
            lambda ids: [sum(ids[max(n - 2, 0) : n + 1]) for n in range(len(ids))],
        ),
        (
            "lead(id, 1, -1) OVER (PARTITION BY window_end, k ORDER BY ts)",
            lambda ids: [*ids[1:], -1],
        ),
        ("lag(id, 1, -1) OVER (PARTITION BY window_end, k)", lambda ids: [-1, *ids[:-1]]),
        (
            "rank() OVER (PARTITION BY window_end, k ORDER BY 1 + 0 * ts)",
            lambda ids: [1],
        ),
    ],
)
def test_rows_of_a_window_keep_their_order_where_it_matters(call, expected, batch_rows, partitions):
    rows = table(spread=19)
    sql = f"SELECT id, {call} AS a FROM TUMBLE(t, ts, 10)"
    groups = defaultdict(list)
    for row in rows.to_pylist():
        groups[row["ts"] // 10, row["k"]].append(row["id"])
    wanted = []
    for ids in groups.values():
        values = expected(ids)
        wanted += zip(ids, values if len(values) > 1 else values * len(ids), strict=True)
    assert by_id(answer(sql, rows, batch_rows, partitions), "a") == sorted(wanted)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["b", None, "a", "b"]),
        pa.array(["b", None, "a", "b"], pa.string_view()),
        pa.array(["b", None, "a", "b"]).dictionary_encode(),
        pa.array([2.5, None, 1.0, 2.5], pa.float16()),
        pa.array([Decimal(2), None, Decimal(1), Decimal(2)], pa.decimal128(5, 0)),
        pa.array([(2, 0, 0), None, (1, 0, 0), (2, 0, 0)], pa.month_day_nano_interval()),
        pa.array([True, None, False, True]),
    ],
)
def test_values_of_any_flat_type_tell_rows_apart(values):
    rows = pa.record_batch({"value": values, "id": pa.array([3, 1, 2, 0])})
    times = np.zeros(4, np.int64)
    ordered = in_order(rows, rows.schema.names, times)
    assert ordered.column("id").to_pylist() == [2, 0, 3, 1]
    assert ordered.schema == rows.schema


def test_what_has_no_order_leaves_rows_as_they_are():
    rows = pa.record_batch({"list": pa.array([[2], [1]]), "null": pa.nulls(2)})
    assert in_order(rows, rows.schema.names, np.zeros(2, np.int64)).equals(rows)


def test_rows_in_order_are_not_copied():
    rows = with_arrival(pa.record_batch({"id": pa.array([5, 3, 4])}), 7)
    assert rows.column(ARRIVAL_NUMBER).to_pylist() == [7, 8, 9]
    assert in_order(rows, ["id"], None) is rows
    assert in_order(rows, ["id"], np.array([1, 1, 2])) is rows
    mixed = rows.take(pa.array([2, 0, 1]))
    assert in_order(mixed, ["id"], None).equals(rows)
    # Time comes first.
    times = np.array([1, 2, 2])
    assert in_order(mixed, ["id"], times).column("id").to_pylist() == [4, 5, 3]


def test_rows_that_are_judged_and_rows_that_are_not_go_together():
    judged = pa.record_batch({"id": pa.array([1]), WATERMARK_COLUMN: pa.array([7])})
    batches = [with_arrival(pa.record_batch({"id": pa.array([2])}), 4), with_arrival(judged, 5)]
    rows = together(batches)
    assert rows.schema.names == ["id", WATERMARK_COLUMN, ARRIVAL_NUMBER]
    assert rows[WATERMARK_COLUMN].to_pylist() == [NO_WATERMARK, 7]
    assert rows[ARRIVAL_NUMBER].to_pylist() == [4, 5]


@pytest.mark.parametrize(
    ("above", "expected"),
    [
        ("{} AS u WINDOW SESSION(ts, 10)", [(19, 2), (49, 4)]),
        ("(SELECT DISTINCT * FROM {} AS u) AS d WINDOW TUMBLING(ts, 10)", [(10, 2), (40, 4)]),
    ],
)
def test_a_union_of_rows_that_can_be_late_and_rows_that_cannot(
    above, expected, batch_rows, partitions
):
    # The third row is late, for its window and by itself.
    rows = pa.table({"id": range(4), "k": [1, 2, 1, 2], "ts": [5, 30, 8, 31]})
    counted = "SELECT id, ts, count(*) OVER (PARTITION BY k ROWS UNBOUNDED PRECEDING) AS n FROM t"
    windowed = "SELECT DISTINCT id, window_time AS ts FROM TUMBLE(t, ts, 10)"
    both = f"(SELECT id, ts FROM ({counted}) AS c WHERE n > 0 UNION ALL {windowed})"
    session = ms.Session(partitions=partitions)
    session.create_stream("t", rows.schema, event_time="ts")
    query = session.sql(f"SELECT window_end, count(*) AS n FROM {above.format(both)}")
    results = query.run({"t": rows}, batch_rows=batch_rows).to_pylist()
    assert sorted((row["window_end"], row["n"]) for row in results) == expected
