"""Partitions that process small messages by turns, and that nothing waits for ever for a turn."""

from __future__ import annotations

import threading

import pyarrow as pa

import millstream as ms
from millstream.engine.step import SourceItem
from millstream.engine.turn import Turn
from tests.engine.stalling import COUNT, TIMEOUT_SECONDS, rows, session


def item(n_rows: int) -> SourceItem:
    batch = pa.record_batch({"x": range(n_rows)}) if n_rows > 0 else None
    return SourceItem(0, "t", batch, None, 0, {}, {}, n_rows=n_rows)


def test_one_has_the_turn_until_it_gives_it_up():
    lock = threading.Lock()
    turn, other = Turn(lock), Turn(lock)
    turn.take(item(10))
    assert lock.locked()
    other.take(item(10))  # Goes on without it.
    other.give_up()
    assert lock.locked()
    turn.give_up()
    turn.give_up()
    assert not lock.locked()


def test_large_micro_batches_and_bare_steps_and_single_partitions_take_no_turns():
    lock = threading.Lock()
    Turn(lock).take(item(1 << 20))
    Turn(lock).take(item(0))
    assert not lock.locked()
    alone = Turn(None)
    alone.take(item(1))
    alone.give_up()


def test_sinks_that_wait_for_each_other_come_together():
    met = threading.Barrier(2, timeout=TIMEOUT_SECONDS)

    class Meeting:
        def __init__(self):
            self.is_first = True

        def __call__(self, batch: pa.RecordBatch) -> None:
            if self.is_first:
                self.is_first = False
                met.wait()

    made: ms.Session = session(partitions=2)
    with made.sql(COUNT).start(sinks=[Meeting(), Meeting()]) as job:
        for number in range(20):
            job.push("t", rows(number))
    assert job.stats().rows_processed == 2000
    assert not met.broken
