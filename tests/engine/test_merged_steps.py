"""Steps that wait are processed as one where results are rows that nothing revises."""

from __future__ import annotations

import threading
from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine import exchange, gathering, partition, runtime
from millstream.engine import plan_shape as shapes
from millstream.engine.plan_shape import plan_shape
from millstream.planner import distribute
from tests.engine.stalling import TIMEOUT_SECONDS

N_BATCHES = 40
SCHEMA = pa.schema(
    {
        "k": pa.int64(),
        "s": pa.string(),
        "d": pa.dictionary(pa.int16(), pa.string()),
        "b": pa.dictionary(pa.int8(), pa.string()),
        "x": pa.int64(),
        "e": pa.int64(),
    }
)
NAMES = pa.table({"id": [0, 1, 2, 3], "name": ["a", "b", "c", "d"]})

# Each gives a row at the first micro-batch.
MERGED = [
    "SELECT k, x + 1 AS y FROM t",
    "SELECT k, x * 2 AS y, d FROM t WHERE x > 2 OR e < 3",
    "SELECT name, x FROM t JOIN n ON k = id",
    "SELECT window_start, x FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(e), 10)) WHERE k < 4 OR e < 3",
    "SELECT k, b FROM t WHERE x > 2 OR e < 3",
    "SELECT k, x, sum(x) OVER (PARTITION BY k ROWS 3 PRECEDING) AS y FROM t",
    "SELECT s, d, row_number() OVER (PARTITION BY s) AS y FROM t WHERE x > 1 OR e < 3",
    "SELECT s, b, row_number() OVER (PARTITION BY s) AS y FROM t",
    "SELECT DISTINCT k, s FROM t",
]
# These wait for the watermark.
MERGED_BY_TIME = [
    "SELECT k, e, sum(x) OVER (PARTITION BY k ORDER BY e"
    " ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS y FROM t",
    "SELECT d, x, max(x) OVER (PARTITION BY d ORDER BY e"
    " RANGE BETWEEN 4 PRECEDING AND CURRENT ROW) AS y FROM t",
    "SELECT k, window_start, window_end, count(*) AS n, sum(x) AS y FROM t GROUP BY k"
    " WINDOW SESSION(e, 3)",
    "SELECT s, window_start, count(*) AS n FROM t WHERE x > 3 GROUP BY s WINDOW SESSION(e, 2)",
]
# Versions of rows, something that may fail on the results, or nothing to do.
ONE_BY_ONE = [
    # Without a copy.
    "SELECT k, x FROM t",
    "SELECT x, k AS key, window_start FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(e), 10))",
    "SELECT k, sum(x) AS y FROM t GROUP BY k",
    "SELECT k, 100 / count(*) OVER (PARTITION BY k ROWS 3 PRECEDING) AS y FROM t",
    "SELECT k, approx_distinct(x) AS y FROM t GROUP BY k WINDOW SESSION(e, 3)",
    "SELECT k, x FROM t UNION ALL SELECT k, e FROM t",
]


def batches(n_batches=N_BATCHES, *, late=True):
    random = np.random.default_rng(7)
    made = []
    for number in range(n_batches):
        n_rows = 0 if number == 9 else int(random.integers(1, 12))
        late_by = 30 if late and number % 7 == 5 else 0
        keys = random.integers(0, 5, n_rows)
        texts = [f"{number}-{key}" for key in range(5)]
        columns = [
            pa.array(keys, pa.int64()),
            pa.array([f"key {key % 3}" for key in keys], pa.string()),
            pa.DictionaryArray.from_arrays(pa.array(keys, pa.int16()), [*texts, *"abc"]),
            # All values together are too many for their indices.
            pa.DictionaryArray.from_arrays(pa.array(keys, pa.int8()), texts),
            pa.array(random.integers(0, 9, n_rows), pa.int64()),
            pa.array(2 * number + random.integers(-1, 2, n_rows) - late_by, pa.int64()),
        ]
        made.append(pa.record_batch(columns, schema=SCHEMA))
    return made


def without_merging(*arguments, **options):
    return replace(plan_shape(*arguments, **options), merged_rows_max=0)


def pushed_behind_a_gate(sql, *, partitions=1, merges=True, late=True, sink=None, **options):
    """Push all while a first result is held up; return what came by partition, and the job."""
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="e", max_out_of_orderness=2)
    session.create_table("n", NAMES)
    entered, opened = threading.Event(), threading.Event()
    came = [[] for _ in range(partitions)]

    def sink_of(number):
        def take(batch):
            entered.set()
            assert opened.wait(TIMEOUT_SECONDS)
            came[number].append(batch)

        return take

    shape = plan_shape if merges else without_merging
    with mock.patch.object(runtime, "plan_shape", shape):
        planned = session.sql(sql)
        job = planned.start(sinks=[sink_of(number) for number in range(partitions)], **options)
    with job:
        for number, batch in enumerate(batches(late=late)):
            job.push("t", batch)
            if number == 0 and sql in MERGED:
                assert entered.wait(TIMEOUT_SECONDS)
        opened.set()
    return came, job


def after_select(sql):
    return sql.partition(" FROM")[0].replace(",", " ").split()


def rows_of(came):
    return [[row for batch in batches for row in batch.to_pylist()] for batches in came]


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("sql", MERGED + MERGED_BY_TIME)
def test_the_same_rows_come_in_the_same_order(sql, partitions):
    # A partition gets what the others are too busy for, unless keys decide.
    strategy = "round_robin" if partitions > 1 else None
    expected, before = pushed_behind_a_gate(
        sql, partitions=partitions, merges=False, strategy=strategy
    )
    got, after = pushed_behind_a_gate(sql, partitions=partitions, strategy=strategy)
    assert rows_of(got) == rows_of(expected)
    assert sum(map(len, rows_of(got))) > 0
    if sql in MERGED and "DISTINCT" not in sql and "b" not in after_select(sql):
        n_batches = [sum(map(len, came)) for came in (got, expected)]
        assert n_batches[0] < n_batches[1] / 2
    for name in ("rows_in", "rows_processed", "rows_late", "rows_waiting", "rows_out"):
        assert getattr(after.stats(), name) == getattr(before.stats(), name)
    assert after.stats().rows_waiting == 0
    # Late rows go by themselves, and the others are judged as if nothing had waited.
    assert (after.stats().rows_late > 0) == (sql in MERGED_BY_TIME)


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("sql", ONE_BY_ONE)
def test_other_steps_go_one_by_one(sql, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="e")
    root = distribute(session.sql(sql)._plan.root, partitions)
    assert plan_shape(root, partitions, is_single=False).merged_rows_max == 0


@pytest.mark.parametrize("sql", MERGED + MERGED_BY_TIME)
def test_watermarks_and_latencies_are_those_of_all_micro_batches(sql):
    _, job = pushed_behind_a_gate(sql)
    _, other = pushed_behind_a_gate(sql, merges=False)
    (only,), (expected,) = job._runtime._partitions, other._runtime._partitions
    assert only.watermarks == expected.watermarks
    # One has no rows and is not pushed on.
    assert only.latencies.parts.n == expected.latencies.parts.n == N_BATCHES - 1
    assert only.latencies.items.n == N_BATCHES - 1


@pytest.mark.parametrize("sql", [MERGED[1], MERGED[5]])
def test_a_sink_that_asks_is_told_of_each_micro_batch(sql):
    numbers = []
    session = ms.Session(partitions=1)
    session.create_stream("t", SCHEMA, event_time="e", max_out_of_orderness=2)
    opened = threading.Event()

    def sink(batch, info):
        assert opened.wait(TIMEOUT_SECONDS)
        numbers.append(info.micro_batch)

    with session.sql(sql).start(sink) as job:
        for batch in batches(late=False):
            job.push("t", batch)
        opened.set()
    assert len(numbers) > N_BATCHES // 2
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("sql", MERGED + MERGED_BY_TIME)
def test_a_bounded_run_gives_rows_in_the_same_order(sql, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="e", max_out_of_orderness=2)
    session.create_table("n", NAMES)
    planned = session.sql(sql)
    with mock.patch.object(runtime, "plan_shape", without_merging):
        expected = planned.run({"t": batches()}, strategy="round_robin")
    for _ in range(3):
        found = planned.run({"t": batches()}, strategy="round_robin")
        assert found.to_pylist() == expected.to_pylist()


def failing_behind_a_gate(sql, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", pa.schema({"k": pa.int64(), "x": pa.int64()}))
    entered, opened = threading.Event(), threading.Event()
    seen = []

    def sink(batch):
        entered.set()
        assert opened.wait(TIMEOUT_SECONDS)
        seen.extend(batch.column("k").to_pylist())

    job = session.sql(sql).start(sink, strategy="fan_in")
    try:
        for number in range(12):
            job.push("t", {"k": [number], "x": [0 if number == 7 else 1]})
            if number == 0:
                assert entered.wait(TIMEOUT_SECONDS)
    finally:
        opened.set()
    with pytest.raises(ms.JobFailed) as failed:
        job.finish()
    assert failed.value.batch_number == 7
    assert failed.value.row == 0
    return seen


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_row_that_fails_leaves_what_came_before_it(partitions):
    assert failing_behind_a_gate("SELECT k, 10 / x AS y FROM t", partitions) == list(range(7))
    over = "SELECT k, sum(10 / x) OVER (PARTITION BY k ROWS 2 PRECEDING) AS y FROM t"
    assert failing_behind_a_gate(over, partitions) == list(range(7))


def sizes_behind_a_gate(sql, **options):
    sizes = []
    process = partition.Partition._process_together

    def noting(self, items):
        sizes.append(len(items))
        process(self, items)

    with mock.patch.object(partition.Partition, "_process_together", noting):
        pushed_behind_a_gate(sql, late=False, **options)
    return sizes


def test_no_more_steps_are_merged_than_are_allowed(monkeypatch):
    assert max(sizes_behind_a_gate(MERGED[0])) > 10
    monkeypatch.setattr(gathering, "STEPS_MAX", 4)
    assert max(sizes_behind_a_gate(MERGED[0])) == 4
    monkeypatch.setattr(gathering, "STEPS_MAX", 64)
    monkeypatch.setattr(shapes, "_MERGED_ROWS_MAX", 30)
    assert 1 < max(sizes_behind_a_gate(MERGED[0])) <= 30
    monkeypatch.setattr(shapes, "_JOINED_ROWS_MAX", 40)
    assert max(sizes_behind_a_gate(MERGED[0])) <= max(sizes_behind_a_gate(MERGED[2]))
    monkeypatch.setattr(shapes, "_JOINED_ROWS_MAX", 12)
    assert 1 <= max(sizes_behind_a_gate(MERGED[2])) <= 12


@pytest.mark.parametrize(("name", "limit"), [("STEPS_MAX", 4), ("_MERGED_ROWS_MAX", 30)])
def test_no_more_steps_are_merged_behind_an_exchange(name, limit, monkeypatch):
    sizes = []
    process = exchange.Receiver._process_merged

    def noting(self, n_steps):
        sizes.append(n_steps)
        process(self, n_steps)

    monkeypatch.setattr(exchange.Receiver, "_process_merged", noting)
    pushed_behind_a_gate(MERGED[5], partitions=2, late=False)
    assert max(sizes) > 4
    sizes.clear()
    monkeypatch.setattr(exchange if name == "STEPS_MAX" else shapes, name, limit)
    pushed_behind_a_gate(MERGED[5], partitions=2, late=False)
    assert 1 < max(sizes) <= limit
    if name == "STEPS_MAX":
        assert max(sizes) == limit


def test_steps_are_not_merged_where_rows_may_go_to_dead_letters():
    letters = []
    sizes = sizes_behind_a_gate("SELECT k, 10 / x AS y FROM t", dead_letter_sink=letters.append)
    assert sizes == []
    assert sum(batch.num_rows for batch in letters) > 0
