"""Frames of so few preceding rows that each is folded anew: rows are taken as they come.

For each key the values of its latest rows lie side by side, at most ``width`` of them: as many as a
full frame has. To fold all of them for every row is more arithmetic than
:mod:`millstream.kernels.sliding` does, but nobody has to sort the rows by key, there is nothing to
foresee in it, and an infinity that leaves a frame leaves nothing behind.

The phase of a row is its number within its key, counted from 0, as far as it matters: numbers from
``2 * width`` on are lowered by multiples of ``width``, so that the phase tells both where the value
belongs and how many there are.

All rings of one kind share an array of slots, and that of group ``g`` begins at ``places[g]``,
which is 0 for a group without rows: slot 0 belongs to nobody. How many slots a ring has follows
from the number of rows, see ``_capacity``. One layout serves any number of such arrays.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from millstream.kernels.compile import F64, I64, U8, U32, inlined_kernel, kernel

__all__ = [
    "WIDTH_MAX",
    "copy_short_rings",
    "first_short_values",
    "fold_short_frames",
    "fold_values_thrice",
    "pack_short_rings",
    "phase_rows",
    "place_short_rings",
]

Values = TypeVar("Values", I64, F64)

# Phases have 8 bits.
WIDTH_MAX = 127

# As in sliding.py.
_ADD, _LEAST = 0, 1
_INT64_MIN, _INT64_MAX = np.int64(-(2**63)), np.int64(2**63 - 1)
# Indices are unsigned in here, because a signed one is first tested for being negative.
_ONE = np.uint64(1)


@inlined_kernel
def _slot(phase: np.uint64, width: np.uint64) -> np.uint64:
    return phase if phase < width else phase - width


@inlined_kernel
def _length(phase: np.uint64, width: np.uint64) -> np.uint64:
    return min(phase + _ONE, width)


@inlined_kernel
def _capacity(n_rows: np.int64, width: int) -> np.int64:
    """Return the slots of a ring: none for no rows, or 2, 4, 8 and so on up to a full frame."""
    capacity = np.int64(0 if n_rows == 0 else 2)
    while capacity < n_rows:
        capacity *= 2
    return min(capacity, np.int64(width))


@kernel
def phase_rows(
    group_ids: U32, width: int, next_phases: U8, phases: U8, growing: U32
) -> tuple[int, int]:
    """Find the phases of rows, and the keys whose rings become too small.

    Args:
        group_ids: uint32[n_rows], in any order of the keys.
        width: Rows of a full frame, from 1 to ``WIDTH_MAX``.
        next_phases: uint8[n_groups], the phase of each key's next row, 0 for new keys; changed.
        phases: uint8[n_rows], out.
        growing: uint32[n_rows], out, each row that needs a slot which the ring before it lacked.

    Returns:
        How many of the frames are not full: so many more rows than before are remembered. And how
        many rows need larger rings.
    """
    n_short, n_growing = 0, 0
    for row in range(group_ids.shape[0]):
        phase = np.int64(next_phases[group_ids[row]])
        phases[row] = phase
        next_phases[group_ids[row]] = phase + 1 if phase + 1 < 2 * width else width
        if phase + 1 < width:
            n_short += 1
        if phase < width and phase != 1 and phase & (phase - 1) == 0:
            growing[n_growing] = row
            n_growing += 1
    return n_short, n_growing


@kernel
def place_short_rings(
    growing: U32,
    group_ids: U32,
    phases: U8,
    width: int,
    next_phases: U8,
    n_used: int,
    places: I64,
    moved: U32,
    sizes: U8,
    places_before: I64,
) -> tuple[int, int]:
    """Give larger rings, behind those in use, to keys whose rings are too small.

    Args:
        growing: uint32[n_growing], rows that need them, as they come.
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        width: Rows of a full frame.
        next_phases: uint8[n_groups], after the rows.
        n_used: Slots in use, from 1 on.
        places: int64[n_groups], changed for keys that move.
        moved: uint32[n_growing], out, the groups that move.
        sizes: uint8[n_growing], out, for each moved group the slots that it had, all of them full.
        places_before: int64[n_growing], out, for each moved group where it was.

    Returns:
        The number of groups that move, and of slots in use with their new rings; there may be
        fewer slots than that.
    """
    first_new, n_moved = n_used, 0
    for index in range(growing.shape[0]):
        row = growing[index]
        group = group_ids[row]
        if places[group] >= first_new:
            continue
        moved[n_moved] = group
        sizes[n_moved] = phases[row]
        places_before[n_moved] = places[group]
        n_moved += 1
        places[group] = n_used
        n_used += int(_capacity(np.int64(next_phases[group]), width))
    return n_moved, n_used


@kernel
def pack_short_rings(next_phases: U8, width: int, places: I64, sizes: U8) -> int:
    """Lay all rings out without gaps, in the order of groups.

    Args:
        next_phases: uint8[n_groups].
        width: Rows of a full frame.
        places: int64[n_groups], out.
        sizes: uint8[n_groups], out, how many slots rings have.

    Returns:
        The number of slots in use.
    """
    n_used = 1
    for group in range(next_phases.shape[0]):
        n_rows = np.int64(next_phases[group])
        places[group] = n_used if n_rows > 0 else 0
        size = _capacity(n_rows, width)
        sizes[group] = size
        n_used += int(size)
    return n_used


@kernel
def copy_short_rings(
    groups: U32, sizes: U8, places_before: I64, places: I64, source: Values, target: Values
) -> None:
    """Copy what is kept of some keys into their new rings.

    Args:
        groups: uint32[n_moved].
        sizes: uint8[n_moved], how many slots to copy.
        places_before: int64[n_moved].
        places: int64[n_groups].
        source: [n_slots], the old rings.
        target: The new rings; may be ``source`` if new and old rings do not overlap.
    """
    for index in range(groups.shape[0]):
        old, new = places_before[index], places[groups[index]]
        for slot in range(np.int64(sizes[index])):
            target[new + slot] = source[old + slot]


@kernel
def fold_short_frames(
    operation: int,
    group_ids: U32,
    phases: U8,
    width: int,
    places: I64,
    values: Values,
    rings: Values,
    out: Values,
) -> None:
    """Fold the values of each row's frame.

    Args:
        operation: ``ADD``, ``LEAST`` or ``GREATEST``, of integers if it is not the first.
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        width: Rows of a full frame.
        places: int64[n_groups].
        values: [n_rows], with what changes nothing in place of NULLs.
        rings: [n_slots], the values of earlier rows; written to.
        out: [n_rows], out.
    """
    n_slots = np.uint64(width)
    for row in range(group_ids.shape[0]):
        place, phase = np.uint64(places[group_ids[row]]), np.uint64(phases[row])
        folded = values[row]
        rings[place + _slot(phase, n_slots)] = folded
        if operation == _ADD:
            folded = values.dtype.type(0)
            for slot in range(_length(phase, n_slots)):
                folded += rings[place + slot]
        elif operation == _LEAST:
            for slot in range(_length(phase, n_slots)):
                folded = min(folded, rings[place + slot])
        else:
            for slot in range(_length(phase, n_slots)):
                folded = max(folded, rings[place + slot])
        out[row] = folded


@kernel
def fold_values_thrice(
    group_ids: U32,
    phases: U8,
    width: int,
    places: I64,
    values: I64,
    rings: I64,
    totals: I64,
    least: I64,
    greatest: I64,
) -> None:
    """Find the sum, the least and the greatest value of each row's frame.

    Args:
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        width: Rows of a full frame.
        places: int64[n_groups].
        values: int64[n_rows], without NULLs, of which each fold would need another stand-in.
        rings: int64[n_slots], the values of earlier rows; written to.
        totals: int64[n_rows], out.
        least: int64[n_rows], out.
        greatest: int64[n_rows], out.
    """
    n_slots = np.uint64(width)
    for row in range(group_ids.shape[0]):
        place, phase = np.uint64(places[group_ids[row]]), np.uint64(phases[row])
        rings[place + _slot(phase, n_slots)] = values[row]
        total, low, high = np.int64(0), _INT64_MAX, _INT64_MIN
        for slot in range(_length(phase, n_slots)):
            value = rings[place + slot]
            total += value
            low = min(low, value)
            high = max(high, value)
        totals[row], least[row], greatest[row] = total, low, high


@kernel
def first_short_values(
    group_ids: U32, phases: U8, width: int, places: I64, values: I64, rings: I64, out: I64
) -> None:
    """Find the value in the first row of each row's frame.

    Args:
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        width: Rows of a full frame.
        places: int64[n_groups].
        values: int64[n_rows], any words.
        rings: int64[n_slots], words of earlier rows; written to.
        out: int64[n_rows], out.
    """
    n_slots = np.uint64(width)
    for row in range(group_ids.shape[0]):
        place, phase = np.uint64(places[group_ids[row]]), np.uint64(phases[row])
        slot = _slot(phase, n_slots)
        rings[place + slot] = values[row]
        # The oldest value of a full ring is the one behind the latest, or at its beginning.
        first = slot + _ONE if phase >= n_slots and slot + _ONE < n_slots else np.uint64(0)
        out[row] = rings[place + first]
