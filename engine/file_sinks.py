"""Sinks that write files: Parquet and Arrow IPC.

A file is written under a hidden temporary name beside its place, brought safely to disk, and takes
its name when the sink is closed. So a file under its own name is whole, and a job that fails or is
killed leaves none.
"""

from __future__ import annotations

import copy
import os
import uuid
from abc import abstractmethod
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar, Literal, Self, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from millstream.engine.files import FILE_SUFFIXES
from millstream.engine.sinks import Sink
from millstream.errors import SinkError

__all__ = ["IpcSink", "ParquetSink"]

Writer: TypeAlias = pa.RecordBatchFileWriter | pa.RecordBatchStreamWriter | pq.ParquetWriter

# Readers pay for every row group and batch, so small batches are put together before they are
# written: until they have as many rows as this, or as many bytes.
_GATHERED_ROWS_MAX = 1 << 17
_GATHERED_BYTES_MAX = 1 << 26


class _FileSink(Sink):
    """What sinks of all formats share."""

    _suffixes: ClassVar[tuple[str, ...]]

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = Path(path)
        self._file: _UnfinishedFile | None = None

    def for_partitions(self, n_partitions: int) -> Sequence[Self]:
        """Return this sink for all partitions if it writes one file, else one for each.

        Raises:
            SinkError: The folder holds the results of another job, which readers would mix up with
                those of this one, or the path is a file of another format.
        """
        if self._is_one_file():
            return [self] * n_partitions
        if self._path.is_file() or self._path.suffix.lower() in FILE_SUFFIXES:
            raise SinkError(
                f"path must be a folder or a file that ends in {' or '.join(self._suffixes)}: "
                f"{str(self._path)!r}"
            )
        if any(self._path.glob("part-*")):
            raise SinkError(f"folder must not hold the results of another job: {str(self._path)!r}")
        return [copy.copy(self) for _ in range(n_partitions)]

    def open(self, partition: int, schema: pa.Schema) -> None:
        """Begin the file of a partition under its temporary name."""
        place = self._path
        if not self._is_one_file():
            place = place / f"part-{partition:05d}{self._suffixes[0]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        self._file = _UnfinishedFile(place, schema, self._new_writer)

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows to the file."""
        self._opened().write(batch)

    def close(self) -> None:
        """Bring the file to disk and give it its name, in place of a file that has it."""
        file, self._file = self._opened(), None
        try:
            file.finish()
        except BaseException:
            file.discard()
            raise

    def abort(self) -> None:
        """Remove the unfinished file."""
        file, self._file = self._opened(), None
        file.discard()

    def _is_one_file(self) -> bool:
        return self._path.suffix.lower() in self._suffixes

    def _opened(self) -> _UnfinishedFile:
        if self._file is None:
            raise SinkError(f"sink must be open: {str(self._path)!r}")
        return self._file

    @abstractmethod
    def _new_writer(self, file: pa.NativeFile, schema: pa.Schema) -> Writer:
        """Begin to write rows of ``schema`` in the sink's format."""


class ParquetSink(_FileSink):
    """Writes Parquet: one file for all partitions, or a folder with one file for each.

    A path that ends in ``.parquet`` or ``.pq`` is a file, which replaces one of that name. Any
    other is a folder, made if it is missing, for ``part-00000.parquet`` and so on; it must not
    hold such files yet. Rows of one partition keep their order. Files get their names when the job
    has finished; a job that fails or is cancelled leaves none.

    Args:
        path: The file or the folder.
        compression: Codec of all columns.
    """

    _suffixes = (".parquet", ".pq")

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        compression: Literal["snappy", "zstd", "lz4", "gzip", "brotli", "none"] = "snappy",
    ) -> None:
        super().__init__(path)
        self._compression = compression

    def _new_writer(self, file: pa.NativeFile, schema: pa.Schema) -> Writer:
        return pq.ParquetWriter(file, schema, compression=self._compression)


class IpcSink(_FileSink):
    """Writes Arrow IPC: one file for all partitions, or a folder with one file for each.

    A path that ends in ``.arrow``, ``.ipc`` or ``.feather`` is a file of Arrow's file format, one
    in ``.arrows`` of its stream format. Any other is a folder for ``part-00000.arrow`` and so on.
    All else is as for :class:`ParquetSink`.

    Args:
        path: The file or the folder.
        compression: Codec of all columns, or None.
    """

    _suffixes = (".arrow", ".ipc", ".feather", ".arrows")

    def __init__(
        self, path: str | PathLike[str], *, compression: Literal["lz4", "zstd"] | None = None
    ) -> None:
        super().__init__(path)
        self._compression = compression

    def _new_writer(self, file: pa.NativeFile, schema: pa.Schema) -> Writer:
        is_stream = self._path.suffix.lower() == ".arrows"
        new = pa.ipc.new_stream if is_stream else pa.ipc.new_file
        return new(file, schema, options=pa.ipc.IpcWriteOptions(compression=self._compression))


class _UnfinishedFile:
    """A file that is being written under a temporary name."""

    def __init__(
        self,
        place: Path,
        schema: pa.Schema,
        new_writer: Callable[[pa.NativeFile, pa.Schema], Writer],
    ) -> None:
        self._place = place
        self._schema = schema
        self._gathered: list[pa.RecordBatch] = []
        self._n_rows = 0
        self._n_bytes = 0
        # Readers of folders pass over names that begin with a dot.
        self._temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
        self._file = pa.OSFile(str(self._temporary), "wb")
        self._writer: Writer | None = None
        try:
            self._writer = new_writer(self._file, schema)
        except BaseException:
            self.discard()
            raise

    def write(self, batch: pa.RecordBatch) -> None:
        self._gathered.append(batch)
        self._n_rows += batch.num_rows
        self._n_bytes += batch.nbytes
        if self._n_rows >= _GATHERED_ROWS_MAX or self._n_bytes >= _GATHERED_BYTES_MAX:
            self._write_gathered()

    def finish(self) -> None:
        self._write_gathered()
        self._close()
        _sync(self._temporary)
        self._temporary.replace(self._place)
        _sync(self._place.parent)

    def discard(self) -> None:
        try:
            self._close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _write_gathered(self) -> None:
        if self._n_rows > 0:
            rows = pa.Table.from_batches(self._gathered, self._schema).combine_chunks()
            assert self._writer is not None
            self._writer.write_table(rows)
        self._gathered, self._n_rows, self._n_bytes = [], 0, 0

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            self._file.close()


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
