"""Files of rows on the local disk: which formats are known, and how each is read batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from millstream.errors import SourceError

__all__ = ["FILE_SUFFIXES", "FileFormat", "file_format"]

# Rows decoded from a Parquet file at a time, at least. Decoding a column has a price per call.
_PARQUET_ROWS_MIN = 65_536
_COMPRESSIONS = (".gz", ".bz2", ".lz4", ".zst")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One way in which files hold rows. All errors that its functions raise are of Arrow's or I/O.

    Attributes:
        read: Iterates over the batches of a file, holding little of it in memory. It is told the
            schema that the rows are for, and how many of them will be asked for at a time.
        schema: Reads the schema; that of a text format is guessed from the file's beginning.
        total_rows: Counts rows where the file says how many it has, else returns None.
        compressible: Whether a compressed file, such as ``rows.csv.gz``, can be read.
    """

    read: Callable[[Path, pa.Schema, int | None], Iterator[pa.RecordBatch]]
    schema: Callable[[Path], pa.Schema]
    total_rows: Callable[[Path], int | None]
    compressible: bool = False


def file_format(path: Path) -> FileFormat:
    """Return the format of an existing file, by the end of its name.

    Raises:
        SourceError: There is no such file, or the name ends in nothing known.
    """
    compressed = path.suffix.lower() in _COMPRESSIONS
    suffix = (Path(path.stem) if compressed else path).suffix.lower()
    known = _FORMATS.get(suffix)
    if path.is_dir():
        raise SourceError(f"path must be of a file; for a folder give a dataset: {str(path)!r}")
    if known is None or (compressed and not known.compressible):
        raise SourceError(
            f"name of a file of rows must end in one of {', '.join(FILE_SUFFIXES)}"
            f" (text also with {', '.join(_COMPRESSIONS)}): {str(path)!r}"
        )
    if not path.is_file():
        raise SourceError(f"file must exist: {str(path)!r}")
    return known


def _read_parquet(
    path: Path, schema: pa.Schema, batch_rows: int | None
) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=max(batch_rows or 0, _PARQUET_ROWS_MIN))


def _parquet_rows(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def _read_ipc(path: Path, schema: pa.Schema, batch_rows: int | None) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as mapped:
        if not _has_footer(path):
            yield from pa.ipc.open_stream(mapped)
            return
        reader = pa.ipc.open_file(mapped)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _ipc_schema(path: Path) -> pa.Schema:
    with pa.memory_map(str(path)) as mapped:
        opened = pa.ipc.open_file if _has_footer(path) else pa.ipc.open_stream
        return opened(mapped).schema


def _ipc_rows(path: Path) -> int | None:
    if not _has_footer(path):
        return None
    with pa.memory_map(str(path)) as mapped:
        return int(pa.ipc.open_file(mapped).count_rows())


def _has_footer(path: Path) -> bool:
    """Tell Arrow's file format from its stream format, which go by the same file names."""
    with path.open("rb") as file:
        return file.read(6) == b"ARROW1"


def _read_csv(path: Path, schema: pa.Schema, batch_rows: int | None) -> Iterator[pa.RecordBatch]:
    # An empty field is NULL unless it is quoted. Words such as NA stay what they are: they are
    # strings for some, and an error in a column of numbers is better than a NULL by accident.
    types = {field.name: field.type for field in schema}
    with pacsv.open_csv(
        path,
        convert_options=pacsv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    ) as reader:
        yield from reader


def _csv_schema(path: Path) -> pa.Schema:
    with pacsv.open_csv(
        path, convert_options=pacsv.ConvertOptions(null_values=[""], strings_can_be_null=True)
    ) as reader:
        return reader.schema


def _read_ndjson(path: Path, schema: pa.Schema, batch_rows: int | None) -> Iterator[pa.RecordBatch]:
    options = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="infer")
    with _decompressed(path) as file:
        yield from pajson.open_json(file, parse_options=options)


def _ndjson_schema(path: Path) -> pa.Schema:
    with _decompressed(path) as file:
        return pajson.open_json(file).schema


def _decompressed(path: Path) -> pa.NativeFile:
    return pa.input_stream(str(path), compression="detect")


def _unknown_rows(path: Path) -> None:
    return None


_PARQUET = FileFormat(_read_parquet, pq.read_schema, _parquet_rows)
_IPC = FileFormat(_read_ipc, _ipc_schema, _ipc_rows)
_CSV = FileFormat(_read_csv, _csv_schema, _unknown_rows, compressible=True)
_NDJSON = FileFormat(_read_ndjson, _ndjson_schema, _unknown_rows, compressible=True)

_FORMATS: dict[str, FileFormat] = {
    ".parquet": _PARQUET,
    ".pq": _PARQUET,
    ".arrow": _IPC,
    ".arrows": _IPC,
    ".feather": _IPC,
    ".ipc": _IPC,
    ".csv": _CSV,
    ".json": _NDJSON,
    ".jsonl": _NDJSON,
    ".ndjson": _NDJSON,
}

FILE_SUFFIXES = tuple(_FORMATS)
