"""The aggregate functions of a GROUP BY: some live in accumulators, others in kept rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from millstream.engine.operators.aggregate_functions import plan_accumulators
from millstream.engine.state.accumulators import AccumulatorSpec
from millstream.engine.state.buffered_calls import BufferedCalls
from millstream.kernels.compile import U32
from millstream.planner.nodes import AggregateCall

__all__ = ["Calls"]


class Calls:
    """Computes the calls of one node, whose accumulators the caller keeps together with the keys.

    Args:
        calls: Aggregates over columns of ``rows_schema``.
        rows_schema: Schema of the rows that are aggregated.
        functions: User-defined DataFusion functions by name.

    Attributes:
        n_rows_kept: Rows kept for calls without a kernel.
    """

    def __init__(
        self,
        calls: Sequence[AggregateCall],
        rows_schema: pa.Schema,
        functions: Mapping[str, object],
    ) -> None:
        self._calls = tuple(calls)
        self._plan = plan_accumulators(
            [call for call in calls if call.path == "kernel"], rows_schema
        )
        buffered = [call for call in calls if call.path == "buffered"]
        self._buffered = BufferedCalls(buffered, rows_schema, functions) if buffered else None
        self.n_rows_kept = 0

    @property
    def specs(self) -> Sequence[AccumulatorSpec]:
        """The accumulators that the calls need."""
        return self._plan.specs

    @property
    def state_bytes(self) -> int:
        """Bytes of the rows kept."""
        return 0 if self._buffered is None else self._buffered.state_bytes

    def values(self, batch: pa.RecordBatch) -> list[pa.Array | None]:
        """Return what each accumulator takes of a batch; None stands for the rows themselves."""
        return [None if spec.column is None else batch.column(spec.column) for spec in self.specs]

    def keep(self, batch: pa.RecordBatch, group_ids: U32) -> None:
        """Keep rows, as far as some call needs them: uint32[n_rows] tells the group of each."""
        if self._buffered is not None:
            self._buffered.add(batch, group_ids)
            self.n_rows_kept += batch.num_rows

    def results(self, accumulated: Sequence[pa.Array], group_ids: U32 | slice) -> list[pa.Array]:
        """Return one array per call for some groups, whose accumulators are given."""
        kernel = (finish(accumulated) for finish in self._plan.finishes)
        buffered = iter(() if self._buffered is None else self._buffered.results(group_ids))
        return [next(kernel if call.path == "kernel" else buffered) for call in self._calls]

    def merge(self, sources: U32, targets: U32) -> None:
        """Give the rows of each group in ``sources`` to the one at that place in ``targets``."""
        if self._buffered is not None:
            self._buffered.merge(sources, targets)

    def retain(self, group_ids: U32) -> None:
        """Keep the rows of these groups only, renumbered from 0 in this order."""
        if self._buffered is not None:
            self._buffered.retain(group_ids)
            self.n_rows_kept = self._buffered.n_rows
