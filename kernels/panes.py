"""Accumulators of whole panes: dealt out to the partitions that own the keys, and added up.

A pane has its accumulators as arrays of 64-bit words, one word per key that there is, in the same
order in every pane. Keys without rows in a pane have the identity of each accumulator there, and a
count of 0.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import F64, I64, U32, U64, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["combine_panes", "deal_groups"]

# As opcodes of accumulators are numbered; a test holds this against them.
_COUNT, _SUM_I64, _SUM_U64, _MIN_I64, _MAX_I64 = 0, 1, 2, 3, 4
_BIT_AND, _BIT_OR, _BIT_XOR, _MIN_U64, _MAX_U64 = 5, 6, 7, 8, 9
_SUM_F64, _MIN_F64, _MAX_F64 = 10, 11, 12


@kernel
def deal_groups(
    counts: I64,
    n_old_keys: int,
    owners: U32,
    offsets: I64,
    columns: I64,
    rows: U32,
    dealt: I64,
) -> int:
    """Copy the groups of a pane, those of each partition side by side.

    Args:
        counts: int64[n_keys], rows of each key in the pane; keys with 0 are left out.
        n_old_keys: Keys below this number count as old.
        owners: uint32[n_keys], the partition of each key, below n_partitions: unchecked.
        offsets: int64[n_partitions + 1], out: partition ``p`` has the groups from ``offsets[p]`` to
            ``offsets[p + 1]``, in the order of the keys.
        columns: int64[n_columns], addresses of arrays of n_keys words. The caller keeps them alive.
            Unchecked.
        rows: uint32[n_keys], scratch memory.
        dealt: int64[n_columns, n_keys], out: the words of the groups.

    Returns:
        How many of the groups have old keys.
    """
    n_partitions = offsets.shape[0] - 1
    offsets[:] = 0
    n_old = 0
    for key in range(counts.shape[0]):
        is_present = counts[key] != 0
        offsets[owners[key] + 1] += is_present
        n_old += is_present & (key < n_old_keys)
    for partition in range(n_partitions):
        offsets[partition + 1] += offsets[partition]
    cursors = offsets[:n_partitions].copy()
    for key in range(counts.shape[0]):
        if counts[key] != 0:
            rows[cursors[owners[key]]] = key
            cursors[owners[key]] += 1
    n_groups = offsets[n_partitions]
    for column in range(columns.shape[0]):
        words = pointer(columns[column], np.int64)
        for group in range(n_groups):
            dealt[column, group] = words[rows[group]]
    return n_old


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
def combine_panes(opcodes: I64, panes: I64, n_keys: I64, combined: I64) -> None:
    """Add the accumulators of panes up, key by key.

    Args:
        opcodes: int64[n_accumulators], opcodes of :mod:`millstream.kernels.aggregation`.
        panes: int64[n_panes, n_accumulators], addresses of arrays, at least one pane. The caller
            keeps them alive. Unchecked.
        n_keys: int64[n_panes], how many keys each pane knows.
        combined: int64[n_accumulators], addresses of room for as many words as any pane has. The
            caller keeps them alive. Unchecked.
    """
    for index in range(opcodes.shape[0]):
        sums = pointer(combined[index], np.int64)
        n_filled = 0
        for pane in range(panes.shape[0]):
            words, n_words = pointer(panes[pane, index], np.int64), n_keys[pane]
            n_added = min(n_filled, n_words)
            _add(opcodes[index], n_added, panes[pane, index], combined[index])
            for key in range(n_added, n_words):
                sums[key] = words[key]
            n_filled = max(n_filled, n_words)
