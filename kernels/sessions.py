"""Sessions: rows of a key that follow each other within a gap of event time.

Sessions are numbered in the order in which their first rows came. A key has a list of its open
sessions, ordered by their last rows: in a stream whose rows are nearly in order, the row at hand
belongs to the end of the list, and anywhere else a binary search finds its place. Lists lie in one
array, each with room to grow; one that outgrows its room moves to the end of the array and leaves a
hole, until :func:`pack_lists` closes the holes.

A row that lies within the gap of several sessions merges them into the one with the least number.
The others keep their numbers, and ``heirs`` tells which session they became a part of.

Event times and watermarks are int64 in a unit of their own. A session is closed for a row if its
last row plus the gap plus the allowed lateness lies before the row's watermark; then no row in time
can still belong to it. A row is late if it belongs to no open session and would be closed itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from millstream.kernels.compile import I64, U32, kernel

__all__ = [
    "CLOSED",
    "LATE",
    "LIST_FIELDS",
    "N_ABSORBED",
    "N_COUNTS",
    "N_MEMBERS",
    "N_OPEN",
    "N_SESSIONS",
    "SessionArrays",
    "assign_sessions",
    "close_sessions",
    "pack_lists",
    "resolve_sessions",
]

Index: TypeAlias = int | np.signedinteger[Any] | np.unsignedinteger[Any]

LATE = 2**32 - 1
"""Stands for the session of a row that has none."""

CLOSED = 2**32 - 1
"""Stands for the heir of a session that is closed."""

N_SESSIONS, N_OPEN, N_MEMBERS, N_ABSORBED, N_COUNTS = 0, 1, 2, 3, 4
"""Places in the counts of :func:`assign_sessions`, and how many there are."""

LIST_FIELDS = 3
"""Columns of ``SessionArrays.lists``."""

_START, _LENGTH, _CAPACITY = 0, 1, 2
_FIRST, _LAST = 0, 1
_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1


class SessionArrays(NamedTuple):
    """What is known of sessions and of the keys that have them.

    Attributes:
        spans: int64[capacity, 2], by session: event times of its first and of its last row.
        owners: uint32[capacity], by session: the key.
        heirs: uint32[capacity], by session: itself while it is open, the session that absorbed it,
            or CLOSED.
        lists: int64[n_keys, 3], by key: where its list of open sessions starts in ``members``, how
            many there are, and for how many there is room. Zeros for a new key.
        members: uint32[members_capacity], the lists.
    """

    spans: I64
    owners: U32
    heirs: U32
    lists: I64
    members: U32


@kernel
def _minus(time: int, span: int) -> int:
    return max(time, _INT64_MIN + span) - span


@kernel
def _first_reaching(arrays: SessionArrays, start: Index, stop: Index, reach: Index) -> Index:
    """Find the first place in a part of a list whose session lasts until ``reach`` or longer."""
    # Mostly there is none: the row opens a session behind all others.
    if start == stop or arrays.spans[arrays.members[stop - 1], _LAST] < reach:
        return stop
    while start < stop:
        middle = (start + stop) >> 1
        if arrays.spans[arrays.members[middle], _LAST] < reach:
            start = middle + 1
        else:
            stop = middle
    return start


@kernel
def _insert(arrays: SessionArrays, key: Index, place: Index, time: Index, counts: I64) -> Index:
    """Add a session to a list and return it, or -1 if there is no room."""
    session: Index = counts[N_SESSIONS]
    if session >= arrays.heirs.shape[0]:
        return -1
    members = arrays.members
    start = arrays.lists[key, _START]
    length = arrays.lists[key, _LENGTH]
    if length == arrays.lists[key, _CAPACITY]:
        capacity = 2 * length + 2
        moved = counts[N_MEMBERS]
        if moved + capacity > members.shape[0]:
            return -1
        for index in range(length):
            members[moved + index] = members[start + index]
        arrays.lists[key, _START] = moved
        arrays.lists[key, _CAPACITY] = capacity
        counts[N_MEMBERS] = moved + capacity
        place += moved - start
        start = moved
    for index in range(start + length, place, -1):
        members[index] = members[index - 1]
    members[place] = session
    arrays.lists[key, _LENGTH] = length + 1
    arrays.spans[session, _FIRST] = time
    arrays.spans[session, _LAST] = time
    arrays.owners[session] = key
    arrays.heirs[session] = session
    counts[N_SESSIONS] += 1
    counts[N_OPEN] += 1
    return session


@kernel
def _join(
    arrays: SessionArrays,
    key: Index,
    place: Index,
    stop: Index,
    time: Index,
    counts: I64,
    absorbed: U32,
) -> Index:
    """Merge a run of sessions of a list with a row, and return the session that remains."""
    members = arrays.members
    heir: Index = members[place]
    first = last = time
    for index in range(place, stop):
        session = members[index]
        heir = min(heir, session)
        first = min(first, arrays.spans[session, _FIRST])
        last = max(last, arrays.spans[session, _LAST])
    arrays.spans[heir, _FIRST] = first
    arrays.spans[heir, _LAST] = last
    n_merged = stop - place - 1
    if n_merged == 0:
        return heir
    for index in range(place, stop):
        session = members[index]
        if session != heir:
            arrays.heirs[session] = heir
            if session < absorbed.shape[0]:
                absorbed[counts[N_ABSORBED]] = session
                counts[N_ABSORBED] += 1
    members[place] = heir
    end = arrays.lists[key, _START] + arrays.lists[key, _LENGTH]
    for index in range(stop, end):
        members[index - n_merged] = members[index]
    arrays.lists[key, _LENGTH] -= n_merged
    counts[N_OPEN] -= n_merged
    return heir


@kernel
def _find_session(
    arrays: SessionArrays,
    key: Index,
    time: Index,
    reach: Index,
    gap: Index,
    closed_before: Index,
    counts: I64,
    absorbed: U32,
) -> Index:
    """Return the session of a row, which may be LATE, or -1 if there is no room for a new one."""
    start = arrays.lists[key, _START]
    end = start + arrays.lists[key, _LENGTH]
    place = _first_reaching(arrays, start, end, reach)
    # Open sessions lie more than a gap apart, so those that the row touches are neighbours.
    stop = place
    while stop < end and arrays.spans[arrays.members[stop], _FIRST] <= time + gap:
        stop += 1
    if stop > place:
        return _join(arrays, key, place, stop, time, counts, absorbed)
    if time < closed_before:
        return LATE
    return _insert(arrays, key, place, time, counts)


@kernel
def assign_sessions(
    key_ids: U32,
    times: I64,
    watermarks: I64,
    start: int,
    gap: int,
    lateness: int,
    arrays: SessionArrays,
    counts: I64,
    session_ids: U32,
    absorbed: U32,
) -> int:
    """Put rows into sessions, one after the other.

    Stops at the first row that needs a new session for which there is no room, in the arrays of
    sessions or in that of the lists. The caller makes room and goes on from that row.

    Args:
        key_ids: uint32[n_rows], the key of each row; ``arrays.lists`` reaches beyond the greatest:
            unchecked.
        times: int64[n_rows], event times; none so great that adding the gap overflows: unchecked.
        watermarks: int64[n_rows], the watermark before each row, INT64_MIN where there is none; of
            length 0 if no row is behind its watermark.
        start: First row to do.
        gap: Greatest distance of rows that follow each other in a session, 1 or more: unchecked.
        lateness: How long a session still takes rows after its end, 0 or more, with the gap within
            int64: unchecked.
        arrays: The sessions.
        counts: int64[4]: the number of sessions, of open sessions, of used places in
            ``arrays.members``, and of places written in ``absorbed``; updated.
        session_ids: uint32[n_rows], the session of each row when the row came, or LATE, written
            from ``start`` on. Sessions can have been absorbed since: see :func:`resolve_sessions`.
        absorbed: uint32[n_sessions_before], gets the sessions with numbers below its length that
            other sessions absorb.

    Returns:
        The row to go on from, which is n_rows when all are done.
    """
    spans, lists, members = arrays.spans, arrays.lists, arrays.members
    has_watermarks = watermarks.shape[0] > 0
    closed_before = _INT64_MIN
    n_rows: int = times.shape[0]
    for row in range(start, n_rows):
        key = np.int64(key_ids[row])
        time = times[row]
        reach = _minus(time, gap)
        if has_watermarks:
            closed_before = _minus(watermarks[row], gap + lateness)
            reach = max(reach, closed_before)
        end = lists[key, _START] + lists[key, _LENGTH]
        if lists[key, _LENGTH] > 0:
            newest = members[end - 1]
            if spans[newest, _FIRST] <= time and spans[newest, _LAST] >= reach:
                spans[newest, _LAST] = max(spans[newest, _LAST], time)
                session_ids[row] = newest
                continue
        session = _find_session(arrays, key, time, reach, gap, closed_before, counts, absorbed)
        if session < 0:
            return row
        session_ids[row] = session
    return n_rows


@kernel
def resolve_sessions(heirs: U32, session_ids: U32) -> int:
    """Replace absorbed sessions by those that they are a part of now.

    Args:
        heirs: uint32[n_sessions], see :class:`SessionArrays`; shortened on the way.
        session_ids: uint32[n], sessions that are open or absorbed by open ones, or LATE; replaced.

    Returns:
        How many are LATE.
    """
    n_late = 0
    for row in range(session_ids.shape[0]):
        session = session_ids[row]
        if session == LATE:
            n_late += 1
            continue
        while heirs[session] != session:
            # Halving the way for whoever comes next keeps long chains of merges cheap.
            heirs[session] = heirs[heirs[session]]
            session = heirs[session]
        session_ids[row] = session
    return n_late


@kernel
def close_sessions(
    arrays: SessionArrays, n_sessions: int, closed_before: int, closed: U32
) -> tuple[int, int]:
    """Close the sessions whose last row lies before a time and take them off the lists.

    Args:
        arrays: The sessions.
        n_sessions: Number of sessions.
        closed_before: The time.
        closed: uint32[n_sessions], gets the closed sessions in ascending order.

    Returns:
        The number of closed sessions, and the least last row of the others, or INT64_MAX.
    """
    n_closed = 0
    least_last = _INT64_MAX
    for session in range(n_sessions):
        if arrays.heirs[session] != session:
            continue
        last = arrays.spans[session, _LAST]
        if last >= closed_before:
            least_last = min(least_last, last)
            continue
        closed[n_closed] = session
        n_closed += 1
        arrays.heirs[session] = CLOSED
        # Lists are ordered by last rows: what closes of a list is its beginning, whichever session
        # of it is met first here.
        key = arrays.owners[session]
        arrays.lists[key, _START] += 1
        arrays.lists[key, _LENGTH] -= 1
        arrays.lists[key, _CAPACITY] -= 1
    return n_closed, least_last


@kernel
def pack_lists(lists: I64, members: U32, packed: U32) -> int:
    """Copy all lists one behind the other, without room between them.

    Args:
        lists: int64[n_keys, 3], see :class:`SessionArrays`; updated.
        members: uint32[members_capacity], the lists.
        packed: uint32[at least the sum of all lengths], gets the lists.

    Returns:
        The number of used places in ``packed``.
    """
    n_packed = 0
    for key in range(lists.shape[0]):
        start = lists[key, _START]
        length = lists[key, _LENGTH]
        for index in range(length):
            packed[n_packed + index] = members[start + index]
        lists[key, _START] = n_packed
        lists[key, _CAPACITY] = length
        n_packed += length
    return n_packed
