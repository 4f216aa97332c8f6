"""Pairs as bits against sets of Python."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.kernels.pair_bits import (
    add_bits,
    find_pairs_bounds,
    find_rows_bounds,
    list_bits,
)
from millstream.kernels.pairs import add_pairs

LEAST, GREATEST = -(1 << 63), (1 << 63) - 1
NO_NULLS = np.empty(0, np.uint8)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_rows_are_added_up_to_the_first_without_a_bit(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([LEAST, -128, 0, GREATEST - 127]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n_rows, n_owners = data.draw(st.integers(0, 200)), 3
    values = base + rng.integers(0, 128, n_rows)
    owners = rng.integers(0, n_owners, n_rows).astype(np.uint32)
    is_null = (rng.random(n_rows) < 0.3).astype(np.uint8) if data.draw(st.booleans()) else NO_NULLS
    stops = n_rows
    if n_rows > 0 and data.draw(st.booleans()):
        stops = data.draw(st.integers(0, n_rows - 1))
        if data.draw(st.booleans()):
            owners[stops] = n_owners
        else:
            values[stops] = base - 1 if base > LEAST else base + 128
        is_null[stops : stops + 1] = 0
    bits = np.zeros((n_owners, 2), np.uint64)
    new_rows = np.full(n_rows, 99, np.uint32)
    done, n_new = add_bits(owners, values.ctypes.data, is_null, 0, bits, base, new_rows, 0)
    assert done == stops
    known, expected = set(), []
    for row in range(stops):
        pair = int(owners[row]), int(values[row])
        if pair not in known and not (len(is_null) and is_null[row]):
            known.add(pair)
            expected.append(row)
    assert new_rows[:n_new].tolist() == expected
    numbers = np.array([5, -1, 7])[: data.draw(st.integers(0, 3))]
    listed_owners, listed = np.zeros(len(known), np.uint32), np.zeros(len(known), np.int64)
    n_listed = list_bits(bits, base, numbers, listed_owners, listed)
    found = zip(listed_owners[:n_listed].tolist(), listed[:n_listed].tolist(), strict=True)
    chosen = [owner for owner, number in enumerate(numbers.tolist()) if number >= 0]
    assert list(found) == sorted(
        (int(numbers[owner]), value) for owner, value in known if owner in chosen
    )


@pytest.mark.parametrize("is_null", [[0, 0, 0, 0], [0, 1, 0, 1], []])
def test_bounds_of_rows_are_of_those_with_values(is_null: list[int]) -> None:
    values, owners = np.array([3, GREATEST, -7, LEAST]), np.array([1, 9, 4, 2], np.uint32)
    kept = [row for row in range(4) if not is_null or not is_null[row]]
    for row in [row for row in range(4) if row in kept]:
        rest = [at for at in kept if at >= row]
        found = find_rows_bounds(owners, values.ctypes.data, np.array(is_null, np.uint8), row)
        assert found == (
            min(int(values[at]) for at in rest),
            max(int(values[at]) for at in rest),
            max(int(owners[at]) for at in rest),
        )


def test_bounds_of_slots_are_of_the_taken_ones() -> None:
    values: npt.NDArray[np.int64] = np.array([5, LEAST, 17, GREATEST])
    owners, entries = np.array([3, 0, 11, 2], np.uint32), np.zeros((16, 2), np.int64)
    at = np.array([values.ctypes.data], np.int64)
    add_pairs(owners, at, NO_NULLS, 0, entries, 0, np.empty(4, np.uint32), 0)
    assert find_pairs_bounds(entries) == (LEAST, GREATEST, 11)
