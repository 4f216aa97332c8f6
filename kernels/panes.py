"""Accumulators of whole panes: dealt out to the partitions that own the keys, and added up.

A pane has its accumulators as arrays of 64-bit words, one word per key that there is, in the same
order in every pane. Keys without rows in a pane have the identity of each accumulator there, and a
count of 0.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import F64, I64, U32, U64, kernel, short_kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = [
    "add_pane",
    "add_pane_shortly",
    "are_same_words",
    "combine_few",
    "combine_panes",
    "deal_groups",
    "fill_words",
]

# As opcodes of accumulators are numbered; a test holds this against them.
_COUNT, _SUM_I64, _SUM_U64, _MIN_I64, _MAX_I64 = 0, 1, 2, 3, 4
_BIT_AND, _BIT_OR, _BIT_XOR, _MIN_U64, _MAX_U64 = 5, 6, 7, 8, 9
_SUM_F64, _MIN_F64, _MAX_F64 = 10, 11, 12


@short_kernel
def fill_words(columns: I64, first: int, stop: int, words: I64) -> None:
    """Set the words of some keys in each of several arrays.

    Args:
        columns: int64[n_columns], addresses of arrays, 0 for one to leave out. The caller keeps
            them alive. Unchecked.
        first: The first key.
        stop: The key behind the last one.
        words: int64[n_columns], the word for each array.
    """
    for column in range(columns.shape[0]):
        if columns[column] != 0:
            values = pointer(columns[column], np.int64)
            for key in range(first, stop):
                values[key] = words[column]


@kernel
def _all_present(counts: I64) -> bool:
    n_absent = 0
    for key in range(counts.shape[0]):
        n_absent += counts[key] == 0
    return n_absent == 0


@kernel
def _order_groups(counts: I64, owners: U32, offsets: I64, order: U32) -> None:
    offsets[:] = 0
    for key in range(counts.shape[0]):
        offsets[owners[key] + 1] += counts[key] != 0
    for partition in range(offsets.shape[0] - 1):
        offsets[partition + 1] += offsets[partition]
    cursors = offsets.copy()
    for key in range(counts.shape[0]):
        if counts[key] != 0:
            order[cursors[owners[key]]] = key
            cursors[owners[key]] += 1


@kernel
def deal_groups(
    counts: I64, owners: U32, offsets: I64, order: U32, is_ordered: bool, columns: I64, dealt: I64
) -> None:
    """Copy the groups of a pane, those of each partition side by side.

    Args:
        counts: int64[n_keys], rows of each key in the pane; keys with 0 are left out.
        owners: uint32[n_keys], the partition of each key, below n_partitions: unchecked.
        offsets: int64[n_partitions + 1], out: partition ``p`` has the groups from ``offsets[p]`` to
            ``offsets[p + 1]``, in the order of the keys.
        order: uint32[n_keys], out: the keys in the order of their groups.
        is_ordered: Whether ``offsets`` and ``order`` are already what they are if no key is left
            out.
        columns: int64[n_columns], addresses of arrays of n_keys words. The caller keeps them alive.
            Unchecked.
        dealt: int64[n_columns, n_keys], out: the words of the groups.
    """
    if not (is_ordered and _all_present(counts)):
        _order_groups(counts, owners, offsets, order)
    for column in range(columns.shape[0]):
        words = pointer(columns[column], np.int64)
        for group in range(offsets[-1]):
            dealt[column, group] = words[order[group]]


@kernel
def _add_words(opcode: int, n: int, words: I64, sums: I64) -> None:
    if opcode <= _SUM_U64:
        for key in range(n):
            sums[key] += words[key]
    elif opcode == _MIN_I64:
        for key in range(n):
            sums[key] = min(sums[key], words[key])
    elif opcode == _MAX_I64:
        for key in range(n):
            sums[key] = max(sums[key], words[key])
    elif opcode == _BIT_AND:
        for key in range(n):
            sums[key] &= words[key]
    elif opcode == _BIT_OR:
        for key in range(n):
            sums[key] |= words[key]
    else:
        for key in range(n):
            sums[key] ^= words[key]


@kernel
def _add_unsigned(opcode: int, n: int, words: U64, sums: U64) -> None:
    if opcode == _MIN_U64:
        for key in range(n):
            sums[key] = min(sums[key], words[key])
    else:
        for key in range(n):
            sums[key] = max(sums[key], words[key])


@kernel
def _add_doubles(opcode: int, n: int, doubles: F64, sums: F64) -> None:
    # NaN is above all numbers; the identity of a minimum is NaN. There is no -0.0 among states.
    if opcode == _SUM_F64:
        for key in range(n):
            sums[key] += doubles[key]
    elif opcode == _MIN_F64:
        for key in range(n):
            one, other = sums[key], doubles[key]
            sums[key] = other if (other < one) | (one != one) else one
    else:
        for key in range(n):
            one, other = sums[key], doubles[key]
            sums[key] = other if (other > one) | (other != other) else one


@kernel
def _add(opcode: int, n: int, words_at: int, sums_at: int) -> None:
    if opcode >= _SUM_F64:
        _add_doubles(opcode, n, pointer(words_at, np.float64), pointer(sums_at, np.float64))
    elif opcode == _MIN_U64 or opcode == _MAX_U64:
        _add_unsigned(opcode, n, pointer(words_at, np.uint64), pointer(sums_at, np.uint64))
    else:
        _add_words(opcode, n, pointer(words_at, np.int64), pointer(sums_at, np.int64))


@kernel
def _add_pane(opcodes: I64, words: I64, sums: I64, n_keys: int) -> None:
    for index in range(opcodes.shape[0]):
        _add(opcodes[index], n_keys, words[index], sums[index])


@kernel
def add_pane(opcodes: I64, words: I64, sums: I64, n_keys: int) -> None:
    """Add accumulators to those of the same keys.

    Args:
        opcodes: int64[n_accumulators], opcodes of :mod:`millstream.kernels.aggregation`.
        words: int64[n_accumulators], addresses of what is added. The caller keeps everything alive.
            Unchecked.
        sums: int64[n_accumulators], addresses of what it is added to.
        n_keys: Number of keys.
    """
    _add_pane(opcodes, words, sums, n_keys)


@short_kernel
def add_pane_shortly(opcodes: I64, words: I64, sums: I64, n_keys: int) -> None:
    """Do what :func:`add_pane` does, for few keys."""
    _add_pane(opcodes, words, sums, n_keys)


@short_kernel
def are_same_words(words: I64, others: I64) -> bool:
    """Say whether int64[n_rows, n] and int64[n_rows, n] are the same."""
    n_different = 0
    for row in range(words.shape[0]):
        for index in range(words.shape[1]):
            n_different += words[row, index] != others[row, index]
    return n_different == 0


@kernel
def _combine(
    opcodes: I64, counts: int, panes: I64, n_keys: I64, first: int, stop: int, sums: I64
) -> int:
    """Add some panes up and return how many keys have rows."""
    n_filled = 0
    for index in range(opcodes.shape[0]):
        at = pointer(sums[index], np.int64)
        n_filled = 0
        for pane in range(first, stop):
            words, n_words = pointer(panes[pane, index], np.int64), n_keys[pane]
            n_added = min(n_filled, n_words)
            _add(opcodes[index], n_added, panes[pane, index], sums[index])
            for key in range(n_added, n_words):
                at[key] = words[key]
            n_filled = max(n_filled, n_words)
    n_present = 0
    at = pointer(sums[counts], np.int64)
    for key in range(n_filled):
        n_present += at[key] != 0
    return n_present


@kernel
def _combine_all(
    opcodes: I64, counts: int, bounds: I64, panes: I64, n_keys: I64, sums: I64, n_present: I64
) -> None:
    for index in range(n_present.shape[0]):
        n_present[index] = _combine(
            opcodes, counts, panes, n_keys, bounds[index], bounds[index + 1], sums[index]
        )


@kernel
def combine_panes(
    opcodes: I64, counts: int, bounds: I64, panes: I64, n_keys: I64, sums: I64, n_present: I64
) -> None:
    """Add the accumulators of panes up, key by key: some panes for each of several sums.

    Args:
        opcodes: int64[n_accumulators], opcodes of :mod:`millstream.kernels.aggregation`, at least
            one.
        counts: The accumulator that counts rows.
        bounds: int64[n_sums + 1], sum ``s`` is of the panes from ``bounds[s]`` to
            ``bounds[s + 1]``, at least one.
        panes: int64[n_panes, n_accumulators], addresses of arrays. The caller keeps them alive.
            Unchecked.
        n_keys: int64[n_panes], how many keys each pane knows.
        sums: int64[n_sums, n_accumulators], addresses of arrays, which get as many words as any
            pane of the sum has. Unchecked.
        n_present: int64[n_sums], out: how many keys have rows.
    """
    _combine_all(opcodes, counts, bounds, panes, n_keys, sums, n_present)


@short_kernel
def combine_few(
    opcodes: I64, counts: int, bounds: I64, panes: I64, n_keys: I64, sums: I64, n_present: I64
) -> None:
    """Do what :func:`combine_panes` does, for few words."""
    _combine_all(opcodes, counts, bounds, panes, n_keys, sums, n_present)
