"""Which partition a row belongs to: hashes of key columns, and a batch split by them.

The hash of a row does not depend on how its values are laid out. A number has one hash in every
integer type, another one in every float type; NaN and zero have one each, whatever their bits;
text hashes as its UTF-8 bytes, dictionary-encoded or not; decimals as 16 bytes; dates and times as
the integers that they are stored as. Routing therefore survives a change of producer, and can be
reproduced with any implementation of XXH64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import lib

from millstream.engine.columns import (
    BYTES_TYPES,
    array_from_buffers,
    fixed_values,
    offsets_and_data,
    plain,
    validity,
)
from millstream.engine.taking import take
from millstream.errors import InternalError, SchemaError
from millstream.kernels.compile import U32, U64
from millstream.kernels.hashing import (
    float_words,
    hash_bytes,
    hash_bytes_nullable,
    hash_pairs,
    hash_pairs_nullable,
    hash_words,
    hash_words_nullable,
)
from millstream.kernels.partitioning import MovedColumn, find_owners, move_columns, place_rows

__all__ = ["hash_columns", "moved", "split", "split_together"]

_WORDS = frozenset(
    {
        lib.Type_BOOL,
        lib.Type_INT8,
        lib.Type_INT16,
        lib.Type_INT32,
        lib.Type_INT64,
        lib.Type_UINT8,
        lib.Type_UINT16,
        lib.Type_UINT32,
        lib.Type_UINT64,
        lib.Type_DATE32,
        lib.Type_DATE64,
        lib.Type_TIME32,
        lib.Type_TIME64,
        lib.Type_TIMESTAMP,
        lib.Type_DURATION,
    }
)
_FLOATS = frozenset({lib.Type_HALF_FLOAT, lib.Type_FLOAT, lib.Type_DOUBLE})
_PAIRS = frozenset({lib.Type_DECIMAL128, lib.Type_INTERVAL_MONTH_DAY_NANO})
_NARROW_DECIMALS = frozenset({lib.Type_DECIMAL32, lib.Type_DECIMAL64})
# Whole bytes, up to eight of them.
_MOVED = (_WORDS | _FLOATS | _NARROW_DECIMALS) - {lib.Type_BOOL}


def hash_columns(arrays: Sequence[pa.Array], names: Sequence[str] | None = None) -> U64:
    """Hash rows over several columns.

    Args:
        arrays: One or more columns of one length.
        names: Their names, for errors; without them columns are called by their number, from 1.

    Returns:
        uint64[n_rows]: each column's value chained to the hash of those before it.

    Raises:
        SchemaError: A column's type cannot be a key.
        InternalError: There is no column.
    """
    if not arrays:
        raise InternalError("rows must be hashed over at least one column")
    hashes = np.zeros(len(arrays[0]), np.uint64)
    for index, array in enumerate(arrays):
        try:
            if index == 0 and _repeats_entries(array):
                hashes = _hash_by_entry(array)
            else:
                _chain(plain(array), hashes)
        except _NotAKeyError:
            name = str(index + 1) if names is None else repr(names[index])
            raise SchemaError(f"column {name} cannot be a key: its type is {array.type}") from None
    return hashes


def split(batch: pa.RecordBatch, keys: Sequence[str], n_partitions: int) -> list[pa.RecordBatch]:
    """Split a batch by the hash of its key columns; rows keep their order within a partition.

    Args:
        batch: Rows.
        keys: One or more columns of the batch.
        n_partitions: At least 1.

    Returns:
        One batch per partition, possibly empty: slices of one copy of the rows, or of the batch
        itself if all rows belong to one partition.

    Raises:
        SchemaError: The type of a key column cannot be a key.
        InternalError: There is no key column.
    """
    if n_partitions == 1:
        return [batch]
    n_rows = batch.num_rows
    hashes = hash_columns([batch.column(key) for key in keys], keys)
    offsets, places = np.empty(n_partitions + 1, np.int64), np.empty(n_rows, np.uint32)
    place_rows(hashes, n_partitions, offsets, places)
    starts = offsets.tolist()
    counts = [stop - start for start, stop in pairwise(starts)]
    if n_rows not in counts:
        batch = moved(batch, places)
    return [batch.slice(start, count) for start, count in zip(starts, counts, strict=False)]


def split_together(
    batches: Sequence[pa.RecordBatch], keys: Sequence[str], n_partitions: int
) -> list[list[pa.RecordBatch]]:
    """Do what :func:`split` does for each of several batches, in one go.

    Args:
        batches: Rows of one schema.
        keys: As for :func:`split`.
        n_partitions: As for :func:`split`.

    Returns:
        Per batch what :func:`split` returns; the slices of all are of one copy of the rows.

    Raises:
        SchemaError: The type of a key column cannot be a key.
    """
    try:
        whole = pa.concat_batches(batches)
    except pa.ArrowInvalid:
        # The indices of their dictionaries are too narrow for the values of all.
        return [split(batch, keys, n_partitions) for batch in batches]
    n_rows, n_batches = whole.num_rows, len(batches)
    hashes = hash_columns([whole.column(key) for key in keys], keys)
    offsets, places = np.empty(n_partitions + 1, np.int64), np.empty(n_rows, np.uint32)
    place_rows(hashes, n_partitions, offsets, places)
    owners = np.empty(n_rows, np.uint32)
    find_owners(hashes, n_partitions, owners)
    # Rows keep their order, so that in each partition those of one batch lie together.
    places_of_batches = np.arange(n_batches) * n_partitions
    slices = np.repeat(places_of_batches, [batch.num_rows for batch in batches]) + owners
    counts = np.bincount(slices, minlength=n_batches * n_partitions)
    counts = counts.reshape(n_batches, n_partitions)
    starts = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    rows = moved(whole, places)
    return [
        [rows.slice(start, count) for start, count in zip(*of_batch, strict=True)]
        for of_batch in zip(starts.tolist(), counts.tolist(), strict=True)
    ]


def moved(batch: pa.RecordBatch, places: U32) -> pa.RecordBatch:
    """Return a copy of a batch whose rows are at other places.

    Args:
        batch: Rows.
        places: uint32[n_rows], where each row goes, each number below n_rows once.
    """
    columns, n_rows = batch.columns, batch.num_rows
    moved: list[int] = []
    others: list[int] = []
    program = np.empty((len(columns), len(MovedColumn)), np.int64)
    for index, column in enumerate(columns):
        n_bytes = _bytes_per_value(column)
        if n_bytes is None:
            others.append(index)
            continue
        buffer = pa.allocate_buffer(n_rows * n_bytes)
        values_at = column.buffers()[1].address + column.offset * n_bytes
        program[len(moved)] = values_at, buffer.address, n_bytes
        columns[index] = pa.Array.from_buffers(column.type, n_rows, [None, buffer], 0)
        moved.append(index)
    rows = np.empty(n_rows if others else 0, np.int64)
    move_columns(places, program[: len(moved)], rows)
    if others:
        taken = array_from_buffers(rows, pa.int64(), None)
        for index in others:
            columns[index] = take(columns[index], taken)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


class _NotAKeyError(Exception):
    """The type of a column has no defined equality to route by."""


def _repeats_entries(array: pa.Array) -> bool:
    return array.type.id == lib.Type_DICTIONARY and len(array.dictionary) <= len(array)


def _hash_by_entry(array: pa.DictionaryArray) -> U64:
    """Hash each entry of a dictionary once; only the first column has one seed for all rows."""
    n_entries = len(array.dictionary)
    entry_hashes = np.zeros(n_entries + 1, np.uint64)
    _chain(plain(array.dictionary), entry_hashes[:n_entries])
    _chain(pa.nulls(1), entry_hashes[n_entries:])
    codes = fixed_values(array.indices.cast(pa.int64()).fill_null(n_entries))
    hashes: U64 = entry_hashes[codes]
    return hashes


def _chain(array: pa.Array, hashes: U64) -> None:
    """Replace the seeds of all rows by the hashes of a column without encodings."""
    type_id = array.type.id
    if type_id in _NARROW_DECIMALS:
        array = array.cast(pa.decimal128(array.type.precision, array.type.scale))
        type_id = lib.Type_DECIMAL128
    without_nulls: Callable[..., None] = hash_words
    with_nulls: Callable[..., None] = hash_words_nullable
    values: tuple[npt.NDArray[Any], ...]
    if type_id in BYTES_TYPES:
        without_nulls, with_nulls = hash_bytes, hash_bytes_nullable
        values = offsets_and_data(array)
    elif type_id in _PAIRS:
        without_nulls, with_nulls = hash_pairs, hash_pairs_nullable
        values = (fixed_values(array),)
    elif type_id in _FLOATS:
        values = (_float_words(array),)
    elif type_id in _WORDS:
        values = (fixed_values(array),)
    elif type_id == lib.Type_NA:
        values = (fixed_values(array.cast(pa.int64())),)
    else:
        raise _NotAKeyError
    bitmap, bit_offset = validity(array)
    if bitmap is None:
        without_nulls(*values, hashes)
    else:
        with_nulls(*values, bitmap, bit_offset, hashes)


def _float_words(array: pa.Array) -> U64:
    values = fixed_values(array)
    if values.dtype == np.float16:
        values = values.astype(np.float32)
        values.setflags(write=False)
    words = np.empty(len(values), np.uint64)
    float_words(values, words)
    # As all other inputs are: the kernels need no second compilation for it.
    words.setflags(write=False)
    return words


def _bytes_per_value(column: pa.Array) -> int | None:
    """Return the width of values that are moved as they are, or None where there is more to it."""
    if column.type.id not in _MOVED or column.null_count > 0:
        return None
    return int(column.type.bit_width) // 8
