"""Rows out of order: windows get what is theirs, whichever way rows go into their groups."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators import dense_lane
from millstream.engine.operators.dense_groups import DenseGroups

N_ROWS = 60_000
SECOND_US = 1_000_000
SCHEMA = pa.schema([("at", pa.timestamp("us")), ("k", pa.int64()), ("v", pa.float64())])


def rows_with_jitter(seconds: float, share_of_nulls: float) -> pa.Table:
    """A thousand rows a second, each up to some seconds late; values are whole numbers."""
    random = np.random.default_rng(3)
    times = np.arange(N_ROWS) * 1000 - random.integers(0, int(seconds * SECOND_US) + 1, N_ROWS)
    is_null = random.random(N_ROWS) < share_of_nulls
    values = pa.array(random.integers(-50, 50, N_ROWS).astype(float), mask=is_null)
    keys = random.integers(0, 97, N_ROWS)
    return pa.table([pa.array(times, pa.timestamp("us")), keys, values], schema=SCHEMA)


def answers(table: pa.Table, size_seconds: int, step_seconds: int) -> list[tuple[object, ...]]:
    times = table["at"].cast(pa.int64()).to_numpy()
    found = []
    step, size = step_seconds * SECOND_US, size_seconds * SECOND_US
    for end in range(times.min() // step * step + step, times.max() + size + 1, step):
        rows = table.filter(pa.array((times < end) & (times >= end - size)))
        groups = rows.group_by("k").aggregate([([], "count_all"), ("v", "sum"), ("v", "max")])
        start = np.datetime64(end - size, "us").item()
        found += [(start, *group) for group in zip(*groups.to_pydict().values(), strict=True)]
    return sorted(found, key=str)


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("batch_rows", [500, 20_000])
@pytest.mark.parametrize(("size", "step"), [(7, 7), (6, 2), (20, 1)])
@pytest.mark.parametrize("share_of_nulls", [0.0, 0.001])
def test_windows_of_rows_out_of_order(partitions, batch_rows, size, step, share_of_nulls) -> None:
    table = rows_with_jitter(3, share_of_nulls)
    window = f"TUMBLING(at, INTERVAL '{size}' SECOND)"
    if step < size:
        window = f"SLIDING(at, INTERVAL '{size}' SECOND, INTERVAL '{step}' SECOND)"
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="at", max_out_of_orderness="3 seconds")
    query = session.sql(
        "SELECT window_start, k, count(*) AS n, sum(v) AS s, max(v) AS m FROM t GROUP BY k"
        f" WINDOW {window}"
    )
    result = query.run({"t": table}, batch_rows=batch_rows)
    assert sorted(zip(*result.to_pydict().values(), strict=True), key=str) == answers(
        table, size, step
    )


def test_rows_of_two_windows_are_put_in_order_by_window(monkeypatch) -> None:
    n_orders = 0

    def counted(*arguments):
        nonlocal n_orders
        n_orders += 1
        return order_rows(*arguments)

    order_rows = dense_lane.order_rows
    monkeypatch.setattr(dense_lane, "order_rows", counted)
    test_windows_of_rows_out_of_order(1, 20_000, 7, 7, 0.0)
    assert n_orders > 0


@pytest.mark.parametrize("partitions", [1, 2])
def test_windows_that_begin_with_late_rows_lose_none(partitions) -> None:
    # The first micro-batch has a row that is late for some windows only, so that its groups come
    # to where windows are put together in another way than those after it.
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="at")
    query = session.sql(
        "SELECT window_start, k, count(*) AS n FROM t GROUP BY k"
        " WINDOW SLIDING(at, INTERVAL '6' SECOND, INTERVAL '2' SECOND)"
    )
    out: list[pa.RecordBatch] = []
    with query.start(out.append) as job:
        for first, seconds in ((0, [5, 3]), (1, [5] * 3), (2, [6, 7, 8]), (3, [30])):
            times = pa.array([second * SECOND_US for second in seconds], pa.timestamp("us"))
            keys, values = [first % 2] * len(seconds), [0.0] * len(seconds)
            job.push("t", pa.record_batch([times, keys, values], schema=SCHEMA))
    counts: dict[int, int] = {}
    for batch in out:
        for row in batch.to_pylist():
            second = int(np.datetime64(row["window_start"], "s").astype(int))
            counts[second] = counts.get(second, 0) + row["n"]
    # The row of second 3 came behind a watermark of 5, and is late for the window that ends at 4.
    assert counts == {0: 5, 2: 7, 4: 7, 6: 3, 8: 1, 26: 1, 28: 1, 30: 1}


@pytest.mark.parametrize(("size", "step"), [(7, 7), (6, 2)])
def test_groups_that_are_refused_meet_those_of_their_window(monkeypatch, size, step) -> None:
    # Of the two partitions that send groups of a window, one is taken densely and one is not.
    add, n_calls = DenseGroups.add, 0

    def add_every_second(self, groups):
        nonlocal n_calls
        n_calls += 1
        return n_calls % 2 == 0 and add(self, groups)

    monkeypatch.setattr(DenseGroups, "add", add_every_second)
    test_windows_of_rows_out_of_order(2, 20_000, size, step, 0.0)
    assert n_calls > 10
