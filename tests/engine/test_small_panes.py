"""Small panes that end at once: put together on their way to the partitions that own their keys."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators.base import Collector
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


class Counting:
    """Collects into another collector, and notes the sizes of batches."""

    def __init__(self, out: Collector, sizes: list[int]) -> None:
        self._out = out
        self._sizes = sizes

    def emit(self, batch: pa.RecordBatch) -> None:
        self._sizes.append(batch.num_rows)
        self._out.emit(batch)


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
    handed_on: list[int] = []
    hand_on = PartialAggregate._hand_on
    monkeypatch.setattr(
        PartialAggregate,
        "_hand_on",
        lambda self, panes, below, out: hand_on(self, panes, below, Counting(out, handed_on)),
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
    assert max(sizes) <= 200
    assert sum(handed_on) == sum(sizes)
    assert len(handed_on) * 4 < len(sizes)
