"""News of groups: rows of what they hold, as far as these differ from the rows sent last."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from millstream.kernels.compile import I64, U8, U16, U32, kernel, short_kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = ["NewsField", "write_news", "write_news_shortly"]

# Rows that stay in the nearest cache while they are made and compared.
_BLOCK_ROWS = 256


class NewsField(IntEnum):
    """What a column of news is made of: one row of int64 per column."""

    VALUES = 0
    """Address of a word for each group: the value; with a divisor, a double."""
    DIVISOR = 1
    """Address of an integer for each group by which the value is divided, or 0."""
    FACTOR = 2
    """What the value is multiplied by, if there is no divisor."""
    TERM = 3
    """What is added to it then."""
    WORD = 4
    """Which word of a row that was sent has the value, or -1 if none has."""
    MASK = 5
    """The bits of the value that are kept there: all, or those of a narrower type."""
    MAGNITUDE = 6
    """Bits of a double without its sign, or 0 if the value is none."""
    INFINITY = 7
    """These bits of an infinity: those of NaNs are greater."""


@kernel
def _make(columns: I64, group_ids: U32, news: I64, at: int) -> None:
    """Write the rows of some groups into the columns of news, from a place on."""
    doubles = news.view(np.float64)
    n_rows = group_ids.shape[0]
    for column in range(columns.shape[0]):
        values = pointer(columns[column, NewsField.VALUES], np.int64)
        divisor = columns[column, NewsField.DIVISOR]
        factor, term = columns[column, NewsField.FACTOR], columns[column, NewsField.TERM]
        if divisor != 0:
            totals = pointer(columns[column, NewsField.VALUES], np.float64)
            counts = pointer(divisor, np.int64)
            for row in range(n_rows):
                group = np.int64(group_ids[row])
                doubles[column, at + row] = totals[group] / counts[group]
        elif factor == 1 and term == 0:
            for row in range(n_rows):
                news[column, at + row] = values[np.int64(group_ids[row])]
        else:
            for row in range(n_rows):
                news[column, at + row] = values[np.int64(group_ids[row])] * factor + term


@kernel
def _differs(columns: I64, news: I64, place: int, sent: I64, group: np.int64) -> bool:
    for column in range(columns.shape[0]):
        word = columns[column, NewsField.WORD]
        if word < 0:
            continue
        after, before = news[column, place] & columns[column, NewsField.MASK], sent[group, word]
        if after == before:
            continue
        magnitude = columns[column, NewsField.MAGNITUDE]
        if magnitude != 0:
            greater = min(after & magnitude, before & magnitude)
            is_zero = (after | before) & magnitude == 0
            if is_zero or greater > columns[column, NewsField.INFINITY]:
                continue
        return True
    return False


@kernel
def _write(
    columns: I64, group_ids: U32, sent: I64, is_sent: U8, codes: U16, news: I64, ops: U16, at: int
) -> tuple[int, int]:
    n_news, n_new = at, 0
    for first in range(0, group_ids.shape[0], _BLOCK_ROWS):
        ids = group_ids[first : first + _BLOCK_ROWS]
        start = n_news
        _make(columns, ids, news, start)
        for row in range(ids.shape[0]):
            group, place = np.int64(ids[row]), start + row
            is_new = is_sent[group] == 0
            if not is_new and not _differs(columns, news, place, sent, group):
                continue
            if is_new:
                is_sent[group] = 1
                n_new += 1
                # Also the words that tell what is NULL: nothing is.
                sent[group, :] = 0
            ops[n_news] = codes[0] if is_new else codes[1]
            for column in range(columns.shape[0]):
                value, word = news[column, place], columns[column, NewsField.WORD]
                news[column, n_news] = value
                if word >= 0:
                    sent[group, word] = value & columns[column, NewsField.MASK]
            n_news += 1
    return n_news, n_new


@kernel
def write_news(
    columns: I64, group_ids: U32, sent: I64, is_sent: U8, codes: U16, news: I64, ops: U16, at: int
) -> tuple[int, int]:
    """Write the rows of groups that differ from those sent last, and put them in their place.

    NaN equals NaN, and the two zeros are equal. A row that is equal to the one sent last leaves it
    as it is.

    Args:
        columns: int64[n_columns, len(NewsField)], what each column is made of. The caller keeps
            what has addresses alive. Unchecked.
        group_ids: uint32[n_rows], groups without a NULL, each once: unchecked.
        sent: int64[capacity, n_words], in and out, the rows sent last.
        is_sent: uint8[capacity], in and out, 1 for groups that have such a row, and else 0.
        codes: uint16[2], what a row that is new, and one that is updated, has for an operation.
        news: int64[n_columns, n_most], out, the words of the rows: there is room for all groups.
        ops: uint16[n_most], out, their operations.
        at: Where the first row goes.

    Returns:
        Where the next row would go, and how many rows are new.
    """
    return _write(columns, group_ids, sent, is_sent, codes, news, ops, at)


@short_kernel
def write_news_shortly(
    columns: I64, group_ids: U32, sent: I64, is_sent: U8, codes: U16, news: I64, ops: U16, at: int
) -> tuple[int, int]:
    """Do what :func:`write_news` does, for few groups."""
    return _write(columns, group_ids, sent, is_sent, codes, news, ops, at)
