"""Which partition owns a row, and the rows of each partition side by side."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U32, U64, kernel

__all__ = ["partition_indices", "scatter_rows"]


@kernel
def partition_indices(hashes: U64, n_partitions: int, partitions: U32) -> None:
    """Map hashes evenly to partitions by their high bits, by multiplication instead of modulo.

    Hash tables take their slots from the low bits, so that the keys of one partition still spread
    over all slots of its table.

    Args:
        hashes: uint64[n_rows].
        n_partitions: 1 to 2**32. Unchecked.
        partitions: uint32[n_rows], out, each below ``n_partitions``.

    References:
        Lemire, D. (2019). Fast random integer generation in an interval.
        https://doi.org/10.1145/3230636
    """
    factor = np.uint64(n_partitions)
    for row in range(hashes.shape[0]):
        high = hashes[row] >> np.uint64(32)
        partitions[row] = np.uint32((high * factor) >> np.uint64(32))


# Rows are dealt in quarters with cursors of their own: a run of rows of one partition would wait at
# every row for the cursor that the row before has just written.
N_QUARTERS = 4


@kernel
def count_rows(partitions: U32, counts: I64) -> None:
    """Count the rows of each quarter and partition: int64[N_QUARTERS, n_partitions], from 0."""
    n_each = partitions.shape[0] // N_QUARTERS
    for row in range(n_each):
        for quarter in range(N_QUARTERS):
            counts[quarter, partitions[quarter * n_each + row]] += 1
    for row in range(N_QUARTERS * n_each, partitions.shape[0]):
        counts[N_QUARTERS - 1, partitions[row]] += 1


@kernel
def scatter_rows(partitions: U32, n_partitions: int, offsets: I64, rows: I64) -> None:
    """Sort row numbers by partition, keeping their order within one: a counting sort.

    Args:
        partitions: uint32[n_rows], each below ``n_partitions``. Unchecked.
        n_partitions: At least 1.
        offsets: int64[n_partitions + 1], out: partition ``p`` has
            ``rows[offsets[p]:offsets[p + 1]]``.
        rows: int64[n_rows], out.
    """
    cursors = np.zeros((N_QUARTERS, n_partitions), np.int64)
    count_rows(partitions, cursors)
    n_before = 0
    for partition in range(n_partitions):
        offsets[partition] = n_before
        for quarter in range(N_QUARTERS):
            n_rows = cursors[quarter, partition]
            cursors[quarter, partition] = n_before
            n_before += n_rows
    offsets[n_partitions] = n_before

    n_each = partitions.shape[0] // N_QUARTERS
    for step in range(n_each):
        for quarter in range(N_QUARTERS):
            row = quarter * n_each + step
            partition = partitions[row]
            rows[cursors[quarter, partition]] = row
            cursors[quarter, partition] += 1
    for row in range(N_QUARTERS * n_each, partitions.shape[0]):
        partition = partitions[row]
        rows[cursors[N_QUARTERS - 1, partition]] = row
        cursors[N_QUARTERS - 1, partition] += 1
