"""Dictionaries with a NULL among their values, and ones that do not fit together."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.dictionaries import MergeableRows, batch_of, encoded, of_type


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
    pa.ListArray.from_arrays(OFFSETS, with_null_entry([1, 2])),
    pa.FixedSizeListArray.from_arrays(with_null_entry([1.5, 2, 3]), 2),
    pa.StructArray.from_arrays(
        [with_null_entry([True, False])], ["field"], mask=pa.array([True, False, False])
    ),
    pa.MapArray.from_arrays(OFFSETS, pa.array(["x", "y", "z"]), with_null_entry([1, 2])),
    pa.ListArray.from_arrays(
        pa.array([0, None, 1, 3], pa.int32()),
        pa.StructArray.from_arrays([with_null_entry([1, 2])], ["field"]),
    )[1:],
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
@pytest.mark.parametrize("batch_rows", [50, 1000])
def test_distinct_values_come_in_as_many_batches_as_they_need(partitions, batch_rows) -> None:
    # However many micro-batches are taken at once.
    table = many_values_in_small_dictionaries()
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema, event_time="x", max_out_of_orderness=1000)
    out: list[pa.RecordBatch] = []
    query = session.sql("SELECT DISTINCT k FROM t")
    gate = threading.Event()
    with query.start(lambda batch: (gate.wait(10), out.append(batch))) as job:
        for batch in table.to_batches(max_chunksize=batch_rows):
            job.push("t", batch)
        # What has come meanwhile is gathered.
        gate.set()
    values = [value for batch in out for value in batch["k"].to_pylist()]
    assert sorted(values) == sorted(set(table["k"].to_pylist()))


@pytest.mark.parametrize("partitions", [1, 2])
def test_distinct_rows_in_several_batches_are_judged_by_their_own_watermarks(partitions) -> None:
    type_ = pa.dictionary(pa.int8(), pa.string())
    times = list(range(300))
    # Behind the first batch of results, a row for a window that closed long before.
    times[290] = 100
    keys = pa.array(["a", "b", "c"] * 100).cast(type_)
    table = pa.table({"ts": times, "k": keys, "x": list(range(300))})
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema, event_time="ts", max_out_of_orderness=0)
    query = session.sql(
        "SELECT window_start, count(*) AS n FROM (SELECT DISTINCT k, ts, x FROM t) AS d"
        " GROUP BY window_start, window_end WINDOW TUMBLING(ts, 10)"
    )
    found = query.run({"t": table}, batch_rows=None)
    counts = dict(zip(found["window_start"].to_pylist(), found["n"].to_pylist(), strict=True))
    assert counts == {start: 9 if start == 290 else 10 for start in range(0, 300, 10)}


@pytest.mark.parametrize("partitions", [1, 2])
def test_versions_of_steps_that_go_together_do_not_share_a_dictionary(partitions: int) -> None:
    table = many_values_in_small_dictionaries()
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema)
    query = session.sql("SELECT k, count(*) AS n, max(x) AS x FROM t GROUP BY k")
    result = query.run({"t": table}, batch_rows=1000)
    assert sorted(result["k"].to_pylist()) == sorted(table["k"].to_pylist())
    assert result["_op"].to_pylist() == ["+I"] * 300


ENTRIES = {
    "int64": pa.array([-5, 6, 7]),
    "uint64": pa.array([2**64 - 1, 6, 0], pa.uint64()),
    "int8": pa.array([-5, 6, 7], pa.int8()),
    "double": pa.array([1.5, -2.5, float("inf")]),
    "float": pa.array([1.5, -2.5, 0], pa.float32()),
    "bool": pa.array([True, False]),
    "timestamp": pa.array([1, 2, 2**62]).view(pa.timestamp("ns")),
    "date": pa.array([1, 2, 3], pa.int32()).view(pa.date32()),
    "time": pa.array([1, 2, 3]).view(pa.time64("ns")),
    "duration": pa.array([1, 2, 3], pa.duration("s")),
    "decimal": pa.array([1, 2, 3], pa.decimal128(10, 2)),
    "short decimal": pa.array([1, 2, 3], pa.decimal64(10, 2)),
    "binary": pa.array([b"a", b"b", b"c"], pa.binary(1)),
}
SELECTS = [
    "c, count(*) AS n FROM t GROUP BY c EMIT FINAL",
    "c, count(*) AS n FROM t GROUP BY c EMIT CHANGES",
    "DISTINCT c FROM t",
    "c, window_start, count(*) AS n FROM t GROUP BY c WINDOW TUMBLING(x, 2)",
    "c, count(*) AS n FROM t GROUP BY c WINDOW SESSION(x, 2)",
    "c, x, count(*) AS n FROM t GROUP BY c, x WINDOW SLIDING(x, 3, 1)",
    "lag(c) OVER (ORDER BY x) AS v FROM t",
    "first_value(c) OVER (ORDER BY x) AS v FROM t",
    "first_value(c) OVER (ORDER BY x ROWS 1 PRECEDING) AS v FROM t",
    "last_value(c) OVER (PARTITION BY c ORDER BY x) AS v FROM t",
    "max(c) OVER (ORDER BY x ROWS 1 PRECEDING) AS v FROM t",
    "array_agg(c ORDER BY x) AS v FROM t EMIT CHANGES",
    "first_value(c) AS a, last_value(c) AS z, min(c) AS l, max(c) AS g FROM t EMIT CHANGES",
]


def encoded_table(entries: pa.Array) -> pa.Table:
    """Rows of which some have each of the entries, and some NULL, as two kinds of dictionaries."""
    n_entries = len(entries)
    indices = pa.array([*range(n_entries), 0, n_entries, None, 0, 1], pa.int32())
    dictionary = pa.concat_arrays([entries, pa.nulls(1, entries.type)])
    return pa.table(
        {
            "x": pa.array(range(len(indices))),
            "c": pa.DictionaryArray.from_arrays(indices, dictionary),
        }
    )


def results(select: str, table: pa.Table) -> list[str]:
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="x")
    out = session.sql(f"SELECT {select}").run({"t": table}, batch_rows=3)
    out.validate(full=True)
    return sorted(map(str, out.to_pylist()))


@pytest.mark.parametrize("select", SELECTS)
@pytest.mark.parametrize("entries", ENTRIES.values(), ids=ENTRIES)
def test_dictionaries_of_any_values_are_as_good_as_their_values(
    entries: pa.Array, select: str
) -> None:
    table = encoded_table(entries)
    values = pa.concat_arrays([entries, pa.nulls(1, entries.type)])
    (chunk,) = table["c"].chunks
    plain = table.set_column(1, "c", values.take(chunk.indices))
    assert results(select, table) == results(select, plain)


def test_the_length_of_an_encoded_text_can_be_a_key() -> None:
    table = pa.table({"x": [0, 1, 2], "c": pa.array(["p", "qq", "r"]).dictionary_encode()})
    counts = results("length(c) AS l, count(*) AS n FROM t GROUP BY length(c) EMIT FINAL", table)
    assert counts == ["{'l': 1, 'n': 2}", "{'l': 2, 'n': 1}"]


@pytest.mark.parametrize("entries", ENTRIES.values(), ids=ENTRIES)
def test_values_of_any_type_get_the_type_of_a_dictionary(entries: pa.Array) -> None:
    wanted = pa.dictionary(pa.uint8(), entries.type, ordered=True)
    values = pa.concat_arrays([entries, entries, pa.nulls(1, entries.type)])
    found = of_type(values, wanted)
    assert found.type == wanted
    assert plain_values(found).equals(values)
    assert of_type(found, wanted) is found
    narrow = pa.dictionary(pa.int8(), entries.type)
    assert plain_values(of_type(found, narrow)).equals(values)
    batch = batch_of([values, values], pa.schema([("d", wanted), ("v", entries.type)]))
    assert plain_values(batch["d"]).equals(batch["v"])


def plain_values(array: pa.DictionaryArray) -> pa.Array:
    return array.dictionary.take(array.indices)
