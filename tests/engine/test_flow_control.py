"""Queues are bounded, one by one and together, and never deadlock."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.backlog import Backlog
from millstream.engine.step import SourceItem
from tests.engine.stalling import (
    PASS,
    QUERIES,
    SCHEMA,
    TIMEOUT_SECONDS,
    WINDOWS,
    Gate,
    filled,
    in_thread,
    rows,
    session,
)

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
