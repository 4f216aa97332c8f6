"""What becomes of rows that come late, but are allowed: results are revised, or wait for them."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.stalling import wait_until

SCHEMA = pa.schema({"k": pa.int64(), "ts": pa.int64()})
CALLS = ["TUMBLE(t, ts, 10)", "HOP(t, ts, 10, 10)", "CUMULATE(t, ts, 10, 10)", "HOP(t, ts, 5, 10)"]


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("call", CALLS)
def test_a_late_row_revises_results_before_any_other_row_comes(call, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="ts", allowed_lateness=30)
    query = session.sql(
        f"SELECT k, window_start, count(*) AS n FROM {call} GROUP BY k, window_start, window_end"
    )
    rows = []
    with query.start(lambda batch: rows.extend(batch.to_pylist())) as job:
        for k, ts in [(1, 3), (1, 25)]:
            job.push("t", {"k": k, "ts": ts})
        wait_until(lambda: {"k": 1, "window_start": 0, "n": 1, "_op": "+I"} in rows)
        # The watermark stays at 25.
        job.push("t", {"k": 1, "ts": 4})
        wait_until(lambda: {"k": 1, "window_start": 0, "n": 2, "_op": "+U"} in rows)
        job.push("t", {"k": 2, "ts": 5})
        wait_until(lambda: {"k": 2, "window_start": 0, "n": 1, "_op": "+I"} in rows)


RANKED = "row_number() OVER (PARTITION BY window_start, window_end ORDER BY ts DESC)"
# Each tells a window's start and its greatest time.
OF_ROWS = [
    f"SELECT window_start, ts FROM (SELECT *, {RANKED} AS n FROM TUMBLE(t, ts, 10)) WHERE n = 1",
    f"SELECT window_start, max(ts) AS ts FROM (SELECT *, {RANKED} AS n FROM TUMBLE(t, ts, 10))"
    " WHERE n <= 2 GROUP BY window_start, window_end",
    "SELECT window_start, ts FROM TUMBLE(t, ts, 10) ORDER BY window_end, ts DESC LIMIT 1",
    "SELECT window_start, max(ts) AS ts FROM (SELECT window_start, window_end, ts"
    " FROM TUMBLE(t, ts, 10) ORDER BY window_end, ts DESC LIMIT 1)"
    " GROUP BY window_start, window_end",
]


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("sql", OF_ROWS)
def test_windows_that_nothing_revises_wait_for_late_rows(sql, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="ts", allowed_lateness=10)
    rows = []
    with session.sql(sql).start(lambda batch: rows.extend(batch.to_pylist())) as job:
        for ts in [3, 12, 7, 20, 9, 19]:
            job.push("t", {"k": 1, "ts": ts})
        # The window from 0 has ended at 12, and closes at 20, which leaves out the row at 9.
        wait_until(lambda: rows == [{"window_start": 0, "ts": 7}])
        wait_until(lambda: job.stats().rows_late == 1)
    rows.sort(key=lambda row: row["window_start"])
    assert rows == [{"window_start": start, "ts": ts} for start, ts in [(0, 7), (10, 19), (20, 20)]]
