"""Row hashes of Arrow columns against the xxhash package, and batches split by them."""

from __future__ import annotations

import datetime as dt
import math
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.routing import hash_columns, split, split_together
from millstream.errors import SchemaError

NULL = b"\xff"
EPOCH = dt.datetime(1970, 1, 1)
Encode = Callable[[Any], bytes]


def reference(columns: Sequence[Sequence[bytes | None]]) -> list[int]:
    """Chain the hashes of each row's values."""
    hashes = [0] * len(columns[0])
    for column in columns:
        for row, value in enumerate(column):
            hashes[row] = xxhash.xxh64_intdigest(NULL if value is None else value, seed=hashes[row])
    return hashes


def word(value: int) -> bytes:
    return (int(value) % 2**64).to_bytes(8, "little")


def float_word(value: float) -> bytes:
    return struct.pack("<d", math.nan if math.isnan(value) else value + 0.0)


def decimal_bytes(scale: int, n_bytes: int) -> Encode:
    return lambda value: int(value.scaleb(scale)).to_bytes(n_bytes, "little", signed=True)


def text(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def integers(n_bits: int, signed: bool) -> st.SearchStrategy[int]:
    low = -(2 ** (n_bits - 1)) if signed else 0
    return st.integers(low, low + 2**n_bits - 1)


def times(unit_us: int) -> Encode:
    return lambda value: word((value - EPOCH) // dt.timedelta(microseconds=unit_us))


def decimals(digits: int) -> st.SearchStrategy[Decimal]:
    return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda n: Decimal(n).scaleb(-2))


FINE_TIMES = st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1))
WHOLE_SECONDS = FINE_TIMES.map(lambda time: time.replace(microsecond=0))

KEYS: list[tuple[pa.DataType, st.SearchStrategy[Any], Encode]] = [
    (pa.bool_(), st.booleans(), word),
    *[(getattr(pa, f"int{n}")(), integers(n, True), word) for n in (8, 16, 32, 64)],
    *[(getattr(pa, f"uint{n}")(), integers(n, False), word) for n in (8, 16, 32, 64)],
    (pa.float32(), st.floats(width=32), float_word),
    (pa.float64(), st.floats(), float_word),
    (pa.string(), st.text(max_size=50), text),
    (pa.large_string(), st.text(max_size=50), text),
    (pa.string_view(), st.text(max_size=50), text),
    (pa.binary(), st.binary(max_size=50), text),
    (pa.large_binary(), st.binary(max_size=50), text),
    (pa.binary_view(), st.binary(max_size=50), text),
    (pa.binary(3), st.binary(min_size=3, max_size=3), text),
    (pa.timestamp("us"), FINE_TIMES, times(1)),
    (pa.timestamp("s"), WHOLE_SECONDS, times(1_000_000)),
    (pa.date32(), FINE_TIMES.map(dt.datetime.date), lambda d: word((d - EPOCH.date()).days)),
    (pa.time32("s"), st.integers(0, 86_399), word),
    (pa.time64("us"), st.integers(0, 86_399_999_999), word),
    (pa.duration("us"), st.integers(-(2**40), 2**40), word),
    (pa.decimal32(7, 2), decimals(7), decimal_bytes(2, 16)),
    (pa.decimal64(15, 2), decimals(15), decimal_bytes(2, 16)),
    (pa.decimal128(30, 2), decimals(27), decimal_bytes(2, 16)),
    (pa.decimal256(50, 2), decimals(27), decimal_bytes(2, 32)),
]


@pytest.mark.parametrize(("type_", "values", "encode"), KEYS, ids=lambda v: str(v)[:20])
@pytest.mark.parametrize("n_keys", [1, 2])
@settings(max_examples=40)
@given(data=st.data())
def test_rows_hash_as_the_reference(
    type_: pa.DataType, values: st.SearchStrategy[Any], encode: Encode, n_keys: int, data: Any
) -> None:
    rows = data.draw(st.lists(st.none() | values, max_size=30))
    start = data.draw(st.integers(0, 11))
    encoded = [None if value is None else encode(value) for value in rows][start:]
    hashes = hash_columns([pa.array(rows, type_)[start:]] * n_keys)
    assert hashes.tolist() == reference([encoded] * n_keys)


@pytest.mark.parametrize("value_type", [pa.string(), pa.string_view(), pa.int64()], ids=str)
@settings(max_examples=40)
@given(data=st.data())
def test_dictionaries_hash_as_their_values(value_type: pa.DataType, data: Any) -> None:
    entries = ["a", "", None, "b" * 40] if value_type != pa.int64() else [1, -1, None, 2**62]
    code = st.none() | st.integers(0, len(entries) - 1)
    codes = data.draw(st.lists(code, max_size=20))
    start = data.draw(st.integers(0, 3))
    dictionary = pa.array(entries, value_type)
    encoded = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), dictionary)[start:]
    decoded = pa.array([None if c is None else entries[c] for c in codes], value_type)[start:]
    assert hash_columns([encoded]).tolist() == hash_columns([decoded]).tolist()
    both = [encoded, encoded]
    assert hash_columns(both).tolist() == hash_columns([decoded, decoded]).tolist()


def test_half_floats_and_nulls_and_intervals_can_be_keys() -> None:
    halves = pa.array(np.array([1.5, -0.0], np.float16))
    assert hash_columns([halves]).tolist() == reference([[float_word(1.5), float_word(0.0)]])
    assert hash_columns([pa.nulls(3)]).tolist() == reference([[None] * 3])
    interval = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    assert hash_columns([interval]).tolist() == reference([[struct.pack("<iiq", 1, 2, 3)]])
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], ["a", None])
    assert hash_columns([runs]).tolist() == reference([[b"a", b"a", None]])


def test_a_number_has_one_hash_in_every_width() -> None:
    for types, value in [
        ((pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()), 7),
        ((pa.int8(), pa.int16(), pa.int32(), pa.int64()), -7),
        ((pa.float32(), pa.float64()), 0.5),
    ]:
        assert len({int(hash_columns([pa.array([value], type_)])[0]) for type_ in types}) == 1


def test_where_one_column_ends_makes_a_difference() -> None:
    left = hash_columns([pa.array(["ab"]), pa.array(["c"])])
    right = hash_columns([pa.array(["a"]), pa.array(["bc"])])
    assert left.tolist() != right.tolist()


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        pa.UnionArray.from_dense(
            pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])]
        ),
    ],
    ids=lambda array: str(array.type)[:6],
)
def test_nested_columns_cannot_be_keys(array: pa.Array) -> None:
    with pytest.raises(SchemaError) as raised:
        hash_columns([pa.array([1]), array], ["id", "tags"])
    assert str(raised.value) == f"column 'tags' cannot be a key: its type is {array.type}"
    with pytest.raises(SchemaError, match="column 1 cannot be a key"):
        hash_columns([array])


@given(
    keys=st.lists(st.none() | st.integers(0, 5), max_size=40),
    n_partitions=st.integers(1, 5),
    start=st.integers(0, 3),
)
def test_split_gives_each_row_to_its_owner_in_order(
    keys: list[int | None], n_partitions: int, start: int
) -> None:
    rows = pa.record_batch({"key": pa.array(keys, pa.int64()), "row": pa.array(range(len(keys)))})
    batch = rows.slice(start)
    parts = split(batch, ["key"], n_partitions)
    wanted: list[list[Any]] = [[] for _ in range(n_partitions)]
    for row, row_hash in zip(batch.to_pylist(), hash_columns([batch.column("key")]), strict=True):
        wanted[(int(row_hash) >> 32) * n_partitions >> 32].append(row)
    assert [part.to_pylist() for part in parts] == wanted
    assert all(part.schema == batch.schema for part in parts)


def test_split_copies_nothing_when_one_partition_owns_all_rows() -> None:
    batch = pa.record_batch({"key": [5, 5, 5], "value": [1.5, 2.5, 3.5]})
    parts = split(batch, ["key"], 4)
    (owner,) = [part for part in parts if part.num_rows > 0]
    assert owner.column(1).buffers()[1].address == batch.column(1).buffers()[1].address
    assert [part.num_rows for part in parts].count(0) == 3


def test_split_shares_one_copy_between_partitions() -> None:
    parts = split(pa.record_batch({"key": list(range(100))}), ["key"], 3)
    assert len({part.column(0).buffers()[1].address for part in parts}) == 1


def test_split_does_not_depend_on_how_rows_are_batched() -> None:
    table = pa.table({"key": [f"k{i % 7}" for i in range(50)], "row": range(50)})

    def dealt(batches: list[pa.RecordBatch]) -> list[list[int]]:
        dealt_batches = [split(batch, ["key"], 3) for batch in batches]
        return [
            [row for parts in dealt_batches for row in parts[p].column("row").to_pylist()]
            for p in range(3)
        ]

    assert dealt(table.to_batches(max_chunksize=4)) == dealt(table.to_batches())


def test_split_keeps_views() -> None:
    batch = pa.record_batch(
        {"key": pa.array(["a", "b", None, "c"] * 3, pa.string_view()), "row": range(12)}
    )
    parts = split(batch, ["key"], 2)
    assert all(part.schema == batch.schema for part in parts)
    rows = [row for part in parts for row in part.to_pylist()]
    assert sorted(rows, key=lambda row: row["row"]) == batch.to_pylist()


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.text(max_size=3))))),
    st.integers(1, 5),
    st.sampled_from([("k",), ("s",), ("s", "k"), ("d", "k")]),
)
@settings(max_examples=200)
def test_batches_are_split_together_as_they_are_one_by_one(rows_of_batches, n_partitions, keys):
    batches = [
        pa.record_batch(
            {
                "k": pa.array([key for key, _ in rows], pa.int64()),
                "s": pa.array([value for _, value in rows], pa.string()),
                "d": pa.array([value for _, value in rows], pa.string()).dictionary_encode(),
                "place": pa.array([(number, row) for row in range(len(rows))], PLACE),
            }
        )
        for number, rows in enumerate(rows_of_batches)
    ]
    if not batches:
        return
    together = split_together(batches, keys, n_partitions)
    one_by_one = [split(batch, keys, n_partitions) for batch in batches]
    assert [[part.to_pylist() for part in parts] for parts in together] == [
        [part.to_pylist() for part in parts] for parts in one_by_one
    ]
    for parts in together:
        assert len(parts) == n_partitions
        assert all(part.schema == batches[0].schema for part in parts)


PLACE = pa.struct({"batch": pa.int64(), "row": pa.int64()})


def test_batches_whose_dictionaries_do_not_fit_into_one_are_split_one_by_one():
    type_ = pa.dictionary(pa.int8(), pa.string())
    batches = [
        pa.record_batch({"d": pa.array([f"{first + value}" for value in range(100)], type_)})
        for first in (0, 100)
    ]
    with pytest.raises(pa.ArrowInvalid):
        pa.concat_batches(batches)
    together = split_together(batches, ["d"], 3)
    assert [[part.to_pylist() for part in parts] for parts in together] == [
        [part.to_pylist() for part in split(batch, ["d"], 3)] for batch in batches
    ]
