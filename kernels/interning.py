"""Text and binary values to dense ids, and back.

A table of values is three arrays that the caller allocates: an arena of bytes with offsets, in
which value ``i`` is ``arena[offsets[i]:offsets[i + 1]]`` as in Arrow, and ``slots``, a hash index
of the same form as the one over group keys. The arena has ``ARENA_SLACK_BYTES`` more than its
values take, so that the last of them can be read word by word.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I32, I64, U8, U32, U64, inlined_kernel, kernel, load_word

__all__ = [
    "ARENA_SLACK_BYTES",
    "copy_strings",
    "intern_strings",
    "rebuild_string_slots",
    "string_lengths",
]

ARENA_SLACK_BYTES = 8

_BLOCK_ROWS = 512
_SEED = np.uint64(0x9E3779B97F4A7C15)
_ABSORB = np.uint64(0xBF58476D1CE4E5B9)
_FINISH = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
_FOLD = np.uint64(29)
_ID_BITS = np.uint64(0xFFFFFFFF)
_FREE = np.uint64(0)
_ONE = np.uint64(1)
_EIGHT = np.uint64(8)


@kernel
def _absorb(state: np.uint64, word: np.uint64) -> np.uint64:
    state = (state ^ word) * _ABSORB
    return state ^ (state >> _HALF)


@kernel
def _first_bytes(word: np.uint64, n_bytes: np.uint64) -> np.uint64:
    return word & ((_ONE << (_EIGHT * n_bytes)) - _ONE)


@inlined_kernel
def _tail(at: np.uint64, n_bytes: np.uint64, limit: np.uint64) -> np.uint64:
    """Read 0 to 7 bytes as a word, and nothing at or past the address ``limit``."""
    if at + _EIGHT <= limit:
        return _first_bytes(load_word(at), n_bytes)
    if n_bytes == 0:
        return n_bytes
    # The last word of the data begins before the tail: shift out what stands before it.
    word = load_word(limit - _EIGHT) >> (_EIGHT * (at + _EIGHT - limit))
    return _first_bytes(word, n_bytes)


@inlined_kernel
def _hash(at: np.uint64, n_bytes: np.uint64, limit: np.uint64) -> np.uint64:
    state = _SEED ^ n_bytes
    while n_bytes >= _EIGHT:
        state = _absorb(state, load_word(at))
        at += _EIGHT
        n_bytes -= _EIGHT
    state = _absorb(state, _tail(at, n_bytes, limit)) * _FINISH
    return state ^ (state >> _FOLD)


@inlined_kernel
def _equal(at: np.uint64, n_bytes: np.uint64, limit: np.uint64, known_at: np.uint64) -> bool:
    while n_bytes >= _EIGHT:
        if load_word(at) != load_word(known_at):
            return False
        at += _EIGHT
        known_at += _EIGHT
        n_bytes -= _EIGHT
    return bool(_tail(at, n_bytes, limit) == _first_bytes(load_word(known_at), n_bytes))


@kernel
def _entry(hashed: np.uint64, n_strings: int) -> np.uint64:
    # The count includes the new value, so it is the id plus one.
    return (hashed >> _HALF) << _HALF | np.uint64(n_strings)


@kernel
def _hash_block(offsets: I32 | I64, base: np.uint64, limit: np.uint64, hashes: U64) -> None:
    start = np.uint64(offsets[0])
    for row in range(offsets.shape[0] - 1):
        stop = np.uint64(offsets[row + 1])
        hashes[row] = _hash(base + start, stop - start, limit)
        start = stop


@kernel
def _look_up_block(
    offsets: I32 | I64,
    base: np.uint64,
    limit: np.uint64,
    bitmap: U8,
    bit: int,
    hashes: U64,
    slots: U64,
    known_offsets: I64,
    arena_at: np.uint64,
    ids: I64,
    missed: U32,
) -> int:
    """Look at the first slot of each row; return how many rows are neither there nor NULL."""
    mask = np.uint64(slots.shape[0] - 1)
    n_missed = 0
    start = np.uint64(offsets[0])
    for row in range(ids.shape[0]):
        stop = np.uint64(offsets[row + 1])
        entry = slots[hashes[row] & mask]
        # A free slot stands for value 0 here, so that there is always one to compare with.
        known = (entry & _ID_BITS) - np.uint64(entry != _FREE)
        known_start = np.uint64(known_offsets[known])
        n_known_bytes = np.uint64(known_offsets[known + _ONE]) - known_start
        is_same = (entry >> _HALF == hashes[row] >> _HALF) & (n_known_bytes == stop - start)
        if is_same:
            is_same = _equal(base + start, stop - start, limit, arena_at + known_start)
        is_valid = True
        if bitmap.shape[0] > 0:
            is_valid = (bitmap[(bit + row) >> 3] >> ((bit + row) & 7)) & 1 != 0
        ids[row] = np.int64(known) if is_valid else -1
        missed[n_missed] = row
        n_missed += is_valid & ((not is_same) | (entry == _FREE))
        start = stop
    return n_missed


@inlined_kernel
def _find(
    at: np.uint64,
    n_bytes: np.uint64,
    limit: np.uint64,
    hashed: np.uint64,
    slots: U64,
    known_offsets: I64,
    arena_at: np.uint64,
) -> np.uint64:
    """Return the slot of a value, or the free slot where it belongs."""
    mask = np.uint64(slots.shape[0] - 1)
    place = hashed & mask
    while True:
        entry = slots[place]
        if entry == _FREE:
            return place
        if entry >> _HALF == hashed >> _HALF:
            known = (entry & _ID_BITS) - _ONE
            known_start = np.uint64(known_offsets[known])
            if np.uint64(known_offsets[known + _ONE]) - known_start == n_bytes and _equal(
                at, n_bytes, limit, arena_at + known_start
            ):
                return place
        place = (place + _ONE) & mask


@kernel
def _settle_missed(
    offsets: I32 | I64,
    data: U8,
    hashes: U64,
    slots: U64,
    known_offsets: I64,
    arena: U8,
    n_strings: int,
    ids: I64,
    missed: U32,
) -> tuple[int, int]:
    """Probe on for rows of a block; return the row without room or -1, and the number of values."""
    n_strings_max = min(known_offsets.shape[0] - 1, slots.shape[0] // 2)
    n_bytes_max = np.uint64(max(0, arena.shape[0] - ARENA_SLACK_BYTES))
    base = np.uint64(data.ctypes.data)
    limit = base + np.uint64(data.shape[0])
    arena_at = np.uint64(arena.ctypes.data)
    for row in missed:
        start = np.uint64(offsets[row])
        n_bytes = np.uint64(offsets[row + np.uint32(1)]) - start
        place = _find(base + start, n_bytes, limit, hashes[row], slots, known_offsets, arena_at)
        if slots[place] == _FREE:
            arena_start = np.uint64(known_offsets[n_strings])
            if n_strings >= n_strings_max or arena_start + n_bytes > n_bytes_max:
                return int(np.int64(row)), n_strings
            for byte in range(n_bytes):
                arena[arena_start + byte] = data[start + byte]
            n_strings += 1
            known_offsets[n_strings] = np.int64(arena_start + n_bytes)
            slots[place] = _entry(hashes[row], n_strings)
        ids[row] = np.int64((slots[place] & _ID_BITS) - _ONE)
    return -1, n_strings


@kernel
def intern_strings(
    offsets: I32 | I64,
    data: U8,
    bitmap: U8,
    bit_offset: int,
    start: int,
    slots: U64,
    known_offsets: I64,
    arena: U8,
    n_strings: int,
    ids: I64,
) -> tuple[int, int]:
    """Give each value its id; a value not seen before gets the next id and is copied to the arena.

    Stops at the first row whose value has no room, because ``known_offsets`` or ``arena`` is full
    or half of ``slots`` are taken. The caller then makes them larger and goes on from that row.

    Args:
        offsets: int32 or int64 [n_rows + 1]; row ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
            Unchecked.
        data: uint8[n_bytes], at least 8 of them unless all values are empty: unchecked.
        bitmap: Arrow validity bitmap with the bit of row ``i`` at ``bit_offset + i``, or an empty
            array if no row is NULL.
        bit_offset: Bit of row 0.
        start: First row to do.
        slots: uint64[n_slots], the index. A power of two, at least 2: unchecked.
        known_offsets: int64[capacity + 1], the values' places in the arena, from 0; capacity at
            least 1: unchecked.
        arena: uint8[n_bytes], the values.
        n_strings: Values so far.
        ids: int64[n_rows], written from ``start`` on; -1 for NULL. Rows not done may be written to.

    Returns:
        The row to go on from, which is n_rows when all are done, and the number of values.
    """
    base = np.uint64(data.ctypes.data)
    limit = base + np.uint64(data.shape[0])
    arena_at = np.uint64(arena.ctypes.data)
    hashes = np.empty(_BLOCK_ROWS, np.uint64)
    missed = np.empty(_BLOCK_ROWS, np.uint32)
    for first in range(start, ids.shape[0], _BLOCK_ROWS):
        block_ids = ids[first : first + _BLOCK_ROWS]
        block_offsets = offsets[first : first + block_ids.shape[0] + 1]
        _hash_block(block_offsets, base, limit, hashes)
        n_missed = _look_up_block(
            block_offsets,
            base,
            limit,
            bitmap,
            bit_offset + first,
            hashes,
            slots,
            known_offsets,
            arena_at,
            block_ids,
            missed,
        )
        row, n_strings = _settle_missed(
            block_offsets,
            data,
            hashes,
            slots,
            known_offsets,
            arena,
            n_strings,
            block_ids,
            missed[:n_missed],
        )
        if row >= 0:
            return first + row, n_strings
    return ids.shape[0], n_strings


@kernel
def rebuild_string_slots(known_offsets: I64, arena: U8, n_strings: int, slots: U64) -> None:
    """Index the first ``n_strings`` values anew, after the index grew or values were dropped.

    Args:
        known_offsets: int64[capacity + 1], the values' places in the arena.
        arena: uint8[n_bytes], the values, all different, and slack.
        n_strings: Values to index; at most half of the slots: unchecked.
        slots: uint64[n_slots], overwritten.
    """
    mask = np.uint64(slots.shape[0] - 1)
    arena_at = np.uint64(arena.ctypes.data)
    limit = arena_at + np.uint64(arena.shape[0])
    slots[:] = _FREE
    for string_id in range(n_strings):
        start = np.uint64(known_offsets[string_id])
        n_bytes = np.uint64(known_offsets[string_id + 1]) - start
        hashed = _hash(arena_at + start, n_bytes, limit)
        place = hashed & mask
        while slots[place] != _FREE:
            place = (place + _ONE) & mask
        slots[place] = _entry(hashed, string_id + 1)


@kernel
def string_lengths(ids: I64, known_offsets: I64, offsets: I32 | I64) -> int:
    """Lay out the values of ids one after the other.

    Args:
        ids: int64[n_rows]; -1, for NULL, takes no bytes.
        known_offsets: int64[capacity + 1], the values' places in the arena.
        offsets: int32 or int64 [n_rows + 1], out; 32 bits have to suffice for the total.

    Returns:
        The total number of bytes.
    """
    total = 0
    offsets[0] = 0
    for row in range(ids.shape[0]):
        string_id = ids[row]
        if string_id >= 0:
            total += known_offsets[string_id + 1] - known_offsets[string_id]
        offsets[row + 1] = total
    return total


@kernel
def copy_strings(ids: I64, known_offsets: I64, arena: U8, offsets: I32 | I64, data: U8) -> None:
    """Copy the values of ids to where :func:`string_lengths` laid them out.

    Args:
        ids: int64[n_rows]; nothing is copied for -1.
        known_offsets: int64[capacity + 1], the values' places in the arena.
        arena: uint8[n_bytes], the values.
        offsets: int32 or int64 [n_rows + 1], as laid out.
        data: uint8[total], out.
    """
    for row in range(ids.shape[0]):
        if ids[row] >= 0:
            source = np.uint64(known_offsets[ids[row]])
            target = np.uint64(offsets[row])
            for byte in range(np.uint64(offsets[row + 1]) - target):
                data[target + byte] = arena[source + byte]
