"""Stable orders of rows: by event time, and by key with the rows of each key side by side."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U32, kernel

__all__ = ["group_rows", "order_by_time", "take_times"]

_DIGIT_BITS = 11
_N_DIGITS = 1 << _DIGIT_BITS
_DIGIT_MASK = np.uint64(_N_DIGITS - 1)
_WORD_BITS = 64
# With more groups than this for each one that occurs, it is not worth going through all of them.
_GROUPS_PER_FOUND = 8


@kernel
def group_rows(group_ids: U32, marks: U32, groups: U32, offsets: I64, order: U32) -> int:
    """Bring the rows of each group together, in the order in which they are.

    If few of the groups occur, the cost does not depend on how many others there are. If many
    occur, they are put in ascending order, so that what follows goes through the state of groups
    from front to back.

    Args:
        group_ids: uint32[n_rows].
        marks: uint32[n_groups], all 0; used in between and left all 0. That it covers every id
            goes unchecked.
        groups: uint32[at least as many as different ids], the ids that occur.
        offsets: int64[one more than ``groups``], where in ``order`` the rows of each begin; the
            last one is n_rows.
        order: uint32[n_rows], the indices of the rows, group after group.

    Returns:
        The number of different ids.
    """
    n_found = 0
    for row in range(group_ids.shape[0]):
        if marks[group_ids[row]] == 0:
            groups[n_found] = group_ids[row]
            n_found += 1
        marks[group_ids[row]] += np.uint32(1)
    if n_found * _GROUPS_PER_FOUND >= marks.shape[0]:
        place = group = 0
        while place < n_found:
            # Without a branch, which nobody could foresee; what is no group is written over.
            groups[place] = group
            place += marks[group] > 0
            group += 1
    total = 0
    for place in range(n_found):
        n_rows = marks[groups[place]]
        offsets[place] = total
        marks[groups[place]] = total
        total += n_rows
    offsets[n_found] = total
    for row in range(group_ids.shape[0]):
        order[marks[group_ids[row]]] = row
        marks[group_ids[row]] += np.uint32(1)
    for place in range(n_found):
        marks[groups[place]] = 0
    return n_found


@kernel
def take_times(times: I64, order: U32, taken: I64) -> None:
    """Bring times into an order.

    Args:
        times: int64[n_rows].
        order: uint32[n_taken], indices of rows: unchecked.
        taken: int64[n_taken], out.
    """
    for place in range(order.shape[0]):
        taken[place] = times[order[place]]


@kernel
def order_by_time(times: I64, order: U32, spare: U32) -> bool:
    """Sort rows by time; rows of one time keep their order.

    A radix sort over the bits in which the times differ, least significant digit first.

    Args:
        times: int64[n_rows].
        order: uint32[n_rows], the indices of the rows in the order of time; undefined if the times
            ascend already.
        spare: uint32[n_rows], scratch.

    Returns:
        Whether the times do not ascend yet.
    """
    n_rows = times.shape[0]
    n_descents = 0
    for row in range(1, n_rows):
        n_descents += times[row] < times[row - 1]
    if n_descents == 0:
        return False
    least = greatest = times[0]
    for row in range(n_rows):
        least = min(least, times[row])
        greatest = max(greatest, times[row])
        order[row] = row
    origin = np.uint64(least)
    span = np.uint64(greatest) - origin
    ends = np.empty(_N_DIGITS, np.int64)
    source, target = order, spare
    for shift in range(0, _WORD_BITS, _DIGIT_BITS):
        places = np.uint64(shift)
        if span >> places == 0:
            break
        ends[:] = 0
        for row in range(n_rows):
            ends[((np.uint64(times[row]) - origin) >> places) & _DIGIT_MASK] += 1
        total = 0
        for digit in range(_N_DIGITS):
            total += ends[digit]
            ends[digit] = total - ends[digit]
        for place in range(n_rows):
            row_index = source[place]
            digit_of_row = ((np.uint64(times[row_index]) - origin) >> places) & _DIGIT_MASK
            target[ends[digit_of_row]] = row_index
            ends[digit_of_row] += 1
        source, target = target, source
    order[:] = source
    return True
