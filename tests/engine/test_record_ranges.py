"""Where records lie: ranges of keys of all types, at the ends of words, and of sparse panes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.routing import split
from millstream.engine.state import record_panes
from millstream.engine.state.key_range import KeyRange
from millstream.engine.state.places import NOWHERE, place_of
from millstream.engine.state.record_panes import KeyRows, RecordPanes
from millstream.engine.state.words import WordSpec
from millstream.kernels.programs import Opcode

I64 = npt.NDArray[np.int64]

LIMIT = 1 << 40
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
ROWS = WordSpec(Opcode.COUNT, None)
# More keys than there is always room for.
MANY = 1 << 15


def records_of(key_type: pa.DataType, specs: Sequence[WordSpec] = (ROWS,)) -> RecordPanes:
    panes = RecordPanes.for_keys([key_type], specs)
    assert panes is not None
    return panes


def count(panes: RecordPanes, parts: Sequence[tuple[int, pa.Array]]) -> list[list[int]] | None:
    """Count rows of panes; return which of each part are left, or None if all are."""
    places = np.array([[NOWHERE]] * len(parts), np.int64)
    left = panes.add([KeyRows(keys, len(keys), pane) for pane, keys in parts], places)
    return None if left is None else [rows.tolist() for rows in left]


def ints(keys: Sequence[int] | I64) -> pa.Array:
    return pa.array(keys, pa.int64())


def counts_of(panes: RecordPanes, limit: int = LIMIT) -> dict[tuple[int, Any], int]:
    found: dict[tuple[int, Any], int] = {}
    for pane in panes.deal(limit, 3) or ():
        for part in pane.parts:
            keys, (counts,) = part.present().arrays([panes._key_type], [ROWS])
            for key, n in zip(keys[0].to_pylist(), counts.to_pylist(), strict=True):
                assert (part.pane, key) not in found
                found[part.pane, key] = n
    return found


class _EndlessError(Exception):
    pass


def growing_at_most(n_most: int) -> Any:
    """Let a range that never has room for what it grows by fail instead of going on forever."""
    n_calls, grow = 0, KeyRange.grow

    def counted(range_: KeyRange, keys: I64) -> bool:
        nonlocal n_calls
        n_calls += 1
        if n_calls > n_most:
            raise _EndlessError
        return grow(range_, keys)

    return patch.object(KeyRange, "grow", counted)


@settings(max_examples=80)
@given(data=st.data())
def test_ranges_reach_the_ends_of_what_a_word_holds(data: st.DataObject) -> None:
    end = data.draw(st.sampled_from([INT64_MIN, INT64_MAX - 1]))
    # The greatest word of all is not grown by, only begun with.
    near = st.integers(0, 200).map(lambda n: end + n if end < 0 else end - n)
    steps = data.draw(st.lists(st.lists(near, min_size=1, max_size=30), min_size=1, max_size=5))
    if end > 0 and data.draw(st.booleans()):
        steps[0].append(INT64_MAX)
    far = st.sampled_from([0, -1, INT64_MIN if end > 0 else INT64_MAX])
    steps[-1] += data.draw(st.lists(far, max_size=3))
    panes = records_of(pa.int64())
    expected: dict[tuple[int, Any], int] = defaultdict(int)
    with growing_at_most(50):
        for keys in steps:
            left = count(panes, [(4, ints(keys))])
            rows = range(len(keys)) if left is None else left[0]
            for row in set(range(len(keys))) - set(rows):
                expected[4, keys[row]] += 1
    assert counts_of(panes) == expected


@pytest.mark.parametrize("type_", [pa.int64(), pa.uint64(), pa.timestamp("us")])
def test_a_range_grows_up_to_the_greatest_word(type_: pa.DataType) -> None:
    panes = records_of(type_)
    first = ints([INT64_MAX - 10, INT64_MAX - 1])
    keys = first.cast(type_), ints([INT64_MAX]).cast(type_)
    assert count(panes, [(0, keys[0])]) == [[]]
    with growing_at_most(50):
        left = count(panes, [(0, keys[1]), (0, keys[0])])
    # Whether it has a record or is left.
    assert left is not None
    assert left[0] in ([], [0])
    assert left[1] == []


TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary()]
KEYS = [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
KEYS += [pa.bool_(), pa.date32(), pa.time32("s"), pa.time64("us"), pa.duration("ms")]
KEYS += [pa.timestamp("ns", "Europe/Rome"), *TEXTS]


def key_array(type_: pa.DataType, numbers: I64) -> pa.Array:
    """Different keys for different numbers below 50, as far as the type has so many."""
    if type_ in TEXTS:
        return pa.array([f"k{number}" for number in numbers.tolist()]).cast(type_)
    if pa.types.is_boolean(type_):
        return pa.array(numbers % 2 == 0)
    if type_ == pa.uint64():
        # The greatest ones are words below zero.
        return pa.array(numbers.astype(np.uint64) + np.uint64(2**64 - 60))
    if pa.types.is_date32(type_) or pa.types.is_time32(type_):
        return pa.array(numbers, pa.int32()).cast(type_)
    is_signed = not pa.types.is_unsigned_integer(type_) and not pa.types.is_time64(type_)
    return pa.array(numbers - 20 if is_signed else numbers).cast(type_)


VALUES = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
VALUES += [pa.uint64(), pa.float32(), pa.float64()]
_SUM, _MIN, _MAX = Opcode.SUM_I64, Opcode.MIN_I64, Opcode.MAX_I64
_SUM_F, _MIN_F, _MAX_F = Opcode.SUM_F64, Opcode.MIN_F64, Opcode.MAX_F64


def specs_of(type_: pa.DataType) -> list[WordSpec]:
    name = str(type_)
    opcodes = [_SUM_F, _MIN_F, _MAX_F]
    if type_ == pa.uint64():
        opcodes = [Opcode.SUM_U64, _SUM_F]
    elif pa.types.is_integer(type_):
        # Sums as doubles are those of averages.
        opcodes = [_SUM, _MIN, _MAX, _SUM_F]
    return [WordSpec(opcode, name) for opcode in opcodes]


SPECS = [spec for type_ in VALUES for spec in specs_of(type_)]
SPECS.insert(3, ROWS)
SPECS.append(WordSpec(Opcode.COUNT, "int8"))


def values_of(type_: pa.DataType, rng: np.random.Generator, n_rows: int) -> npt.NDArray[Any]:
    dtype = np.dtype(type_.to_pandas_dtype())
    if dtype.kind == "f":
        values: npt.NDArray[Any] = (rng.integers(-100, 100, n_rows) / 4).astype(dtype)
        values[rng.random(n_rows) < 0.05] = -0.0
        values[rng.random(n_rows) < 0.01] = np.nan
        return values
    info = np.iinfo(dtype)
    # Sums wrap around, and as doubles they are exact.
    if info.bits == 64:
        return rng.choice([info.min, info.max // 2 + 1, 0, 2**40], n_rows).astype(dtype)
    return rng.integers(info.min, info.max, n_rows, dtype=dtype, endpoint=True)


def by_definition(spec: WordSpec, values: npt.NDArray[Any]) -> Any:
    """What an accumulator holds of these values of its column."""
    if spec.opcode == Opcode.COUNT:
        return len(values)
    listed = values.tolist()
    if spec.opcode in (_SUM, Opcode.SUM_U64):
        total = sum(listed) % 2**64
        return total if spec.opcode != _SUM or total < 2**63 else total - 2**64
    if spec.opcode in (_MIN, _MAX):
        return (min if spec.opcode == _MIN else max)(listed)
    doubles = [float(value) + 0.0 for value in listed]
    if spec.opcode == _SUM_F:
        return sum(doubles)
    ordered = sorted(doubles, key=lambda value: (math.isnan(value), value))
    return ordered[0 if spec.opcode == _MIN_F else -1]


Found = dict[tuple[int, Any], tuple[Any, ...]]


def given_away(panes: RecordPanes, key_type: pa.DataType) -> Found:
    """Deal groups out, or close panes where keys are told by nothing but their number."""
    parts: list[tuple[int, list[pa.Array]]] = []
    dealt = panes.deal(LIMIT, 4)
    assert (dealt is None) is (key_type in TEXTS)
    if dealt is None:
        parts = [(part.pane, [*part.keys, *part.states]) for part in panes.close(LIMIT)]
    for pane in dealt or ():
        for owner, part in enumerate(pane.parts):
            keys, states = part.present().arrays([key_type], SPECS)
            owned = [rows.num_rows for rows in split(pa.record_batch({"k": keys[0]}), ["k"], 4)]
            assert owned == [len(keys[0]) if p == owner else 0 for p in range(4)]
            parts.append((part.pane, [*keys, *states]))
    found: Found = {}
    for number, arrays in parts:
        for key, *row in zip(*(array.to_pylist() for array in arrays), strict=True):
            assert (number, key) not in found
            found[number, key] = tuple(row)
    return found


@pytest.mark.parametrize("key_type", KEYS, ids=str)
def test_keys_and_values_of_all_types(key_type: pa.DataType) -> None:
    rng = np.random.default_rng(11)
    panes, n_rows = records_of(key_type, SPECS), 600
    assert panes.numbers() == []
    numbers: list[I64] = []
    values: dict[str | None, list[npt.NDArray[Any]]] = {str(type_): [] for type_ in VALUES}
    parts, places, kept = [], [], []
    for pane in (5, 3):
        numbers.append(rng.integers(0, 50, n_rows))
        arrays: dict[str | None, pa.Array] = {}
        for type_ in VALUES:
            drawn = values_of(type_, rng, n_rows)
            values[str(type_)].append(drawn)
            # A slice does not begin where its memory does.
            arrays[str(type_)] = pa.array(np.append(drawn[:7], drawn), type_)[7:]
        kept.append(arrays)
        keys = key_array(key_type, np.append([0, 0, 0], numbers[-1]))
        parts.append(KeyRows(keys[3:], n_rows, pane))
        places.append(
            [NOWHERE if spec.column is None else place_of(arrays[spec.column]) for spec in SPECS]
        )
    left = panes.add(parts, np.array(places, np.int64))
    assert left is not None
    assert all(len(rows) == 0 for rows in left)
    assert panes.numbers() == [5, 3]
    found = given_away(panes, key_type)
    expected = {}
    for index, part in enumerate(parts):
        of_rows = np.array(part.keys.to_pylist(), object)
        for key in set(of_rows.tolist()):
            is_of_key = of_rows == key
            expected[part.pane, key] = tuple(
                by_definition(spec, values[spec.column or "int8"][index][is_of_key])
                for spec in SPECS
            )
    # By what tells NaN and zeros of both signs apart.
    assert {group: repr(row) for group, row in found.items()} == {
        group: repr(row) for group, row in expected.items()
    }


def test_panes_that_begin_together_do_not_pass_for_sparse_ones() -> None:
    panes = records_of(pa.int64())
    keys = ints(np.arange(MANY))
    assert count(panes, [(0, keys), (1, keys)]) == [[], []]
    assert len(panes.deal(LIMIT, 2) or ()) == 2
    assert count(panes, [(2, keys)]) == [[]]


def test_several_panes_that_begin_together_do_not_pass_for_sparse_ones() -> None:
    panes = records_of(pa.int64())
    keys = ints(np.arange(MANY))
    assert count(panes, [(pane, keys) for pane in range(5)]) == [[]] * 5


def test_a_full_pane_between_sparse_ones_keeps_the_range() -> None:
    panes = records_of(pa.int64())
    every, few = ints(np.arange(MANY)), ints(np.repeat([1, 2], MANY // 8))
    for pane, keys in enumerate([every, few, few, every, few, few, every, few, few, few]):
        assert count(panes, [(pane, keys)]) == [[]]
        assert len(counts_of(panes)) == len(keys.unique())
    # Now there have been three, one after the other.
    assert panes._range.n_keys == 0


def test_a_pane_that_waits_is_looked_at_once() -> None:
    panes, n_rows = records_of(pa.int64()), MANY // 4
    same = ints(np.ones(n_rows))
    assert count(panes, [(0, ints(np.arange(MANY)))]) == [[]]
    assert count(panes, [(1, same)]) == [[]]
    assert count(panes, [(2, same)]) == [[]]
    # The pane before has been looked at when this one began; at its end it is not once more.
    assert len(counts_of(panes, 2)) == MANY + 1
    assert count(panes, [(2, same)]) == [[]]
    assert counts_of(panes) == {(2, 1): 2 * n_rows}
    assert count(panes, [(3, same)]) == [[]]
    assert panes._range.n_keys > 0
    assert counts_of(panes) == {(3, 1): n_rows}
    assert panes._range.n_keys == 0


def test_panes_do_not_begin_with_too_few_rows_for_their_room() -> None:
    panes, n_rows = records_of(pa.int64()), MANY // 4
    assert count(panes, [(0, ints(np.arange(MANY)))]) == [[]]
    assert count(panes, [(1, ints(np.ones(n_rows - 1)))]) is None
    assert count(panes, [(pane, ints(np.ones(n_rows // 2))) for pane in range(2, 5)]) is None
    assert panes.numbers() == [0]
    # Panes that are there take any rows.
    assert count(panes, [(0, ints([1])), (1, ints(np.ones(n_rows)))]) == [[], []]


def test_one_sparse_pane_of_very_many_keys_is_enough() -> None:
    panes = records_of(pa.int64())
    n_keys = record_panes._SPARSE_KEYS_MAX + 1
    assert count(panes, [(0, ints(np.arange(n_keys)))]) == [[]]
    same = ints(np.ones(n_keys // 4 + 1))
    assert count(panes, [(1, same)]) == [[]]
    assert len(counts_of(panes)) == n_keys + 1
    assert panes._range.n_keys == 0


def test_a_range_is_looked_for_less_and_less_often() -> None:
    panes = records_of(pa.int64())
    # Half of the keys are at either end of all words.
    far = ints(np.repeat([INT64_MIN, INT64_MAX], 64))
    tries = []
    with patch.object(KeyRange, "begin", autospec=True, side_effect=KeyRange.begin) as begun:
        for number in range(64):
            before = begun.call_count
            assert count(panes, [(0, far)]) is None
            tries += [number] * (begun.call_count - before)
    # After 2**10 rows, after twice as many, and after four times as many.
    assert tries == [0, 8, 24, 56]
    assert panes.numbers() == []
    assert panes.state_bytes == 0
    # Close keys come too late to be seen at once.
    assert count(panes, [(0, ints(np.arange(128)))]) is None


def test_strays_that_come_in_thousands_are_all_told_of() -> None:
    panes = records_of(pa.int64())
    keys = np.arange(60_000) % 100
    assert count(panes, [(0, ints(keys))]) == [[]]
    is_far = np.zeros(len(keys), np.bool_)
    is_far[::10] = True
    parts = [np.where(is_far, keys + 2**50, keys), keys, np.where(is_far, 2**50 - keys, keys)]
    bounds = [(part, ints(part)) for part in parts]
    left = count(panes, [(pane, array) for pane, (_, array) in enumerate(bounds)])
    assert left is not None
    assert [len(rows) for rows in left] == [6000, 0, 6000]
    assert left[0] == left[2] == np.flatnonzero(is_far).tolist()
    found = counts_of(panes)
    for pane, part in enumerate(parts):
        for key in range(100):
            n_rows = int(np.count_nonzero(part == key)) + (600 if pane == 0 else 0)
            assert found.get((pane, key), 0) == n_rows
    assert all(key < 100 for _, key in found)


SQL = """
SELECT window_end, k, count(*) AS n, sum(u) AS su, avg(f) AS af, min(f) AS lf, max(b) AS gb,
    sum(b) AS sb, max(f) AS gf
FROM t WINDOW {window} GROUP BY k EMIT FINAL
"""
WINDOWS = {
    "tumble": ("TUMBLING(ts, INTERVAL '1' SECOND)", 1),
    "hop": ("SLIDING(ts, INTERVAL '3' SECOND, INTERVAL '1' SECOND)", 3),
}


def greatest_last(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("key_type", [pa.int16(), pa.date32(), pa.bool_(), pa.string()], ids=str)
@pytest.mark.parametrize("share_of_nulls", [0.0, 0.001])
def test_windows_of_records_are_those_of_dictionaries(
    share_of_nulls: float, key_type: pa.DataType, window: str, partitions: int
) -> None:
    n_rows, rng = 6000, np.random.default_rng(partitions)
    micros = np.arange(n_rows) * 1000
    keys = key_array(key_type, rng.integers(0, 40, n_rows))
    keys = pa.array(
        [None if rng.random() < share_of_nulls else key for key in keys.to_pylist()], key_type
    )
    doubles = (rng.integers(-40, 40, n_rows) / 4).astype(np.float32)
    doubles[rng.random(n_rows) < 0.01] = np.nan
    table = pa.table(
        {
            "ts": micros.astype("datetime64[us]"),
            "k": keys,
            "u": rng.integers(0, 2**60, n_rows).astype(np.uint64),
            "f": doubles,
            "b": rng.integers(-128, 128, n_rows).astype(np.int8),
        }
    )
    clause, n_panes = WINDOWS[window]
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema, event_time="ts")
    n_added, take = 0, RecordPanes.add

    def spied(panes: RecordPanes, parts: Sequence[KeyRows], places: I64) -> Any:
        nonlocal n_added
        left = take(panes, parts, places)
        if left is not None:
            n_added += sum(part.n_rows for part in parts) - sum(map(len, left))
        return left

    with patch.object(RecordPanes, "add", spied):
        result = session.sql(SQL.format(window=clause)).run({"t": table}, batch_rows=500)
    groups: dict[tuple[int, Any], list[dict[str, Any]]] = defaultdict(list)
    for second, row in zip((micros // 10**6).tolist(), table.to_pylist(), strict=True):
        for end in range(second + 1, second + 1 + n_panes):
            groups[end, row["k"]].append(row)
    expected = {}
    for (end, key), rows in groups.items():
        f = [row["f"] for row in rows]
        expected[end, key] = (
            len(rows),
            sum(row["u"] for row in rows) % 2**64,
            sum(f) / len(f),
            min(f, key=greatest_last) + 0.0,
            max(row["b"] for row in rows),
            sum(row["b"] for row in rows),
            max(f, key=greatest_last) + 0.0,
        )
    found = {}
    for end, key, *row in zip(*(column.to_pylist() for column in result.columns), strict=True):
        found[(end - datetime(1970, 1, 1)).seconds, key] = tuple(row)
    assert len(found) == result.num_rows
    assert {group: repr(row) for group, row in found.items()} == {
        group: repr(row) for group, row in expected.items()
    }
    if partitions > 1 and keys.null_count == 0:
        assert n_added == n_rows
