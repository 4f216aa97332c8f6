"""Key rows to dense group ids by the key itself, for integer keys that lie close to each other.

An array over all keys of a range, for each of the latest panes, tells the group. What is not in it
is found by a hash index, as in :mod:`millstream.kernels.grouping`, whose table this shares: it has
the same ``keys`` and ``slots``, hashed alike. New groups with a place in the array are in the array
alone, until a later pane takes their place.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U32, U64, inlined_kernel, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["assign_group_ids_direct", "fill_direct"]

_BLOCK_ROWS = 512

# As in grouping, because both work on one index.
_SEED = np.uint64(0x9E3779B97F4A7C15)
_ABSORB = np.uint64(0xBF58476D1CE4E5B9)
_FINISH = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
_ID_BITS = np.uint64(0xFFFFFFFF)
_ONE = np.uint64(1)
_FREE = np.uint64(0)
_MISSED = np.uint32(0xFFFFFFFF)


@kernel
def _absorb(state: np.uint64, word: np.int64) -> np.uint64:
    state = (state ^ np.uint64(word)) * _ABSORB
    return state ^ (state >> _HALF)


@kernel
def _finish(state: np.uint64) -> np.uint64:
    return state * _FINISH


@kernel
def _place(hashed: np.uint64, n_slots: int) -> np.uint64:
    return ((hashed >> _HALF) * np.uint64(n_slots)) >> _HALF


@kernel
def _entry(hashed: np.uint64, n_groups: int) -> np.uint64:
    # The count includes the new group, so it is the id plus one.
    return (hashed >> _HALF) << _HALF | np.uint64(n_groups)


@kernel
def _block_values(columns: I64, word: int, first: int) -> I64:
    return pointer(columns[word, 0] + first * columns[word, 1], np.int64)  # type: ignore[no-any-return]


@inlined_kernel
def _hash_group(keys: I64, group_id: int) -> np.uint64:
    state = _SEED
    for word in range(keys.shape[0]):
        state = _absorb(state, keys[word, group_id])
    return _finish(state)


@inlined_kernel
def _index_group(keys: I64, group_id: int, slots: U64) -> None:
    """Enter a group into the index, unless it is in there."""
    mask = np.uint64(slots.shape[0] - 1)
    hashed = _hash_group(keys, group_id)
    wanted = _entry(hashed, group_id + 1)
    place = _place(hashed, slots.shape[0])
    while slots[place] != _FREE and slots[place] != wanted:
        place = (place + _ONE) & mask
    slots[place] = wanted


@kernel
def _claim(pane: int, owners: I64, direct: U32, keys: I64, slots: U64) -> int:
    """Give a pane its row of the array; the groups of the one before can be found by hash then.

    Returns the number of these groups. The row stays with a later pane.
    """
    place = pane & (owners.shape[0] - 1)
    if owners[place] >= pane:
        return 0
    owners[place] = pane
    n_moved = 0
    for index in range(direct.shape[1] - 1):
        if direct[place, index] != 0:
            _index_group(keys, int(np.int64(direct[place, index])) - 1, slots)
            direct[place, index] = 0
            n_moved += 1
    return n_moved


@kernel
def _find_in_one_pane(values: I64, base: int, entries: U32, n_entries: int, ids: U32) -> int:
    # The last entry stays free, for all keys that have none.
    last = np.uint64(n_entries - 1)
    n_missed = 0
    for row in range(ids.shape[0]):
        entry = entries[min(np.uint64(values[row] - base), last)]
        ids[row] = entry - np.uint32(1)
        n_missed += entry == np.uint32(0)
    return n_missed


@kernel
def _find_in_panes(panes: I64, values: I64, base: int, owners: I64, direct: U32, ids: U32) -> int:
    last = np.uint64(direct.shape[1] - 1)
    mask = owners.shape[0] - 1
    n_missed = 0
    for row in range(ids.shape[0]):
        place = panes[row] & mask
        index = min(np.uint64(values[row] - base), last)
        index = index if owners[place] == panes[row] else last
        entry = direct[place, index]
        ids[row] = entry - np.uint32(1)
        n_missed += entry == np.uint32(0)
    return n_missed


@kernel
def _claim_block(
    columns: I64, first: int, n_rows: int, owners: I64, direct: U32, keys: I64, slots: U64
) -> tuple[bool, int]:
    """Give the panes of a block their rows; return whether there are several, and groups moved."""
    panes = _block_values(columns, 0, first)
    least = greatest = panes[0]
    if columns[0, 1] != 0:
        for row in range(1, n_rows):
            least = min(least, panes[row])
            greatest = max(greatest, panes[row])
    if least == greatest:
        return False, _claim(greatest, owners, direct, keys, slots)
    n_moved = 0
    for row in range(n_rows):
        if panes[row] > owners[panes[row] & (owners.shape[0] - 1)]:
            n_moved += _claim(panes[row], owners, direct, keys, slots)
    return True, n_moved


@kernel
def _find_block(
    columns: I64, first: int, base: int, owners: I64, direct: U32, several: bool, ids: U32
) -> int:
    """Look up a block's rows by their keys; return how many were not found, with an id of -1."""
    n_words = columns.shape[0]
    values = _block_values(columns, n_words - 1, first)
    if n_words == 1:
        return _find_in_one_pane(values, base, direct[0], direct.shape[1], ids)
    panes = _block_values(columns, 0, first)
    if several:
        return _find_in_panes(panes, values, base, owners, direct, ids)
    place = panes[0] & (owners.shape[0] - 1)
    if owners[place] != panes[0]:
        ids[:] = _MISSED
        return len(ids)
    return _find_in_one_pane(values, base, direct[place], direct.shape[1], ids)


@kernel
def _hash_missed(columns: I64, first: int, ids: U32, missed: U32, hashes: U64) -> int:
    """List the rows of a block that were not found, with their hashes; return how many."""
    n_missed = 0
    for row in range(ids.shape[0]):
        missed[n_missed] = row
        n_missed += ids[row] == _MISSED
    for index in range(n_missed):
        hashes[index] = _SEED
    for word in range(columns.shape[0]):
        values = _block_values(columns, word, first)
        for index in range(n_missed):
            hashes[index] = _absorb(hashes[index], values[missed[index]])
    for index in range(n_missed):
        hashes[index] = _finish(hashes[index])
    return n_missed


@kernel
def _settle_missed(
    columns: I64,
    first: int,
    slots: U64,
    keys: I64,
    n_groups: int,
    ids: U32,
    base: int,
    owners: I64,
    direct: U32,
    missed: U32,
    hashes: U64,
) -> tuple[int, int, int]:
    """Settle rows of a block.

    Returns the row without room or -1, the number of groups, and how many rows were looked up by
    their hash.
    """
    n_words = columns.shape[0]
    last = np.uint64(direct.shape[1] - 1)
    values = _block_values(columns, n_words - 1, first)
    panes = _block_values(columns, 0, first)
    n_groups_max = min(keys.shape[1], slots.shape[0] // 2)
    mask = np.uint64(slots.shape[0] - 1)
    n_hashed = 0
    for index in range(_hash_missed(columns, first, ids, missed, hashes)):
        row = missed[index]
        pane_place = 0 if n_words == 1 else panes[row] & (owners.shape[0] - 1)
        offset = np.uint64(values[row] - base)
        # All groups of the pane with keys in the range are in the array.
        is_direct = offset < last and (n_words == 1 or owners[pane_place] == panes[row])
        hashed = hashes[index]
        place = _place(hashed, slots.shape[0])
        if is_direct:
            entry = np.uint64(direct[pane_place, offset])
        else:
            n_hashed += 1
            entry = slots[place]
            while entry != _FREE:
                if entry >> _HALF == hashed >> _HALF:
                    group_id = (entry & _ID_BITS) - _ONE
                    differences = 0
                    for word in range(n_words):
                        value = _block_values(columns, word, first)[row]
                        differences |= keys[word, group_id] ^ value
                    if differences == 0:
                        break
                place = (place + _ONE) & mask
                entry = slots[place]
        if entry == _FREE:
            if n_groups >= n_groups_max:
                return int(np.int64(row)), n_groups, n_hashed
            for word in range(n_words):
                keys[word, n_groups] = _block_values(columns, word, first)[row]
            n_groups += 1
            entry = _entry(hashed, n_groups)
            if is_direct:
                direct[pane_place, offset] = n_groups
            else:
                slots[place] = entry
        ids[row] = (entry & _ID_BITS) - _ONE
    return -1, n_groups, n_hashed


@kernel
def _assign_part(
    columns: I64,
    start: int,
    slots: U64,
    keys: I64,
    n_groups: int,
    group_ids: U32,
    base: int,
    owners: I64,
    direct: U32,
    n_by_hash_max: int,
) -> tuple[int, int, int]:
    n_rows = group_ids.shape[0]
    n_by_hash = 0
    several = False
    missed = np.empty(_BLOCK_ROWS, np.uint32)
    hashes = np.empty(_BLOCK_ROWS, np.uint64)
    for first in range(start, n_rows, _BLOCK_ROWS):
        ids = group_ids[first : min(first + _BLOCK_ROWS, n_rows)]
        if columns.shape[0] > 1:
            several, n_moved = _claim_block(
                columns, first, ids.shape[0], owners, direct, keys, slots
            )
            n_by_hash += n_moved
        if _find_block(columns, first, base, owners, direct, several, ids) > 0:
            row, n_groups, n_hashed = _settle_missed(
                columns,
                first,
                slots,
                keys,
                n_groups,
                ids,
                base,
                owners,
                direct,
                missed,
                hashes,
            )
            n_by_hash += n_hashed
            if row >= 0:
                return first + row, n_groups, n_by_hash
            if n_by_hash > n_by_hash_max:
                return first + ids.shape[0], n_groups, n_by_hash
    return n_rows, n_groups, n_by_hash


@kernel
def assign_group_ids_direct(
    columns: I64,
    bounds: I64,
    part: int,
    row: int,
    slots: U64,
    keys: I64,
    n_groups: int,
    group_ids: U32,
    base: int,
    owners: I64,
    direct: U32,
    n_by_hash_max: int,
) -> tuple[int, int, int, int]:
    """Give each row the id of its key, by an array over all keys of a range where it can.

    The key is the last word. Of the words before it, if there are any, the first is a pane, of
    which some are open at a time; others are the same in all rows. The array has all groups of its
    panes whose keys are in its range, and new ones are entered there alone. All other groups are
    found by their hash.

    Args:
        columns: int64[n_parts, n_words, 2], as ``grouping.assign_group_ids_at`` takes them, of one
            word or more.
        bounds: int64[n_parts + 1], where the parts begin.
        part: First part to do.
        row: First row of that part to do.
        slots: uint64[n_slots], the hash index of at least the groups that are not in the array.
        keys: int64[n_words, capacity], the groups' keys.
        n_groups: Groups so far.
        group_ids: uint32[bounds[-1]], written from the first row on.
        base: Least key of the range.
        owners: int64[n_places], the pane whose groups a row of ``direct`` has now: one with the
            same remainder by n_places, a power of two, or INT64_MIN. The latest pane takes the row.
        direct: uint32[n_places, n_keys + 1], per pane and key the group's id plus one, 0 for none;
            the last one of each pane is always 0. Only groups whose words between pane and key are
            those of these rows may be in it.
        n_by_hash_max: Stops, as for want of room, in the block in which more rows than this have
            come to the hash index.

    Returns:
        The part and the row of it to go on from, n_parts and 0 when all are done; the number of
        groups; and how many rows and displaced groups came to the hash index.
    """
    n_by_hash = 0
    for index in range(part, bounds.shape[0] - 1):
        ids = group_ids[bounds[index] : bounds[index + 1]]
        row, n_groups, n_more_by_hash = _assign_part(
            columns[index],
            row,
            slots,
            keys,
            n_groups,
            ids,
            base,
            owners,
            direct,
            n_by_hash_max - n_by_hash,
        )
        n_by_hash += n_more_by_hash
        if row < ids.shape[0]:
            return index, row, n_groups, n_by_hash
        row = 0
    return bounds.shape[0] - 1, 0, n_groups, n_by_hash


@kernel
def fill_direct(
    keys: I64, n_groups: int, between: int, base: int, owners: I64, direct: U32, slots: U64
) -> int:
    """Enter groups into the array of :func:`assign_group_ids_direct`, which is empty.

    Args:
        keys: int64[n_words, capacity], the groups' keys; at most three words.
        n_groups: Number of groups.
        between: The word between pane and key, if there is one, of the groups in the array.
        base: Least key of the range.
        owners: int64[n_places], INT64_MIN; gets the latest panes.
        direct: uint32[n_places, n_keys + 1], zeros; gets ids plus one.
        slots: uint64[n_slots], the hash index, which gets the groups that are not in the array.

    Returns:
        The number of groups that are not in the array.
    """
    n_words = keys.shape[0]
    mask = owners.shape[0] - 1
    last = np.uint64(direct.shape[1] - 1)
    if n_words > 1:
        for group_id in range(n_groups):
            pane = keys[0, group_id]
            owners[pane & mask] = max(owners[pane & mask], pane)
    n_others = 0
    for group_id in range(n_groups):
        place = 0 if n_words == 1 else keys[0, group_id] & mask
        is_in_pane = n_words == 1 or owners[place] == keys[0, group_id]
        is_alike = n_words < 3 or keys[1, group_id] == between
        index = np.uint64(keys[n_words - 1, group_id] - base)
        if is_in_pane and is_alike and index < last:
            direct[place, index] = group_id + 1
        else:
            _index_group(keys, group_id, slots)
            n_others += 1
    return n_others
