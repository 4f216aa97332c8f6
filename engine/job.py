"""The handle of a running query."""

from __future__ import annotations

import atexit
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from millstream.engine.columns import event_times
from millstream.engine.conform import Conformer
from millstream.engine.deadline import NO_DEADLINE, Deadline
from millstream.engine.diagnose import Diagnosis, diagnose
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.gathering import gathered
from millstream.engine.row_buffer import RowBuffer, can_buffer
from millstream.engine.runtime import Runtime
from millstream.engine.stats import JobStats
from millstream.errors import SchemaError, SourceError
from millstream.planner.catalog import StreamDefinition

__all__ = ["Job"]

_running: weakref.WeakSet[Runtime] = weakref.WeakSet()


def _cancel_all() -> None:
    for runtime in list(_running):
        runtime.cancel()


# Threads that are still computing while the interpreter is taken apart could crash it.
atexit.register(_cancel_all)


class Job:
    """A started query: takes rows, until it is finished or cancelled. Made by :meth:`Query.start`.

    As a context manager it finishes at the end of the block, or is cancelled if the block raises. A
    job that nobody holds any more is cancelled. All methods may be called from any thread.
    """

    def __init__(
        self,
        runtime: Runtime,
        streams: Mapping[str, StreamDefinition],
        *,
        batch_rows_max: int,
        linger_seconds: float,
    ) -> None:
        self._runtime = runtime
        self._streams = dict(streams)
        self._row_buffers = {
            name: RowBuffer(
                name,
                stream.schema,
                partial(_deliver, runtime, name),
                rows_max=batch_rows_max,
                linger_seconds=linger_seconds,
                event_time=stream.event_time,
            )
            for name, stream in streams.items()
            if can_buffer(stream.schema)
        }
        self._conformers = {
            name: Conformer(stream.schema, name) for name, stream in streams.items()
        }
        _running.add(runtime)
        self._finalizer = weakref.finalize(
            self, _abandon, runtime, list(self._row_buffers.values())
        )

    def push(
        self,
        stream: str,
        data: Any,
        *,
        source_partition: int = 0,
        timeout: float | None = None,
    ) -> None:
        """Hand over rows; waits while the job has as much as it may hold.

        Args:
            stream: Name of a stream that the query reads.
            data: A RecordBatch or a list of them, a Table, anything with ``__arrow_c_stream__`` or
                ``__arrow_c_array__``, a row as dict or a list of such rows. Each record batch in it
                is one micro-batch; rows that are pushed one by one are gathered while others are
                being processed. Columns are matched by name and types that fit are cast. Arrow data
                is not copied and must not be changed afterwards.
            source_partition: Partition of the source that the rows come from. The stream's
                watermark is the least over the source's partitions seen so far.
            timeout: Seconds to wait for room at most; None waits as long as it takes. As the queues
                fill up, a push that need not wait yet takes a little longer all the same.

        Raises:
            SchemaError: If the rows do not fit the stream; none of them has been taken.
            SourceError: If the query reads no such stream, the job takes no more input, an argument
                is no number, or the time ran out; batches before the one that did not fit in time
                have been taken.
            JobFailed: If the job has failed.
        """
        self._definition(stream)
        source_partition = _source_partition(source_partition)
        self._runtime.check_running()
        deadline = NO_DEADLINE if timeout is None else _deadline(timeout)
        buffer = self._row_buffers.get(stream)
        if buffer is not None and timeout is None and source_partition == 0 and _is_row(data):
            self._flush_rows(deadline, except_for=stream)
            buffer.add(data)
            return
        has_room = self._flush_rows(deadline)
        batches = self._conformers[stream].conform(data)
        if has_room:
            has_room = self._push_all(stream, batches, source_partition, deadline)
        if batches and not has_room:
            raise SourceError(f"push to stream {stream!r} found no room within {timeout} seconds")

    def _push_all(
        self,
        stream: str,
        batches: Sequence[pa.RecordBatch],
        source_partition: int,
        deadline: Deadline,
    ) -> bool:
        """Let the intake have batches; return whether there was room for all in time."""
        intake = self._runtime.intake
        batches = [batch for batch in batches if batch.num_rows > 0]
        if len(batches) > 1:
            # None is taken if one is to be refused.
            intake.check_times(stream, batches)
        for some in gathered(batches):
            intake.look_ahead(stream, some, source_partition)
            if not all(intake.push(stream, batch, source_partition, deadline) for batch in some):
                return False
        return True

    def try_push(self, stream: str, data: Any, *, source_partition: int = 0) -> bool:
        """Hand over rows if there is room for all of them right now, as one micro-batch.

        Args:
            stream: As for :meth:`push`.
            data: As for :meth:`push`; several record batches are copied into one.
            source_partition: As for :meth:`push`.

        Returns:
            Whether the rows have been taken.

        Raises:
            SchemaError: If the rows do not fit the stream.
            SourceError: If the query reads no such stream, or the job takes no more input.
            JobFailed: If the job has failed.
        """
        self._definition(stream)
        source_partition = _source_partition(source_partition)
        self._runtime.check_running()
        deadline = Deadline(0.0)
        conformed = self._conformers[stream].conform(data)
        batches = [batch for batch in conformed if batch.num_rows > 0]
        if not batches:
            return True
        batch = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        return self._flush_rows(deadline) and self._runtime.intake.push(
            stream, batch, source_partition, deadline
        )

    def advance_watermark(self, stream: str, when: datetime | date | int) -> None:
        """Promise that no row of a stream earlier than ``when`` is still to come.

        Args:
            stream: Name of a stream with event time.
            when: Event time, as a Python value that Arrow can convert to the column's type, or as
                its integer.

        Raises:
            SchemaError: If ``when`` is not an event time of the stream.
            SourceError: If the stream has no event time, the watermark would go back, or the job
                takes no more input.
            JobFailed: If the job has failed.
        """
        definition = self._definition(stream)
        if definition.event_time is None:
            raise SourceError(f"stream {stream!r} has no event time")
        type_ = definition.schema.field(definition.event_time).type
        self._flush_rows(NO_DEADLINE)
        self._runtime.intake.advance_watermark(stream, _event_time(when, type_))

    def finish(self) -> None:
        """End the input: flush what is open, wait until all results are written, close the sinks.

        Raises:
            JobFailed: If the job has failed.
        """
        try:
            self._flush_rows(NO_DEADLINE)
            self._runtime.finish()
        except BaseException:
            self._runtime.cancel()
            raise
        finally:
            self._close_rows()
            self._finalizer.detach()

    def cancel(self) -> None:
        """Stop without flushing. What was written stays written, except by sinks that can undo."""
        self._close_rows()
        self._runtime.cancel()
        self._finalizer.detach()

    def stats(self) -> JobStats:
        """Return a snapshot of the job's counters; cheap enough to be called often."""
        stats = self._runtime.stats()
        n_waiting = sum(buffer.n_waiting for buffer in self._row_buffers.values())
        if n_waiting == 0:
            return stats
        # Rows that were pushed one by one have been taken, though they are in no batch yet.
        return replace(
            stats,
            rows_in=stats.rows_in + n_waiting,
            rows_waiting=stats.rows_waiting + n_waiting,
        )

    def diagnose(self) -> Diagnosis:
        """Say in words why nothing comes out, or what holds results back; prints as sentences."""
        return diagnose(self._runtime)

    @property
    def name(self) -> str:
        """Name of the job in metrics and in the names of its threads."""
        return self._runtime.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.cancel()

    def _flush_rows(self, deadline: Deadline, except_for: str | None = None) -> bool:
        """Hand over the rows that still wait, so that streams keep their order among each other.

        Returns:
            False if the time ran out before all rows had been taken.
        """
        for name, buffer in self._row_buffers.items():
            if name != except_for and not buffer.flush(deadline):
                return False
        return True

    def _close_rows(self) -> None:
        for buffer in self._row_buffers.values():
            buffer.close()

    def _definition(self, stream: str) -> StreamDefinition:
        definition = self._streams.get(stream)
        if definition is None:
            known = ", ".join(repr(name) for name in sorted(self._streams))
            raise SourceError(f"the query does not read stream {stream!r}; it reads {known}")
        return definition


def _deliver(runtime: Runtime, stream: str, batch: pa.RecordBatch, deadline: Deadline) -> bool:
    return runtime.intake.push(stream, batch, 0, deadline)


def _abandon(runtime: Runtime, buffers: Sequence[RowBuffer]) -> None:
    for buffer in buffers:
        buffer.close()
    runtime.cancel()


def _is_row(data: Any) -> bool:
    """Say whether data is one row as a dict, and not a dict of columns."""
    return type(data) is dict and not any(
        isinstance(value, list | np.ndarray | pa.Array | pa.ChunkedArray) for value in data.values()
    )


def _source_partition(source_partition: Any) -> int:
    if not isinstance(source_partition, int | np.integer):
        raise SourceError(f"source_partition must be an integer: {source_partition!r}")
    return int(source_partition)


def _deadline(timeout: Any) -> Deadline:
    if not isinstance(timeout, int | float | np.integer | np.floating) or math.isnan(timeout):
        raise SourceError(f"timeout must be a number of seconds: {timeout!r}")
    return Deadline(float(timeout))


def _event_time(when: datetime | date | int, type_: pa.DataType) -> int:
    reason = f"watermark must be an event time of type {type_}: {when!r}"
    if isinstance(when, int | np.integer) and not isinstance(when, bool):
        if not NO_WATERMARK < when <= WATERMARK_END:
            raise SchemaError(reason)
        return int(when)
    # Of a time, Arrow would make an integer in a unit of its own choice.
    if when is None or pa.types.is_integer(type_):
        raise SchemaError(reason)
    try:
        value = pa.array([when]).cast(type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(reason) from error
    return int(event_times(value)[0])
