"""Panes on their way from senders to receivers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import reduce
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.operators.dense_groups import DenseGroups
from millstream.engine.routing import hash_columns, split
from millstream.engine.state import dense_panes, pane_words
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.key_table import KeyPart, KeyTable
from millstream.engine.state.pane_words import KeyOwners, PaneWords
from millstream.engine.state.places import RowPlaces
from millstream.engine.state.words import WordSpec
from millstream.kernels.partitioning import find_owners
from millstream.kernels.programs import Opcode
from tests.engine.pane_groups import MAX, SUM, int_words, little_rooms, rows_of

ALL_PANES = 1 << 62
# Accumulators by receiver, pane and key.
Groups: TypeAlias = dict[tuple[int, int, tuple[Any, ...]], list[tuple[Any, ...]]]

int64s = st.sampled_from([-(2**63), -7, 0, 1, 2, 2**63 - 1])
floats = st.sampled_from([math.nan, -math.nan, 0.0, -0.0, 1.5, -math.inf])
days = st.integers(-2, 2)
decimals = st.sampled_from([Decimal(10**37), Decimal(-1), Decimal(2**64), Decimal(0)])
few = st.integers(1, 3)
integers = st.sampled_from([-(2**63), -3, 0, 4, 2**63 - 1])
doubles = st.sampled_from([-2.5, -0.0, 0.0, 0.25, 7.0, math.inf, -math.inf, math.nan])
KEYS: dict[str, tuple[list[pa.DataType], st.SearchStrategy[tuple[Any, ...]]]] = {
    "int64": ([pa.int64()], st.tuples(int64s)),
    "float64": ([pa.float64()], st.tuples(floats)),
    "int32": ([pa.int32()], st.tuples(st.sampled_from([-(2**31), -1, 0, 5, 2**31 - 1]))),
    "date32": ([pa.date32()], st.tuples(days)),
    "bool": ([pa.bool_()], st.tuples(st.booleans())),
    "timestamp": ([pa.timestamp("us", "Europe/Rome")], st.tuples(days)),
    "decimal128": ([pa.decimal128(38, 0)], st.tuples(decimals)),
    "int64 and float64": ([pa.int64(), pa.float64()], st.tuples(int64s, floats)),
}
COUNT = WordSpec(Opcode.COUNT, None)
SPECS = [SUM, MAX, WordSpec(Opcode.MIN_I64, "v")]
SPECS += [WordSpec(opcode, "x") for opcode in (Opcode.SUM_F64, Opcode.MIN_F64, Opcode.MAX_F64)]

MERGE: dict[Opcode, Callable[[Any, Any], Any]] = {
    Opcode.COUNT: lambda one, other: one + other,
    Opcode.SUM_I64: lambda one, other: (one + other + 2**63) % 2**64 - 2**63,
    Opcode.MIN_I64: min,
    Opcode.MAX_I64: max,
    # Of doubles whose sum does not depend on the order in which they are added.
    Opcode.SUM_F64: lambda one, other: one + other,
    Opcode.MIN_F64: lambda one, other: min(one, other, key=lambda v: (math.isnan(v), v)),
    Opcode.MAX_F64: lambda one, other: max(one, other, key=lambda v: (math.isnan(v), v)),
}


def comparable(values: Sequence[Any]) -> tuple[Any, ...]:
    """One NaN, but two zeros."""
    return tuple(repr(value) if isinstance(value, float) else value for value in values)


def added_up(specs: Sequence[WordSpec], groups: Groups) -> dict[Any, tuple[Any, ...]]:
    merges = [MERGE[spec.opcode] for spec in specs]
    return {
        group: comparable([*map(reduce, merges, zip(*parts, strict=True))])
        for group, parts in groups.items()
    }


def batch_of(key_types: Sequence[pa.DataType], pane: int, rows: Sequence[Any]) -> pa.RecordBatch:
    """Rows of a pane, each with the tuple of its keys and two values."""
    keys, v, x = zip(*rows, strict=True)
    columns = {"pane": pa.array([pane] * len(rows), pa.int64())}
    for index, (values, type_) in enumerate(zip(zip(*keys, strict=True), key_types, strict=True)):
        columns[f"k{index}"] = pa.array(values, type_)
    columns |= {"v": pa.array(v, pa.int64()), "x": pa.array(x, pa.float64())}
    return pa.record_batch(columns)


def add_rows(panes: DensePanes, specs: Sequence[WordSpec], batches: list[pa.RecordBatch]) -> None:
    of_rows = [None] if panes.counts_rows else []
    places = RowPlaces([*(spec.column for spec in specs), *of_rows], batches[0].schema)
    parts = [KeyPart(batch.columns[1:-2], (), batch.num_rows) for batch in batches]
    panes.add(parts, [batch["pane"][0].as_py() for batch in batches], places.of(batches))


class Exchange:
    """Senders and receivers, and dictionaries of what should arrive and of what did."""

    def __init__(
        self, key_types: list[pa.DataType], specs: list[WordSpec], n_senders: int, n_receivers: int
    ) -> None:
        self.specs = specs
        self.senders = [DensePanes(key_types, specs, merges=False) for _ in range(n_senders)]
        self.receivers = [DensePanes(key_types, specs, merges=True) for _ in range(n_receivers)]
        self.on_their_way: list[list[PaneWords]] = [[] for _ in self.receivers]
        self.wanted: Groups = defaultdict(list)
        self.got: Groups = defaultdict(list)

    def add(self, sender: DensePanes, batches: list[pa.RecordBatch]) -> None:
        if not sender.takes_rows:
            self.deal(sender, ALL_PANES)
        add_rows(sender, self.specs, batches)
        for batch in batches:
            # Where rows would go themselves, partial groups have to go.
            parts = split(batch, batch.schema.names[1:-2], len(self.receivers))
            for receiver, part in enumerate(parts):
                for pane, *key, v, x in rows_of(part.columns):
                    of_columns = {"v": v, "x": x + 0.0, None: 1}
                    states = tuple(of_columns[spec.column] for spec in self.specs)
                    key = [value + 0.0 if isinstance(value, float) else value for value in key]
                    self.wanted[receiver, pane, comparable(key)].append(states)

    def deal(self, sender: DensePanes, limit: int) -> None:
        dealt_out = sorted(pane for pane in sender.numbers() if pane < limit)
        left = [pane for pane in sender.numbers() if pane >= limit]
        dealt = sender.deal(limit, len(self.receivers))
        assert dealt is not None
        assert [pane.parts[0].pane for pane in dealt] == dealt_out
        assert sender.numbers() == left
        for pane in dealt:
            for arriving, part in zip(self.on_their_way, pane.parts, strict=True):
                arriving += [part] * (part.n_groups > 0)

    def receive(self) -> None:
        for receiver, arriving in zip(self.receivers, self.on_their_way, strict=True):
            if not receiver.takes_rows:
                self.close(receiver)
            if arriving:
                receiver.add_words(arriving)
            arriving.clear()

    def close(self, receiver: DensePanes) -> None:
        number = self.receivers.index(receiver)
        for groups in receiver.close(ALL_PANES):
            keys = list(map(comparable, rows_of(groups.keys)))
            assert len(set(keys)) == groups.n_groups
            for key, states in zip(keys, rows_of(groups.states), strict=True):
                self.got[number, groups.pane, key].append(states)


@pytest.mark.parametrize("name", KEYS)
@settings(max_examples=40)
@given(data=st.data())
def test_groups_reach_the_partitions_that_own_their_keys(name: str, data: st.DataObject) -> None:
    key_types, keys = KEYS[name]
    specs = list(SPECS)
    if data.draw(st.booleans()):
        specs.insert(data.draw(st.integers(0, len(specs))), COUNT)
    exchange = Exchange(key_types, specs, data.draw(few), data.draw(few))
    rows = st.lists(st.tuples(keys, integers, doubles), min_size=1, max_size=8)
    rows_of_panes = st.lists(st.tuples(st.integers(-2, 2), rows), min_size=1, max_size=3)
    senders = st.integers(0, len(exchange.senders) - 1)
    limits = st.none() | st.integers(-3, 3)
    steps = st.lists(st.tuples(senders, rows_of_panes, limits), max_size=6)
    with patch.object(dense_panes, "_LITTLE_ROOM", data.draw(little_rooms)):
        for number, drawn, limit in data.draw(steps):
            sender = exchange.senders[number]
            exchange.add(sender, [batch_of(key_types, *pane_and_rows) for pane_and_rows in drawn])
            if limit is not None:
                exchange.deal(sender, limit)
            if data.draw(st.booleans()):
                exchange.receive()
        for sender in exchange.senders:
            exchange.deal(sender, ALL_PANES)
        exchange.receive()
        for receiver in exchange.receivers:
            exchange.close(receiver)
    assert added_up(specs, exchange.got) == added_up(specs, exchange.wanted)


@pytest.mark.parametrize("spread", [1, 2**40])
def test_many_keys_reach_their_partitions(spread: int) -> None:
    # Keys that are close enough to each other to need no hash, and keys that are not.
    random = np.random.default_rng(spread)
    specs = [SUM, COUNT]
    sender = DensePanes([pa.int64()], specs, merges=False)
    receivers = [DensePanes([pa.int64()], specs, merges=True) for _ in range(2)]
    n_keys, n_rows = 40_000, 60_000
    wanted = np.zeros((4, n_keys, 2), np.int64)
    for pane in range(4):
        # More keys with each pane, and not all of them in the last one.
        keys = random.integers(0, n_keys // 4 * (pane + 1), n_rows)
        values = random.integers(-100, 100, n_rows)
        np.add.at(wanted[pane], keys, np.stack([values, np.ones(n_rows, np.int64)], axis=1))
        columns = {"pane": np.full(n_rows, pane), "k": keys * spread, "v": values, "x": values}
        batch = pa.record_batch(columns)
        add_rows(sender, specs, [batch[:20_000], batch[20_000:]])
        if pane % 2 == 1:
            for dealt in sender.deal(pane + 1, 2) or ():
                for receiver, part in zip(receivers, dealt.parts, strict=True):
                    receiver.add_words([part])
    got = np.zeros_like(wanted)
    for number, receiver in enumerate(receivers):
        for groups in receiver.close(4):
            found, *states = map(np.asarray, (*groups.keys, *groups.states))
            assert (owners_of(groups.keys, 2) == number).all()
            got[groups.pane, found // spread] += np.stack(states, axis=1)
    assert (got == wanted).all()


def owners_of(keys: Sequence[pa.Array], n_partitions: int) -> npt.NDArray[np.uint32]:
    owners = np.empty(len(keys[0]), np.uint32)
    find_owners(hash_columns(keys), n_partitions, owners)
    return owners


def int_rows(pane: int, keys: Sequence[int | None], value: int) -> pa.RecordBatch:
    return batch_of([pa.int64()], pane, [((key,), value, 0.0) for key in keys])


@pytest.mark.parametrize("specs", [[SUM, MAX], [COUNT, SUM, MAX]])
def test_memory_of_dealt_panes_is_used_again_behind_their_back(specs: list[WordSpec]) -> None:
    panes = DensePanes([pa.int64()], specs, merges=False)
    add_rows(panes, specs, [int_rows(0, range(50), 1000)])
    places = panes.sums_at(0)[0].tolist()
    (first,) = panes.deal(1, 2) or ()
    kept = [part.words.tobytes() for part in first.parts]
    add_rows(panes, specs, [int_rows(1, range(20, 60), -1)])
    assert panes.sums_at(1)[0].tolist() == places
    (second,) = panes.deal(2, 2) or ()
    assert (first.n_old, second.n_old) == (0, 30)
    arrays = [part.arrays([pa.int64()], specs) for part in second.parts]
    groups = [row for keys, states in arrays for row in rows_of([*keys, *states[-2:]])]
    assert sorted(groups) == [(key, -1, -1) for key in range(20, 60)]
    assert [part.words.tobytes() for part in first.parts] == kept


def test_another_number_of_partitions_gives_other_owners() -> None:
    panes = DensePanes([pa.int64()], [SUM], merges=False)
    for pane, n_partitions in enumerate([1, 3, 2]):
        batch = int_rows(pane, range(30), pane)
        add_rows(panes, [SUM], [batch])
        (dealt,) = panes.deal(pane + 1, n_partitions) or ()
        keys = [part["k0"].to_pylist() for part in split(batch, ["k0"], n_partitions)]
        assert [part.words[0].tolist() for part in dealt.parts] == keys


@pytest.mark.parametrize(
    ("key_types", "keys"),
    [
        ([pa.string()], [("a",), ("b",)]),
        ([pa.int64()], [(1,), (None,)]),
        ([pa.float64()], [(None,), (1.0,)]),
        ([pa.int64(), pa.string()], [(1, "a"), (2, "a")]),
    ],
)
def test_keys_that_words_do_not_tell_are_not_dealt_out(
    key_types: list[pa.DataType], keys: list[tuple[Any, ...]]
) -> None:
    panes = DensePanes(key_types, [SUM, COUNT], merges=False)
    for pane, some_keys in ((3, keys[:1]), (4, keys)):
        batch = batch_of(key_types, pane, [(key, pane, 0.0) for key in some_keys])
        add_rows(panes, [SUM, COUNT], [batch])
    assert (panes.deal(ALL_PANES, 2), panes.numbers()) == (None, [3, 4])
    found = {groups.pane: rows_of([*groups.keys, *groups.states]) for groups in panes.close(5)}
    assert found == {3: [(*keys[0], 3, 1)], 4: [(*key, 4, 1) for key in keys]}


def test_words_are_arrays_of_the_types_of_keys_and_accumulators() -> None:
    specs = [WordSpec(Opcode.MAX_U64, "v"), COUNT, WordSpec(Opcode.MIN_F64, "x")]
    table = KeyTable([pa.int64(), pa.bool_(), pa.decimal128(38, 0), pa.float32(), pa.date32()])
    keys = [
        pa.array([-1, 7]),
        pa.array([True, False]),
        pa.array([Decimal(2**64 + 5), Decimal(-3)], pa.decimal128(38, 0)),
        pa.array([1.5, math.inf], pa.float32()),
        pa.array([3, -3], pa.date32()),
    ]
    table.assign(keys)
    states = [np.array([2**64 - 1, 0], np.uint64), np.array([1, 2]), np.array([-0.5, math.inf])]
    words = np.concatenate([table.words(), np.stack([state.view(np.int64) for state in states])])
    got_keys, got_states = PaneWords(9, words).arrays([key.type for key in keys], specs)
    assert got_keys == keys
    assert got_states == [pa.array(state) for state in states]
    # Where Arrow has words too, there is no copy.
    at = [array.buffers()[1].address for array in (got_keys[0], *got_states)]
    assert at == [words[row].ctypes.data for row in (0, -3, -2, -1)]


@given(
    chunks=st.lists(st.lists(st.integers(-500, 500), max_size=150), max_size=6),
    n_partitions=st.integers(1, 5),
)
def test_owners_of_new_keys_are_found_as_those_of_all_keys(
    chunks: list[list[int]], n_partitions: int
) -> None:
    table, owners = KeyTable([pa.int64()]), KeyOwners(n_partitions)
    with patch.object(pane_words, "hash_columns", wraps=hash_columns) as hashing:
        for chunk in chunks:
            table.assign([pa.array(chunk, pa.int64())])
            n_rooms = len(owners.order)
            owners.n_ordered = 1
            keys = table.columns(slice(0, table.n_groups))
            assert owners.of(table).tolist() == owners_of(keys, n_partitions).tolist()
            assert len(owners.order) >= table.n_groups
            # The order that was found before is gone with its room.
            assert owners.n_ordered == int(len(owners.order) == n_rooms)
    # Each key was looked at once.
    n_hashed = sum(len(call.args[0][0]) for call in hashing.call_args_list)
    assert n_hashed == (table.n_groups if n_partitions > 1 else 0)
    assert KeyOwners(n_partitions).of(table).tolist() == owners.of(table).tolist()


def test_panes_that_are_left_take_nothing_any_more() -> None:
    panes = DensePanes([pa.int64()], [COUNT], merges=False)
    add_rows(panes, [COUNT], [int_rows(pane, range(5), 0) for pane in (2, 4, 3)])
    assert [(groups.pane, groups.n_groups) for groups in panes.leave(4)] == [(2, 5), (3, 5)]
    assert panes.numbers() == [4]
    assert [panes.takes(pane) for pane in (2, 3, 4, 5)] == [False, False, True, True]
    # And they are not taken back.
    assert panes.leave(1) == []
    assert [panes.takes(pane) for pane in (1, 3, 4)] == [False, False, True]
    add_rows(panes, [COUNT], [int_rows(4, range(5), 0)])
    (groups,) = panes.close(5)
    assert groups.states[0].to_pylist() == [2] * 5


def test_groups_as_words_and_groups_as_arrays_are_added_up_together() -> None:
    groups = DenseGroups([pa.int64()], [SUM, MAX])

    def add_arrays(panes: list[int], keys: list[Any], values: list[Any]) -> bool:
        columns = [pa.array(values, pa.int64())] * 2
        return groups.add_arrays(np.array(panes), [pa.array(keys, pa.int64())], columns)

    def words(pane: int, rows: list[tuple[int, int]]) -> PaneWords:
        return PaneWords(pane, int_words(pane, rows).words[:3])

    # NULL is a key, after which words need one more word in the table; zero is another.
    assert groups.add(words(0, [(0, 1), (5, 2)]))
    assert add_arrays([0, 0], [None, 5], [10, 20])
    assert groups.add(words(0, [(0, 3)]))
    assert not add_arrays([0, 0], [1, 2], [None, 1])
    assert not add_arrays([0, 1], [1, 2], [1, 1])
    groups.settle()
    (found,) = groups.panes.leave(1)
    assert rows_of([*found.keys, *found.states]) == [(0, 4, 3), (5, 22, 20), (None, 10, 10)]
    assert not groups.add(words(0, [(0, 3)]))
    assert not add_arrays([0], [1], [1])
    assert groups.panes.n_groups == 0
