"""Which groups rows have touched, step by step, and the states that they then had."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, U32, kernel, short_kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["copy_states", "find_touched"]

# With fewer rows than one for so many groups, to sort them is quicker than a look at all groups.
_SPARSE = 8


@kernel
def _drop_repeats(found: U32) -> int:
    n_kept = 0
    for index in range(found.shape[0]):
        if index == 0 or found[index] != found[n_kept - 1]:
            found[n_kept] = found[index]
            n_kept += 1
    return n_kept


@kernel
def _mark(ids: U32, marks: U8) -> int:
    """Mark groups and return one more than the greatest."""
    greatest = np.int64(-1)
    for row in range(ids.shape[0]):
        group_id = np.int64(ids[row])
        marks[group_id] = 1
        greatest = max(greatest, group_id)
    return int(greatest) + 1


@kernel
def _list_marked(marks: U8, found: U32) -> int:
    """List what is marked, and take the marks away; return how many there are."""
    n_found = 0
    for group_id in range(marks.shape[0]):
        if marks[group_id] != 0:
            marks[group_id] = 0
            found[n_found] = group_id
            n_found += 1
    return n_found


@kernel
def find_touched(
    group_ids: U32, bounds: I64, n_groups: I64, marks: U8, touched: U32, touched_bounds: I64
) -> None:
    """List the groups that the rows of each step touch: each once, in ascending order.

    Args:
        group_ids: uint32[n_rows], the group of each row.
        bounds: int64[n_steps + 1], where each step begins in them and the last one ends.
        n_groups: int64[n_steps + 1], the first is the number of groups before; gets the number of
            groups after each step, if groups are numbered as they first come.
        marks: uint8[n_groups_most], zeros, and zeros again afterwards.
        touched: uint32[n_rows], gets the groups, step by step.
        touched_bounds: int64[n_steps + 1], gets where those of each step begin, and the end.
    """
    touched_bounds[0] = 0
    for step in range(bounds.shape[0] - 1):
        first = touched_bounds[step]
        ids = group_ids[bounds[step] : bounds[step + 1]]
        n_found, most = ids.shape[0], n_groups[step]
        found = touched[first : first + n_found]
        if n_found * _SPARSE < marks.shape[0]:
            found[:] = ids
            found.sort()
            n_found = _drop_repeats(found)
            most = max(most, np.int64(found[n_found - 1]) + 1) if n_found > 0 else most
        else:
            most = max(most, _mark(ids, marks))
            n_found = _list_marked(marks[:most], found)
        n_groups[step + 1] = most
        touched_bounds[step + 1] = first + n_found


@short_kernel
def copy_states(states_at: I64, group_ids: U32, copies: I64, at: int) -> None:
    """Copy the states of some groups.

    Args:
        states_at: int64[n_accumulators], where the 64-bit states of each lie.
        group_ids: uint32[n], the groups, for which there are states: unchecked.
        copies: int64[n_accumulators, n_most], gets the states as words from one place on.
        at: That place.
    """
    for index in range(states_at.shape[0]):
        states = pointer(states_at[index], np.int64)
        for row in range(group_ids.shape[0]):
            copies[index, at + row] = states[np.int64(group_ids[row])]
