"""Partial groups whose keys come in the order of their numbers, and all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.state import dense_pane
from millstream.engine.state.dense_pane import DensePane
from millstream.engine.state.dense_panes import DealtPane, DensePanes
from millstream.engine.state.key_table import KeyPart, KeyTable
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.places import NOWHERE, place_of
from millstream.engine.state.word_states import IDENTITY, STATE_DTYPE
from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.programs import Opcode

I64 = npt.NDArray[np.int64]

LIMIT = 1 << 40
UNTOUCHED = -(2**40) + 17
KEYS: dict[str, tuple[list[pa.DataType], Callable[[int], tuple[Any, ...]]]] = {
    "int64": ([pa.int64()], lambda key: (key - 3,)),
    "float64": ([pa.float64()], lambda key: (key / 4,)),
    "decimal": ([pa.decimal128(38, 0)], lambda key: (Decimal(key - 3) * 10**30,)),
    "two": ([pa.int64(), pa.int32()], lambda key: (key // 3, key % 3)),
}
ROWS = WordSpec(Opcode.COUNT, None)
SPECS = [
    WordSpec(Opcode.SUM_I64, "i"),
    WordSpec(Opcode.MIN_I64, "i"),
    WordSpec(Opcode.MAX_I64, "i"),
    WordSpec(Opcode.MAX_U64, "u"),
    WordSpec(Opcode.MIN_F64, "f"),
    WordSpec(Opcode.COUNT, "i"),
]
MERGE: dict[Opcode, Callable[[Any, Any], Any]] = {
    Opcode.COUNT: lambda one, other: one + other,
    Opcode.SUM_I64: lambda one, other: one + other,
    Opcode.MIN_I64: min,
    Opcode.MAX_I64: max,
    Opcode.MAX_U64: max,
    Opcode.MIN_F64: min,
}
numbers = st.integers(0, 11)


def key_arrays(name: str, keys: Sequence[int]) -> list[pa.Array]:
    types, make = KEYS[name]
    columns = zip(*map(make, keys), strict=True) if keys else [()] * len(types)
    return [pa.array(column, type_) for column, type_ in zip(columns, types, strict=True)]


def key_words(name: str, keys: Sequence[int]) -> I64:
    """Different keys as words, in a view of a larger array."""
    table = KeyTable(KEYS[name][0])
    table.assign(key_arrays(name, keys))
    words = table.words()
    assert words is not None
    larger = np.full((len(words), len(keys) + 3), UNTOUCHED, np.int64)
    larger[:, 2:-1] = words
    return larger[:, 2:-1]


def numbered(table: KeyTable) -> list[tuple[Any, ...]]:
    arrays = table.columns(slice(0, table.n_groups))
    return list(zip(*(array.to_pylist() for array in arrays), strict=True))


@pytest.mark.parametrize("name", KEYS)
@settings(max_examples=60)
@given(data=st.data())
def test_keys_are_in_order_if_their_numbers_are(name: str, data: st.DataObject) -> None:
    table, known = KeyTable(KEYS[name][0]), list[int]()
    for _ in range(data.draw(st.integers(1, 5))):
        keys = data.draw(st.lists(numbers, unique=True, max_size=9))
        if data.draw(st.booleans()):
            # As many as one likes of the known ones, and maybe others behind them.
            keys = known[: data.draw(st.integers(0, 11))] + keys
            keys = list(dict.fromkeys(keys))
        if data.draw(st.integers(0, 2)) == 0:
            table.assign(key_arrays(name, keys))
            known += [key for key in keys if key not in known]
            continue
        n_same = min(len(keys), len(known))
        is_in_order = keys[:n_same] == known[:n_same]
        assert table.are_in_order(key_words(name, keys)) is is_in_order
        if is_in_order:
            known += keys[n_same:]
        assert numbered(table) == list(map(KEYS[name][1], known))


def test_keys_that_come_twice_are_not_in_order() -> None:
    table = KeyTable([pa.int64()])
    assert not table.are_in_order(np.array([[4, 4]]))
    assert table.are_in_order(np.array([[4, 5]]))


def test_keys_are_not_in_order_once_some_are_null() -> None:
    table = KeyTable([pa.int64()])
    table.assign([pa.array([0, 1, None])])
    assert not table.are_in_order(np.array([[0, 1]]))
    assert table.n_groups == 3


WORD_SPECS = [WordSpec(Opcode.COUNT, "v"), WordSpec(Opcode.MIN_I64, "v"), ROWS]


def update(words: Words, values: list[int | None], ids: list[int], n_groups: int) -> None:
    array = pa.array(values, pa.int64())
    bounds = np.array([0, len(ids)], np.int64)
    group_ids = np.array(ids, np.uint32)
    words.update([[array, array, None]], bounds, group_ids, n_groups, new_have_rows=True)


def taken(words: Words, n_groups: int) -> list[list[int | None]]:
    return [array.to_pylist() for array in words.take(slice(0, n_groups))]


def test_accumulators_made_anew_have_nothing_in_common() -> None:
    words = Words(WORD_SPECS, merges=False)
    words.reallocate(4, slice(0, 0))
    update(words, [8, 7], [0, 1], 2)
    others = words.anew()
    assert others.n_groups == 0
    others.reallocate(4, slice(0, 0))
    update(others, [5, 6, 4], [0, 1, 0], 2)
    # Counts of values are those of rows, until there is a NULL.
    at = others.addresses()
    assert at[0] == at[2]
    assert taken(others, 2) == [[2, 1], [4, 6], [2, 1]]
    assert taken(words, 2) == [[1, 1], [8, 7], [1, 1]]
    update(others, [None], [1], 2)
    update(words, [1], [0], 2)
    assert taken(others, 2) == [[2, 1], [4, 6], [2, 2]]
    assert taken(words, 2) == [[2, 1], [1, 7], [2, 1]]


@pytest.mark.parametrize("merges", [False, True])
def test_adopted_accumulators_are_added_to_where_they_are(merges: bool) -> None:
    words = Words(WORD_SPECS, merges=merges)
    words.reallocate(4, slice(0, 0))
    values = pa.array([None, 9, 9], pa.int64())
    ones = pa.array([1, 1, 1])
    columns = [ones, values, ones] if merges else [values, values, None]
    bounds, ids = np.array([0, 3], np.int64), np.arange(3, dtype=np.uint32)
    words.update([columns], bounds, ids, 3, new_have_rows=True)
    states = np.array([[3, 4], [-5, 6], [3, 5]])
    words.adopt(list(states))
    assert words.n_groups == 2
    assert words.addresses().tolist() == [row.ctypes.data for row in states]
    assert taken(words, 2) == [[3, 4], [-5, 6], [3, 5]]
    words.merge([pa.array([1]), pa.array([0]), pa.array([2])], np.array([1], np.uint32), 2)
    assert states.tolist() == [[3, 5], [-5, 0], [3, 7]]
    # More groups have other memory.
    words.reallocate(4, slice(0, 2))
    words.make_room(4)
    assert taken(words, 4) == [[3, 5, 0, 0], [-5, 0, *[2**63 - 1] * 2], [3, 7, 0, 0]]
    assert states.tolist() == [[3, 5], [-5, 0], [3, 7]]


def test_room_for_groups_does_not_touch_those_that_there_are() -> None:
    words = Words(WORD_SPECS, merges=False)
    words.reallocate(8, slice(0, 0))
    update(words, [3, 4, 5], [0, 1, 2], 3)
    words.make_room(2)
    assert words.n_groups == 3
    words.make_room(5)
    assert words.n_groups == 5
    assert taken(words, 3) == [[1, 1, 1], [3, 4, 5], [1, 1, 1]]


class Groups:
    """Partial groups of a pane: of keys by their numbers, each with a value or, if None, absent."""

    def __init__(
        self,
        name: str,
        specs: Sequence[WordSpec],
        groups: dict[int, int | None],
        *,
        may_be_absent: bool,
    ) -> None:
        self.keys = list(groups)
        self.may_be_absent = may_be_absent
        self.columns = key_arrays(name, self.keys)
        self.states = np.array([[*map(int, row)] for row in self._states(specs, groups)], np.int64)
        self.states = self.states.reshape(len(specs), len(groups))
        self.arrays = [
            pa.array(row.view(STATE_DTYPE[spec.opcode]))
            for row, spec in zip(self.states, specs, strict=True)
        ]
        words = key_words(name, self.keys)
        self._larger = np.full((len(words) + len(specs), len(groups) + 3), UNTOUCHED, np.int64)
        self.words = self._larger[:, 2:-1]
        self.words[:] = np.concatenate([words, self.states])
        self._before = self.words.tolist()

    @staticmethod
    def _states(specs: Sequence[WordSpec], groups: dict[int, int | None]) -> list[list[int]]:
        states = []
        for spec in specs:
            row: list[Any] = []
            for value in groups.values():
                if value is None:
                    row.append(IDENTITY[spec.opcode])
                elif spec.opcode == Opcode.COUNT:
                    row.append(value % 3 + (spec.column is None))
                else:
                    row.append(value + 20 if spec.column == "u" else value)
            states.append(np.array(row, STATE_DTYPE[spec.opcode]).view(np.int64).tolist())
        return states

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has written to the words."""
        return bool(self.words.tolist() == self._before)

    @property
    def is_alone(self) -> bool:
        """Whether words of other groups, which are next to these, are as they were."""
        return bool((self._larger[:, [0, 1, -1]] == UNTOUCHED).all())


def rows_of(arrays: Sequence[pa.Array]) -> list[tuple[Any, ...]]:
    return list(zip(*(array.to_pylist() for array in arrays), strict=True))


class Receiver:
    """Panes, and dictionaries of what they should give away and of what they did."""

    def __init__(self, name: str, specs: Sequence[WordSpec], *, keeps_panes: bool) -> None:
        self.name, self.specs, self._keeps_panes = name, specs, keeps_panes
        self.rows = specs.index(ROWS) if ROWS in specs else None
        self.panes = DensePanes(KEYS[name][0], specs, merges=True, keeps_panes=keeps_panes)
        # By pane and key; and of what has been given away.
        self._expected: dict[tuple[int, Any], list[Any]] = {}
        self._ended: list[tuple[int, Any, tuple[Any, ...]]] = []
        self._results: list[tuple[int, list[pa.Array], list[pa.Array]]] = []
        self._sent: list[Groups] = []

    def add_words(self, parts: Sequence[tuple[int, Groups]]) -> None:
        n_key_words = len(key_words(self.name, []))
        arriving = []
        for pane, groups in parts:
            rows = None
            if groups.may_be_absent:
                assert self.rows is not None
                rows = n_key_words + self.rows
            arriving.append(PaneWords(pane, groups.words, rows))
        self.panes.add_words(arriving)
        self._note(parts)

    def add_arrays(self, parts: Sequence[tuple[int, Groups]]) -> None:
        more = [NOWHERE] if self.panes.counts_rows else []
        places = [[*map(place_of, groups.arrays), *more] for _, groups in parts]
        of_parts = [KeyPart(groups.columns, (), len(groups.keys)) for _, groups in parts]
        self.panes.add(of_parts, [pane for pane, _ in parts], np.array(places, np.int64))
        self._note(parts)

    def give_away(self, limit: int, n_partitions: int) -> None:
        """Give panes away to several partitions or, if there are none, in one piece."""
        if n_partitions == 0:
            closed = self.panes.close(limit)
            self._results += [(groups.pane, groups.keys, groups.states) for groups in closed]
        else:
            dealt = self.panes.deal(limit, n_partitions)
            assert dealt is not None
            parts = [part for pane in dealt for part in pane.parts]
            types = KEYS[self.name][0]
            self._results += [(part.pane, *part.arrays(types, self.specs)) for part in parts]
        for pane, key in list(self._expected):
            if pane < limit:
                self._ended.append((pane, key, tuple(self._expected.pop((pane, key)))))

    def drop(self, pane: int) -> None:
        if pane in self.panes.numbers():
            self.panes.drop([pane])
            for group in [group for group in self._expected if group[0] == pane]:
                del self._expected[group]

    def check(self) -> None:
        """Compare only now, when arrays that were given away could have been written to."""
        got = [
            (pane, key, state)
            for pane, keys, states in self._results
            for key, state in zip(rows_of(keys), rows_of(states), strict=True)
        ]
        assert Counter(got) == Counter(self._ended)
        assert all(groups.is_alone for groups in self._sent)
        assert not self._keeps_panes or all(groups.is_untouched for groups in self._sent)

    def _note(self, parts: Sequence[tuple[int, Groups]]) -> None:
        merges = [MERGE[spec.opcode] for spec in self.specs]
        for pane, groups in parts:
            self._sent.append(groups)
            states = rows_of(groups.arrays)
            for key, state in zip(rows_of(groups.columns), states, strict=True):
                was = self._expected.get((pane, key))
                if self.rows is None or state[self.rows] > 0:
                    pairs = zip(merges, was or state, state, strict=True)
                    sums = [merge(*both) for merge, *both in pairs]
                    self._expected[pane, key] = list(state) if was is None else sums


@st.composite
def drawn_parts(
    draw: st.DrawFn, name: str, specs: Sequence[WordSpec], order: Sequence[int]
) -> tuple[int, Groups]:
    # The first keys of one order, in nine of ten cases, else any.
    keys = order[: draw(st.integers(1, 12))]
    if draw(st.integers(0, 9)) == 0:
        keys = draw(st.lists(numbers, unique=True, min_size=1))
    may_be_absent = ROWS in specs and draw(st.booleans())
    value = st.integers(-9, 9) | (st.none() if may_be_absent else st.nothing())
    groups = Groups(name, specs, {key: draw(value) for key in keys}, may_be_absent=may_be_absent)
    return draw(st.integers(0, 2)), groups


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("has_rows", [True, False])
@settings(max_examples=60)
@given(data=st.data())
def test_groups_in_any_order_are_those_of_a_dictionary(
    has_rows: bool, name: str, data: st.DataObject
) -> None:
    specs = list(SPECS)
    if has_rows:
        specs.insert(data.draw(st.integers(0, len(specs))), ROWS)
    receiver = Receiver(name, specs, keeps_panes=data.draw(st.booleans()))
    order = data.draw(st.permutations(range(12)))
    for _ in range(data.draw(st.integers(1, 6))):
        one = drawn_parts(name, specs, order)
        parts = data.draw(st.lists(one, min_size=1, max_size=3))
        if data.draw(st.integers(0, 3)) > 0 or any(groups.may_be_absent for _, groups in parts):
            receiver.add_words(parts)
        else:
            receiver.add_arrays(parts)
        if data.draw(st.integers(0, 3)) == 0:
            receiver.give_away(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2)))
        elif data.draw(st.integers(0, 3)) == 0:
            # What is dropped leaves its memory to the next pane.
            receiver.drop(data.draw(st.integers(0, 2)))
    receiver.give_away(LIMIT, data.draw(st.integers(0, 2)))
    receiver.check()


def sums_of(pane: int, keys: Sequence[int], value: int) -> PaneWords:
    return PaneWords(pane, np.array([keys, [value] * len(keys), [1] * len(keys)], np.int64))


@pytest.mark.parametrize("few_keys", [0, dense_pane._FEW_KEYS])
def test_groups_in_order_are_added_where_the_first_ones_came_to(few_keys: int) -> None:
    specs = [SPECS[0], ROWS]
    panes = DensePanes([pa.int64()], specs, merges=True)
    with (
        patch.object(dense_pane, "_FEW_KEYS", few_keys),
        patch.object(DensePane, "adopt", autospec=True, side_effect=DensePane.adopt) as adopted,
        patch.object(
            DensePane, "add_in_order", autospec=True, side_effect=DensePane.add_in_order
        ) as in_order,
        patch.object(DensePane, "add", autospec=True, side_effect=DensePane.add) as by_key,
    ):
        first = sums_of(7, range(100), 1)
        panes.add_words([first, sums_of(7, range(100), 2), sums_of(7, range(60), 4)])
        assert (adopted.call_count, in_order.call_count, by_key.call_count) == (1, 2, 0)
        assert panes.sums_at(7)[0][0] == first.words[1].ctypes.data
        # New keys need more room than came with the first ones.
        panes.add_words([sums_of(7, range(150), 8)])
        assert (in_order.call_count, by_key.call_count) == (3, 0)
        assert first.words[1].tolist() == [7] * 60 + [3] * 40
        panes.add_words([sums_of(7, [149, 3], 16), sums_of(8, range(10), 1)])
        assert (adopted.call_count, in_order.call_count, by_key.call_count) == (2, 3, 1)
        panes.add_words([sums_of(7, range(150), 32)])
        assert in_order.call_count == 4
    expected = np.repeat([47, 43, 40], [60, 40, 50])
    expected[[3, 149]] += 16
    pane, other = panes.close(LIMIT)
    assert pane.keys == [pa.array(range(150))]
    assert pane.states[0].to_pylist() == expected.tolist()
    assert pane.states[1].to_pylist()[:3] == [4 + 1, 5, 5]
    assert (other.n_groups, other.states[0].to_pylist()) == (10, [1] * 10)


def dealt(panes: DensePanes, limit: int) -> list[DealtPane]:
    """Give panes away to one partition."""
    of_panes = panes.deal(limit, 1)
    assert of_panes is not None
    return of_panes


def test_memory_that_came_with_groups_is_not_that_of_the_next_pane() -> None:
    panes = DensePanes([pa.int64()], [SPECS[0], ROWS], merges=True)
    panes.add_words([sums_of(0, range(10), 1), sums_of(0, range(10), 1)])
    (first,) = dealt(panes, 1)
    panes.add_words([sums_of(1, range(10), 5), sums_of(1, [2, 1], 1)])
    panes.add_words([sums_of(2, [9, 8], 3)])
    second, third = dealt(panes, 3)
    panes.add_words([sums_of(3, [1, 2], 9), sums_of(3, range(10), 9)])
    assert first.parts[0].words[1].tolist() == [2] * 10
    assert second.parts[0].words[1].tolist() == [5, 6, 6, *[5] * 7]
    assert third.parts[0].words.tolist() == [[8, 9], [3, 3], [1, 1]]
    (last,) = panes.close(LIMIT)
    assert last.states[0].to_pylist() == [9, 18, 18, *[9] * 7]
    assert panes.n_groups == 0
