"""Running a query through the public interface: whole, or pushed piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unittest import mock

import pyarrow as pa

import millstream as ms
from millstream.engine import closings
from millstream.engine import query as queries
from millstream.engine.operators import sliding_aggregate

__all__ = ["Outcome", "RowCounts", "cut", "push_through", "run_whole"]


# As the engine has it, whatever other tests set it to.
_CLOSING_ROWS_MAX = 1 << 16
# Changes are added up before an exchange, and are not.
_SPLIT_ROWS_LEAST = (0, 1 << 15)


@dataclass(frozen=True, slots=True)
class RowCounts:
    """Where the rows of a finished job went."""

    rows_in: int
    rows_processed: int
    rows_late: int
    rows_dead_lettered: int
    rows_waiting: int

    @property
    def is_conserved(self) -> bool:
        """Whether every row that came in is accounted for."""
        places = (
            self.rows_processed,
            self.rows_late,
            self.rows_dead_lettered,
            self.rows_waiting,
        )
        return self.rows_in == sum(places)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a query, and the counts where the way of running gives them."""

    rows: pa.Table
    counts: RowCounts | None


def run_whole(
    query: ms.Query,
    inputs: Mapping[str, pa.Table],
    batch_rows: int | None,
    strategy: str | None = None,
) -> Outcome:
    """Run a query over bounded inputs in one call; without `batch_rows` each input is one batch."""
    longest = max((table.num_rows for table in inputs.values()), default=0)
    rows = batch_rows or max(longest, 1)
    # Inputs are so short that all windows would be closed at their end.
    closing_rows_max = (0, 3 * rows, _CLOSING_ROWS_MAX)[(longest + rows) % 3]
    with (
        mock.patch.object(closings, "ROWS_MAX", closing_rows_max),
        mock.patch.object(sliding_aggregate, "_WINDOWS_MAX", (1, 3, 64)[longest % 3]),
        mock.patch.object(queries, "_SPLIT_ROWS_LEAST", _SPLIT_ROWS_LEAST[longest % 2]),
    ):
        return Outcome(query.run(dict(inputs), batch_rows=rows, strategy=strategy), None)


def push_through(
    query: ms.Query,
    pieces: Sequence[tuple[str, pa.RecordBatch]],
    strategy: str | None = None,
) -> Outcome:
    """Push batches in order into a job, finish it, and give what its sink received.

    Raises:
        AssertionError: If the sink received a batch that has not the query's schema.
    """
    received: list[pa.RecordBatch] = []
    with (
        mock.patch.object(closings, "ROWS_MAX", _CLOSING_ROWS_MAX),
        mock.patch.object(closings, "FEWER_ROWS_MAX", _CLOSING_ROWS_MAX),
        mock.patch.object(queries, "_SPLIT_ROWS_LEAST", _SPLIT_ROWS_LEAST[len(pieces) % 2]),
        query.start(sink=received.append, strategy=strategy) as job,
    ):
        for stream, batch in pieces:
            job.push(stream, batch)
    stats = job.stats()
    counts = RowCounts(**{name: int(getattr(stats, name)) for name in RowCounts.__slots__})
    for schema in (batch.schema for batch in received):
        differs = f"the sink received the schema\n{schema}\nand not the query's\n{query.schema}"
        assert schema.equals(query.schema), differs
    return Outcome(pa.Table.from_batches(received, query.schema), counts)


def cut(inputs: Mapping[str, pa.Table], batch_rows: int | None) -> list[tuple[str, pa.RecordBatch]]:
    """Cut inputs into batches, stream after stream."""
    return [
        (stream, batch)
        for stream, table in inputs.items()
        for batch in table.combine_chunks().to_batches(max_chunksize=batch_rows)
    ]
