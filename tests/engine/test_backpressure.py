"""Queues are bounded, say how full they are, slow sources down smoothly, and never deadlock."""

from __future__ import annotations

import gc
import itertools
import random
import signal
import threading
import time
from functools import partial

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.backlog import Backlog
from millstream.engine.backpressure import (
    CRITICAL,
    PRESSURE_STATES,
    Gauges,
    Throttle,
    pressure_state,
)
from millstream.engine.step import SourceItem

SCHEMA = pa.schema({"k": pa.int64(), "ts": pa.int64()})
# Far more than anything here takes: reached only where something hangs.
TIMEOUT_SECONDS = 30

PASS = "SELECT k, ts FROM t"
COUNT = "SELECT k, count(*) AS n FROM t GROUP BY k EMIT CHANGES"
WINDOWS = "SELECT k, window_start, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, 10)"
QUERIES = [PASS, COUNT, WINDOWS, WINDOWS + " EMIT CHANGES"]


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Gate:
    """A sink that lets nothing pass until it is opened."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.rows = []

    def __call__(self, batch):
        self.entered.set()
        self.opened.wait()
        self.rows += batch.to_pylist()


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.opened.set()


def rows(number, n_rows=100):
    times = pa.array(range(number * n_rows, (number + 1) * n_rows), pa.int64())
    keys = pa.array([time % 7 for time in times.to_pylist()], pa.int64())
    return pa.record_batch([keys, times], schema=SCHEMA)


def session(partitions=2, **options):
    made = ms.Session(partitions=partitions, **options)
    made.create_stream("t", SCHEMA, event_time="ts")
    return made


def in_thread(function):
    """Call a function in a thread; return what waits for its result or error."""
    outcome = []

    def work():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def joined():
        thread.join(TIMEOUT_SECONDS)
        assert not thread.is_alive(), "it hangs"
        return outcome[0]

    return joined


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


# States


@pytest.mark.parametrize(
    ("utilization", "state"),
    [
        (0.0, "healthy"),
        (0.699, "healthy"),
        (0.70, "warning"),
        (0.849, "warning"),
        (0.85, "critical"),
        (0.949, "critical"),
        (0.95, "saturated"),
        (7.0, "saturated"),
    ],
)
def test_states_begin_at_their_thresholds(utilization, state):
    assert pressure_state(utilization) == state


class Watched:
    """Gauges of one queue whose utilization is set by hand."""

    def __init__(self, listener=None):
        self.clock = Clock()
        self.utilization = 0.0
        self.events, self.errors = [], []
        listener = listener or self.events.append
        self.gauges = Gauges(
            1,
            lambda partition: self.utilization,
            self.clock,
            listener,
            lambda error, partition: self.errors.append((error, partition)),
        )

    def at(self, utilization):
        self.utilization = utilization
        self.gauges.observe(0)
        return self.gauges.state(0)


def test_a_queue_that_hovers_around_a_threshold_stays_where_it_is():
    watched = Watched()
    assert watched.at(0.70) == "warning"
    assert [watched.at(value) for value in (0.69, 0.70, 0.66, 0.65)] == ["warning"] * 4
    assert watched.at(0.649) == "healthy"
    assert watched.at(0.699) == "healthy"


def test_a_queue_may_pass_several_states_at_once():
    watched = Watched()
    assert watched.at(1.0) == "saturated"
    assert watched.at(0.91) == "saturated"
    assert watched.at(0.82) == "critical"
    assert watched.at(0.3) == "healthy"
    assert [(event.old_state, event.new_state) for event in watched.events] == [
        ("healthy", "saturated"),
        ("saturated", "critical"),
        ("critical", "healthy"),
    ]
    assert [event.utilization for event in watched.events] == [1.0, 0.82, 0.3]


@given(st.lists(st.floats(0, 1.2), max_size=50))
def test_a_state_is_never_above_its_threshold_nor_below_it_by_more_than_the_margin(utilizations):
    watched, begins = Watched(), {"healthy": 0.0, "warning": 0.70, "critical": 0.85}
    begins["saturated"] = 0.95
    for utilization in utilizations:
        state = watched.at(utilization)
        assert PRESSURE_STATES.index(state) >= PRESSURE_STATES.index(pressure_state(utilization))
        assert utilization >= begins[state] - 0.05 - 1e-12 or state == "healthy"
    for event in watched.events:
        assert event.old_state != event.new_state


def test_the_time_in_each_state_is_added_up():
    watched = Watched()
    for utilization, seconds in ((0.1, 3.0), (0.8, 2.0), (0.99, 1.0), (0.1, 4.0)):
        watched.at(utilization)
        watched.clock.now += seconds
    assert watched.gauges.seconds(0) == {
        "healthy": 7.0,
        "warning": 2.0,
        "critical": 0.0,
        "saturated": 1.0,
    }


def test_a_listener_that_raises_is_reported():
    def listener(event):
        raise ValueError("boom")

    watched = Watched(listener)
    assert watched.at(1.0) == "saturated"
    ((error, partition),) = watched.errors
    assert (str(error), partition) == ("boom", 0)


def test_a_listener_may_cause_events_itself():
    seen = []

    def listener(event):
        seen.append(event.new_state)
        if event.new_state == "warning":
            watched.at(0.9)
            assert seen == ["warning"], "one at a time"

    watched = Watched(listener)
    watched.at(0.7)
    assert seen == ["warning", "critical"]


def test_events_of_all_threads_arrive_in_order():
    watched = Watched()

    def push_and_pull():
        for value in (0.0, 0.75, 0.9, 1.0) * 200:
            watched.at(value)

    for joined in [in_thread(push_and_pull) for _ in range(3)]:
        assert joined() is None
    for before, after in itertools.pairwise(watched.events):
        assert before.new_state == after.old_state


# Pacing


def test_a_source_is_not_slowed_below_critical():
    clock = Clock()
    throttle = Throttle(clock)
    for utilization in (0.0, 0.5, 0.8499):
        assert throttle.delay_seconds(utilization, 10**9, 0) == 0.0
        clock.now += 0.1


def test_a_pause_grows_with_utilization_up_to_the_time_that_the_job_takes():
    clock = Clock()
    throttle = Throttle(clock)
    assert throttle.delay_seconds(0.9, 100, rows_done=0) == 0.0, "nothing is known yet"
    clock.now += 0.5
    delays = [throttle.delay_seconds(use, 100, rows_done=10_000) for use in (0.85, 0.925, 1.0, 2.0)]
    assert delays == pytest.approx([0.0, 0.0025, 0.005, 0.005])


def test_short_pauses_are_saved_up():
    clock = Clock()
    throttle = Throttle(clock)
    throttle.delay_seconds(1.0, 800, rows_done=0)
    clock.now += 0.5
    delays = [throttle.delay_seconds(1.0, 800, rows_done=500_000) for _ in range(6)]
    assert delays == pytest.approx([0.0, 0.0, 0.0024, 0.0, 0.0, 0.0024])
    throttle.delay_seconds(1.0, 1_800, rows_done=500_000)
    assert throttle.delay_seconds(0.5, 800, rows_done=500_000) == 0.0
    assert throttle.delay_seconds(1.0, 800, rows_done=500_000) == 0.0


def test_a_pause_is_short_even_if_nothing_moves():
    clock = Clock()
    throttle = Throttle(clock)
    throttle.delay_seconds(1.0, 100, rows_done=0)
    clock.now += 0.5
    assert throttle.delay_seconds(1.0, 100, rows_done=0) == 0.1


def test_a_source_that_is_too_fast_comes_down_to_the_speed_of_the_job():
    """A batch of 1,000 rows each 0.1 ms at most meets a job that does a million rows a second."""
    clock, capacity, batch_rows, speed = Clock(), 20_000, 1_000, 1_000_000
    throttle = Throttle(clock)
    pushed, started, gaps, fullest = 0, clock.now, [], 0.0
    for number in range(2_000):
        before = clock.now
        clock.now += 0.0001
        done = min(pushed, int((clock.now - started) * speed))
        if pushed + batch_rows - done > capacity:
            clock.now = started + (pushed + batch_rows - capacity) / speed
            done = pushed + batch_rows - capacity
        pushed += batch_rows
        utilization = (pushed - done) / capacity
        clock.now += throttle.delay_seconds(utilization, batch_rows, done)
        if number > 200:
            gaps.append(clock.now - before)
            fullest = max(fullest, utilization)
    service = batch_rows / speed
    assert max(gaps) < 4 * service, "no stop and go"
    assert sum(gaps) / len(gaps) == pytest.approx(service, rel=0.02)
    assert CRITICAL < fullest <= 1.0


def test_a_push_into_nearly_full_queues_takes_a_little_longer(gate):
    job = session(partitions=1, inbox_rows_max=1000).sql(PASS).start(gate)
    waits = []
    flight = job._runtime._in_flight
    flight.pause = waits.append
    clock = Clock()
    job._runtime._flow._throttle = Throttle(clock)
    for number in range(20):
        job.push("t", rows(number, 50))
        clock.now += 0.02
    # Nothing is done, so that each pause is its share of the longest.
    assert waits == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])
    assert not job.try_push("t", rows(20))
    gate.opened.set()
    job.finish()


# Backlogs


def item(n_rows, n_bytes=0):
    batch = rows(0, n_rows)
    return SourceItem(0, "t", batch, None, 0, {}, {}, n_rows=n_rows, n_bytes=n_bytes)


def test_an_item_waits_for_all_partitions_that_have_a_part_in_it():
    backlog = Backlog(3)
    shared = item(5, 50)
    backlog.open(shared, range(3))
    assert (backlog.rows, backlog.bytes, backlog.items) == ([5] * 3, [50] * 3, [1] * 3)
    assert backlog.done([shared], 1) == []
    assert backlog.rows == [5, 0, 5]
    assert backlog.done([shared], 0) == []
    assert backlog.done([shared], 2) == [shared]
    assert (backlog.rows, backlog.bytes, backlog.items) == ([0] * 3, [0] * 3, [0] * 3)


def test_an_item_counts_once_for_a_partition_with_several_parts_in_it():
    backlog = Backlog(2)
    own = item(5)
    backlog.open(own, [0])
    backlog.hold(own, 0)
    backlog.hold(own, 1)
    assert backlog.rows == [5, 5]
    assert backlog.done([own], 0) == []
    assert backlog.rows == [5, 5]
    assert backlog.done([own], 0) == []
    assert backlog.rows == [0, 5]
    assert backlog.done([own], 1) == [own]


def test_steps_without_rows_are_counted_apart():
    backlog = Backlog(1)
    step = SourceItem(-1, "", None, None, 0, {}, {})
    backlog.open(step, [0])
    assert (backlog.rows, backlog.steps, backlog.items) == ([0], [1], [1])
    assert backlog.done([step], 0) == [step]
    assert (backlog.steps, backlog.items) == ([0], [0])


# Jobs with a sink that stops


@pytest.mark.parametrize("sql", QUERIES)
@pytest.mark.parametrize("partitions", [1, 3])
def test_memory_stays_flat_while_a_sink_stops_for_good(sql, partitions, gate):
    job = session(partitions, inbox_rows_max=2_000).sql(sql).start(gate)
    n_pushed = filled(job)
    assert gate.entered.wait(TIMEOUT_SECONDS)
    # What the other partitions still had to do may have made some room.
    for _ in range(200):
        n_pushed = filled(job, n_pushed)
    stats, before = job.stats(), pa.total_allocated_bytes()
    assert stats.rows_in == 100 * n_pushed
    assert stats.rows_waiting <= 2_000 * partitions
    for _ in range(2_000):
        assert not job.try_push("t", rows(n_pushed))
    assert job.stats().rows_in == stats.rows_in
    assert pa.total_allocated_bytes() - before < 100_000
    gate.opened.set()
    job.finish()
    assert gate.rows
    assert job.stats().rows_processed == 100 * n_pushed
    expected = session(partitions).sql(sql).run({"t": [rows(n) for n in range(n_pushed)]})
    if "CHANGES" not in sql:
        assert sorted(map(str, gate.rows)) == sorted(map(str, expected.to_pylist()))


@pytest.mark.parametrize("sql", QUERIES)
def test_all_queues_fill_up_and_drain_again_without_a_deadlock(sql, gate):
    """Every sink stops, every queue fills, and then everything goes on from there."""
    gates = [Gate() for _ in range(3)]
    job = session(3, inbox_rows_max=1_000).sql(sql).start(sinks=gates)
    joined = [in_thread(lambda: [job.push("t", rows(0)) for _ in range(100)]) for _ in range(2)]
    while not job.stats().queue_utilization >= 0.9:
        gates[0].entered.wait(0.01)
    for each in reversed(gates):
        each.opened.set()
    for pushed in joined:
        assert pushed() == [None] * 100
    job.finish()
    stats = job.stats()
    assert stats.rows_in == 20_000 == stats.rows_processed + stats.rows_late
    assert [part.pressure for part in stats.partitions] == ["healthy"] * 3


def test_rows_that_need_no_exchange_pass_by_a_partition_that_is_stuck(gate):
    job = session(inbox_rows_max=1_000).sql(PASS).start(sinks=[gate, lambda batch: None])
    for number in range(100):
        job.push("t", rows(number), timeout=TIMEOUT_SECONDS)
    stuck, free = job.stats().partitions
    assert stuck.queue_rows <= 1_000
    assert stuck.rows_in + free.rows_in + stuck.rows_queued + free.rows_queued == 10_000
    assert gate.entered.wait(TIMEOUT_SECONDS)
    gate.opened.set()
    job.finish()


@pytest.mark.parametrize("strategy", ["sticky_partition", "fan_in"])
def test_a_partition_gets_no_more_than_its_queue_holds(strategy, gate):
    made = session(inbox_rows_max=1_000)
    job = made.sql(PASS).start(gate, strategy=strategy)
    assert filled(job) == 10
    stats = job.stats()
    assert stats.partitions[0].queue_rows == 1_000
    assert stats.partitions[0].queue_utilization == 1.0
    assert stats.partitions[0].pressure == "saturated"
    assert stats.partitions[1].pressure == "healthy"
    if strategy == "sticky_partition":
        assert job.try_push("t", rows(0), source_partition=1), "only what feeds it is held up"
    gate.opened.set()
    job.finish()


def test_a_batch_that_was_not_taken_leaves_no_trace_in_event_time(gate):
    job = session(1, inbox_rows_max=100).sql(WINDOWS).start(gate, strategy="fan_in")
    assert job.try_push("t", rows(0))
    assert gate.entered.wait(TIMEOUT_SECONDS)
    n_pushed = filled(job, 1)
    before = job.stats()
    assert not job.try_push("t", rows(500))
    after = job.stats()
    assert after.watermarks == before.watermarks == {"t": 100 * n_pushed - 1}
    assert after.streams[0].max_time == before.streams[0].max_time
    gate.opened.set()
    job.finish()
    assert job.stats().rows_late == 0


def test_a_batch_may_be_larger_than_the_queue():
    result = session(inbox_rows_max=10).sql(PASS).run({"t": [rows(n) for n in range(5)]})
    assert result.num_rows == 500


def test_single_rows_that_wait_are_tried_first(gate):
    job = session(1, inbox_rows_max=100).sql(PASS).start(gate)
    job.push("t", {"k": 1, "ts": 1})
    assert gate.entered.wait(TIMEOUT_SECONDS)
    filled(job)
    job.push("t", {"k": 2, "ts": 2})
    joined = in_thread(lambda: job.try_push("t", rows(1, 99)))
    assert joined() is False
    with pytest.raises(ms.SourceError, match="no room within 0 seconds"):
        job.push("t", rows(1), timeout=0)
    gate.opened.set()
    job.finish()
    assert {"k": 2, "ts": 2} in gate.rows


def test_try_push_takes_all_or_nothing(gate):
    job = session(1, inbox_rows_max=1_000).sql(PASS).start(gate)
    table = pa.Table.from_batches([rows(0, 300), rows(1, 300)])
    assert job.try_push("t", table)
    assert not job.try_push("t", table)
    assert job.stats().rows_in == 600
    assert job.try_push("t", SCHEMA.empty_table())
    gate.opened.set()
    job.finish()
    with pytest.raises(ms.SourceError, match="takes no more input"):
        job.try_push("t", table)
    with pytest.raises(ms.SchemaError):
        session().sql(PASS).start(print).try_push("t", pa.table({"q": [1]}))


def test_very_small_batches_are_bounded_by_their_number(gate, monkeypatch):
    monkeypatch.setattr("millstream.engine.flow_control._ITEMS_MAX", 50)
    job = session(1).sql(PASS).start(gate)
    number = 0
    while job.try_push("t", rows(number, 1)):
        number += 1
    assert number == 50
    assert job.stats().partitions[0].pressure == "saturated"
    gate.opened.set()
    job.finish()


# Listeners of jobs


def test_a_listener_is_told_as_the_queue_fills_and_drains(gate):
    events = []
    made = session(1, inbox_rows_max=1_000)
    job = made.sql(PASS).start(gate, on_backpressure=events.append)
    filled(job)
    assert [event.new_state for event in events] == ["warning", "critical", "saturated"]
    assert events[0] == ms.BackpressureEvent(0, "healthy", "warning", 0.7)
    gate.opened.set()
    job.finish()
    assert events[-1].new_state == "healthy"
    for before, after in itertools.pairwise(events):
        assert before.new_state == after.old_state


def test_a_listener_may_use_the_job(gate):
    seen, held = [], []

    def listener(event):
        seen.append(held[0].stats().partitions[event.partition].pressure)
        held[0].diagnose()
        if not gate.opened.is_set():
            held[0].try_push("t", rows(0, 1))

    job = session(1, inbox_rows_max=1_000).sql(PASS).start(gate, on_backpressure=listener)
    held.append(job)
    assert in_thread(lambda: filled(job))() > 0
    assert "critical" in seen
    gate.opened.set()
    job.finish()


def test_a_listener_that_raises_fails_the_job(gate):
    def listener(event):
        raise ValueError("boom")

    job = session(1, inbox_rows_max=1_000).sql(PASS).start(gate, on_backpressure=listener)
    gate.opened.set()
    with pytest.raises(ms.JobFailed, match="boom") as failure:
        push_until_it_raises(job, 900)
    assert failure.value.partition == 0
    until_ended(threads_of(job))


# Faults at random places


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
