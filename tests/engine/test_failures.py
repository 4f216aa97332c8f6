"""Whatever goes wrong ends a job with one clear error, soon, and never hangs anybody."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.stalling import (
    COUNT,
    PASS,
    SCHEMA,
    TIMEOUT_SECONDS,
    WINDOWS,
    session,
    started,
    threads_of,
)

REPOSITORY = Path(__file__).resolve().parents[2]
DIVIDE = "SELECT 10 / k AS q, ts FROM t"


def rows(*keys, first_time=0):
    times = pa.array(range(first_time, first_time + len(keys)), pa.int64())
    return pa.record_batch([pa.array(keys, pa.int64()), times], schema=SCHEMA)


def until_failed(job):
    """Wait for the end of a job that is bound to fail; its threads end with it."""
    for thread in threads_of(job):
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()
    assert job.stats().state == "failed"


def joined(thread, outcome):
    thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive(), "it hangs"
    (result,) = outcome
    return result


# Rows that an expression fails on


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("sql", [DIVIDE, "SELECT sum(10 / k) AS q FROM t EMIT FINAL"])
def test_a_row_that_an_expression_fails_on_is_named(partitions, sql):
    job = session(partitions).sql(sql).start(lambda batch: None)
    job.push("t", rows(1, 2, 3))
    job.push("t", rows(4, 5))
    job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)
    job.push("t", rows(6, 7, 0, 8, 0))
    until_failed(job)
    with pytest.raises(ms.JobFailed, match=r"(?i)divide by zero") as failure:
        job.finish()
    assert failure.value.stream == "t"
    assert failure.value.batch_number == 2
    assert failure.value.row == 2
    assert failure.value.partition in range(partitions)
    assert "stream 't', micro-batch 2, row 2" in str(failure.value)
    stats = job.stats()
    assert stats.rows_in == 10
    assert stats.rows_in == stats.rows_processed + stats.rows_waiting


def test_an_expression_over_aggregates_fails_the_job_too():
    job = session().sql("SELECT k, 10 / (count(*) - 2) AS q FROM t GROUP BY k").start(print)
    job.push("t", rows(1))
    job.push("t", rows(1))
    until_failed(job)
    with pytest.raises(ms.JobFailed, match=r"(?i)divide by zero"):
        job.finish()


def test_run_raises_what_went_wrong():
    with pytest.raises(ms.JobFailed, match=r"(?i)divide by zero") as failure:
        session().sql(DIVIDE).run({"t": rows(1, 0)})
    assert failure.value.row == 1
    assert isinstance(failure.value.__cause__, ms.MillstreamError)


def test_a_job_that_failed_says_so_to_everyone():
    job = session().sql(DIVIDE).start(lambda batch: None)
    job.push("t", rows(0))
    until_failed(job)
    for call in (lambda: job.push("t", rows(1)), lambda: job.advance_watermark("t", 5), job.finish):
        with pytest.raises(ms.JobFailed, match=r"(?i)divide by zero"):
            call()
    job.cancel()
    assert job.stats().state == "failed"


# Threads that die


class Died(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("error", [ValueError("boom"), Died("boom"), SystemExit("boom")])
@pytest.mark.parametrize("partitions", [1, 2])
def test_a_sink_that_raises_fails_the_job_with_its_cause(error, partitions):
    def sink(batch):
        raise error

    job = session(partitions).sql(PASS).start(sink)
    job.push("t", rows(1))
    started = time.monotonic()
    until_failed(job)
    with pytest.raises(ms.JobFailed, match="boom") as failure:
        job.finish()
    assert time.monotonic() - started < 1
    cause = failure.value.__cause__
    if isinstance(error, Exception):
        assert isinstance(cause, ms.SinkError)
        cause = cause.__cause__
    assert cause is error


@pytest.mark.parametrize("error", [ValueError("boom"), Died("boom"), SystemExit("boom")])
def test_a_function_that_raises_fails_the_job_with_its_message(error):
    def explode(values):
        raise error

    made = session()
    made.register_udf("explode", explode, [pa.int64()], pa.int64())
    job = made.sql("SELECT explode(k) AS x FROM t").start(print)
    job.push("t", rows(1))
    started = time.monotonic()
    until_failed(job)
    with pytest.raises(ms.JobFailed, match="boom"):
        job.finish()
    assert time.monotonic() - started < 1


def test_a_function_that_fails_by_chance_fails_the_job():
    """What fails in the job need not fail when the row is looked for afterwards."""
    calls = []

    def flaky(values):
        calls.append(len(values))
        if len(calls) == 1:
            raise ValueError("boom")
        return values

    made = session(partitions=1)
    made.register_udf("flaky", flaky, [pa.int64()], pa.int64(), volatility="volatile")
    job = made.sql("SELECT flaky(k) AS x FROM t").start(print)
    job.push("t", rows(1, 2))
    until_failed(job)
    with pytest.raises(ms.JobFailed, match="boom") as failure:
        job.finish()
    assert failure.value.batch_number == 0


def test_a_failure_in_one_partition_ends_all_of_them(gate):
    def fail(batch):
        raise ValueError("boom")

    job = session().sql(COUNT).start(sinks=[lambda batch: None, fail])
    job.push("t", rows(*range(100)))
    until_failed(job)
    with pytest.raises(ms.JobFailed, match="boom") as failure:
        job.finish()
    assert failure.value.partition == 1


def test_a_sink_that_cannot_close_fails_the_job():
    class Sink(ms.CollectSink):
        def close(self):
            raise OSError("disk full")

    job = session().sql(PASS).start(Sink())
    job.push("t", rows(1))
    with pytest.raises(ms.JobFailed, match="failed to close: OSError: disk full"):
        job.finish()
    assert job.stats().state == "failed"


def test_a_sink_that_cannot_open_starts_no_job():
    opened = ms.CollectSink()
    aborted = []
    opened.abort = lambda: aborted.append(True)

    class Sink(ms.CollectSink):
        def open(self, partition, schema):
            raise OSError("no such place")

    before = threading.active_count()
    with pytest.raises(ms.SinkError, match="failed to open: OSError: no such place"):
        session().sql(PASS).start(sinks=[opened, Sink()])
    assert aborted == [True]
    assert threading.active_count() == before


def test_leaving_the_block_of_a_failed_job_raises_its_error_once():
    def block():
        with session().sql(DIVIDE).start(lambda batch: None) as job:
            job.push("t", rows(0))
            until_failed(job)

    with pytest.raises(ms.JobFailed, match=r"(?i)divide by zero") as failure:
        block()
    assert (failure.value.stream, failure.value.batch_number, failure.value.row) == ("t", 0, 0)


# Sinks that do not return


def test_push_waits_when_as_much_is_under_way_as_may_be(gate):
    job = session(partitions=1, inbox_rows_max=10).sql(PASS).start(gate)
    job.push("t", rows(*range(6)))
    gate.wait_entered()
    job.push("t", rows(*range(4)), timeout=TIMEOUT_SECONDS)
    with pytest.raises(ms.SourceError, match=r"no room within 0 seconds"):
        job.push("t", rows(1), timeout=0)
    stats = job.stats()
    assert (stats.rows_in, stats.rows_waiting, stats.rows_processed) == (10, 10, 0)
    gate.opened.set()
    job.push("t", rows(1), timeout=TIMEOUT_SECONDS)
    job.finish()
    assert job.stats().rows_processed == 11


@pytest.mark.parametrize("sql", [COUNT, WINDOWS, WINDOWS + " EMIT CHANGES"])
def test_one_slow_partition_holds_back_the_source(sql, gate):
    job = (
        session(inbox_rows_max=1000, stop_timeout_seconds=0)
        .sql(sql)
        .start(sinks=[gate, lambda batch: None])
    )

    for number in range(1_000):
        try:
            job.push("t", rows(*range(100), first_time=100 * number), timeout=0.2)
        except ms.SourceError:
            gate.wait_entered()
            break
    else:
        pytest.fail("nothing holds back the source")
    job.cancel()


@pytest.mark.parametrize("sql", [PASS, WINDOWS])
def test_watermarks_alone_do_not_fill_the_queues(sql, gate):
    job = session(partitions=1, stop_timeout_seconds=0).sql(sql).start(gate)
    job.push("t", rows(1))
    watermarks = iter(range(20, 10_020))
    thread, outcome = started(lambda: [job.advance_watermark("t", time) for time in watermarks])
    gate.wait_entered()
    thread.join(0.2)
    job.cancel()
    assert isinstance(joined(thread, outcome), ms.SourceError)
    assert next(watermarks) < 200


def test_a_push_that_waits_is_woken_by_a_failure():
    entered, fail = threading.Event(), threading.Event()

    def sink(batch):
        entered.set()
        fail.wait()
        raise ValueError("boom")

    job = session(partitions=1, inbox_rows_max=1).sql(PASS).start(sink)
    job.push("t", rows(1))
    assert entered.wait(TIMEOUT_SECONDS)
    thread, outcome = started(lambda: job.push("t", rows(2)))
    fail.set()
    error = joined(thread, outcome)
    assert isinstance(error, ms.JobFailed)
    assert "boom" in str(error)


def test_a_push_that_waits_is_woken_by_cancel(gate):
    job = session(partitions=1, inbox_rows_max=1, stop_timeout_seconds=0).sql(PASS).start(gate)
    job.push("t", rows(1))
    gate.wait_entered()
    thread, outcome = started(lambda: job.push("t", rows(2)))
    job.cancel()
    error = joined(thread, outcome)
    assert isinstance(error, ms.SourceError)
    assert "the job is cancelled" in str(error)


def test_cancel_does_not_wait_for_a_sink_that_never_returns(gate):
    job = session(stop_timeout_seconds=0.05).sql(PASS).start(gate)
    job.push("t", rows(1))
    gate.wait_entered()
    started = time.monotonic()
    job.cancel()
    assert time.monotonic() - started < 1
    assert job.stats().state == "cancelled"


def test_finish_is_woken_by_cancel(gate):
    job = session(stop_timeout_seconds=0.05).sql(PASS).start(gate)
    job.push("t", rows(1))
    gate.wait_entered()
    thread, outcome = started(job.finish)
    while not job._runtime._is_ending:
        thread.join(0.001)
    assert job.stats().state == "running"
    job.cancel()
    error = joined(thread, outcome)
    assert isinstance(error, ms.SourceError)
    assert "cancelled" in str(error)
    assert job.stats().state == "cancelled"


def test_nothing_is_written_after_cancel_but_the_batch_at_hand(gate):
    job = session(partitions=1, stop_timeout_seconds=0).sql(PASS).start(gate)
    for number in range(10):
        job.push("t", rows(number))
    gate.wait_entered()
    job.cancel()
    gate.opened.set()
    for thread in threads_of(job):
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()
    assert gate.n_batches == 1
    stats = job.stats()
    assert stats.rows_in == 10 == stats.rows_processed + stats.rows_waiting


# Jobs that nobody holds


def test_a_job_that_nobody_holds_ends():
    job = session().sql(PASS).start(lambda batch: None)
    job.push("t", rows(1))
    threads, held = threads_of(job), weakref.ref(job)
    del job
    gc.collect()
    assert held() is None
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()


def test_a_job_in_a_cycle_that_nobody_holds_ends():
    class Holder:
        pass

    holder = Holder()
    holder.itself, holder.job = holder, session().sql(PASS).start(lambda batch: None)
    threads = threads_of(holder.job)
    del holder
    gc.collect()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive()


# The interpreter's exit

EXIT_SCRIPT = """
    import os, sys, threading, time
    import pyarrow as pa
    import millstream as ms

    session = ms.Session(partitions=2)
    session.create_stream("t", pa.schema({{"k": pa.int64()}}))
    entered = threading.Event()

    def block(batch):
        entered.set()
        threading.Event().wait()

    def fail(batch):
        entered.set()
        raise SystemExit("boom")

    job = session.sql({sql!r}).start({sink})
    job.push("t", {{"k": [1, 2, 3]}})
    {then}
    print("end of script", flush=True)
"""


def exit_of(sink="lambda batch: None", then="pass", sql="SELECT k FROM t"):
    """Run a script that leaves a job behind and return what became of it."""
    script = textwrap.dedent(EXIT_SCRIPT).format(sink=sink, then=then, sql=sql)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT_SECONDS * 4,
    )


@pytest.mark.parametrize(
    ("sink", "then"),
    [
        pytest.param("lambda batch: None", "pass", id="running"),
        pytest.param("lambda batch: None", "job.finish()", id="finished"),
        pytest.param("lambda batch: None", "del job", id="dropped"),
        pytest.param("block", "entered.wait()", id="blocked"),
        pytest.param("block", "entered.wait(); job.cancel()", id="cancelled"),
        pytest.param("fail", "entered.wait()", id="failed"),
    ],
)
def test_the_interpreter_exits_whatever_state_a_job_is_in(sink, then):
    done = exit_of(sink, then)
    assert (done.returncode, done.stdout) == (0, "end of script\n"), done.stderr
    assert done.stderr == ""


def test_the_interpreter_exits_while_a_push_waits():
    done = exit_of(
        "block",
        "entered.wait()\n"
        "for _ in range(2): threading.Thread(\n"
        "    target=lambda: [job.push('t', {'k': list(range(1 << 20))}) for _ in range(4)],\n"
        "    daemon=True).start()\n",
    )
    assert (done.returncode, done.stdout) == (0, "end of script\n"), done.stderr


def test_an_error_in_the_block_of_a_job_ends_the_script():
    done = exit_of("block", "entered.wait()\nwith job: raise RuntimeError('mine')")
    assert done.returncode == 1
    assert "RuntimeError: mine" in done.stderr
