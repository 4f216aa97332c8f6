"""Sets of pairs, in slots or as bits, against sets of Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.state.pair_set import PairSet

I64 = npt.NDArray[np.int64]
LEAST, GREATEST = -(1 << 63), (1 << 63) - 1
# Bytes that a set has whatever is in it.
FEW_BYTES = 2048


class Checked:
    """A set of pairs beside one of Python."""

    def __init__(self) -> None:
        self.pairs = PairSet(1)
        self.known: set[tuple[int, int]] = set()

    @property
    def are_bits(self) -> bool:
        return self.pairs._bits is not None

    def add(self, values: Any, owners: Any, is_null: Any = None) -> None:
        words, groups = np.array(values, np.int64), np.array(owners, np.uint32)
        flags = None if is_null is None else np.array(is_null, np.uint8)
        expected = []
        for row, pair in enumerate(zip(groups.tolist(), words.tolist(), strict=True)):
            if pair not in self.known and (flags is None or not flags[row]):
                expected.append(row)
                self.known.add(pair)
        assert self.pairs.add([words], flags, groups).tolist() == expected
        self.check()

    def check(self) -> None:
        assert self.pairs.n_pairs == len(self.known)
        n_owners = max((owner for owner, _ in self.known), default=0) + 1
        assert self.listed(np.arange(n_owners)) == self.known
        assert self.pairs.state_bytes <= 64 * self.most() + FEW_BYTES

    def most(self) -> int:
        return max(self.pairs.n_pairs, self.pairs._n_before)

    def listed(self, numbers: I64) -> set[tuple[int, int]]:
        owners, words = self.pairs.of(numbers)
        listed = list(zip(owners.tolist(), words[0].tolist(), strict=True))
        assert len(set(listed)) == len(listed)
        return set(listed)

    def retain(self, groups: list[int]) -> None:
        """Keep some groups under new numbers."""
        numbers = np.full(max(groups, default=-1) + 1, -1, np.int64)
        numbers[groups] = np.arange(len(groups))
        owners, words = self.pairs.of(numbers)
        self.pairs.replace(list(words), owners)
        heirs = {group: number for number, group in enumerate(groups)}
        self.known = {(heirs[g], value) for g, value in self.known if g in heirs}
        self.check()


def test_close_values_become_bits_and_take_less_memory() -> None:
    checked, rng = Checked(), np.random.default_rng(1)
    for _ in range(10):
        checked.add(rng.integers(-500, 500, 3000), rng.integers(0, 20, 3000))
    assert checked.are_bits
    assert checked.pairs.state_bytes < checked.pairs.n_pairs


def test_bits_make_room_for_more_values_and_groups() -> None:
    checked, rng = Checked(), np.random.default_rng(2)
    for step in range(40):
        low, high = -1000 * step - 64, 1000 * step + 64
        checked.add(rng.integers(low, high, 4000), rng.integers(0, 1 + step // 4, 4000))
    assert checked.are_bits


@pytest.mark.parametrize("far", [LEAST, GREATEST, 10**12, -(10**12)])
def test_values_far_from_the_others_end_bits(far: int) -> None:
    checked = Checked()
    checked.add(np.arange(5000), np.zeros(5000))
    assert checked.are_bits
    checked.add([17, far, 18, far, 6000], [0, 0, 0, 1, 0])
    assert not checked.are_bits
    # They do not come back at once.
    checked.add(np.arange(6000), np.zeros(6000))
    assert not checked.are_bits


def test_groups_with_few_values_each_end_bits() -> None:
    checked = Checked()
    checked.add(np.arange(5000), np.zeros(5000))
    assert checked.are_bits
    checked.add(np.zeros(3000), np.arange(3000))
    assert not checked.are_bits


@pytest.mark.parametrize("base", [LEAST, GREATEST - 5000, -2500, 0])
def test_bits_at_the_ends_of_all_values(base: int) -> None:
    checked = Checked()
    checked.add(np.arange(3000) + base, np.arange(3000) % 2)
    assert checked.are_bits
    checked.add(np.arange(5001) + base, np.arange(5001) % 3)
    assert checked.are_bits


def test_bits_stay_from_one_window_to_the_next() -> None:
    checked, rng = Checked(), np.random.default_rng(3)
    for _ in range(4):
        checked.add(rng.integers(0, 5000, 20_000), rng.integers(0, 10, 20_000))
        assert checked.are_bits
        checked.retain([7, 2])
        assert checked.are_bits
        checked.retain([])
        assert checked.are_bits
    # Where nothing comes any more, nothing is kept for it.
    checked.retain([])
    assert not checked.are_bits
    assert checked.pairs.state_bytes <= FEW_BYTES


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_whatever_comes_each_pair_is_there_once(data: st.DataObject) -> None:
    checked = Checked()
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 8))):
        kind = data.draw(st.sampled_from(["close", "moving", "far", "many groups", "retain"]))
        n_rows = data.draw(st.sampled_from([0, 1, 50, 700, 3000]))
        values, owners = rng.integers(0, 300, n_rows), rng.integers(0, 6, n_rows)
        if kind == "retain":
            n_groups = max((group for group, _ in checked.known), default=-1) + 1
            checked.retain(rng.permutation(n_groups)[: rng.integers(0, n_groups + 1)].tolist())
            continue
        if kind == "moving":
            values += int(rng.integers(-3000, 3000))
        elif kind == "far":
            far = rng.choice([LEAST, GREATEST, 10**9], n_rows)
            values = np.where(rng.random(n_rows) < 0.01, far, values)
        elif kind == "many groups":
            owners = rng.integers(0, 400, n_rows)
        is_null = (rng.random(n_rows) < 0.2) if data.draw(st.booleans()) else None
        checked.add(values, owners, is_null)
