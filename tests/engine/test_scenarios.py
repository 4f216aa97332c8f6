"""Whole jobs over generated rows whose answers are worked out by hand, at many sizes of batches."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

import millstream as ms
from tests.equivalence.compare import fold, rows_of
from tests.equivalence.execution import cut, push_through

N = 5_000
WINDOW_MS = 60_000
FIRST_MS = 1_700_000_000

ORDERS = pa.table(
    {
        "order_id": pa.array(range(N), pa.int64()),
        "customer_id": pa.array([i % 1000 for i in range(N)], pa.int64()),
        "order_date": ["2024-01-15"] * N,
        "total_amount": pa.array([150 + i % 100 for i in range(N)], pa.float64()),
    }
)
QUOTES = pa.table(
    {
        "symbol": [f"SYM{i % 200}" for i in range(N)],
        "price": pa.array([100 + i % 100 for i in range(N)], pa.float64()),
        "quantity": pa.array([i % 1000 for i in range(N)], pa.int64()),
    }
)
TRADES = pa.table(
    {
        "trader_id": [f"TRADER{i % 20}" for i in range(N)],
        "symbol": [f"SYM{i % 10}" for i in range(N)],
        "price": pa.array([100 + i % 50 for i in range(N)], pa.float64()),
        "quantity": pa.array([100 + i % 1000 for i in range(N)], pa.int64()),
        "trade_time": pa.array([FIRST_MS + 1000 * i for i in range(N)], pa.timestamp("ms")),
    }
)

FILTER = """
    SELECT order_id, customer_id, order_date, total_amount FROM orders WHERE total_amount > 100
"""
GROUPS = """
    SELECT symbol, count(*) AS n, avg(price) AS mean, min(price) AS least, max(price) AS greatest,
           sum(quantity) AS quantity
    FROM market_data GROUP BY symbol
"""
# As it was given: without the window in the select list.
WINDOWS = """
    SELECT trader_id, symbol, count(*) AS n, avg(price) AS mean, sum(quantity) AS quantity,
           sum(price * quantity) AS value
    FROM market_data GROUP BY trader_id, symbol
    WINDOW TUMBLING (trade_time, INTERVAL '1' MINUTE)
"""
KEYED_WINDOWS = WINDOWS.replace("SELECT", "SELECT window_start,")

# Every size of batch and every number of partitions; only pairs that are slow are left out.
RUNS = [
    *[(partitions, 4096) for partitions in (1, 2, 3, 8)],
    *[(partitions, None) for partitions in (1, 2, 3, 8)],
    *[(partitions, 7) for partitions in (1, 3)],
    (1, 1),
]
in_every_way = pytest.mark.parametrize(("partitions", "batch_rows"), RUNS)


def run(sql, stream, table, partitions, batch_rows, event_time=None):
    session = ms.Session(partitions=partitions)
    session.create_stream(stream, table.schema, event_time=event_time)
    query = session.sql(sql)
    outcome = push_through(query, cut({stream: table}, batch_rows))
    counts = outcome.counts
    assert counts.is_conserved
    assert counts.rows_in == counts.rows_processed == N
    return query, outcome.rows


def windowed(sql, partitions, batch_rows):
    return run(sql, "market_data", TRADES, partitions, batch_rows, "trade_time")


def expected_windows():
    """Give window start, trader, symbol, count, mean, quantity and value by plain Python."""
    groups = {}
    for row in TRADES.to_pylist():
        start = int(row["trade_time"].timestamp() * 1000) // WINDOW_MS * WINDOW_MS
        groups.setdefault((start, row["trader_id"], row["symbol"]), []).append(row)
    return [
        (
            *key,
            len(rows),
            sum(row["price"] for row in rows) / len(rows),
            sum(row["quantity"] for row in rows),
            sum(row["price"] * row["quantity"] for row in rows),
        )
        for key, rows in groups.items()
    ]


@pytest.fixture(scope="module")
def windows():
    rows = expected_windows()
    assert len(rows) == 1_680
    return rows


@in_every_way
def test_a_filter_passes_every_row_in_order(partitions, batch_rows):
    query, rows = run(FILTER, "orders", ORDERS, partitions, batch_rows)
    assert query.key_columns == ()
    assert rows.num_rows == N
    if partitions == 1:
        assert rows == ORDERS
    assert rows.sort_by("order_id") == ORDERS


@in_every_way
def test_groups_have_every_row_of_their_key(partitions, batch_rows):
    _, rows = run(GROUPS + " EMIT FINAL", "market_data", QUOTES, partitions, batch_rows)
    assert rows.num_rows == 200
    expected = [
        (f"SYM{k}", 25, 100.0 + k % 100, 100.0 + k % 100, 100.0 + k % 100, 25 * k + 10_000)
        for k in range(200)
    ]
    assert sorted(rows_of(rows)) == sorted(expected)


@in_every_way
def test_changes_of_groups_fold_to_the_final_groups(partitions, batch_rows):
    query, rows = run(GROUPS, "market_data", QUOTES, partitions, batch_rows)
    assert query.key_columns == ("symbol",)
    assert rows.schema.names[-1] == "_op"
    _, final = run(GROUPS + " EMIT FINAL", "market_data", QUOTES, 1, None)
    assert sorted(rows_of(fold(rows, query.key_columns))) == sorted(rows_of(final))
    assert rows.num_rows == versions_of_groups(batch_rows or N)


def versions_of_groups(batch_rows):
    """Count one version per micro-batch and key that it has."""
    return len({(i // batch_rows, i % 200) for i in range(N)})


@pytest.mark.parametrize(("partitions", "batch_rows"), [*RUNS, (2, 1)])
def test_windows_have_every_row_of_their_key_and_time(partitions, batch_rows, windows):
    _, rows = windowed(WINDOWS, partitions, batch_rows)
    assert Counter(rows_of(rows)) == Counter(row[1:] for row in windows)
    assert sum(rows["n"].to_pylist()) == N


@in_every_way
def test_changes_of_windows_fold_to_the_final_windows(partitions, batch_rows, windows):
    query, rows = windowed(KEYED_WINDOWS + " EMIT CHANGES", partitions, batch_rows)
    assert set(query.key_columns) == {"window_start", "trader_id", "symbol"}
    assert rows.num_rows == versions_of_windows(batch_rows or N)
    assert rows.num_rows == N or batch_rows != 1, "one row at a time each row is a version"
    assert Counter(rows["_op"].to_pylist()) == +Counter({"+I": 1_680, "+U": rows.num_rows - 1_680})
    folded = fold(rows, query.key_columns)
    assert sorted(rows_of(folded)) == sorted(windows)


def versions_of_windows(batch_rows):
    """Count one version per micro-batch, window and key that it has."""
    return len({(i // batch_rows, (FIRST_MS + 1000 * i) // WINDOW_MS, i % 20) for i in range(N)})


@pytest.mark.parametrize("partitions", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_rows", [7, 4096, None])
def test_the_last_window_comes_with_the_end_of_the_input(partitions, batch_rows):
    session = ms.Session(partitions=partitions)
    session.create_stream("market_data", TRADES.schema, event_time="trade_time")
    received = []
    with session.sql(WINDOWS).start(received.append) as job:
        for _, batch in cut({"market_data": TRADES}, batch_rows):
            job.push("market_data", batch)
        assert job._runtime._in_flight.wait_empty(timeout_seconds=60)
        assert sum(batch.num_rows for batch in received) == job.stats().rows_out == 1_660
    assert sum(batch.num_rows for batch in received) == job.stats().rows_out == 1_680


@pytest.mark.parametrize("batch_rows", [7, 4096])
def test_run_and_push_give_the_same_rows(batch_rows):
    session = ms.Session(partitions=2)
    session.create_stream("market_data", TRADES.schema, event_time="trade_time")
    query = session.sql(WINDOWS)
    pushed = push_through(query, cut({"market_data": TRADES}, batch_rows)).rows
    assert sorted(rows_of(query.run({"market_data": TRADES}, batch_rows=batch_rows))) == sorted(
        rows_of(pushed)
    )


@pytest.mark.parametrize("sql", [FILTER, GROUPS, GROUPS + " EMIT FINAL"])
@pytest.mark.parametrize("partitions", [2, 3])
def test_what_is_routed_is_processed(sql, partitions):
    stream, table = ("orders", ORDERS) if sql is FILTER else ("market_data", QUOTES)
    session = ms.Session(partitions=partitions)
    session.create_stream(stream, table.schema)
    received = [[] for _ in range(partitions)]
    with session.sql(sql).start(sinks=[batches.append for batches in received]) as job:
        for _, batch in cut({stream: table}, 100):
            job.push(stream, batch)
    stats = job.stats()
    assert sum(part.rows_in for part in stats.partitions) == N
    assert sum(part.rows_out for part in stats.partitions) == stats.rows_out
    for part, batches in zip(stats.partitions, received, strict=True):
        assert part.rows_queued == 0
        assert part.rows_out == sum(batch.num_rows for batch in batches)


@pytest.mark.parametrize("partitions", [2, 3, 8])
def test_a_key_comes_out_of_one_partition_only(partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("market_data", QUOTES.schema)
    received = [[] for _ in range(partitions)]
    with session.sql(GROUPS).start(sinks=[batches.append for batches in received]) as job:
        for _, batch in cut({"market_data": QUOTES}, 250):
            job.push("market_data", batch)
    owners = Counter()
    for batches in received:
        owners.update({symbol for batch in batches for symbol in batch["symbol"].to_pylist()})
    assert len(owners) == 200
    assert set(owners.values()) == {1}
