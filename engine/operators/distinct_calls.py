"""Aggregate functions over distinct values, by group ids."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from millstream.engine.operators.aggregate_functions import Finish, plan_accumulators
from millstream.engine.state.distinct import DistinctValues
from millstream.kernels.compile import U32
from millstream.planner.nodes import AggregateCall

__all__ = ["DistinctCalls"]


class DistinctCalls:
    """Computes calls with DISTINCT; those over one column share its distinct values.

    Args:
        calls: Aggregates over one column each.
        rows_schema: Schema of the rows that are aggregated.
    """

    def __init__(self, calls: Sequence[AggregateCall], rows_schema: pa.Schema) -> None:
        self._columns = [call.arguments[0] for call in calls]
        self._values: dict[str, DistinctValues] = {}
        self._finishes: dict[str, list[Finish]] = {}
        for column in dict.fromkeys(self._columns):
            of_column = [call for call in calls if call.arguments[0] == column]
            plan = plan_accumulators(of_column, rows_schema)
            type_ = rows_schema.field(column).type
            self._values[column] = DistinctValues(column, type_, plan.specs)
            self._finishes[column] = plan.finishes

    @property
    def state_bytes(self) -> int:
        """Bytes of the values kept."""
        return sum(values.state_bytes for values in self._values.values())

    def add(self, batch: pa.RecordBatch, group_ids: U32) -> None:
        """Take rows: uint32[n_rows] tells the group of each."""
        for values in self._values.values():
            values.add(batch, group_ids)

    def results(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return one array per call for some groups."""
        states = {column: values.states(group_ids) for column, values in self._values.items()}
        finishes = {column: iter(finishes) for column, finishes in self._finishes.items()}
        return [next(finishes[column])(states[column]) for column in self._columns]

    def merge(self, sources: U32, targets: U32) -> None:
        """Give the values of each group in ``sources`` to the one at that place in ``targets``."""
        for values in self._values.values():
            values.merge(sources, targets)

    def retain(self, group_ids: U32) -> None:
        """Keep the values of these groups only, renumbered from 0 in this order."""
        for values in self._values.values():
            values.retain(group_ids)
