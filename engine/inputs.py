"""Bounded inputs: whatever holds rows, read as record batches one after the other.

Tables and batches in memory are sliced, never copied. Files are read as they are consumed, so that
memory holds a few batches of them at a time, whatever their size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads

from millstream.engine.durations import nanoseconds_per, time_unit
from millstream.engine.files import file_format
from millstream.errors import MillstreamError, SourceError
from millstream.planner.catalog import StreamDefinition

__all__ = ["StreamClock", "batches", "interleave", "schema_of", "stream_clock", "total_rows"]

I64: TypeAlias = npt.NDArray[np.int64]

_NEVER = np.iinfo(np.int64).min
_ACCEPTED = (
    "a pyarrow Table, RecordBatch, RecordBatchReader or Dataset, an iterable of batches, a data "
    "frame with __arrow_c_stream__, or the path of a file"
)


def batches(
    source: object, schema: pa.Schema, batch_rows: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Open a bounded input and iterate over its record batches in order.

    Empty batches are left out. Batches come with the input's own columns and types; only text
    formats, which have no types of their own, are read with those of ``schema``.

    Args:
        source: A Table, RecordBatch, RecordBatchReader or Dataset of pyarrow, an iterable of
            batches or tables, an object with ``__arrow_c_stream__`` such as a pandas or polars
            frame, or the path of a Parquet, Arrow IPC, CSV or NDJSON file.
        schema: Schema of the stream that the rows are for.
        batch_rows: Rows of a batch at most. Batches that are larger are sliced without copying;
            smaller ones are not put together. None leaves batches as they come, and makes one
            batch of a table.

    Raises:
        SourceError: The input is of no known kind, a file is missing or of an unknown format, or
            reading fails, then or later.
    """
    if batch_rows is not None and batch_rows < 1:
        raise SourceError(f"batch_rows must be at least 1: {batch_rows}")
    if isinstance(source, str | PathLike):
        path = _local(source)
        read = file_format(path).read(path, schema, batch_rows)
        return _sliced(_read(read, path), batch_rows)
    items = _items(source)
    return _sliced(_read(items, _kind(source), whole_tables=batch_rows is None), batch_rows)


def schema_of(source: object) -> pa.Schema:
    """Find the schema of a bounded input without using up any of its rows.

    Raises:
        SourceError: The input is of no known kind, cannot be read, or gives its schema only
            together with its rows.
    """
    if isinstance(source, str | PathLike):
        path = _local(source)
        with _failures(path):
            return file_format(path).schema(path)
    if isinstance(source, pa.Table | pa.RecordBatch | pa.RecordBatchReader | pads.Dataset):
        return source.schema
    if hasattr(source, "__arrow_c_schema__"):
        return pa.schema(source)
    if _is_exporter(source):
        with _failures(_kind(source)):
            return _exported(source).schema
    if isinstance(source, Sequence) and len(source) > 0 and not isinstance(source, bytes):
        return schema_of(source[0])
    _items(source)
    raise SourceError(
        f"schema of an input must be known before its rows are read: {_kind(source)}; "
        "declare a stream, or make it a pyarrow RecordBatchReader"
    )


def total_rows(source: object) -> int | None:
    """Count the rows of a bounded input, or return None where that would mean to read it.

    Raises:
        SourceError: A file is missing, of an unknown format or broken.
    """
    if isinstance(source, str | PathLike):
        path = _local(source)
        with _failures(path):
            return file_format(path).total_rows(path)
    if isinstance(source, pa.Table | pa.RecordBatch):
        return int(source.num_rows)
    if isinstance(source, pads.Dataset):
        return _dataset_rows(source)
    if hasattr(source, "__arrow_c_stream__") and hasattr(source, "__len__"):
        return len(source)
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        counts = [total_rows(item) for item in source]
        return None if None in counts else sum(count for count in counts if count is not None)
    return None


@dataclass(frozen=True, slots=True)
class StreamClock:
    """How to read the event times of a stream's batches on a scale common to all streams.

    Attributes:
        times: Gives the event time of each row, in the stream's own unit: int64[n_rows].
        unit_nanoseconds: Length of that unit. Integer event times count as nanoseconds, which
            makes no difference among themselves.
    """

    times: Callable[[pa.RecordBatch], I64]
    unit_nanoseconds: int = 1


def stream_clock(stream: StreamDefinition) -> StreamClock | None:
    """Return the clock of a stream whose batches have its schema, or None without event time.

    Rows whose event time is NULL count as earlier than all others: whether they are an error is
    for the job to say, not for the order in which streams are read.
    """
    if stream.event_time is None:
        return None
    column = stream.event_time
    unit = time_unit(stream.schema.field(column).type)

    def times(batch: pa.RecordBatch) -> I64:
        array = batch.column(column)
        # Dates of 32 bits only cast to numbers of 32 bits.
        counts = array.cast(pa.int32()) if pa.types.is_date32(array.type) else array
        filled = counts.cast(pa.int64()).fill_null(_NEVER)
        values: I64 = filled.to_numpy(zero_copy_only=False)
        return values

    return StreamClock(times, 1 if unit == "integer" else nanoseconds_per(unit))


def interleave(
    sources: Mapping[str, Iterator[pa.RecordBatch]], clocks: Mapping[str, StreamClock | None]
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Merge streams by event time, so that operators with several inputs see them move together.

    The stream whose next batch starts earliest goes first, by name among equals. If that batch
    lasts longer than the next one of another stream, it gives its rows up to the last that does
    not, and the rest waits until the other has had its turn. So a stream runs ahead of another by
    no more than the span of one batch, whatever the sizes of their batches. A stream is cut at
    most once for each whole batch of another: two streams give at most twice as many batches as
    before. Streams without event time give one batch each in between. The order of a stream's own
    rows never changes, and equal inputs merge equally.

    Args:
        sources: Batches of each stream. They are drawn one at a time, as they are needed.
        clocks: Clock of each stream, None or absent where it has no event time.
    """
    timed = [
        _Head(name, sources[name], clock)
        for name in sorted(sources)
        if (clock := clocks.get(name)) is not None
    ]
    untimed = {name: sources[name] for name in sorted(sources) if clocks.get(name) is None}
    timed = [head for head in timed if head.fill()]
    while timed or untimed:
        if timed:
            first = min(timed, key=lambda head: head.earliest)
            limit = min((head.latest for head in timed if head is not first), default=None)
            yield first.name, first.take(limit)
            if not first.fill():
                timed.remove(first)
        for name in list(untimed):
            batch = next(untimed[name], None)
            if batch is None:
                del untimed[name]
            else:
                yield name, batch


class _Head:
    """A stream's next batch, and its span of event time in nanoseconds."""

    __slots__ = ("_batch", "_batches", "_clock", "_times", "earliest", "latest", "name")

    def __init__(self, name: str, source: Iterator[pa.RecordBatch], clock: StreamClock) -> None:
        self.name = name
        self._batches = source
        self._clock = clock
        self._batch: pa.RecordBatch | None = None

    def fill(self) -> bool:
        """Hold rows, from the next batch if need be; return whether there are any."""
        while self._batch is None or self._batch.num_rows == 0:
            self._batch = next(self._batches, None)
            if self._batch is None:
                return False
            self._times = self._clock.times(self._batch)
        # Python's integers, because the extremes of a coarse unit do not fit 64 bits of a fine one.
        self.earliest = int(self._times.min()) * self._clock.unit_nanoseconds
        self.latest = int(self._times.max()) * self._clock.unit_nanoseconds
        return True

    def take(self, limit: int | None) -> pa.RecordBatch:
        """Remove and return the rows up to the last one that is not later than ``limit``.

        There is at least one, for no stream ends before the earliest row of all streams. The rows
        that are left are all later than ``limit``: it is not this stream's turn again before the
        one that set the limit.
        """
        batch, self._batch = self._batch, None
        assert batch is not None
        if limit is None or self.latest <= limit:
            return batch
        in_time = self._times <= limit // self._clock.unit_nanoseconds
        n_rows = batch.num_rows - int(in_time[::-1].argmax())
        self._batch, self._times = batch.slice(n_rows), self._times[n_rows:]
        return batch.slice(0, n_rows)


def _local(source: str | PathLike[str]) -> Path:
    text = fspath(source)
    if not isinstance(text, str) or "://" in text:
        raise SourceError(f"path must be of a local file; for others give a dataset: {text!r}")
    return Path(text)


def _items(source: object) -> Iterable[object]:
    """Return the objects that an input without a path is made of; most inputs are one object."""
    if isinstance(source, pa.Table | pa.RecordBatch | pads.Dataset) or _is_exporter(source):
        return (source,)
    if isinstance(source, Iterable) and not isinstance(source, bytes | Mapping):
        return source
    raise SourceError(f"input must be {_ACCEPTED}: {_kind(source)}")


def _read(
    items: Iterable[object], name: object, *, whole_tables: bool = False
) -> Iterator[pa.RecordBatch]:
    n_rows = 0
    with _failures(name, lambda: f" after {n_rows} rows"):
        for item in items:
            for batch in _item_batches(item, whole_tables):
                n_rows += batch.num_rows
                yield batch


def _item_batches(item: object, whole_tables: bool) -> Iterator[pa.RecordBatch]:
    if isinstance(item, pa.RecordBatch):
        yield item
    elif isinstance(item, pa.Table):
        # Even then it is several batches where a column of strings is too long for one array.
        yield from (item.combine_chunks() if whole_tables else item).to_batches()
    elif isinstance(item, pads.Dataset):
        yield from item.to_batches()
    elif _is_exporter(item):
        yield from _exported(item)
    else:
        raise SourceError(f"items of an input must be Arrow data: {item!r}")


def _is_exporter(source: object) -> bool:
    return hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")


def _exported(source: object) -> pa.RecordBatchReader:
    if hasattr(source, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(source)
    batch = pa.record_batch(source)
    return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def _dataset_rows(dataset: pads.Dataset) -> int | None:
    counted = isinstance(dataset, pads.InMemoryDataset) or (
        isinstance(dataset, pads.FileSystemDataset)
        and isinstance(dataset.format, pads.ParquetFileFormat | pads.IpcFileFormat)
    )
    return int(dataset.count_rows()) if counted else None


@contextmanager
def _failures(name: object, progress: Callable[[], str] = str) -> Iterator[None]:
    """Turn what a reader raises into a SourceError that names the input, with its cause."""
    try:
        yield
    except MillstreamError:
        raise
    except Exception as error:
        raise SourceError(f"reading {name} failed{progress()}: {error}") from error


def _kind(source: object) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _sliced(whole: Iterable[pa.RecordBatch], batch_rows: int | None) -> Iterator[pa.RecordBatch]:
    for batch in whole:
        if batch.num_rows > 0 and (batch_rows is None or batch.num_rows <= batch_rows):
            yield batch
        else:
            for start in range(0, batch.num_rows, batch_rows or 1):
                yield batch.slice(start, batch_rows)
