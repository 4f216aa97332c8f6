"""Rows compared with those sent before, against plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.state.sent_rows import SentRows
from millstream.kernels.versions import BEFORE, Change

N_GROUPS = 6
NAN_WITH_PAYLOAD = float(np.array([0xFFF8_0000_0000_1234], np.uint64).view(np.float64)[0])

words = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])
doubles = st.sampled_from([0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, NAN_WITH_PAYLOAD])
VALUES: dict[pa.DataType, st.SearchStrategy[object]] = {
    pa.int64(): words,
    pa.uint64(): st.sampled_from([0, 1, 2**64 - 1]),
    pa.int32(): st.sampled_from([0, -1, 2**31 - 1]),
    pa.uint16(): st.sampled_from([0, 2**16 - 1]),
    pa.int8(): st.sampled_from([0, -1, -128]),
    pa.bool_(): st.booleans(),
    pa.float64(): doubles,
    pa.float32(): doubles,
    pa.float16(): doubles.map(np.float16),
    pa.timestamp("us", "UTC"): words,
    pa.date32(): st.sampled_from([0, -1]),
    pa.duration("ns"): words,
    pa.decimal128(38, 2): st.sampled_from([0, 1, -1, 10**35]),
    pa.string(): st.sampled_from(["", "a", "b"]),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["", "a", "b"]),
    pa.list_(pa.int64()): st.lists(st.sampled_from([0, None]), max_size=2),
}


@st.composite
def batches(draw: st.DrawFn) -> tuple[pa.Schema, list[tuple[list[int], list[pa.Array]]]]:
    types = draw(st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=4))
    if draw(st.booleans()):
        # More columns than a word has bits.
        types += [pa.int8()] * 70
    made = []
    for _ in range(draw(st.integers(1, 5))):
        groups = draw(st.lists(st.integers(0, N_GROUPS - 1), unique=True))
        n_rows = len(groups)
        columns = []
        for type_ in types:
            n_values = n_rows + 1
            values = st.none() | VALUES[type_]
            cells = draw(st.lists(values, min_size=n_values, max_size=n_values))
            columns.append(arrow(cells, type_).slice(1))
        made.append((groups, columns))
    schema = pa.schema([(f"c{place}", type_) for place, type_ in enumerate(types)])
    return schema, made


def arrow(values: Sequence[object], type_: pa.DataType) -> pa.Array:
    if pa.types.is_decimal(type_):
        return pa.array(values, pa.decimal128(38, 0)).view(type_)
    if pa.types.is_float32(type_):
        return pa.array(values, pa.float64()).cast(type_)
    return pa.array(values, type_)


def comparable(value: object) -> object:
    if isinstance(value, float | np.floating):
        # Minus zero is a zero.
        return "NaN" if math.isnan(value) else float(value) + 0.0
    return value


def rows_of(columns: Sequence[pa.Array]) -> list[tuple[object, ...]]:
    cells = [
        column.view(pa.int64()).to_pylist()
        if pa.types.is_timestamp(column.type) or pa.types.is_duration(column.type)
        else column.to_pylist()
        for column in columns
    ]
    return list(zip(*cells, strict=True))


def same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return [comparable(value) for value in one] == [comparable(value) for value in other]


@given(batches(), st.data())
def test_rows_replace_others_where_they_differ(
    made: tuple[pa.Schema, list[tuple[list[int], list[pa.Array]]]], data: st.DataObject
) -> None:
    schema, steps = made
    sent = SentRows(schema, (), keys_move=False, are_given_back=True)
    sent.reserve(N_GROUPS)
    expected: dict[int, tuple[object, ...]] = {}
    for groups, columns in steps:
        group_ids = np.array(groups, np.uint32)
        group_ids.setflags(write=False)
        versions = sent.replace(columns, group_ids)
        before = dict(expected)
        changes = []
        for group, row in zip(groups, rows_of(columns), strict=True):
            if group not in expected:
                changes.append(Change.NEW)
            else:
                changes.append(Change.NONE if same(row, expected[group]) else Change.UPDATED)
            if changes[-1] != Change.NONE:
                expected[group] = row
        assert versions.changes.tolist() == changes
        assert (versions.n_new, versions.n_updated, versions.n_moved) == (
            changes.count(Change.NEW),
            changes.count(Change.UPDATED),
            0,
        )
        for shows_updated in (False, True):
            arrays, kinds = sent.pairs(columns, versions, shows_updated=shows_updated)
            listed = []
            for group, change in zip(groups, changes, strict=True):
                if change == Change.UPDATED and shows_updated:
                    listed.append((change + BEFORE, str(before[group])))
                if change != Change.NONE:
                    listed.append((change, str(expected[group])))
            found = [str(row) for row in rows_of(arrays)]
            assert list(zip(kinds.tolist(), found, strict=True)) == listed
        gone = np.array(
            sorted(data.draw(st.sets(st.sampled_from(list(expected))))) if expected else [],
            np.uint32,
        )
        assert sent.n_rows == len(expected)
        taken = rows_of(sent.take(gone).columns)
        assert [str(row) for row in taken] == [str(expected.pop(int(g))) for g in gone]
        sent.forget(gone)
    kept = np.array(data.draw(st.permutations(range(N_GROUPS))), np.uint32)[: N_GROUPS // 2]
    sent.retain(kept)
    are_sent = sent.are_sent(np.arange(len(kept), dtype=np.uint32))
    assert are_sent.tolist() == [int(group) in expected for group in kept]
    left = np.flatnonzero(are_sent).astype(np.uint32)
    assert [str(row) for row in rows_of(sent.take(left).columns)] == [
        str(expected[int(kept[group])]) for group in left
    ]
    assert sent.n_rows == len(left)


def test_rows_with_another_key_are_moved_where_keys_may_change() -> None:
    schema = pa.schema([("window_end", pa.timestamp("s")), ("k", pa.string()), ("n", pa.int64())])
    sent = SentRows(schema, ("window_end", "k"), keys_move=True, are_given_back=True)
    sent.reserve(4)
    group_ids = np.array([2, 0, 3], np.uint32)
    group_ids.setflags(write=False)

    def changes(ends: list[int], counts: list[int]) -> list[int]:
        columns = [pa.array(ends, pa.timestamp("s")), pa.array(["a", "b", "c"]), pa.array(counts)]
        return sent.replace(columns, group_ids).changes.tolist()

    assert changes([1, 2, 3], [1, 1, 1]) == [Change.NEW] * 3
    assert changes([1, 2, 4], [1, 2, 2]) == [Change.NONE, Change.UPDATED, Change.MOVED]
    rows = sent.take(np.array([3, 0], np.uint32))
    assert rows.column("k").to_pylist() == ["c", "b"]
    assert rows.column("n").to_pylist() == [2, 2]


def test_rows_without_a_group_any_more_take_no_memory() -> None:
    schema = pa.schema([("k", pa.string()), ("names", pa.string())])
    sent = SentRows(schema, ("k",), keys_move=False, are_given_back=True)
    sent.reserve(1000)
    group_ids = np.arange(1000, dtype=np.uint32)
    group_ids.setflags(write=False)
    keys = pa.array([f"key{group}" for group in group_ids])
    sizes = []
    for number in range(40):
        sent.replace([keys, pa.array([f"{number:10}"] * 1000)], group_ids)
        sent.drop_garbage()
        sizes.append(sent.state_bytes)
        if number % 10 == 0:
            sent.forget(group_ids)
    assert max(sizes) < 12 * sizes[0]
    rows = sent.take(group_ids[::500])
    assert rows.to_pylist() == [
        {"k": "key0", "names": "        39"},
        {"k": "key500", "names": "        39"},
    ]
