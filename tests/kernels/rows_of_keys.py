"""Rows in steps, sorted by key, with a ring per key: what kernels over frames are tested with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from millstream.kernels.frames import size_row_frames
from millstream.kernels.ordering import group_rows

__all__ = ["CAPACITY", "N_KEYS", "Array", "RowsOfKeys", "locked", "long", "steps_of"]

Array = npt.NDArray[Any]

N_KEYS = 3
# More rows than a key ever has in a test, so that rings stay where they are.
CAPACITY = 64


def steps_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[tuple[int, Any]]]]:
    """Steps of rows, each row a key and a value."""
    rows = st.tuples(st.integers(0, N_KEYS - 1), values)
    return st.lists(st.lists(rows, max_size=8), max_size=6)


def locked(values: Sequence[Any] | Array, dtype: type) -> Array:
    """A read-only array, as those of Arrow are."""
    array = np.array(values, dtype)
    array.flags.writeable = False
    return array


def long(n_values: int = N_KEYS, fill: int = 0) -> npt.NDArray[np.int64]:
    """An array of int64."""
    return np.full(n_values, fill, np.int64)


class RowsOfKeys:
    """The arguments that kernels over frames have in common."""

    def __init__(self) -> None:
        self.heads, self.counts = long(), long()
        self.places, self.capacities = np.arange(N_KEYS) * CAPACITY, long(fill=CAPACITY)
        self.sort([])

    def sort(self, keys: Sequence[int]) -> None:
        """Begin a step with rows of these keys."""
        group_ids = np.array(keys, np.uint32)
        groups, offsets = np.empty(N_KEYS, np.uint32), long(N_KEYS + 1)
        self.order = np.empty(len(keys), np.uint32)
        marks = np.zeros(N_KEYS, np.uint32)
        n_found = group_rows(group_ids, marks, groups, offsets, self.order)
        self.group_ids = group_ids
        self.groups, self.offsets = groups[:n_found], offsets[: n_found + 1]
        self.starts, self.needs = long(len(keys)), long(n_found)

    @property
    def rows(self) -> tuple[Array, Array, Array]:
        """Arguments that say which rows there are."""
        return self.groups, self.offsets, self.order

    @property
    def rings(self) -> tuple[Array, Array, Array]:
        """Arguments that say where the rings are."""
        return self.counts, self.places, self.capacities

    @property
    def found(self) -> tuple[Array, Array]:
        """Arguments that frames are written to."""
        return self.starts, self.needs

    def open(self, preceding: int) -> None:
        """Find frames of preceding rows."""
        rows = (self.groups, self.offsets)
        self.are_full = size_row_frames(*rows, preceding, self.counts, self.needs)
        numbers = [
            self.counts[group] + nth
            for place, group in enumerate(self.groups)
            for nth in range(self.offsets[place + 1] - self.offsets[place])
        ]
        self.starts[:] = [max(number - preceding, 0) for number in numbers]
