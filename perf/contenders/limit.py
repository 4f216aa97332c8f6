"""What the machine's memory allows: nobody computes anything without reading the columns once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perf.cases import Case, Inputs, Prepared
from perf.records import Role

__all__ = ["SumColumns"]


@dataclass(frozen=True, slots=True)
class SumColumns:
    """NumPy's sum of each column of 64 bits.

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
        return "numpy.sum of each column, one thread"

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        table = inputs[self.stream].combine_chunks()
        words = [column.chunk(0).view(pa.int64()) for column in table.columns]
        arrays = [array.to_numpy() for array in words]

        def run() -> pa.Table:
            return pa.table(
                {
                    name: [int(np.sum(array))]
                    for name, array in zip(table.column_names, arrays, strict=True)
                }
            )

        def expected() -> pa.Table:
            return pa.table(
                {
                    name: [pc.sum(array).as_py()]
                    for name, array in zip(table.column_names, words, strict=True)
                }
            )

        return Prepared(run=run, expected=expected, keys=())
