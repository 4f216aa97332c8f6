"""The aggregate functions of a GROUP BY, by group ids.

Some live in accumulators, others need the distinct values of a group or all of its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from millstream.engine.operators.aggregate_functions import WordResult, plan_accumulators
from millstream.engine.operators.distinct_calls import DistinctCalls
from millstream.engine.state.accumulators import AccumulatorSpec, values_of
from millstream.engine.state.buffered_calls import BufferedCalls
from millstream.engine.state.places import is_taken_as_it_is
from millstream.engine.state.state_columns import Arrivals
from millstream.engine.state.words import WordSpec
from millstream.engine.step import AtHand
from millstream.kernels.compile import U32
from millstream.planner.nodes import AggregateCall

__all__ = ["Calls"]


class Calls:
    """Computes the calls of one node; the caller keeps the accumulators themselves, with the keys.

    Args:
        calls: Aggregates over columns of ``rows_schema``.
        rows_schema: Schema of the rows that are aggregated.
        functions: User-defined DataFusion functions by name.
        at_hand: What the partition is working on, which tells the order of rows among partitions
            whose groups are merged afterwards. None where all rows of a group come by here.

    Attributes:
        n_rows_kept: Rows kept for calls without a kernel.
    """

    def __init__(
        self,
        calls: Sequence[AggregateCall],
        rows_schema: pa.Schema,
        functions: Mapping[str, object],
        at_hand: AtHand | None = None,
    ) -> None:
        self._calls = tuple(calls)
        self._at_hand = at_hand
        self._types = dict(zip(rows_schema.names, rows_schema.types, strict=True))
        self._n_rows_seen = 0
        folded = [call for call in calls if call.path == "kernel" and not call.distinct]
        distinct = [call for call in calls if call.path == "kernel" and call.distinct]
        buffered = [call for call in calls if call.path == "buffered"]
        self._plan = plan_accumulators(folded, rows_schema)
        self._distinct = DistinctCalls(distinct, rows_schema) if distinct else None
        self._buffered = BufferedCalls(buffered, rows_schema, functions) if buffered else None
        self._kept = [kept for kept in (self._distinct, self._buffered) if kept is not None]
        self.n_rows_kept = 0

    @property
    def keeps_rows(self) -> bool:
        """Whether rows themselves, or their values, are kept for some calls."""
        return bool(self._kept)

    @property
    def specs(self) -> Sequence[AccumulatorSpec]:
        """The accumulators that the calls need."""
        return self._plan.specs

    @property
    def word_results(self) -> Sequence[WordResult | None]:
        """Per call how words of accumulators make its results; None where it takes more."""
        return [None] * len(self._calls) if self._kept else self._plan.word_results

    @property
    def state_bytes(self) -> int:
        """Bytes of the rows and values kept."""
        return sum(kept.state_bytes for kept in self._kept)

    def columns_of_words(self) -> list[str | None] | None:
        """Return what each accumulator takes, if all take words as they are in columns of rows.

        Returns:
            A column per accumulator, None for the rows themselves; or None if some take other
            things or are told which rows came first.
        """
        columns = []
        for spec in self.specs:
            if not isinstance(spec, WordSpec):
                return None
            if spec.column is not None and not is_taken_as_it_is(self._types[spec.column]):
                return None
            columns.append(spec.column)
        return columns

    def values(self, batch: pa.RecordBatch) -> list[pa.Array | None]:
        """Return what each accumulator takes of a batch; None stands for the rows themselves."""
        number = 0 if self._at_hand is None else _number_of(self._at_hand)
        arrivals = Arrivals(number, self._n_rows_seen, batch.num_rows)
        self._n_rows_seen += batch.num_rows
        return values_of(self.specs, batch, arrivals)

    def keep(self, batch: pa.RecordBatch, group_ids: U32) -> None:
        """Keep rows, as far as some call needs them: uint32[n_rows] tells the group of each."""
        for kept in self._kept:
            kept.add(batch, group_ids)
        if self._buffered is not None:
            self.n_rows_kept += batch.num_rows

    def results(self, accumulated: Sequence[pa.Array], group_ids: U32 | slice) -> list[pa.Array]:
        """Return one array per call for some groups, whose accumulators are given."""
        if not self._kept:
            return [finish(accumulated) for finish in self._plan.finishes]
        folded = (finish(accumulated) for finish in self._plan.finishes)
        distinct = iter([] if self._distinct is None else self._distinct.results(group_ids))
        buffered = iter([] if self._buffered is None else self._buffered.results(group_ids))
        return [
            next(buffered if call.path == "buffered" else distinct if call.distinct else folded)
            for call in self._calls
        ]

    def merge(self, sources: U32, targets: U32) -> None:
        """Give the rows of each group in ``sources`` to the one at that place in ``targets``."""
        for kept in self._kept:
            kept.merge(sources, targets)

    def retain(self, group_ids: U32) -> None:
        """Keep the rows of these groups only, renumbered from 0 in this order."""
        for kept in self._kept:
            kept.retain(group_ids)
        if self._buffered is not None:
            self.n_rows_kept = self._buffered.n_rows


def _number_of(at_hand: AtHand) -> int:
    """Return the position in the input of the rows at hand: their step, or else their item.

    Steps number rows where each item is one, and where rows come out of steps. For one
    operator it is always the same of the two.
    """
    item = at_hand.item
    assert item is not None, "rows come with an item"
    return item.place if item.step is None else item.step.number
