"""What closes by windows whose rows have waited for OVER: no row is left over, and none is kept."""

from __future__ import annotations

from collections import Counter, defaultdict

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.stalling import wait_until
from tests.engine.test_windows_of_subqueries import CALLS, rows_of, windows_of

# Some rows bring the watermark to the very end of a window, others are behind it by as much as a
# window can be, or come in one time.
TIMES = [1, 4, 3, 10, 9, 5, 12, 20, 19, 11, 20, 8, 23, 30, 30, 29, 27, 40, 31, 14, 46, 50, 45, 71]
TABLE = pa.table(
    {
        "k": [1 + (3 * row // 2) % 2 for row in range(len(TIMES))],
        "v": [(7 * row) % 11 for row in range(len(TIMES))],
        "ts": TIMES,
    }
)
NAMES = pa.table({"k": [1, 2], "name": ["one", "two"]})

FRAMES = ["ROWS 2 PRECEDING", "RANGE 6 PRECEDING"]
# By what OVER orders rows: the time of a row in a window, how far its watermark is behind the
# stream's, and how far that has to be beyond the end of a window to close it behind OVER.
ORDERS = {
    "ts": (lambda row: row["ts"], lambda size: 0, lambda size: 0),
    "window_time": (lambda row: row["end"] - 1, lambda size: 0, lambda size: 0),
    "window_end": (lambda row: row["end"], lambda size: 0, lambda size: 1),
    "window_start": (lambda row: row["start"], lambda size: size, lambda size: size),
}


def over(order="ts", frame=FRAMES[0], call="TUMBLE(t, ts, 10)"):
    call_sql = f"sum(v) OVER (PARTITION BY k ORDER BY {order} {frame})"
    return f"(SELECT *, {call_sql} AS r FROM {call})"


def framed(call, order, frame, delay=0):
    """The rows that pass OVER in their order, each with its sum; and how many are late for it."""
    time_of, behind, _ = ORDERS[order]
    size, passed, n_late, greatest = CALLS[call][1], [], 0, None
    for row in TABLE.to_pylist():
        watermark = None if greatest is None else greatest - delay - behind(size)
        for start, end in windows_of(call, row["ts"]):
            placed = {**row, "start": start, "end": end}
            is_late = watermark is not None and time_of(placed) < watermark
            n_late += is_late
            passed += [] if is_late else [placed]
        greatest = row["ts"] if greatest is None else max(greatest, row["ts"])
    passed.sort(key=time_of)
    for place, row in enumerate(passed):
        if frame.startswith("ROWS"):
            of_key = [other for other in passed[: place + 1] if other["k"] == row["k"]][-3:]
        else:
            times = range(time_of(row) - 6, time_of(row) + 1)
            of_key = [r for r in passed if r["k"] == row["k"] and time_of(r) in times]
        row["r"] = sum(other["v"] for other in of_key)
    return passed, n_late


def grouped(passed):
    """Rows of ``k, window_end, count(*), max(r)``."""
    groups = defaultdict(list)
    for row in passed:
        groups[row["k"], row["end"]].append(row["r"])
    return sorted((*key, len(sums), max(sums)) for key, sums in groups.items())


def started(sql, partitions, results, **options):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", TABLE.schema, event_time="ts", **options)
    session.create_table("names", NAMES)
    return session.sql(sql).start(results)


def push(job, batch):
    job.push("t", batch)
    wait_until(lambda: job.stats().rows_waiting == 0)


def pushed(sql, batch_rows, partitions, **options):
    """What comes out, after every push has gone all the way; with the job's figures."""
    results = ms.CollectSink()
    job = started(sql, partitions, results, **options)
    for batch in TABLE.to_batches(max_chunksize=batch_rows):
        push(job, batch)
    job.finish()
    return results.table(), job.stats()


def n_rows_of(results):
    return 0 if results.table() is None else results.table().num_rows


# Rows of a batch, and partitions.
@pytest.fixture(params=[(1, 2), (3, 1), (len(TABLE), 2)])
def way(request):
    return request.param


@pytest.fixture
def batch_rows(way):
    return way[0]


@pytest.fixture
def partitions(way):
    return way[1]


@pytest.fixture(params=list(CALLS))
def call(request):
    return request.param


@pytest.fixture(params=list(ORDERS))
def order(request):
    return request.param


GROUPED = "SELECT k, window_end, count(*) AS n, max(r) AS r FROM {} AS s GROUP BY k, window_end"


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("delay", [0, 4])
def test_groups_have_all_rows_that_pass(call, order, frame, delay, batch_rows, partitions):
    sql = GROUPED.format(over(order, frame, call))
    table, stats = pushed(sql, batch_rows, partitions, max_out_of_orderness=delay)
    passed, n_late = framed(call, order, frame, delay)
    assert table.schema.names == ["k", "window_end", "n", "r"]
    assert rows_of(table) == grouped(passed)
    assert stats.rows_late == n_late


@pytest.mark.parametrize("frame", FRAMES)
def test_groups_come_out_as_the_watermark_passes_their_windows(
    call, order, frame, batch_rows, partitions
):
    results = ms.CollectSink()
    passed, _ = framed(call, order, frame)
    beyond = ORDERS[order][2](CALLS[call][1])
    with started(GROUPED.format(over(order, frame, call)), partitions, results) as job:
        for batch in TABLE.to_batches(max_chunksize=batch_rows):
            push(job, batch)
            watermark = max(TIMES[: job.stats().rows_in])
            closed = [row for row in grouped(passed) if row[1] + beyond <= watermark]
            wait_until(lambda closed=closed: n_rows_of(results) >= len(closed))
            assert closed == [] or rows_of(results.table()) == closed
            assert n_rows_of(results) == len(closed)


@pytest.mark.parametrize("aggregate", ["count(*)", "max(r)", "median(r)"])
@pytest.mark.parametrize("lateness", [0, 7])
@pytest.mark.parametrize("partitions", [1, 2])
def test_what_is_kept_of_windows_is_given_up(aggregate, order, lateness, partitions):
    sql = f"SELECT window_end, k, {aggregate} AS a, sum(r) FROM {over(order)} AS s GROUP BY 1, 2"
    options = {"allowed_lateness": lateness} if lateness else {}
    with started(sql, partitions, ms.CollectSink(), **options) as job:
        most, n_windows = 0, 50
        for window in range(n_windows):
            times = [10 * window + moment for moment in (0, 3, 9)]
            push(job, pa.table({"k": [1, 2, 1], "v": [window, 1, window], "ts": times}))
            kept = sum(part.state_rows for part in job.stats().partitions)
            most = max(most, kept) if window < 10 else most
            # Rows of open windows; keys of kernels are given up by the thousand.
            assert aggregate != "median(r)" or kept <= most
        job.advance_watermark("t", 10 * n_windows + 20)
        wait_until(lambda: sum(part.state_rows for part in job.stats().partitions) <= 6)
        # The keys of OVER are left, each with the rows that later frames reach.
        assert sum(part.state_rows for part in job.stats().partitions) == 6


def test_no_result_is_revised_where_late_rows_do_not_pass(call, order, batch_rows, partitions):
    sql = GROUPED.format(over(order, call=call))
    table, _ = pushed(sql, batch_rows, partitions, allowed_lateness=7)
    assert table.schema.names == ["k", "window_end", "n", "r"]
    assert rows_of(table) == grouped(framed(call, order, FRAMES[0])[0])


@pytest.mark.parametrize(
    "source",
    [
        "(SELECT k, window_end, r FROM {} AS s)",
        "(SELECT s.k, window_end, r, name FROM {} AS s JOIN names ON s.k = names.k)",
        "(SELECT a AS k, b AS window_end, r FROM (SELECT k, window_end, r FROM {}) AS s(a, b))",
    ],
)
def test_window_columns_reach_groups_through_subqueries(source, order, batch_rows, partitions):
    table, _ = pushed(GROUPED.format(source.format(over(order))), batch_rows, partitions)
    assert "_op" not in table.schema.names
    assert rows_of(table) == grouped(framed("TUMBLE(t, ts, 10)", order, FRAMES[0])[0])


@pytest.mark.parametrize(
    "below",
    [
        "(SELECT k AS a, v AS b, ts AS c, window_end AS d FROM TUMBLE(t, ts, 10))",
        "(SELECT k AS v, v AS k, ts AS window_end, window_end AS ts FROM TUMBLE(t, ts, 10))",
        "(SELECT s.k, v, ts, window_end FROM TUMBLE(t, ts, 10) AS s JOIN names ON s.k = names.k)",
        "(SELECT k, v, ts, window_end FROM TUMBLE(t, ts, 10) WHERE k = 1"
        " UNION ALL SELECT k, v, ts, window_end FROM TUMBLE(t, ts, 10) WHERE k = 2)",
    ],
)
def test_event_times_of_subqueries_are_known_to_lie_before_the_end(below, batch_rows, partitions):
    inner = f"(SELECT *, sum(v) OVER (PARTITION BY k ORDER BY ts {FRAMES[0]}) AS r FROM {below}"
    sql = GROUPED.format(f"{inner} AS q(k, v, ts, window_end))")
    table, _ = pushed(sql, batch_rows, partitions)
    assert "_op" not in table.schema.names
    assert rows_of(table) == grouped(framed("TUMBLE(t, ts, 10)", "ts", FRAMES[0])[0])


def test_distinct_rows_are_forgotten_with_their_windows(call, order, batch_rows, partitions):
    sql = f"SELECT DISTINCT k, window_end, r FROM {over(order, call=call)} AS s"
    table, _ = pushed(sql, batch_rows, partitions)
    passed, _ = framed(call, order, FRAMES[0])
    assert rows_of(table) == sorted({(row["k"], row["end"], row["r"]) for row in passed})


def test_the_first_rows_of_a_window_are_chosen_once(call, order, batch_rows, partitions):
    sql = f"SELECT window_end, r FROM {over(order, call=call)} AS s ORDER BY r DESC LIMIT 2"
    table, _ = pushed(sql, batch_rows, partitions)
    by_end = defaultdict(list)
    for row in framed(call, order, FRAMES[0])[0]:
        by_end[row["end"]].append(row["r"])
    expected = [(end, r) for end, sums in by_end.items() for r in sorted(sums)[-2:]]
    assert rows_of(table) == sorted(expected)


def test_rows_from_both_sides_of_a_union_close_together(order, batch_rows, partitions):
    below = f"SELECT window_end, r FROM {over(order)} AS s"
    other = "SELECT window_end, v AS r FROM HOP(t, ts, 5, 10)"
    sql = (
        f"SELECT window_end, sum(r) AS total FROM ({below} UNION ALL {other}) AS u"
        " GROUP BY window_end"
    )
    table, _ = pushed(sql, batch_rows, partitions)
    totals = Counter()
    for row in framed("TUMBLE(t, ts, 10)", order, FRAMES[0])[0]:
        totals[row["end"]] += row["r"]
    greatest, beyond = None, ORDERS[order][2](10)
    for row in TABLE.to_pylist():
        for _, end in windows_of("HOP(t, ts, 5, 10)", row["ts"]):
            if greatest is None or end + beyond > greatest:
                totals[end] += row["v"]
        greatest = row["ts"] if greatest is None else max(greatest, row["ts"])
    assert rows_of(table) == sorted(totals.items())


def test_one_window_function_after_the_other_waits_for_its_own_time(batch_rows, partitions):
    inner = over("ts")
    outer = "max(r) OVER (PARTITION BY k ORDER BY window_time ROWS 1 PRECEDING)"
    sql = GROUPED.format(f"(SELECT k, window_end, {outer} AS r FROM {inner} AS i)")
    table, _ = pushed(sql, batch_rows, partitions)
    passed, _ = framed("TUMBLE(t, ts, 10)", "ts", FRAMES[0])
    before = {}
    for row in passed:
        row["r"], before[row["k"]] = max(row["r"], before.get(row["k"], row["r"])), row["r"]
    assert rows_of(table) == grouped(passed)
