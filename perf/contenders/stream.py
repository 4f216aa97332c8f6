"""Millstream itself, through its public interface only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from perf.answers import WrongAnswerError
from perf.cases import Case, Inputs, Prepared, RefusedError
from perf.records import Role

if TYPE_CHECKING:
    import millstream as ms

__all__ = ["Millstream", "micro_batches", "plan"]


@dataclass(frozen=True, slots=True)
class Millstream:
    """A job that is started, fed micro-batch by micro-batch, and finished.

    Attributes:
        partitions: Of the session.
        batch_rows: Rows per micro-batch.
    """

    partitions: int
    batch_rows: int

    @property
    def name(self) -> str:
        return f"millstream p={self.partitions} b={self.batch_rows}"

    @property
    def role(self) -> Role:
        return "millstream"

    def describe(self, case: Case) -> str:
        return (
            f"{case.sql}  -- {self.partitions} partitions; start, push batches of"
            f" {self.batch_rows} rows, finish; a sink per partition"
        )

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        query = plan(case, inputs, self.partitions)
        pushes = micro_batches(case, inputs, self.batch_rows)
        n_rows = sum(batch.num_rows for _, batch in pushes)

        def run() -> pa.Table:
            outputs: list[list[pa.RecordBatch]] = [[] for _ in range(self.partitions)]
            with query.start(sinks=[batches.append for batches in outputs]) as job:
                for stream, batch in pushes:
                    job.push(stream, batch)
            _check_balance(job.stats(), n_rows)
            batches = [batch for part in outputs for batch in part]
            return pa.Table.from_batches(batches, query.schema)

        return Prepared(run=run)


def plan(case: Case, inputs: Inputs, partitions: int) -> ms.Query:
    """Declare what a case reads and plan its query.

    Raises:
        RefusedError: Millstream does not offer such a query.
    """
    import millstream as ms

    session = ms.Session(partitions=partitions)
    streams = {stream.name: stream for stream in case.streams}
    for name, table in inputs.items():
        if name in streams:
            session.create_stream(name, table.schema, event_time=streams[name].event_time)
        else:
            session.create_table(name, table)
    try:
        return session.sql(case.sql)
    except ms.SqlError as error:
        raise RefusedError(str(error)) from error


def micro_batches(
    case: Case, inputs: Inputs, batch_rows: int
) -> Sequence[tuple[str, pa.RecordBatch]]:
    """Cut the streams of a case into micro-batches, several streams in the order of event time."""
    pushes = [
        (stream, batch)
        for stream in case.streams
        for batch in inputs[stream.name].combine_chunks().to_batches(max_chunksize=batch_rows)
    ]
    if len(case.streams) > 1:
        pushes.sort(key=lambda push: _last_time(push[1], push[0].event_time))
    return [(stream.name, batch) for stream, batch in pushes]


def _last_time(batch: pa.RecordBatch, event_time: str | None) -> int:
    if event_time is None:
        return 0
    return int(pc.max(batch.column(event_time).cast(pa.int64())).as_py())


def _check_balance(stats: ms.JobStats, n_rows: int) -> None:
    if (stats.rows_in, stats.rows_processed) != (n_rows, n_rows):
        raise WrongAnswerError(f"{n_rows} rows were pushed, and the job says: {stats}")
