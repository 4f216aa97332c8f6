"""Folds over frames of preceding rows: sums, and least and greatest values.

Rows come sorted by key, and frames have starts; see :mod:`millstream.kernels.frames`. What has been
folded lies in rings; see :mod:`millstream.kernels.rings`.

Frames are folded as queues of two stacks, which need no inverse of their operation: so an infinity
that leaves a frame leaves nothing behind, and a sum of floats is no less exact than one taken over
the frame alone. A frame is cut at a boundary. The slots of the rows before it hold folds from the
row to the boundary, and one value per key, its back, folds what came since. When all rows before
the boundary have left, the boundary moves to the end and the folds are made anew, which touches
each row once.

References:
    Tangwongsan, Hirzel, Schneider, Wu: General Incremental Sliding-Window Aggregation. VLDB 2015.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from millstream.kernels.compile import F64, I64, U32, inlined_kernel, kernel

__all__ = ["ADD", "LEAST", "from_comparable", "run", "slide", "to_comparable"]

Values = TypeVar("Values", I64, F64)
Value = TypeVar("Value", np.int64, np.float64)

ADD = 0
LEAST = 1

_SIGN = np.int64(63)
_MAGNITUDE = np.int64(2**63 - 1)
_INFINITY_BITS = np.int64(0x7FF0000000000000)
_NAN_BITS = np.int64(0x7FF8000000000000)


@inlined_kernel
def _fold(operation: int, left: Value, right: Value) -> Value:
    if operation == ADD:
        return left + right
    return min(left, right)


@kernel
def slide(
    operation: int,
    identity: Value,
    groups: U32,
    offsets: I64,
    order: U32,
    values: Values,
    starts: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring: Values,
    boundaries: I64,
    backs: Values,
    out: Values,
) -> None:
    """Fold the values of each row's frame. To be called once per step, before it is closed.

    Args:
        operation: ``ADD`` or ``LEAST``.
        identity: What changes nothing: 0, or the greatest value there is.
        groups: uint32[n_keys], sorted by key.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        values: [n_rows], the identity in place of NULLs.
        starts: int64[n_rows], starts of frames, by position in ``order``.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups], enough for the longest frame: unchecked.
        ring: [n_slots], folds up to the boundary and values behind it.
        boundaries: int64[n_groups], row numbers, 0 for new keys.
        backs: [n_groups], the identity for new keys.
        out: [n_rows], out, by row.
    """
    for place in range(groups.shape[0]):
        group = groups[place]
        number, slot, mask = counts[group], places[group], capacities[group] - 1
        boundary, back = boundaries[group], backs[group]
        for position in range(offsets[place], offsets[place + 1]):
            row = order[position]
            start = starts[position]
            ring[slot + (number & mask)] = values[row]
            back = _fold(operation, back, values[row])
            if start >= boundary:
                back = identity
                folded = identity
                for earlier in range(number, start - 1, -1):
                    folded = _fold(operation, ring[slot + (earlier & mask)], folded)
                    ring[slot + (earlier & mask)] = folded
                boundary = number + 1
            number += 1
            out[row] = _fold(operation, ring[slot + (start & mask)], back)
        boundaries[group] = boundary
        backs[group] = back


@kernel
def run(
    operation: int,
    groups: U32,
    offsets: I64,
    order: U32,
    values: Values,
    totals: Values,
    out: Values,
) -> None:
    """Fold the values of each row and of all rows of its key before it.

    Args:
        operation: ``ADD`` or ``LEAST``.
        groups: uint32[n_keys], sorted by key.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        values: [n_rows], what changes nothing in place of NULLs.
        totals: [n_groups], the fold so far; what changes nothing for new keys.
        out: [n_rows], out, by row.
    """
    for place in range(groups.shape[0]):
        total = totals[groups[place]]
        for position in range(offsets[place], offsets[place + 1]):
            row = order[position]
            total = _fold(operation, total, values[row])
            out[row] = total
        totals[groups[place]] = total


@inlined_kernel
def _folded_float(bits: np.int64) -> np.int64:
    """Turn the bits of floats into integers that compare like them, and such integers into bits."""
    return bits ^ ((bits >> _SIGN) & _MAGNITUDE)


@kernel
def to_comparable(words: I64, is_float: bool, flip: int, out: I64) -> None:
    """Map values to integers whose least is the value wanted: the least, or the greatest.

    Args:
        words: int64[n_rows], integers or the bits of float64.
        is_float: Whether they are bits. NaN is greater than every number, -0.0 less than 0.0.
        flip: Bits to invert: the highest where integers are unsigned; all others too, or these
            alone, where the greatest value is wanted.
        out: int64[n_rows].
    """
    for row in range(words.shape[0]):
        word = words[row]
        if is_float:
            word = _NAN_BITS if (word & _MAGNITUDE) > _INFINITY_BITS else _folded_float(word)
        out[row] = word ^ flip


@kernel
def from_comparable(words: I64, is_float: bool, flip: int, out: I64) -> None:
    """Undo :func:`to_comparable`; ``out`` may be ``words``."""
    for row in range(words.shape[0]):
        word = words[row] ^ flip
        out[row] = _folded_float(word) if is_float else word
