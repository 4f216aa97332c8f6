"""Where a generator takes its decisions from: a seeded generator of numbers, or Hypothesis."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from hypothesis import strategies as st

__all__ = ["Chooser", "HypothesisChooser", "SeededChooser"]

T = TypeVar("T")


class Chooser(ABC):
    """Takes decisions; equal decisions give equal cases."""

    @abstractmethod
    def integer(self, low: int, high: int) -> int:
        """Choose an integer, both bounds included."""

    def chance(self, percent: int) -> bool:
        """Say yes that often; no is the simpler answer."""
        return self.integer(0, 99) >= 100 - percent

    def choice(self, options: Sequence[T]) -> T:
        """Choose an option; the first is the simplest."""
        return options[self.integer(0, len(options) - 1)]

    def sample(self, options: Sequence[T], n_min: int, n_max: int) -> list[T]:
        """Choose some different options, in a chosen order."""
        rest = list(options)
        n_chosen = self.integer(min(n_min, len(rest)), min(n_max, len(rest)))
        return [rest.pop(self.integer(0, len(rest) - 1)) for _ in range(n_chosen)]


class SeededChooser(Chooser):
    """Takes decisions from NumPy's generator.

    Args:
        seed: Any integer.
        purpose: Makes different sequences from one seed.
    """

    def __init__(self, seed: int, purpose: str = "") -> None:
        self._random = np.random.default_rng([seed, zlib.crc32(purpose.encode())])

    def integer(self, low: int, high: int) -> int:
        return int(self._random.integers(low, high, endpoint=True))


class HypothesisChooser(Chooser):
    """Lets Hypothesis decide, so that it can shrink a case that fails."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))
