"""Steps that wait are processed at once, and nobody can tell by what comes out."""

from __future__ import annotations

import datetime as dt
import threading
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine import exchange, gathering, partition, query
from millstream.engine.exchange import Sender
from millstream.engine.mailbox import Mailbox
from millstream.engine.operators.aggregate import FinalAggregate, SingleAggregate, _Emitting
from millstream.engine.plan_shape import walk
from millstream.engine.routing import split_together
from millstream.engine.state.step_rows import StepRows, distinct_groups
from millstream.planner import distribute
from tests.engine.stalling import TIMEOUT_SECONDS, wait_until

N_BATCHES = 30
SCHEMA = pa.schema(
    {
        "k": pa.int64(),
        "s": pa.string(),
        "d": pa.dictionary(pa.int32(), pa.string()),
        "x": pa.int64(),
        "y": pa.float64(),
        "u": pa.uint8(),
        "t": pa.timestamp("us"),
        "e": pa.int64(),
    }
)


@pytest.fixture
def adding_up_first(monkeypatch):
    """Let aggregates add up before an exchange, where they would exchange rows."""
    monkeypatch.setattr(query, "_SPLIT_ROWS_LEAST", 0)


def batches(seed=0, n_rows=50):
    rng = np.random.default_rng(seed)
    made = []
    for number in range(N_BATCHES):
        n = 0 if number == 7 else int(rng.integers(1, n_rows))
        keys = rng.integers(0, 5 + 3 * number, n)
        # Whole micro-batches without a value for some groups, and rows that change nothing.
        nulls = rng.random(n) < (0.9 if number % 3 == 0 else 0.0)
        x = [
            None if null else int(v) for null, v in zip(nulls, rng.integers(-9, 9, n), strict=True)
        ]
        columns = [
            pa.array(keys, pa.int64()),
            pa.array([f"key {key % 6}" for key in keys], pa.string()),
            pa.array([f"key {key % 4}" for key in keys], pa.string()).dictionary_encode(),
            pa.array(x, pa.int64()),
            pa.array(np.where(rng.random(n) < 0.1, np.nan, np.round(rng.random(n), 2))),
            pa.array(rng.integers(0, 255, n), pa.uint8()),
            pa.array([dt.datetime(2020, 1, 1 + int(key) % 20) for key in keys], pa.timestamp("us")),
            # A row behind the watermark now and then, for windows of 10.
            pa.array(number + rng.integers(-12 if number % 6 == 0 else 0, 3, n), pa.int64()),
        ]
        made.append(pa.record_batch(columns, schema=SCHEMA))
    return made


def results_behind_a_gate(sql, *, partitions=2, together=True, seed=0, strategy=None, **options):
    """Push everything while the first results are held up.

    Returns per partition what came out, with the micro-batch that brought it about; and how many
    steps were processed at once each time.
    """
    session = ms.Session(partitions=partitions, **options)
    session.create_stream("t", SCHEMA, event_time="e", max_out_of_orderness=2)
    entered, opened = threading.Event(), threading.Event()
    came = [[] for _ in range(partitions)]
    sizes = []

    def sink(batch, info):
        entered.set()
        assert opened.wait(TIMEOUT_SECONDS)
        came[info.partition].append((info.micro_batch, batch.to_pylist()))

    def noting(process_steps):
        def process(self, steps, out):
            sizes.append(len(steps))
            process_steps(self, steps, out)

        return process

    with (
        mock.patch.object(SingleAggregate, "process_steps", noting(SingleAggregate.process_steps)),
        mock.patch.object(FinalAggregate, "process_steps", noting(FinalAggregate.process_steps)),
    ):
        refused = [
            mock.patch.object(part, "takes_steps", new=False) for part in (_Emitting, Sender)
        ]
        if not together:
            for patch in refused:
                patch.start()
        try:
            with session.sql(sql).start(sink, strategy=strategy) as job:
                for number, batch in enumerate(batches(seed)):
                    job.push("t", batch)
                    if number == 0:
                        assert entered.wait(TIMEOUT_SECONDS)
                opened.set()
                wait_until(lambda: job.stats().rows_waiting == 0)
                # What has been closed is forgotten.
                came.append([(-2, sum(part.state_rows for part in job.stats().partitions))])
        finally:
            opened.set()
            if not together:
                for patch in refused:
                    patch.stop()
    stats = job.stats()
    n_rows = sum(batch.num_rows for batch in batches(seed))
    assert stats.rows_processed + stats.rows_late == stats.rows_in == n_rows
    assert (stats.rows_late > 0) == ("WINDOW" in sql)
    came.append([(-1, stats.rows_late)])
    return came, sizes


QUERIES = [
    "SELECT k, count(*) AS n, sum(x) AS s FROM t GROUP BY k",
    "SELECT k, min(x) AS lo, max(x) AS hi, count(x) AS n, avg(y) AS m FROM t GROUP BY k",
    "SELECT s, sum(x) AS t, max(u) AS hi, min(y) AS lo FROM t GROUP BY s",
    "SELECT d, sum(y) AS t, count(*) AS n FROM t GROUP BY d",
    "SELECT k, s, sum(x + 1) AS t, bit_xor(u) AS z FROM t GROUP BY k, s",
    "SELECT count(*) AS n, sum(x) AS s, max(y) AS hi FROM t",
    "SELECT sum(x) AS s, k AS key FROM t GROUP BY k",
    # Nothing changes in most steps.
    "SELECT k, max(u) AS hi FROM t GROUP BY k",
    "SELECT u, count(*) AS n FROM t GROUP BY u",
    "SELECT s, s AS again, count(*) AS n FROM t GROUP BY s",
    # Without aggregates.
    "SELECT k, s FROM t GROUP BY k, s",
    # Behind a filter.
    "SELECT k, count(*) AS n FROM t WHERE k <> 2 AND u < 200 GROUP BY k",
]
WINDOWED = [
    "SELECT k, window_start, count(*) AS n, sum(x) AS s FROM t GROUP BY k"
    " WINDOW TUMBLING(e, 10) EMIT CHANGES",
    "SELECT s, window_end, max(y) AS hi FROM t GROUP BY s WINDOW TUMBLING(e, 5) EMIT CHANGES",
    "SELECT window_start, count(*) AS n FROM t WHERE k <> 2 WINDOW TUMBLING(e, 7) EMIT CHANGES",
    "SELECT window_start FROM t WINDOW TUMBLING(e, 7) EMIT CHANGES",
]
# Those for which each step has to go by itself.
OTHERS = [
    "SELECT k, sum(x) AS s FROM t GROUP BY k HAVING sum(x) > 0",
    "SELECT k, sum(x) * 2 AS s FROM t GROUP BY k",
    "SELECT k, min(s) AS lo FROM t GROUP BY k",
    "SELECT k, count(DISTINCT x) AS n FROM t GROUP BY k",
    "SELECT k, max(t) AS hi, median(y) AS m FROM t GROUP BY k",
    "SELECT DISTINCT k FROM t",
    "SELECT k, window_start, count(*) AS n FROM t GROUP BY k WINDOW SLIDING(e, 10, 5) EMIT CHANGES",
]


def as_comparable(came):
    # NaN is not equal to itself.
    return [[(number, repr(rows)) for number, rows in partition] for partition in came]


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("sql", QUERIES + WINDOWED)
def test_what_comes_out_is_the_same(sql, partitions):
    expected, none = results_behind_a_gate(sql, partitions=partitions, together=False)
    assert none == []
    got, sizes = results_behind_a_gate(sql, partitions=partitions)
    assert max(sizes) > 1, "several steps at once"
    assert as_comparable(got) == as_comparable(expected)


@pytest.mark.parametrize("sql", QUERIES + WINDOWED)
def test_what_comes_out_is_the_same_of_sums_of_partitions(sql, adding_up_first):
    test_what_comes_out_is_the_same(sql, 2)


@pytest.mark.parametrize("strategy", ["round_robin", "sticky_partition"])
def test_any_strategy_gives_the_same_of_sums_of_partitions(strategy, adding_up_first):
    test_any_strategy_gives_the_same(strategy, QUERIES[1])


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("sql", OTHERS)
def test_queries_whose_steps_go_one_by_one(sql, partitions):
    expected, _ = results_behind_a_gate(sql, partitions=partitions, together=False)
    got, sizes = results_behind_a_gate(sql, partitions=partitions)
    assert sizes == []
    assert as_comparable(got) == as_comparable(expected)


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_changelog_with_old_versions_goes_step_by_step(partitions):
    sql = QUERIES[0]
    expected, _ = results_behind_a_gate(
        sql, partitions=partitions, together=False, changelog="retract"
    )
    got, sizes = results_behind_a_gate(sql, partitions=partitions, changelog="retract")
    assert sizes == []
    assert as_comparable(got) == as_comparable(expected)


@pytest.mark.parametrize("sql", [QUERIES[0], QUERIES[-1], *WINDOWED[:2]])
@pytest.mark.parametrize("strategy", ["always_hash", "round_robin", "fan_in", "sticky_partition"])
def test_any_strategy_gives_the_same(strategy, sql):
    expected, _ = results_behind_a_gate(sql, together=False, strategy=strategy)
    got, sizes = results_behind_a_gate(sql, strategy=strategy)
    assert max(sizes) > 1
    assert as_comparable(got) == as_comparable(expected)


@pytest.mark.parametrize("partitions", [1, 2])
def test_a_row_that_fails_leaves_what_came_before_it(partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", pa.schema({"k": pa.int64(), "x": pa.int64()}))
    entered, opened = threading.Event(), threading.Event()
    seen = []

    def sink(batch, info):
        entered.set()
        assert opened.wait(TIMEOUT_SECONDS)
        seen.append(info.micro_batch)

    job = session.sql("SELECT k, sum(10 / x) AS s FROM t GROUP BY k").start(sink)
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
    if partitions == 1:
        assert seen == list(range(7))


def test_no_more_steps_of_sums_at_once_than_are_allowed(adding_up_first):
    test_no_more_steps_at_once_than_are_allowed(2, exchange)


@pytest.mark.parametrize(("partitions", "module"), [(1, gathering), (2, exchange)])
def test_no_more_steps_at_once_than_are_allowed(partitions, module):
    with mock.patch.object(module, "STEPS_MAX", 4):
        _, sizes = results_behind_a_gate(QUERIES[0], partitions=partitions)
    assert max(sizes) == 4


def test_rows_up_to_a_limit_are_taken_at_once():
    _, sizes = results_behind_a_gate(QUERIES[0], partitions=1, batch_rows_max=60)
    assert max(sizes, default=0) < 10
    n_batches, _ = results_behind_a_gate(QUERIES[0], partitions=1, batch_rows_max=1)
    assert len(n_batches[0]) == N_BATCHES - 1


def test_touched_groups_are_listed_once_per_step_and_in_order():
    rng = np.random.default_rng(1)
    for n_groups in (1, 3, 40, 5000):
        group_ids = rng.integers(0, n_groups, 200).astype(np.uint32)
        # Steps of one part, none, two parts of which one is empty, and one of two parts.
        bounds, parts = np.array([0, 1, 1, 120, 170, 200]), np.array([0, 1, 1, 3, 5])
        rows = StepRows.of(group_ids, bounds, parts, n_before=0, n_groups=n_groups)
        most = 0
        for step in range(4):
            ids = group_ids[bounds[parts[step]] : bounds[parts[step + 1]]]
            start, stop = rows.touched_bounds[step : step + 2]
            assert rows.touched[start:stop].tolist() == sorted(set(ids.tolist()))
            most = max(most, int(ids.max(initial=0)) + (len(ids) > 0))
            assert rows.n_groups[step + 1] == most
        both = distinct_groups([group_ids[:50], group_ids[50:]], n_groups)
        assert both.tolist() == sorted(set(group_ids.tolist()))


def test_a_mailbox_gives_messages_that_fit_and_keeps_the_others_in_order():
    mailbox = Mailbox()
    for message in [1, 2, "a", 3, "b", None, 4, "c"]:
        mailbox.put(message if message is not None else b"")
    assert mailbox.take_while(lambda message: isinstance(message, int)) == [1, 2]
    assert mailbox.get() == "a"
    mailbox.put(5)

    def is_text(message):
        return isinstance(message, str)

    # Bytes let nothing pass.
    assert mailbox.take_among(is_text, lambda message: isinstance(message, int)) == ["b"]
    assert [mailbox.get() for _ in range(5)] == [3, b"", 4, "c", 5]
    assert mailbox.is_empty()
    mailbox.put(6)
    assert not mailbox.is_empty()
    assert mailbox.take_among(is_text, is_text) == []
    assert mailbox.take_while(is_text) == []
    assert mailbox.get() == 6


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("sql", [QUERIES[0], QUERIES[2], WINDOWED[0]])
def test_a_bounded_run_gives_rows_in_the_same_order(sql, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="e", max_out_of_orderness=2)
    query, table = session.sql(sql), pa.Table.from_batches(batches())
    with mock.patch.object(_Emitting, "takes_steps", new=False):
        expected = query.run({"t": table}, batch_rows=3)
    for _ in range(3):
        assert query.run({"t": table}, batch_rows=3).equals(expected)


@pytest.mark.parametrize("strategy", ["always_hash", "smart_repartition"])
def test_rows_of_steps_that_wait_are_split_together(strategy):
    sizes = []

    def noting(batches, keys, n_partitions):
        sizes.append(len(batches))
        return split_together(batches, keys, n_partitions)

    with mock.patch.object(exchange, "split_together", noting):
        results_behind_a_gate(QUERIES[0], strategy=strategy)
    assert max(sizes) > 1


def test_large_batches_are_split_one_by_one():
    with (
        mock.patch.object(exchange, "_SMALL_ROWS", 0),
        mock.patch.object(exchange, "split_together", side_effect=AssertionError),
    ):
        got, sizes = results_behind_a_gate(QUERIES[4], strategy="always_hash")
    assert max(sizes) > 1
    expected, _ = results_behind_a_gate(QUERIES[4], strategy="always_hash", together=False)
    assert as_comparable(got) == as_comparable(expected)


SPLITS = [
    (QUERIES[0], False),
    (WINDOWED[0], False),
    # All rows would go to one partition.
    (QUERIES[5], True),
    # Panes are added up once for all windows.
    (OTHERS[-1], True),
    (QUERIES[0] + " EMIT FINAL", True),
]


@pytest.mark.parametrize(("sql", "always"), SPLITS)
def test_changes_of_small_batches_are_not_added_up_before_an_exchange(sql, always, monkeypatch):
    monkeypatch.setattr(query, "_SPLIT_ROWS_LEAST", 1 << 15)
    phases = []

    def noting(root, *arguments):
        placed = distribute(root, *arguments)
        nodes = walk(placed)
        phases.append(any(getattr(node, "phase", None) == "partial" for node in nodes))
        return placed

    session = ms.Session(partitions=2)
    session.create_stream("t", SCHEMA, event_time="e")
    planned, table = session.sql(sql), pa.Table.from_batches(batches())
    monkeypatch.setattr(query, "distribute", noting)

    def split_by(run):
        phases.clear()
        run()
        return phases[-1]

    assert split_by(lambda: planned.start(ms.CollectSink()).finish()) is always
    assert split_by(planned.explain) is always
    assert split_by(lambda: planned.run({"t": table}, batch_rows=1000)) is always
    assert split_by(lambda: planned.run({"t": table}, batch_rows=1 << 15)) is True
    assert split_by(lambda: planned.run({"t": table}, batch_rows=None)) is True


@pytest.mark.parametrize("partitions", [1, 2])
def test_what_closes_on_the_way_is_forgotten_though_the_last_step_closes_nothing(partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", pa.schema({"k": pa.int64(), "e": pa.int64()}), event_time="e")
    entered, opened = threading.Event(), threading.Event()

    def sink(batch):
        entered.set()
        assert opened.wait(TIMEOUT_SECONDS)

    sql = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(e, 10) EMIT CHANGES"
    with session.sql(sql).start(sink) as job:
        try:
            for number, when in enumerate([1, 2, 15, 25, 25, 25]):
                job.push("t", {"k": [number], "e": [when]})
                if number == 0:
                    assert entered.wait(TIMEOUT_SECONDS)
        finally:
            opened.set()
        wait_until(lambda: job.stats().rows_waiting == 0)
        # Of each of three groups the aggregate and the changelog keep one row.
        assert sum(part.state_rows for part in job.stats().partitions) == 6


@pytest.mark.parametrize(("partitions", "module"), [(1, partition), (2, exchange)])
def test_no_more_rows_of_steps_at_once_than_are_allowed(partitions, module):
    rows_max = 60
    together = []
    process_steps = SingleAggregate.process_steps

    def noting(self, steps, out):
        together.append([sum(part.num_rows for part in parts) for parts in steps])
        process_steps(self, steps, out)

    with (
        mock.patch.object(module, "STEPS_ROWS_MAX", rows_max),
        mock.patch.object(SingleAggregate, "process_steps", noting),
    ):
        got, sizes = results_behind_a_gate(QUERIES[0], partitions=partitions)
    expected, _ = results_behind_a_gate(QUERIES[0], partitions=partitions, together=False)
    assert as_comparable(got) == as_comparable(expected)
    assert max(sizes) > 1
    assert all(sum(steps) <= rows_max for steps in together)
    assert max(map(sum, together)) > rows_max // 2
