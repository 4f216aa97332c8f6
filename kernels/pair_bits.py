"""A set of pairs of an owner and a value as bits: for values that lie close to each other.

``bits`` is uint64[n_owners, n_words]: an owner has a row, and in it a bit for each value from a
base on. A row of input costs a read and a write where it costs a search otherwise.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, U32, U64, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["add_bits", "find_pairs_bounds", "find_rows_bounds", "list_bits"]

_ONE = np.uint64(1)
_WORD_BITS = np.uint64(6)
_IN_WORD = np.uint64(63)
_LEAST, _GREATEST = -(1 << 63), (1 << 63) - 1


@kernel
def add_bits(
    owners: U32,
    values_at: int,
    is_null: U8,
    row: int,
    bits: U64,
    base: int,
    new_rows: U32,
    n_new: int,
) -> tuple[int, int]:
    """Add the pairs of rows, and tell which of them were not there before.

    Stops at the first row whose owner or value has no bit.

    Args:
        owners: uint32[n_rows].
        values_at: Where the int64[n_rows] values lie.
        is_null: uint8[n_rows], 1 for rows that bring no value; or uint8[0] if all do.
        row: First row to do.
        bits: uint64[n_owners, n_words], the set; see the module.
        base: The value of the first bit.
        new_rows: uint32[n_rows], gets the rows whose pairs are new, ascending.
        n_new: How many it has already.

    Returns:
        The row to go on from, n_rows when all are done; and ``n_new``.
    """
    values = pointer(values_at, np.int64)
    n_owners, n_values = bits.shape[0], np.uint64(bits.shape[1] << 6)
    may_be_null = is_null.shape[0] > 0
    for at in range(row, owners.shape[0]):
        if may_be_null and is_null[at] != 0:
            continue
        owner, index = np.int64(owners[at]), np.uint64(values[at] - base)
        if owner >= n_owners or index >= n_values:
            return at, n_new
        word = bits[owner, index >> _WORD_BITS]
        bit = _ONE << (index & _IN_WORD)
        bits[owner, index >> _WORD_BITS] = word | bit
        # Written anyhow: no branch to guess wrong.
        new_rows[n_new] = at
        n_new += (word & bit) == 0
    return owners.shape[0], n_new


@kernel
def list_bits(bits: U64, base: int, numbers: I64, owners: U32, values: I64) -> int:
    """Write out the pairs of some owners, under other numbers.

    Args:
        bits: uint64[n_owners, n_words], the set.
        base: The value of the first bit.
        numbers: int64[n], the number that each owner gets, or -1 for one whose pairs are left out,
            as those of owners from n on are.
        owners: uint32[n_pairs], gets the new numbers.
        values: int64[n_pairs], gets the values.

    Returns:
        How many there are.
    """
    n_listed = 0
    for owner in range(min(bits.shape[0], numbers.shape[0])):
        if numbers[owner] < 0:
            continue
        for place in range(bits.shape[1]):
            word = bits[owner, place]
            value = base + (place << 6)
            while word != 0:
                if word & _ONE != 0:
                    owners[n_listed] = numbers[owner]
                    values[n_listed] = value
                    n_listed += 1
                word >>= _ONE
                value += 1
    return n_listed


@kernel
def find_rows_bounds(owners: U32, values_at: int, is_null: U8, row: int) -> tuple[int, int, int]:
    """Return the least and the greatest value of rows from one on, and the greatest owner.

    Args:
        owners: As for :func:`add_bits`.
        values_at: As for :func:`add_bits`.
        is_null: As for :func:`add_bits`.
        row: The first of the rows, which brings a value.
    """
    values = pointer(values_at, np.int64)
    least = greatest = values[row]
    last_owner = np.int64(owners[row])
    for at in range(row, owners.shape[0]):
        if is_null.shape[0] == 0 or is_null[at] == 0:
            least, greatest = min(least, values[at]), max(greatest, values[at])
            last_owner = max(last_owner, np.int64(owners[at]))
    return int(least), int(greatest), int(last_owner)


@kernel
def find_pairs_bounds(entries: I64) -> tuple[int, int, int]:
    """Return the same of a set of :mod:`millstream.kernels.pairs` that has pairs.

    Args:
        entries: int64[n_slots, 2], the set.
    """
    least, greatest, last_owner = np.int64(_GREATEST), np.int64(_LEAST), np.int64(-1)
    for slot in range(entries.shape[0]):
        owner = entries[slot, 0] - 1
        if owner >= 0:
            least, greatest = min(least, entries[slot, 1]), max(greatest, entries[slot, 1])
            last_owner = max(last_owner, owner)
    return int(least), int(greatest), int(last_owner)
