"""Groups and rows parted by a value that each has."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, U32, kernel

__all__ = ["find_changes", "order_rows", "part_rows", "split_groups"]


@kernel
def split_groups(values: I64, limit: int, below: U32, rest: U32) -> int:
    """Split groups by a value that each has, such as the window that it belongs to.

    Args:
        values: int64[n_groups], one value per group.
        limit: Groups with a smaller value go to ``below``.
        below: uint32[n_groups], their ids in ascending order.
        rest: uint32[n_groups], the other groups' ids in ascending order.

    Returns:
        The number of ids in ``below``; ``rest`` has all others.
    """
    n_below = 0
    for group_id in range(values.shape[0]):
        # Both are written and one of the ends moves: no branch to guess wrong.
        below[n_below] = group_id
        rest[group_id - n_below] = group_id
        n_below += values[group_id] < limit
    return n_below


@kernel
def find_changes(values: I64, changes: I64) -> int:
    """Find the rows whose value is not that of the row before.

    Args:
        values: int64[n_rows].
        changes: int64[n_most], gets the numbers of these rows, ascending.

    Returns:
        How many there are, or n_most + 1 if there are more than ``changes`` has room for.
    """
    n_changes = 0
    for row in range(1, values.shape[0]):
        if values[row] != values[row - 1]:
            if n_changes == changes.shape[0]:
                return n_changes + 1
            changes[n_changes] = row
            n_changes += 1
    return n_changes


@kernel
def order_rows(values: I64, offsets: I64, places: U32) -> tuple[int, int]:
    """Sort rows by a value that each has, if there are few values: a counting sort.

    Args:
        values: int64[n_rows], at least one row: unchecked.
        offsets: int64[n_most + 1], out: rows of the least value plus ``i`` have the places from
            ``offsets[i]`` to ``offsets[i + 1]``.
        places: uint32[n_rows], out: where each row goes; rows of one value keep their order.

    Returns:
        The least value, and how many values there are from it up to the greatest; 0 if they are
        more than n_most, and then nothing has been sorted.
    """
    least = greatest = values[0]
    for row in range(values.shape[0]):
        least = min(least, values[row])
        greatest = max(greatest, values[row])
    # Values may be so far apart that their distance is beyond int64.
    n_values = np.uint64(greatest) - np.uint64(least) + np.uint64(1)
    if n_values > np.uint64(offsets.shape[0] - 1) or n_values == np.uint64(0):
        return least, 0
    offsets[:] = 0
    for row in range(values.shape[0]):
        offsets[values[row] - least + 1] += 1
    for value in range(offsets.shape[0] - 1):
        offsets[value + 1] += offsets[value]
    cursors = offsets.copy()
    for row in range(values.shape[0]):
        places[row] = cursors[values[row] - least]
        cursors[values[row] - least] += 1
    return least, int(np.int64(n_values))


@kernel
def part_rows(flags: U8, n_first: int, places: U32) -> None:
    """Put some rows before the others; both keep their order.

    Args:
        flags: uint8[n_rows], 1 for rows that come first, and else 0.
        n_first: How many these are: unchecked.
        places: uint32[n_rows], out: where each row goes.
    """
    first, rest = np.int64(0), np.int64(n_first)
    for row in range(flags.shape[0]):
        is_first = np.int64(flags[row])
        places[row] = first * is_first + rest * (1 - is_first)
        first += is_first
        rest += 1 - is_first
