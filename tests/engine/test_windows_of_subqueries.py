"""What closes by the windows of a subquery, while rows come that are late for theirs."""

from __future__ import annotations

import statistics
from collections import Counter

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.stalling import wait_until

TABLE = pa.table(
    {
        "k": [1, 1, 2, 1, 2, 1, 2, 2, 1, 1, 2],
        "v": [5, 6, 7, 8, 7, 9, 1, 5, 2, 3, 4],
        "ts": [1, 2, 25, 3, 26, 24, 19, 27, 40, 31, 60],
    }
)
NAMES = pa.table({"k": [1, 2], "name": ["one", "two"]})

CALLS = {
    "TUMBLE(t, ts, 10)": (10, 10),
    "HOP(t, ts, 5, 10)": (5, 10),
    "CUMULATE(t, ts, 5, 10)": (5, 10),
}


def windows_of(call, time):
    """The windows of a time."""
    step, size = CALLS[call]
    if call.startswith("CUMULATE"):
        start = time // size * size
        return [(start, end) for end in range(start + step, start + size + 1, step) if end > time]
    last = time // step * step
    return [(start, start + size) for start in range(last - size + step, last + 1, step)]


def told_apart(call, lateness=0):
    """Rows with their windows: those that count, and those that are late."""
    in_time, late = [], []
    watermark = None
    for row in TABLE.to_pylist():
        for start, end in windows_of(call, row["ts"]):
            is_late = watermark is not None and watermark >= end + lateness
            (late if is_late else in_time).append({**row, "start": start, "end": end})
        watermark = row["ts"] if watermark is None else max(watermark, row["ts"])
    return in_time, late


def pushed(sql, batch_rows, partitions, **options):
    """What comes out, after every push has gone all the way; with the job's figures."""
    session = ms.Session(partitions=partitions)
    session.create_stream("t", TABLE.schema, event_time="ts", **options)
    session.create_table("names", NAMES)
    results, late = ms.CollectSink(), ms.CollectSink()
    job = session.sql(sql).start(results, late_sink=late)
    for batch in TABLE.to_batches(max_chunksize=batch_rows):
        job.push("t", batch)
        wait_until(lambda: job.stats().rows_waiting == 0)
    job.finish()
    return results.table(), late.table(), job.stats()


def rows_of(table):
    return sorted(tuple(row.values()) for row in table.to_pylist())


@pytest.fixture(params=[1, 3, len(TABLE)])
def batch_rows(request):
    return request.param


@pytest.fixture(params=[1, 2])
def partitions(request):
    return request.param


@pytest.fixture(params=list(CALLS))
def call(request):
    return request.param


def n_late_for_all(call, lateness=0):
    in_time, late = told_apart(call, lateness)
    return len({row["ts"] for row in late} - {row["ts"] for row in in_time})


@pytest.mark.parametrize(
    "source",
    [
        "{call}",
        "(SELECT * FROM {call})",
        "(SELECT k, v, window_end FROM {call} WHERE v > 0)",
        "(SELECT k, v, window_end FROM (SELECT * FROM {call}))",
    ],
)
def test_late_rows_do_not_open_a_closed_window_again(call, source, batch_rows, partitions):
    sql = f"SELECT k, window_end, count(*) AS n FROM {source.format(call=call)} GROUP BY 1, 2"
    table, late, stats = pushed(sql, batch_rows, partitions)
    in_time, late_ones = told_apart(call)
    counted = Counter((row["k"], row["end"]) for row in in_time)
    assert rows_of(table) == sorted((*key, n) for key, n in counted.items())
    assert stats.rows_late == n_late_for_all(call)
    expected = sorted((row["ts"], row["start"], row["end"]) for row in late_ones)
    assert rows_of(late.select(["ts", "window_start", "window_end"])) == expected


def test_rows_that_are_kept_and_joined_are_not_late_either(call, batch_rows, partitions):
    sql = (
        "SELECT name, window_end, median(v) AS middle"
        f" FROM (SELECT k, v, window_end FROM {call}) AS s JOIN names ON s.k = names.k"
        " GROUP BY name, window_end"
    )
    table, _, stats = pushed(sql, batch_rows, partitions)
    groups = {}
    for row in told_apart(call)[0]:
        key = ("one", "two")[row["k"] - 1], row["end"]
        groups.setdefault(key, []).append(row["v"])
    expected = [(*key, statistics.median(values)) for key, values in groups.items()]
    assert rows_of(table) == sorted(expected)
    assert stats.rows_late == n_late_for_all(call)


def test_both_sides_of_a_union_judge_their_rows(batch_rows, partitions):
    tumble, hop = "TUMBLE(t, ts, 10)", "HOP(t, ts, 5, 10)"
    sql = (
        "SELECT window_end, sum(v) AS total FROM"
        f" (SELECT v, window_end FROM {tumble} UNION ALL SELECT v, window_end FROM {hop}) AS s"
        " GROUP BY window_end"
    )
    table, _, _ = pushed(sql, batch_rows, partitions)
    totals = Counter()
    for row in told_apart(tumble)[0] + told_apart(hop)[0]:
        totals[row["end"]] += row["v"]
    assert rows_of(table) == sorted(totals.items())


@pytest.mark.parametrize("end", ["window_end", "window_time", "window_end, window_time"])
@pytest.mark.parametrize("lateness", [0, 7])
def test_distinct_rows_are_forgotten_when_their_window_closes(
    call, end, lateness, batch_rows, partitions
):
    sql = f"SELECT DISTINCT k, {end}, v FROM {call}"
    options = {"allowed_lateness": lateness} if lateness else {}
    table, _, stats = pushed(sql, batch_rows, partitions, **options)
    ends = {"window_end": lambda row: row["end"], "window_time": lambda row: row["end"] - 1}
    shown = [ends[name] for name in end.split(", ")]
    in_time, _ = told_apart(call, lateness)
    expected = {(row["k"], *(of(row) for of in shown), row["v"]) for row in in_time}
    assert rows_of(table) == sorted(expected)
    assert table.schema.names == ["k", *end.split(", "), "v"]
    assert stats.rows_late == n_late_for_all(call, lateness) > 0
    assert sum(part.state_rows for part in stats.partitions) == 0


def test_distinct_rows_come_out_at_once():
    session = ms.Session(partitions=1)
    session.create_stream("t", TABLE.schema, event_time="ts")
    results = ms.CollectSink()
    query = session.sql("SELECT DISTINCT k, window_end FROM TUMBLE(t, ts, 10)")
    with query.start(results) as job:
        job.push("t", TABLE.slice(0, 2))
        wait_until(lambda: job.stats().rows_waiting == 0)
        assert rows_of(results.table()) == [(1, 10)]
        assert job.stats().partitions[0].state_rows == 1


@pytest.mark.parametrize("lateness", [0, 7])
def test_groups_over_distinct_rows_close_with_their_windows(call, lateness, batch_rows, partitions):
    sql = (
        f"SELECT k, window_end, count(*) AS n FROM (SELECT DISTINCT k, v, window_end FROM {call})"
        " GROUP BY k, window_end"
    )
    options = {"allowed_lateness": lateness} if lateness else {}
    table, _, _ = pushed(sql, batch_rows, partitions, **options)
    in_time, _ = told_apart(call, lateness)
    counted = Counter((k, end) for k, _, end in {(r["k"], r["v"], r["end"]) for r in in_time})
    assert rows_of(table) == sorted((*key, n) for key, n in counted.items())


def test_distinct_rows_of_closed_windows_are_each_there(batch_rows, partitions):
    inner = "SELECT k, window_end, count(*) AS n FROM TUMBLE(t, ts, 10) GROUP BY k, window_end"
    table, _, stats = pushed(
        f"SELECT DISTINCT window_end, n FROM ({inner})", batch_rows, partitions
    )
    counted = Counter((row["k"], row["end"]) for row in told_apart("TUMBLE(t, ts, 10)")[0])
    assert rows_of(table) == sorted({(end, n) for (_, end), n in counted.items()})
    assert sum(part.state_rows for part in stats.partitions) == 0


def test_a_window_of_its_own_judges_rows_that_a_window_below_passes_on(batch_rows, partitions):
    """A row may be late for the inner window and in time for the outer one."""
    sql = (
        "SELECT k, window_end, count(*) AS n FROM (SELECT k, window_start AS w FROM"
        " TUMBLE(t, ts, 5)) AS s GROUP BY k WINDOW TUMBLING(w, 20)"
    )
    table, _, _ = pushed(sql, batch_rows, partitions)
    watermark, counted = None, Counter()
    for row in TABLE.to_pylist():
        start = row["ts"] // 5 * 5
        end = start // 20 * 20 + 20
        # What serves as time is up to a window behind the time that moves the watermark.
        if watermark is None or watermark - 5 < end:
            counted[row["k"], end] += 1
        watermark = row["ts"] if watermark is None else max(watermark, row["ts"])
    assert rows_of(table) == sorted((*key, n) for key, n in counted.items())


def test_windows_judge_distinct_rows_by_when_they_first_came(batch_rows, partitions):
    sql = (
        "SELECT k, window_end, count(*) AS n FROM (SELECT DISTINCT k, v, ts FROM t) AS s"
        " GROUP BY k WINDOW TUMBLING(ts, 10)"
    )
    table, late, stats = pushed(sql, batch_rows, partitions)
    in_time, late_ones = told_apart("TUMBLE(t, ts, 10)")
    counted = Counter((row["k"], row["end"]) for row in in_time)
    assert rows_of(table) == sorted((*key, n) for key, n in counted.items())
    assert stats.rows_late == len(late_ones) > 0
    expected = sorted((row["ts"], row["start"], row["end"]) for row in late_ones)
    assert rows_of(late.select(["ts", "window_start", "window_end"])) == expected


def test_a_volatile_condition_is_about_each_window_of_a_row():
    session, n_seen = ms.Session(), 0

    def every_other(values):
        nonlocal n_seen
        n_seen += len(values)
        return pa.array([(n_seen - row) % 2 == 0 for row in range(len(values))])

    session.create_stream("t", TABLE.schema, event_time="ts", max_out_of_orderness=100)
    session.register_udf("coin", every_other, [pa.int64()], pa.bool_(), volatility="volatile")
    results = ms.CollectSink()
    query = "SELECT k, window_end FROM HOP(t, ts, 5, 10) WHERE coin(v)"
    job = session.sql(query).start(results)
    job.push("t", TABLE)
    job.finish()
    assert n_seen == 2 * TABLE.num_rows
    assert results.table().num_rows == TABLE.num_rows


def test_a_ranking_judges_rows_that_a_window_function_passes_on(batch_rows, partitions):
    sql = (
        "SELECT k, ts, window_end, x FROM (SELECT k, ts, window_end, count(*) OVER (PARTITION BY k"
        " ROWS UNBOUNDED PRECEDING) AS x FROM TUMBLE(t, ts, 10)) AS s ORDER BY x LIMIT 100"
    )
    table, late, stats = pushed(sql, batch_rows, partitions)
    in_time, late_ones = told_apart("TUMBLE(t, ts, 10)")
    # The window function counts late rows, too.
    seen, place = Counter(), {}
    for row in TABLE.to_pylist():
        seen[row["k"]] += 1
        place[row["ts"]] = seen[row["k"]]
    expected = [(row["k"], row["ts"], row["end"], place[row["ts"]]) for row in in_time]
    assert rows_of(table) == sorted(expected)
    assert stats.rows_late == len(late_ones) > 0
    assert sorted(late["ts"].to_pylist()) == sorted(row["ts"] for row in late_ones)


@pytest.mark.parametrize("end", ["window_end", "window_time"])
@pytest.mark.parametrize("keys", ["k, {}", "ROLLUP(k), {}"])
def test_groups_of_groups_wait_as_long_as_these(end, keys, call, batch_rows, partitions):
    keys = keys.format(end)
    inner = f"SELECT k, {end}, count(*) AS c FROM (SELECT * FROM {call}) AS q GROUP BY {keys}"
    sql = f"SELECT {end}, sum(c) AS c FROM ({inner}) AS r WHERE k IS NOT NULL GROUP BY {end}"
    results, _, _ = pushed(f"{sql} EMIT FINAL", batch_rows, partitions, allowed_lateness=7)
    in_time, _ = told_apart(call, 7)
    is_last = int(end == "window_time")
    counts = Counter(row["end"] - is_last for row in in_time)
    assert rows_of(results) == sorted(counts.items())
