"""Frames of so few preceding rows that each is folded anew: rows are taken as they come.

For each key the values of its latest rows lie side by side, ``width`` of them: as many as a full
frame has. To fold all of them for every row is more arithmetic than
:mod:`millstream.kernels.sliding` does, but nobody has to sort the rows by key, there is nothing to
foresee in it, and an infinity that leaves a frame leaves nothing behind.

The phase of a row is its number within its key, counted from 0, as far as it matters: numbers from
``2 * width`` on are lowered by multiples of ``width``, so that the phase tells both where the value
belongs and how many there are.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from millstream.kernels.compile import F64, I64, U8, U32, inlined_kernel, kernel

__all__ = [
    "WIDTH_MAX",
    "first_short_values",
    "fold_short_frames",
    "fold_values_thrice",
    "phase_rows",
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


@kernel
def phase_rows(group_ids: U32, width: int, next_phases: U8, phases: U8) -> int:
    """Find the phases of rows.

    Args:
        group_ids: uint32[n_rows], in any order of the keys.
        width: Rows of a full frame, from 1 to ``WIDTH_MAX``.
        next_phases: uint8[n_groups], the phase of each key's next row, 0 for new keys; changed.
        phases: uint8[n_rows], out.

    Returns:
        How many of the frames are not full: so many more rows than before are remembered.
    """
    n_short = 0
    for row in range(group_ids.shape[0]):
        phase = np.int64(next_phases[group_ids[row]])
        phases[row] = phase
        if phase + 1 < width:
            n_short += 1
        next_phases[group_ids[row]] = phase + 1 if phase + 1 < 2 * width else width
    return n_short


@kernel
def fold_short_frames(
    operation: int, group_ids: U32, phases: U8, values: Values, rings: Values, out: Values
) -> None:
    """Fold the values of each row's frame.

    Args:
        operation: ``ADD``, ``LEAST`` or ``GREATEST``, of integers if it is not the first.
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        values: [n_rows], with what changes nothing in place of NULLs.
        rings: [n_groups, width], the values of earlier rows; written to.
        out: [n_rows], out.
    """
    width = np.uint64(rings.shape[1])
    for row in range(group_ids.shape[0]):
        group, phase = np.uint64(group_ids[row]), np.uint64(phases[row])
        folded = values[row]
        rings[group, _slot(phase, width)] = folded
        if operation == _ADD:
            folded = values.dtype.type(0)
            for slot in range(_length(phase, width)):
                folded += rings[group, slot]
        elif operation == _LEAST:
            for slot in range(_length(phase, width)):
                folded = min(folded, rings[group, slot])
        else:
            for slot in range(_length(phase, width)):
                folded = max(folded, rings[group, slot])
        out[row] = folded


@kernel
def fold_values_thrice(
    group_ids: U32,
    phases: U8,
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
        values: int64[n_rows], without NULLs, of which each fold would need another stand-in.
        rings: int64[n_groups, width], the values of earlier rows; written to.
        totals: int64[n_rows], out.
        least: int64[n_rows], out.
        greatest: int64[n_rows], out.
    """
    width = np.uint64(rings.shape[1])
    for row in range(group_ids.shape[0]):
        group, phase = np.uint64(group_ids[row]), np.uint64(phases[row])
        rings[group, _slot(phase, width)] = values[row]
        total, low, high = np.int64(0), _INT64_MAX, _INT64_MIN
        for slot in range(_length(phase, width)):
            value = rings[group, slot]
            total += value
            low = min(low, value)
            high = max(high, value)
        totals[row], least[row], greatest[row] = total, low, high


@kernel
def first_short_values(group_ids: U32, phases: U8, values: I64, rings: I64, out: I64) -> None:
    """Find the value in the first row of each row's frame.

    Args:
        group_ids: uint32[n_rows].
        phases: uint8[n_rows].
        values: int64[n_rows], any words.
        rings: int64[n_groups, width], words of earlier rows; written to.
        out: int64[n_rows], out.
    """
    width = np.uint64(rings.shape[1])
    for row in range(group_ids.shape[0]):
        group, phase = np.uint64(group_ids[row]), np.uint64(phases[row])
        slot = _slot(phase, width)
        rings[group, slot] = values[row]
        # The oldest value of a full ring is the one behind the latest, or at its beginning.
        first = slot + _ONE if phase >= width and slot + _ONE < width else np.uint64(0)
        out[row] = rings[group, first]
