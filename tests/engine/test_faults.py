"""Whatever goes wrong at whatever place, every job ends, and says why."""

from __future__ import annotations

import gc
import random
import signal
import threading
import time
from functools import partial

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.stalling import (
    COUNT,
    PASS,
    TIMEOUT_SECONDS,
    filled,
    in_thread,
    push_until_it_raises,
    rows,
    session,
    threads_of,
    until_ended,
)


class Fault(Exception):
    """Put in on purpose."""


class Countdown:
    """Raises at the call with some number, in whichever thread that is."""

    def __init__(self, n_calls):
        self._left = n_calls
        self._lock = threading.Lock()

    def __call__(self):
        with self._lock:
            self._left -= 1
            if self._left == 0:
                raise Fault("put in on purpose")


class FaultySink(ms.CollectSink):
    def __init__(self, place, countdown):
        super().__init__()
        self._place, self._countdown = place, countdown

    def write(self, batch):
        if self._place == "write":
            self._countdown()

    def close(self):
        if self._place == "close":
            self._countdown()

    def abort(self):
        if self._place == "abort":
            self._countdown()


class FaultyStrategy:
    """Deals batches out in turn."""

    name = "faulty"

    def __init__(self, countdown):
        self._countdown, self._turn = countdown, 0

    def validate(self, needs):
        pass

    def placement(self, needs):
        from millstream.planner import Placement

        return Placement()

    def route(self, stream, batch, source_partition, pending):
        self._countdown()
        self._turn += 1
        return self._turn % len(pending)

    def counters(self):
        return {"turns": self._turn}


PLACES = ["write", "close", "abort", "udf", "strategy", "listener", "source", "cancel", "drop"]
FAULTY = [
    "SELECT touch(k) AS k, ts FROM t",
    "SELECT k, count(*) AS n FROM t WHERE touch(k) >= 0 GROUP BY k EMIT CHANGES",
    "SELECT k, window_start, count(*) AS n FROM t WHERE touch(k) >= 0 GROUP BY k"
    " WINDOW TUMBLING(ts, 10)",
    "SELECT touch(n) AS n, k FROM (SELECT k, count(*) AS n FROM t GROUP BY k"
    " WINDOW TUMBLING(ts, 50))",
    "SELECT k, ts, count(*) OVER (PARTITION BY touch(k) ORDER BY ts"
    " ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS n FROM t",
]


def run_with_fault(seed):
    """Start a job, let something go wrong, and see that everything ends."""
    chance = random.Random(seed)
    place, sql = chance.choice(PLACES), chance.choice(FAULTY)
    countdown = Countdown(chance.randint(1, 40))

    def touch(values):
        if place == "udf":
            countdown()
        return values

    def listener(event):
        if place == "listener":
            countdown()

    partitions = chance.randint(1, 3)
    made = session(partitions, inbox_rows_max=chance.choice([200, 1_000, 1 << 20]))
    made.register_udf("touch", touch, [pa.int64()], pa.int64(), volatility="volatile")
    strategy = FaultyStrategy(countdown) if place == "strategy" else None
    sink = FaultySink(place, countdown)
    job = made.sql(sql).start(sink, strategy=strategy, on_backpressure=listener)
    threads = threads_of(job)
    n_batches, interrupted_at = chance.randint(1, 60), chance.randint(0, 60)

    def push_all(job):
        with job:
            for number in range(n_batches):
                if number == interrupted_at and place in ("source", "abort"):
                    raise Fault("put in on purpose")
                if number == interrupted_at and place == "drop":
                    return
                job.push("t", rows(number), timeout=TIMEOUT_SECONDS)

    joined = in_thread(partial(push_all, job))
    if place == "cancel":
        chance.choice([job.stats, job.diagnose, gc.collect])()
        job.cancel()
    job = None
    outcome = joined()
    until_ended(threads)
    return place, outcome


@pytest.mark.parametrize("seed", range(100))
def test_everything_ends_whatever_goes_wrong(seed):
    place, outcome = run_with_fault(seed)
    if outcome is None:
        return  # It was over before the fault, or the fault was none.
    if place in ("source", "abort", "strategy") and isinstance(outcome, Fault):
        return
    assert isinstance(outcome, ms.SourceError if place == "cancel" else ms.JobFailed), outcome
    if place != "cancel":
        assert "on purpose" in str(outcome)


@pytest.mark.parametrize("place", ["write", "udf"])
def test_a_fault_in_one_partition_ends_all_within_a_second(place):
    """The other partition has plenty to do and a source that pushes all the time."""
    entered, go = threading.Event(), threading.Event()

    def poisoned(batch):
        entered.set()
        go.wait()
        raise Fault("put in on purpose")

    def touch(values):
        if place == "udf" and go.is_set():
            raise Fault("put in on purpose")
        return values

    made = session()
    made.register_udf("touch", touch, [pa.int64()], pa.int64(), volatility="volatile")
    sinks = [poisoned if place == "write" else lambda batch: None, lambda batch: None]
    job = made.sql(FAULTY[0]).start(sinks=sinks)

    joined = in_thread(lambda: push_until_it_raises(job))
    if place == "write":
        assert entered.wait(TIMEOUT_SECONDS)
    started = time.monotonic()
    go.set()
    error = joined()
    until_ended(threads_of(job))
    assert time.monotonic() - started < 1.0
    assert isinstance(error, ms.JobFailed)


def test_a_job_does_not_take_long_to_fail_though_its_function_is_slow():
    """To find the row on which it fails would take many more calls of the function."""
    started = []

    def slow(values):
        if not started:
            started.append(time.monotonic())
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            pass
        raise Fault("put in on purpose")

    made = session()
    made.register_udf("slow", slow, [pa.int64()], pa.int64())
    job = made.sql("SELECT slow(k) AS k FROM t").start(lambda batch: None)
    job.push("t", rows(0))
    until_ended(threads_of(job))
    assert time.monotonic() - started[0] < 1.0
    with pytest.raises(ms.JobFailed, match="on purpose") as failure:
        job.finish()
    assert failure.value.batch_number == 0
    assert failure.value.row is None


def test_an_interrupted_push_ends_the_job(gate):
    job = session(1, inbox_rows_max=100, stop_timeout_seconds=0).sql(PASS).start(gate)
    main, flight = threading.main_thread().ident, job._runtime._in_flight

    def interrupt_who_waits():
        while flight._n_waiters == 0:
            time.sleep(0)
        signal.pthread_kill(main, signal.SIGINT)

    joined = in_thread(interrupt_who_waits)
    with pytest.raises(KeyboardInterrupt), job:
        push_until_it_raises(job)
    assert joined() is None
    assert job.stats().state == "cancelled"
    gate.opened.set()
    until_ended(threads_of(job))


def test_a_source_that_pauses_is_woken_by_the_end(gate):
    job = session(1, stop_timeout_seconds=0).sql(PASS).start(gate)
    flight = job._runtime._in_flight
    joined = in_thread(lambda: flight.pause(10 * TIMEOUT_SECONDS))
    job.cancel()
    assert joined() is None
    assert flight.pause(10 * TIMEOUT_SECONDS) is None


def test_an_interrupted_finish_ends_the_job(gate):
    job = session(1, stop_timeout_seconds=0).sql(PASS).start(gate)
    main, flight = threading.main_thread().ident, job._runtime._in_flight

    def interrupt_who_waits():
        while flight._n_waiters == 0:
            time.sleep(0)
        signal.pthread_kill(main, signal.SIGINT)

    joined = in_thread(interrupt_who_waits)
    with pytest.raises(KeyboardInterrupt), job:
        job.push("t", rows(0))
    assert joined() is None
    assert job.stats().state == "cancelled"
    gate.opened.set()
    until_ended(threads_of(job))


def test_a_job_that_nobody_holds_ends_though_its_queues_are_full(gate):
    job = session(2, inbox_rows_max=1_000, stop_timeout_seconds=0).sql(COUNT).start(gate)
    filled(job)
    threads = threads_of(job)
    del job
    gc.collect()
    gate.opened.set()
    until_ended(threads)
