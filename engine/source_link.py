"""Where micro-batches enter a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from millstream.engine.pipeline import BatchesLink, Link, RowsLink, StepsLink
from millstream.engine.source_rows import SourceRows
from millstream.engine.step import SourceItem

__all__ = ["SourceLink"]


@dataclass(frozen=True)
class SourceLink:
    """Where batches of a stream enter a pipeline.

    Attributes:
        stream: Name of the stream.
        columns: Indices of the stream's columns that the pipeline reads, or None for all.
        schema: Of the columns read, which may have other names in the pipeline.
        n_columns: Number of columns of the stream; what comes behind them is carried along.
        time_names: What the stream's event time is called in the pipeline.
        downstream: First link.
    """

    stream: str
    columns: tuple[int, ...] | None
    schema: pa.Schema
    n_columns: int
    time_names: frozenset[str]
    downstream: Link

    @cached_property
    def taker(self) -> RowsLink | None:
        """The first link, if it takes rows as they are in a micro-batch."""
        link = self.downstream
        return link if isinstance(link, RowsLink) and link.takes_rows else None

    @cached_property
    def batches_taker(self) -> BatchesLink | None:
        """The first link, if it takes several batches at once."""
        link = self.downstream
        return link if isinstance(link, BatchesLink) and link.takes_batches else None

    @cached_property
    def steps_taker(self) -> StepsLink | None:
        """The first link, if it takes rows of several steps at once."""
        link = self.downstream
        return link if isinstance(link, StepsLink) and link.takes_steps else None

    @cached_property
    def _places(self) -> dict[str, int]:
        columns = range(self.n_columns) if self.columns is None else self.columns
        return dict(zip(self.schema.names, columns, strict=True))

    def rows(self, item: SourceItem) -> SourceRows:
        """Return the columns of an item without a batch made of them."""
        return SourceRows(item.batch, self._places, self.time_names, item.bounds)

    def pick(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the columns that the pipeline reads, without copying."""
        if self.columns is None:
            return batch
        if batch.num_columns == self.n_columns:
            # To select takes a tenth of the time that Arrow needs to hand out the columns.
            picked = batch.select(self.columns)
            if not self._is_of_schema(picked):
                picked = picked.rename_columns(self.schema.names)
            if self._is_of_schema(picked):
                return picked
        columns, schema = [batch.column(index) for index in self.columns], self.schema
        for index in range(self.n_columns, batch.num_columns):
            columns.append(batch.column(index))
            schema = schema.append(batch.schema.field(index))
        if not columns:
            return batch.select([])  # Which still has rows.
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _is_of_schema(self, batch: pa.RecordBatch) -> bool:
        return bool(batch.schema.equals(self.schema, check_metadata=True))
