"""The loop over pyarrow that users write by hand instead of using a streaming engine.

Each batch is grouped as it comes, and the partial groups of a window are merged when it closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from perf.cases import Case, Inputs, Prepared
from perf.records import Role

__all__ = ["ArrowLoop"]

_PANE = "__pane"
_MERGES = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrowLoop:
    """Groups batches and merges the groups.

    Attributes:
        stream: Name of the table.
        batch_rows: Rows per batch.
        keys: Grouping columns.
        aggregates: Input column, function and output column of each; the functions are count, sum,
            min, max and mean, and the columns have no NULL.
        time: Column of event time, ordered, or None for groups without windows.
        size: Length of a window in units of that column.
        slide: Distance between windows, of which the size is a multiple; the size if it is None.
    """

    stream: str
    batch_rows: int
    keys: tuple[str, ...]
    aggregates: tuple[tuple[str, str, str], ...]
    time: str | None = None
    size: int = 0
    slide: int | None = None

    @property
    def name(self) -> str:
        return f"pyarrow loop b={self.batch_rows}"

    @property
    def role(self) -> Role:
        return "rival"

    def describe(self, case: Case) -> str:
        return (
            f"group_by per batch of {self.batch_rows} rows, merged when a window closes; one thread"
        )

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        table = inputs[self.stream].combine_chunks()
        batches = table.to_batches(max_chunksize=self.batch_rows)
        time_type = None if self.time is None else table.schema.field(self.time).type
        return Prepared(run=lambda: pa.concat_tables(self._results(batches, time_type)))

    def _results(
        self, batches: Sequence[pa.RecordBatch], time_type: pa.DataType | None
    ) -> Iterator[pa.Table]:
        if time_type is None:
            yield self._merged([self._partial(batch) for batch in batches])
            return
        panes_per_window = self.size // self._step
        open_partials: list[pa.Table] = []
        next_pane: int | None = None
        for batch in batches:
            partial = self._partial(batch)
            last = int(pc.max(partial.column(_PANE)).as_py())
            if next_pane is None:
                next_pane = int(pc.min(partial.column(_PANE)).as_py())
            open_partials.append(partial)
            for pane in range(next_pane, last):
                yield self._window(open_partials, pane, time_type)
                open_partials = _from_pane(open_partials, pane - panes_per_window + 2)
            next_pane = max(next_pane, last)
        if next_pane is not None:
            for pane in range(next_pane, next_pane + panes_per_window):
                yield self._window(open_partials, pane, time_type)
                open_partials = _from_pane(open_partials, pane - panes_per_window + 2)

    @property
    def _step(self) -> int:
        return self.size if self.slide is None else self.slide

    @property
    def _parts(self) -> list[tuple[str, str]]:
        """What is kept per group: a mean is kept as a sum and a count."""
        parts: list[tuple[str, str]] = []
        for column, function, _ in self.aggregates:
            parts += (
                [(column, "sum"), (column, "count")] if function == "mean" else [(column, function)]
            )
        return list(dict.fromkeys(parts))

    def _partial(self, batch: pa.RecordBatch) -> pa.Table:
        keys = list(self.keys)
        columns = {name: batch.column(name) for name in batch.schema.names}
        if self.time is not None:
            keys.append(_PANE)
            times = batch.column(self.time).view(pa.int64())
            columns[_PANE] = pc.divide(times, self._step)
        return pa.table(columns).group_by(keys, use_threads=False).aggregate(self._parts)

    def _merged(self, partials: Sequence[pa.Table]) -> pa.Table:
        merges = [(f"{column}_{part}", _MERGES[part]) for column, part in self._parts]
        grouped = pa.concat_tables(partials).group_by(list(self.keys), use_threads=False)
        groups = grouped.aggregate(merges)
        columns = {key: groups.column(key) for key in self.keys}
        for column, function, output in self.aggregates:
            if function == "mean":
                total = groups.column(f"{column}_sum_sum").cast(pa.float64())
                columns[output] = pc.divide(total, groups.column(f"{column}_count_sum"))
            else:
                columns[output] = groups.column(f"{column}_{function}_{_MERGES[function]}")
        return pa.table(columns)

    def _window(
        self, partials: Sequence[pa.Table], last_pane: int, time_type: pa.DataType
    ) -> pa.Table:
        inside = [
            partial.filter(pc.less_equal(partial.column(_PANE), last_pane)) for partial in partials
        ]
        groups = self._merged(inside)
        end = (last_pane + 1) * self._step
        starts = pa.array(np.full(groups.num_rows, end - self.size), time_type)
        return groups.add_column(0, "window_start", starts)


def _from_pane(partials: Sequence[pa.Table], first: int) -> list[pa.Table]:
    kept = [partial.filter(pc.greater_equal(partial.column(_PANE), first)) for partial in partials]
    return [partial for partial in kept if partial.num_rows > 0]
