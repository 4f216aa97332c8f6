"""What frames of window functions have in common, and what some of them can do besides."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from millstream.engine.state.frame_moments import MomentsFold
from millstream.engine.state.keyed_rows import KeyedRows
from millstream.kernels.compile import I64

__all__ = [
    "FirstWords",
    "FirstWordsFrame",
    "Fold",
    "Frame",
    "MomentsFrame",
    "Number",
    "Values",
]

Number: TypeAlias = np.int64 | np.float64
Values: TypeAlias = npt.NDArray[Any]


class Fold(Protocol):
    """Folds one column of values over a frame.

    Attributes:
        out: [n_rows], of the last step.
    """

    out: Values

    def put(self, values: Values, *, has_nulls: bool) -> None:
        """Hand over what to fold in this step, before the frame folds.

        Args:
            values: [n_rows] of the fold's type, read-only, with what changes nothing for NULLs.
            has_nulls: Whether there are any.
        """


class Frame(Protocol):
    """Which rows of its key each row sees."""

    @property
    def n_rows(self) -> int:
        """Rows that are kept."""

    @property
    def state_bytes(self) -> int:
        """Bytes that are kept, without those of columns per key."""

    @property
    def lengths(self) -> I64:
        """int64[n_rows] while open, the number of rows in each row's frame."""

    def open(self, rows: KeyedRows) -> None:
        """Begin a step."""

    def fold(self) -> None:
        """Compute all folds, from values that they have been given."""

    def close(self) -> None:
        """End a step."""

    def new_fold(self, operation: int, dtype: type[Number], source: Hashable) -> Fold:
        """Return a fold that has seen no rows.

        Args:
            operation: Of :mod:`millstream.kernels.sliding`.
            dtype: Of the values.
            source: Folds with one source and type are given the same values, NULLs aside.
        """

    def new_fold_of_ones(self) -> Fold:
        """Return a sum of integers that has seen a one in every row before the step."""


class MomentsFrame(Frame, Protocol):
    """A frame that has moments."""

    def new_moments(self, width: int) -> MomentsFold:
        """Return moments that have seen no rows; the width is that of values or of pairs."""


class FirstWords(Protocol):
    """What the first row of each frame has in a column of words of 64 bits."""

    def of(self, words: I64) -> I64:
        """Take in a step while the frame is open, and return the words of first rows.

        Args:
            words: int64[n_rows], read-only.

        Returns:
            int64[n_rows].
        """


class FirstWordsFrame(Frame, Protocol):
    """A frame that knows its first row."""

    def new_first_words(self, fill: int = 0) -> FirstWords:
        """Return a column that was ``fill`` in all rows so far."""
