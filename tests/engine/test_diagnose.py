"""A job says in words why nothing comes out."""

from __future__ import annotations

import threading
from datetime import date

import pyarrow as pa
import pytest

import millstream as ms

SCHEMA = pa.schema({"k": pa.int64(), "ts": pa.timestamp("ms")})
TIMEOUT_SECONDS = 30

PASS = "SELECT k FROM t"
WINDOWS = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, INTERVAL '10' SECOND)"


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def rows(*seconds, k=1):
    times = pa.array([second * 1000 for second in seconds], pa.int64()).cast(pa.timestamp("ms"))
    keys = pa.array([k] * len(seconds), pa.int64())
    return pa.record_batch([keys, times], schema=SCHEMA)


@pytest.fixture
def clock():
    return Clock()


def started(sql, clock, sink=lambda batch: None, *, partitions=2, options=None, **stream):
    session = ms.Session(partitions=partitions, clock=clock, **(options or {}))
    session.create_stream("t", SCHEMA, event_time="ts", **stream)
    return session.sql(sql).start(sink)


def settle(job):
    assert job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)


def kinds(job):
    return [finding.kind for finding in job.diagnose().findings]


def test_no_input(clock):
    with started(PASS, clock) as job:
        clock.now += 12.5
        (finding,) = job.diagnose().findings
        assert finding == ms.Finding(
            "no_input", "No rows have come on stream 't' in the 12.5 s of the job.", stream="t"
        )
        job.push("t", rows(1))
        settle(job)
        assert str(job.diagnose()) == ("Nothing holds results back: all input has been processed.")
        clock.now += 3.0
        assert str(job.diagnose()) == "No rows have come on stream 't' for 3.0 s."


def test_a_source_partition_that_never_came_holds_the_watermark(clock):
    with started(WINDOWS, clock, source_partitions=4) as job:
        for source_partition in range(3):
            job.push("t", rows(1, 25), source_partition=source_partition)
        clock.now += 0.5
        settle(job)
        assert str(job.diagnose()).splitlines() == [
            "The watermark of stream 't' has not begun because source partition 3 has brought no"
            " rows for 0.5 s.",
            "2 windows are held back; the next closes when the watermark reaches"
            " 1970-01-01 00:00:10.000.",
        ]


def test_a_source_partition_that_is_behind_holds_the_watermark(clock):
    with started(WINDOWS, clock) as job:
        job.push("t", rows(3), source_partition=1)
        job.push("t", rows(12), source_partition=0)
        clock.now += 60.0
        job.push("t", rows(47), source_partition=0)
        settle(job)
        watermark, windows = job.diagnose().findings
        assert watermark.text == (
            "The watermark of stream 't' stands at 1970-01-01 00:00:03.000 because source partition"
            " 1 is the furthest behind, at 1970-01-01 00:00:03.000, and has brought no rows for"
            " 60.0 s."
        )
        assert windows.text.startswith("3 windows are held back")


def test_idle_source_partitions_are_named_as_such(clock):
    with started(WINDOWS, clock, source_partitions=3, idle_timeout="10 seconds") as job:
        clock.now += 5.0
        job.push("t", rows(21), source_partition=0)
        job.push("t", rows(25), source_partition=1)
        clock.now += 5.0
        settle(job)
        (text,) = [f.text for f in job.diagnose().findings if f.kind == "watermark"]
        assert "because source partition 0 is the furthest behind" in text
        assert text.endswith("; idle and not waited for: 1 of 3.")


def test_a_window_closes_where_lateness_is_allowed_for_when_it_ends(clock):
    options = {"max_out_of_orderness": "5 seconds", "allowed_lateness": "1 hour"}
    with started(WINDOWS, clock, **options) as job:
        job.push("t", rows(1, 12, 14))
        settle(job)
        watermark, windows = job.diagnose().findings
        assert watermark.text == (
            "The watermark of stream 't' stands at 1970-01-01 00:00:09.000, 5.0 s behind the latest"
            " row."
        )
        assert windows.text == (
            "2 windows are held back; the next closes when the watermark reaches"
            " 1970-01-01 00:00:10.000."
        )
        job.push("t", rows(16))
        settle(job)
        assert job.diagnose().findings[-1].text == (
            "1 window is held back; the next closes when the watermark reaches"
            " 1970-01-01 00:00:20.000."
        )


@pytest.mark.parametrize(
    ("window", "n_windows", "next_end"),
    [
        ("SLIDING(ts, INTERVAL '10' SECOND, INTERVAL '5' SECOND)", 3, "00:00:15.000"),
        ("TUMBLING(ts, INTERVAL '5' SECOND)", 2, "00:00:15.000"),
    ],
)
@pytest.mark.parametrize("partitions", [1, 2])
def test_windows_are_counted_once(clock, window, n_windows, next_end, partitions):
    """Rows at 11 s and 17 s, of many keys, in windows of all partitions."""
    sql = f"SELECT k, count(*) AS n FROM t GROUP BY k WINDOW {window}"
    with started(sql, clock, partitions=partitions, max_out_of_orderness="5 seconds") as job:
        for k in range(10):
            job.push("t", rows(11, 17, k=k))
        settle(job)
        (finding,) = [f for f in job.diagnose().findings if f.kind == "held_back"]
        assert finding.text == (
            f"{n_windows} windows are held back; the next closes when the watermark reaches"
            f" 1970-01-01 {next_end}."
        )


def test_sessions_and_rows_are_held_back_too(clock):
    sessions = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW SESSION(ts, INTERVAL '1' SECOND)"
    with started(sessions, clock, max_out_of_orderness="1 minute") as job:
        for k in range(3):
            job.push("t", rows(1 + k, k=k))
        settle(job)
        assert job.diagnose().findings[-1].text == (
            "3 sessions are held back; the next ends when the watermark reaches"
            " 1970-01-01 00:00:02.001."
        )
    over = "SELECT count(*) OVER (PARTITION BY k ORDER BY ts) AS n FROM t"
    with started(over, clock, max_out_of_orderness="1 minute") as job:
        job.push("t", rows(4, 3))
        settle(job)
        assert job.diagnose().findings[-1].text == (
            "2 rows are held back; the next comes out when the watermark reaches"
            " 1970-01-01 00:00:03.001."
        )
    top = (
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end"
        " ORDER BY k) AS r FROM TUMBLE(t, ts, INTERVAL '10' SECOND)) WHERE r <= 1"
    )
    with started(top, clock, max_out_of_orderness="1 minute") as job:
        job.push("t", rows(4, 3, 14))
        settle(job)
        assert job.diagnose().findings[-1].text.startswith("2 windows are held back")


def test_all_rows_are_late(clock):
    with started(WINDOWS, clock) as job:
        job.advance_watermark("t", 1_000_000)
        for _ in range(10):
            job.push("t", rows(1))
        settle(job)
        (text,) = [f.text for f in job.diagnose().findings if f.kind == "late"]
        assert text.startswith("All 10 rows so far came too late:")
        job.push("t", rows(*[2_000] * 6))
        settle(job)
        (text,) = [f.text for f in job.diagnose().findings if f.kind == "late"]
        assert text.startswith("62% of the 16 rows so far came too late:")


def test_a_sink_that_does_not_return(clock):
    entered, opened = threading.Event(), threading.Event()

    def sink(batch):
        entered.set()
        opened.wait()

    options = {"inbox_rows_max": 4}
    with started(PASS, clock, sink, partitions=1, options=options) as job:
        job.push("t", rows(1, 2, 3))
        assert entered.wait(TIMEOUT_SECONDS)
        job.push("t", rows(1))
        clock.now += 7.0
        sink_, queue, no_input = job.diagnose().findings
        assert sink_ == ms.Finding(
            "sink",
            "The sink of partition 0 has not returned for 7.0 s; 4 rows wait behind it.",
            partition=0,
        )
        assert queue.text == "The queue of partition 0 is saturated: 100% full."
        assert no_input.kind == "no_input"
        opened.set()


def test_a_function_that_does_not_return(clock):
    entered, opened = threading.Event(), threading.Event()

    def ponder(values):
        entered.set()
        opened.wait()
        return values

    session = ms.Session(partitions=1, clock=clock)
    session.create_stream("t", SCHEMA)
    session.register_udf("ponder", ponder, [pa.int64()], pa.int64())
    with session.sql("SELECT ponder(k) AS k FROM t").start(print) as job:
        job.push("t", rows(1))
        assert entered.wait(TIMEOUT_SECONDS)
        clock.now += 7.0
        finding = job.diagnose().findings[0]
        assert finding.kind == "operator"
        assert finding.text == (
            "Partition 0 has been at work in 1:transform for 7.0 s on one message."
        )
        opened.set()


def test_a_filter_that_nothing_passes(clock):
    with started("SELECT k FROM t WHERE k > 5", clock) as job:
        job.push("t", rows(1, 2))
        settle(job)
        (finding,) = job.diagnose().findings
        assert finding.kind == "filtered"
        assert finding.text.startswith("2 rows have been processed and none has passed")


def test_final_results_that_wait_for_the_end(clock):
    with started("SELECT k, count(*) AS n FROM t GROUP BY k EMIT FINAL", clock) as job:
        job.push("t", rows(1, 2))
        settle(job)
        (finding,) = job.diagnose().findings
        assert finding.kind == "end_of_input"
        assert "at finish()" in finding.text


def test_the_end_of_a_job(clock):
    job = started(PASS, clock)
    job.finish()
    assert str(job.diagnose()) == "The job is finished: nothing more comes out."
    job = started(PASS, clock)
    job.cancel()
    assert str(job.diagnose()) == "The job is cancelled: nothing more comes out."

    def sink(batch):
        raise ValueError("boom")

    job = started(PASS, clock, sink)
    job.push("t", rows(1))
    for partition in job._runtime._partitions:
        assert partition.join(TIMEOUT_SECONDS)
    assert str(job.diagnose()).startswith("The job has failed: sink of partition")
    assert "boom" in str(job.diagnose())


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (pa.int64(), "20"),
        (pa.date32(), "1970-01-21"),
        (pa.timestamp("us", "UTC"), "1970-01-01 00:00:00.000020Z"),
        (pa.timestamp("ns"), "1970-01-01 00:00:00.000000020"),
    ],
)
def test_event_times_are_written_as_their_column_shows_them(clock, type_, text):
    session = ms.Session(partitions=1, clock=clock)
    session.create_stream("t", pa.schema({"ts": type_}), event_time="ts")
    with session.sql("SELECT count(*) OVER (ORDER BY ts) AS n FROM t").start(print) as job:
        value = date(1970, 1, 21) if type_ == pa.date32() else 20
        job.advance_watermark("t", value)
        job.push("t", pa.table({"ts": pa.array([value]).cast(type_)}))
        settle(job)
        assert f"stands at {text}" in str(job.diagnose())
