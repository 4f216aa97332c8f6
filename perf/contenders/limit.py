"""What the machine's memory allows: nobody computes anything without reading the columns once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from perf.cases import Case, Inputs, Prepared
from perf.records import Role

__all__ = ["CopyColumns", "SumColumns"]


@dataclass(frozen=True, slots=True)
class SumColumns:
    """NumPy's sum of the memory of each column, as words of 64 bits.

    Attributes:
        stream: Name of the table.
    """

    stream: str

    @property
    def name(self) -> str:
        return "limit: numpy sums"

    @property
    def role(self) -> Role:
        return "limit"

    def describe(self, case: Case) -> str:
        return "numpy.sum over the buffers of each column, one thread"

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        words = _words(inputs[self.stream])
        return Prepared(run=lambda: _sums(words), expected=lambda: _checked_sums(words), keys=())


@dataclass(frozen=True, slots=True)
class CopyColumns:
    """A copy of the memory of each column to memory that is there already.

    Attributes:
        stream: Name of the table.
    """

    stream: str

    @property
    def name(self) -> str:
        return "limit: numpy copies"

    @property
    def role(self) -> Role:
        return "limit"

    def describe(self, case: Case) -> str:
        return "numpy.copyto over the buffers of each column, one thread"

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        words = _words(inputs[self.stream])
        copies = {name: np.zeros_like(array) for name, array in words.items()}

        def run() -> pa.Table:
            for name, array in words.items():
                np.copyto(copies[name], array)
            return _sums(_samples(copies))

        return Prepared(run=run, expected=lambda: _checked_sums(_samples(words)), keys=())


def _samples(words: dict[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[np.int64]]:
    """Return a word of each page: what is timed is the copy and not the check."""
    return {name: array[::512] for name, array in words.items()}


def _words(table: pa.Table) -> dict[str, npt.NDArray[np.int64]]:
    """View the buffers of all columns: int64[n_words] by a name."""
    words = {}
    for name, column in zip(table.column_names, table.combine_chunks().columns, strict=True):
        for place, buffer in enumerate(column.chunk(0).buffers()):
            if buffer is not None and buffer.size >= 8:
                words[f"{name} {place}"] = np.frombuffer(buffer, np.int64, buffer.size // 8)
    return words


def _sums(words: dict[str, npt.NDArray[np.int64]]) -> pa.Table:
    return pa.table({name: [int(np.sum(array))] for name, array in words.items()})


def _checked_sums(words: dict[str, npt.NDArray[np.int64]]) -> pa.Table:
    return pa.table({name: [pc.sum(pa.array(array)).as_py()] for name, array in words.items()})
