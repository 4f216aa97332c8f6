"""Groups, ranks and first rows of session results by the end of their session."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

import millstream as ms

SESSIONS = (
    "SELECT window_start, window_end, k, count(*) AS c FROM t GROUP BY k WINDOW SESSION(ts, 3)"
)
TUMBLING = "SELECT window_end AS e, count(*) AS c FROM t WINDOW TUMBLING(ts, 3)"
UNION = f"{TUMBLING} UNION ALL SELECT window_end AS e, c FROM ({SESSIONS}) AS s"
QUERIES = {
    "group": f"SELECT window_end, count(*) AS n FROM ({SESSIONS}) AS s GROUP BY window_end",
    "both ends": f"SELECT window_start, window_end, sum(c) AS n FROM ({SESSIONS}) AS s "
    "GROUP BY window_start, window_end",
    "rollup": f"SELECT window_end, k, sum(c) AS n FROM ({SESSIONS}) AS s "
    "GROUP BY window_end, ROLLUP(k)",
    "join": f"SELECT e, sum(v) AS v FROM (SELECT window_end AS e, u.v FROM ({SESSIONS}) AS s "
    "JOIN u ON s.k = u.k) AS j GROUP BY e",
    "union": f"SELECT e, sum(c) AS c FROM ({UNION}) AS s GROUP BY e",
    "rank of union": "SELECT e, c, n FROM (SELECT *, rank() OVER (PARTITION BY e ORDER BY c DESC) "
    f"AS n FROM ({UNION}) AS s) AS r WHERE n <= 1",
    "limit": f"SELECT window_end, c FROM ({SESSIONS}) AS s ORDER BY c DESC LIMIT 1",
    "window": f"SELECT window_start, sum(c) AS n FROM ({SESSIONS}) AS s WINDOW TUMBLING(5)",
}


def rows_of(
    sql: str, table: pa.Table, *, partitions: int, batch_rows: int, delay: int
) -> list[str]:
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema, event_time="ts", max_out_of_orderness=delay)
    session.create_table("u", pa.table({"k": ["a", "a", "b"], "v": [1, 2, 3]}))
    result = session.sql(sql).run({"t": table}, batch_rows=batch_rows)
    return sorted(map(str, result.to_pylist()))


@pytest.mark.parametrize("name", list(QUERIES))
def test_sessions_that_end_at_the_watermark_are_waited_for(name: str) -> None:
    """A row right at the end of a session still belongs to it, so sessions end later."""
    sql = QUERIES[name]
    if name == "window":
        sql = sql.replace("TUMBLING(5)", "TUMBLING(window_end, 5)")
    generator = random.Random(5)
    for _ in range(12):
        times = sorted(generator.randint(0, 12) for _ in range(7))
        keys = [generator.choice("abc") for _ in times]
        table = pa.table({"ts": pa.array(times, pa.int64()), "k": keys})
        # All windows close at the end of the input.
        expected = rows_of(sql, table, partitions=1, batch_rows=1000, delay=1000)
        for partitions, batch_rows in ((1, 1), (1, 1000), (2, 3)):
            got = rows_of(sql, table, partitions=partitions, batch_rows=batch_rows, delay=0)
            assert got == expected, (times, keys, partitions, batch_rows)
