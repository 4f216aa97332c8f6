"""Text and binary values to dense ids, and back.

A table of values is four arrays that the caller allocates: an arena of bytes with offsets, in
which value ``i`` is ``arena[offsets[i]:offsets[i + 1]]`` as in Arrow; ``words``, one word per value
by which it is compared; and ``slots``, a hash index of numbers of values plus one.

The word of a value of up to 8 bytes is the value: its bytes with their number on top, or all 8 of
them, as long as the last cannot be taken for a number of bytes. Other values have a hash with zeros
on top, and are compared byte by byte where the hashes are equal. So text as short as most symbols
and codes is known by one comparison.

As for the groups of keys, a first pass over a block of rows looks at one slot per row and takes no
branch; a second pass probes on for the few rows that are left.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I32, I64, U8, U32, U64, inlined_kernel, kernel, load_word

__all__ = [
    "copy_strings",
    "intern_strings",
    "number_codes",
    "rebuild_string_slots",
    "string_lengths",
]

_BLOCK_ROWS = 512
_SEED = np.uint64(0x9E3779B97F4A7C15)
_ABSORB = np.uint64(0xBF58476D1CE4E5B9)
_FINISH = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
_TOP = np.uint64(56)
_ONE = np.uint64(1)
_FOUR = np.uint64(4)
_EIGHT = np.uint64(8)
_ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)
_HASH_BITS = np.uint64(0x00FFFFFFFFFFFFFF)
# Words of no value: hashes are odd, and the empty value is 0.
_NO_VALUE = np.uint64(2)
_NULL = np.uint64(4)
_FREE = np.uint32(0)
_FIRST = np.uint32(1)


@inlined_kernel
def _mix(state: np.uint64) -> np.uint64:
    state = state * _ABSORB
    return state ^ (state >> _HALF)


@inlined_kernel
def _place(word: np.uint64, shift: np.uint64) -> np.uint32:
    return np.uint32((_mix(word) * _FINISH) >> shift)


@kernel
def _shift_of(n_slots: int) -> np.uint64:
    """Return by how many bits a hash is shifted to become a slot: its top bits are the best."""
    shift = np.uint64(64)
    while n_slots > 1:
        n_slots >>= 1
        shift -= _ONE
    return shift


@inlined_kernel
def _word_of_few(raw: np.uint64, n_bytes: np.uint64) -> np.uint64:
    """Return the word of the first 0 to 8 bytes of ``raw``; for 8 of them see the module."""
    # A shift by 64 bits, for no bytes, is none to the processor: two halves are.
    half = _HALF - _FOUR * n_bytes
    return (raw & ((_ALL_BITS >> half) >> half)) | ((n_bytes & np.uint64(7)) << _TOP)


@inlined_kernel
def _is_long(word: np.uint64, n_bytes: np.uint64) -> bool:
    """Tell whether a value cannot be its own word, given what that would be if it had few bytes."""
    return bool(n_bytes > _EIGHT or (n_bytes == _EIGHT and word >> _TOP < _EIGHT))


@inlined_kernel
def _word_of_many(at: np.uint64, n_bytes: np.uint64) -> np.uint64:
    """Return the word of 8 bytes or more: a hash with zeros on top."""
    last = at + n_bytes - _EIGHT
    state = _SEED ^ n_bytes
    while at < last:
        state = _mix(state ^ load_word(at))
        at += _EIGHT
    return (_mix(state ^ load_word(last)) & _HASH_BITS) | _ONE


@inlined_kernel
def _is_hash(word: np.uint64) -> bool:
    return bool(word >> _TOP == 0 and word != 0)


@inlined_kernel
def _equal_many(at: np.uint64, n_bytes: np.uint64, known_at: np.uint64) -> bool:
    """Compare 8 bytes or more; the last 8 may have been compared in part before."""
    last = at + n_bytes - _EIGHT
    known_last = known_at + n_bytes - _EIGHT
    while at < last:
        if load_word(at) != load_word(known_at):
            return False
        at += _EIGHT
        known_at += _EIGHT
    return bool(load_word(last) == load_word(known_last))


@inlined_kernel
def _last_bytes(at: np.uint64, limit: np.uint64) -> np.uint64:
    """Read up to 8 bytes as a word, and nothing at or past the address ``limit``."""
    if at >= limit:
        return _ALL_BITS
    return load_word(limit - _EIGHT) >> (_EIGHT * (at + _EIGHT - limit))


@kernel
def _load_block(
    offsets: I32 | I64,
    base: np.uint64,
    limit: np.uint64,
    bitmap: U8,
    bit: int,
    shift: np.uint64,
    words: U64,
    places: U32,
) -> bool:
    """Write words and first slots of a block's rows; return whether some words are hashes.

    ``limit`` is the address after the last byte that may be read.
    """
    n_rows = offsets.shape[0] - 1
    n_safe = n_rows
    while n_safe > 0 and base + np.uint64(offsets[n_safe - 1]) + _EIGHT > limit:
        n_safe -= 1
    # Loads from anywhere have a loop of their own, so that the next one can be vectorized.
    for row in range(n_safe):
        words[row] = load_word(base + np.uint64(offsets[row]))
    for row in range(n_safe, n_rows):
        words[row] = _last_bytes(base + np.uint64(offsets[row]), limit)
    n_long = 0
    for row in range(n_rows):
        n_bytes = np.uint64(offsets[row + 1]) - np.uint64(offsets[row])
        word = _word_of_few(words[row], min(n_bytes, _EIGHT))
        words[row] = word
        n_long += (n_bytes > _EIGHT) | ((n_bytes == _EIGHT) & (word >> _TOP < _EIGHT))
    if n_long > 0:
        for row in range(n_rows):
            start = np.uint64(offsets[row])
            n_bytes = np.uint64(offsets[row + 1]) - start
            if _is_long(words[row], n_bytes):
                words[row] = _word_of_many(base + start, n_bytes)
    if bitmap.shape[0] > 0:
        for row in range(n_rows):
            is_valid = (bitmap[(bit + row) >> 3] >> ((bit + row) & 7)) & 1
            words[row] = words[row] if is_valid != 0 else _NULL
    for row in range(n_rows):
        places[row] = _place(words[row], shift)
    return n_long > 0


@kernel
def _look_up_block(
    block_words: U64, places: U32, slots: U32, words: U64, ids: I64, missed: U32
) -> int:
    """Look at the first slot of each row; return how many rows have another word than is there."""
    n_missed = 0
    for row in range(ids.shape[0]):
        entry = slots[places[row]]
        ids[row] = np.int64(entry) - 1
        missed[n_missed] = row
        n_missed += words[entry] != block_words[row]
    return n_missed


@inlined_kernel
def _is_value(
    entry: np.uint32,
    word: np.uint64,
    at: np.uint64,
    n_bytes: np.uint64,
    words: U64,
    known_offsets: I64,
    arena_at: np.uint64,
) -> bool:
    if words[entry] != word:
        return False
    if not _is_hash(word):
        return True
    known_start = np.uint64(known_offsets[entry - _FIRST])
    if np.uint64(known_offsets[entry]) - known_start != n_bytes:
        return False
    return _equal_many(at, n_bytes, arena_at + known_start)


@kernel
def _look_up_long_block(
    offsets: I32 | I64,
    base: np.uint64,
    block_words: U64,
    places: U32,
    slots: U32,
    words: U64,
    known_offsets: I64,
    arena_at: np.uint64,
    ids: I64,
    missed: U32,
) -> int:
    """Do the same for a block with values that are not their words."""
    n_missed = 0
    for row in range(ids.shape[0]):
        entry = slots[places[row]]
        ids[row] = np.int64(entry) - 1
        missed[n_missed] = row
        start = np.uint64(offsets[row])
        n_bytes = np.uint64(offsets[row + 1]) - start
        is_known = _is_value(
            entry, block_words[row], base + start, n_bytes, words, known_offsets, arena_at
        )
        n_missed += not is_known
    return n_missed


@kernel
def _settle_missed(
    offsets: I32 | I64,
    data: U8,
    block_words: U64,
    places: U32,
    slots: U32,
    words: U64,
    known_offsets: I64,
    arena: U8,
    n_strings: int,
    ids: I64,
    missed: U32,
) -> tuple[int, int]:
    """Probe on for rows of a block; return the row without room or -1, and the number of values."""
    n_strings_max = min(known_offsets.shape[0] - 1, slots.shape[0] // 2)
    base = np.uint64(data.ctypes.data)
    arena_at = np.uint64(arena.ctypes.data)
    mask = np.uint32(slots.shape[0] - 1)
    for row in missed:
        word = block_words[row]
        if word == _NULL:
            ids[row] = -1
            continue
        start = np.uint64(offsets[row])
        n_bytes = np.uint64(offsets[row + np.uint32(1)]) - start
        place = places[row]
        entry = slots[place]
        while entry != _FREE and not _is_value(
            entry, word, base + start, n_bytes, words, known_offsets, arena_at
        ):
            place = (place + _FIRST) & mask
            entry = slots[place]
        if entry == _FREE:
            arena_start = np.uint64(known_offsets[n_strings])
            if n_strings >= n_strings_max or arena_start + n_bytes > np.uint64(arena.shape[0]):
                return int(np.int64(row)), n_strings
            for byte in range(n_bytes):
                arena[arena_start + byte] = data[start + byte]
            n_strings += 1
            known_offsets[n_strings] = np.int64(arena_start + n_bytes)
            words[n_strings] = word
            entry = np.uint32(n_strings)
            slots[place] = entry
        ids[row] = np.int64(entry) - 1
    return -1, n_strings


@kernel
def intern_strings(
    offsets: I32 | I64,
    data: U8,
    bitmap: U8,
    bit_offset: int,
    start: int,
    slots: U32,
    words: U64,
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
        data: uint8[n_bytes], at least 8 of them: unchecked.
        bitmap: Arrow validity bitmap with the bit of row ``i`` at ``bit_offset + i``, or an empty
            array if no row is NULL.
        bit_offset: Bit of row 0.
        start: First row to do.
        slots: uint32[n_slots], the index: a value's id plus one, or 0 while free. A power of two,
            at least 2: unchecked.
        words: uint64[capacity + 1], the values' words, from 1 on. The first is of no value.
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
    shift = _shift_of(slots.shape[0])
    block_words = np.empty(_BLOCK_ROWS, np.uint64)
    places = np.empty(_BLOCK_ROWS, np.uint32)
    missed = np.empty(_BLOCK_ROWS, np.uint32)
    words[0] = _NO_VALUE
    for first in range(start, ids.shape[0], _BLOCK_ROWS):
        block_ids = ids[first : first + _BLOCK_ROWS]
        block_offsets = offsets[first : first + block_ids.shape[0] + 1]
        has_long = _load_block(
            block_offsets, base, limit, bitmap, bit_offset + first, shift, block_words, places
        )
        if has_long:
            n_missed = _look_up_long_block(
                block_offsets,
                base,
                block_words,
                places,
                slots,
                words,
                known_offsets,
                arena_at,
                block_ids,
                missed,
            )
        else:
            n_missed = _look_up_block(block_words, places, slots, words, block_ids, missed)
        row, n_strings = _settle_missed(
            block_offsets,
            data,
            block_words,
            places,
            slots,
            words,
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
def rebuild_string_slots(words: U64, n_strings: int, slots: U32) -> None:
    """Index the first ``n_strings`` values anew, after the index grew or values were dropped.

    Args:
        words: uint64[capacity + 1], the values' words, from 1 on; all values are different.
        n_strings: Values to index; at most half of the slots: unchecked.
        slots: uint32[n_slots], overwritten.
    """
    mask = np.uint32(slots.shape[0] - 1)
    shift = _shift_of(slots.shape[0])
    slots[:] = _FREE
    for number in range(1, n_strings + 1):
        place = _place(words[number], shift)
        while slots[place] != _FREE:
            place = (place + _FIRST) & mask
        slots[place] = np.uint32(number)


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


@kernel
def number_codes(codes: I64, numbers: I64, words: I64) -> None:
    """Look the numbers of codes up.

    Args:
        codes: [n_rows], integers of any type: unchecked, each at least 0 and below n_entries.
        numbers: int64[n_entries].
        words: int64[n_rows], out.
    """
    for row in range(codes.shape[0]):
        words[row] = numbers[np.uint64(codes[row])]
