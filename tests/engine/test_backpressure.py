"""Queues say how full they are, and slow sources down smoothly."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.backpressure import (
    CRITICAL,
    PRESSURE_STATES,
    Gauges,
    Throttle,
    pressure_state,
)
from tests.engine.stalling import (
    PASS,
    filled,
    in_thread,
    push_until_it_raises,
    rows,
    session,
    threads_of,
    until_ended,
)


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


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
