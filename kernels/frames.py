"""Frames of preceding rows: which rows of its key a row sees.

Rows come sorted by key, as :func:`millstream.kernels.ordering.group_rows` leaves them: ``groups``
has the keys that occur, ``offsets`` where each one's rows begin in ``order``, and ``order`` the
indices of the rows. Within its key each row has a number, counted from the key's first row ever;
``counts`` has the number of the next row to come. A frame reaches from a row's ``start``, which is
such a number, to the row itself, and starts never go back.

Times of earlier rows lie in rings, see :mod:`millstream.kernels.rings`.
"""

from __future__ import annotations

from typing import TypeVar

from millstream.kernels.compile import F64, I64, U32, kernel

__all__ = [
    "close_row_frames",
    "close_time_frames",
    "expire_rows",
    "number_rows",
    "open_row_frames",
    "open_time_frames",
    "rank_rows",
    "spread_to_peers",
]

Values = TypeVar("Values", I64, F64)

_INT64_MIN = -(2**63)


@kernel
def number_rows(groups: U32, offsets: I64, order: U32, counts: I64, numbers: I64) -> None:
    """Number the rows of each key from 1 on.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        counts: int64[n_groups], rows of each key so far.
        numbers: int64[n_rows], out, by row.
    """
    for place in range(groups.shape[0]):
        count = counts[groups[place]]
        for position in range(offsets[place], offsets[place + 1]):
            count += 1
            numbers[order[position]] = count


@kernel
def open_row_frames(
    groups: U32,
    offsets: I64,
    order: U32,
    preceding: int,
    counts: I64,
    starts: I64,
    lengths: I64,
    needs: I64,
) -> None:
    """Find frames of a number of preceding rows and the current one.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        preceding: Rows before the current one, from 0 to 2**62: unchecked.
        counts: int64[n_groups].
        starts: int64[n_rows], out, the start of each frame, by position in ``order``.
        lengths: int64[n_rows], out, rows in each frame, by row.
        needs: int64[n_keys], out, rows in the longest frame.
    """
    for place in range(groups.shape[0]):
        count = counts[groups[place]]
        for position in range(offsets[place], offsets[place + 1]):
            start = max(count - preceding, 0)
            count += 1
            starts[position] = start
            lengths[order[position]] = count - start
        needs[place] = min(count, preceding + 1)


@kernel
def open_time_frames(
    groups: U32,
    offsets: I64,
    order: U32,
    times: I64,
    reach: int,
    heads: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring_times: I64,
    starts: I64,
    lengths: I64,
    needs: I64,
) -> None:
    """Find frames of the rows that are at most ``reach`` older than the current one.

    Later rows of the same time are not in yet; :func:`spread_to_peers` puts that right.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        times: int64[n_rows], ascending within a key and not before the rows so far: unchecked.
        reach: Units of time, 0 or more: unchecked.
        heads: int64[n_groups], the oldest row whose time is known.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups].
        ring_times: int64[n_slots], times of the rows so far.
        starts: int64[n_rows], out, the start of each frame, by position in ``order``.
        lengths: int64[n_rows], out, rows in each frame, by row.
        needs: int64[n_keys], out, rows in the longest frame.
    """
    for place in range(groups.shape[0]):
        group = groups[place]
        head, n_old, slot = heads[group], counts[group], places[group]
        mask = capacities[group] - 1
        first = offsets[place]
        count = n_old
        longest = 0
        for position in range(first, offsets[place + 1]):
            row = order[position]
            limit = max(times[row], _INT64_MIN + reach) - reach
            while head < n_old and ring_times[slot + (head & mask)] < limit:
                head += 1
            if head >= n_old:
                while times[order[first + head - n_old]] < limit:
                    head += 1
            count += 1
            starts[position] = head
            lengths[row] = count - head
            longest = max(longest, count - head)
        needs[place] = longest


@kernel
def close_row_frames(groups: U32, offsets: I64, preceding: int, heads: I64, counts: I64) -> int:
    """Count the rows of a step in, and drop those that no later frame reaches.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        preceding: Rows before the current one.
        heads: int64[n_groups], the oldest row that is kept; raised.
        counts: int64[n_groups]; raised.

    Returns:
        By how much the number of rows kept has grown; negative if it has shrunk.
    """
    n_more = 0
    for place in range(groups.shape[0]):
        group = groups[place]
        before = counts[group] - heads[group]
        counts[group] += offsets[place + 1] - offsets[place]
        heads[group] = max(heads[group], counts[group] - preceding)
        n_more += counts[group] - heads[group] - before
    return n_more


@kernel
def close_time_frames(
    groups: U32,
    offsets: I64,
    order: U32,
    times: I64,
    starts: I64,
    heads: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring_times: I64,
) -> int:
    """Count the rows of a step in with their times, and drop those that no later frame reaches.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        times: int64[n_rows].
        starts: int64[n_rows] of :func:`open_time_frames`.
        heads: int64[n_groups], the oldest row that is kept; raised.
        counts: int64[n_groups]; raised.
        places: int64[n_groups].
        capacities: int64[n_groups], enough for the rows that are kept: unchecked.
        ring_times: int64[n_slots], written to.

    Returns:
        By how much the number of rows kept has grown; negative if it has shrunk.
    """
    n_more = 0
    for place in range(groups.shape[0]):
        group = groups[place]
        first, stop = offsets[place], offsets[place + 1]
        n_old = counts[group]
        n_more -= n_old - heads[group]
        head = starts[stop - 1]
        count = n_old + stop - first
        slot, mask = places[group], capacities[group] - 1
        for number in range(max(head, n_old), count):
            ring_times[slot + (number & mask)] = times[order[first + number - n_old]]
        heads[group] = head
        counts[group] = count
        n_more += count - head
    return n_more


@kernel
def expire_rows(
    limit: int, heads: I64, counts: I64, places: I64, capacities: I64, ring_times: I64
) -> int:
    """Drop rows before a time, of all keys. A key without rows gives its slots back.

    Args:
        limit: Rows with an earlier time are dropped.
        heads: int64[n_groups], the oldest row that is kept; raised.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups]; 0 for a key that has lost its last row.
        ring_times: int64[n_slots].

    Returns:
        The number of rows dropped.
    """
    n_dropped = 0
    for group in range(counts.shape[0]):
        if heads[group] == counts[group]:
            continue
        slot, mask = places[group], capacities[group] - 1
        head = heads[group]
        while head < counts[group] and ring_times[slot + (head & mask)] < limit:
            head += 1
        n_dropped += head - heads[group]
        heads[group] = head
        if head == counts[group]:
            capacities[group] = 0
    return n_dropped


@kernel
def rank_rows(
    groups: U32,
    offsets: I64,
    order: U32,
    times: I64,
    counts: I64,
    distinct_counts: I64,
    ranks: I64,
    dense_ranks: I64,
) -> None:
    """Rank the rows of each key by time, with gaps behind rows of one time and without.

    Rows of one time must come in one step: unchecked.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        times: int64[n_rows], ascending within a key: unchecked.
        counts: int64[n_groups], rows of each key so far; raised.
        distinct_counts: int64[n_groups], different times of each key so far; raised.
        ranks: int64[n_rows], out, by row.
        dense_ranks: int64[n_rows], out, by row.
    """
    for place in range(groups.shape[0]):
        group = groups[place]
        first, stop = offsets[place], offsets[place + 1]
        count, n_distinct = counts[group], distinct_counts[group]
        rank = count
        for position in range(first, stop):
            row = order[position]
            count += 1
            if position == first or times[row] != times[order[position - 1]]:
                rank = count
                n_distinct += 1
            ranks[row] = rank
            dense_ranks[row] = n_distinct
        counts[group] = count
        distinct_counts[group] = n_distinct


@kernel
def spread_to_peers(offsets: I64, order: U32, times: I64, values: Values) -> None:
    """Give all rows of one key and time what the last of them has.

    Args:
        offsets: int64[n_keys + 1], see the module.
        order: uint32[n_rows].
        times: int64[n_rows], ascending within a key: unchecked.
        values: [n_rows], by row; changed in place.
    """
    for place in range(offsets.shape[0] - 1):
        for position in range(offsets[place + 1] - 2, offsets[place] - 1, -1):
            row, next_row = order[position], order[position + 1]
            if times[row] == times[next_row]:
                values[row] = values[next_row]
