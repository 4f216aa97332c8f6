"""Partitioning strategies: the same answer under each, and state where its key belongs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import millstream as ms
from millstream.engine.routing import hash_columns
from millstream.engine.strategies import STRATEGIES
from millstream.planner import Placement

N_ROWS = 3_000
ROWS = pa.table(
    {
        "k": [f"key {row % 7}" for row in range(N_ROWS)],
        "x": list(range(N_ROWS)),
        "ts": pa.array(np.arange(N_ROWS).astype("datetime64[s]")),
    }
)
BY_KEY = "SELECT k, count(*) AS n, sum(x) AS s FROM t GROUP BY k EMIT FINAL"
QUERIES = [
    BY_KEY,
    "SELECT k, window_start, max(x) AS m FROM t GROUP BY k WINDOW TUMBLING(10m)",
    "SELECT k, window_start, median(x) AS m FROM t GROUP BY k WINDOW SLIDING(ts, 10m, 5m)",
    "SELECT k, x, sum(x) OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"
    " AS s FROM t",
    "SELECT count(*) AS n FROM t EMIT FINAL",
    "SELECT k, x FROM t WHERE x % 3 = 0",
]


def session(partitions: int, **options: object) -> ms.Session:
    made = ms.Session(partitions=partitions)
    made.create_stream("t", ROWS.schema, event_time="ts", **options)
    return made


def by_partition(
    query: ms.Query, partitions: int, strategy: object, n_sources: int = 1
) -> tuple[list[pa.Table], ms.JobStats]:
    """Push all rows, each key from a source partition of its own, and give what each sink got."""
    got: list[list[pa.RecordBatch]] = [[] for _ in range(partitions)]
    with query.start(sinks=[part.append for part in got], strategy=strategy) as job:
        for batch in ROWS.to_batches(max_chunksize=350):
            sources = np.array([int(key[4:]) % n_sources for key in batch["k"].to_pylist()])
            for source in range(n_sources):
                job.push("t", batch.filter(pa.array(sources == source)), source_partition=source)
    return [pa.Table.from_batches(part, query.schema) for part in got], job.stats()


def rows_of(tables: Sequence[pa.Table]) -> list[tuple[object, ...]]:
    rows = [tuple(row.values()) for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: [(value is None, value) for value in row])


@pytest.mark.parametrize("sql", QUERIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_gives_the_same_answer_and_loses_no_row(strategy, sql):
    if strategy == "always_hash" and "GROUP BY k" not in sql and "PARTITION BY k" not in sql:
        with pytest.raises(ms.SqlError, match="needs grouping or partitioning keys"):
            session(2).sql(sql).explain(strategy)
        return
    expected = rows_of([session(1).sql(sql).run({"t": ROWS})])
    for partitions in (1, 2, 3):
        tables, stats = by_partition(session(partitions).sql(sql), partitions, strategy)
        assert rows_of(tables) == expected
        assert stats.rows_in == N_ROWS == stats.rows_processed


@pytest.mark.parametrize("strategy", [None, "always_hash", "round_robin", "sticky_partition"])
def test_the_state_of_a_key_is_in_the_partition_that_its_hash_says(strategy):
    tables, _ = by_partition(session(3).sql(BY_KEY), 3, strategy)
    assert sum(table.num_rows > 0 for table in tables) > 1
    for partition, table in enumerate(tables):
        hashes = hash_columns([table["k"].combine_chunks()]).tolist()
        assert {((h >> 32) * 3) >> 32 for h in hashes} <= {partition}


@pytest.mark.parametrize("strategy", [None, "sticky_partition"])
@pytest.mark.parametrize("sql", QUERIES[:4])
def test_a_source_that_is_partitioned_by_the_keys_needs_no_exchange(strategy, sql):
    declared = session(3, partitioned_by=["k"], max_out_of_orderness="1 hour")
    query = declared.sql(sql)
    assert "Exchange" not in query.explain(strategy)
    tables, stats = by_partition(query, 3, strategy, n_sources=5)
    assert rows_of(tables) == rows_of([session(1).sql(sql).run({"t": ROWS})])
    assert stats.rows_late == 0
    keys = [set(table["k"].to_pylist()) for table in tables]
    assert not (keys[0] & keys[1])
    assert not (keys[1] & keys[2])
    assert not (keys[0] & keys[2])


def test_a_hint_chooses_the_strategy():
    hinted = BY_KEY.replace("SELECT", "SELECT /*+ partitioning(always_hash) */")
    assert "partial" not in session(2).sql(hinted).explain()
    assert "partial" in session(2).sql(BY_KEY).explain()


def test_a_strategy_of_ones_own_may_split_batches():
    class EvenAndOdd:
        name = "even_and_odd"

        def validate(self, needs):
            assert needs.n_partitions == 2

        def placement(self, needs):
            return Placement()

        def route(self, stream, batch, source_partition, pending):
            is_even = np.array(batch["x"]) % 2 == 0
            return [(0, batch.filter(pa.array(is_even))), (1, batch.filter(pa.array(~is_even)))]

        def counters(self):
            return {}

    tables, stats = by_partition(session(2).sql("SELECT x FROM t"), 2, EvenAndOdd())
    assert [set(np.array(table["x"]) % 2) for table in tables] == [{0}, {1}]
    assert stats.rows_processed == N_ROWS


class Plain:
    """A strategy that asks for nothing and counts nothing."""

    def validate(self, needs):
        pass

    def placement(self, needs):
        return Placement()

    def counters(self):
        return {}


class Thirds(Plain):
    name = "thirds"

    def route(self, stream, batch, source_partition, pending):
        n_rows, last = batch.num_rows // 3, len(pending) - 1
        slices = batch.slice(0, n_rows), batch.slice(n_rows, n_rows), batch.slice(2 * n_rows)
        return list(zip([last, 0, last], slices, strict=True))


@pytest.mark.parametrize("n_partitions", [1, 2, 3])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, window_end, median(x) AS m FROM t GROUP BY k WINDOW TUMBLING(10m)",
        "SELECT k, window_end, count(*) AS n, first_value(x) AS f, last_value(x) AS l FROM t "
        "GROUP BY k WINDOW TUMBLING(10m)",
        "SELECT first_value(x) AS f, last_value(x) AS l FROM t EMIT FINAL",
        "SELECT x, row_number() OVER (PARTITION BY window_start, window_end ORDER BY k) AS n FROM "
        " TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' MINUTE))",
        "SELECT x, lag(x) OVER (PARTITION BY k ORDER BY ts) AS l FROM t",
    ],
)
def test_a_batch_that_is_split_over_windows_counts_as_one(sql, n_partitions):
    query = session(n_partitions).sql(sql)
    expected = rows_of([query.run({"t": ROWS}, batch_rows=None, strategy="fan_in")])
    results = ms.CollectSink()
    with query.start(results, strategy=Thirds()) as job:
        job.push("t", ROWS)
    assert rows_of([results.table()]) == expected
    assert job.stats().rows_processed + job.stats().rows_late == N_ROWS


def test_a_strategy_that_loses_rows_is_found_out():
    class Lossy(Plain):
        name = "lossy"

        def route(self, stream, batch, source_partition, pending):
            return [(0, batch.slice(1))]

    job = session(1).sql("SELECT x FROM t").start(print, strategy=Lossy())
    with pytest.raises(ms.MillstreamError, match="lossy must route each of 3000 rows"):
        job.push("t", ROWS)
    job.cancel()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [("hashed", "there is no partitioning strategy 'hashed'"), (object(), "must have name")],
)
def test_what_is_no_strategy_is_refused(strategy, message):
    with pytest.raises(ms.SqlError, match=message):
        session(2).sql(BY_KEY).start(print, strategy=strategy)


def test_a_strategy_may_give_rows_in_another_order() -> None:
    n_rows = 40_000

    class ByKey(Plain):
        name = "by_key"

        def route(self, stream, batch, source_partition, pending):
            order = pc.sort_indices(batch, [("k", "ascending")])
            half = batch.num_rows // 2
            return [(0, batch.take(order[:half])), (1, batch.take(order[half:]))]

    table = pa.table({"ts": np.arange(n_rows), "k": np.arange(n_rows) % 7})
    made = ms.Session(partitions=2)
    made.create_stream("t", table.schema, event_time="ts", max_out_of_orderness=0)
    query = made.sql(
        "SELECT window_start, k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, 20000)"
    )
    found = query.run({"t": table}, batch_rows=None, strategy=ByKey()).to_pylist()
    expected = Counter((row // 20_000 * 20_000, row % 7) for row in range(n_rows))
    assert {(row["window_start"], row["k"]): row["n"] for row in found} == expected
    assert len(found) == len(expected)
