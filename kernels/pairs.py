"""A set of pairs of an owner and a value: which of many rows bring a pair for the first time.

Open addressing with the pairs in the slots themselves, so that a row costs one miss of the cache
however large the set is. A pair's place comes from the high bits of its hash: going through the
slots is going through the hashes in their order, and moving all pairs to a larger set writes that
one from its beginning to its end.

``entries`` is int64[n_slots, 1 + n_words]: per slot the owner plus one, or 0 while it is free, and
the words of the value. n_slots is a power of two.

Rows are done in blocks, as in :mod:`millstream.kernels.grouping`: a pass without branches that
depend on the data looks at the first slot of each row, another one settles what it did not find.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, U32, U64, inlined_kernel, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["add_pairs", "list_pairs", "move_pairs"]

_BLOCK_ROWS = 512

_SEED = np.uint64(0x9E3779B97F4A7C15)
_ABSORB = np.uint64(0xBF58476D1CE4E5B9)
_FINISH = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
_ONE = np.uint64(1)


@kernel
def _absorb(state: np.uint64, word: np.int64) -> np.uint64:
    state = (state ^ np.uint64(word)) * _ABSORB
    return state ^ (state >> _HALF)


@kernel
def _shift_of(entries: I64) -> np.uint64:
    """Return by how much a hash is shifted to be a place: there are two slots or more."""
    shift = 64
    n_slots = entries.shape[0]
    while n_slots > 1:
        n_slots >>= 1
        shift -= 1
    return np.uint64(shift)


@inlined_kernel
def _values(addresses: I64, word: int, first: int) -> I64:
    return pointer(addresses[word] + 8 * first, np.int64)  # type: ignore[no-any-return]


@kernel
def _place_block(owners: U32, addresses: I64, first: int, entries: I64, places: U64) -> None:
    shift = _shift_of(entries)
    for row in range(places.shape[0]):
        places[row] = _absorb(_SEED, np.int64(owners[first + row]))
    for word in range(addresses.shape[0]):
        values = _values(addresses, word, first)
        for row in range(places.shape[0]):
            places[row] = _absorb(places[row], values[row])
    for row in range(places.shape[0]):
        places[row] = (places[row] * _FINISH) >> shift


@kernel
def _miss_block(
    owners: U32, addresses: I64, is_null: U8, first: int, entries: I64, places: U64, missed: U32
) -> int:
    """Return how many rows are not in their first slot, nor NULL; ``missed`` gets them."""
    values = _values(addresses, 0, first)
    n_missed = 0
    for row in range(places.shape[0]):
        place = places[row]
        missed[n_missed] = row
        is_other = entries[place, 0] != np.int64(owners[first + row]) + 1
        n_missed += is_other | (entries[place, 1] != values[row])
    if addresses.shape[0] > 1:
        # Few types have a second word: all rows are settled one by one.
        for row in range(places.shape[0]):
            missed[row] = row
        n_missed = places.shape[0]
    if is_null.shape[0] > 0:
        n_kept = 0
        for index in range(n_missed):
            row = int(np.int64(missed[index]))
            missed[n_kept] = row
            n_kept += is_null[first + row] == 0
        return n_kept
    return n_missed


@inlined_kernel
def _find(owner: int, addresses: I64, row: int, entries: I64, place: np.uint64) -> np.uint64:
    """Return the slot of a pair, or the free one that it belongs into."""
    mask = np.uint64(entries.shape[0] - 1)
    while entries[place, 0] != 0:
        differences = entries[place, 0] ^ (owner + 1)
        for word in range(addresses.shape[0]):
            differences |= entries[place, 1 + word] ^ _values(addresses, word, row)[0]
        if differences == 0:
            break
        place = (place + _ONE) & mask
    return place


@kernel
def add_pairs(
    owners: U32,
    addresses: I64,
    is_null: U8,
    row: int,
    entries: I64,
    n_pairs: int,
    new_rows: U32,
    n_new: int,
) -> tuple[int, int, int]:
    """Add the pairs of rows, and tell which of them were not there before.

    Stops at the first row whose pair has no room, because five eighths of the slots are taken. The
    caller then moves the pairs to a larger set and goes on from that row.

    Args:
        owners: uint32[n_rows].
        addresses: int64[n_words], where the int64[n_rows] words of the values lie; one or more.
        is_null: uint8[n_rows], 1 for rows that bring no value; or uint8[0] if all do.
        row: First row to do.
        entries: int64[n_slots, 1 + n_words], the set; see the module. Eight slots or more.
        n_pairs: Pairs in it.
        new_rows: uint32[n_rows], gets the rows whose pairs are new, ascending.
        n_new: How many it has already.

    Returns:
        The row to go on from, n_rows when all are done; the number of pairs; and ``n_new``.
    """
    n_rows = owners.shape[0]
    n_pairs_max = entries.shape[0] // 8 * 5
    missed = np.empty(_BLOCK_ROWS, np.uint32)
    room = np.empty(_BLOCK_ROWS, np.uint64)
    for first in range(row, n_rows, _BLOCK_ROWS):
        places = room[: min(_BLOCK_ROWS, n_rows - first)]
        _place_block(owners, addresses, first, entries, places)
        n_missed = _miss_block(owners, addresses, is_null, first, entries, places, missed)
        for index in range(n_missed):
            at = first + int(np.int64(missed[index]))
            owner = int(np.int64(owners[at]))
            place = _find(owner, addresses, at, entries, places[missed[index]])
            if entries[place, 0] == 0:
                if n_pairs >= n_pairs_max:
                    return at, n_pairs, n_new
                entries[place, 0] = owner + 1
                for word in range(addresses.shape[0]):
                    entries[place, 1 + word] = _values(addresses, word, at)[0]
                new_rows[n_new] = at
                n_pairs += 1
                n_new += 1
    return n_rows, n_pairs, n_new


@kernel
def move_pairs(before: I64, entries: I64) -> None:
    """Enter all pairs of a set into another one.

    Args:
        before: int64[n_slots, 1 + n_words], the set.
        entries: int64[more, 1 + n_words], the other, which is empty and has room: unchecked.
    """
    mask = np.uint64(entries.shape[0] - 1)
    shift = _shift_of(entries)
    n_fields = entries.shape[1]
    for slot in range(before.shape[0]):
        if before[slot, 0] == 0:
            continue
        state = _absorb(_SEED, before[slot, 0] - 1)
        for field in range(1, n_fields):
            state = _absorb(state, before[slot, field])
        place = (state * _FINISH) >> shift
        while entries[place, 0] != 0:
            place = (place + _ONE) & mask
        for field in range(n_fields):
            entries[place, field] = before[slot, field]


@kernel
def list_pairs(entries: I64, numbers: I64, owners: U32, words: I64) -> int:
    """Write out the pairs of some owners, under other numbers.

    Args:
        entries: int64[n_slots, 1 + n_words], the set.
        numbers: int64[n_owners], the number that each owner gets, or -1 for one whose pairs are
            left out, as those of owners from n_owners on are.
        owners: uint32[n_pairs], gets the new numbers.
        words: int64[n_words, n_pairs], gets the values.

    Returns:
        How many there are.
    """
    n_listed = 0
    for slot in range(entries.shape[0]):
        owner = entries[slot, 0] - 1
        if owner < 0 or owner >= numbers.shape[0] or numbers[owner] < 0:
            continue
        owners[n_listed] = numbers[owner]
        for word in range(words.shape[0]):
            words[word, n_listed] = entries[slot, 1 + word]
        n_listed += 1
    return n_listed
