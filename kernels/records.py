"""Groups as records: all running values of a column side by side, found by the key itself.

A key is an integer, and keys lie close to each other: the record of a key has the place of its
distance from the least one. So no table is asked which group a row belongs to, and a row touches
one line of the cache for each column.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from millstream.kernels.compile import F64, I64, U8, U32, kernel, short_kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = [
    "RecordColumn",
    "RecordForm",
    "RecordWord",
    "add_rows",
    "clear_records",
    "count_distinct",
    "count_present",
    "deal_records",
    "find_range",
    "sample_keys",
]


class RecordWord(IntEnum):
    """Words of a record, as far as its form has them: rows, their sum, least and greatest value."""

    COUNT = 0
    SUM = 1
    LEAST = 2
    GREATEST = 3


class RecordForm(IntEnum):
    """What records hold of a column, or of rows themselves.

    Attributes:
        ROWS: Rows; one word.
        WORD_SUMS: Rows, and the sum of integers, which wraps around; two words.
        WORDS: The extremes of signed integers besides; four words.
        DOUBLE_SUMS: Rows, and the sum of doubles; two words.
        DOUBLES: The extremes of doubles besides; four words. NaN is above all numbers, and -0.0
            becomes 0.0.
    """

    ROWS = 0
    WORD_SUMS = 1
    WORDS = 2
    DOUBLE_SUMS = 3
    DOUBLES = 4


class RecordColumn(IntEnum):
    """What :func:`add_rows` is told of a column.

    That is addresses of its values, which are of a kind of
    :class:`~millstream.kernels.aggregation.ValueKind`, and of the records, which have a form.
    """

    VALUES = 0
    VALUE_KIND = 1
    RECORDS = 2
    FORM = 3


# Memory that is reached by address cannot be indexed with members of an enumeration.
_COUNT, _SUM, _LEAST, _GREATEST = map(int, RecordWord)
_ROWS, _WORD_SUMS, _WORDS, _DOUBLE_SUMS, _DOUBLES = map(int, RecordForm)
_VALUES, _VALUE_KIND, _RECORDS, _FORM = map(int, RecordColumn)
# Kinds of values; a test holds this against their enumeration.
_I8, _I16, _I32, _I64, _U8, _U16, _U32, _U64, _F32 = 0, 1, 2, 3, 4, 5, 6, 7, 10

_BLOCK_ROWS = 1024
_BLOCK_GROUPS = 128
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_INFINITY = np.inf
_NAN = np.nan


@kernel
def _copy(values: I64, n_rows: int, words: I64) -> None:
    for row in range(n_rows):
        words[row] = values[row]


@kernel
def _widened(kind: int, values_at: int, n_rows: int, scratch_at: int) -> int:
    """Return where values of a block are as words of 64 bits."""
    words = pointer(scratch_at, np.int64)
    if kind == _I8:
        _copy(pointer(values_at, np.int8), n_rows, words)
    elif kind == _I16:
        _copy(pointer(values_at, np.int16), n_rows, words)
    elif kind == _I32:
        _copy(pointer(values_at, np.int32), n_rows, words)
    elif kind == _U8:
        _copy(pointer(values_at, np.uint8), n_rows, words)
    elif kind == _U16:
        _copy(pointer(values_at, np.uint16), n_rows, words)
    elif kind == _U32:
        _copy(pointer(values_at, np.uint32), n_rows, words)
    else:
        return values_at
    return scratch_at


@kernel
def _as_doubles(kind: int, values_at: int, n_rows: int, scratch_at: int) -> int:
    """Return where values of a block are as doubles."""
    doubles = pointer(scratch_at, np.float64)
    if kind > _F32:
        return values_at
    if kind == _F32:
        _copy(pointer(values_at, np.float32), n_rows, doubles)
    elif kind == _U64:
        _copy(pointer(values_at, np.uint64), n_rows, doubles)
    else:
        words_at = _widened(kind, values_at, n_rows, scratch_at)
        _copy(pointer(words_at, np.int64), n_rows, doubles)
    return scratch_at


@kernel
def _add_counts(n_rows: int, keys: I64, base: int, n_keys: np.uint64, records: I64) -> int:
    for row in range(n_rows):
        key = np.uint64(keys[row] - base)
        if key >= n_keys:
            return row
        records[np.int64(key)] += 1
    return n_rows


@kernel
def _add_sums(
    n_rows: int, keys: I64, base: int, n_keys: np.uint64, values: I64, counts: I64, states: I64
) -> int:
    for row in range(n_rows):
        key = np.uint64(keys[row] - base)
        if key >= n_keys:
            return row
        at = 2 * np.int64(key)
        counts[at] += 1
        states[at + _SUM] += values[row]
    return n_rows


@kernel
def _add_words(
    n_rows: int, keys: I64, base: int, n_keys: np.uint64, values: I64, records: I64
) -> int:
    # Without branches: of a new group, extremes change often.
    for row in range(n_rows):
        key = np.uint64(keys[row] - base)
        if key >= n_keys:
            return row
        at, value = 4 * np.int64(key), values[row]
        records[at] += 1
        records[at + _SUM] += value
        records[at + _LEAST] = min(records[at + _LEAST], value)
        records[at + _GREATEST] = max(records[at + _GREATEST], value)
    return n_rows


@kernel
def _add_doubles(
    n_rows: int, keys: I64, base: int, n_keys: np.uint64, values: F64, counts: I64, states: F64
) -> int:
    for row in range(n_rows):
        key = np.uint64(keys[row] - base)
        if key >= n_keys:
            return row
        # Adding 0.0 turns -0.0 into 0.0 and changes nothing else.
        at, value = 4 * np.int64(key), values[row] + 0.0
        counts[at] += 1
        states[at + _SUM] += values[row]
        least, greatest = states[at + _LEAST], states[at + _GREATEST]
        states[at + _LEAST] = value if (value < least) | (least != least) else least
        states[at + _GREATEST] = value if (value > greatest) | (value != value) else greatest
    return n_rows


@kernel
def _add_block(
    column: I64, first: int, n_rows: int, keys_at: int, base: int, n_keys: int, scratch_at: int
) -> int:
    """Add a block to the records of one column, up to a key out of range; return how many rows."""
    form, kind, most = column[_FORM], column[_VALUE_KIND], np.uint64(n_keys)
    keys = pointer(keys_at, np.int64)
    words = pointer(column[_RECORDS], np.int64)
    if form == _ROWS:
        return _add_counts(n_rows, keys, base, most, words)
    values_at = column[_VALUES] + first * (1 << (kind & 3))
    if form == _WORD_SUMS or form == _WORDS:
        values = pointer(_widened(kind, values_at, n_rows, scratch_at), np.int64)
        if form == _WORDS:
            return _add_words(n_rows, keys, base, most, values, words)
        return _add_sums(n_rows, keys, base, most, values, words, words)
    doubles = pointer(_as_doubles(kind, values_at, n_rows, scratch_at), np.float64)
    states = pointer(column[_RECORDS], np.float64)
    if form == _DOUBLES:
        return _add_doubles(n_rows, keys, base, most, doubles, words, states)
    return _add_sums(n_rows, keys, base, most, doubles, words, states)


@kernel
def add_rows(keys: I64, columns: I64, base: int, n_keys: int, strays: I64) -> tuple[int, int, int]:
    """Add rows to the records of their keys; strays, whose keys are out of range, are told of.

    Args:
        keys: int64[n_parts, 2], per part the address of its keys, 64-bit words, and their number.
        columns: int64[n_parts, n_columns, 4], per part and column what :class:`RecordColumn` says;
            at least one column. ``RECORDS`` is the address of ``n_keys`` records. The caller keeps
            everything alive. Addresses, and whether kinds suit forms, go unchecked.
        base: Least key of the range.
        n_keys: Keys in the range, below 2**62.
        strays: int64[n_strays_most, 2], out: part and row of each stray.

    Returns:
        The part and the row to go on from, the number of parts and 0 when all are done: it ends
        where there is no room for one more stray. And the number of strays.
    """
    scratch = np.empty(_BLOCK_ROWS, np.int64)
    scratch_at = int(np.int64(scratch.ctypes.data))
    n_strays = 0
    for part in range(keys.shape[0]):
        row, n_rows = 0, keys[part, 1]
        while row < n_rows:
            keys_at = keys[part, 0] + 8 * row
            n_block = min(_BLOCK_ROWS, n_rows - row)
            # Rows before a stray are added to all columns, so that it is found once.
            for column in range(columns.shape[1]):
                n_block = _add_block(
                    columns[part, column], row, n_block, keys_at, base, n_keys, scratch_at
                )
            row += n_block
            if row < n_rows and np.uint64(
                pointer(keys[part, 0], np.int64)[row] - base
            ) >= np.uint64(n_keys):
                if n_strays == strays.shape[0]:
                    return part, row, n_strays
                strays[n_strays, 0], strays[n_strays, 1] = part, row
                n_strays += 1
                row += 1
    # Named once more, because memory is freed after the last mention of its array.
    scratch[0] = 0
    return keys.shape[0], 0, n_strays


@kernel
def find_range(keys: I64) -> tuple[int, int]:
    """Return the least and the greatest key.

    Args:
        keys: int64[n_parts, 2], as for :func:`add_rows`.
    """
    least, greatest = _INT64_MAX, _INT64_MIN
    for part in range(keys.shape[0]):
        words = pointer(keys[part, 0], np.int64)
        for row in range(keys[part, 1]):
            least = min(least, words[row])
            greatest = max(greatest, words[row])
    return least, greatest


@kernel
def sample_keys(keys: I64, sample: I64) -> int:
    """Take keys at even distances.

    Args:
        keys: int64[n_parts, 2], as for :func:`add_rows`.
        sample: int64[n_most], out.

    Returns:
        How many have been taken.
    """
    n_rows = 0
    for part in range(keys.shape[0]):
        n_rows += keys[part, 1]
    step = n_rows // sample.shape[0] + 1
    n_taken = skipped = 0
    for part in range(keys.shape[0]):
        words = pointer(keys[part, 0], np.int64)
        for row in range(skipped, keys[part, 1], step):
            sample[n_taken] = words[row]
            n_taken += 1
        skipped = (skipped - keys[part, 1]) % step
    return n_taken


@kernel
def count_distinct(keys: I64, base: int, is_there: U8) -> int:
    """Count different keys.

    Args:
        keys: int64[n_parts, 2], as for :func:`add_rows`.
        base: Least key that there may be.
        is_there: uint8[n_keys], zeros, for the keys from ``base`` on, which all keys are of:
            unchecked. Out: 1 for those that there are.
    """
    n_distinct = 0
    for part in range(keys.shape[0]):
        words = pointer(keys[part, 0], np.int64)
        for row in range(keys[part, 1]):
            key = words[row] - base
            n_distinct += is_there[key] == 0
            is_there[key] = 1
    return n_distinct


@kernel
def _clear(form: int, words: I64, doubles: F64, index: int) -> None:
    if form == _ROWS:
        words[index] = 0
    elif form == _WORD_SUMS or form == _DOUBLE_SUMS:
        words[2 * index] = words[2 * index + _SUM] = 0
    else:
        words[4 * index] = words[4 * index + _SUM] = 0
        if form == _WORDS:
            words[4 * index + _LEAST] = _INT64_MAX
            words[4 * index + _GREATEST] = _INT64_MIN
        else:
            doubles[4 * index + _LEAST] = _NAN
            doubles[4 * index + _GREATEST] = -_INFINITY


@kernel
def _clear_chosen(at: int, form: int, chosen: U32, first: int, stop: int) -> None:
    words, doubles = pointer(at, np.int64), pointer(at, np.float64)
    for group in range(first, stop):
        _clear(form, words, doubles, int(np.int64(chosen[group])))


@kernel
def clear_records(form: int, records: I64, first: int, stop: int) -> None:
    """Let records hold that they have taken nothing.

    Args:
        form: A :class:`RecordForm`.
        records: int64[n_keys * n_words].
        first: The first record.
        stop: The record behind the last one.
    """
    at = np.int64(records.ctypes.data)
    words, doubles = pointer(at, np.int64), pointer(at, np.float64)
    for index in range(first, stop):
        _clear(form, words, doubles, index)


@kernel
def _choose(
    counts: I64, stride: int, order: U32, offsets: I64, absent_share: int, chosen: U32
) -> int:
    """List records by partition: those with rows, or all if few have none; return with how many."""
    n_present = n_used = 0
    for index in range(order.shape[0]):
        if counts[index * stride] != 0:
            n_present += 1
            n_used = index + 1
    takes_all = absent_share > 0 and (n_used - n_present) * absent_share <= n_used
    n_chosen = start = 0
    for partition in range(offsets.shape[0] - 1):
        stop = offsets[partition + 1]
        offsets[partition] = n_chosen
        for place in range(start, stop):
            index = order[place]
            if index < n_used and (takes_all or counts[index * stride] != 0):
                chosen[n_chosen] = index
                n_chosen += 1
        start = stop
    offsets[-1] = n_chosen
    return n_present


@kernel
def _deal(
    records: I64,
    states: I64,
    base: int,
    order: U32,
    offsets: I64,
    absent_share: int,
    clears: bool,
    chosen: U32,
    dealt_at: int,
) -> int:
    """Deal one pane; offsets are those of all records first, and those of its groups then."""
    counts, stride = pointer(records[0, 0], np.int64), records[0, 2]
    n_present = _choose(counts, stride, order, offsets, absent_share, chosen)
    n_chosen, n_keys = offsets[-1], order.shape[0]
    keys = pointer(dealt_at, np.int64)
    for first in range(0, n_chosen, _BLOCK_GROUPS):
        # Records of a block stay in the nearest cache while one state after the other is taken.
        stop = min(first + _BLOCK_GROUPS, n_chosen)
        for group in range(first, stop):
            keys[group] = base + np.int64(chosen[group])
        for state in range(states.shape[0]):
            column = states[state, 0]
            words = pointer(records[column, 0] + 8 * states[state, 1], np.int64)
            stride = records[column, 2]
            dealt = pointer(dealt_at + 8 * n_keys * (1 + state), np.int64)
            for group in range(first, stop):
                dealt[group] = words[stride * np.int64(chosen[group])]
        for column in range(records.shape[0] if clears else 0):
            _clear_chosen(records[column, 0], records[column, 1], chosen, first, stop)
    return n_present


@kernel
def deal_records(
    records: I64,
    states: I64,
    base: int,
    order: U32,
    starts: I64,
    absent_share: int,
    clears: U8,
    chosen: U32,
    dealt: I64,
    offsets: I64,
    n_present: I64,
) -> None:
    """Copy the groups of panes, those of each partition side by side.

    Args:
        records: int64[n_panes, n_columns, 3], per pane and column of records their address, form,
            and words each. The caller keeps them alive. Unchecked.
        states: int64[n_states, 2], per row of ``dealt`` behind the first the column of records and
            the word that it takes.
        base: The key of the first record.
        order: uint32[n_keys], the records in the order of the partitions that own their keys.
        starts: int64[n_partitions + 1], where each partition begins in ``order``, and the end.
        absent_share: Where at most one in so many records has no rows, up to the last one that has,
            those without are groups too. 0 for never.
        clears: uint8[n_panes], whether the records of a pane hold nothing afterwards, or are not
            needed any more.
        chosen: uint32[n_keys], scratch.
        dealt: int64[n_panes], addresses of int64[1 + n_states, n_keys], out: keys and states of
            the groups. Unchecked.
        offsets: int64[n_panes, n_partitions + 1], out: where the groups of each partition begin.
        n_present: int64[n_panes], out: how many groups have rows.
    """
    for pane in range(records.shape[0]):
        # To assign the row at once would take two seconds more to compile.
        for place in range(starts.shape[0]):
            offsets[pane, place] = starts[place]
        n_present[pane] = _deal(
            records[pane],
            states,
            base,
            order,
            offsets[pane],
            absent_share,
            clears[pane] != 0,
            chosen,
            dealt[pane],
        )


@short_kernel
def count_present(counts: I64) -> int:
    """Return how many of some words are not 0.

    Args:
        counts: int64[n], at any distance from each other.
    """
    n_present = 0
    for index in range(counts.shape[0]):
        n_present += counts[index] != 0
    return n_present
