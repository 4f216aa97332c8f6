"""Versions of rows: which of a batch differ from those that were sent before, group by group."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from millstream.kernels.compile import I64, U8, U32, address_array, kernel

__all__ = [
    "BEFORE",
    "Change",
    "ColumnField",
    "WordField",
    "pair_versions",
    "replace_versions",
]


class Change(IntEnum):
    """What a row is to its group."""

    NONE = 0
    """Equal to the row sent last."""
    NEW = 1
    """The first row, or the first one since the group was gone."""
    UPDATED = 2
    """Another row than the one sent last."""
    MOVED = 3
    """Another row under another key than the one sent last."""


BEFORE = 4
"""Added to a change: the row in whose place another comes, or that is gone."""


class ColumnField(IntEnum):
    """Where the values of a column are: one row of int64 per column."""

    VALUES = 0
    """Address of the buffer."""
    VALIDITY = 1
    """Address of the bitmap, or 0 if no row is NULL."""
    OFFSET = 2
    """Place of the first row in both."""
    WIDTH = 3
    """Bits of a value: 1, 8, 16, 32, 64 or 128."""
    WORD = 4
    """First of the words in which a row keeps the value; there are two of 128 bits."""


class WordField(IntEnum):
    """What a word of a row is: one row of int64 per word."""

    MAGNITUDE = 0
    """Bits of a float without its sign, or 0 if the word is no float."""
    INFINITY = 1
    """These bits of an infinity: those of NaNs are greater."""
    IS_KEY = 2
    """Whether a row with another value has another key."""


@kernel
def _load(columns: I64, n_rows: int, rows: I64, null_word: int) -> None:
    """Write the values of all columns as words, side by side for each row; NULLs as 0."""
    rows[:, null_word:] = 0
    for column in range(columns.shape[0]):
        address = columns[column, ColumnField.VALUES]
        offset = columns[column, ColumnField.OFFSET]
        width = columns[column, ColumnField.WIDTH]
        word = columns[column, ColumnField.WORD]
        if width == 64:
            longs = address_array(address + 8 * offset, n_rows, np.int64)
            for row in range(n_rows):
                rows[row, word] = longs[row]
        elif width == 128:
            longs = address_array(address + 16 * offset, 2 * n_rows, np.int64)
            for row in range(n_rows):
                rows[row, word] = longs[2 * row]
                rows[row, word + 1] = longs[2 * row + 1]
        elif width == 32:
            ints = address_array(address + 4 * offset, n_rows, np.uint32)
            for row in range(n_rows):
                rows[row, word] = ints[row]
        elif width == 16:
            shorts = address_array(address + 2 * offset, n_rows, np.uint16)
            for row in range(n_rows):
                rows[row, word] = shorts[row]
        elif width == 8:
            chars = address_array(address + offset, n_rows, np.uint8)
            for row in range(n_rows):
                rows[row, word] = chars[row]
        else:
            bits = address_array(address, (offset + n_rows + 7) >> 3, np.uint8)
            for row in range(n_rows):
                rows[row, word] = (bits[(offset + row) >> 3] >> ((offset + row) & 7)) & 1
        validity = columns[column, ColumnField.VALIDITY]
        if validity != 0:
            valid = address_array(validity, (offset + n_rows + 7) >> 3, np.uint8)
            for row in range(n_rows):
                if (valid[(offset + row) >> 3] >> ((offset + row) & 7)) & 1 == 0:
                    rows[row, word] = 0
                    if width == 128:
                        rows[row, word + 1] = 0
                    rows[row, null_word + (column >> 6)] |= np.int64(1) << np.int64(column & 63)


@kernel
def replace_versions(
    columns: I64,
    words: I64,
    null_word: int,
    group_ids: U32,
    sent: I64,
    is_sent: U8,
    rows: I64,
    changes: U8,
) -> tuple[int, int, int]:
    """Compare rows with those that were sent last for their groups, and put them in their place.

    NULL equals NULL, NaN equals NaN, and the two zeros are equal. A row that is equal to the one
    sent last leaves it as it is.

    Args:
        columns: int64[n_columns, len(ColumnField)], where the values of the rows are. Unchecked.
        words: int64[n_words, len(WordField)], what the words of a row are: first those of the
            columns, then those with a bit per column that is 1 for a NULL.
        null_word: First of the words for NULLs.
        group_ids: uint32[n_rows]; a later row of a group is compared with the one before it.
        sent: int64[capacity, n_words], in and out, the rows sent last.
        is_sent: uint8[capacity], in and out, 1 for groups that have such a row, and else 0.
        rows: int64[n_rows, n_words], out: for rows that are not new, the words sent before.
        changes: uint8[n_rows], in and out, of :class:`Change`: what is known of other columns.

    Returns:
        The number of rows that are new, updated and moved.
    """
    n_rows, n_words = rows.shape
    _load(columns, n_rows, rows, null_word)
    n_new, n_updated, n_moved = 0, 0, 0
    for row in range(n_rows):
        group = group_ids[row]
        if is_sent[group] == 0:
            is_sent[group] = 1
            changes[row] = Change.NEW
            n_new += 1
            for word in range(n_words):
                sent[group, word] = rows[row, word]
            continue
        change = np.int64(changes[row])
        for word in range(n_words):
            after, before = rows[row, word], sent[group, word]
            if after == before:
                continue
            magnitude = words[word, WordField.MAGNITUDE]
            if magnitude != 0:
                greater = min(after & magnitude, before & magnitude)
                is_zero = (after | before) & magnitude == 0
                if is_zero or greater > words[word, WordField.INFINITY]:
                    continue
            if words[word, WordField.IS_KEY] != 0:
                change = np.int64(Change.MOVED)
                break
            change = np.int64(Change.UPDATED)
        if change == Change.NONE:
            continue
        changes[row] = change
        if change == Change.MOVED:
            n_moved += 1
        else:
            n_updated += 1
        for word in range(n_words):
            rows[row, word], sent[group, word] = sent[group, word], rows[row, word]
    return n_new, n_updated, n_moved


@kernel
def pair_versions(
    changes: U8,
    group_ids: U32,
    replaced: I64,
    sent: I64,
    shows_updated: bool,
    pairs: I64,
    kinds: U8,
    places: I64,
) -> int:
    """List rows that are news, each behind the one in whose place it comes.

    Args:
        changes: uint8[n_rows] of :class:`Change`.
        group_ids: uint32[n_rows].
        replaced: int64[n_rows, n_words], what was sent before of rows that are not new.
        sent: int64[capacity, n_words], the rows sent last: these.
        shows_updated: Whether rows are listed in whose place others with the same key come.
        pairs: int64[n, n_words], out, the words of the rows listed. There is room for them.
        kinds: uint8[n], out, the change of each; of rows that others replace, that and ``BEFORE``.
        places: int64[n], out, the row among ``changes`` that each belongs to.

    Returns:
        The number of rows listed.
    """
    n_listed, n_words = 0, sent.shape[1]
    for row in range(changes.shape[0]):
        change = np.int64(changes[row])
        if change == Change.NONE:
            continue
        if change == Change.MOVED or (change == Change.UPDATED and shows_updated):
            kinds[n_listed] = change + BEFORE
            places[n_listed] = row
            for word in range(n_words):
                pairs[n_listed, word] = replaced[row, word]
            n_listed += 1
        kinds[n_listed] = change
        places[n_listed] = row
        for word in range(n_words):
            pairs[n_listed, word] = sent[group_ids[row], word]
        n_listed += 1
    return n_listed
