"""Rows that are all of one group, which have loops of their own."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest

from millstream.kernels.programs import Opcode, ValueKind
from tests.kernels.test_aggregation import INT64, Accumulator, Column, new_state, run

ROWS = [1, 2, 3, 4, 5, 7, 8, 1023, 1024, 1025, 1030]
WORDS = {
    Opcode.SUM_I64: np.add,
    Opcode.SUM_U64: np.add,
    Opcode.MIN_I64: np.minimum,
    Opcode.MAX_I64: np.maximum,
    Opcode.BIT_AND: np.bitwise_and,
    Opcode.BIT_OR: np.bitwise_or,
    Opcode.BIT_XOR: np.bitwise_xor,
}
GROUP = 3


def states(opcode, kind, values, valid=None):
    """Return the states after the values have come twice."""
    accumulator = Accumulator(opcode, kind, Column(values, valid))
    for _ in range(2):
        run([accumulator], np.full(len(values), GROUP, np.uint32))
    others = np.delete(accumulator.state, GROUP)
    assert np.array_equal(others, np.delete(new_state(opcode), GROUP), equal_nan=True)
    return accumulator.state[GROUP]


@pytest.mark.parametrize("opcode", WORDS)
@pytest.mark.parametrize("n_rows", ROWS)
def test_words_of_one_group(opcode, n_rows):
    rng = np.random.default_rng(n_rows)
    values = rng.integers(INT64.min, INT64.max, n_rows, endpoint=True)
    # The extremes are in each place once, over all numbers of rows.
    values[n_rows // 2], values[-1] = INT64.min, INT64.max
    got = states(opcode, ValueKind.I64, values)
    first = np.array(new_state(opcode)[:1]).view(np.int64)[0]
    twice = np.concatenate([[first], values, values])
    assert np.array(got).view(np.int64) == reduce(WORDS[opcode], twice)


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 1e300, -1e300])
def test_extremes_of_doubles_at_each_place(place, special):
    values = np.linspace(-5.0, 5.0, 9)
    values[place] = special
    least = states(Opcode.MIN_F64, ValueKind.F64, values)
    greatest = states(Opcode.MAX_F64, ValueKind.F64, values)
    numbers = values[~np.isnan(values)]
    assert least == numbers.min()
    assert np.isnan(greatest) if np.isnan(special) else greatest == values.max()


def test_nothing_but_nan_and_zeros_with_a_sign():
    nan = np.full(6, np.nan)
    assert np.isnan(states(Opcode.MIN_F64, ValueKind.F64, nan))
    assert np.isnan(states(Opcode.MAX_F64, ValueKind.F64, nan))
    zeros = np.full(6, -0.0)
    assert not np.signbit(states(Opcode.MIN_F64, ValueKind.F64, zeros))
    assert not np.signbit(states(Opcode.MAX_F64, ValueKind.F64, zeros))


@pytest.mark.parametrize("n_rows", ROWS)
def test_values_that_are_null_are_left_out(n_rows):
    rng = np.random.default_rng(n_rows)
    values, valid = rng.integers(-100, 100, n_rows), rng.random(n_rows) < 0.6
    valid[0] = True
    kept = values[valid]
    assert states(Opcode.MAX_I64, ValueKind.I64, values, valid) == kept.max()
    assert states(Opcode.MIN_F64, ValueKind.I64, values, valid) == kept.min()
    assert states(Opcode.SUM_F64, ValueKind.I64, values, valid) == 2 * kept.sum()
    assert states(Opcode.COUNT, ValueKind.I64, values, valid) == 2 * len(kept)
