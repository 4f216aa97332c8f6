"""Key rows to dense group ids: open addressing over rows of 64-bit words.

A table is two arrays that the caller allocates. ``keys`` holds the words of each group column by
column, so that a row of it can become an Arrow column as it is. ``slots`` is the hash index: a
power of two of entries, each with the high 32 bits of the key's hash above ``group_id + 1``, or 0
while free. The place of an entry comes from these bits as well: going through the slots is going
through the hashes in their order, and a larger index is written from the entries of the smaller one
alone, from its beginning to its end. Collisions go to the next slot. At most half of the slots are
ever taken; a quarter is twice as fast while the index fits into a core's cache, so callers that can
afford it stay below that.

Rows are done in blocks. A first pass over the block looks at one slot per row and takes no branch
that depends on the data, so that the processor can have many rows under way. It settles nearly all
rows; a second pass probes on for the few that are left.

Where keys are integers close to each other, no hash is needed: see
:mod:`millstream.kernels.direct`, which shares ``keys`` and ``slots``.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U32, U64, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = [
    "BLOCK_ROWS",
    "assign_group_ids_at",
    "move_slots",
    "rebuild_slots",
]

BLOCK_ROWS = 512
"""Rows of a block; a word that is the same in all rows is stored once for each row of a block."""


_SEED = np.uint64(0x9E3779B97F4A7C15)
_ABSORB = np.uint64(0xBF58476D1CE4E5B9)
_FINISH = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
_ID_BITS = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)
_FREE = np.uint64(0)


@kernel
def _absorb(state: np.uint64, word: np.int64) -> np.uint64:
    state = (state ^ np.uint64(word)) * _ABSORB
    return state ^ (state >> _HALF)


@kernel
def _finish(state: np.uint64) -> np.uint64:
    # Slot and tag are of the high bits, which a product mixes most.
    return state * _FINISH


@kernel
def _place(hashed: np.uint64, n_slots: int) -> np.uint64:
    """Return the first slot of a hash, or of an entry: there are 2**32 slots at most."""
    return ((hashed >> _HALF) * np.uint64(n_slots)) >> _HALF


@kernel
def _entry(hashed: np.uint64, n_groups: int) -> np.uint64:
    # The count includes the new group, so it is the id plus one.
    return (hashed >> _HALF) << _HALF | np.uint64(n_groups)


@kernel
def _block_values(columns: I64, word: int, first: int) -> I64:
    return pointer(columns[word, 0] + first * columns[word, 1], np.int64)  # type: ignore[no-any-return]


@kernel
def _hash_block(columns: I64, first: int, n_rows: int, hashes: U64) -> None:
    for row in range(n_rows):
        hashes[row] = _SEED
    for word in range(columns.shape[0]):
        values = _block_values(columns, word, first)
        for row in range(n_rows):
            hashes[row] = _absorb(hashes[row], values[row])
    for row in range(n_rows):
        hashes[row] = _finish(hashes[row])


@kernel
def _look_up_block(
    columns: I64, first: int, hashes: U64, slots: U64, keys: I64, group_ids: U32, missed: U32
) -> int:
    """Look at the first slot of each row; return how many rows are not there. One or two words."""
    n_slots = slots.shape[0]
    values = _block_values(columns, 0, first)
    known = keys[0]
    n_missed = 0
    if columns.shape[0] == 1:
        for row in range(group_ids.shape[0]):
            entry = slots[_place(hashes[row], n_slots)]
            # A free slot stands for group 0 here, so that there is always a key to compare with.
            group_id = (entry & _ID_BITS) - np.uint64(entry != _FREE)
            group_ids[row] = group_id
            missed[n_missed] = row
            n_missed += (known[group_id] != values[row]) | (entry == _FREE)
        return n_missed
    more_values = _block_values(columns, 1, first)
    more_known = keys[1]
    for row in range(group_ids.shape[0]):
        entry = slots[_place(hashes[row], n_slots)]
        group_id = (entry & _ID_BITS) - np.uint64(entry != _FREE)
        group_ids[row] = group_id
        missed[n_missed] = row
        differences = (known[group_id] ^ values[row]) | (more_known[group_id] ^ more_values[row])
        n_missed += (differences != 0) | (entry == _FREE)
    return n_missed


@kernel
def _look_up_wide_block(
    columns: I64,
    first: int,
    hashes: U64,
    slots: U64,
    keys: I64,
    group_ids: U32,
    differences: I64,
    missed: U32,
) -> int:
    """Do the same for any number of words, word by word."""
    n_slots = slots.shape[0]
    n_rows = group_ids.shape[0]
    for row in range(n_rows):
        entry = slots[_place(hashes[row], n_slots)]
        group_ids[row] = (entry & _ID_BITS) - np.uint64(entry != _FREE)
        differences[row] = entry == _FREE
    for word in range(columns.shape[0]):
        values = _block_values(columns, word, first)
        known = keys[word]
        for row in range(n_rows):
            differences[row] |= known[np.uint64(group_ids[row])] ^ values[row]
    n_missed = 0
    for row in range(n_rows):
        missed[n_missed] = row
        n_missed += differences[row] != 0
    return n_missed


@kernel
def _settle_missed(
    columns: I64,
    first: int,
    hashes: U64,
    slots: U64,
    keys: I64,
    n_groups: int,
    group_ids: U32,
    missed: U32,
) -> tuple[int, int]:
    """Probe on for rows of a block; return the row without room or -1, and the number of groups."""
    mask = np.uint64(slots.shape[0] - 1)
    n_groups_max = min(keys.shape[1], slots.shape[0] // 2)
    for row in missed:
        hashed = hashes[row]
        place = _place(hashed, slots.shape[0])
        entry = slots[place]
        while entry != _FREE:
            if entry >> _HALF == hashed >> _HALF:
                group_id = (entry & _ID_BITS) - _ONE
                differences = 0
                for word in range(columns.shape[0]):
                    values = _block_values(columns, word, first)
                    differences |= keys[word, group_id] ^ values[row]
                if differences == 0:
                    break
            place = (place + _ONE) & mask
            entry = slots[place]
        if entry == _FREE:
            if n_groups >= n_groups_max:
                return int(np.int64(row)), n_groups
            for word in range(columns.shape[0]):
                values = _block_values(columns, word, first)
                keys[word, n_groups] = values[row]
            n_groups += 1
            entry = _entry(hashed, n_groups)
            slots[place] = entry
        group_ids[row] = (entry & _ID_BITS) - _ONE
    return -1, n_groups


@kernel
def _assign_part(
    columns: I64, start: int, slots: U64, keys: I64, n_groups: int, group_ids: U32
) -> tuple[int, int]:
    """Give rows of one part of a batch their ids, from one on; see :func:`assign_group_ids_at`."""
    n_rows = group_ids.shape[0]
    if columns.shape[0] == 0:
        group_ids[start:] = 0
        return n_rows, max(n_groups, 1) if start < n_rows else n_groups
    hashes = np.empty(BLOCK_ROWS, np.uint64)
    differences = np.empty(BLOCK_ROWS, np.int64)
    missed = np.empty(BLOCK_ROWS, np.uint32)
    for first in range(start, n_rows, BLOCK_ROWS):
        ids = group_ids[first : min(first + BLOCK_ROWS, n_rows)]
        _hash_block(columns, first, ids.shape[0], hashes)
        if columns.shape[0] <= 2:
            n_missed = _look_up_block(columns, first, hashes, slots, keys, ids, missed)
        else:
            n_missed = _look_up_wide_block(
                columns, first, hashes, slots, keys, ids, differences, missed
            )
        row, n_groups = _settle_missed(
            columns, first, hashes, slots, keys, n_groups, ids, missed[:n_missed]
        )
        if row >= 0:
            return first + row, n_groups
    return n_rows, n_groups


@kernel
def assign_group_ids_at(
    columns: I64,
    bounds: I64,
    part: int,
    row: int,
    slots: U64,
    keys: I64,
    n_groups: int,
    group_ids: U32,
) -> tuple[int, int, int]:
    """Give each row the id of its key; a key not seen before gets the next id.

    Rows may lie in several parts, which are done in order. Stops at the first row whose key has no
    room, because ``keys`` is full or half of ``slots`` are taken. The caller then makes them larger
    and goes on from that row.

    Args:
        columns: int64[n_parts, n_words, 2], for each word of the key the address of its
            int64[n_rows] values, which the caller keeps alive, and the bytes from one value to the
            next: 8, or 0 for int64[BLOCK_ROWS] values that serve every block. Without words all
            rows are one group.
        bounds: int64[n_parts + 1], where each part begins and the last one ends in ``group_ids``.
        part: First part to do.
        row: First row of that part to do.
        slots: uint64[n_slots], the index; see the module. A power of two from 2 to 2**32:
            unchecked.
        keys: int64[n_words, capacity], the groups' keys; capacity at least 1: unchecked.
        n_groups: Groups so far.
        group_ids: uint32[bounds[-1]], written from the first row on.

    Returns:
        The part and the row of it to go on from, n_parts and 0 when all are done, and the number
        of groups.
    """
    for index in range(part, bounds.shape[0] - 1):
        ids = group_ids[bounds[index] : bounds[index + 1]]
        row, n_groups = _assign_part(columns[index], row, slots, keys, n_groups, ids)
        if row < ids.shape[0]:
            return index, row, n_groups
        row = 0
    return bounds.shape[0] - 1, 0, n_groups


@kernel
def rebuild_slots(keys: I64, n_groups: int, slots: U64) -> None:
    """Index the first ``n_groups`` keys anew, after the table grew or lost groups.

    Args:
        keys: int64[n_words, capacity], the groups' keys, all different.
        n_groups: Groups to index; at most half of the slots: unchecked.
        slots: uint64[n_slots], overwritten.
    """
    mask = np.uint64(slots.shape[0] - 1)
    slots[:] = _FREE
    for group_id in range(n_groups):
        state = _SEED
        for word in range(keys.shape[0]):
            state = _absorb(state, keys[word, group_id])
        hashed = _finish(state)
        place = _place(hashed, slots.shape[0])
        while slots[place] != _FREE:
            place = (place + _ONE) & mask
        slots[place] = _entry(hashed, group_id + 1)


@kernel
def move_slots(before: U64, slots: U64) -> None:
    """Enter all entries of an index into a larger one, which is empty.

    Args:
        before: uint64[n_slots_before].
        slots: uint64[n_slots], zeros; out: the index of the same groups.
    """
    mask = np.uint64(slots.shape[0] - 1)
    for index in range(before.shape[0]):
        entry = before[index]
        if entry != _FREE:
            place = _place(entry, slots.shape[0])
            while slots[place] != _FREE:
                place = (place + _ONE) & mask
            slots[place] = entry
