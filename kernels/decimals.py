"""Sums, extremes and averages of 128-bit decimals.

A decimal is two words, low and high, of its unscaled value in two's complement: uint64, so that
carries can be seen.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, U32, U64, inlined_kernel, kernel

__all__ = [
    "ADD",
    "GREATEST",
    "LEAST",
    "average_decimals",
    "greatest_decimals",
    "least_decimals",
    "run_decimals",
    "sum_decimals",
]

ADD = 0
LEAST = 1
GREATEST = 2

_ZERO, _ONE = np.uint64(0), np.uint64(1)
_SIGN = np.uint64(1 << 63)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_HALF_BITS = np.uint64(32)
_TOP_BIT = np.uint64(63)
_NONE = -1


@inlined_kernel
def _is_less(low: np.uint64, high: np.uint64, other_low: np.uint64, other_high: np.uint64) -> bool:
    if high != other_high:
        return bool((high ^ _SIGN) < (other_high ^ _SIGN))
    return bool(low < other_low)


@kernel
def sum_decimals(values: U64, valid: U8, group_ids: U32, sums: U64, seen: U8) -> None:
    """Add decimals to the sums of their groups, modulo 2 ** 128.

    Args:
        values: uint64[n_rows, 2].
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        sums: uint64[capacity, 2], updated; zeros at first.
        seen: uint8[capacity], set to 1 for groups that take a value.
    """
    has_nulls = valid.shape[0] > 0
    for row in range(values.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        group = group_ids[row]
        low = sums[group, 0] + values[row, 0]
        sums[group, 1] += values[row, 1] + np.uint64(low < values[row, 0])
        sums[group, 0] = low
        seen[group] = 1


@kernel
def least_decimals(values: U64, valid: U8, group_ids: U32, least: U64, seen: U8) -> None:
    """Keep the least decimal of each group.

    Args:
        values: uint64[n_rows, 2].
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        least: uint64[capacity, 2], updated; means nothing where ``seen`` is 0.
        seen: uint8[capacity], set to 1 for groups that take a value.
    """
    has_nulls = valid.shape[0] > 0
    for row in range(values.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        group, low, high = group_ids[row], values[row, 0], values[row, 1]
        if seen[group] == 0 or _is_less(low, high, least[group, 0], least[group, 1]):
            least[group, 0], least[group, 1] = low, high
            seen[group] = 1


@kernel
def greatest_decimals(values: U64, valid: U8, group_ids: U32, greatest: U64, seen: U8) -> None:
    """Keep the greatest decimal of each group; arguments as for :func:`least_decimals`."""
    has_nulls = valid.shape[0] > 0
    for row in range(values.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        group, low, high = group_ids[row], values[row, 0], values[row, 1]
        if seen[group] == 0 or _is_less(greatest[group, 0], greatest[group, 1], low, high):
            greatest[group, 0], greatest[group, 1] = low, high
            seen[group] = 1


@kernel
def run_decimals(
    operation: int,
    values: U64,
    valid: U8,
    group_ids: U32,
    states: U64,
    seen: U8,
    out: U64,
    out_seen: U8,
) -> None:
    """Fold the values of each row and of all rows of its group before it.

    Args:
        operation: ``ADD``, modulo 2 ** 128, ``LEAST`` or ``GREATEST``.
        values: uint64[n_rows, 2].
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows], in any order of the groups. Unchecked.
        states: uint64[capacity, 2], updated; zeros at first.
        seen: uint8[capacity], set to 1 for groups that take a value.
        out: uint64[n_rows, 2], out.
        out_seen: uint8[n_rows], out: whether there was a value so far.
    """
    has_nulls = valid.shape[0] > 0
    for row in range(values.shape[0]):
        group = group_ids[row]
        state_low, state_high = states[group, 0], states[group, 1]
        if not has_nulls or valid[row] != 0:
            low, high = values[row, 0], values[row, 1]
            if operation == ADD:
                state_low += low
                state_high += high + np.uint64(state_low < low)
            elif (
                seen[group] == 0
                or (operation == LEAST and _is_less(low, high, state_low, state_high))
                or (operation == GREATEST and _is_less(state_low, state_high, low, high))
            ):
                state_low, state_high = low, high
            states[group, 0], states[group, 1] = state_low, state_high
            seen[group] = 1
        out[row, 0], out[row, 1] = state_low, state_high
        out_seen[row] = seen[group]


@inlined_kernel
def _multiply(low: np.uint64, high: np.uint64, factor: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Multiply by a factor below 2 ** 32; the highest bit of the result tells an overflow."""
    product_0 = (low & _LOW_HALF) * factor
    product_1 = (low >> _HALF_BITS) * factor + (product_0 >> _HALF_BITS)
    product_2 = (high & _LOW_HALF) * factor + (product_1 >> _HALF_BITS)
    product_3 = (high >> _HALF_BITS) * factor + (product_2 >> _HALF_BITS)
    low = (product_1 << _HALF_BITS) | (product_0 & _LOW_HALF)
    high = (product_3 << _HALF_BITS) | (product_2 & _LOW_HALF)
    if product_3 >> _HALF_BITS:
        high |= _SIGN
    return low, high


@inlined_kernel
def _divide(low: np.uint64, high: np.uint64, divisor: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Divide by a divisor above 0 and below 2 ** 63, bit by bit: averages are few."""
    remainder = _ZERO
    for _ in range(128):
        remainder = (remainder << _ONE) | (high >> _TOP_BIT)
        high = (high << _ONE) | (low >> _TOP_BIT)
        low <<= _ONE
        if remainder >= divisor:
            remainder -= divisor
            low |= _ONE
    return low, high


@kernel
def average_decimals(
    sums: U64, counts: I64, factor: int, limit_low: int, limit_high: int, averages: U64
) -> int:
    """Divide sums by counts, with more digits after the point, rounded towards zero.

    Args:
        sums: uint64[n_groups, 2].
        counts: int64[n_groups]; the average of no values is 0.
        factor: What the sums are multiplied by first, at least 1 and below 2 ** 32.
        limit_low: Low word of the least absolute value that an average must not reach.
        limit_high: Its high word.
        averages: uint64[n_groups, 2], out.

    Returns:
        The first group whose sum, multiplied, exceeds 127 bits, or whose average reaches the
        limit; -1 if there is none.
    """
    for group in range(counts.shape[0]):
        low, high = sums[group, 0], sums[group, 1]
        is_negative = high >= _SIGN
        if is_negative:
            low, high = ~low + _ONE, ~high + np.uint64(low == _ZERO)
        low, high = _multiply(low, high, np.uint64(factor))
        if high >= _SIGN:
            return group
        if counts[group] > 1:
            low, high = _divide(low, high, np.uint64(counts[group]))
        if not _is_less(low, high, np.uint64(limit_low), np.uint64(limit_high)):
            return group
        if is_negative:
            low, high = ~low + _ONE, ~high + np.uint64(low == _ZERO)
        averages[group, 0], averages[group, 1] = low, high
    return _NONE
