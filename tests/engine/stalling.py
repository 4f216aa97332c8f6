"""Jobs whose sinks stop, and what tests do with them."""

from __future__ import annotations

import itertools
import threading
import time

import pyarrow as pa

import millstream as ms

SCHEMA = pa.schema({"k": pa.int64(), "ts": pa.int64()})
# Far more than anything here takes: reached only where something hangs.
TIMEOUT_SECONDS = 30

PASS = "SELECT k, ts FROM t"
COUNT = "SELECT k, count(*) AS n FROM t GROUP BY k EMIT CHANGES"
WINDOWS = "SELECT k, window_start, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, 10)"
QUERIES = [PASS, COUNT, WINDOWS, WINDOWS + " EMIT CHANGES"]


class Gate:
    """A sink that lets nothing pass until it is opened."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.n_batches = 0
        self.rows = []

    def __call__(self, batch):
        self.entered.set()
        self.opened.wait()
        self.n_batches += 1
        self.rows += batch.to_pylist()

    def wait_entered(self):
        assert self.entered.wait(TIMEOUT_SECONDS)


def rows(number, n_rows=100):
    times = pa.array(range(number * n_rows, (number + 1) * n_rows), pa.int64())
    keys = pa.array([time % 7 for time in times.to_pylist()], pa.int64())
    return pa.record_batch([keys, times], schema=SCHEMA)


def session(partitions=2, **options):
    made = ms.Session(partitions=partitions, **options)
    made.create_stream("t", SCHEMA, event_time="ts")
    return made


def started(function):
    """Call a function in a thread; return the thread and where its result or error will be."""
    outcome = []

    def work():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, outcome


def in_thread(function):
    """Call a function in a thread; return what waits for its result or error."""
    thread, outcome = started(function)

    def joined():
        until_ended([thread])
        return outcome[0]

    return joined


def wait_until(is_met):
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_met():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.001)


def threads_of(job):
    return [partition._thread for partition in job._runtime._partitions]


def until_ended(threads):
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive(), "it hangs"


def filled(job, number=0):
    """Push until there is no room and return the number of the batch that found none."""
    while job.try_push("t", rows(number)):
        number += 1
        assert number < 10_000, "nothing holds back the source"
    return number


def push_until_it_raises(job, n_rows=100):
    for number in itertools.count():
        job.push("t", rows(number, n_rows), timeout=TIMEOUT_SECONDS)
