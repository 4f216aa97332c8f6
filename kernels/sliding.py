"""Folds over frames of preceding rows: sums, least and greatest values, and first ones.

Bounded frames want their rows sorted by key, and have starts; see
:mod:`millstream.kernels.frames`. What has been folded lies in rings; see
:mod:`millstream.kernels.rings`.

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

from typing import TypeAlias, TypeVar

import numpy as np

from millstream.kernels.compile import F64, I64, U32, inlined_kernel, kernel

__all__ = [
    "ADD",
    "GREATEST",
    "LEAST",
    "first_values",
    "from_comparable",
    "run",
    "slide",
    "to_comparable",
]

Values = TypeVar("Values", I64, F64)
Value = TypeVar("Value", np.int64, np.float64)
# What one operation reads, keeps and writes: values, ring, backs, out.
Lane: TypeAlias = tuple[Values, Values, Values, Values]

ADD = 0
LEAST = 1
GREATEST = 2

_INT64_MIN, _INT64_MAX = np.int64(-(2**63)), np.int64(2**63 - 1)
_SIGN = np.int64(63)
_MAGNITUDE = np.int64(2**63 - 1)
_INFINITY_BITS = np.int64(0x7FF0000000000000)
_NAN_BITS = np.int64(0x7FF8000000000000)

# So many rows at a time are brought into the order of their keys, folded and brought back: they
# stay in the first cache, and the folds do not wait for memory.
_CHUNK_ROWS = 1024
# Row numbers are unsigned in here, because a signed index is first tested for being negative.
_ONE = np.uint64(1)


@inlined_kernel
def _fold(operation: int, left: Value, right: Value) -> Value:
    if operation == ADD:
        return left + right
    if operation == LEAST:
        return min(left, right)
    return max(left, right)


@inlined_kernel
def _gather(values: Values, order: U32, first: int, n_rows: int, gathered: Values) -> None:
    for row in range(n_rows):
        gathered[row] = values[order[first + row]]


@inlined_kernel
def _scatter(results: Values, order: U32, first: int, n_rows: int, out: Values) -> None:
    for row in range(n_rows):
        out[order[first + row]] = results[row]


@inlined_kernel
def _refold(
    operation: int,
    identity: Value,
    ring: Values,
    slot: np.uint64,
    mask: np.uint64,
    start: np.uint64,
    stop: np.uint64,
) -> None:
    """Replace the values of rows from ``start`` to before ``stop`` by folds up to ``stop``."""
    folded = identity
    number = stop
    while number > start:
        number -= _ONE
        folded = _fold(operation, ring[slot + (number & mask)], folded)
        ring[slot + (number & mask)] = folded


@kernel
def slide(
    groups: U32,
    offsets: I64,
    order: U32,
    preceding: int,
    starts: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    boundaries: I64,
    sums: Lane[Values],
    leasts: Lane[I64],
    greatests: Lane[I64],
) -> None:
    """Fold the values of each row's frame. To be called once per step, before it is closed.

    Up to three folds go through the rows together, for finding the rows costs more than folding
    them. Each has its lane: the values, [n_rows] with what changes nothing in place of NULLs, or
    none where the fold is not wanted; a ring [n_slots] with folds up to the boundary and values
    behind it; the backs [n_groups], with what changes nothing for new keys; and [n_rows] to write
    to, by row. What changes nothing is 0, and the greatest and the least int64.

    Args:
        groups: uint32[n_keys], sorted by key.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        preceding: Rows before the current one, from 0 to 2**62, or -1 if ``starts`` tells.
        starts: int64[n_rows], starts of frames, by position in ``order``; or none.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups], enough for the longest frame: unchecked.
        boundaries: int64[n_groups], row numbers, 0 for new keys.
        sums: The lane of sums.
        leasts: That of least values.
        greatests: That of greatest values.
    """
    sum_values, sum_ring, sum_backs, sum_out = sums
    least_values, least_ring, least_backs, least_out = leasts
    greatest_values, greatest_ring, greatest_backs, greatest_out = greatests
    adds = sum_values.shape[0] > 0
    finds_least = least_values.shape[0] > 0
    finds_greatest = greatest_values.shape[0] > 0
    # Of a column without NULLs.
    has_one_source = finds_least and least_values.ctypes.data == greatest_values.ctypes.data
    total_values = np.empty(_CHUNK_ROWS, sum_values.dtype)
    low_values, high_values = np.empty(_CHUNK_ROWS, np.int64), np.empty(_CHUNK_ROWS, np.int64)
    nothing = sum_values.dtype.type(0)
    total, low, high = nothing, _INT64_MAX, _INT64_MIN
    reach = np.uint64(max(preceding, 0))
    place = 0
    for first in range(0, order.shape[0], _CHUNK_ROWS):
        last = min(first + _CHUNK_ROWS, order.shape[0])
        if adds:
            _gather(sum_values, order, first, last - first, total_values)
        if finds_least:
            _gather(least_values, order, first, last - first, low_values)
        if finds_greatest and has_one_source:
            high_values[:] = low_values
        elif finds_greatest:
            _gather(greatest_values, order, first, last - first, high_values)
        position = first
        while position < last:
            group, stop = groups[place], min(offsets[place + 1], last)
            number = np.uint64(counts[group] + position - offsets[place])
            slot, mask = np.uint64(places[group]), np.uint64(capacities[group] - 1)
            boundary = np.uint64(boundaries[group])
            if adds:
                total = sum_backs[group]
            if finds_least:
                low = least_backs[group]
            if finds_greatest:
                high = greatest_backs[group]
            for row in range(np.uint64(position - first), np.uint64(stop - first)):
                if preceding < 0:
                    start = np.uint64(starts[np.uint64(first) + row])
                else:
                    start = number - min(number, reach)
                index = slot + (number & mask)
                if adds:
                    sum_ring[index] = total_values[row]
                    total += total_values[row]
                if finds_least:
                    least_ring[index] = low_values[row]
                    low = min(low, low_values[row])
                if finds_greatest:
                    greatest_ring[index] = high_values[row]
                    high = max(high, high_values[row])
                number += _ONE
                if start >= boundary:
                    boundary = number
                    if adds:
                        _refold(ADD, nothing, sum_ring, slot, mask, start, number)
                    if finds_least:
                        _refold(LEAST, _INT64_MAX, least_ring, slot, mask, start, number)
                    if finds_greatest:
                        _refold(GREATEST, _INT64_MIN, greatest_ring, slot, mask, start, number)
                    total, low, high = nothing, _INT64_MAX, _INT64_MIN
                index = slot + (start & mask)
                if adds:
                    total_values[row] = sum_ring[index] + total
                if finds_least:
                    low_values[row] = min(least_ring[index], low)
                if finds_greatest:
                    high_values[row] = max(greatest_ring[index], high)
            boundaries[group] = boundary
            if adds:
                sum_backs[group] = total
            if finds_least:
                least_backs[group] = low
            if finds_greatest:
                greatest_backs[group] = high
            position = stop
            if stop == offsets[place + 1]:
                place += 1
        if adds:
            _scatter(total_values, order, first, last - first, sum_out)
        if finds_least:
            _scatter(low_values, order, first, last - first, least_out)
        if finds_greatest:
            _scatter(high_values, order, first, last - first, greatest_out)


@kernel
def first_values(
    groups: U32,
    offsets: I64,
    order: U32,
    preceding: int,
    starts: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    values: I64,
    ring: I64,
    out: I64,
) -> None:
    """Find the value in the first row of each row's frame. To be called before a step is closed.

    Args:
        groups: uint32[n_keys], sorted by key.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        preceding: Rows before the current one, from 0 to 2**62, or -1 if ``starts`` tells.
        starts: int64[n_rows], starts of frames, by position in ``order``; or none.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups], enough for the longest frame: unchecked.
        values: int64[n_rows], any words.
        ring: int64[n_slots], words of the rows before; written to.
        out: int64[n_rows], out, by row.
    """
    words = np.empty(_CHUNK_ROWS, np.int64)
    reach = np.uint64(max(preceding, 0))
    place = 0
    for first in range(0, order.shape[0], _CHUNK_ROWS):
        last = min(first + _CHUNK_ROWS, order.shape[0])
        _gather(values, order, first, last - first, words)
        position = first
        while position < last:
            group, stop = groups[place], min(offsets[place + 1], last)
            number = np.uint64(counts[group] + position - offsets[place])
            slot, mask = np.uint64(places[group]), np.uint64(capacities[group] - 1)
            for row in range(np.uint64(position - first), np.uint64(stop - first)):
                ring[slot + (number & mask)] = words[row]
                if preceding < 0:
                    start = np.uint64(starts[np.uint64(first) + row])
                else:
                    start = number - min(number, reach)
                words[row] = ring[slot + (start & mask)]
                number += _ONE
            position = stop
            if stop == offsets[place + 1]:
                place += 1
        _scatter(words, order, first, last - first, out)


@kernel
def run(operation: int, group_ids: U32, values: Values, totals: Values, out: Values) -> None:
    """Fold the values of each row and of all rows of its key before it.

    Args:
        operation: ``ADD``, ``LEAST`` or ``GREATEST``.
        group_ids: uint32[n_rows], in any order of the keys.
        values: [n_rows], what changes nothing in place of NULLs.
        totals: [n_groups], the fold so far; what changes nothing for new keys.
        out: [n_rows], out.
    """
    if operation == ADD:
        for row in range(group_ids.shape[0]):
            total = totals[group_ids[row]] + values[row]
            totals[group_ids[row]] = total
            out[row] = total
    elif operation == LEAST:
        for row in range(group_ids.shape[0]):
            total = min(totals[group_ids[row]], values[row])
            totals[group_ids[row]] = total
            out[row] = total
    else:
        for row in range(group_ids.shape[0]):
            total = max(totals[group_ids[row]], values[row])
            totals[group_ids[row]] = total
            out[row] = total


@inlined_kernel
def _folded_float(bits: np.int64) -> np.int64:
    """Turn the bits of floats into integers that compare like them, and such integers into bits."""
    return bits ^ ((bits >> _SIGN) & _MAGNITUDE)


@kernel
def to_comparable(words: I64, is_float: bool, flip: int, out: I64) -> None:
    """Map values to integers that compare like them.

    Args:
        words: int64[n_rows], integers or the bits of float64.
        is_float: Whether they are bits. NaN is greater than every number, -0.0 less than 0.0.
        flip: Bits to invert: the highest where integers are unsigned, or 0.
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
