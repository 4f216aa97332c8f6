"""What happens to rows on which an expression of the query fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import pyarrow as pa

from millstream.engine.datafusion import TransformFailed, TransformRunner
from millstream.engine.operators.base import Counters
from millstream.engine.sinks import Sink
from millstream.engine.step import AtHand
from millstream.errors import SchemaError
from millstream.planner.catalog import StreamDefinition

__all__ = ["DeadLetters", "FailurePolicy", "dead_letter_schema"]

FailurePolicy: TypeAlias = Literal["fail", "skip", "dead_letter"]

_ERROR_COLUMN = "error"


def dead_letter_schema(stream: StreamDefinition) -> pa.Schema:
    """Return the schema of a stream's dead letters: its own and the error's text.

    Raises:
        SchemaError: The stream has a column whose name is needed.
    """
    if _ERROR_COLUMN in stream.schema.names:
        raise SchemaError(
            f"dead letters get a column {_ERROR_COLUMN!r}, which stream {stream.name!r} has already"
        )
    return stream.schema.append(pa.field(_ERROR_COLUMN, pa.string(), nullable=False))


class DeadLetters:
    """Sets aside the rows of a partition on which a transform of the source side fails.

    Args:
        sinks: Per stream where its bad rows go; none where they are skipped.
        streams: Definitions of the streams that the query reads.
        counters: Of the partition.
        at_hand: What the partition is working on.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        streams: Mapping[str, StreamDefinition],
        counters: Counters,
        at_hand: AtHand,
    ) -> None:
        self._sinks = dict(sinks)
        self._streams = dict(streams)
        self._counters = counters
        self._at_hand = at_hand

    def run(self, runner: TransformRunner, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Transform a batch without its bad rows.

        Args:
            runner: A transform that reads a stream's rows as they were pushed.
            batch: All rows of the micro-batch at hand.
        """
        return self._run(runner, batch, 0)

    def _run(
        self, runner: TransformRunner, batch: pa.RecordBatch, first_row: int
    ) -> list[pa.RecordBatch]:
        try:
            return runner.run(batch)
        except TransformFailed as error:
            if batch.num_rows == 1:
                self._set_aside(first_row, str(error))
                return []
        middle = batch.num_rows // 2
        return [
            *self._run(runner, batch.slice(0, middle), first_row),
            *self._run(runner, batch.slice(middle), first_row + middle),
        ]

    def _set_aside(self, row: int, error: str) -> None:
        self._counters.rows_dead_lettered += 1
        item = self._at_hand.item
        assert item is not None, "rows come with an item"
        sink = self._sinks.get(item.stream)
        if sink is None or item.batch is None:
            return
        stream = self._streams[item.stream]
        columns = item.batch.slice(row, 1).columns[: len(stream.schema)]
        sink.write(
            pa.RecordBatch.from_arrays(
                [*columns, pa.array([error])], schema=dead_letter_schema(stream)
            )
        )

    def close(self) -> None:
        """Close the sinks: the job has finished."""
        for sink in self._sinks.values():
            sink.close()

    def abort(self) -> None:
        """Give up: the job has failed or was cancelled."""
        for sink in self._sinks.values():
            sink.abort()
