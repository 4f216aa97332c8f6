"""Panes of records against dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.routing import split
from millstream.engine.state import key_range, record_panes
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.places import place_of
from millstream.engine.state.record_layout import RecordLayout
from millstream.engine.state.record_panes import KeyRows, RecordPanes
from millstream.engine.state.words import WordSpec
from millstream.kernels.programs import Opcode

ROWS = WordSpec(Opcode.COUNT, None)
SPECS = [
    ROWS,
    WordSpec(Opcode.SUM_I64, "i"),
    WordSpec(Opcode.MIN_I64, "i"),
    WordSpec(Opcode.MAX_I64, "i"),
    WordSpec(Opcode.COUNT, "i"),
    WordSpec(Opcode.SUM_F64, "i"),
    WordSpec(Opcode.MAX_F64, "f"),
    WordSpec(Opcode.SUM_F64, "f"),
]
LIMIT = 1 << 40
KEY_TYPES = {
    "int64": (pa.int64(), lambda key: key),
    "int8": (pa.int8(), lambda key: (key + 100) % 128),
    "uint64": (pa.uint64(), lambda key: 2**63 + key % 1000),
    "bool": (pa.bool_(), lambda key: key % 2 == 0),
    "date": (pa.date32(), lambda key: key),
    "time": (pa.timestamp("us"), lambda key: key),
    "text": (pa.string(), lambda key: f"key {key}"),
    "dictionary": (pa.dictionary(pa.int32(), pa.string()), lambda key: f"key {key}"),
}


def key_array(name: str, keys: Sequence[int | None]) -> pa.Array:
    type_, make = KEY_TYPES[name]
    values = [None if key is None else make(key) for key in keys]
    if pa.types.is_dictionary(type_):
        return pa.array(values, pa.string()).dictionary_encode()
    if pa.types.is_temporal(type_):
        return (
            pa.array(values, pa.int64())
            .cast(pa.int32() if name == "date" else pa.int64())
            .cast(type_)
        )
    return pa.array(values, type_)


class Rows:
    """Rows of a pane with values of their own."""

    def __init__(self, pane: int, keys: pa.Array, first: int) -> None:
        self.pane, self.keys = pane, keys
        numbers = np.arange(first, first + len(keys))
        self.integers = pa.array((numbers * 7919) % 101 - 50, pa.int32())
        self.doubles = pa.array((numbers % 13) / 4)

    def places(self) -> list[tuple[int, int, int, int]]:
        arrays = {None: None, "i": self.integers, "f": self.doubles}
        return [place_of(arrays[spec.column]) for spec in SPECS]

    def groups(self, rows: Sequence[int]) -> Iterator[tuple[Any, int, float]]:
        keys = self.keys.to_pylist()
        integers, doubles = self.integers.to_pylist(), self.doubles.to_pylist()
        return ((keys[row], integers[row], doubles[row]) for row in rows)


def by_definition(taken: Sequence[tuple[Any, int, float]]) -> tuple[Any, ...]:
    integers, doubles = [row[1] for row in taken], [row[2] for row in taken]
    n, total = len(taken), sum(integers)
    return (n, total, min(integers), max(integers), n, float(total), max(doubles), sum(doubles))


def add(panes: RecordPanes, parts: Sequence[Rows]) -> list[list[int]]:
    """Add rows; return which of each part have been taken."""
    places = np.array([part.places() for part in parts], np.int64)
    left = panes.add([KeyRows(part.keys, len(part.keys), part.pane) for part in parts], places)
    if left is None:
        return [[] for _ in parts]
    taken = []
    for part, rows in zip(parts, left, strict=True):
        assert rows.tolist() == sorted(set(rows.tolist()))
        taken.append(sorted(set(range(len(part.keys))) - set(rows.tolist())))
    return taken


def dealt_groups(panes: RecordPanes, limit: int, n_partitions: int) -> list[tuple[int, int, Any]]:
    """The groups of panes that end, in the partition of each, as (partition, pane, group)."""
    found = []
    for dealt in panes.deal(limit, n_partitions) or ():
        n_groups = 0
        for partition, groups in enumerate(dealt.parts):
            keys, states = groups.present().arrays([panes._key_type], SPECS)
            rows = zip(*(array.to_pylist() for array in [*keys, *states]), strict=True)
            found += [(partition, groups.pane, row) for row in rows]
            n_groups += len(keys[0])
        assert dealt.n_old == n_groups
    return found


def closed_groups(panes: RecordPanes, limit: int) -> list[tuple[int, int, Any]]:
    found = []
    for groups in panes.close(limit):
        arrays = [*groups.keys, *groups.states]
        rows = list(zip(*(array.to_pylist() for array in arrays), strict=True))
        assert len(rows) == groups.n_groups
        found += [(0, groups.pane, row) for row in rows]
    return found


Expected = Mapping[tuple[int, Any], list[tuple[Any, int, float]]]


def check(found: list[tuple[int, int, Any]], expected: Expected) -> None:
    got = {(pane, row[0]): row[1:] for _, pane, row in found}
    assert len(got) == len(found)
    assert got == {key: by_definition(rows) for key, rows in expected.items()}


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_panes_add_up_what_dictionaries_do(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(KEY_TYPES)))
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans()):
            patch.setattr(key_range, "_LITTLE_ROOM", 8)
            patch.setattr(record_panes, "_STRAYS_MAX", data.draw(st.integers(1, 4)))
            patch.setattr(record_panes, "_SPARSE_PANES_MAX", data.draw(st.integers(1, 3)))
            patch.setattr(key_range, "_TRY_ROWS_LEAST", data.draw(st.integers(1, 9)))
        panes = RecordPanes.for_keys([KEY_TYPES[name][0]], SPECS)
        assert panes is not None
        expected: dict[tuple[int, Any], list[tuple[Any, int, float]]] = {}
        any_key = st.integers(0, 9) | st.integers(-30, 60) | st.sampled_from([-(10**12), 10**12])
        if name in ("bool", "date", "int8", "uint64"):
            any_key = st.integers(0, 9) | st.integers(0, 60)
        n_rows = 0
        for _ in range(data.draw(st.integers(1, 6))):
            parts = []
            for _ in range(data.draw(st.integers(1, 3))):
                keys = data.draw(st.lists(any_key, min_size=1, max_size=30))
                if data.draw(st.integers(0, 9)) == 0:
                    keys[0] = None
                parts.append(Rows(data.draw(st.integers(0, 3)), key_array(name, keys), n_rows))
                n_rows += len(keys)
            for part, rows in zip(parts, add(panes, parts), strict=True):
                for row in part.groups(rows):
                    expected.setdefault((part.pane, row[0]), []).append(row)
            if data.draw(st.integers(0, 2)) == 0:
                limit = data.draw(st.integers(0, 4))
                ended = {at: expected.pop(at) for at in list(expected) if at[0] < limit}
                check(give_away(panes, name, limit, data.draw(st.integers(1, 4))), ended)
            assert {pane for pane, _ in expected} <= set(panes.numbers())
        check(give_away(panes, name, LIMIT, data.draw(st.integers(1, 4))), expected)
        assert panes.numbers() == []
        assert panes.n_groups == 0


def give_away(
    panes: RecordPanes, name: str, limit: int, n_partitions: int
) -> list[tuple[int, int, Any]]:
    if name in ("text", "dictionary"):
        # Numbers of texts tell nothing elsewhere.
        assert panes.deal(limit, n_partitions) is None
        return closed_groups(panes, limit)
    found = dealt_groups(panes, limit, n_partitions)
    for partition, _, row in found:
        keys = pa.record_batch({"k": pa.array([row[0]], panes._key_type)})
        owned = [part.num_rows for part in split(keys, ["k"], n_partitions)]
        assert owned[partition] == 1
    return found


def int_panes() -> RecordPanes:
    panes = RecordPanes.for_keys([pa.int64()], SPECS)
    assert panes is not None
    return panes


def ints(pane: int, keys: Sequence[int] | np.ndarray, first: int = 0) -> Rows:
    return Rows(pane, pa.array(keys, pa.int64()), first)


def test_all_keys_of_a_range_are_dealt_out_if_few_have_no_rows() -> None:
    panes = int_panes()
    add(panes, [ints(0, np.arange(100)), ints(1, np.arange(95)), ints(2, np.arange(0, 100, 2))])
    every, nearly, half = (pane.parts for pane in panes.deal(LIMIT, 1) or ())
    assert every[0].rows is None
    assert every[0].words[0].tolist() == list(range(100))
    assert nearly[0].words[0].tolist() == list(range(95))
    assert half[0].rows is None
    assert half[0].words[0].tolist() == list(range(0, 100, 2))
    add(panes, [ints(3, [key for key in range(100) if key % 20 != 7])])
    ((some,),) = (pane.parts for pane in panes.deal(LIMIT, 1) or ())
    # Keys without rows are told from others by their count.
    assert some.words[0].tolist() == list(range(100))
    assert some.rows == 1
    assert some.present().words[0].tolist() == [key for key in range(100) if key % 20 != 7]


def test_without_a_count_of_rows_only_keys_with_rows_are_dealt_out() -> None:
    panes = RecordPanes.for_keys([pa.int64()], [WordSpec(Opcode.SUM_I64, "i")])
    assert panes is not None
    part = ints(0, [0, 1, 2, 3, 4, 6, 7, 8, 9])
    places = np.array([[place_of(part.integers)]], np.int64)
    panes.add([KeyRows(part.keys, 9, 0)], places)
    ((groups,),) = (pane.parts for pane in panes.deal(LIMIT, 1) or ())
    assert groups.rows is None
    assert groups.words[0].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_strays_are_left_and_do_not_disturb_the_others() -> None:
    panes = int_panes()
    keys = np.arange(1000) % 100
    assert add(panes, [ints(0, keys)]) == [list(range(1000))]
    keys[[3, 500]] = 10**15, -(10**15)
    expected = [row for row in range(1000) if row not in (3, 500)]
    assert add(panes, [ints(0, keys), ints(1, [10**15])]) == [expected, []]
    # No group comes of a pane whose rows are all strays.
    assert {pane for _, pane, _ in dealt_groups(panes, LIMIT, 2)} == {0}


def test_rows_per_group_are_those_of_panes_below_a_limit() -> None:
    panes = int_panes()
    assert panes.rows_per_group(LIMIT) == 0
    add(panes, [ints(0, [1, 2, 1, 1]), ints(1, [3])])
    assert (panes.rows_per_group(0), panes.rows_per_group(1)) == (0, 2)
    assert panes.rows_per_group(2) == 5 / 3
    panes.close(1)
    # A pane in memory that has been used before.
    add(panes, [ints(2, [4, 4, 4])])
    assert panes.rows_per_group(3) == 2


def test_a_range_grows_by_keys_that_are_close_to_it() -> None:
    panes = int_panes()
    for first in range(0, 5000, 500):
        keys = np.arange(first, first + 600)
        assert add(panes, [ints(0, keys), ints(1, -keys)]) == [list(range(600))] * 2
    assert {row[0] for _, _, row in dealt_groups(panes, LIMIT, 3)} == set(range(-5099, 5100))


def test_panes_that_wait_to_be_used_again_grow_with_the_range() -> None:
    panes = int_panes()
    add(panes, [ints(pane, np.arange(100)) for pane in range(3)])
    assert len(dealt_groups(panes, LIMIT, 1)) == 300
    add(panes, [ints(3, np.arange(9000)), ints(4, np.arange(9000))])
    found = dealt_groups(panes, LIMIT, 2)
    assert sorted(row[0] for _, pane, row in found if pane == 4) == list(range(9000))


def test_a_range_is_given_up_where_most_keys_are_strays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_range, "_LITTLE_ROOM", 64)
    panes = int_panes()
    add(panes, [ints(0, np.arange(50))])
    assert add(panes, [ints(0, 10**9 + np.arange(50) * 1000)]) == [[]]
    # It takes nothing any more until what it has is given away.
    assert add(panes, [ints(0, np.arange(50))]) == [[]]
    assert len(dealt_groups(panes, LIMIT, 1)) == 50
    monkeypatch.setattr(key_range, "_LITTLE_ROOM", 1 << 14)
    n_tries = next(n for n in range(100) if add(panes, [ints(1, 10**9 + np.arange(50))]) != [[]])
    assert n_tries > 0


@pytest.fixture
def panes_with_much_room(monkeypatch: pytest.MonkeyPatch) -> RecordPanes:
    monkeypatch.setattr(key_range, "_LITTLE_ROOM", 64)
    panes = int_panes()
    add(panes, [ints(0, np.arange(1000))])
    return panes


FEW = [1, 2] * 125


def test_a_range_is_given_up_after_some_panes_with_too_much_room(
    panes_with_much_room: RecordPanes,
) -> None:
    panes = panes_with_much_room
    for pane in (1, 2, 3):
        assert add(panes, [ints(pane, FEW)]) == [list(range(250))]
        assert len(dealt_groups(panes, pane, 1)) == (1000 if pane == 1 else 2)
    assert len(dealt_groups(panes, LIMIT, 1)) == 2
    assert add(panes, [ints(4, FEW)]) == [[]]


def test_a_range_is_given_up_while_panes_with_too_much_room_wait(
    panes_with_much_room: RecordPanes,
) -> None:
    panes = panes_with_much_room
    # Each of them is looked at when the next one comes.
    taken = [add(panes, [ints(pane, FEW)])[0] != [] for pane in range(1, 6)]
    assert taken == [True, True, True, False, False]
    assert len(dealt_groups(panes, LIMIT, 1)) == 1000 + 3 * 2


@pytest.mark.parametrize("n_keys", [1 << 15, 1 << 18])
def test_many_keys_are_taken_at_once_if_most_of_the_range_has_come(n_keys: int) -> None:
    rng = np.random.default_rng(1)
    dense, sparse = int_panes(), int_panes()
    assert len(add(dense, [ints(0, rng.integers(0, n_keys, n_keys // 2))])[0]) > n_keys // 3
    few = np.where(rng.random(n_keys // 2) < 0.5, 0, n_keys - 1)
    assert add(sparse, [ints(0, few)]) == [[]]


def test_records_take_no_more_than_twice_what_they_hold() -> None:
    panes = int_panes()
    add(panes, [ints(0, np.arange(10_000))])
    n_words = 1 + len(SPECS)
    assert panes.state_bytes <= 2 * 8 * n_words * 10_000


@pytest.mark.parametrize(
    ("types", "specs"),
    [
        ([pa.float64()], [ROWS]),
        ([pa.decimal128(10, 2)], [ROWS]),
        ([pa.null()], [ROWS]),
        ([pa.int64(), pa.int64()], [ROWS]),
        ([pa.int64()], [WordSpec(Opcode.BIT_AND, "i")]),
        ([pa.int64()], [ROWS, WordSpec(Opcode.MIN_U64, "i")]),
    ],
)
def test_other_keys_and_accumulators_have_no_records(types, specs) -> None:
    assert RecordPanes.for_keys(types, specs) is None


def test_a_layout_has_one_record_for_what_takes_the_same_values() -> None:
    layout = RecordLayout(SPECS)
    assert len(layout.forms) == 3
    assert layout.rows == 0
    assert RecordLayout([WordSpec(Opcode.COUNT, "i")]).rows is None
    assert RecordLayout([ROWS]).forms == [(0, 1)]


def words_of(pane: int, keys: Sequence[int], counts: Sequence[int], *, absent: bool) -> PaneWords:
    words = [keys, counts, [count * 10 for count in counts]]
    return PaneWords(pane, np.array(words, np.int64), 1 if absent else None)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_partial_groups_in_any_order_add_up(data: st.DataObject) -> None:
    has_rows = data.draw(st.booleans())
    specs = [ROWS if has_rows else WordSpec(Opcode.COUNT, "i"), WordSpec(Opcode.SUM_I64, "i")]
    keeps_panes = data.draw(st.booleans())
    panes = DensePanes([pa.int64()], specs, merges=True, keeps_panes=keeps_panes)
    expected: dict[tuple[int, int], list[int]] = {}
    for _ in range(data.draw(st.integers(1, 8))):
        pane = data.draw(st.integers(0, 2))
        keys = list(range(data.draw(st.integers(1, 6))))
        if data.draw(st.integers(0, 2)) == 0:
            keys = data.draw(st.permutations(keys))
        absent = has_rows and data.draw(st.booleans())
        count = st.integers(0 if absent else 1, 3)
        counts = data.draw(st.lists(count, min_size=len(keys), max_size=len(keys)))
        groups = words_of(pane, keys, counts, absent=absent)
        panes.add_words([groups])
        if keeps_panes:
            groups.words.fill(-1)
        for key, n in zip(keys, counts, strict=True):
            if n > 0:
                sums = expected.setdefault((pane, key), [0, 0])
                sums[0] += n
                sums[1] += 10 * n
        if keeps_panes and data.draw(st.integers(0, 3)) == 0:
            # The memory of panes that are dropped is used again.
            panes.drop([pane])
            expected = {at: sums for at, sums in expected.items() if at[0] != pane}
    got = {}
    for groups in panes.close(LIMIT):
        arrays = [*groups.keys, *groups.states]
        for key, *states in zip(*(array.to_pylist() for array in arrays), strict=True):
            got[groups.pane, key] = states
    assert got == expected


def test_groups_that_are_closed_do_not_keep_the_memory_of_others(monkeypatch) -> None:
    panes = int_panes()
    add(panes, [ints(0, np.arange(9000))])
    monkeypatch.setattr(record_panes, "new_columns", lambda *shape: pytest.fail("shared memory"))
    (groups,) = panes.close(LIMIT)
    assert groups.n_groups == 9000
