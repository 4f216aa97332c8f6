"""Dictionaries with a NULL among their values, and ones that do not fit together."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.dictionaries import MergeableRows


def with_null_entry(values: list[object]) -> pa.DictionaryArray:
    """A dictionary whose first value is NULL; rows of it are NULL without a bit of their own."""
    entries = pa.array([None, *values])
    return pa.DictionaryArray.from_arrays(pa.array(range(len(entries)), pa.int32()), entries)


OFFSETS = pa.array([0, 1, 3], pa.int32())
COLUMNS = [
    with_null_entry(["a", "b"]),
    with_null_entry([1, 2]),
    pa.ListArray.from_arrays(OFFSETS, with_null_entry(["a", "b"])),
    pa.LargeListArray.from_arrays(OFFSETS.cast(pa.int64()), with_null_entry(["a", "b"])),
    pa.FixedSizeListArray.from_arrays(with_null_entry(["a", "b", "c"]), 2),
    pa.StructArray.from_arrays([with_null_entry(["a", "b"])], ["field"]),
    pa.MapArray.from_arrays(OFFSETS, pa.array(["x", "y", "z"]), with_null_entry(["a", "b"])),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type)[:12])
def test_null_entries_become_null_rows(column: pa.Array) -> None:
    batch = pa.record_batch({"x": pa.array(range(len(column))), "d": column})
    mergeable = MergeableRows(batch.schema).of(batch)
    assert mergeable.to_pylist() == batch.to_pylist()
    assert mergeable.schema == batch.schema
    other = pa.record_batch({"x": batch["x"], "d": column.take(batch["x"])})
    together = pa.concat_batches([mergeable, MergeableRows(batch.schema).of(other)])
    assert together.to_pylist() == batch.to_pylist() * 2


def test_batches_without_null_entries_stay_as_they_are() -> None:
    batch = pa.record_batch({"d": pa.array(["a", None, "a"]).dictionary_encode()})
    assert MergeableRows(batch.schema).of(batch) is batch


def test_changes_of_aggregates_over_null_entries_come_out() -> None:
    batch = pa.record_batch({"d": with_null_entry(["b", "a"])})
    session = ms.Session(partitions=1)
    session.create_stream("t", batch.schema)
    query = session.sql("SELECT array_agg(d ORDER BY d DESC NULLS LAST) AS a FROM t EMIT CHANGES")
    rows = query.run({"t": [batch, batch, batch]}).to_pylist()
    assert rows[-1] == {"a": [*"bbbaaa", None, None, None], "_op": "+U"}


def test_micro_batches_whose_dictionaries_do_not_fit_into_one_are_taken_one_by_one() -> None:
    narrow = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema([("d", narrow), ("x", pa.int64())])
    entered, opened = threading.Event(), threading.Event()
    sizes: list[int] = []

    def gate(values: pa.Array) -> pa.Array:
        sizes.append(len(values))
        entered.set()
        assert opened.wait(30)
        return values

    session = ms.Session(partitions=1)
    session.create_stream("t", schema)
    session.register_udf("gate", gate, [pa.int64()], pa.int64())
    batches: list[pa.RecordBatch] = []
    query = session.sql("SELECT count(d) AS n, sum(gate(x)) AS s FROM t EMIT FINAL")
    with query.start(batches.append) as job:
        sizes.clear()
        for number in range(5):
            values = pa.array([f"{number} {row}" for row in range(100)]).dictionary_encode()
            job.push("t", pa.record_batch([values.cast(narrow), [number] * 100], schema=schema))
            if number == 0:
                assert entered.wait(30)
        opened.set()
    # The last four have waited together.
    assert sizes == [100] * 5
    assert [row for batch in batches for row in batch.to_pylist()] == [{"n": 500, "s": 1000}]
