"""The state of a window is gone after it has closed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms

N_WINDOWS = 10_000
KEYS_PER_WINDOW = 100
WINDOWS_PER_BATCH = 50


def batch(first_window: int) -> pa.RecordBatch:
    """Return rows of fifty windows, each with a hundred keys that never come again."""
    n_rows = WINDOWS_PER_BATCH * KEYS_PER_WINDOW
    first_key = first_window * KEYS_PER_WINDOW
    keys = np.arange(first_key, first_key + n_rows)
    times = np.repeat(np.arange(first_window, first_window + WINDOWS_PER_BATCH), KEYS_PER_WINDOW)
    return pa.record_batch(
        {
            "k": pa.array(keys),
            "s": pa.array(keys.astype(str)),
            "ts": pa.array(times.astype("datetime64[s]")),
        }
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, INTERVAL '1' SECOND)",
        "SELECT s, max(k) AS m FROM t GROUP BY s WINDOW SLIDING(ts, INTERVAL '3' SECOND,"
        " INTERVAL '1' SECOND)",
        "SELECT k, median(k) AS m FROM t GROUP BY k WINDOW TUMBLING(ts, INTERVAL '1' SECOND)",
        "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, INTERVAL '1' SECOND)"
        " EMIT CHANGES",
    ],
)
@pytest.mark.parametrize("partitions", [1, 2])
def test_ten_thousand_windows_of_a_million_keys_leave_nothing_behind(sql, partitions):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", batch(0).schema, event_time="ts")
    n_rows = 0
    greatest: list[int] = []

    def count(rows: pa.RecordBatch) -> None:
        nonlocal n_rows
        n_rows += rows.num_rows
        greatest.append(sum(part.state_bytes for part in job.stats().partitions))

    job = session.sql(sql).start(count)
    for window in range(0, N_WINDOWS, WINDOWS_PER_BATCH):
        job.push("t", batch(window))
    job.finish()
    windows_per_row = 3 if "SLIDING" in sql else 1
    assert n_rows == N_WINDOWS * KEYS_PER_WINDOW * windows_per_row
    # What waits in a queue moves the figures a little; what stays behind would move them a lot.
    early, late = greatest[: len(greatest) // 4], greatest[-len(greatest) // 4 :]
    assert max(late) < 2 * max(early) + (1 << 20)
    assert sum(part.state_rows for part in job.stats().partitions) == 0
