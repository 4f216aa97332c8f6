"""Data that fits a stream, data that can be made to, and the errors of the rest."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.conform import Conformer, conform
from millstream.errors import SchemaError, SourceError

SCHEMA = pa.schema([("symbol", pa.string()), ("price", pa.float64()), ("size", pa.int64())])
ROWS = [
    {"symbol": "A", "price": 1.5, "size": 10},
    {"symbol": "B", "price": None, "size": 20},
    {"symbol": None, "price": 2.5, "size": 30},
]


def rows_of(batches: list[pa.RecordBatch]) -> list[dict[str, Any]]:
    return [row for batch in batches for row in batch.to_pylist()]


def column_of(values: Any, type_: pa.DataType) -> pa.Array:
    (batch,) = conform(pa.record_batch({"x": values}), pa.schema([("x", type_)]), "s")
    assert batch.schema == pa.schema([("x", type_)])
    batch.validate(full=True)
    return batch.column(0)


def error_of(data: Any, schema: pa.Schema) -> str:
    with pytest.raises(SchemaError) as raised:
        conform(data, schema, "s")
    return str(raised.value)


class ArrowObject:
    """Something that only speaks the C interface."""

    def __init__(self, data: Any, method: str) -> None:
        setattr(self, method, getattr(data, method))


def test_a_batch_of_the_schema_comes_back_as_it_is() -> None:
    batch = pa.RecordBatch.from_pylist(ROWS, SCHEMA)
    (conformed,) = conform(batch, SCHEMA, "s")
    assert conformed is batch
    (conformed,) = conform(batch.replace_schema_metadata({"a": "b"}), SCHEMA, "s")
    assert conformed.column(0).buffers()[2].address == batch.column(0).buffers()[2].address


@pytest.mark.parametrize(
    "data",
    [
        pa.Table.from_pylist(ROWS, SCHEMA),
        pa.concat_tables([pa.Table.from_pylist([row], SCHEMA) for row in ROWS]),
        pa.Table.from_pylist(ROWS, SCHEMA).to_reader(),
        ArrowObject(pa.Table.from_pylist(ROWS, SCHEMA), "__arrow_c_stream__"),
        ArrowObject(pa.RecordBatch.from_pylist(ROWS, SCHEMA), "__arrow_c_array__"),
        [pa.RecordBatch.from_pylist([row], SCHEMA) for row in ROWS],
        ROWS,
        tuple(ROWS),
        pa.Table.from_pylist(ROWS, SCHEMA).to_pydict(),
        {"size": range(10, 40, 10), "price": (1.5, None, 2.5), "symbol": ["A", "B", None]},
        {
            "size": np.array([10, 20, 30], np.int32),
            "price": [1.5, None, 2.5],
            "symbol": pa.chunked_array([["A"], ["B", None]]),
        },
        pd.DataFrame(ROWS).convert_dtypes(dtype_backend="pyarrow"),
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_kind_of_data_gives_the_same_rows(data: Any) -> None:
    batches = conform(data, SCHEMA, "s")
    assert rows_of(batches) == ROWS
    assert all(batch.schema == SCHEMA for batch in batches)


def test_a_dict_of_values_is_one_row() -> None:
    assert rows_of(conform(ROWS[1], SCHEMA, "s")) == [ROWS[1]]
    schema = pa.schema([("id", pa.int64()), ("tags", pa.list_(pa.string()))])
    row = {"id": 1, "tags": ["a", "b"]}
    assert rows_of(conform(row, schema, "s")) == [row]


def test_no_rows_are_fine() -> None:
    assert conform([], SCHEMA, "s") == []
    assert rows_of(conform(SCHEMA.empty_table(), SCHEMA, "s")) == []
    assert rows_of(conform({"symbol": [], "price": [], "size": []}, SCHEMA, "s")) == []


def test_columns_are_put_in_order_by_name() -> None:
    batch = pa.RecordBatch.from_pylist(ROWS, SCHEMA).select(["size", "symbol", "price"])
    (conformed,) = conform(batch, SCHEMA, "s")
    assert conformed.schema == SCHEMA
    assert conformed.to_pylist() == ROWS


TS = pa.timestamp("us")
FITTING = [
    (pa.array([1, None], pa.int32()), pa.int64(), [1, None]),
    (pa.array([300, -5], pa.int64()), pa.int16(), [300, -5]),
    (pa.array([7], pa.uint64()), pa.int8(), [7]),
    (pa.array([0.5, None], pa.float32()), pa.float64(), [0.5, None]),
    (pa.array([3, 2**53]), pa.float64(), [3.0, 2.0**53]),
    (pa.array([3], pa.int8()), pa.decimal128(5, 2), [Decimal("3.00")]),
    (pa.array([2**40]), pa.decimal128(15, 1), [Decimal(2**40)]),
    (pa.array([Decimal("1.50")]), pa.decimal128(4, 1), [Decimal("1.5")]),
    (pa.array(["a", None], pa.large_string()), pa.string(), ["a", None]),
    (pa.array(["a", None], pa.string_view()), pa.string(), ["a", None]),
    (pa.array(["a", None]), pa.string_view(), ["a", None]),
    (pa.array([b"a"], pa.binary_view()), pa.large_binary(), [b"a"]),
    (pa.array([b"ab", None]), pa.binary(2), [b"ab", None]),
    (pa.array([b"ab"], pa.binary(2)), pa.binary(), [b"ab"]),
    (pa.array(["a", None, "a"]).dictionary_encode(), pa.string(), ["a", None, "a"]),
    (pa.array(["a", None, "a"]), pa.dictionary(pa.int8(), pa.string()), ["a", None, "a"]),
    (pa.array(["a"], pa.string_view()), pa.dictionary(pa.int32(), pa.string()), ["a"]),
    (
        pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["a"], pa.string_view())),
        pa.dictionary(pa.int32(), pa.large_string()),
        ["a"],
    ),
    (pa.array([1, None]), pa.dictionary(pa.int32(), pa.int32()), [1, None]),
    (pa.RunEndEncodedArray.from_arrays([2], ["a"]), pa.string(), ["a", "a"]),
    (pa.array([5_000], pa.timestamp("ms")), TS, [dt.datetime(1970, 1, 1, 0, 0, 5)]),
    (pa.array([5_000], pa.timestamp("ns")), TS, [dt.datetime(1970, 1, 1, 0, 0, 0, 5)]),
    (
        pa.array([0], pa.timestamp("s", "Europe/Berlin")),
        pa.timestamp("ms", "UTC"),
        [dt.datetime(1970, 1, 1, tzinfo=dt.UTC)],
    ),
    (pa.array([86_400_000], pa.date64()), pa.date32(), [dt.date(1970, 1, 2)]),
    (pa.array([5], pa.time32("s")), pa.time64("us"), [dt.time(0, 0, 5)]),
    (pa.array([5], pa.duration("s")), pa.duration("ms"), [dt.timedelta(seconds=5)]),
    (pa.nulls(2), pa.float64(), [None, None]),
    (pa.nulls(1), pa.dictionary(pa.int32(), pa.string()), [None]),
    (pa.array([["a"], []], pa.large_list(pa.string_view())), pa.list_(pa.string()), [["a"], []]),
    (pa.array([[], None], pa.list_(pa.null())), pa.list_(pa.int64()), [[], None]),
    (pa.array([{"a": 1}]), pa.struct([("a", pa.int8())]), [{"a": 1}]),
    (
        pa.array([[("a", 1)]], pa.map_(pa.large_string(), pa.int32())),
        pa.map_(pa.string(), pa.int64()),
        [[("a", 1)]],
    ),
]


@pytest.mark.parametrize(("given_array", "type_", "values"), FITTING, ids=str)
def test_values_keep_while_types_change(
    given_array: pa.Array, type_: pa.DataType, values: list[Any]
) -> None:
    assert column_of(given_array, type_).to_pylist() == values


REFUSED_TYPES = [
    (pa.array(["1"]), pa.int64()),
    (pa.array([1]), pa.string()),
    (pa.array([1.0]), pa.int64()),
    (pa.array([1.5]), pa.float32()),
    (pa.array([True]), pa.int64()),
    (pa.array([1]), pa.bool_()),
    (pa.array([1]), TS),
    (pa.array(["2024-01-01"]), TS),
    (pa.array([dt.date(2024, 1, 1)]), TS),
    (pa.array([0], TS), pa.timestamp("us", "UTC")),
    (pa.array([0], pa.timestamp("us", "UTC")), TS),
    (pa.array([b"a"]), pa.string()),
    (pa.array(["a"]), pa.binary()),
    (pa.array([["1"]]), pa.list_(pa.int64())),
    (pa.array([{"a": 1}]), pa.struct([("b", pa.int64())])),
    (pa.array([{"a": 1}]), pa.struct([("a", pa.string())])),
    (pa.array([[1]]), pa.int64()),
]


@pytest.mark.parametrize(("given_array", "type_"), REFUSED_TYPES, ids=str)
def test_types_that_need_a_guess_are_refused(given_array: pa.Array, type_: pa.DataType) -> None:
    message = error_of(pa.table({"x": given_array}), pa.schema([("x", type_)]))
    assert message == f"stream 's', column 'x': expected {type_}, got {given_array.type}"


REFUSED_VALUES = [
    ([1, 2**31, 2**40], pa.int64(), pa.int32(), 1, 2**31),
    ([1, -1], pa.int64(), pa.uint8(), 1, -1),
    ([0, 2**63], pa.uint64(), pa.int64(), 1, 2**63),
    ([0, 2**53 + 1], pa.int64(), pa.float64(), 1, 2**53 + 1),
    (
        [0, 1000, 1001],
        pa.timestamp("us"),
        pa.timestamp("ms"),
        2,
        dt.datetime(1970, 1, 1, 0, 0, 0, 1001),
    ),
    ([1, 100], pa.int64(), pa.decimal128(2, 1), 1, 100),
    (
        [Decimal("1.50"), Decimal("1.55")],
        pa.decimal128(3, 2),
        pa.decimal128(3, 1),
        1,
        Decimal("1.55"),
    ),
    (
        [{"a": 1}, {"a": 300}],
        pa.struct([("a", pa.int64())]),
        pa.struct([("a", pa.int8())]),
        1,
        {"a": 300},
    ),
]


@pytest.mark.parametrize(("values", "given_type", "type_", "row", "value"), REFUSED_VALUES, ids=str)
def test_the_first_value_that_does_not_fit_is_named(
    values: list[Any], given_type: pa.DataType, type_: pa.DataType, row: int, value: Any
) -> None:
    batch = pa.record_batch({"x": pa.array(values, given_type)})
    wanted = (
        f"stream 's', column 'x': expected {type_}, got {given_type}:"
        f" {value!r} in row {row} does not fit"
    )
    assert error_of(batch, pa.schema([("x", type_)])) == wanted


FAR = pa.array([0, 10**12], pa.timestamp("s"))
LONG = pa.array([0, 2**62], pa.duration("s"))


@pytest.mark.parametrize(
    ("column", "type_", "shown"),
    [
        (FAR, pa.timestamp("ns"), "10{12}"),
        (FAR.cast(pa.timestamp("s", "UTC")), pa.timestamp("ns", "UTC"), "10{12}"),
        (LONG, pa.duration("ns"), str(2**62)),
        (pa.array([0, 2**62]).view(pa.date64()), pa.date32(), str(2**62)),
        (FAR.dictionary_encode(), pa.timestamp("ns"), "10{12}"),
        (
            pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), FAR),
            pa.list_(pa.timestamp("ns")),
            r"\[ \[ .*10{12}.* \] \]",
        ),
        (
            pa.StructArray.from_arrays([LONG], ["d"]),
            pa.struct([("d", pa.duration("ns"))]),
            f".*{2**62}.*",
        ),
    ],
    ids=str,
)
def test_values_that_python_cannot_hold_are_named_as_well(
    column: pa.Array, type_: pa.DataType, shown: str
) -> None:
    message = error_of(pa.record_batch({"x": column}), pa.schema([("x", type_)]))
    given_type = re.escape(str(column.type))
    assert re.search(rf"got {given_type}: {shown} in row 1 does not fit$", message)
    assert "\n" not in message


def test_lists_around_a_slice_do_not_matter() -> None:
    lists = pa.array([[300], [1, None], None, [2], [3, 400]], pa.list_(pa.int64()))
    schema = pa.schema([("x", pa.list_(pa.int8()))])
    batch = pa.record_batch({"x": lists})
    assert rows_of(conform(batch[1:4], schema, "s")) == batch[1:4].to_pylist()
    message = error_of(batch[1:], schema)
    assert message.endswith("got list<item: int64>: [3, 400] in row 3 does not fit")


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200), max_size=30))
def test_integers_narrow_exactly_where_all_fit(values: list[int]) -> None:
    batch = pa.record_batch({"x": pa.array(values, pa.int64())})
    schema = pa.schema([("x", pa.int8())])
    bad = [row for row, value in enumerate(values) if not -128 <= value <= 127]
    if bad:
        assert f"got int64: {values[bad[0]]} in row {bad[0]} does not fit" in error_of(
            batch, schema
        )
    else:
        assert rows_of(conform(batch, schema, "s")) == [{"x": value} for value in values]


def test_a_dictionary_with_more_entries_than_its_index_holds_is_refused() -> None:
    batch = pa.record_batch({"x": [f"k{i}" for i in range(200)]})
    message = error_of(batch, pa.schema([("x", pa.dictionary(pa.int8(), pa.string()))]))
    assert message.endswith("got string: 'k128' in row 128 does not fit")


def test_rows_are_counted_over_all_batches() -> None:
    table = pa.table({"x": pa.chunked_array([[1, 2], [3], [4, 2**40]])})
    message = error_of(table, pa.schema([("x", pa.int32())]))
    assert message.endswith(f"{2**40} in row 4 does not fit")


REQUIRED = pa.schema([pa.field("x", pa.int64(), nullable=False)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pa.record_batch([pa.array([1, None])], schema=REQUIRED), "got int64: NULL in row 1"),
        (pa.table({"x": pa.array([1, None], pa.int32())}), "got int64: NULL in row 1"),
        (pa.table({"x": pa.chunked_array([[1], [2, None]])}), "got int64: NULL in row 2"),
        ({"x": None}, "got int64: NULL in row 0"),
        ([{"x": 1}, {"x": None}], "got int64: NULL in row 1"),
    ],
)
def test_null_in_a_required_column_is_refused(data: Any, message: str) -> None:
    assert error_of(data, REQUIRED) == f"stream 's', column 'x': expected int64 not null, {message}"


def test_null_in_a_dictionary_is_null() -> None:
    type_ = pa.dictionary(pa.int64(), pa.string())
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None]))
    schema = pa.schema([pa.field("x", type_, nullable=False)])
    message = error_of(pa.record_batch([array], schema=schema), schema)
    assert message.endswith("NULL in row 1")


def test_a_required_column_takes_nullable_data_without_nulls() -> None:
    batch = pa.record_batch({"x": [1, 2]})
    (conformed,) = conform(batch, REQUIRED, "s")
    assert conformed.schema == REQUIRED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            pa.table({"symbol": ["A"], "prize": [1.5], "size": [1]}),
            "stream 's' has no column 'prize' (double); did you mean 'price' (double)?",
        ),
        (
            [ROWS[0], {**ROWS[0], "zzz": 1}],
            "stream 's' has no column 'zzz' (int) in row 1;"
            " its columns are 'symbol' (string), 'price' (double), 'size' (int64)",
        ),
        (
            {**ROWS[0], 7: 1},
            "stream 's' has no column 7 (int) in row 0;"
            " its columns are 'symbol' (string), 'price' (double), 'size' (int64)",
        ),
        (
            pa.table({"symbol": ["A"], "size": [1]}),
            "stream 's', column 'price': expected double, got no such column",
        ),
        (
            [ROWS[0], {"symbol": "A", "size": 1}],
            "stream 's', column 'price': expected double, got no such column in row 1",
        ),
        ({}, "stream 's', column 'symbol': expected string, got no such column"),
        (
            pa.table([["A"], ["B"], [1.5], [1]], ["symbol", "symbol", "price", "size"]),
            "stream 's': column 'symbol' is given twice",
        ),
        (
            {"symbol": ["A"], "price": [1.5, 2.5], "size": [1]},
            "stream 's': columns must have one length: symbol 1, price 2, size 1",
        ),
        ([ROWS[0], 5], "stream 's': rows must be dicts: int in row 1"),
        (
            [pa.RecordBatch.from_pylist(ROWS, SCHEMA), ROWS[0]],
            "stream 's': rows must be dicts: RecordBatch in row 0",
        ),
        (5, "stream 's' takes Arrow data, a dict or a list of dicts: int"),
        ("path", "stream 's' takes Arrow data, a dict or a list of dicts: str"),
    ],
)
def test_what_does_not_match_by_name_is_refused(data: Any, message: str) -> None:
    assert error_of(data, SCHEMA) == message


def test_arrow_data_without_columns_is_refused() -> None:
    assert "takes Arrow data with columns: Int64Array" in error_of(pa.array([1]), SCHEMA)


@pytest.mark.parametrize(
    ("value", "type_", "wanted"),
    [
        (0.1, pa.float32(), float(np.float32(0.1))),
        (2**63, pa.uint64(), 2**63),
        (7, pa.int8(), 7),
        (3, pa.float64(), 3.0),
        (3, pa.decimal128(5, 2), Decimal("3.00")),
        (Decimal("1.5"), pa.decimal128(5, 2), Decimal("1.50")),
        (dt.datetime(2024, 1, 1), pa.timestamp("ms"), dt.datetime(2024, 1, 1)),
        (dt.date(2024, 1, 1), pa.date64(), dt.date(2024, 1, 1)),
        (b"a", pa.binary(), b"a"),
        ("a", pa.dictionary(pa.int32(), pa.string()), "a"),
        (True, pa.bool_(), True),
        (np.int16(3), pa.int64(), 3),
    ],
)
def test_python_values_become_the_type_of_the_column(
    value: Any, type_: pa.DataType, wanted: Any
) -> None:
    for data in ({"x": value}, {"x": [value]}, [{"x": value}]):
        assert rows_of(conform(data, pa.schema([("x", type_)]), "s")) == [{"x": wanted}]


@pytest.mark.parametrize(
    ("values", "type_", "got"),
    [
        ([1, "a"], pa.int64(), "str: 'a' in row 1 does not fit"),
        ([1, None, 2**64], pa.int64(), f"int: {2**64} in row 2 does not fit"),
        ([1, -1], pa.uint64(), "int: -1 in row 1 does not fit"),
        ([1, 200], pa.int8(), "int64: 200 in row 1 does not fit"),
        ([1, 1.5], pa.int64(), "double"),
        (["1"], pa.int64(), "string"),
        ([1], pa.string(), "int64"),
        (["\ud800"], pa.string(), "str: '\\ud800' in row 0 does not fit"),
        (
            [dt.datetime(2024, 1, 1, 0, 0, 0, 1)],
            pa.timestamp("ms"),
            "timestamp[us]: datetime.datetime(2024, 1, 1, 0, 0, 0, 1) in row 0 does not fit",
        ),
        ([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)], TS, "timestamp[us, tz=UTC]"),
        ([dt.datetime(2024, 1, 1, 5)], pa.date32(), "timestamp[us]"),
    ],
)
def test_python_values_that_do_not_fit_are_named(
    values: list[Any], type_: pa.DataType, got: str
) -> None:
    wanted = f"stream 's', column 'x': expected {type_}, got {got}"
    assert error_of([{"x": value} for value in values], pa.schema([("x", type_)])) == wanted
    assert error_of({"x": values}, pa.schema([("x", type_)])) == wanted


def test_arrays_that_are_no_columns_are_refused() -> None:
    message = error_of({"x": np.zeros((2, 2))}, pa.schema([("x", pa.float64())]))
    assert "expected double, got ndarray, which Arrow cannot read" in message


def test_a_source_that_fails_while_it_is_read_is_a_source_error() -> None:
    def batches() -> Any:
        yield pa.record_batch({"x": [1]})
        raise OSError("disk gone")

    reader = pa.RecordBatchReader.from_batches(pa.schema([("x", pa.int64())]), batches())
    with pytest.raises(SourceError, match=r"rows for stream 's' could not be read.*disk gone"):
        conform(reader, pa.schema([("x", pa.int64())]), "s")


def test_one_conformer_serves_many_batches() -> None:
    conformer = Conformer(SCHEMA, "s")
    assert rows_of(conformer.conform(ROWS[0]) + conformer.conform(ROWS[1:])) == ROWS


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (pa.timestamp("ns"), pd.Timestamp(1)),
        (pa.timestamp("ns", "UTC"), pd.Timestamp(1_000_001, tz="UTC")),
        (pa.duration("ns"), pd.Timedelta(1)),
    ],
)
def test_nanoseconds_of_pandas_are_kept_or_refused(type_: pa.DataType, value: object) -> None:
    schema = pa.schema({"k": type_})
    for data in ({"k": [None, value]}, [{"k": None}, {"k": value}]):
        (batch,) = conform(data, schema, "t")
        assert batch.column(0).cast(pa.int64()).to_pylist() == [None, value.value]
        coarse = pa.schema(
            {
                "k": pa.timestamp("us", type_.tz)
                if pa.types.is_timestamp(type_)
                else pa.duration("us")
            }
        )
        with pytest.raises(SchemaError, match="in row 1"):
            conform(data, coarse, "t")
