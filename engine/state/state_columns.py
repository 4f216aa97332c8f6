"""What an aggregate keeps per group where one word does not do: the interface of such columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.engine.columns import validity
from millstream.kernels.bitmaps import expand_bits
from millstream.kernels.compile import I64, U8, U32

__all__ = ["Arrivals", "StateColumn", "StateSpec", "read_only", "resized", "valid_flags"]


class Arrivals:
    """The order in which the rows of a batch came in, as words to compare one after the other.

    Args:
        step: Number of what brought the rows; it ascends, and is the same for all partitions.
        first_row: Rows that the same operator saw before.
        n_rows: Rows of the batch.
    """

    def __init__(self, step: int, first_row: int, n_rows: int) -> None:
        self._step = step
        self._first_row = first_row
        self._n_rows = n_rows

    def words(self) -> list[I64]:
        """Return the step and the number of each row: int64[n_rows] each."""
        steps = np.full(self._n_rows, self._step, np.int64)
        return [steps, np.arange(self._first_row, self._first_row + self._n_rows, dtype=np.int64)]


class StateSpec(ABC):
    """Describes a state column; compared by content, so that calls share what they both need."""

    @abstractmethod
    def values(self, batch: pa.RecordBatch, arrivals: Arrivals) -> pa.Array:
        """Return what the column takes of the rows of a batch, as one array."""

    @abstractmethod
    def make(self) -> StateColumn:
        """Return a new column without groups."""


class StateColumn(ABC):
    """State of groups, numbered from 0.

    A column has room for ``capacity`` groups; those that have taken no value are NULL or empty.
    """

    @abstractmethod
    def add(self, values: pa.Array, group_ids: U32) -> None:
        """Take values of rows: uint32[n_rows] tells the group of each."""

    @abstractmethod
    def merge(self, states: pa.Array, group_ids: U32) -> None:
        """Take states that :meth:`take` gave: uint32[n_rows] tells the group that each goes to."""

    @abstractmethod
    def take(self, group_ids: U32 | slice) -> pa.Array:
        """Return the states of some groups."""

    @abstractmethod
    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        """Make new arrays for ``capacity`` groups, the first of which are those of ``kept``."""

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes of all arrays."""


def resized(
    values: npt.NDArray[Any], capacity: int, kept: U32 | slice, fill: float = 0
) -> npt.NDArray[Any]:
    """Return an array of ``capacity`` rows: first those of ``kept``, then ``fill``."""
    chosen = values[kept]
    new = np.full((capacity, *values.shape[1:]), fill, values.dtype)
    new[: len(chosen)] = chosen
    return new


def valid_flags(array: pa.Array) -> U8:
    """Return uint8[n_rows], 0 where a row is NULL; or an empty array if none is."""
    bitmap, bit_offset = validity(array)
    if bitmap is None:
        return _ALL_VALID
    flags = np.empty(len(array), np.uint8)
    expand_bits(bitmap, bit_offset, flags)
    flags.setflags(write=False)
    return flags


def read_only(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """View values such that kernels are compiled once, whoever owns the array."""
    view = values.view()
    view.setflags(write=False)
    return view


_ALL_VALID = np.empty(0, np.uint8)
_ALL_VALID.setflags(write=False)
