"""Accumulators against loops over Python numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.state.word_states import IDENTITY, STATE_DTYPE
from millstream.kernels.aggregation import accumulate
from millstream.kernels.programs import Field, Opcode, ValueKind
from tests.kernels.value_types import DTYPES

N_GROUPS = 5
INT64 = np.iinfo(np.int64)

SIGNED = [ValueKind.I8, ValueKind.I16, ValueKind.I32, ValueKind.I64]
UNSIGNED = [ValueKind.U8, ValueKind.U16, ValueKind.U32, ValueKind.U64]
FLOATS = [ValueKind.F32, ValueKind.F64]


@dataclass(frozen=True)
class Column:
    """Values of rows, NULLs among them, as they lie in a sliced Arrow array."""

    values: npt.NDArray[Any]
    valid: npt.NDArray[np.bool_] | None = None
    bit_offset: int = 0

    def bitmap(self) -> npt.NDArray[np.uint8] | None:
        if self.valid is None:
            return None
        padding = np.ones(self.bit_offset, np.bool_)
        return np.packbits(np.concatenate([padding, self.valid]), bitorder="little")

    def rows(self, group_ids: npt.NDArray[np.uint32], group_id: int) -> list[int]:
        return [
            row
            for row in range(len(group_ids))
            if group_ids[row] == group_id and (self.valid is None or self.valid[row])
        ]

    def of_group(self, group_ids: npt.NDArray[np.uint32], group_id: int) -> list[Any]:
        values = self.values.tolist()
        return [values[row] for row in self.rows(group_ids, group_id)]


def new_state(opcode: Opcode) -> npt.NDArray[Any]:
    return np.full(N_GROUPS, IDENTITY[opcode], STATE_DTYPE[opcode])


@dataclass
class Accumulator:
    opcode: Opcode
    kind: ValueKind
    column: Column | None

    def __post_init__(self) -> None:
        self.state = new_state(self.opcode)
        self.seen = np.zeros(N_GROUPS, np.uint8)
        self.bitmap = None if self.column is None else self.column.bitmap()

    def step(self) -> list[int]:
        fields = dict.fromkeys(Field, 0)
        fields[Field.OPCODE] = self.opcode
        fields[Field.VALUE_KIND] = self.kind
        fields[Field.STATE] = self.state.ctypes.data
        fields[Field.SEEN] = self.seen.ctypes.data
        if self.column is not None:
            fields[Field.VALUES] = self.column.values.ctypes.data
            fields[Field.VALIDITY_OFFSET] = self.column.bit_offset
        if self.bitmap is not None:
            fields[Field.VALIDITY] = self.bitmap.ctypes.data
        return [fields[field] for field in Field]


def run(
    accumulators: Sequence[Accumulator],
    group_ids: npt.NDArray[np.uint32],
    cuts: Sequence[int] = (),
) -> None:
    program = np.array([accumulator.step() for accumulator in accumulators], np.int64)
    frozen = group_ids.view()
    frozen.flags.writeable = False
    borders = [0, *sorted(min(cut, len(group_ids)) for cut in cuts), len(group_ids)]
    # Each part has its own values, and what is remembered goes from part to part.
    programs = np.repeat(program[np.newaxis], len(borders) - 1, axis=0)
    for steps, start in zip(programs, borders, strict=False):
        for step, accumulator in zip(steps, accumulators, strict=True):
            if accumulator.column is not None:
                step[Field.VALUES] += accumulator.column.values[:start].nbytes
                step[Field.VALIDITY_OFFSET] += start
    accumulate(programs, np.array(borders, np.int64), frozen)


def wrap(value: int, n_bits: int = 64) -> int:
    half = 1 << (n_bits - 1)
    return (value + half) % (2 * half) - half


def group_ids_of(n_rows: int) -> st.SearchStrategy[npt.NDArray[np.uint32]]:
    return hnp.arrays(
        np.uint32, n_rows, elements=st.integers(0, N_GROUPS - 1), fill=st.just(np.uint32(3))
    )


@st.composite
def columns(draw: st.DrawFn, kinds: Sequence[ValueKind]) -> tuple[ValueKind, Column, Any]:
    kind = draw(st.sampled_from(kinds))
    n_rows = draw(st.integers(0, 40))
    # A slice: values do not begin where their buffer does.
    values = draw(hnp.arrays(DTYPES[kind], n_rows + 3))[3:]
    valid = draw(st.none() | hnp.arrays(np.bool_, n_rows))
    column = Column(values, valid, draw(st.integers(0, 17)))
    return kind, column, draw(group_ids_of(n_rows))


CUTS = st.lists(st.integers(0, 40), max_size=3)


@given(columns([*DTYPES]), CUTS)
def test_count_takes_rows_with_values(drawn: tuple[ValueKind, Column, Any], cuts: Any) -> None:
    kind, column, group_ids = drawn
    values = Accumulator(Opcode.COUNT, kind, column)
    rows = Accumulator(Opcode.COUNT, ValueKind.I64, None)
    run([values, rows], group_ids, cuts)
    expected = [len(column.of_group(group_ids, group)) for group in range(N_GROUPS)]
    assert values.state.tolist() == expected
    assert values.seen.tolist() == [int(count > 0) for count in expected]
    assert rows.state.tolist() == np.bincount(group_ids, minlength=N_GROUPS).tolist()


@given(columns(SIGNED), CUTS)
def test_signed_integers(drawn: tuple[ValueKind, Column, Any], cuts: Any) -> None:
    kind, column, group_ids = drawn
    opcodes = [
        Opcode.SUM_I64,
        Opcode.MIN_I64,
        Opcode.MAX_I64,
        Opcode.BIT_AND,
        Opcode.BIT_OR,
        Opcode.BIT_XOR,
    ]
    accumulators = [Accumulator(opcode, kind, column) for opcode in opcodes]
    run(accumulators, group_ids, cuts)
    for group in range(N_GROUPS):
        values = column.of_group(group_ids, group)
        assert [a.state[group] for a in accumulators] == [
            wrap(sum(values)),
            min(values, default=INT64.max),
            max(values, default=INT64.min),
            np.bitwise_and.reduce(np.array(values, np.int64)),
            np.bitwise_or.reduce(np.array(values, np.int64)),
            np.bitwise_xor.reduce(np.array(values, np.int64)),
        ]
        assert {int(a.seen[group]) for a in accumulators} == {int(bool(values))}


@given(columns(UNSIGNED), CUTS)
def test_unsigned_integers(drawn: tuple[ValueKind, Column, Any], cuts: Any) -> None:
    kind, column, group_ids = drawn
    opcodes = [Opcode.SUM_U64, Opcode.MIN_U64, Opcode.MAX_U64]
    accumulators = [Accumulator(opcode, kind, column) for opcode in opcodes]
    run(accumulators, group_ids, cuts)
    for group in range(N_GROUPS):
        values = column.of_group(group_ids, group)
        assert [int(a.state[group]) for a in accumulators] == [
            sum(values) % 2**64,
            min(values, default=2**64 - 1),
            max(values, default=0),
        ]


def close(actual: float, expected: float, scale: float) -> bool:
    if not math.isfinite(expected) or not math.isfinite(scale):
        return not math.isfinite(actual)
    return abs(actual - expected) <= 1e-12 * scale


@given(columns([*DTYPES]), CUTS)
def test_sums_of_doubles(drawn: tuple[ValueKind, Column, Any], cuts: Any) -> None:
    kind, column, group_ids = drawn
    # Halves keep the sum of the largest doubles from reaching infinity or not by order alone.
    if kind in FLOATS:
        column = Column(column.values / DTYPES[kind](64), column.valid, column.bit_offset)
    total = Accumulator(Opcode.SUM_F64, kind, column)
    run([total], group_ids, cuts)
    for group in range(N_GROUPS):
        values = [float(value) for value in column.of_group(group_ids, group)]
        scale = sum(abs(value) for value in values)
        assert close(total.state[group], sum(values), scale)


def order_of_doubles(value: float) -> float:
    return math.inf if math.isnan(value) else value


@given(columns(FLOATS), CUTS)
def test_extremes_of_doubles(drawn: tuple[ValueKind, Column, Any], cuts: Any) -> None:
    kind, column, group_ids = drawn
    least = Accumulator(Opcode.MIN_F64, kind, column)
    greatest = Accumulator(Opcode.MAX_F64, kind, column)
    run([least, greatest], group_ids, cuts)
    for group in range(N_GROUPS):
        values = column.of_group(group_ids, group)
        numbers = [value + 0.0 for value in values if not math.isnan(value)]
        lowest = min(numbers, default=math.nan)
        highest = math.nan if len(numbers) < len(values) else max(numbers, default=-math.inf)
        for actual, expected in ((least, lowest), (greatest, highest)):
            assert np.array_equal(actual.state[group], expected, equal_nan=True)
            assert math.isnan(expected) or math.copysign(1, expected) == math.copysign(
                1, actual.state[group]
            )


@pytest.mark.parametrize("n_groups", [1, 2])
def test_extremes_do_not_depend_on_the_sign_of_zero_or_of_nan(n_groups: int) -> None:
    group_ids = np.arange(8, dtype=np.uint32) // 4 % n_groups
    negative_nan = -np.float64(np.nan)
    values = np.array([0.0, -0.0, negative_nan, np.nan] * 2)
    least = Accumulator(Opcode.MIN_F64, ValueKind.F64, Column(values))
    greatest = Accumulator(Opcode.MAX_F64, ValueKind.F64, Column(values))
    run([least, greatest], group_ids)
    assert least.state[:n_groups].tolist() == [0.0] * n_groups
    assert not np.signbit(least.state[:n_groups]).any()
    assert np.isnan(greatest.state[:n_groups]).all()


@pytest.mark.parametrize("n_rows", [1023, 1024, 1025, 5000])
def test_accumulators_share_values_over_many_blocks(n_rows: int) -> None:
    random = np.random.default_rng(n_rows)
    group_ids = random.integers(0, N_GROUPS, n_rows).astype(np.uint32)
    # The third block belongs to one group alone, as rows of a query without keys do.
    group_ids[2048:3072] = 2
    ints = Column(random.integers(-100, 100, n_rows).astype(np.int16))
    floats = Column(random.integers(-100, 100, n_rows) / 4, random.random(n_rows) < 0.5, 3)
    accumulators = [
        Accumulator(Opcode.COUNT, ValueKind.F64, floats),
        Accumulator(Opcode.SUM_F64, ValueKind.F64, floats),
        Accumulator(Opcode.MAX_F64, ValueKind.F64, floats),
        Accumulator(Opcode.MIN_F64, ValueKind.F64, floats),
        Accumulator(Opcode.SUM_I64, ValueKind.I16, ints),
        Accumulator(Opcode.SUM_F64, ValueKind.I16, ints),
        Accumulator(Opcode.COUNT, ValueKind.I64, None),
    ]
    run(accumulators, group_ids)
    for group in range(N_GROUPS):
        of_ints = ints.of_group(group_ids, group)
        of_floats = floats.of_group(group_ids, group)
        assert [a.state[group] for a in accumulators] == [
            len(of_floats),
            sum(of_floats),
            max(of_floats),
            min(of_floats),
            sum(of_ints),
            sum(of_ints),
            len(of_ints),
        ]


def test_partial_states_merge_by_the_same_opcodes() -> None:
    # Two partial tables of groups 0 and 1; in the second, group 1 has seen no value.
    partial_least = Column(np.array([4.0, 7.0, 2.0, math.nan]), np.array([True, True, True, False]))
    counts = Column(np.array([3, 1, 2, 0], np.int64))
    least = Accumulator(Opcode.MIN_F64, ValueKind.F64, partial_least)
    count = Accumulator(Opcode.SUM_I64, ValueKind.I64, counts)
    run([least, count], np.array([0, 1, 0, 1], np.uint32))
    assert least.state[:2].tolist() == [2.0, 7.0]
    assert count.state[:2].tolist() == [5, 1]


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("kind", [ValueKind.I64, ValueKind.F64])
def test_extremes_that_change_in_all_rows_then_in_none_then_in_some(
    kind: ValueKind, n_groups: int
) -> None:
    random = np.random.default_rng(n_groups)
    n_rows = 9000
    falling_and_rising = np.arange(n_rows) * np.where(np.arange(n_rows) % 2 == 0, 1, -1)
    parts = [falling_and_rising, np.zeros(100_000), random.integers(-(10**6), 10**6, 5003)]
    column = Column(np.concatenate(parts).astype(DTYPES[kind]))
    group_ids = random.integers(0, n_groups, len(column.values)).astype(np.uint32)
    opcodes = [Opcode.MIN_I64, Opcode.MAX_I64]
    if kind == ValueKind.F64:
        opcodes = [Opcode.MIN_F64, Opcode.MAX_F64]
    accumulators = [Accumulator(opcode, kind, column) for opcode in opcodes]
    run(accumulators, group_ids, [5000, 9000, 60_000, 108_999, 109_001])
    for group in range(n_groups):
        values = column.values[group_ids == group]
        assert [a.state[group] for a in accumulators] == [values.min(), values.max()]


def test_a_step_without_a_state_is_left_out() -> None:
    ints = Column(np.array([5, 6, 7], np.int64))
    # What the step beside it would have loaded must not be taken for loaded.
    narrow = Column(np.array([1, 2, 3], np.int8))
    total = Accumulator(Opcode.SUM_I64, ValueKind.I64, ints)
    left_out = Accumulator(Opcode.SUM_I64, ValueKind.I8, narrow)
    of_narrow = Accumulator(Opcode.SUM_I64, ValueKind.I8, narrow)
    steps = [left_out.step(), total.step(), left_out.step(), of_narrow.step()]
    programs = np.array([steps], np.int64)
    programs[0, [0, 2], Field.STATE] = 0
    accumulate(programs, np.array([0, 3], np.int64), np.array([0, 1, 0], np.uint32))
    assert total.state[:2].tolist() == [12, 6]
    assert of_narrow.state[:2].tolist() == [4, 2]
    assert left_out.state.tolist() == [0] * N_GROUPS
