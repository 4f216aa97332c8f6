"""Which partition owns a row, and the rows of each partition side by side."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from millstream.kernels.compile import I64, U32, U64, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["MovedColumn", "find_owners", "move_columns", "place_rows"]


class MovedColumn(IntEnum):
    """What :func:`move_columns` is told of a column: addresses of its first values, and a width."""

    SOURCE = 0
    TARGET = 1
    N_BYTES = 2


_SOURCE, _TARGET, _N_BYTES = map(int, MovedColumn)

# Rows are dealt in quarters with cursors of their own: a run of rows of one partition would wait at
# every row for the cursor that the row before has just written.
N_QUARTERS = 4


@kernel
def _partition_of(hashed: np.uint64, n_partitions: np.uint64) -> np.uint64:
    # Hash tables take their slots from the low bits, so that the keys of one partition still spread
    # over all slots of its table.
    return ((hashed >> np.uint64(32)) * n_partitions) >> np.uint64(32)


@kernel
def _count_rows(hashes: U64, factor: np.uint64, counts: I64) -> None:
    """Count the rows of each quarter and partition: int64[N_QUARTERS, n_partitions], from 0."""
    n_each = hashes.shape[0] // N_QUARTERS
    for row in range(n_each):
        for quarter in range(N_QUARTERS):
            counts[quarter, _partition_of(hashes[quarter * n_each + row], factor)] += 1
    for row in range(N_QUARTERS * n_each, hashes.shape[0]):
        counts[N_QUARTERS - 1, _partition_of(hashes[row], factor)] += 1


@kernel
def place_rows(hashes: U64, n_partitions: int, offsets: I64, places: U32) -> None:
    """Sort rows by partition, keeping their order within one: a counting sort.

    Hashes are mapped evenly to partitions by their high bits, by multiplication instead of modulo.

    Args:
        hashes: uint64[n_rows], less than 2**32 rows.
        n_partitions: 1 to 2**32. Unchecked.
        offsets: int64[n_partitions + 1], out: partition ``p`` has the places from ``offsets[p]`` to
            ``offsets[p + 1]``.
        places: uint32[n_rows], out: where each row goes.

    References:
        Lemire, D. (2019). Fast random integer generation in an interval.
        https://doi.org/10.1145/3230636
    """
    factor = np.uint64(n_partitions)
    cursors = np.zeros((N_QUARTERS, n_partitions), np.int64)
    _count_rows(hashes, factor, cursors)
    n_before = 0
    for partition in range(n_partitions):
        offsets[partition] = n_before
        for quarter in range(N_QUARTERS):
            n_rows = cursors[quarter, partition]
            cursors[quarter, partition] = n_before
            n_before += n_rows
    offsets[n_partitions] = n_before

    n_each = hashes.shape[0] // N_QUARTERS
    for step in range(n_each):
        for quarter in range(N_QUARTERS):
            row = quarter * n_each + step
            owner = _partition_of(hashes[row], factor)
            places[row] = cursors[quarter, owner]
            cursors[quarter, owner] += 1
    for row in range(N_QUARTERS * n_each, hashes.shape[0]):
        owner = _partition_of(hashes[row], factor)
        places[row] = cursors[N_QUARTERS - 1, owner]
        cursors[N_QUARTERS - 1, owner] += 1


@kernel
def find_owners(hashes: U64, n_partitions: int, owners: U32) -> None:
    """Find the partition of each row, as :func:`place_rows` does.

    Args:
        hashes: uint64[n_rows].
        n_partitions: 1 to 2**32. Unchecked.
        owners: uint32[n_rows], out.
    """
    factor = np.uint64(n_partitions)
    for row in range(hashes.shape[0]):
        owners[row] = _partition_of(hashes[row], factor)


@kernel
def move_columns(places: U32, columns: I64, rows: I64) -> None:
    """Move the values of columns to the places of their rows.

    Args:
        places: uint32[n_rows], each number below n_rows once. Unchecked.
        columns: int64[n_columns, 3], columns as :class:`MovedColumn` says: values of 1, 2, 4 or 8
            bytes, and room for as many. The caller keeps them alive. Unchecked.
        rows: int64[n_rows], out: the row that each place gets. Or int64[0], where nobody asks.
    """
    for column in range(columns.shape[0]):
        source_at, target_at = columns[column, _SOURCE], columns[column, _TARGET]
        if columns[column, _N_BYTES] == 8:
            words, moved_words = pointer(source_at, np.int64), pointer(target_at, np.int64)
            for row in range(places.shape[0]):
                moved_words[places[row]] = words[row]
        elif columns[column, _N_BYTES] == 4:
            halves, moved_halves = pointer(source_at, np.int32), pointer(target_at, np.int32)
            for row in range(places.shape[0]):
                moved_halves[places[row]] = halves[row]
        elif columns[column, _N_BYTES] == 2:
            shorts, moved_shorts = pointer(source_at, np.int16), pointer(target_at, np.int16)
            for row in range(places.shape[0]):
                moved_shorts[places[row]] = shorts[row]
        else:
            bytes_, moved_bytes = pointer(source_at, np.int8), pointer(target_at, np.int8)
            for row in range(places.shape[0]):
                moved_bytes[places[row]] = bytes_[row]
    if rows.shape[0] > 0:
        for row in range(places.shape[0]):
            rows[places[row]] = row
