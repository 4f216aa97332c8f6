"""Rows of a micro-batch as a pipeline sees them, without a batch made of them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from millstream.engine.event_time import TimeBounds

__all__ = ["SourceRows"]


class SourceRows:
    """Columns of a micro-batch by the names that they have in a pipeline.

    Making a batch of some columns takes longer than looking them up where they are.

    Args:
        batch: The micro-batch.
        places: Index of each column by name.
        time_names: Names of the stream's event time.
        bounds: Of the event times, or None if not known.

    Attributes:
        num_rows: Number of rows.
    """

    __slots__ = ("_batch", "_bounds", "_columns", "_places", "_time_names", "num_rows")

    def __init__(
        self,
        batch: pa.RecordBatch,
        places: Mapping[str, int],
        time_names: frozenset[str],
        bounds: TimeBounds | None,
    ) -> None:
        self._batch = batch
        self._places = places
        self._time_names = time_names
        self._bounds = bounds
        # Arrow makes an object for each question.
        self._columns: dict[str, pa.Array] = {}
        self.num_rows: int = batch.num_rows

    def column(self, name: str) -> pa.Array:
        """Return a column, as a batch would."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = self._batch.column(self._places[name])
        return column

    def slice(self, offset: int, length: int) -> SourceRows:
        """Return some of the rows, as a batch would; of their times no bounds are known."""
        part = self._batch.slice(offset, length)
        return SourceRows(part, self._places, self._time_names, None)

    def bounds(self, name: str) -> TimeBounds | None:
        """Return what the values of a column lie between, None if not known."""
        return self._bounds if name in self._time_names else None
