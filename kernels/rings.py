"""Rings: for each key, what has to be remembered of its latest rows.

All rings of one kind share an array of slots. Row number ``r`` of group ``g`` is at
``places[g] + (r & (capacities[g] - 1))``, for capacities are powers of two. One layout serves any
number of such arrays. ``heads`` has the number of the oldest row that is kept and ``counts`` that
of the next row to come; see :mod:`millstream.kernels.frames` for these numbers and for ``groups``,
``offsets``, ``order`` and ``starts``.

A ring of positions tells where a row is kept: a position below ``first_new`` is one in a store of
rows, others are those of rows that have just come, by their index in the batch.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from millstream.kernels.compile import F64, I64, U32, kernel

__all__ = [
    "allocate_rings",
    "copy_rings",
    "keep_new_rows",
    "list_rows",
    "look_up_first_rows",
    "pack_rings",
    "renumber_positions",
]

Values = TypeVar("Values", I64, F64)


@kernel
def allocate_rings(
    groups: U32,
    needs: I64,
    places: I64,
    capacities: I64,
    n_used: int,
    moved: U32,
    places_before: I64,
    capacities_before: I64,
) -> tuple[int, int]:
    """Give larger rings, behind those in use, to keys whose rings are too small.

    Args:
        groups: uint32[n_keys].
        needs: int64[n_keys], slots that each key needs.
        places: int64[n_groups], changed for keys that move.
        capacities: int64[n_groups], changed for keys that move.
        n_used: Slots in use.
        moved: uint32[n_keys], out, the groups that move.
        places_before: int64[n_keys], out, for each moved group where it was.
        capacities_before: int64[n_keys], out, for each moved group what it had.

    Returns:
        The number of groups that move, and of slots in use with their new rings; there may be
        fewer slots than that.
    """
    n_moved = 0
    for place in range(groups.shape[0]):
        group = groups[place]
        if needs[place] <= capacities[group]:
            continue
        capacity = max(2 * capacities[group], 1)
        while capacity < needs[place]:
            capacity *= 2
        moved[n_moved] = group
        places_before[n_moved] = places[group]
        capacities_before[n_moved] = capacities[group]
        n_moved += 1
        places[group] = n_used
        capacities[group] = capacity
        n_used += capacity
    return n_moved, n_used


@kernel
def pack_rings(capacities: I64, places: I64) -> int:
    """Lay rings out without gaps.

    Args:
        capacities: int64[n_groups].
        places: int64[n_groups], out.

    Returns:
        The number of slots in use.
    """
    n_used = 0
    for group in range(capacities.shape[0]):
        places[group] = n_used
        n_used += capacities[group]
    return n_used


@kernel
def copy_rings(
    groups: U32,
    heads: I64,
    counts: I64,
    places_before: I64,
    capacities_before: I64,
    places: I64,
    capacities: I64,
    source: Values,
    target: Values,
) -> None:
    """Copy what is kept of some keys into their new rings.

    Args:
        groups: uint32[n_moved].
        heads: int64[n_groups].
        counts: int64[n_groups].
        places_before: int64[n_moved], old places in the order of ``groups``.
        capacities_before: int64[n_moved].
        places: int64[n_groups].
        capacities: int64[n_groups].
        source: [n_slots], the old rings.
        target: The new rings; may be ``source`` if new and old rings do not overlap.
    """
    for index in range(groups.shape[0]):
        group = groups[index]
        old_slot, old_mask = places_before[index], capacities_before[index] - 1
        slot, mask = places[group], capacities[group] - 1
        for number in range(heads[group], counts[group]):
            target[slot + (number & mask)] = source[old_slot + (number & old_mask)]


@kernel
def look_up_first_rows(
    groups: U32,
    offsets: I64,
    order: U32,
    preceding: int,
    starts: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring: I64,
    first_new: int,
    positions: I64,
) -> None:
    """Put new rows into a ring of positions, and find the first row of each one's frame.

    Args:
        groups: uint32[n_keys].
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        preceding: Rows before the current one, from 0 to 2**62, or -1 if ``starts`` tells.
        starts: int64[n_rows], starts of frames, by position in ``order``; or none.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups], enough for the longest frame: unchecked.
        ring: int64[n_slots], positions; written to.
        first_new: Rows in the store.
        positions: int64[n_rows], out, by row.
    """
    for place in range(groups.shape[0]):
        group = groups[place]
        number, slot, mask = counts[group], places[group], capacities[group] - 1
        for position in range(offsets[place], offsets[place + 1]):
            row = order[position]
            ring[slot + (number & mask)] = first_new + np.int64(row)
            start = starts[position] if preceding < 0 else max(number - preceding, 0)
            number += 1
            positions[row] = ring[slot + (start & mask)]


@kernel
def list_rows(
    groups: U32,
    offsets: I64,
    order: U32,
    heads: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring: I64,
    first_new: int,
    positions: I64,
    keys: I64,
    rows: I64,
) -> int:
    """List for each key the rows that are kept and then its new rows.

    Args:
        groups: uint32[n_keys].
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        heads: int64[n_groups].
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups].
        ring: int64[n_slots], positions of the rows that are kept.
        first_new: Rows in the store.
        positions: int64[n_listed], out; there must be room for all rows kept and all new ones:
            unchecked.
        keys: int64[n_listed], out, the index of the key in ``groups``.
        rows: int64[n_listed], out, the index of a new row in the batch, or -1.

    Returns:
        The number of rows listed.
    """
    n_listed = 0
    for place in range(groups.shape[0]):
        group = groups[place]
        slot, mask = places[group], capacities[group] - 1
        for number in range(heads[group], counts[group]):
            positions[n_listed] = ring[slot + (number & mask)]
            keys[n_listed] = place
            rows[n_listed] = -1
            n_listed += 1
        for position in range(offsets[place], offsets[place + 1]):
            row = np.int64(order[position])
            positions[n_listed] = first_new + row
            keys[n_listed] = place
            rows[n_listed] = row
            n_listed += 1
    return n_listed


@kernel
def keep_new_rows(
    groups: U32,
    offsets: I64,
    heads: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring: I64,
    first_new: int,
    kept: I64,
) -> int:
    """Find the new rows that are kept when a step is closed, and number them behind the store.

    Args:
        groups: uint32[n_keys].
        offsets: int64[n_keys + 1].
        heads: int64[n_groups], after the step.
        counts: int64[n_groups], after the step.
        places: int64[n_groups].
        capacities: int64[n_groups].
        ring: int64[n_slots], positions; those of new rows are changed.
        first_new: Rows in the store.
        kept: int64[n_rows], out, the indices of rows to append to the store, in this order.

    Returns:
        The number of rows to append.
    """
    n_kept = 0
    for place in range(groups.shape[0]):
        group = groups[place]
        slot, mask = places[group], capacities[group] - 1
        n_old = counts[group] - (offsets[place + 1] - offsets[place])
        for number in range(max(heads[group], n_old), counts[group]):
            index = slot + (number & mask)
            kept[n_kept] = ring[index] - first_new
            ring[index] = first_new + n_kept
            n_kept += 1
    return n_kept


@kernel
def renumber_positions(
    heads: I64, counts: I64, places: I64, capacities: I64, ring: I64, positions: I64
) -> int:
    """Number the rows that are kept from 0 on, key after key.

    Args:
        heads: int64[n_groups].
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups].
        ring: int64[n_slots], positions; changed.
        positions: int64[n_kept], out, the former position of each row.

    Returns:
        The number of rows.
    """
    n_rows = 0
    for group in range(counts.shape[0]):
        slot, mask = places[group], capacities[group] - 1
        for number in range(heads[group], counts[group]):
            index = slot + (number & mask)
            positions[n_rows] = ring[index]
            ring[index] = n_rows
            n_rows += 1
    return n_rows
