"""The key table against a dictionary of Python tuples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.engine.state import key_table
from millstream.engine.state.direct_index import DirectIndex
from millstream.engine.state.key_table import KeyTable
from millstream.errors import SchemaError

int64s = st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1])
floats = st.sampled_from([0.0, -0.0, 1.5, math.nan, -math.nan, math.inf])
texts = st.sampled_from(["", "a", "ab", "b", "a longer text, of more than one word", "ä"])
months = st.integers(0, 1).map(lambda n: pa.MonthDayNano([n, 2, 3]))

TYPES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int8(), st.integers(-2, 2)),
    (pa.int64(), int64s),
    (pa.uint16(), st.sampled_from([0, 1, 2**16 - 1])),
    (pa.uint64(), st.sampled_from([0, 1, 2**63, 2**64 - 1])),
    (pa.bool_(), st.booleans()),
    (pa.float16(), floats.map(np.float16)),
    (pa.float32(), floats),
    (pa.float64(), floats),
    (pa.date32(), st.integers(-1, 1)),
    (pa.date64(), st.integers(-1, 1).map(lambda day: day * 86_400_000)),
    (pa.time32("s"), st.integers(0, 2)),
    (pa.timestamp("us", "Europe/Rome"), st.integers(-1, 1)),
    (pa.duration("ns"), int64s),
    (pa.month_day_nano_interval(), months),
    (pa.decimal32(5, 2), st.integers(-2, 2).map(Decimal)),
    (pa.decimal64(15, 2), st.integers(-2, 2).map(Decimal)),
    (pa.decimal128(38, 0), st.sampled_from([Decimal(10**37), Decimal(-1), Decimal(2**64)])),
    (pa.decimal256(60, 0), st.sampled_from([Decimal(10**50), Decimal(-1)])),
    (pa.string(), texts),
    (pa.large_string(), texts),
    (pa.string_view(), texts),
    (pa.binary(), texts.map(str.encode)),
    (pa.binary_view(), texts.map(str.encode)),
    (pa.binary(2), st.sampled_from([b"ab", b"ba"])),
    (pa.dictionary(pa.int8(), pa.string()), texts),
    (pa.dictionary(pa.int32(), pa.int64()), int64s),
    (pa.null(), st.none()),
]


def value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def canonical(value: Any) -> Any:
    """Make values that group together equal, and no others."""
    if isinstance(value, float | np.floating):
        return "NaN" if math.isnan(value) else float(value) + 0.0
    return value


def rows_of(arrays: Sequence[pa.Array]) -> list[tuple[Any, ...]]:
    columns = [[canonical(value) for value in array.to_pylist()] for array in arrays]
    return list(zip(*columns, strict=True))


def sliced(array: pa.Array) -> pa.Array:
    """The same values as a slice from within a larger array, which begins with a NULL."""
    head = pa.nulls(3, array.type)
    return pa.concat_arrays([head, array])[3:]


Batch = tuple[list[pa.Array], npt.NDArray[np.int64]]


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[pa.DataType], list[Batch]]:
    chosen = draw(st.lists(st.sampled_from(TYPES), min_size=0, max_size=3))
    batches = []
    for _ in range(draw(st.integers(1, 3))):
        n_rows = draw(st.integers(0, 12))
        arrays = []
        for type_, values in chosen:
            # Whole batches without NULLs, so that the first NULL comes late.
            maybe = draw(st.sampled_from([values, st.none() | values]))
            drawn = draw(st.lists(maybe, min_size=n_rows, max_size=n_rows))
            array = pa.array(drawn, type_)
            arrays.append(sliced(array) if draw(st.booleans()) else array)
        prefix = draw(st.lists(st.integers(-1, 1), min_size=n_rows, max_size=n_rows))
        batches.append((arrays, np.array(prefix, np.int64)))
    return [type_ for type_, _ in chosen], batches


class Reference:
    """What the table promises, by a dictionary."""

    def __init__(self) -> None:
        self.keys: list[tuple[Any, ...]] = []

    def assign(self, rows: Sequence[tuple[Any, ...]]) -> list[int]:
        known = {key: number for number, key in enumerate(self.keys)}
        ids = [known.setdefault(row, len(known)) for row in rows]
        self.keys = list(known)
        return ids


def keys_of(table: KeyTable, group_ids: Any) -> list[tuple[Any, ...]]:
    arrays = table.columns(group_ids)
    for array in arrays:
        array.validate(full=True)
    return rows_of([pa.array(table.prefix_words(0)[group_ids]), *arrays])


@settings(max_examples=300)
@given(tables(), st.data())
def test_keys_get_dense_ids_and_come_back(
    drawn: tuple[list[pa.DataType], list[Batch]], data: st.DataObject
) -> None:
    types, batches = drawn
    table, reference = KeyTable(types, 1), Reference()
    for arrays, prefix in batches:
        expected = reference.assign(rows_of([pa.array(prefix), *arrays]))
        assert table.assign(arrays, [prefix]).tolist() == expected
        assert table.n_groups == len(reference.keys)
        assert keys_of(table, slice(0, table.n_groups)) == reference.keys
        assert [array.type for array in table.columns(slice(0, 1))] == list(map(value_type, types))
        ids = data.draw(st.permutations(range(table.n_groups)))
        kept = np.array(ids[: data.draw(st.integers(0, len(ids)))], np.uint32)
        assert keys_of(table, kept) == [reference.keys[group_id] for group_id in kept]
        if data.draw(st.booleans()):
            table.retain(kept)
            reference.keys = [reference.keys[group_id] for group_id in kept]


@pytest.mark.parametrize("type_", [pa.int64(), pa.string()])
def test_a_table_grows_and_shrinks_with_its_groups(type_: pa.DataType) -> None:
    table = KeyTable([type_])
    bytes_before = table.state_bytes
    keys = pa.array(np.arange(20_000) * 7).cast(type_)
    assert table.assign([keys]).tolist() == list(range(20_000))
    bytes_full = table.state_bytes
    assert table.capacity >= 20_000
    last = np.arange(19_990, 20_000, dtype=np.uint32)
    table.retain(last)
    assert table.columns(slice(0, 10))[0].equals(keys[19_990:])
    assert table.assign([keys[19_985:]]).tolist() == [*range(10, 15), *range(10)]
    # There is room for as many groups as before, until fewer have come.
    assert table.capacity >= 20_000
    table.retain(np.arange(10, dtype=np.uint32))
    assert table.columns(slice(0, 10))[0].equals(keys[19_990:])
    assert table.capacity == KeyTable([type_]).capacity
    assert table.state_bytes < bytes_full / 20
    table.retain(np.zeros(0, np.uint32))
    assert table.n_groups == 0
    assert table.state_bytes == bytes_before


def test_text_that_no_group_has_any_more_is_freed_in_the_end() -> None:
    table = KeyTable([pa.string()])
    bytes_max = 0
    for batch in range(200):
        keys = pa.array([f"key {batch} {row}" for row in range(100)])
        group_ids = table.assign([keys])
        table.retain(group_ids)
        assert table.columns(slice(0, 100))[0].equals(keys)
        bytes_max = max(bytes_max, table.state_bytes)
    assert bytes_max < 100 * 1000


@pytest.mark.parametrize("change", ["assign", "retain"])
def test_arrays_given_out_do_not_change(change: str) -> None:
    table = KeyTable([pa.int64()])
    table.assign([pa.array([5, 6, 7])])
    given_out = table.columns(slice(0, 3))[0]
    if change == "assign":
        table.assign([pa.array([None, *range(1000)])])
    else:
        table.retain(np.array([2], np.uint32))
        table.assign([pa.array([1, 2, 3])])
    assert given_out.to_pylist() == [5, 6, 7]


def address_of(array: pa.Array) -> int:
    address: int = array.buffers()[1].address + array.offset * 8
    return address


def test_a_slice_of_64_bit_keys_is_not_copied() -> None:
    table = KeyTable([pa.int64(), pa.timestamp("ns")])
    table.assign([pa.array([1, 2, 3]), pa.array([7, 8, 9], pa.timestamp("ns"))])
    for whole, part in zip(table.columns(slice(0, 3)), table.columns(slice(1, 3)), strict=True):
        assert address_of(part) == address_of(whole) + 8


def test_more_key_columns_than_a_word_has_bits() -> None:
    table = KeyTable([pa.int64()] * 70)
    row: list[int | None] = [0] * 70
    rows = [row, *([*row[:index], None, *row[index + 1 :]] for index in (0, 63, 64, 69))]
    columns = [pa.array(column, pa.int64()) for column in zip(*rows, strict=True)]
    assert table.assign(columns).tolist() == [0, 1, 2, 3, 4]
    assert [array.to_pylist() for array in table.columns(slice(0, 5))] == [
        list(column) for column in zip(*rows, strict=True)
    ]


def test_text_may_come_in_any_encoding() -> None:
    table = KeyTable([pa.string()])
    encodings: list[Callable[[pa.Array], pa.Array]] = [
        lambda array: array,
        lambda array: array.cast(pa.large_string()),
        lambda array: array.cast(pa.string_view()),
        lambda array: array.dictionary_encode(),
        lambda array: array[:1].dictionary_encode(),
    ]
    array = pa.array(["x", None, "x", "y", "x"])
    for encode in encodings:
        encoded = encode(array)
        assert table.assign([encoded]).tolist() == [0, 1, 0, 2, 0][: len(encoded)]


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.map_(pa.int8(), pa.int8())]
)
def test_nested_types_are_no_keys(type_: pa.DataType) -> None:
    with pytest.raises(SchemaError, match="cannot be grouped by a column of type"):
        KeyTable([pa.int64(), type_])


@pytest.mark.parametrize(
    ("type_", "array"),
    [
        (pa.int64(), pa.array([1], pa.int32())),
        (pa.string(), pa.array([b"a"])),
        (pa.binary(), pa.array(["a"])),
        (pa.string(), pa.array([1])),
        (pa.binary(2), pa.array([b"a"], pa.binary(1))),
    ],
)
def test_a_column_of_another_type_is_refused(type_: pa.DataType, array: pa.Array) -> None:
    with pytest.raises(SchemaError, match="cannot be"):
        KeyTable([type_]).assign([array])


# The pane of all rows, or None; the pane of each; keys.
DenseBatch = tuple[int | None, npt.NDArray[np.int64], list[int | None]]


@st.composite
def dense_batches(draw: st.DrawFn) -> list[DenseBatch]:
    """Batches of rows whose keys lie close to each other, but for a few, in panes that move on."""
    batches = []
    for _ in range(draw(st.integers(1, 8))):
        seed, n_rows = draw(st.integers(0, 2**32)), draw(st.integers(1, 1500))
        random = np.random.default_rng(seed)
        base, span = (
            draw(st.sampled_from([-7, 0, 2**63 - 300, -(2**63)])),
            draw(st.integers(1, 200)),
        )
        keys = np.int64(base) + random.integers(0, span, n_rows)
        if draw(st.booleans()):
            keys[random.integers(0, n_rows, 3)] = draw(int64s)
        pane = draw(st.integers(-2, 6))
        values: list[int | None] = keys.tolist()
        if draw(st.integers(0, 9)) == 9:
            values[0] = None
        if draw(st.booleans()):
            batches.append((pane, np.full(n_rows, pane), values))
        else:
            batches.append((None, pane + random.integers(0, 4, n_rows), values))
    return batches


@pytest.fixture(params=[1 << 12, 1])
def strangers_least(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many keys beyond the array are too many, which is more than small batches have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_table, "_STRANGERS_LEAST", request.param)
        yield request.param


@pytest.mark.parametrize("n_prefix_words", [0, 1, 2])
@pytest.mark.usefixtures("strangers_least")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dense_batches(), st.data())
def test_keys_that_lie_close_are_the_same_groups_as_others(
    n_prefix_words: int,
    batches: list[DenseBatch],
    data: st.DataObject,
) -> None:
    table, reference = KeyTable([pa.int64()], n_prefix_words), Reference()
    for pane, panes, keys in batches:
        between = data.draw(st.sampled_from([5, 5, 5, 8])) if n_prefix_words == 2 else 0
        prefix = [panes if pane is None else pane, between][:n_prefix_words]
        columns = [panes.tolist(), [between] * len(keys)][:n_prefix_words]
        expected = reference.assign(list(zip(*columns, keys, strict=True)))
        assert table.assign([pa.array(keys, pa.int64())], prefix, len(keys)).tolist() == expected
        if data.draw(st.integers(0, 3)) == 0:
            kept = list(
                range(data.draw(st.integers(0, 9)), table.n_groups, data.draw(st.integers(1, 3)))
            )
            table.retain(np.array(kept, np.uint32))
            reference.keys = [reference.keys[group_id] for group_id in kept]


def test_close_keys_are_found_without_a_hash() -> None:
    table = KeyTable([pa.int64()], 1)
    keys = pa.array(np.arange(5000) % 1000 - 500)
    for pane in range(4):
        table.assign([keys], [pane], 5000)
    assert table._direct is not None
    table.retain(np.arange(3000, 4000, dtype=np.uint32))
    assert table.assign([keys], [3], 5000).tolist() == [*range(1000)] * 5
    assert table.state_bytes < 2 * 8 * (2 + 4 + 1) * table.capacity


@pytest.mark.parametrize("n_prefix_words", [0, 1, 2])
def test_an_array_follows_keys_that_move_away_from_it(
    monkeypatch: pytest.MonkeyPatch, n_prefix_words: int
) -> None:
    n_by_hash = 0
    assign = DirectIndex.assign

    def counted(index: DirectIndex, *arguments: Any) -> tuple[int, int, int, int]:
        nonlocal n_by_hash
        done = assign(index, *arguments)
        n_by_hash += done[3]
        return done

    monkeypatch.setattr(DirectIndex, "assign", counted)
    table, reference = KeyTable([pa.int64()], n_prefix_words), Reference()
    rng = np.random.default_rng(5)
    n_batches, n_rows, step = 20, 40_000, 1000
    for number in range(n_batches):
        # From the middle of the batch on, keys are of the next range.
        keys = step * number + rng.integers(0, step, n_rows)
        keys[n_rows // 2 :] += step
        prefix = [number // 8, 5][:n_prefix_words]
        expected = reference.assign([(*prefix, key) for key in keys.tolist()])
        assert table.assign([pa.array(keys)], prefix, n_rows).tolist() == expected
        if number == 12:
            table.retain(np.arange(table.n_groups - 700, table.n_groups, dtype=np.uint32))
            reference.keys = reference.keys[-700:]
    assert 0 < n_by_hash < n_batches * n_rows / 10


@pytest.mark.parametrize("n_prefix_words", [0, 1, 2])
def test_groups_of_an_array_are_known_when_keys_scatter_in_the_same_batch(
    n_prefix_words: int,
) -> None:
    table, reference = KeyTable([pa.int64()], n_prefix_words), Reference()
    known, moved, beside = np.arange(20_000), np.arange(80_000, 82_000), np.arange(85_000, 89_000)
    scattered = 10**12 * np.arange(1, 501).repeat(120)
    for keys in (
        np.arange(60_000),
        known,
        # The array is made anew for keys that moved, takes others, and cannot follow the last ones.
        np.concatenate([np.tile(moved, 12), beside, scattered, beside]),
    ):
        prefix = [3, 5][:n_prefix_words]
        expected = reference.assign([(*prefix, key) for key in keys.tolist()])
        assert table.assign([pa.array(keys)], prefix, len(keys)).tolist() == expected
        if len(keys) == 60_000:
            table.retain(np.arange(len(known), dtype=np.uint32))
            reference.keys = reference.keys[: len(known)]


@pytest.mark.parametrize("n_columns", [1, 3])
def test_many_keys_keep_their_numbers_as_the_table_grows(n_columns: int) -> None:
    """Beyond 65,536 groups the index has fewer slots for each; then NULLs widen the keys."""
    n_keys = 300_000
    rng = np.random.default_rng(11)
    keys = [pa.array(rng.permutation(n_keys) << (20 * place)) for place in range(n_columns)]
    table = KeyTable([pa.int64()] * n_columns)
    for start in range(0, n_keys, 70_000):
        part = [column.slice(start, 70_000) for column in keys]
        assert table.assign(part).tolist() == list(range(start, start + len(part[0])))
    before = table.assign(keys)
    with_null = [pa.array([None], pa.int64()), *(column.slice(0, 1) for column in keys[1:])]
    assert table.assign(with_null).tolist() == [n_keys]
    assert np.array_equal(table.assign(keys), before)
    assert np.array_equal(before, np.arange(n_keys))
    assert table.assign(with_null).tolist() == [n_keys]
