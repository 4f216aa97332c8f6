"""Aggregates over rows in an order in which some agree: those stay in the order of arrival."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms

N_ROWS = 300
GENERATOR = random.Random(21)
TABLE = pa.table(
    {
        "k": [GENERATOR.choice("abc") for _ in range(N_ROWS)],
        "x": pa.array([GENERATOR.choice([1, 2, 3, None]) for _ in range(N_ROWS)], pa.int64()),
        "y": [GENERATOR.choice([0.5, 1.5]) for _ in range(N_ROWS)],
        "i": range(N_ROWS),
        "ts": range(N_ROWS),
    }
)
# Per order of SQL the same for Python: NULL is greatest, unless said otherwise.
ORDERS = {
    "x": lambda row: (row["x"] is None, row["x"] or 0),
    "x DESC": lambda row: (row["x"] is not None, -(row["x"] or 0)),
    "x NULLS FIRST": lambda row: (row["x"] is not None, row["x"] or 0),
    "x DESC NULLS LAST": lambda row: (row["x"] is None, -(row["x"] or 0)),
    "y DESC, x": lambda row: (-row["y"], row["x"] is None, row["x"] or 0),
    "x % 2": lambda row: (row["x"] is None, (row["x"] or 0) % 2),
}
CALLS = {
    "array_agg(i ORDER BY {})": lambda rows: [row["i"] for row in rows],
    "array_agg(i ORDER BY {}) FILTER (WHERE y > 1)": lambda rows: [
        row["i"] for row in rows if row["y"] > 1
    ],
    "string_agg(i::text, ',' ORDER BY {})": lambda rows: ",".join(str(row["i"]) for row in rows),
    "nth_value(i, 3 ORDER BY {})": lambda rows: rows[2]["i"] if len(rows) > 2 else None,
    "last_value(i ORDER BY {})": lambda rows: rows[-1]["i"],
}
WINDOWS = {"": 10_000, "WINDOW TUMBLING(ts, 100)": 100}


@pytest.mark.parametrize("emit", ["FINAL", "CHANGES"])
@pytest.mark.parametrize("window", list(WINDOWS))
@pytest.mark.parametrize("order", list(ORDERS))
def test_rows_that_agree_come_as_they_came(order: str, window: str, emit: str) -> None:
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in TABLE.to_pylist():
        groups[row["k"], row["ts"] // WINDOWS[window]].append(row)
    expected = {
        key: [call(sorted(rows, key=ORDERS[order])) for call in CALLS.values()]
        for key, rows in groups.items()
    }
    calls = ", ".join(f"{call.format(order)} AS c{place}" for place, call in enumerate(CALLS))
    start = "window_start, " if window else ""
    sql = f"SELECT k, {start}{calls} FROM t GROUP BY k {window} EMIT {emit}"
    for partitions, batch_rows in ((1, None), (1, 7), (2, 50), (3, 11)):
        session = ms.Session(partitions=partitions)
        session.create_stream("t", TABLE.schema, event_time="ts")
        result = session.sql(sql).run({"t": TABLE}, batch_rows=batch_rows)
        # The last version of each.
        got = {
            (row["k"], (row.get("window_start") or 0) // WINDOWS[window]): [
                row[f"c{place}"] for place in range(len(CALLS))
            ]
            for row in result.to_pylist()
        }
        assert got == expected, (partitions, batch_rows)


def test_several_orders_in_one_query() -> None:
    """DataFusion has no answer to this: it wants rows in one order for all."""
    calls = {order: f"string_agg(i::text, ',' ORDER BY {order})" for order in ORDERS}
    select = ", ".join(f"{call} AS c{place}" for place, call in enumerate(calls.values()))
    expected = [
        ",".join(str(row["i"]) for row in sorted(TABLE.to_pylist(), key=key))
        for key in ORDERS.values()
    ]
    for batch_rows in (None, 13):
        session = ms.Session(partitions=2)
        session.create_stream("t", TABLE.schema)
        query = session.sql(f"SELECT {select}, median(x) AS m FROM t EMIT FINAL")
        (row,) = query.run({"t": TABLE}, batch_rows=batch_rows).to_pylist()
        assert [row[f"c{place}"] for place in range(len(calls))] == expected
        assert row["m"] == 2
