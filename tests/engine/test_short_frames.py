"""Short frames of many keys, whose rings grow, move and are packed."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt
import pytest

from millstream.engine.state import short_frames
from millstream.engine.state.frame_interfaces import Fold
from millstream.engine.state.keyed_rows import KeyColumns, KeyedRows
from millstream.engine.state.short_frames import ShortFrame
from millstream.kernels.short_frames import copy_short_rings
from millstream.kernels.sliding import ADD, GREATEST, LEAST

Array = npt.NDArray[np.int64]
BEFORE = 7
FOLDED = {ADD: sum, LEAST: min, GREATEST: max}


class Steps:
    """A frame, the keys that it knows, and what all rows so far had."""

    def __init__(self, preceding: int) -> None:
        self.columns = KeyColumns()
        self.frame = ShortFrame(self.columns, preceding)
        self.width = preceding + 1
        self.n_known = 0
        self.seen: dict[int, list[int]] = defaultdict(list)

    def open(self, keys: Array) -> None:
        """Begin a step."""
        n_known = max(self.n_known, int(keys.max()) + 1)
        self.columns.grow(n_known)
        marks = np.zeros(n_known, np.uint32)
        self.frame.open(KeyedRows(keys.astype(np.uint32), self.n_known, marks, None))
        self.n_known = n_known

    def frames(self, keys: Array, values: Array) -> list[list[int]]:
        """Return what the frame of each row has, and remember the values."""
        frames = []
        for key, value in zip(keys.tolist(), values.tolist(), strict=True):
            self.seen[key].append(value)
            frames.append(self.seen[key][-self.width :])
        return frames

    @property
    def n_slots(self) -> int:
        """Slots that the rings of all keys need: powers of two from 2 on, or a full frame."""
        sizes = (max(1 << (len(values) - 1).bit_length(), 2) for values in self.seen.values())
        return sum(min(size, self.width) for size in sizes)


def some_rows(rng: np.random.Generator, n_keys: int, n_rows: int) -> tuple[Array, Array]:
    """Return keys, of which low ones are much more common, and values."""
    keys = (rng.random(n_rows) ** 4 * n_keys).astype(np.int64)
    return keys, rng.integers(-99, 99, n_rows)


def locked(values: Array) -> Array:
    values.setflags(write=False)
    return values


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Check what is copied, and list how many slots each packing copies of every key."""
    found: list[list[int]] = []

    def checked(groups: Array, sizes: Array, before: Array, places: Array, *slots: Array) -> None:
        source, target = slots
        assert (before + sizes <= len(source)).all()
        assert (places[groups] + sizes <= len(target)).all()
        if source is not target:
            found.append(sizes.tolist())
        copy_short_rings(groups, sizes, before, places, *slots)

    monkeypatch.setattr(short_frames, "copy_short_rings", checked)
    return found


@pytest.mark.parametrize("preceding", [0, 1, 2, 9, 31])
@pytest.mark.usefixtures("packings")
def test_rings_of_many_keys(preceding: int) -> None:
    rng, steps = np.random.default_rng(preceding), Steps(preceding)
    folds = {operation: steps.frame.new_fold(operation, np.int64, "v") for operation in FOLDED}
    late: Fold | None = None
    for step in range(30):
        keys, values = some_rows(rng, 100 * (step + 1), 700)
        if step == 12:
            late = steps.frame.new_fold_of_ones()
            words = steps.frame.new_first_words(BEFORE)
            firsts = Steps(preceding)
            firsts.seen.update({key: [BEFORE] * len(seen) for key, seen in steps.seen.items()})
        steps.open(keys)
        frames = steps.frames(keys, values)
        for fold in folds.values():
            fold.put(locked(values), has_nulls=step == 20)
        if late is not None:
            late.put(locked(np.ones(len(keys), np.int64)), has_nulls=False)
        steps.frame.fold()
        assert steps.frame.lengths.tolist() == [len(frame) for frame in frames]
        for operation, fold in folds.items():
            assert fold.out.tolist() == [FOLDED[operation](frame) for frame in frames]
        if late is not None:
            assert late.out.tolist() == [len(frame) for frame in frames]
            out = words.of(locked(values))
            assert out.tolist() == [frame[0] for frame in firsts.frames(keys, values)]
        steps.frame.close()
        # What rings that have moved left behind is a quarter at most.
        n_columns = 1 if step < 12 else 3 if step < 20 else 5
        slot_bytes = steps.frame.state_bytes / (8 * n_columns)
        assert steps.n_slots < slot_bytes <= 1 + steps.n_slots * 4 / 3


def test_keys_with_one_row_take_little_memory(packings: list[list[int]]) -> None:
    steps = Steps(31)
    steps.frame.new_fold(ADD, np.int64, "v")
    keys = np.arange(100_000)
    for start in range(0, len(keys), 1_000):
        steps.open(keys[start : start + 1_000])
        steps.frame.close()
    # Two slots for each; a full frame has 32.
    assert steps.frame.state_bytes == 8 * (1 + 2 * len(keys))
    # Room is doubled each time.
    assert 1 <= len(packings) <= 10


def test_rings_are_packed_once_many_have_moved(packings: list[list[int]]) -> None:
    steps = Steps(9)
    steps.frame.new_fold(ADD, np.int64, "v")
    steps.open(np.repeat(np.arange(3000), 8))
    steps.frame.close()
    packings.clear()
    # There is room for the larger rings of these, but a third of all slots would be left behind.
    steps.open(np.arange(1700))
    steps.frame.close()
    assert steps.frame.state_bytes == 8 * (1 + 1700 * 10 + 1300 * 8)
    (sizes,) = packings
    assert sizes[:3000] == [8] * 3000
    assert not any(sizes[3000:])
