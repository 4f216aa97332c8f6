"""The least or greatest text of each group, byte by byte.

A group has its text in an arena, and the first eight bytes of it as a word, by which most rows are
told apart without a look at either text.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I32, I64, U8, U32, U64, inlined_kernel, kernel, load_word
from millstream.kernels.compile import _pointer as pointer

__all__ = ["NO_TEXT", "copy_texts", "lay_out_texts", "pick_texts", "put_texts"]

NO_TEXT = -1
"""As the length of a group's text: it has none yet."""

_NO_ROW = -1
_WORD_BYTES = 8
_ZERO, _BYTE, _PAIR, _HALF = np.uint64(0), np.uint64(8), np.uint64(16), np.uint64(32)
_BYTES, _PAIRS = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF)


@inlined_kernel
def _head(at: int, end: int, length: int) -> np.uint64:
    """Return up to eight bytes of a text at an address as a word in the order of the bytes.

    There is no memory to be read from ``end`` on.
    """
    word = _ZERO
    if at + _WORD_BYTES <= end:
        word = load_word(np.uint64(at))
        # Reversed byte by byte, which LLVM makes one instruction of.
        word = ((word & _BYTES) << _BYTE) | ((word >> _BYTE) & _BYTES)
        word = ((word & _PAIRS) << _PAIR) | ((word >> _PAIR) & _PAIRS)
        word = (word << _HALF) | (word >> _HALF)
        if length < _WORD_BYTES:
            missing = np.uint64(_WORD_BYTES * (_WORD_BYTES - length))
            # A shift by all bits of the word would be undefined.
            word = _ZERO if length == 0 else (word >> missing) << missing
        return word
    data = pointer(at, np.uint8)
    for place in range(_WORD_BYTES):
        byte = np.uint64(data[place]) if place < length else _ZERO
        word = (word << _BYTE) | byte
    return word


@inlined_kernel
def _is_less(at: int, end: int, length: int, other: int, other_end: int, other_length: int) -> bool:
    """Compare two texts whose first eight bytes are the same."""
    for place in range(_WORD_BYTES, min(length, other_length), _WORD_BYTES):
        word = _head(at + place, end, length - place)
        other_word = _head(other + place, other_end, other_length - place)
        if word != other_word:
            return bool(word < other_word)
    # What one text has no more of counts as zeros, which is less than nothing else.
    return length < other_length


@kernel
def pick_texts(
    offsets: I32 | I64,
    data: U8,
    valid: U8,
    group_ids: U32,
    takes_greatest: bool,
    starts: I64,
    lengths: I64,
    heads: U64,
    arena: U8,
    winners: I64,
    changed: U32,
) -> tuple[int, int]:
    """Find the rows whose text is the new least or greatest one of their group.

    Args:
        offsets: int32 or int64 [n_rows + 1].
        data: uint8[n_bytes], row ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows], below the capacity: unchecked.
        takes_greatest: Whether the greatest text wins, else the least.
        starts: int64[capacity], where in ``arena`` the text of each group begins.
        lengths: int64[capacity], its bytes, or ``NO_TEXT``.
        heads: uint64[capacity], its first bytes; updated.
        arena: uint8[n], texts of groups.
        winners: int64[capacity], -1; out: the row of each group that has a new text.
        changed: uint32[n_rows], out: these groups.

    Returns:
        How many groups have a new text, and the bytes of all new texts.
    """
    has_nulls = valid.shape[0] > 0
    # By address: an array that is handed on costs two atomic updates of its reference count.
    data_at, arena_at = int(np.int64(data.ctypes.data)), int(np.int64(arena.ctypes.data))
    data_end, arena_end = data_at + data.shape[0], arena_at + arena.shape[0]
    n_changed = 0
    for row in range(group_ids.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        group = group_ids[row]
        start = data_at + int(offsets[row])
        length = int(offsets[row + 1]) - int(offsets[row])
        head = _head(start, data_end, length)
        winner = winners[group]
        if winner == _NO_ROW and lengths[group] == NO_TEXT:
            is_better = True
        elif head != heads[group]:
            is_better = (head > heads[group]) == takes_greatest
        else:
            # The text to beat is that of a row, or that of before.
            if winner != _NO_ROW:
                best, best_end = data_at + int(offsets[winner]), data_end
                n_best = int(offsets[winner + 1]) - int(offsets[winner])
            else:
                best, best_end, n_best = arena_at + starts[group], arena_end, lengths[group]
            if takes_greatest:
                is_better = _is_less(best, best_end, n_best, start, data_end, length)
            else:
                is_better = _is_less(start, data_end, length, best, best_end, n_best)
        if is_better:
            if winner == _NO_ROW:
                changed[n_changed] = group
                n_changed += 1
            winners[group] = row
            heads[group] = head
    n_bytes = 0
    for index in range(n_changed):
        winner = winners[changed[index]]
        n_bytes += int(offsets[winner + 1]) - int(offsets[winner])
    return n_changed, n_bytes


@kernel
def put_texts(
    offsets: I32 | I64,
    data: U8,
    changed: U32,
    winners: I64,
    starts: I64,
    lengths: I64,
    arena: U8,
    n_used: int,
) -> int:
    """Give groups their new texts, behind all others.

    Args:
        offsets: As for :func:`pick_texts`.
        data: As for :func:`pick_texts`.
        changed: uint32[n_changed], groups that have a new text.
        winners: int64[capacity], the row of each of them; out: -1.
        starts: int64[capacity], updated.
        lengths: int64[capacity], updated.
        arena: uint8[n], with room for all new texts behind ``n_used``: unchecked. Updated.
        n_used: Bytes of the arena that are in use.

    Returns:
        How many bytes are in use then, those of texts that groups had before included.
    """
    for index in range(changed.shape[0]):
        group = changed[index]
        row = winners[group]
        winners[group] = _NO_ROW
        start = int(offsets[row])
        length = int(offsets[row + 1]) - start
        starts[group] = n_used
        lengths[group] = length
        for place in range(length):
            arena[n_used + place] = data[start + place]
        n_used += length
    return n_used


@kernel
def lay_out_texts(lengths: I64, offsets: I32 | I64) -> int:
    """Lay texts out one after the other.

    Args:
        lengths: int64[n], ``NO_TEXT`` for none.
        offsets: int32 or int64 [n + 1], out; 32 bits have to suffice for the total.

    Returns:
        The total number of bytes.
    """
    total = 0
    offsets[0] = 0
    for index in range(lengths.shape[0]):
        total += max(lengths[index], 0)
        offsets[index + 1] = total
    return total


@kernel
def copy_texts(starts: I64, lengths: I64, arena: U8, offsets: I32 | I64, data: U8) -> None:
    """Copy texts to where :func:`lay_out_texts` laid them out.

    Args:
        starts: int64[n], where in ``arena`` they begin.
        lengths: int64[n], ``NO_TEXT`` for none.
        arena: uint8[n_bytes], the texts.
        offsets: int32 or int64 [n + 1], as laid out.
        data: uint8[total], out.
    """
    for index in range(lengths.shape[0]):
        source, target = starts[index], int(offsets[index])
        for place in range(lengths[index]):
            data[target + place] = arena[source + place]
