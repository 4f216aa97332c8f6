"""Micro-batches wait for others to be looked at with, while all partitions are at work."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from queue import SimpleQueue
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.aside import Aside, SetAside
from millstream.engine.event_time import WatermarkTracker
from millstream.engine.intake import Intake
from millstream.engine.partition import Partition
from tests.engine.stalling import (
    PASS,
    SCHEMA,
    TIMEOUT_SECONDS,
    WINDOWS,
    Gate,
    rows,
    session,
    started,
    until_ended,
    wait_until,
)

# More than are looked at by themselves at once.
LARGE = (1 << 14) + 1


def large(first, n_rows=LARGE):
    times = np.arange(first, first + n_rows)
    return pa.record_batch([pa.array(times % 7), pa.array(times)], schema=SCHEMA)


def put(aside, stream, n_rows, source_partition=0, fits=lambda n_rows, n_bytes, is_alone: True):
    one = SetAside(stream, large(0, n_rows), source_partition, 8 * n_rows, 0.0)
    return one if aside.add(one, fits) else None


@contextmanager
def busy(job, gate):
    """Have all partitions wait in the sink with a small micro-batch of times below 200 each."""
    partitions = job._runtime._partitions
    for number in range(len(partitions)):
        job.push("t", rows(number))
        wait_until(lambda n=number: sum(not partition.is_idle for partition in partitions) > n)
    try:
        yield
    finally:
        gate.opened.set()


def aside_of(job):
    return job._runtime.intake._aside


# What is aside


def test_what_is_aside_comes_out_in_order_and_by_source():
    aside = Aside(["s", "t"])
    ones = [put(aside, "s", 1), put(aside, "s", 2), put(aside, "s", 3, 1), put(aside, "t", 4, 1)]
    assert aside
    assert list(aside.take_all()) == [ones[:2], ones[2:3], ones[3:]]
    assert not aside
    assert aside.rows_added == {"s": 6, "t": 4}


def test_four_usual_micro_batches_have_room_and_a_larger_one_by_itself():
    aside = Aside(["t"])
    ones = [put(aside, "t", 1 << 16) for _ in range(4)]
    assert None not in ones
    assert put(aside, "t", 1) is None
    list(aside.take_all())
    assert put(aside, "t", 1) is None, "they count until they have been dealt out"
    for one in ones:
        aside.dealt(one)
    assert put(aside, "t", 1 << 20)
    assert put(aside, "t", 1) is None
    assert aside.rows_added == {"t": (4 << 16) + (1 << 20)}


def test_room_is_asked_for_all_that_is_aside():
    aside, asked = Aside(["t"]), []

    def fits(n_rows, n_bytes, is_alone):
        asked.append((n_rows, n_bytes, is_alone))
        return n_rows < 6

    first = put(aside, "t", 2, fits=fits)
    put(aside, "t", 3, fits=fits)
    assert put(aside, "t", 1, fits=fits) is None
    list(aside.take_all())
    aside.dealt(first)
    assert put(aside, "t", 2, fits=fits)
    assert asked == [(2, 16, True), (5, 40, False), (6, 48, False), (5, 40, False)]


def test_nothing_is_put_aside_any_more_once_it_is_closed():
    aside = Aside(["t"])
    put(aside, "t", 1)
    aside.close()
    assert put(aside, "t", 1) is None
    assert len(list(aside.take_all())) == 1


# Jobs


def test_what_partitions_at_work_leave_aside_is_looked_at_together():
    gate, looked_at, look = Gate(), [], WatermarkTracker.look_ahead

    def spied(seen, batches, source_partition):
        looked_at.append(len(batches))
        look(seen, batches, source_partition)

    with (
        session().sql(PASS).start(gate) as job,
        patch.object(WatermarkTracker, "look_ahead", spied),
    ):
        with busy(job, gate):
            for number in range(3):
                job.push("t", large(200 + number * LARGE))
            assert aside_of(job)
            assert looked_at == []
            stats = job.stats()
            assert (stats.rows_in, stats.rows_waiting) == (200 + 3 * LARGE, 200 + 3 * LARGE)
            assert stats.streams[0].rows_in == 200 + 3 * LARGE
        # Nothing else is pushed: who has nothing to do takes it.
        wait_until(lambda: job.stats().rows_processed == 200 + 3 * LARGE)
        assert looked_at == [3]
    assert sorted(row["ts"] for row in gate.rows) == list(range(200 + 3 * LARGE))


def test_what_is_aside_is_taken_by_a_partition_that_has_nothing_to_do():
    for _ in range(50):
        sink = ms.CollectSink()
        with session().sql(PASS).start(sink) as job:
            for number in range(3):
                job.push("t", large(number * LARGE))
            wait_until(lambda: job.stats().rows_out == 3 * LARGE)


def test_one_more_than_have_room_deals_the_others_out():
    gate = Gate()
    with session().sql(PASS).start(gate) as job, busy(job, gate):
        for number in range(5):
            job.push("t", large(200 + (number << 16), 1 << 16))
        assert [one.batch.num_rows for one in aside_of(job)._batches] == [1 << 16]
        assert sum(part.rows_pending for part in job._runtime._partitions) >= 4 << 16


@pytest.mark.parametrize("n_rows", [1 << 16, 5 << 14])
def test_no_more_is_aside_than_any_partition_has_room_for(n_rows):
    gate = Gate()
    made = session(inbox_rows_max=5 << 14)
    with made.sql(PASS).start(gate) as job, busy(job, gate):
        while job.try_push("t", large(200, n_rows)):
            room = [5 << 14] * 2
            for partition, pending in enumerate(job._runtime._partitions):
                room[partition] -= pending.rows_pending
            assert aside_of(job)._rows <= min(room)


def test_no_more_is_aside_than_a_queue_holds_though_all_queues_are_empty():
    # Partitions are at work on what they have taken out of their queues.
    gate = Gate()
    made = session(inbox_rows_max=3 << 14)
    with made.sql(WINDOWS).start(gate) as job, busy_with_windows(job, gate):
        wait_until(lambda: all(part.rows_pending == 0 for part in job._runtime._partitions))
        job.push("t", large(200))
        assert aside_of(job)._rows == LARGE
        assert job.try_push("t", large(200 + LARGE, 2 << 14))
        assert aside_of(job)._rows in (0, 2 << 14)
        assert max(part.rows_pending for part in job._runtime._partitions) <= 3 << 14


def test_an_interrupt_behind_putting_something_aside_leaves_it_there():
    gate, add = Gate(), Aside.add

    def interrupted(aside, one, fits):
        assert add(aside, one, fits)
        raise KeyboardInterrupt

    with session().sql(PASS).start(gate) as job:
        with busy(job, gate):
            with patch.object(Aside, "add", interrupted), pytest.raises(KeyboardInterrupt):
                job.push("t", large(200))
            assert job.stats().rows_waiting == 200 + LARGE
        wait_until(lambda: job.stats().rows_out == 200 + LARGE)
    assert job.stats().rows_waiting == 0


def test_an_interrupt_before_putting_something_aside_gives_its_room_back():
    gate = Gate()
    with session().sql(PASS).start(gate) as job, busy(job, gate):
        interrupted = patch.object(Aside, "add", side_effect=KeyboardInterrupt)
        with interrupted, pytest.raises(KeyboardInterrupt):
            job.push("t", large(200))
        assert job._runtime._in_flight.rows_waiting == 200


def test_statistics_are_as_far_as_what_has_been_pushed():
    gate = Gate()
    with session().sql(PASS).start(gate) as job, busy(job, gate):
        job.push("t", large(200))
        assert aside_of(job)
        assert job.stats().watermarks == {"t": 200 + LARGE - 1}
        job.push("t", large(200 + LARGE))
        with job._runtime.intake.lock:
            # Who holds it may be the one who asks.
            assert job.stats().watermarks == {"t": 200 + LARGE - 1}
        job.advance_watermark("t", job.stats().watermarks["t"])


def test_a_partition_that_got_something_else_is_not_the_only_one_to_be_woken():
    # The first sink stops, and the second is free.
    for _ in range(10):
        gates = [Gate(), Gate()]
        gates[1].opened.set()
        with session().sql(PASS).start(sinks=gates) as job:
            try:
                job.push("t", rows(0))
                job.push("t", large(200))
                wait_until(lambda gate=gates[1]: len(gate.rows) == LARGE)
            finally:
                gates[0].opened.set()


def test_a_partition_that_was_woken_deals_out_what_is_aside_before_it_does_anything_else():
    wake, let_go = Partition.wake, threading.Event()

    def woken(partition):
        wake(partition)
        # Comes right behind, and takes as long as it likes.
        partition.ask(lambda operators: let_go.wait(), SimpleQueue())

    with session().sql(PASS).start(ms.CollectSink()) as job:
        wait_until(lambda: all(partition.is_idle for partition in job._runtime._partitions))
        try:
            with patch.object(Partition, "wake", woken):
                job.push("t", large(200))
            wait_until(lambda: not aside_of(job))
        finally:
            let_go.set()


def test_whoever_listens_hears_of_what_is_dealt_out_later():
    events, gate = [], Gate()
    made = session(inbox_rows_max=100_000)
    query = made.sql(PASS)
    with query.start(gate, on_backpressure=events.append, strategy="fan_in") as job:
        job.push("t", large(0, 95_000))
        try:
            wait_until(lambda: events)
            assert events[0].partition == 0
        finally:
            gate.opened.set()


def test_whoever_listens_hears_of_what_a_small_push_deals_out():
    events, gate = [], Gate()
    made = session(inbox_rows_max=100_000)
    query = made.sql(PASS)
    with query.start(gate, on_backpressure=events.append, strategy="sticky_partition") as job:
        try:
            for partition in range(2):
                job.push("t", rows(partition), source_partition=partition)
            wait_until(lambda: not any(part.is_idle for part in job._runtime._partitions))
            job.push("t", large(200, 85_000), source_partition=0)
            assert aside_of(job)
            assert not events
            job.push("t", rows(2), source_partition=1)
            assert [event.partition for event in events] == [0]
        finally:
            gate.opened.set()


def test_numbers_of_source_partitions_may_be_of_numpy():
    sink = ms.CollectSink()
    with session().sql(PASS).start(sink, strategy="sticky_partition") as job:
        job.push("t", large(0), source_partition=np.int64(1))
        assert job.try_push("t", rows(200), source_partition=np.int32(1))
    assert sink.table().num_rows == LARGE + 100


def test_rows_are_judged_in_the_order_in_which_they_were_pushed():
    # Windows that ended with the first micro-batch are late for the second, and for a small one.
    gate, late = Gate(), ms.CollectSink()
    sql = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, 10) EMIT CHANGES"
    with session().sql(sql).start(gate, late_sink=late) as job, busy(job, gate):
        job.push("t", large(1000))
        job.push("t", large(500, LARGE))
        job.push("t", rows(5))
    end = (1000 + LARGE - 1) // 10 * 10
    expected = [time for time in range(500, 500 + LARGE) if time < end] + [*range(500, 600)]
    assert sorted(late.table()["ts"].to_pylist()) == sorted(expected)


def test_a_watermark_comes_behind_what_is_aside():
    gate, late = Gate(), ms.CollectSink()
    query = session().sql(WINDOWS)
    with query.start(gate, late_sink=late) as job, busy_with_windows(job, gate):
        job.push("t", large(200))
        assert aside_of(job)
        job.advance_watermark("t", 10**6)
        assert not aside_of(job)
    assert late.table().num_rows == 0
    assert sum(row["n"] for row in gate.rows) == 200 + LARGE


@contextmanager
def busy_with_windows(job, gate):
    """Have all partitions wait in the sink with closed windows, of times below 200."""
    partitions = job._runtime._partitions
    job.push("t", rows(0))
    job.push("t", rows(1))
    wait_until(lambda: not any(partition.is_idle for partition in partitions))
    try:
        yield
    finally:
        gate.opened.set()


def test_a_table_that_is_replaced_is_replaced_behind_what_is_aside():
    gate, made = Gate(), session()
    tables = [pa.table({"k": [*range(7)], "name": [name] * 7}) for name in "ab"]
    made.create_table("names", tables[0])
    job = made.sql("SELECT ts, name FROM t JOIN names ON t.k = names.k").start(gate)
    with job, busy(job, gate):
        job.push("t", large(200))
        assert aside_of(job)
        made.replace_table("names", tables[1])
        job.push("t", large(200 + LARGE))
    names = {row["ts"]: row["name"] for row in gate.rows}
    assert len(names) == 200 + 2 * LARGE
    assert {names[time] for time in range(200 + LARGE)} == {"a"}
    assert {names[time] for time in range(200 + LARGE, 200 + 2 * LARGE)} == {"b"}


def test_the_end_comes_behind_what_is_aside():
    gate = Gate()
    job = session().sql(PASS).start(gate)
    with busy(job, gate):
        job.push("t", large(200))
        assert aside_of(job)
        thread, outcome = started(job.finish)
        wait_until(lambda: not aside_of(job))
    until_ended([thread])
    assert outcome == [None]
    assert len(gate.rows) == 200 + LARGE


def test_what_can_be_refused_is_refused_at_once():
    gate, made = Gate(), ms.Session(partitions=2)
    made.create_stream("t", SCHEMA, event_time="ts", source_partitions=1)
    with made.sql(PASS).start(gate) as job, busy(job, gate):
        times = pa.array([*range(LARGE), None], pa.int64())
        with pytest.raises(ms.SchemaError, match="NULL"):
            job.push("t", pa.record_batch([times, times], schema=SCHEMA))
        with pytest.raises(ms.SourceError, match="source partitions"):
            job.push("t", large(200), source_partition=1)
        assert job.stats().rows_in == 200
    assert len(gate.rows) == 200


@pytest.mark.parametrize(
    ("partitions", "n_rows", "waits"),
    [
        (2, 511, False),
        (2, 512, True),
        (2, LARGE - 1, True),
        (2, LARGE, True),
        (1, 511, False),
        (1, 512, True),
        (1, LARGE - 1, True),
        # Whoever pushes has time to look at them.
        (1, LARGE, False),
    ],
)
def test_what_is_put_aside_while_all_partitions_are_at_work(partitions, n_rows, waits):
    gate = Gate()
    with session(partitions).sql(PASS).start(gate) as job, busy(job, gate):
        job.push("t", large(200, n_rows))
        assert bool(aside_of(job)) == waits


@pytest.mark.parametrize(("n_rows", "waits"), [(LARGE - 1, False), (LARGE, True)])
def test_a_partition_that_has_nothing_to_do_gets_few_rows_at_once_and_looks_at_many(n_rows, waits):
    gate, added, add = Gate(), [], Aside.add

    def spied(aside, one, fits):
        added.append(one.batch.num_rows)
        return add(aside, one, fits)

    with session().sql(PASS).start(gate) as job, patch.object(Aside, "add", spied):
        wait_until(lambda: all(partition.is_idle for partition in job._runtime._partitions))
        gate.opened.set()
        job.push("t", large(0, n_rows))
        wait_until(lambda: job.stats().rows_out == n_rows)
        assert added == [n_rows] * waits


def test_nothing_is_aside_where_it_counts_when_rows_come():
    gate, made = Gate(), ms.Session(partitions=2)
    made.create_stream("t", SCHEMA, event_time="ts", idle_timeout="1 minute")
    with made.sql(PASS).start(gate) as job, busy(job, gate):
        job.push("t", large(200))
        assert not aside_of(job)


def test_what_is_aside_of_a_cancelled_job_is_dropped():
    gate = Gate()
    job = session().sql(PASS).start(gate)
    with busy(job, gate):
        job.push("t", large(200))
        thread, _ = started(job.cancel)
        gate.opened.set()
        until_ended([thread])
    with pytest.raises(ms.SourceError, match="cancelled"):
        job.push("t", large(200 + LARGE))


def test_a_job_fails_where_what_is_aside_cannot_be_dealt_out():
    gate = Gate()
    job = session().sql(PASS).start(gate)
    with busy(job, gate):
        job.push("t", large(200))
        broken = patch.object(Intake, "_route", side_effect=MemoryError("no room"))
        with broken, pytest.raises(MemoryError):
            job.push("t", rows(5))
        gate.opened.set()
        with pytest.raises(ms.JobFailed, match="no room"):
            job.push("t", rows(6))
    with pytest.raises(ms.JobFailed, match="no room"):
        job.finish()


@pytest.mark.parametrize("sql", [WINDOWS, PASS, WINDOWS + " EMIT CHANGES"])
def test_threads_that_push_lose_nothing(sql):
    n_threads, n_batches = 3, 30
    sink = ms.CollectSink()
    with session().sql(sql).start(sink) as job:

        def push(number):
            random = np.random.default_rng(number)
            for batch in range(n_batches):
                n_rows = int(random.choice([10, LARGE, 40_000]))
                job.push("t", large(10 * batch, n_rows), timeout=TIMEOUT_SECONDS)
                with counted:
                    pushed[0] += n_rows

        counted, pushed = threading.Lock(), [0]
        threads = [started(lambda number=number: push(number)) for number in range(n_threads)]
        until_ended([thread for thread, _ in threads])
        assert [outcome for _, outcome in threads] == [[None]] * n_threads
    stats = job.stats()
    assert stats.rows_in == pushed[0] == stats.rows_processed + stats.rows_late
    assert stats.rows_waiting == 0
