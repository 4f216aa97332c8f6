"""Sinks: where results go, and how each partition comes by its own.

A user gives a callable, an object with the methods of :class:`Sink`, or one of either per
partition. :func:`as_sinks` makes of them one sink per partition, which is all that the rest of the
engine sees.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast, runtime_checkable

import pyarrow as pa

from millstream.errors import SinkError

__all__ = ["AnySink", "BatchInfo", "CollectSink", "Sink", "SplittableSink", "as_sinks"]


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """Where a batch of results comes from.

    A callable with two parameters, or a sink whose ``write`` has two, gets it with each batch.

    Attributes:
        partition: Partition that has computed the batch.
        micro_batch: Number of the micro-batch that brought it about, from 0, or None where it was
            the end of the input or of a window in all partitions.
        watermarks: By stream, the watermark after what brought it about, in units of the stream's
            event time; None as long as there is none.
    """

    partition: int
    micro_batch: int | None
    watermarks: Mapping[str, int | None]


class Sink(Protocol):
    """What can be given as a sink besides a callable. Subclassing is possible but not needed.

    The methods are called by one thread at a time, in the order open, any number of writes, then
    either close or, if the job fails or is cancelled, abort.
    """

    def open(self, partition: int, schema: pa.Schema) -> None:
        """Prepare for the batches of a partition, which all have ``schema``."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Take a batch; what takes long here slows the sources down."""

    def close(self) -> None:
        """Finish: all batches have been written."""

    def abort(self) -> None:
        """Give up: what was written is not the whole result.

        A sink without this method is closed instead, so that it can give back what it holds. One
        whose readers must not take half a result for a whole one has to have it.
        """
        self.close()


@runtime_checkable
class SplittableSink(Protocol):
    """A sink that becomes one per partition by itself, so that no two threads share one."""

    def for_partitions(self, n_partitions: int) -> Sequence[Sink]:
        """Return one sink per partition, before any is opened; one may occur several times."""


AnySink: TypeAlias = (
    Callable[[pa.RecordBatch], object]
    | Callable[[pa.RecordBatch, BatchInfo], object]
    | Sink
    | SplittableSink
)


class CollectSink:
    """Keeps all batches in memory, for :meth:`table`. One may serve all partitions."""

    def __init__(self) -> None:
        self._schema: pa.Schema | None = None
        self._batches: list[pa.RecordBatch] = []

    def open(self, partition: int, schema: pa.Schema) -> None:
        self._schema = schema

    def write(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)

    def close(self) -> None:
        pass

    def abort(self) -> None:
        """Keep what came before the failure."""

    def table(self) -> pa.Table:
        """Return the rows collected so far.

        Raises:
            SinkError: The sink was never opened, so that not even the columns are known.
        """
        if self._schema is None:
            raise SinkError("results must come from a job; this sink was never opened")
        return pa.Table.from_batches(list(self._batches), self._schema)


def as_sinks(
    sink: AnySink | None, sinks: Sequence[AnySink] | None, n_partitions: int
) -> list[Sink]:
    """Make one sink per partition of what the user gave.

    Whatever the methods of a result raise is a :class:`SinkError` with the partition and the cause.
    A sink that several partitions share is entered by one of them at a time. It is opened once, as
    partition 0, and closed by the last partition to close, or aborted by the first to abort.

    Args:
        sink: One sink for all partitions. Unless it can split itself, it is shared behind a lock:
            its code never runs in two threads at once, and batches of different partitions come
            in no particular order.
        sinks: One sink per partition; the same one may stand for several, which then share it.
        n_partitions: Number of partitions.

    Raises:
        SinkError: Not exactly one of ``sink`` and ``sinks`` is given, one is not a sink, or their
            number is not ``n_partitions``.
    """
    if (sink is None) == (sinks is None):
        raise SinkError("exactly one of sink and sinks must be given")
    if sinks is None:
        parts: Sequence[object] = _split(sink, n_partitions)
    elif isinstance(sinks, Sequence):
        parts = sinks
    else:
        raise SinkError(f"sinks must be a sequence with one sink per partition: {sinks!r}")
    if len(parts) != n_partitions:
        raise SinkError(f"sinks must be as many as partitions, {n_partitions}: {len(parts)}")
    shared: dict[int, _SharedSink] = {}
    for part in parts:
        shared.setdefault(id(part), _SharedSink(_checked(part))).n_users += 1
    return [_PartitionSink(shared[id(part)], index) for index, part in enumerate(parts)]


class _SharedSink:
    """A sink of the user's, entered by one partition at a time."""

    def __init__(self, sink: Sink) -> None:
        self.n_users = 0
        self._sink = sink
        self.takes_info = _takes_info(sink.write)
        self._lock = threading.Lock()
        self._n_opened = 0
        self._n_closed = 0
        self._ended = False

    def open(self, partition: int, schema: pa.Schema) -> None:
        with self._lock:
            self._n_opened += 1
            if self._n_opened == 1:
                self._sink.open(0 if self.n_users > 1 else partition, schema)

    def write(self, batch: pa.RecordBatch, info: BatchInfo | None) -> None:
        with self._lock:
            if self.takes_info:
                self._sink.write(batch, info)  # type: ignore[call-arg]
            else:
                self._sink.write(batch)

    def close(self) -> None:
        with self._lock:
            self._n_closed += 1
            if self._n_closed == self.n_users and not self._ended:
                self._ended = True
                self._sink.close()

    def abort(self) -> None:
        with self._lock:
            if self._n_opened > 0 and not self._ended:
                self._ended = True
                getattr(self._sink, "abort", self._sink.close)()


class _PartitionSink:
    """What one partition knows of a sink; it says in which partition something went wrong."""

    def __init__(self, sink: _SharedSink, partition: int) -> None:
        self._sink = sink
        self._partition = partition

    def open(self, partition: int, schema: pa.Schema) -> None:
        with self._failures("open"):
            self._sink.open(partition, schema)

    @property
    def takes_info(self) -> bool:
        """Whether the user's sink wants to know where batches come from."""
        return self._sink.takes_info

    def write(self, batch: pa.RecordBatch, info: BatchInfo | None = None) -> None:
        with self._failures("write"):
            self._sink.write(batch, info)

    def close(self) -> None:
        with self._failures("close"):
            self._sink.close()

    def abort(self) -> None:
        with self._failures("abort"):
            self._sink.abort()

    @contextmanager
    def _failures(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise SinkError(
                f"sink of partition {self._partition} failed to {action}: "
                f"{type(error).__name__}: {error}"
            ) from error


class _CallableSink(Sink):
    """Lets a callable of one batch stand for a sink."""

    def __init__(self, function: Callable[[pa.RecordBatch], object]) -> None:
        self._function = function

    def open(self, partition: int, schema: pa.Schema) -> None:
        pass

    def write(self, batch: pa.RecordBatch) -> None:
        self._function(batch)

    def close(self) -> None:
        pass


class _InformedCallableSink(_CallableSink):
    """Lets a callable of a batch and what is known of it stand for a sink."""

    def __init__(self, function: Callable[[pa.RecordBatch, BatchInfo], object]) -> None:
        self._informed = function

    def write(self, batch: pa.RecordBatch, info: BatchInfo) -> None:  # type: ignore[override]
        self._informed(batch, info)


def _split(sink: object, n_partitions: int) -> Sequence[object]:
    if isinstance(sink, SplittableSink) and not isinstance(sink, type):
        return sink.for_partitions(n_partitions)
    return [sink] * n_partitions


def _checked(sink: object) -> Sink:
    if isinstance(sink, type):
        raise SinkError(f"sink must be an object, not its class: {sink.__qualname__}")
    if all(callable(getattr(sink, method, None)) for method in ("open", "write", "close")):
        return cast("Sink", sink)
    if not callable(sink):
        raise SinkError(
            "sink must be a callable that takes a RecordBatch, or have the methods open, write "
            f"and close: {sink!r}"
        )
    if inspect.iscoroutinefunction(sink):
        raise SinkError(f"sink must be a plain function, for nothing awaits it: {sink!r}")
    if _takes_info(sink):
        return _InformedCallableSink(sink)
    _check_takes_one(sink)
    return _CallableSink(sink)


def _takes_info(write: Callable[..., object]) -> bool:
    """Say whether a function has to be called with a batch and what is known of it."""
    try:
        signature = inspect.signature(write)
    except (TypeError, ValueError):
        return False
    return not _binds(signature, 1) and _binds(signature, 2)


def _binds(signature: inspect.Signature, n_arguments: int) -> bool:
    try:
        signature.bind(*[None] * n_arguments)
    except TypeError:
        return False
    return True


def _check_takes_one(function: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Some functions of the interpreter have no signature.
    try:
        signature.bind(None)
    except TypeError as error:
        raise SinkError(
            "sink must be callable with one RecordBatch, or with one and its BatchInfo: "
            f"{function!r}: {error}"
        ) from error
