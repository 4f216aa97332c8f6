"""Panes dealt out and added up against definitions in Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.state.word_states import IDENTITY, STATE_DTYPE
from millstream.kernels import panes as kernels
from millstream.kernels.panes import (
    add_pane,
    add_pane_shortly,
    are_same_words,
    combine_few,
    combine_panes,
    deal_groups,
    fill_words,
)
from millstream.kernels.programs import Opcode

I64 = npt.NDArray[np.int64]
U32 = npt.NDArray[np.uint32]

# What a kernel has to overwrite, or to leave alone.
UNTOUCHED = -(2**40) + 17


def addresses(arrays: Sequence[npt.NDArray[Any]]) -> I64:
    return np.array([array.ctypes.data for array in arrays], np.int64)


class Deal:
    """One place to deal panes out to, again and again as long as owners stay the same."""

    def __init__(self, n_partitions: int, n_keys: int, n_keys_over: int = 0) -> None:
        self.offsets = np.full(n_partitions + 1, UNTOUCHED, np.int64)
        # Callers have room for more keys than a pane has.
        self.order = np.full(n_keys + n_keys_over, 2**32 - 1, np.uint32)

    def of(self, counts: I64, owners: U32, columns: I64, *, is_ordered: bool) -> Any:
        dealt = np.full(columns.shape, UNTOUCHED, np.int64)
        rows = list(columns)
        deal_groups(counts, owners, self.offsets, self.order, is_ordered, addresses(rows), dealt)
        n_groups = self.offsets[-1]
        return (
            self.offsets.tolist(),
            self.order[:n_groups].tolist(),
            dealt[:, :n_groups].tolist(),
        )


def dealt_by_definition(counts: I64, owners: U32, n_partitions: int, columns: I64) -> Any:
    present = [key for key in range(len(counts)) if counts[key] > 0]
    of_partitions = [[key for key in present if owners[key] == p] for p in range(n_partitions)]
    order = [key for keys in of_partitions for key in keys]
    offsets = [0, *np.cumsum([len(keys) for keys in of_partitions]).tolist()]
    return offsets, order, [[column[key] for key in order] for column in columns.tolist()]


@st.composite
def panes_of_owners(draw: st.DrawFn) -> tuple[int, U32, list[I64], I64]:
    n_partitions, n_keys = draw(st.integers(1, 5)), draw(st.integers(0, 20))
    owners = draw(hnp.arrays(np.uint32, n_keys, elements=st.integers(0, n_partitions - 1)))
    of_some = hnp.arrays(np.int64, n_keys, elements=st.integers(0, 2))
    of_all = hnp.arrays(np.int64, n_keys, elements=st.integers(1, 2**62))
    panes = draw(st.lists(of_some | of_all, min_size=1, max_size=4))
    n_columns = draw(st.integers(1, 3))
    return n_partitions, owners, panes, draw(hnp.arrays(np.int64, (n_columns, n_keys)))


@given(panes_of_owners(), st.integers(0, 9))
def test_groups_lie_by_partition_and_then_in_the_order_of_the_keys(
    drawn: tuple[int, U32, list[I64], I64], n_keys_over: int
) -> None:
    n_partitions, owners, panes, columns = drawn
    deal = Deal(n_partitions, len(owners), n_keys_over)
    for counts in panes:
        wanted = dealt_by_definition(counts, owners, n_partitions, columns)
        assert deal.of(counts, owners, columns, is_ordered=False) == wanted


@given(panes_of_owners())
def test_the_order_of_a_full_pane_is_used_again_or_found_anew(
    drawn: tuple[int, U32, list[I64], I64],
) -> None:
    n_partitions, owners, panes, columns = drawn
    deal = Deal(n_partitions, len(owners))
    is_ordered = False
    for counts in [np.ones(len(owners), np.int64), *panes]:
        wanted = dealt_by_definition(counts, owners, n_partitions, columns)
        assert deal.of(counts, owners, columns, is_ordered=is_ordered) == wanted
        afresh = Deal(n_partitions, len(owners))
        assert afresh.of(counts, owners, columns, is_ordered=False) == wanted
        # As callers do: only a pane without absent keys leaves the order of all of them.
        is_ordered = bool((counts > 0).all())


def wrap(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def order_of_doubles(value: float) -> tuple[bool, float]:
    return math.isnan(value), value


MERGE: dict[Opcode, Callable[[Any, Any], Any]] = {
    Opcode.COUNT: lambda one, other: wrap(one + other),
    Opcode.SUM_I64: lambda one, other: wrap(one + other),
    Opcode.SUM_U64: lambda one, other: (one + other) % 2**64,
    Opcode.MIN_I64: min,
    Opcode.MAX_I64: max,
    Opcode.BIT_AND: lambda one, other: one & other,
    Opcode.BIT_OR: lambda one, other: one | other,
    Opcode.BIT_XOR: lambda one, other: one ^ other,
    Opcode.MIN_U64: min,
    Opcode.MAX_U64: max,
    Opcode.SUM_F64: lambda one, other: one + other,
    Opcode.MIN_F64: lambda one, other: min(one, other, key=order_of_doubles),
    Opcode.MAX_F64: lambda one, other: max(one, other, key=order_of_doubles),
}
EDGES: dict[type[np.generic], list[Any]] = {
    np.int64: [-(2**63), -(2**63) + 1, -1, 0, 1, 2**62, 2**63 - 1],
    np.uint64: [0, 1, 2**63 - 1, 2**63, 2**64 - 1],
    np.float64: [-math.inf, -1e308, -0.1, 0.0, 5e-324, 0.3, 1e308, math.inf, math.nan, -math.nan],
}


def combined(opcodes: Sequence[Opcode], panes: Sequence[Sequence[npt.NDArray[Any]]]) -> Any:
    """Return the sums in the types of their opcodes, and how many keys have rows.

    Sums of all panes but the first, and of all but the last, are made beside it.
    """
    n_keys = np.array([len(states[0]) for states in panes], np.int64)
    at = np.array([addresses(states) for states in panes])
    some = [range(len(panes))]
    if len(panes) > 1:
        some += [range(1, len(panes)), range(len(panes) - 1)]
    places = np.concatenate([np.array(part, np.int64) for part in some])
    bounds = np.cumsum([0, *map(len, some)])
    found = []
    for combine in (combine_panes, combine_few):
        # One key more than there is room for.
        shape = len(opcodes), n_keys.max() + 1
        sums = [np.full(shape, UNTOUCHED, np.int64) for _ in some]
        sums_at = np.array([addresses(list(words)) for words in sums])
        n_present = np.full(len(some), UNTOUCHED, np.int64)
        combine(
            np.array(opcodes, np.int64), len(opcodes) - 1, bounds, at[places], n_keys[places],
            sums_at, n_present,
        )  # fmt: skip
        for part, words, n in zip(some, sums, n_present.tolist(), strict=True):
            n_most = max(n_keys[list(part)])
            assert (words[:, n_most:] == UNTOUCHED).all()
            assert n == np.count_nonzero(words[-1, :n_most])
        found.append((np.array([words.tobytes() for words in sums]), n_present))
        if len(some) > 1 and combine is combine_few:
            # Each sum as if it were made alone.
            alone, n_alone = combined(opcodes, [panes[index] for index in some[1]])
            assert n_present[1] == n_alone
            for row, words in zip(alone, sums[1], strict=True):
                assert row.tobytes() == words[: len(row)].tobytes()
    assert (found[0][0] == found[1][0]).all()
    rows = [
        row[: n_keys.max()].view(STATE_DTYPE[opcode])
        for opcode, row in zip(opcodes, sums[0], strict=True)
    ]
    return rows, int(n_present[0])


def combined_by_definition(
    opcode: Opcode, states: Sequence[npt.NDArray[Any]], absent: Sequence[npt.NDArray[np.bool_]]
) -> npt.NDArray[Any]:
    """Add up the words of keys where they are present, as if identities were not there."""
    dtype = STATE_DTYPE[opcode]
    of_keys: list[list[Any]] = [[] for _ in range(max(map(len, states)))]
    for words, is_absent in zip(states, absent, strict=True):
        for key, word in enumerate(words.tolist()):
            if not is_absent[key]:
                of_keys[key].append(word)
    sums = [reduce(MERGE[opcode], words) if words else IDENTITY[opcode] for words in of_keys]
    return np.array(sums, dtype)


def with_identities(
    opcode: Opcode, words: npt.NDArray[Any], is_absent: npt.NDArray[np.bool_]
) -> npt.NDArray[Any]:
    return np.where(is_absent, np.array(IDENTITY[opcode], STATE_DTYPE[opcode]), words)


def assert_same(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    # To the last bit, but for which NaN it is.
    assert actual.dtype == expected.dtype
    is_nan = expected != expected
    assert (actual != actual).tolist() == is_nan.tolist()
    assert actual[~is_nan].tobytes() == expected[~is_nan].tobytes()


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
@settings(max_examples=50)
@given(data=st.data())
def test_panes_are_added_up_key_by_key(opcode: Opcode, data: st.DataObject) -> None:
    dtype = STATE_DTYPE[opcode]
    values = st.sampled_from(EDGES[dtype.type]) | hnp.from_dtype(dtype)
    if dtype == np.float64:
        # There is no -0.0 among states.
        values = values.map(lambda value: value + 0.0)
    # Panes know fewer keys than those before, or more, or none.
    sizes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
    words = [data.draw(hnp.arrays(dtype, size, elements=values)) for size in sizes]
    absent = [data.draw(hnp.arrays(np.bool_, size)) for size in sizes]
    states = [with_identities(opcode, *pane) for pane in zip(words, absent, strict=True)]
    counts = [(~is_absent).astype(np.int64) for is_absent in absent]
    expected = combined_by_definition(opcode, words, absent)
    (sums, _), n_present = combined(
        [opcode, Opcode.SUM_I64], list(zip(states, counts, strict=True))
    )
    assert_same(sums, expected)
    rows = np.zeros(max(sizes), np.int64)
    for part in counts:
        rows[: len(part)] += part
    assert n_present == np.count_nonzero(rows)
    # The same accumulator as the last one, which tells what is present.
    (_, sums), n_present = combined(
        [Opcode.SUM_I64, opcode], list(zip(counts, states, strict=True))
    )
    assert_same(sums, expected)
    assert n_present == np.count_nonzero(expected.view(np.int64))


@pytest.mark.parametrize("sizes", [[1000, 700, 1001], [1, 0, 513], [64], [7, 2048, 3, 100, 5]])
def test_accumulators_of_all_opcodes_at_once_over_many_keys(sizes: list[int]) -> None:
    random = np.random.default_rng(len(sizes))
    absent = [random.random(size) < 0.4 for size in sizes]
    opcodes = [Opcode(number) for number in random.permutation(len(Opcode))]
    # The count of rows that states of panes have behind all others.
    opcodes.append(Opcode.SUM_I64)
    words: list[list[npt.NDArray[Any]]] = []
    for size in sizes:
        of_pane: list[npt.NDArray[Any]] = []
        for opcode in opcodes:
            dtype = STATE_DTYPE[opcode]
            edges = random.choice(np.array(EDGES[dtype.type], dtype), size)
            others = random.integers(-(2**63), 2**63, size).astype(dtype)
            of_pane.append(np.where(random.random(size) < 0.2, edges, others))
        of_pane[-1] = random.integers(1, 5, size)
        words.append(of_pane)
    states = [
        [
            with_identities(opcode, column, is_absent)
            for opcode, column in zip(opcodes, of_pane, strict=True)
        ]
        for of_pane, is_absent in zip(words, absent, strict=True)
    ]
    before = [[column.tobytes() for column in of_pane] for of_pane in states]
    sums, n_present = combined(opcodes, states)
    for index, opcode in enumerate(opcodes):
        expected = combined_by_definition(opcode, [of_pane[index] for of_pane in words], absent)
        assert_same(sums[index], expected)
    assert n_present == np.count_nonzero(sums[-1])
    assert [[column.tobytes() for column in of_pane] for of_pane in states] == before


@pytest.mark.parametrize("add", [add_pane, add_pane_shortly])
@settings(max_examples=150)
@given(data=st.data())
def test_the_first_keys_of_a_pane_are_added_to(
    add: Callable[..., None], data: st.DataObject
) -> None:
    opcodes = data.draw(st.lists(st.sampled_from(list(Opcode)), max_size=4))
    n_keys, n_more = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 3))
    panes: list[list[npt.NDArray[Any]]] = [[], []]
    for opcode in opcodes:
        dtype = STATE_DTYPE[opcode]
        values = st.sampled_from(EDGES[dtype.type]) | hnp.from_dtype(dtype)
        if dtype == np.float64:
            values = values.map(lambda value: value + 0.0)
        for pane in panes:
            pane.append(data.draw(hnp.arrays(dtype, n_keys + n_more, elements=values)))
    words, sums = panes
    none = np.zeros(n_keys, np.bool_)
    expected = [
        np.append(
            combined_by_definition(opcode, [was[:n_keys], more[:n_keys]], [none, none]),
            was[n_keys:],
        )
        for opcode, was, more in zip(opcodes, sums, words, strict=True)
    ]
    before = [column.tobytes() for column in words]
    add(np.array(opcodes, np.int64), addresses(words), addresses(sums), n_keys)
    for column, wanted in zip(sums, expected, strict=True):
        assert_same(column, wanted)
    assert [column.tobytes() for column in words] == before


@given(data=st.data())
def test_words_are_the_same_if_each_is(data: st.DataObject) -> None:
    shape = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 9))
    # Views of larger arrays, as tables of keys have them, which differ elsewhere.
    words = np.full((shape[0], shape[1] + 2), 1)[:, : shape[1]]
    others = np.full((shape[0], shape[1] + 5), 2)[:, : shape[1]]
    words[:] = others[:] = data.draw(hnp.arrays(np.int64, shape))
    words.setflags(write=False)
    assert are_same_words(words, others)
    if others.size > 0:
        at = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
        others[at] ^= 1 << data.draw(st.integers(0, 62))
        assert not are_same_words(words, others)


@pytest.mark.parametrize(
    ("opcode", "words", "expected"),
    [
        (Opcode.SUM_I64, [2**63 - 1, 1], -(2**63)),
        (Opcode.SUM_I64, [-(2**63), -1], 2**63 - 1),
        (Opcode.COUNT, [3, 4], 7),
        (Opcode.SUM_U64, [2**64 - 1, 2], 1),
        (Opcode.MIN_U64, [2**63, 2**63 - 1], 2**63 - 1),
        (Opcode.MAX_U64, [2**63 - 1, 2**63], 2**63),
        (Opcode.MIN_I64, [-(2**63), 2**63 - 1], -(2**63)),
        (Opcode.MIN_F64, [math.nan, math.inf], math.inf),
        (Opcode.MAX_F64, [math.nan, math.inf], math.nan),
        (Opcode.MAX_F64, [math.inf, math.nan], math.nan),
        (Opcode.SUM_F64, [math.inf, -math.inf], math.nan),
    ],
)
def test_corners_of_opcodes(opcode: Opcode, words: list[Any], expected: Any) -> None:
    states = [[np.array([word], STATE_DTYPE[opcode])] for word in words]
    (sums,), _ = combined([opcode], states)
    assert_same(sums, np.array([expected], STATE_DTYPE[opcode]))


def test_opcodes_are_numbered_as_accumulators_have_them() -> None:
    numbers = {opcode.name: getattr(kernels, f"_{opcode.name}") for opcode in Opcode}
    assert numbers == {opcode.name: int(opcode) for opcode in Opcode}


@given(data=st.data(), n_words=st.integers(0, 12))
def test_some_words_are_set_and_no_others(data: st.DataObject, n_words: int) -> None:
    first = data.draw(st.integers(0, n_words))
    stop = data.draw(st.integers(first, n_words))
    words = data.draw(hnp.arrays(np.int64, st.integers(0, 4)))
    left_out = data.draw(hnp.arrays(np.bool_, len(words)))
    arrays = np.full((len(words), n_words), UNTOUCHED, np.int64)
    # A column of a larger table, as programs of accumulators have it.
    program = np.full((len(words), 3), UNTOUCHED, np.int64)
    program[:, 1] = np.where(left_out, 0, addresses(list(arrays)))
    fill_words(program[:, 1], first, stop, words)
    expected = np.full((len(words), n_words), UNTOUCHED, np.int64)
    expected[~left_out, first:stop] = words[~left_out, np.newaxis]
    assert arrays.tolist() == expected.tolist()
