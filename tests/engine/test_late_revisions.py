"""When rows that come late, but are allowed, revise the results of windows that have closed."""

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
