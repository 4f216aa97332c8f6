"""Rows keep the order in which they came, whatever partitions they pass on their way."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from tests.equivalence.compare import rows_of

N_ROWS = 240
ROWS = pa.table(
    {
        "n": range(N_ROWS),
        "ts": [row // 24 for row in range(N_ROWS)],
        "a": [row % 3 for row in range(N_ROWS)],
        "b": [row % 2 for row in range(N_ROWS)],
    }
)


def answer(
    sql: str, n_partitions: int, batch_rows: int, strategy: str | None = None
) -> list[tuple[object, ...]]:
    session = ms.Session(partitions=n_partitions)
    session.create_stream("t", ROWS.schema, event_time="ts")
    result = session.sql(sql).run({"t": ROWS}, batch_rows=batch_rows, strategy=strategy)
    return sorted(rows_of(result), key=repr)


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
@pytest.mark.parametrize("n_partitions", [1, 2, 3])
@pytest.mark.parametrize("batch_rows", [7, 60, N_ROWS])
def test_window_functions_by_several_keys(order: str, n_partitions: int, batch_rows: int) -> None:
    sql = (
        f"SELECT n, lag(n) OVER (PARTITION BY a {order}) AS x,"
        f" lag(n, 2) OVER (PARTITION BY b {order}) AS y, row_number() OVER ({order}) AS z FROM t"
    )
    expected = [
        (n, n - 3 if n >= 3 else None, n - 4 if n >= 4 else None, n + 1) for n in range(N_ROWS)
    ]
    assert answer(sql, n_partitions, batch_rows) == sorted(expected, key=repr)


@pytest.mark.parametrize("order", ["", "ORDER BY ts"])
@pytest.mark.parametrize("strategy", ["smart_repartition", "sticky_partition", "round_robin"])
@pytest.mark.parametrize("batch_rows", [7, N_ROWS])
def test_first_values_behind_a_window_function_by_another_key(
    order: str, strategy: str, batch_rows: int
) -> None:
    inner = f"SELECT n, b, lag(n) OVER (PARTITION BY a {order}) AS x FROM t"
    sql = (
        "SELECT b, first_value(n) AS f, last_value(n) AS l, array_agg(n) AS every, count(x) AS c"
        f" FROM ({inner}) GROUP BY b EMIT FINAL"
    )
    expected = [(b, b, N_ROWS - 2 + b, tuple(range(b, N_ROWS, 2))) for b in range(2)]
    assert [row[:4] for row in answer(sql, 3, batch_rows, strategy)] == expected
