"""Every kind of bounded input gives the same rows in the same order, as large as asked."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.inputs import (
    StreamClock,
    batches,
    interleave,
    schema_of,
    stream_clock,
    total_rows,
)
from millstream.errors import SourceError
from millstream.planner.catalog import StreamDefinition

SCHEMA = pa.schema([("k", pa.int64()), ("name", pa.string()), ("price", pa.float64())])
TABLE = pa.table(
    {
        "k": pa.array(range(10), pa.int64()),
        "name": pa.array(["a", None, "", "NA", "d", "e", "f", "g", "h", "i"], pa.string()),
        "price": pa.array([0.5, None, *np.arange(2.0, 10.0)], pa.float64()),
    }
)


def rows(read):
    return [row for batch in read for row in batch.to_pylist()]


def write_csv(path):
    pacsv.write_csv(TABLE, path)


def write_ndjson(path):
    pl.from_arrow(TABLE).write_ndjson(path)


def write_ipc(path, new=pa.ipc.new_file):
    with new(str(path), TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=4)


def write_ipc_stream(path):
    write_ipc(path, pa.ipc.new_stream)


def write_gzipped_csv(path):
    with gzip.open(path, "wb") as file:
        pacsv.write_csv(TABLE, file)


def write_parquet(path):
    pq.write_table(TABLE, path, row_group_size=4)


FILES = {
    "rows.parquet": write_parquet,
    "rows.pq": write_parquet,
    "rows.arrow": write_ipc,
    "rows.ipc": write_ipc_stream,
    "rows.arrows": write_ipc_stream,
    "rows.feather": write_ipc,
    "rows.csv": write_csv,
    "rows.CSV.gz": write_gzipped_csv,
    "rows.json": write_ndjson,
    "rows.ndjson": write_ndjson,
    "rows.jsonl": write_ndjson,
}

INPUTS = {
    "table": lambda: TABLE,
    "chunked table": lambda: pa.concat_tables([TABLE.slice(0, 3), TABLE.slice(3)]),
    "record batch": lambda: TABLE.to_batches()[0],
    "reader": TABLE.to_reader,
    "dataset": lambda: pads.dataset(TABLE),
    "list of batches": lambda: TABLE.to_batches(max_chunksize=3),
    "generator of tables": lambda: (TABLE.slice(i, 2) for i in range(0, 10, 2)),
    "pandas": TABLE.to_pandas,
    "polars": lambda: pl.from_arrow(TABLE),
    "list of frames": lambda: [pl.from_arrow(TABLE.slice(0, 5)), TABLE.slice(5).to_pandas()],
    "exporter of one array": lambda: OneArray(TABLE.to_batches()[0]),
}


class OneArray:
    """A foreign record batch, known by the C data interface alone."""

    def __init__(self, batch):
        self._batch = batch

    def __arrow_c_array__(self, requested_schema=None):
        return self._batch.__arrow_c_array__(requested_schema)


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 10, 4096, None])
@pytest.mark.parametrize("kind", INPUTS)
def test_each_input_gives_its_rows_in_order(kind, batch_rows):
    read = list(batches(INPUTS[kind](), SCHEMA, batch_rows))
    assert rows(read) == TABLE.to_pylist()
    assert all(0 < batch.num_rows <= (batch_rows or 10) for batch in read)


@pytest.mark.parametrize("batch_rows", [1, 3, 4096, None])
@pytest.mark.parametrize("name", FILES)
def test_each_file_gives_its_rows_in_order(tmp_path, name, batch_rows):
    path = tmp_path / name
    FILES[name](path)
    for spelled in (path, str(path)):
        read = list(batches(spelled, SCHEMA, batch_rows))
        assert rows(read) == TABLE.to_pylist()
        assert all(0 < batch.num_rows <= (batch_rows or 10) for batch in read)


def test_slices_share_the_memory_of_the_table():
    addresses = [batch.column("k").buffers()[1].address for batch in batches(TABLE, SCHEMA, 3)]
    assert set(addresses) == {TABLE.column("k").chunk(0).buffers()[1].address}


def test_a_table_without_batch_rows_is_one_batch():
    chunked = pa.concat_tables([TABLE.slice(0, 3), TABLE.slice(3)])
    assert [batch.num_rows for batch in batches(chunked, SCHEMA)] == [10]


def test_batches_without_batch_rows_come_as_they_are():
    assert [batch.num_rows for batch in batches(TABLE.to_batches(4), SCHEMA)] == [4, 4, 2]


@pytest.mark.parametrize("source", [TABLE.slice(0, 0), [], TABLE.slice(0, 0).to_batches()])
@pytest.mark.parametrize("batch_rows", [None, 3])
def test_empty_inputs_give_no_batch(source, batch_rows):
    assert list(batches(source, SCHEMA, batch_rows)) == []


def test_csv_is_read_with_the_types_of_the_stream(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('ts,k,word\n2024-01-15T00:00:01,7,NA\n2024-01-15T00:00:02,,""\n')
    schema = pa.schema([("k", pa.int8()), ("ts", pa.timestamp("ms")), ("word", pa.string())])
    read = list(batches(path, schema))
    assert [field.type for field in read[0].schema] == [pa.timestamp("ms"), pa.int8(), pa.string()]
    assert [(row["k"], row["word"]) for row in rows(read)] == [(7, "NA"), (None, "")]


def test_csv_that_does_not_fit_its_types_fails_with_the_cause(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("k\n1\nx\n")
    with pytest.raises(SourceError, match=r"reading .*rows\.csv failed after 0 rows: .*'x'") as e:
        list(batches(path, pa.schema([("k", pa.int64())])))
    assert isinstance(e.value.__cause__, pa.ArrowInvalid)


def test_ndjson_is_read_with_the_types_of_the_stream(tmp_path):
    path = tmp_path / "rows.ndjson"
    path.write_text('{"k": 1, "ts": "2024-01-15 00:00:01"}\n{"k": 2, "other": true}\n')
    schema = pa.schema([("k", pa.int16()), ("ts", pa.timestamp("s"))])
    (batch,) = batches(path, schema)
    assert batch.schema.names == ["k", "ts", "other"]
    assert batch.schema.types == [pa.int16(), pa.timestamp("s"), pa.bool_()]


def test_a_broken_file_is_an_error_with_its_path_and_cause(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"not a Parquet file")
    for use in (
        lambda: list(batches(path, SCHEMA)),
        lambda: schema_of(path),
        lambda: total_rows(path),
    ):
        with pytest.raises(SourceError, match=r"reading .*rows\.parquet failed") as failure:
            use()
        assert isinstance(failure.value.__cause__, pa.ArrowInvalid)


def test_a_file_that_breaks_off_gives_the_rows_before(tmp_path):
    path = tmp_path / "rows.arrows"
    write_ipc_stream(path)
    path.write_bytes(path.read_bytes()[:-400])
    read = batches(path, SCHEMA)
    assert rows([next(read)]) == TABLE.slice(0, 4).to_pylist()
    with pytest.raises(SourceError, match="failed after 4 rows"):
        next(read)


def test_a_source_that_raises_is_an_error_with_its_cause():
    def source():
        yield TABLE.to_batches()[0]
        raise KeyError("connection")

    read = batches(source(), SCHEMA)
    assert next(read).num_rows == 10
    with pytest.raises(SourceError, match="failed after 10 rows: 'connection'") as failure:
        next(read)
    assert isinstance(failure.value.__cause__, KeyError)


def test_batches_outlive_the_mapping_of_their_file(tmp_path):
    path = tmp_path / "rows.arrow"
    write_ipc(path)
    read = list(batches(path, SCHEMA))
    path.unlink()
    assert rows(read) == TABLE.to_pylist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.parquet", "file must exist"),
        ("rows.xlsx", r"must end in one of \.parquet, .*\.ndjson"),
        ("rows", "must end in one of"),
        ("rows.parquet.gz", "must end in one of"),
        (".", "folder give a dataset"),
        ("s3://bucket/rows.parquet", "local file; for others give a dataset"),
    ],
)
def test_paths_that_cannot_be_read_are_refused_at_once(tmp_path, name, message):
    path = name if "://" in name else tmp_path / name
    for use in (lambda: batches(path, SCHEMA), lambda: schema_of(path), lambda: total_rows(path)):
        with pytest.raises(SourceError, match=message):
            use()


@pytest.mark.parametrize("source", [None, 5, b"rows", {"k": [1]}, object()])
def test_what_is_no_input_is_refused_at_once(source):
    with pytest.raises(SourceError, match=f"input must be .*: builtins.{type(source).__name__}"):
        batches(source, SCHEMA)
    with pytest.raises(SourceError, match="input must be"):
        schema_of(source)


def test_items_that_are_no_arrow_data_are_refused():
    with pytest.raises(SourceError, match=r"items of an input must be Arrow data: \{'k': 1\}"):
        list(batches([{"k": 1}], SCHEMA))


def test_batch_rows_must_be_positive():
    with pytest.raises(SourceError, match="batch_rows must be at least 1: 0"):
        batches(TABLE, SCHEMA, 0)


def test_infinite_inputs_are_read_as_they_are_consumed():
    def source():
        while True:
            yield TABLE

    read = batches(source(), SCHEMA, 4)
    assert [next(read).num_rows for _ in range(4)] == [4, 4, 2, 4]


@pytest.mark.parametrize("kind", [kind for kind in INPUTS if kind != "generator of tables"])
def test_the_schema_is_known_without_using_up_rows(kind):
    source = INPUTS[kind]()
    assert schema_of(source).names == SCHEMA.names
    assert rows(batches(source, SCHEMA)) == TABLE.to_pylist()


@pytest.mark.parametrize("name", FILES)
def test_the_schema_of_a_file_is_read_or_guessed(tmp_path, name):
    FILES[name](tmp_path / name)
    assert schema_of(tmp_path / name) == SCHEMA


@pytest.mark.parametrize("source", [iter([TABLE]), []])
def test_a_schema_that_comes_with_the_rows_is_refused(source):
    with pytest.raises(SourceError, match="declare a stream"):
        schema_of(source)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("table", 10),
        ("record batch", 10),
        ("dataset", 10),
        ("list of batches", 10),
        ("list of frames", 10),
        ("pandas", 10),
        ("polars", 10),
        ("reader", None),
        ("generator of tables", None),
    ],
)
def test_rows_are_counted_where_that_is_cheap(kind, expected):
    assert total_rows(INPUTS[kind]()) == expected


@pytest.mark.parametrize("name", FILES)
def test_rows_of_files_are_counted_where_the_file_says(tmp_path, name):
    FILES[name](tmp_path / name)
    known = name in ("rows.parquet", "rows.pq", "rows.arrow", "rows.feather")
    assert total_rows(tmp_path / name) == (10 if known else None)


def test_rows_of_dataset_files_are_counted_where_footers_say(tmp_path):
    write_parquet(tmp_path / "rows.parquet")
    write_csv(tmp_path / "rows.csv")
    assert total_rows(pads.dataset(tmp_path / "rows.parquet")) == 10
    assert total_rows(pads.dataset(tmp_path / "rows.csv", format="csv")) is None


# Interleaving


def batch_of(times):
    return pa.record_batch({"ts": pa.array(times, pa.int64())})


def merged(clocks=None, **streams):
    sources = {name: iter([batch_of(times) for times in parts]) for name, parts in streams.items()}
    clock = StreamClock(lambda batch: batch.column("ts").to_numpy())
    clocks = dict.fromkeys(streams, clock) | (clocks or {})
    return [(name, batch.column("ts").to_pylist()) for name, batch in interleave(sources, clocks)]


def test_the_stream_that_starts_earliest_goes_first():
    assert merged(a=[[5, 6], [9]], b=[[1, 2], [7, 8]]) == [
        ("b", [1, 2]),
        ("a", [5, 6]),
        ("b", [7, 8]),
        ("a", [9]),
    ]


def test_a_long_batch_waits_for_the_end_of_another():
    assert merged(a=[[1, 2, 5, 9]], b=[[3, 4], [5, 6]]) == [
        ("a", [1, 2]),
        ("b", [3, 4]),
        ("a", [5]),
        ("b", [5, 6]),
        ("a", [9]),
    ]


def test_rows_out_of_order_keep_their_order():
    assert merged(a=[[9, 1, 8, 2, 7]], b=[[3, 4]]) == [
        ("a", [9, 1, 8, 2]),
        ("b", [3, 4]),
        ("a", [7]),
    ]


def test_equal_starts_go_by_name():
    assert merged(b=[[1]], a=[[1]], c=[[1]]) == [("a", [1]), ("b", [1]), ("c", [1])]


def test_streams_without_event_time_take_turns():
    order = merged({"t": None}, a=[[1], [2], [3]], t=[[100], [100]])
    assert order == [("a", [1]), ("t", [100]), ("a", [2]), ("t", [100]), ("a", [3])]


def test_units_of_event_time_are_brought_to_one_scale():
    seconds = StreamClock(lambda batch: batch.column("ts").to_numpy(), unit_nanoseconds=10**9)
    order = merged({"s": seconds}, s=[[1, 2, 2**62]], n=[[10**9 + 1, 2 * 10**9]])
    assert order == [("s", [1, 2]), ("n", [10**9 + 1, 2 * 10**9]), ("s", [2**62])]


def test_batches_are_drawn_only_when_needed():
    drawn = []

    def source():
        for time in range(5):
            drawn.append(time)
            yield batch_of([time])

    clock = StreamClock(lambda batch: batch.column("ts").to_numpy())
    both = interleave({"a": source(), "b": iter([batch_of([100])])}, {"a": clock, "b": clock})
    next(both)
    assert drawn == [0]


PARTS = st.lists(st.lists(st.integers(-50, 50), max_size=6), max_size=5)


@given(st.dictionaries(st.sampled_from("abc"), PARTS, max_size=3))
def test_interleaving_keeps_each_stream_and_cuts_seldom(streams):
    order = merged(**streams)
    for name, parts in streams.items():
        mine = [time for stream, times in order if stream == name for time in times]
        assert mine == [time for part in parts for time in part]
    n_batches = sum(len(part) > 0 for parts in streams.values() for part in parts)
    assert len(order) <= n_batches * max(1, len(streams))


@given(st.dictionaries(st.sampled_from("ab"), PARTS, min_size=2))
def test_ordered_streams_run_ahead_by_one_batch_at_most(streams):
    ordered = {}
    for name, parts in streams.items():
        times = iter(sorted(time for part in parts for time in part))
        ordered[name] = [[next(times) for _ in part] for part in parts if part]
    end_of_next = {name: [part[-1] for part in parts] for name, parts in ordered.items()}
    left = {name: [list(part) for part in parts] for name, parts in ordered.items()}
    for name, times in merged(**ordered):
        other = "b" if name == "a" else "a"
        if left[other]:
            assert times[-1] <= end_of_next[other][-len(left[other])]
        del left[name][0][: len(times)]
        if not left[name][0]:
            del left[name][0]


@pytest.mark.parametrize(
    ("type_", "unit_nanoseconds"),
    [
        (pa.timestamp("us", "UTC"), 1_000),
        (pa.timestamp("s"), 10**9),
        (pa.date32(), 86_400 * 10**9),
        (pa.date64(), 10**6),
        (pa.int16(), 1),
        (pa.uint64(), 1),
    ],
)
def test_clocks_read_each_type_of_event_time(type_, unit_nanoseconds):
    stream = StreamDefinition("s", pa.schema([("ts", type_)]), event_time="ts")
    clock = stream_clock(stream)
    days = 86_400_000 if type_ == pa.date64() else 1
    storage = pa.int32() if type_ == pa.date32() else pa.int64()
    array = pa.array([3 * days, None, 5 * days], storage).cast(type_)
    assert clock.unit_nanoseconds == unit_nanoseconds
    times = clock.times(pa.record_batch({"ts": array}))
    assert times.tolist() == [3 * days, -(2**63), 5 * days]


def test_streams_without_event_time_have_no_clock():
    assert stream_clock(StreamDefinition("s", SCHEMA)) is None


def test_pandas_needs_no_copy_of_its_numbers():
    frame = pd.DataFrame({"k": np.arange(5)})
    (batch,) = batches(frame, pa.schema([("k", pa.int64())]))
    assert batch.column("k").to_pylist() == [0, 1, 2, 3, 4]
