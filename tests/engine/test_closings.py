"""Windows that end while others are being closed are closed together, and none is forgotten."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine import closings as module
from millstream.engine.closings import Closings
from millstream.engine.event_time import WATERMARK_END
from millstream.engine.window_ends import WindowEnds
from millstream.planner.nodes import WatermarkBound, Window
from tests.engine.stalling import SCHEMA, TIMEOUT_SECONDS, WINDOWS, Gate, session, wait_until

N_WINDOWS = 40
FEWER_ROWS_MAX, ROWS_MAX = 1 << 16, 1 << 19
KEYS = (1, 2, 3)


@pytest.fixture(autouse=True)
def windows_may_wait(monkeypatch):
    monkeypatch.setattr(module, "ROWS_MAX", ROWS_MAX)
    monkeypatch.setattr(module, "FEWER_ROWS_MAX", FEWER_ROWS_MAX)


def closings(
    *,
    n_under_way=lambda: 0,
    may_wait=True,
    is_bounded=False,
    n_partitions=2,
    queue_rows=10 * ROWS_MAX,
):
    window = Window("tumble", "ts", pa.int64(), 10, 10, 0)
    ends = WindowEnds([(window, 0, (WatermarkBound("t"),))])
    made = Closings(
        ends,
        may_wait=may_wait,
        n_under_way=n_under_way,
        is_bounded=is_bounded,
        n_partitions=n_partitions,
        queue_rows=queue_rows,
    )
    made.are_closed({"t": 5})
    return made


def due(made, *watermarks, n_rows=1):
    return [made.are_due({"t": watermark}, n_rows) for watermark in watermarks]


def test_windows_are_closed_at_once_where_nothing_is_under_way():
    assert due(closings(), 9, 10, 11, 20, 39) == [False, True, False, True, True]


def test_windows_wait_for_steps_under_way_and_are_closed_together():
    n_steps = 2
    made = closings(n_under_way=lambda: n_steps)
    assert not made.wait_for_steps
    assert due(made, 10, 11, 30) == [False, False, False]
    assert made.wait_for_steps
    n_steps = 1
    assert due(made, 31, 32) == [True, False]
    assert not made.wait_for_steps


def test_windows_wait_for_no_more_rows_than_a_step_is_worth():
    made = closings(n_under_way=lambda: 99)
    assert due(made, 10, 20, n_rows=ROWS_MAX // 2) == [False, True]
    assert due(made, 30, 31, 32, n_rows=ROWS_MAX // 2) == [False, True, False]
    # Rows alone make nothing due.
    assert due(made, 33, 34, n_rows=ROWS_MAX) == [False, False]


def test_on_one_partition_windows_wait_for_fewer_rows_but_in_a_bounded_run():
    made = closings(n_under_way=lambda: 99, n_partitions=1)
    assert due(made, 10, 20, n_rows=FEWER_ROWS_MAX // 2) == [False, True]
    made = closings(is_bounded=True, n_partitions=1)
    assert due(made, 10, 20, n_rows=ROWS_MAX // 2) == [False, True]


def test_windows_wait_for_no_more_rows_than_a_queue_holds():
    made = closings(n_under_way=lambda: 99, queue_rows=100)
    assert due(made, 10, 20, n_rows=50) == [False, True]


def test_a_bounded_run_waits_for_rows_whatever_is_under_way():
    made = closings(is_bounded=True)
    assert due(made, 10, 20, n_rows=ROWS_MAX // 2) == [False, True]
    assert due(made, 30, n_rows=1) == [False]
    assert not made.wait_for_steps


def test_windows_that_may_not_wait_do_not():
    made = closings(may_wait=False, n_under_way=lambda: 99)
    assert due(made, 10, 15, 20) == [True, False, True]
    assert due(closings(may_wait=False, is_bounded=True), 10, 15, 20) == [True, False, True]


def test_a_step_that_closes_all_leaves_nothing_to_wait():
    made = closings(n_under_way=lambda: 2)
    assert due(made, 10) == [False]
    made.are_closed({"t": WATERMARK_END})
    assert not made.wait_for_steps
    assert due(made, WATERMARK_END) == [False]


def test_who_ends_the_last_step_sees_that_windows_wait_or_its_end_is_seen():
    seen = []

    def n_under_way():
        # Whoever ends the step at this very moment has to find that windows wait.
        seen.append(made.wait_for_steps)
        return 2

    made = closings(n_under_way=n_under_way)
    assert due(made, 10) == [False]
    assert seen == [True]


def batch_of(window, n_rows=1):
    """Rows of each key in one window, which ends with the rows of the next one."""
    keys = [key for key in KEYS for _ in range(n_rows)]
    return pa.record_batch([keys, [10 * window] * len(keys)], schema=SCHEMA)


@pytest.mark.parametrize("partitions", [1, 2, 3])
def test_windows_that_waited_come_without_another_push(partitions):
    gate = Gate()
    with session(partitions).sql(WINDOWS).start(gate) as job:
        for window in range(N_WINDOWS):
            job.push("t", batch_of(window))
            if window == 1:
                gate.wait_entered()
        assert gate.rows == []
        gate.opened.set()
        # The last window is open as long as there may be rows of it.
        wait_until(lambda: len(gate.rows) == len(KEYS) * (N_WINDOWS - 1))
        assert job.stats().rows_processed == len(KEYS) * N_WINDOWS
        # Two steps were under way before the gate was opened, one or two of the others follow.
        assert gate.n_batches <= 4 * partitions
    assert sorted((row["window_start"], row["k"], row["n"]) for row in gate.rows) == [
        (10 * window, key, 1) for window in range(N_WINDOWS) for key in KEYS
    ]


@pytest.mark.parametrize("partitions", [1, 2])
def test_each_window_comes_with_the_push_that_ends_it_where_nothing_waits(partitions):
    rows = []
    with (
        session(partitions).sql(WINDOWS).start(lambda batch: rows.extend(batch.to_pylist())) as job
    ):
        for window in range(N_WINDOWS):
            job.push("t", batch_of(window))
            wait_until(lambda window=window: len(rows) == len(KEYS) * window)
            wait_until(lambda: job.stats().rows_waiting == 0)
    assert len(rows) == len(KEYS) * N_WINDOWS


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_watermark_that_is_raised_closes_what_waited(partitions):
    gate = Gate()
    with session(partitions).sql(WINDOWS).start(gate) as job:
        for window in range(N_WINDOWS):
            job.push("t", batch_of(window))
        job.advance_watermark("t", 10 * N_WINDOWS)
        gate.opened.set()
        wait_until(lambda: len(gate.rows) == len(KEYS) * N_WINDOWS)


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_job_that_ends_early_closes_no_windows_that_waited(end):
    gate = Gate()

    def sink(batch):
        gate(batch)
        if end == "fail":
            raise ValueError("full")

    job = session(2, stop_timeout_seconds=TIMEOUT_SECONDS).sql(WINDOWS).start(sink)
    for window in range(N_WINDOWS):
        job.push("t", batch_of(window))
    gate.wait_entered()
    gate.opened.set()
    if end == "cancel":
        job.cancel()
        assert job.stats().state == "cancelled"
        return
    with pytest.raises(ms.JobFailed, match="full"):
        job.finish()
    assert job.stats().state == "failed"


def windows_of(table):
    return sorted((row["window_start"], row["k"], row["n"]) for row in table.to_pylist())


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("n_rows", [1, 30])
def test_a_bounded_run_gives_rows_in_the_same_order_each_time(partitions, n_rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS_MAX", 100)
    made = session(partitions)
    table = pa.Table.from_batches([batch_of(window, n_rows) for window in range(900 // n_rows)])
    query = made.sql(WINDOWS)
    first = query.run({"t": table}, batch_rows=7)
    expected = [(10 * window, key, n_rows) for window in range(900 // n_rows) for key in KEYS]
    assert windows_of(first) == expected
    for _ in range(2):
        assert query.run({"t": table}, batch_rows=7).equals(first)
    assert windows_of(query.run({"t": table}, batch_rows=None)) == expected


CHAINED = (
    "SELECT k, sum(n) AS n FROM (SELECT k, window_start, count(*) AS n FROM t"
    " GROUP BY k WINDOW TUMBLING(ts, 10)) GROUP BY k EMIT CHANGES"
)


@pytest.mark.parametrize("partitions", [1, 2])
def test_versions_behind_windows_come_for_each_micro_batch(partitions):
    made = session(partitions)
    table = pa.Table.from_batches([batch_of(window) for window in range(N_WINDOWS)])
    found = made.sql(CHAINED).run({"t": table}, batch_rows=len(KEYS)).to_pylist()
    assert len(found) == len(KEYS) * N_WINDOWS
