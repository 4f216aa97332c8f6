"""Frames of preceding rows: which rows of its key a row sees.

Kernels of bounded frames want their rows sorted by key, as
:func:`millstream.kernels.ordering.group_rows` leaves them: ``groups`` has the keys that occur,
``offsets`` where each one's rows begin in ``order``, and ``order`` the indices of the rows. A
position is a place in ``order``. Kernels of frames without bounds take the rows as they come.

Within its key each row has a number, counted from the key's first row ever; ``counts`` has the
number of the next row to come. A frame reaches from a row's ``start``, which is such a number, to
the row itself, and starts never go back.

Times of earlier rows lie in rings, see :mod:`millstream.kernels.rings`.
"""

from __future__ import annotations

from typing import TypeVar

from millstream.kernels.compile import F64, I64, U32, kernel

__all__ = [
    "close_row_frames",
    "close_time_frames",
    "expire_rows",
    "measure_frames",
    "number_rows",
    "open_time_frames",
    "rank_rows",
    "size_row_frames",
    "spread_to_peers",
]

Values = TypeVar("Values", I64, F64)

_INT64_MIN = -(2**63)


@kernel
def number_rows(group_ids: U32, counts: I64, numbers: I64) -> None:
    """Number the rows of each key from 1 on.

    Args:
        group_ids: uint32[n_rows], in any order of the keys.
        counts: int64[n_groups], rows of each key so far; raised.
        numbers: int64[n_rows], out.
    """
    for row in range(group_ids.shape[0]):
        count = counts[group_ids[row]] + 1
        counts[group_ids[row]] = count
        numbers[row] = count


@kernel
def size_row_frames(groups: U32, offsets: I64, preceding: int, counts: I64, needs: I64) -> bool:
    """Find how many rows the frames of a number of preceding rows and the current one have.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        preceding: Rows before the current one, from 0 to 2**62: unchecked.
        counts: int64[n_groups].
        needs: int64[n_keys], out, rows in the longest frame.

    Returns:
        Whether all frames have as many rows as that.
    """
    count_least = preceding
    for place in range(groups.shape[0]):
        count = counts[groups[place]]
        count_least = min(count_least, count)
        needs[place] = min(count + offsets[place + 1] - offsets[place], preceding + 1)
    return count_least == preceding


@kernel
def measure_frames(
    groups: U32,
    offsets: I64,
    order: U32,
    preceding: int,
    starts: I64,
    counts: I64,
    lengths: I64,
) -> None:
    """Count the rows of each frame.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        order: uint32[n_rows].
        preceding: Rows before the current one, from 0 to 2**62, or -1 if ``starts`` tells.
        starts: int64[n_rows], the start of each frame, by position; or none.
        counts: int64[n_groups].
        lengths: int64[n_rows], out, by row.
    """
    for place in range(groups.shape[0]):
        count = counts[groups[place]]
        if preceding < 0:
            for position in range(offsets[place], offsets[place + 1]):
                count += 1
                lengths[order[position]] = count - starts[position]
        else:
            for position in range(offsets[place], offsets[place + 1]):
                count += 1
                lengths[order[position]] = min(count, preceding + 1)


@kernel
def open_time_frames(
    groups: U32,
    offsets: I64,
    times: I64,
    reach: int,
    heads: I64,
    counts: I64,
    places: I64,
    capacities: I64,
    ring_times: I64,
    starts: I64,
    needs: I64,
) -> None:
    """Find frames of the rows that are at most ``reach`` older than the current one.

    Later rows of the same time are not in yet; :func:`spread_to_peers` puts that right.

    Args:
        groups: uint32[n_keys], see the module.
        offsets: int64[n_keys + 1].
        times: int64[n_rows] by position, ascending within a key and not before the rows so far:
            unchecked.
        reach: Units of time, 0 or more: unchecked.
        heads: int64[n_groups], the oldest row whose time is known.
        counts: int64[n_groups].
        places: int64[n_groups].
        capacities: int64[n_groups].
        ring_times: int64[n_slots], times of the rows so far.
        starts: int64[n_rows], out, the start of each frame, by position.
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
            limit = max(times[position], _INT64_MIN + reach) - reach
            while head < n_old and ring_times[slot + (head & mask)] < limit:
                head += 1
            if head >= n_old:
                while times[first + head - n_old] < limit:
                    head += 1
            count += 1
            starts[position] = head
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
        times: int64[n_rows] by position.
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
            ring_times[slot + (number & mask)] = times[first + number - n_old]
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
    group_ids: U32,
    times: I64,
    is_dense: bool,
    counts: I64,
    last_times: I64,
    last_ranks: I64,
    ranks: I64,
) -> None:
    """Rank the rows of each key by time, with gaps behind rows of one time or without.

    Args:
        group_ids: uint32[n_rows], in any order of the keys.
        times: int64[n_rows], ascending within a key, also from step to step: unchecked.
        is_dense: Whether ranks have no gaps.
        counts: int64[n_groups], rows of each key so far; raised.
        last_times: int64[n_groups], the time of the latest row.
        last_ranks: int64[n_groups], its rank, 0 for new keys.
        ranks: int64[n_rows], out.
    """
    for row in range(group_ids.shape[0]):
        group = group_ids[row]
        count, rank = counts[group] + 1, last_ranks[group]
        counts[group] = count
        if rank == 0 or times[row] != last_times[group]:
            rank = rank + 1 if is_dense else count
            last_times[group] = times[row]
            last_ranks[group] = rank
        ranks[row] = rank


@kernel
def spread_to_peers(offsets: I64, order: U32, times: I64, values: Values) -> None:
    """Give all rows of one key and time what the last of them has.

    Args:
        offsets: int64[n_keys + 1], see the module.
        order: uint32[n_rows].
        times: int64[n_rows] by position, ascending within a key: unchecked.
        values: [n_rows], by row; changed in place.
    """
    for place in range(offsets.shape[0] - 1):
        for position in range(offsets[place + 1] - 2, offsets[place] - 1, -1):
            if times[position] == times[position + 1]:
                values[order[position]] = values[order[position + 1]]
