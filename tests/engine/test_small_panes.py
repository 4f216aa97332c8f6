"""Small panes that end at once: put together on their way to the partitions that own their keys."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators.partial_aggregate import PartialAggregate

N_BATCHES, N_ROWS, PANE_ROWS = 6, 4096, 300


def batches(key_type: pa.DataType) -> list[pa.RecordBatch]:
    """Micro-batches of 13 or 14 windows each, with keys of their own."""
    made = []
    for number in range(N_BATCHES):
        at = np.arange(number * N_ROWS, (number + 1) * N_ROWS)
        names = pa.array([f"{number}-{row * 7 % 100}" for row in range(N_ROWS)])
        if pa.types.is_dictionary(key_type):
            names = names.dictionary_encode().cast(key_type)
        made.append(pa.record_batch({"at": at, "k": names}))
    return made


@pytest.mark.parametrize(
    "key_type", [pa.string(), pa.dictionary(pa.int8(), pa.string())], ids=["text", "dictionary"]
)
def test_windows_that_end_together_have_all_of_their_groups(monkeypatch, key_type):
    sizes: list[int] = []
    as_batch = PartialAggregate._as_batch
    monkeypatch.setattr(
        PartialAggregate,
        "_as_batch",
        lambda self, groups: sizes.append(groups.n_groups) or as_batch(self, groups),
    )
    rows = batches(key_type)
    session = ms.Session(partitions=2)
    session.create_stream("t", rows[0].schema, event_time="at")
    sql = f"SELECT window_start, k, count(*) AS n FROM t GROUP BY tumble(at, {PANE_ROWS}), k"
    sink = ms.CollectSink()
    with session.sql(sql).start(sink) as job:
        for batch in rows:
            job.push("t", batch)
    got = {(row["window_start"], row["k"]): row["n"] for row in sink.table().to_pylist()}
    expected = Counter(
        (row["at"] // PANE_ROWS * PANE_ROWS, row["k"]) for b in rows for row in b.to_pylist()
    )
    assert got == expected
    assert sizes
    assert max(sizes) <= 200
