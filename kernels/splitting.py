"""Groups and rows parted by a value that each has."""

from __future__ import annotations

from millstream.kernels.compile import I64, U32, kernel

__all__ = ["find_changes", "split_groups"]


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
