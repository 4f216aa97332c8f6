"""Stable orders of rows: by event time, and by key with the rows of each key side by side."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U32, kernel

__all__ = ["group_rows", "order_by_time"]

_DIGIT_BITS = 11
_N_DIGITS = 1 << _DIGIT_BITS
_DIGIT_MASK = np.uint64(_N_DIGITS - 1)
_WORD_BITS = 64


@kernel
def group_rows(group_ids: U32, marks: U32, groups: U32, offsets: I64, order: U32) -> int:
    """Bring the rows of each group together, in the order in which they are.

    The cost depends on the rows alone and not on how many groups there are beside theirs.

    Args:
        group_ids: uint32[n_rows].
        marks: uint32[n_groups], all 0; used in between and left all 0. That it covers every id
            goes unchecked.
        groups: uint32[at least as many as different ids], the ids in the order in which they first
            occur.
        offsets: int64[one more than ``groups``], where in ``order`` the rows of each group begin;
            the last one is n_rows.
        order: uint32[n_rows], the indices of the rows, group after group.

    Returns:
        The number of different ids.
    """
    n_found = 0
    offsets[0] = 0
    for row in range(group_ids.shape[0]):
        mark = marks[group_ids[row]]
        if mark == 0:
            groups[n_found] = group_ids[row]
            n_found += 1
            offsets[n_found] = 0
            marks[group_ids[row]] = n_found
            mark = np.uint32(n_found)
        offsets[mark] += 1
    for place in range(n_found):
        offsets[place + 1] += offsets[place]
    for row in range(group_ids.shape[0]):
        place = marks[group_ids[row]] - np.uint32(1)
        order[offsets[place]] = row
        offsets[place] += 1
    # Each offset has moved to the end of its group, which is where the next one begins.
    for place in range(n_found, 0, -1):
        offsets[place] = offsets[place - 1]
    offsets[0] = 0
    for place in range(n_found):
        marks[groups[place]] = 0
    return n_found


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
