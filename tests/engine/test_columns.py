"""Arrow arrays as NumPy arrays and back."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.columns import (
    array_from_buffers,
    event_times,
    first_null,
    fixed_values,
    has_views,
    offsets_and_data,
    plain,
    validity,
)
from millstream.errors import InternalError, SchemaError

STORAGE_TYPES = [
    (pa.int8(), pa.int8()),
    (pa.int16(), pa.int16()),
    (pa.int32(), pa.int32()),
    (pa.int64(), pa.int64()),
    (pa.uint8(), pa.uint8()),
    (pa.uint16(), pa.uint16()),
    (pa.uint32(), pa.uint32()),
    (pa.uint64(), pa.uint64()),
    (pa.float32(), pa.float32()),
    (pa.float64(), pa.float64()),
    (pa.date32(), pa.int32()),
    (pa.date64(), pa.int64()),
    (pa.time32("s"), pa.int32()),
    (pa.time64("us"), pa.int64()),
    (pa.timestamp("ns", "UTC"), pa.int64()),
    (pa.duration("ms"), pa.int64()),
]


@pytest.mark.parametrize(("type_", "storage"), STORAGE_TYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1, 3, 5])
def test_fixed_values_are_a_read_only_view_of_the_storage(
    type_: pa.DataType, storage: pa.DataType, offset: int
) -> None:
    array = pa.array([0, 1, 2, 3, 100], storage).view(type_)[offset:]
    values = fixed_values(array)
    assert values.tolist() == [0, 1, 2, 3, 100][offset:]
    assert values.dtype == storage.to_pandas_dtype()
    assert not values.flags.writeable
    assert len(values) == 0 or np.shares_memory(values, np.frombuffer(array.buffers()[1], np.uint8))


@given(values=st.lists(st.booleans()), offset=st.integers(0, 20))
def test_booleans_expand_to_bytes(values: list[bool], offset: int) -> None:
    array = pa.array(values, pa.bool_())[offset:]
    assert fixed_values(array).tolist() == [int(value) for value in values[offset:]]


def test_decimals_are_pairs_of_words_low_word_first() -> None:
    array = pa.array([None, Decimal(2**64 + 5), Decimal(-1)], pa.decimal128(38, 0))[1:]
    assert fixed_values(array).tolist() == [[5, 1], [-1, -1]]


def test_values_that_are_not_of_fixed_width_are_refused() -> None:
    with pytest.raises(InternalError, match="fixed width: string"):
        fixed_values(pa.array(["a"]))
    with pytest.raises(InternalError, match="text or binary: int64"):
        offsets_and_data(pa.array([1]))


@given(values=st.lists(st.none() | st.integers(-5, 5)), offset=st.integers(0, 20))
def test_validity_is_the_bitmap_and_where_it_starts(values: list[int | None], offset: int) -> None:
    array = pa.array(values, pa.int64())[offset:]
    bitmap, bit_offset = validity(array)
    wanted = [int(value is not None) for value in values[offset:]]
    if bitmap is None:
        assert 0 not in wanted
    else:
        bits = np.unpackbits(bitmap, bitorder="little")
        assert bits[bit_offset : bit_offset + len(array)].tolist() == wanted
        assert not bitmap.flags.writeable


def test_all_rows_of_the_null_type_are_null() -> None:
    bitmap, bit_offset = validity(pa.nulls(9))
    assert bitmap is not None
    assert (bitmap.tolist(), bit_offset) == ([0, 0], 0)


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
]


@pytest.mark.parametrize("type_", TEXT_TYPES, ids=str)
@given(values=st.lists(st.none() | st.text(max_size=20)), offset=st.integers(0, 9))
def test_text_is_offsets_into_bytes(
    type_: pa.DataType, values: list[str | None], offset: int
) -> None:
    offsets, data = offsets_and_data(pa.array(values, type_)[offset:])
    spans = [bytes(data[a:b]) for a, b in pairwise(offsets)]
    assert spans == [(value or "").encode() for value in values[offset:]]


def test_bytes_of_fixed_width_have_offsets_too() -> None:
    array = pa.array([b"ab", b"cd", b"ef"], pa.binary(2))[1:]
    offsets, data = offsets_and_data(array)
    assert offsets.tolist() == [2, 4, 6]
    assert bytes(data) == b"abcdef"


@pytest.mark.parametrize("value_type", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_dictionaries_are_decoded(value_type: pa.DataType) -> None:
    dictionary = pa.array(["x", None, "z"], value_type)
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2]), dictionary)
    assert plain(array).to_pylist() == ["x", None, None, "z"]
    assert not pa.types.is_dictionary(plain(array).type)


def test_run_ends_and_extensions_are_decoded() -> None:
    runs = pa.RunEndEncodedArray.from_arrays([2, 3], ["a", None])
    assert plain(runs).to_pylist() == ["a", "a", None]
    storage = pa.array([b"0123456789abcdef"], pa.binary(16))
    assert plain(pa.ExtensionArray.from_storage(pa.uuid(), storage)).type == pa.binary(16)


TEXT_VIEW, BYTES_VIEW = pa.string_view(), pa.binary_view()
NESTED_VIEWS = [
    pa.array(["a", None, "b"], TEXT_VIEW),
    pa.array([["a", None], None, ["b"]], pa.list_(pa.field("x", TEXT_VIEW))),
    pa.array([["a"], [], ["b"]], pa.list_(pa.field("x", TEXT_VIEW, nullable=False))),
    pa.array([["a", None], None, ["b"]], pa.large_list(TEXT_VIEW)),
    pa.array([["a", None], None, ["b", "c"]], pa.list_(TEXT_VIEW, 2)),
    pa.array([{"t": "a", "n": 1}, None], pa.struct([("t", TEXT_VIEW), ("n", pa.int64())])),
    pa.array([[("k", b"v")], None, []], pa.map_(TEXT_VIEW, BYTES_VIEW)),
    pa.array([[{"t": ["a"]}], None, [None]], pa.list_(pa.struct([("t", pa.list_(TEXT_VIEW))]))),
]


@pytest.mark.parametrize("array", NESTED_VIEWS, ids=lambda array: str(array.type))
def test_views_are_undone_at_any_depth(array: pa.Array) -> None:
    assert has_views(array.type)
    for values in (array, array[1:], array[:0]):
        undone = plain(values)
        assert not has_views(undone.type)
        assert "view" not in str(undone.type)
        assert undone.to_pylist() == values.to_pylist()
        assert undone.take(pa.array(range(len(values)), pa.int64())).cast(array.type).equals(values)


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.string()),
        pa.struct([("a", pa.map_(pa.string(), pa.list_(pa.int64(), 2)))]),
        pa.dictionary(pa.int32(), pa.string()),
        pa.list_view(pa.string_view()),
    ],
    ids=str,
)
def test_nested_values_without_views_in_them_stay_as_they_are(type_: pa.DataType) -> None:
    array = pa.nulls(2, type_)
    assert not has_views(type_)
    assert plain(array) is array or pa.types.is_dictionary(type_)


@pytest.mark.parametrize(
    ("array", "row"),
    [
        (pa.array([1, 2]), None),
        (pa.array([1, None, None]), 1),
        (pa.array([None, 1, None])[1:], 1),
        (pa.nulls(2), 0),
        (pa.array([], pa.int64()), None),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None])), 1),
        (pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["a", None])), None),
    ],
)
def test_first_null_sees_into_dictionaries(array: pa.Array, row: int | None) -> None:
    assert first_null(array) == row


@pytest.mark.parametrize(
    ("array", "times"),
    [
        (pa.array([dt.datetime(1969, 12, 31, 23, 59, 59)], pa.timestamp("ms")), [-1000]),
        (pa.array([7], pa.timestamp("s", "Europe/Berlin")), [7]),
        (pa.array([dt.date(1970, 1, 3)], pa.date32()), [2]),
        (pa.array([dt.date(1970, 1, 3)], pa.date64()), [2 * 86_400_000]),
        (pa.array([-3, 4], pa.int8()), [-3, 4]),
        (pa.array([2**63 - 1], pa.uint64()), [2**63 - 1]),
        (pa.array([], pa.timestamp("us")), []),
        (pa.array([None, 2, 3], pa.int64())[1:], [2, 3]),
    ],
)
def test_event_times_are_int64_in_the_unit_of_the_type(array: pa.Array, times: list[int]) -> None:
    values = event_times(array)
    assert values.dtype == np.int64
    assert values.tolist() == times


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (pa.array([1, None, 2]), "must not be NULL: row 1"),
        (pa.array([None, 1, None], pa.timestamp("us"))[1:], "must not be NULL: row 1"),
        (pa.array([1.5]), "timestamp, a date or an integer: double"),
        (pa.array([5], pa.time64("us")), r"an integer: time64\[us\]"),
        (pa.array([1, 2**63], pa.uint64()), r"below 2\*\*63: 9223372036854775808 in row 1"),
    ],
)
def test_event_times_refuse_what_has_no_place_in_time(array: pa.Array, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        event_times(array)


@pytest.mark.parametrize(("type_", "storage"), STORAGE_TYPES, ids=str)
def test_array_from_buffers_shares_memory(type_: pa.DataType, storage: pa.DataType) -> None:
    values = np.array([1, 2, 3], storage.to_pandas_dtype())
    array = array_from_buffers(values, type_, None)
    assert array.type == type_
    assert array.null_count == 0
    values[1] = 100
    assert array.view(storage).to_pylist() == [1, 100, 3]


@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(0, 1))),
    type_=st.sampled_from([pa.bool_(), pa.uint8()]),
)
def test_array_from_buffers_takes_validity_as_bytes(
    rows: list[tuple[int, int]], type_: pa.DataType
) -> None:
    values = np.array([value for value, _ in rows], np.uint8)
    seen = np.array([flag for _, flag in rows], np.uint8)
    array = array_from_buffers(values, type_, seen)
    array.validate(full=True)
    assert array.to_pylist() == [value if flag else None for value, flag in rows]
    assert array.null_count == seen.tolist().count(0)


def test_array_from_buffers_wraps_pairs_as_decimals() -> None:
    values = np.array([[5, 1], [-1, -1]], np.int64)
    array = array_from_buffers(values, pa.decimal128(38, 2), None)
    assert array.to_pylist() == [Decimal("184467440737095516.21"), Decimal("-0.01")]


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (np.arange(3, dtype=np.int32), pa.int64()),
        (np.arange(6, dtype=np.int64)[::2], pa.int64()),
        (np.arange(3, dtype=np.int64), pa.decimal128(38, 0)),
    ],
)
def test_array_from_buffers_refuses_another_layout(
    values: npt.NDArray[Any], type_: pa.DataType
) -> None:
    with pytest.raises(InternalError, match="contiguous and as wide as"):
        array_from_buffers(values, type_, None)
