"""Dictionaries with a NULL among their values, and ones that do not fit together."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.dictionaries import MergeableRows, encoded


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


@pytest.mark.parametrize(
    ("type_", "n_most"), [(pa.int8(), 128), (pa.uint8(), 256), (pa.int16(), 32_768)]
)
def test_values_are_encoded_as_long_as_there_are_indices(type_: pa.DataType, n_most: int) -> None:
    wanted = pa.dictionary(type_, pa.string())
    values = pa.array([*(str(number) for number in range(n_most)), "7", None])
    assert encoded(values, wanted).type == wanted
    assert encoded(values, wanted).to_pylist() == values.to_pylist()
    with pytest.raises(
        ms.SchemaError, match=rf"at most {n_most:,} distinct values: {n_most + 1:,}"
    ):
        encoded(pa.array(range(n_most + 1)).cast(pa.string()), wanted)


def many_values_in_small_dictionaries() -> pa.Table:
    """Three batches of 100 values each, none of which is in two of them."""
    indices = pa.array(range(100), pa.int8())
    dictionaries = [pa.array([f"{part}-{i}" for i in range(100)]) for part in range(3)]
    return pa.Table.from_batches(
        [
            pa.record_batch(
                {"k": pa.DictionaryArray.from_arrays(indices, values), "x": pa.array(range(100))}
            )
            for values in dictionaries
        ]
    )


@pytest.mark.parametrize(
    "select",
    [
        "k, count(*) AS n FROM t GROUP BY k EMIT FINAL",
        "k, sum(x) / count(*) AS m FROM t GROUP BY k EMIT FINAL",
        "k, max(k) AS m FROM t GROUP BY k EMIT FINAL",
        "DISTINCT k FROM t",
        "k, x, sum(x) AS s FROM t GROUP BY k, x WINDOW SLIDING(x, 100, 50)",
        "k, count(*) AS n FROM t GROUP BY k WINDOW SESSION(x, 5)",
    ],
)
def test_groups_that_a_dictionary_has_no_indices_for_are_an_error(select: str) -> None:
    """DataFusion fails as well, where the dictionaries of batches differ."""
    table = many_values_in_small_dictionaries()
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="x", max_out_of_orderness=1000)
    query = session.sql(f"SELECT {select}")
    with pytest.raises(ms.JobFailed, match=r"at most 128 distinct values: \d+; declare"):
        query.run({"t": table}, batch_rows=1000)


@pytest.mark.parametrize("partitions", [1, 2])
def test_versions_of_steps_that_go_together_do_not_share_a_dictionary(partitions: int) -> None:
    table = many_values_in_small_dictionaries()
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema)
    query = session.sql("SELECT k, count(*) AS n, max(x) AS x FROM t GROUP BY k")
    result = query.run({"t": table}, batch_rows=1000)
    assert sorted(result["k"].to_pylist()) == sorted(table["k"].to_pylist())
    assert result["_op"].to_pylist() == ["+I"] * 300
