"""Groups as records against dictionaries of Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.state import record_layout
from millstream.engine.state.word_states import IDENTITY, STATE_DTYPE
from millstream.kernels import records as kernels
from millstream.kernels.programs import Opcode, ValueKind
from millstream.kernels.records import (
    RecordForm,
    add_rows,
    clear_records,
    count_distinct,
    count_present,
    deal_records,
    find_range,
    sample_keys,
)
from tests.kernels.value_types import DTYPES

I64 = npt.NDArray[np.int64]

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# What a kernel has to overwrite, or to leave alone.
UNTOUCHED = -(2**40) + 17

INTEGERS = [kind for kind, dtype in DTYPES.items() if issubclass(dtype, np.integer)]
N_WORDS = {
    RecordForm.ROWS: 1,
    RecordForm.WORD_SUMS: 2,
    RecordForm.WORDS: 4,
    RecordForm.DOUBLE_SUMS: 2,
    RecordForm.DOUBLES: 4,
}
DOUBLES = (RecordForm.DOUBLE_SUMS, RecordForm.DOUBLES)
COLUMNS = [(RecordForm.ROWS, ValueKind.I8)]
COLUMNS += [(form, kind) for form in DOUBLES for kind in DTYPES]
# Extremes of unsigned words have no form; of the narrower ones they are signed words.
COLUMNS += [(RecordForm.WORD_SUMS, kind) for kind in INTEGERS]
COLUMNS += [(RecordForm.WORDS, kind) for kind in INTEGERS if kind != ValueKind.U64]


class Column:
    """A column of records, and one of values for each part."""

    def __init__(self, form: RecordForm, kind: ValueKind, n_keys: int) -> None:
        self.form, self.kind = form, kind
        self.records = np.full(N_WORDS[form] * n_keys, UNTOUCHED, np.int64)
        clear_records(form, self.records, 0, n_keys)

    def row(self, index: int) -> list[Any]:
        n_words = N_WORDS[self.form]
        words = self.records[n_words * index : n_words * (index + 1)]
        rest = words[1:].view(np.float64) if self.form in DOUBLES else words[1:]
        return [int(words[0]), *map(plain, rest.tolist())]


def plain(value: Any) -> Any:
    """A value that equals itself, by which NaN and zeros of both signs can be told apart."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else (value, math.copysign(1, value))
    return value


def wrapped(total: int) -> int:
    return (total + 2**63) % 2**64 - 2**63


def by_definition(form: RecordForm, values: Sequence[Any]) -> list[Any]:
    if form == RecordForm.ROWS:
        return [len(values)]
    if form in DOUBLES:
        doubles = [float(value) for value in values]
        total = 0.0
        for value in doubles:
            total += value
        # NaN is the greatest of all, and there is one zero.
        ordered = sorted((value + 0.0 for value in doubles), key=lambda v: (math.isnan(v), v))
        extremes = [ordered[0], ordered[-1]] if ordered else [math.nan, -math.inf]
        return [len(values), *map(plain, [total, *extremes][: N_WORDS[form] - 1])]
    integers = [int(value) for value in values]
    extremes = [min(integers), max(integers)] if integers else [INT64_MAX, INT64_MIN]
    return [len(values), *[wrapped(sum(integers)), *extremes][: N_WORDS[form] - 1]]


@st.composite
def values_of(draw: st.DrawFn, kind: ValueKind, n_rows: int) -> npt.NDArray[Any]:
    dtype = np.dtype(DTYPES[kind])
    elements: st.SearchStrategy[Any] | None = None
    if dtype.kind == "f":
        # Sums in one order are the same to the last bit.
        special = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.25]
        elements = st.sampled_from(special) | st.integers(-50, 50).map(float)
    values: npt.NDArray[Any] = draw(hnp.arrays(dtype, n_rows, elements=elements))
    values.setflags(write=False)
    return values


def address(array: npt.NDArray[Any]) -> int:
    return int(array.ctypes.data)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_rows_are_added_to_the_records_of_their_keys(data: st.DataObject) -> None:
    n_keys = data.draw(st.integers(1, 8))
    base = data.draw(st.sampled_from([INT64_MIN, -3, 0, 1000, INT64_MAX - 8]))
    shapes = data.draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3))
    columns = [Column(form, kind, n_keys) for form, kind in shapes]
    n_rows_of = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=3))
    strange = [base - 1, base + n_keys, INT64_MIN, INT64_MAX, 0]
    strange = [key for key in strange if not base <= key < base + n_keys]
    any_key = st.integers(base, base + n_keys - 1)
    if data.draw(st.booleans()):
        any_key |= st.sampled_from([key for key in strange if INT64_MIN <= key <= INT64_MAX])
    keys = [
        np.array(data.draw(st.lists(any_key, min_size=n, max_size=n)), np.int64) for n in n_rows_of
    ]
    values = [[data.draw(values_of(kind, n)) for _, kind in shapes] for n in n_rows_of]
    program = [
        [
            (0 if column.form == RecordForm.ROWS else address(part[index]), column.kind,
             address(column.records), column.form)
            for index, column in enumerate(columns)
        ]
        for part in values
    ]  # fmt: skip
    strays = np.full((data.draw(st.integers(0, 4)), 2), UNTOUCHED, np.int64)
    places = np.array([(address(part), len(part)) for part in keys], np.int64)
    part, row, n_strays = add_rows(places, np.array(program, np.int64), base, n_keys, strays)

    rows = [(part, row) for part, n in enumerate(n_rows_of) for row in range(n)]
    stray = [at for at in rows if not base <= keys[at[0]][at[1]] < base + n_keys]
    # It ends at the first stray that there is no room for.
    end = stray[len(strays)] if len(stray) > len(strays) else (len(keys), 0)
    assert (part, row) == end
    assert n_strays == min(len(stray), len(strays))
    assert list(map(tuple, strays[:n_strays].tolist())) == stray[:n_strays]
    taken = [at for at in rows if at < end and at not in stray]
    for index, column in enumerate(columns):
        for key in range(n_keys):
            of_key = [at for at in taken if keys[at[0]][at[1]] == base + key]
            found = [values[part][index][row] for part, row in of_key]
            with np.errstate(invalid="ignore", over="ignore"):
                assert column.row(key) == by_definition(column.form, found)


@pytest.mark.parametrize(("form", "kind"), COLUMNS, ids=lambda member: member.name)
def test_records_have_all_there_is_to_values_of_a_kind(form: RecordForm, kind: ValueKind) -> None:
    rng, n_keys, n_rows = np.random.default_rng(9), 40, 200
    dtype = np.dtype(DTYPES[kind])
    edges: list[Any] = [math.nan, math.inf, -math.inf, -0.0, 0.0, 1.5, -2.25]
    if dtype.kind != "f":
        info = np.iinfo(dtype)
        edges = [info.min, info.min + 1, 0, 1, info.max // 2 + 1, info.max - 1, info.max]
    keys = rng.integers(0, n_keys, n_rows)
    values = rng.choice(np.array(edges, dtype), n_rows)
    # Keys of one value each, mostly, as zeros are of one sign.
    values = np.where(keys < 20, np.array(edges * 3, dtype)[keys % 20], values)
    column = Column(form, kind, n_keys)
    program = [(address(values), kind, address(column.records), form)]
    places = np.array([(address(keys), n_rows)], np.int64)
    strays = np.empty((0, 2), np.int64)
    assert add_rows(places, np.array([program], np.int64), 0, n_keys, strays) == (1, 0, 0)
    for key in range(n_keys):
        with np.errstate(invalid="ignore", over="ignore"):
            assert column.row(key) == by_definition(form, values[keys == key].tolist())


def test_blocks_follow_each_other_and_strays_may_be_anywhere() -> None:
    rng = np.random.default_rng(3)
    keys = rng.integers(0, 50, 5000)
    keys[rng.choice(5000, 40, replace=False)] = 99
    keys[[1023, 1024, 1025, 4999]] = -7
    values = rng.integers(-100, 100, 5000).astype(np.int16)
    doubles = rng.integers(-100, 100, 5000).astype(np.float32)
    columns = [Column(RecordForm.WORDS, ValueKind.I16, 50),
               Column(RecordForm.DOUBLES, ValueKind.F32, 50)]  # fmt: skip
    arrays: list[npt.NDArray[Any]] = [values, doubles]
    program = [
        (address(array), column.kind, address(column.records), column.form)
        for array, column in zip(arrays, columns, strict=True)
    ]
    strays = np.empty((100, 2), np.int64)
    places = np.array([(address(keys), 5000)], np.int64)
    done = add_rows(places, np.array([program], np.int64), 0, 50, strays)
    expected = np.flatnonzero((keys < 0) | (keys >= 50))
    assert done == (1, 0, len(expected))
    assert strays[: len(expected), 1].tolist() == expected.tolist()
    for column, array in zip(columns, arrays, strict=True):
        for key in range(50):
            assert column.row(key) == by_definition(column.form, array[keys == key].tolist())


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.integers(INT64_MIN, INT64_MAX), max_size=5), max_size=3))
def test_the_range_is_that_of_all_keys(parts: list[list[int]]) -> None:
    arrays = [np.array(part, np.int64) for part in parts]
    places = np.array([(address(part), len(part)) for part in arrays], np.int64).reshape(-1, 2)
    keys = [key for part in parts for key in part]
    assert find_range(places) == (min(keys, default=INT64_MAX), max(keys, default=INT64_MIN))


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(st.integers(-5, 9), max_size=9), max_size=3))
def test_different_keys_are_counted(parts: list[list[int]]) -> None:
    arrays = [np.array(part, np.int64) for part in parts]
    places = np.array([(address(part), len(part)) for part in arrays], np.int64).reshape(-1, 2)
    is_there = np.zeros(15, np.uint8)
    keys = {key for part in parts for key in part}
    assert count_distinct(places, -5, is_there) == len(keys)
    assert set((np.flatnonzero(is_there) - 5).tolist()) == keys


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 9), max_size=4), n_most=st.integers(1, 12))
def test_a_sample_is_of_all_parts_at_even_distances(sizes: list[int], n_most: int) -> None:
    keys = np.arange(sum(sizes))
    bounds = np.cumsum([0, *sizes])
    places = [(address(keys) + 8 * first, n) for first, n in zip(bounds, sizes, strict=False)]
    sample = np.full(n_most, UNTOUCHED, np.int64)
    n_taken = sample_keys(np.array(places, np.int64).reshape(-1, 2), sample)
    taken = sample[:n_taken].tolist()
    assert taken == keys[:: len(keys) // n_most + 1].tolist()
    assert (sample[n_taken:] == UNTOUCHED).all()


def check_dealt(
    forms: Sequence[RecordForm],
    counts: Sequence[I64],
    owners: I64,
    n_partitions: int,
    *,
    share: int,
    clears: Sequence[bool],
) -> None:
    """Deal records of some panes of these keys out, and hold the groups against a definition."""
    n_keys, n_panes = len(owners), len(counts)
    panes = [[Column(form, ValueKind.I64, n_keys) for form in forms] for _ in counts]
    for pane, of_pane in enumerate(panes):
        for number, column in enumerate(of_pane):
            width = N_WORDS[column.form]
            column.records[::width] = counts[pane]
            for word in range(1, width):
                first = 10_000 * (100 * pane + 10 * number + word)
                column.records[word::width] = first + np.arange(n_keys)
    before = [[column.records.copy() for column in of_pane] for of_pane in panes]
    order = np.argsort(owners, kind="stable").astype(np.uint32)
    n_of = np.bincount(owners, minlength=n_partitions)
    starts = np.concatenate([[0], np.cumsum(n_of)]).astype(np.int64)
    states = [(c, w) for c, form in enumerate(forms) for w in range(N_WORDS[form])]
    chosen = np.empty(n_keys, np.uint32)
    dealt = [np.full((1 + len(states), n_keys), UNTOUCHED, np.int64) for _ in counts]
    offsets = np.full((n_panes, n_partitions + 1), UNTOUCHED, np.int64)
    n_present = np.full(n_panes, UNTOUCHED, np.int64)
    table = [
        [(address(column.records), column.form, N_WORDS[column.form]) for column in of_pane]
        for of_pane in panes
    ]
    deal_records(
        np.array(table, np.int64), np.array(states, np.int64), 7, order, starts, share,
        np.array(clears, np.uint8), chosen, np.array([address(words) for words in dealt]),
        offsets, n_present,
    )  # fmt: skip
    for pane, of_pane in enumerate(panes):
        present = [key for key in range(n_keys) if counts[pane][key] > 0]
        n_used = max(present, default=-1) + 1
        takes_all = share > 0 and (n_used - len(present)) * share <= n_used
        groups = range(n_used) if takes_all else present
        expected = [[key for key in groups if owners[key] == p] for p in range(n_partitions)]
        assert n_present[pane] == len(present)
        assert offsets[pane, 0] == 0
        assert np.diff(offsets[pane]).tolist() == [len(keys) for keys in expected]
        in_order = [key for keys in expected for key in keys]
        n_groups = len(in_order)
        assert dealt[pane][0, :n_groups].tolist() == [7 + key for key in in_order]
        for row, (number, word) in enumerate(states, 1):
            words = before[pane][number][word :: N_WORDS[forms[number]]]
            assert dealt[pane][row, :n_groups].tolist() == words[in_order].tolist()
        assert (dealt[pane][:, n_groups:] == UNTOUCHED).all()
        for column, was in zip(of_pane, before[pane], strict=True):
            empty = by_definition(column.form, [])
            if clears[pane]:
                # The next pane begins with nothing.
                assert all(column.row(key) == empty for key in present)
            else:
                assert column.records.tolist() == was.tolist()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_groups_are_dealt_out_by_partition(data: st.DataObject) -> None:
    n_keys, n_partitions = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    counts = hnp.arrays(np.int64, n_keys, elements=st.integers(0, 2))
    panes = data.draw(st.lists(st.tuples(counts, st.booleans()), min_size=1, max_size=3))
    check_dealt(
        data.draw(st.lists(st.sampled_from(list(RecordForm)), min_size=1, max_size=2)),
        [counts for counts, _ in panes],
        data.draw(hnp.arrays(np.int64, n_keys, elements=st.integers(0, n_partitions - 1))),
        n_partitions,
        share=data.draw(st.sampled_from([0, 1, 2, 4])),
        clears=[clears for _, clears in panes],
    )


@pytest.mark.parametrize("n_keys", [127, 128, 129, 1000])
@pytest.mark.parametrize("share_absent", [0.0, 0.1, 0.5])
def test_groups_of_many_keys_are_dealt_out_in_blocks(n_keys: int, share_absent: float) -> None:
    rng = np.random.default_rng(n_keys)
    counts = [(rng.random(n_keys) >= share_absent).astype(np.int64) for _ in range(2)]
    owners = rng.integers(0, 3, n_keys)
    for clears in ((False, True), (True, False)):
        check_dealt(list(RecordForm), counts, owners, 3, share=8, clears=clears)


@given(hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(-1, 1)), st.integers(1, 4))
def test_words_that_are_not_0_are_counted(words: I64, width: int) -> None:
    assert count_present(words[::width]) == np.count_nonzero(words[::width])


def test_records_are_cleared_from_one_to_another() -> None:
    for form in RecordForm:
        records = np.full(5 * N_WORDS[form], UNTOUCHED, np.int64)
        clear_records(form, records, 1, 4)
        column = Column(form, ValueKind.I64, 0)
        column.records = records
        assert all(column.row(key) == by_definition(form, []) for key in (1, 2, 3))
        kept = records.reshape(5, -1)[[0, 4]]
        assert (kept == UNTOUCHED).all()


@pytest.mark.parametrize("kind", [kind for kind in ValueKind if kind <= ValueKind.F32])
def test_kinds_are_numbered_as_elsewhere(kind: ValueKind) -> None:
    assert getattr(kernels, f"_{kind.name}") == kind


def test_records_are_as_wide_as_layouts_say() -> None:
    assert record_layout._N_WORDS == N_WORDS


@pytest.mark.parametrize("opcode", list(record_layout._WORDS), ids=lambda opcode: opcode.name)
def test_records_without_rows_hold_what_accumulators_hold_at_first(opcode: Opcode) -> None:
    # Keys without rows are dealt out too, and added up with others.
    takes_doubles, word = record_layout._WORDS[opcode]
    records = np.full(4, UNTOUCHED, np.int64)
    clear_records(RecordForm.DOUBLES if takes_doubles else RecordForm.WORDS, records, 0, 1)
    (state,) = records[word : word + 1].view(STATE_DTYPE[opcode])
    np.testing.assert_equal(state, IDENTITY[opcode])
