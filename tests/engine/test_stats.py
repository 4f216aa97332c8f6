"""Snapshots of jobs add up, at every moment and by every partition."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.batch_size import BatchSizer
from millstream.engine.latency import LatencyHistogram
from millstream.engine.time_sheet import BLOCKED, ENGINE, IDLE, TimedLink, TimedSinkLink, TimeSheet
from millstream.engine.turn import Turn

SCHEMA = pa.schema({"k": pa.int64(), "ts": pa.timestamp("ms"), "x": pa.int64()})
TIMEOUT_SECONDS = 30

WINDOWS = (
    "SELECT k, window_start, sum(x) AS s FROM t WHERE x > 0 GROUP BY k"
    " WINDOW TUMBLING(ts, INTERVAL '1' SECOND)"
)


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def rows(first, n_rows=100):
    values = range(first, first + n_rows)
    keys = pa.array([value % 5 for value in values], pa.int64())
    times = pa.array(values, pa.int64()).cast(pa.timestamp("ms"))
    return pa.record_batch([keys, times, pa.array(values, pa.int64())], schema=SCHEMA)


def session(partitions=2, *, stream=None, **options):
    made = ms.Session(partitions=partitions, **options)
    made.create_stream("t", SCHEMA, event_time="ts", **(stream or {}))
    return made


# Latencies


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_one_of_the_times_rounded_up_by_a_sixteenth_at_most(times, fraction):
    histogram = LatencyHistogram()
    for time in times:
        histogram.record_all([time])
    exact = sorted(times)[max(-(-int(fraction * len(times) * 10**9) // 10**9) - 1, 0)]
    found = histogram.quantile_us(fraction) * 1000
    # Between microseconds and nanoseconds, the last bit may be lost.
    assert any(time * (1 - 1e-9) <= found <= time + time / 16 + 1e-6 for time in times)
    assert found >= exact * (1 - 1e-9) or fraction * len(times) % 1 < 1e-6


@given(st.lists(st.integers(-5, 1 << 40), max_size=100))
def test_bounds_that_are_powers_of_two_are_exact(times):
    histogram = LatencyHistogram()
    for time in times:
        histogram.record_all([time])
    exponents = [0, 3, 4, 10, 14, 35, 63]
    assert histogram.cumulative(exponents) == [
        sum(time < 1 << exponent for time in times) for exponent in exponents
    ]
    assert histogram.n == len(times)
    assert histogram.total_ns == sum(max(time, 0) for time in times)


def test_histograms_add_up():
    parts = [LatencyHistogram(), LatencyHistogram(), LatencyHistogram()]
    for number, part in enumerate(parts[:2]):
        part.record_all([1_000 * (number + 1)])
    merged = LatencyHistogram.merged(parts)
    assert (merged.n, merged.total_ns) == (2, 3_000)
    assert merged.quantiles_us([0.5, 1.0]) == pytest.approx([1.0, 2.0], rel=1 / 16)
    assert LatencyHistogram().quantiles_us([0.5, 0.9]) == [None, None]


# Time


class Slow:
    """A link that takes a while before and after it hands on."""

    def __init__(self, clock, seconds, downstream=None):
        self._clock, self._seconds, self._downstream = clock, seconds, downstream

    def emit(self, batch):
        self._clock.now += self._seconds
        if self._downstream is not None:
            self._downstream.emit(batch)
            self._clock.now += self._seconds

    def end_step(self, item):
        self._clock.now += self._seconds
        if self._downstream is not None:
            self._downstream.end_step(item)


def test_an_operator_is_not_charged_for_what_comes_behind_it():
    clock = Clock()
    sheet = TimeSheet(clock)
    inner, outer = sheet.add_operator("inner"), sheet.add_operator("outer")
    sink = TimedSinkLink(Slow(clock, 8.0), sheet, Turn(None))
    below = TimedLink(Slow(clock, 1.0, sink), sheet, outer)
    chain = TimedLink(Slow(clock, 2.0, below), sheet, inner)
    clock.now += 16.0
    sheet.begin_message()
    clock.now += 32.0
    chain.emit(None)
    sheet.switch(IDLE)
    seconds = sheet.seconds()
    assert (seconds[IDLE], seconds[BLOCKED], seconds[ENGINE]) == (16.0, 8.0, 32.0)
    assert sheet.by_operator(seconds) == {"inner": 4.0, "outer": 2.0}
    sheet.begin_message()
    chain.end_step(None)
    seconds = sheet.seconds()
    assert seconds[BLOCKED] == 8.0, "only what a sink takes for rows is waiting"
    assert seconds[ENGINE] == 40.0


def test_time_that_is_still_running_counts():
    clock = Clock()
    sheet = TimeSheet(clock)
    sheet.begin_message()
    clock.now += 1.0
    sheet.switch(BLOCKED)
    clock.now += 2.0
    assert sheet.seconds() == [0.0, 2.0, 1.0]
    assert (sheet.blocked_for(), sheet.busy_for()) == (2.0, 3.0)
    sheet.switch(IDLE)
    clock.now += 4.0
    assert sheet.seconds() == [4.0, 2.0, 1.0]
    assert (sheet.blocked_for(), sheet.busy_for()) == (0.0, 0.0)
    sheet.end()
    clock.now += 8.0
    assert sheet.seconds() == [4.0, 2.0, 1.0]


def test_shares_of_a_partition_that_is_blocked_add_up():
    clock, entered, opened = Clock(), threading.Event(), threading.Event()

    def sink(batch):
        entered.set()
        opened.wait()

    job = session(1, clock=clock).sql("SELECT k FROM t").start(sink)
    (part,) = job.stats().partitions
    assert (part.busy_share, part.idle_share, part.blocked_share) == (0.0, 1.0, 0.0)
    clock.now += 1.0
    job.push("t", rows(0))
    assert entered.wait(TIMEOUT_SECONDS)
    clock.now += 3.0
    (part,) = job.stats().partitions
    assert (part.idle_share, part.blocked_share, part.busy_share) == (0.25, 0.75, 0.0)
    assert part.blocked_for_seconds == 3.0
    assert part.rows_in == 100
    assert part.rows_processed == 0
    opened.set()
    job.finish()
    (part,) = job.stats().partitions
    assert part.latency.p50_us == pytest.approx(3e6, rel=1 / 16)
    clock.now += 100.0
    assert job.stats().partitions[0].idle_seconds == 1.0, "a thread that has ended is not idle"


def test_a_sink_for_late_rows_that_blocks_counts_as_blocked():
    clock = Clock()

    def late_sink(batch):
        clock.now += 2.0

    made = session(1, clock=clock)
    job = made.sql(WINDOWS).start(lambda batch: None, late_sink=late_sink)
    job.push("t", rows(5_000))
    job.push("t", rows(0))
    job.finish()
    assert job.stats().rows_late == 99
    assert job.stats().partitions[0].blocked_seconds == 2.0


# Jobs


def test_all_that_goes_in_is_accounted_for():
    received = []
    job = session().sql(WINDOWS).start(received.append)
    for number in range(30):
        job.push("t", rows(100 * number))
        stats = job.stats()
        assert stats.rows_in == 100 * (number + 1)
        assert stats.rows_in == (
            stats.rows_processed + stats.rows_late + stats.rows_dead_lettered + stats.rows_waiting
        )
    job.push("t", rows(0, 10))
    job.finish()
    stats = job.stats()
    assert (stats.name, stats.state) == ("job-0", "finished")
    assert (stats.rows_in, stats.rows_processed, stats.rows_late) == (3_010, 3_001, 9)
    assert stats.rows_waiting == 0
    assert stats.rows_out == sum(batch.num_rows for batch in received) == 15
    parts = stats.partitions
    for total, name in ((3_010, "rows_in"), (9, "rows_late"), (15, "rows_out"), (31, "batches_in")):
        assert sum(getattr(part, name) for part in parts) == total, name
    assert sum(part.rows_processed for part in parts) == 3_010
    assert sum(part.bytes_in for part in parts) == 3_010 * 24
    assert [(part.queue_rows, part.queue_bytes, part.rows_queued) for part in parts] == [
        (0, 0, 0)
    ] * 2
    assert [part.pressure for part in parts] == ["healthy"] * 2
    assert stats.strategy == "smart_repartition"
    assert stats.strategy_counters["batches"] == 31


def test_time_goes_into_nodes_of_the_plan():
    job = session().sql(WINDOWS).start(lambda batch: None)
    for number in range(20):
        job.push("t", rows(100 * number))
    job.finish()
    for part in job.stats().partitions:
        names = [operator.name for operator in part.operators]
        assert len(set(names)) == len(names)
        assert {name.split(":")[1] for name in names} == {
            "transform",
            "partial_aggregate",
            "exchange",
            "final_aggregate",
        }
        spent = sum(operator.seconds for operator in part.operators)
        assert 0 < spent <= part.busy_seconds
        assert part.busy_share + part.idle_share + part.blocked_share == pytest.approx(1.0)


def test_streams_tell_their_watermark_and_its_lag():
    clock = Clock()
    made = session(
        clock=clock, stream={"max_out_of_orderness": "2 seconds", "source_partitions": 2}
    )
    job = made.sql(WINDOWS).start(lambda batch: None)
    clock.now += 5.0
    (stream,) = job.stats().streams
    assert (stream.watermark, stream.max_time, stream.lag) == (None, None, None)
    assert (stream.rows_in, stream.silent_seconds) == (0, 5.0)
    job.push("t", rows(0, 5_001))
    clock.now += 1.0
    job.push("t", rows(0, 4_001), source_partition=1)
    clock.now += 2.0
    (stream,) = job.stats().streams
    assert (stream.watermark, stream.max_time, stream.lag) == (2_000, 5_000, 3_000)
    assert (stream.watermark_seconds, stream.lag_seconds) == (2.0, 3.0)
    assert (stream.rows_in, stream.silent_seconds) == (9_002, 2.0)
    assert stream.sources == (
        ms.SourceStats(0, 5_000, 3.0, False),
        ms.SourceStats(1, 4_000, 2.0, False),
    )
    assert job.stats().watermarks == {"t": 2_000}
    job.finish()


def test_a_partition_that_is_held_up_is_behind_the_watermark():
    entered, opened = threading.Event(), threading.Event()

    def sink(batch):
        entered.set()
        opened.wait()

    job = session(1).sql("SELECT ts FROM t").start(sink)
    job.push("t", rows(0, 1_001))
    assert entered.wait(TIMEOUT_SECONDS)
    assert job.stats().partitions[0].watermark_lag_seconds is None
    opened.set()
    assert job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)
    opened.clear()
    entered.clear()
    job.push("t", rows(1_001, 3_000))
    assert entered.wait(TIMEOUT_SECONDS)
    (part,) = job.stats().partitions
    assert (part.watermarks, part.watermark_lag_seconds) == ({"t": 1_000}, 3.0)
    opened.set()
    job.finish()


def test_latency_is_measured_from_push_to_sink():
    clock = Clock()

    def sink(batch):
        clock.now += 0.25

    with session(1, clock=clock).sql("SELECT k FROM t").start(sink) as job:
        for number in range(4):
            job.push("t", rows(number))
            assert job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)
    latency = job.stats().latency
    assert latency.n == 4
    for quantile in (latency.p50_us, latency.p95_us, latency.p99_us):
        assert quantile == pytest.approx(250_000, rel=1 / 16)
    assert job.stats().latency_p95_us == latency.p95_us


def test_the_results_of_a_window_are_timed_from_the_push_that_closes_it():
    clock = Clock()

    def sink(batch):
        clock.now += 1.0

    with session(2, clock=clock).sql(WINDOWS).start(sink) as job:
        job.push("t", rows(0))
        assert job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)
        assert job.stats().latency.p99_us == 0.0
        job.push("t", rows(5_000))
        assert job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)
        assert job.stats().latency.p99_us >= 1e6


def test_stats_print_as_a_table():
    with session().sql(WINDOWS).start(lambda batch: None, name="totals") as job:
        job.push("t", rows(0))
    text = str(job.stats())
    assert text.startswith("totals finished: 100 rows in = 100 processed + 0 late")
    assert "stream t: 100 rows, watermark" in text
    header, *table = text.splitlines()[-3:]
    assert header.split()[:3] == ["partition", "rows_in", "batches_in"]
    assert [line.split()[0] for line in table] == ["0", "1"]
    assert len({len(line) for line in (header, *table)}) == 1


def test_stats_are_cheap():
    """Taken while the job is at work, they hold nothing up and never fail."""
    with session(4).sql(WINDOWS).start(lambda batch: None) as job:
        for number in range(200):
            job.push("t", rows(100 * number))
            stats = job.stats()
            assert stats.rows_in >= stats.rows_processed
            for part in stats.partitions:
                shares = part.busy_share + part.idle_share + part.blocked_share
                assert shares == pytest.approx(1.0)


# Names


def test_jobs_without_a_name_share_as_few_as_there_are_at_once():
    query = session().sql("SELECT k FROM t")
    with query.start(print) as first, query.start(print) as second:
        assert (first.name, second.name) == ("job-0", "job-1")
    with query.start(print) as third, query.start(print, name="mine") as fourth:
        assert (third.name, fourth.name) == ("job-0", "mine")
        with pytest.raises(ms.SchemaError, match="a job named 'mine' is running already"):
            query.start(print, name="mine")
    query.start(print, name="mine").finish()


@pytest.mark.parametrize("name", ["", 7])
def test_a_name_is_text(name):
    with pytest.raises(ms.SchemaError, match="must be a string that is not empty"):
        session().sql("SELECT k FROM t").start(print, name=name)


# Bytes


@given(st.integers(0, 50), st.integers(0, 50))
def test_a_batch_is_measured_without_what_it_is_a_slice_of(start, length):
    texts = [f"{index:04d}" * (index % 4) for index in range(100)]
    some = [None if index % 7 == 0 else text for index, text in enumerate(texts)]
    whole = pa.record_batch(
        {
            "a": pa.array(range(100), pa.int64()),
            "b": pa.array([index % 3 == 0 for index in range(100)]),
            "c": pa.array(range(100), pa.int16()),
            "d": pa.array(range(100)).cast(pa.decimal128(30, 2)),
            "e": pa.array(some),
            "f": pa.array(some, pa.large_string()),
            "g": pa.array([text.encode() for text in texts]),
            "h": pa.array([[index] for index in range(100)]),
        }
    )
    part = whole.slice(start, length)
    n_bytes = BatchSizer(whole.schema).size(part)
    row_bits = 64 + 1 + 16 + 128 + 32 + 64 + 32
    values = [*texts[start : start + length], *(text or "" for text in some[start:][:length] * 2)]
    n_listed = part.column("h").nbytes
    assert n_bytes == (length * row_bits + 7) // 8 + sum(map(len, values)) + n_listed
    # Of three columns an offset more than there are rows, and of two the NULLs.
    assert abs(n_bytes - part.nbytes) <= 2 + 4 + 8 + 4 + 2 * 8
    assert BatchSizer(whole.schema.remove(7)).size(part) == n_bytes - n_listed
