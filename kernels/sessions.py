"""Sessions: rows of a key that follow each other within a gap of event time.

Sessions are numbered in the order in which their first rows came. A key has a list of its open
sessions, ordered by their last rows. In a stream whose rows are nearly in order, the row at hand
belongs to the end of the list. For all other rows the list is a skip list: of the sessions that
have a link on one level, one in eight has one on the next level too, so that a place is found in
logarithmic time however many sessions are open and in whatever order rows come.

A row that lies within the gap of several sessions merges them into the one with the least number.
The others keep their numbers, and ``heirs`` tells which session they became a part of.

Event times and watermarks are int64 in a unit of their own. A session is closed for a row if its
last row plus the gap plus the allowed lateness lies before the row's watermark; then no row in time
can still belong to it. A row is late if it belongs to no open session and would be closed itself.

References:
    William Pugh: Skip lists: a probabilistic alternative to balanced trees. CACM 33 (6), 1990.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from millstream.kernels.compile import I64, U32, kernel
from millstream.kernels.compile import _pointer as pointer

__all__ = [
    "HEAD_FIELDS",
    "LATE",
    "LEVELS",
    "NONE",
    "N_ABSORBED",
    "N_COUNTS",
    "N_OPEN",
    "N_SESSIONS",
    "SessionArrays",
    "assign_sessions",
    "close_sessions",
    "resolve_sessions",
]

Index: TypeAlias = int | np.signedinteger[Any] | np.unsignedinteger[Any]

NONE = 2**32 - 1
"""Stands for no session: after the last one of a list, and as the heir of a closed one."""

LATE = NONE
"""Stands for the session of a late row."""

LEVELS = 7
"""Levels of links: enough for 8 ** 7 open sessions of a key."""

HEAD_FIELDS = LEVELS + 1
"""Columns of ``SessionArrays.heads``."""

N_SESSIONS, N_OPEN, N_ABSORBED, N_COUNTS = 0, 1, 2, 3
"""Places in the counts of :func:`assign_sessions`, and how many there are."""

_NEWEST = LEVELS
_LINK_BYTES = 4
_FIRST, _LAST = 0, 1
_INT64_MIN = -(2**63)
_INT64_MAX = 2**63 - 1
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HIGH_BITS = np.uint64(32)
_SEVEN = np.uint64(7)
_THREE = np.uint64(3)


class SessionArrays(NamedTuple):
    """What is known of sessions and of the keys that have them.

    Attributes:
        spans: int64[capacity, 2], by session: event times of its first and of its last row.
        owners: uint32[capacity], by session: the key.
        heirs: uint32[capacity], by session: itself while it is open, the session that absorbed it,
            or NONE when it is closed.
        links: uint32[capacity, LEVELS], by open session: the next one of its key on each level, or
            NONE.
        heads: uint32[n_keys, HEAD_FIELDS], by key: its first open session on each level, and the
            last one of all, or NONE.
    """

    spans: I64
    owners: U32
    heirs: U32
    links: U32
    heads: U32


@kernel
def _minus(time: int, span: int) -> int:
    return max(time, _INT64_MIN + span) - span


class _Addresses(NamedTuple):
    # An array that a kernel hands to another costs updates of its reference count, which for one
    # row are more than the work itself. So inner kernels take addresses.
    spans: int
    owners: int
    heirs: int
    links: int
    heads: int
    before: int
    counts: int
    absorbed: int


@kernel
def _first_reaching(at: _Addresses, key: int, reach: int) -> int:
    """Find the first session of a key that lasts until ``reach`` or longer, or NONE.

    ``before`` gets the last session before it on each level, or NONE.
    """
    spans = pointer(at.spans, np.int64)
    heads = pointer(at.heads, np.uint32)
    links = pointer(at.links, np.uint32)
    before = pointer(at.before, np.int64)
    session = following = NONE
    for level in range(LEVELS - 1, -1, -1):
        if session == NONE:
            following = int(heads[key * HEAD_FIELDS + level])
        else:
            following = int(links[session * LEVELS + level])
        while following != NONE and spans[2 * following + _LAST] < reach:
            session = following
            following = int(links[session * LEVELS + level])
        before[level] = session
    return following


@kernel
def _link_before(at: _Addresses, key: int, level: int) -> int:
    """Return the address of the link that leads on from ``before``, of a session or of the head."""
    session = pointer(at.before, np.int64)[level]
    if session == NONE:
        return at.heads + _LINK_BYTES * (key * HEAD_FIELDS + level)
    return at.links + _LINK_BYTES * (int(session) * LEVELS + level)


@kernel
def _insert(at: _Addresses, key: int, time: int) -> int:
    """Make a session, put it behind ``before`` and return it."""
    spans = pointer(at.spans, np.int64)
    links = pointer(at.links, np.uint32)
    heads = pointer(at.heads, np.uint32)
    counts = pointer(at.counts, np.int64)
    session = int(counts[N_SESSIONS])
    counts[N_SESSIONS] += 1
    counts[N_OPEN] += 1
    spans[2 * session + _FIRST] = time
    spans[2 * session + _LAST] = time
    pointer(at.owners, np.uint32)[session] = key
    pointer(at.heirs, np.uint32)[session] = session
    for level in range(1, LEVELS):
        links[session * LEVELS + level] = NONE
    bits = np.uint64(session + 1) * _MIX >> _HIGH_BITS
    for level in range(LEVELS):
        link = pointer(_link_before(at, key, level), np.uint32)
        links[session * LEVELS + level] = link[0]
        link[0] = session
        if bits & _SEVEN != 0:
            break
        bits >>= _THREE
    if links[session * LEVELS] == NONE:
        heads[key * HEAD_FIELDS + _NEWEST] = session
    return session


@kernel
def _absorb(at: _Addresses, session: int, heir: int, n_before: int) -> None:
    counts = pointer(at.counts, np.int64)
    pointer(at.heirs, np.uint32)[session] = heir
    counts[N_OPEN] -= 1
    if session < n_before:
        pointer(at.absorbed, np.uint32)[counts[N_ABSORBED]] = session
        counts[N_ABSORBED] += 1


@kernel
def _join(at: _Addresses, key: int, touched: int, time: int, gap: int, n_before: int) -> int:
    """Merge a row with the sessions that it touches, and return the one that remains."""
    spans = pointer(at.spans, np.int64)
    links = pointer(at.links, np.uint32)
    before = pointer(at.before, np.int64)
    heir = session = touched
    first = last = time
    while session != NONE and spans[2 * session + _FIRST] <= time + gap:
        heir = min(heir, session)
        first = min(first, spans[2 * session + _FIRST])
        last = max(last, spans[2 * session + _LAST])
        session = int(links[session * LEVELS])
    end, session = session, touched
    while session != end:
        for level in range(LEVELS):
            link = pointer(_link_before(at, key, level), np.uint32)
            if link[0] != session:
                break
            if session == heir:
                before[level] = session
            else:
                link[0] = links[session * LEVELS + level]
        following = int(links[session * LEVELS])
        if session != heir:
            _absorb(at, session, heir, n_before)
        session = following
    if end == NONE:
        pointer(at.heads, np.uint32)[key * HEAD_FIELDS + _NEWEST] = heir
    spans[2 * heir + _FIRST] = first
    spans[2 * heir + _LAST] = last
    return heir


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

    Stops at the first row that needs a new session for which there is no room. The caller makes
    room and goes on from that row.

    Args:
        key_ids: uint32[n_rows], the key of each row; ``arrays.heads`` reaches beyond the greatest:
            unchecked.
        times: int64[n_rows], event times; none so great that adding the gap overflows: unchecked.
        watermarks: int64[n_rows], the watermark before each row, INT64_MIN where there is none; of
            length 0 if no row is behind its watermark.
        start: First row to do.
        gap: Greatest distance of rows that follow each other in a session, 1 or more: unchecked.
        lateness: How long a session still takes rows after its end, 0 or more, with the gap within
            int64: unchecked.
        arrays: The sessions.
        counts: int64[3]: the number of sessions, of open sessions, and of places written in
            ``absorbed``; updated.
        session_ids: uint32[n_rows], the session of each row when the row came, or LATE, written
            from ``start`` on. Sessions can have been absorbed since: see :func:`resolve_sessions`.
        absorbed: uint32[n_sessions_before], gets the sessions with numbers below its length that
            other sessions absorb.

    Returns:
        The row to go on from, which is n_rows when all are done.
    """
    spans, heads = arrays.spans, arrays.heads
    before = np.empty(LEVELS, np.int64)
    at = _Addresses(
        int(np.int64(spans.ctypes.data)),
        int(np.int64(arrays.owners.ctypes.data)),
        int(np.int64(arrays.heirs.ctypes.data)),
        int(np.int64(arrays.links.ctypes.data)),
        int(np.int64(heads.ctypes.data)),
        int(np.int64(before.ctypes.data)),
        int(np.int64(counts.ctypes.data)),
        int(np.int64(absorbed.ctypes.data)),
    )
    capacity, n_before = spans.shape[0], absorbed.shape[0]
    has_watermarks = watermarks.shape[0] > 0
    closed_before = _INT64_MIN
    n_rows: int = times.shape[0]
    for row in range(start, n_rows):
        key = int(key_ids[row])
        time = times[row]
        reach = _minus(time, gap)
        if has_watermarks:
            closed_before = _minus(watermarks[row], gap + lateness)
            reach = max(reach, closed_before)
        newest = heads[key, _NEWEST]
        if newest != NONE and spans[newest, _FIRST] <= time and spans[newest, _LAST] >= reach:
            spans[newest, _LAST] = max(spans[newest, _LAST], time)
            session_ids[row] = newest
            continue
        session = _first_reaching(at, key, reach)
        # Open sessions lie more than a gap apart, so those that the row touches are neighbours.
        if session != NONE and spans[session, _FIRST] <= time + gap:
            session_ids[row] = _join(at, key, session, time, gap, n_before)
        elif time < closed_before:
            session_ids[row] = LATE
        elif counts[N_SESSIONS] < capacity:
            session_ids[row] = _insert(at, key, time)
        else:
            return row
    # Named once more, because memory is freed after the last mention of its array.
    before[0] = NONE
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
    spans, heirs, links, heads = arrays.spans, arrays.heirs, arrays.links, arrays.heads
    n_closed = 0
    least_last = _INT64_MAX
    for session in range(n_sessions):
        if heirs[session] != session:
            continue
        if spans[session, _LAST] >= closed_before:
            least_last = min(least_last, spans[session, _LAST])
            continue
        closed[n_closed] = session
        n_closed += 1
        heirs[session] = NONE
        # Lists are ordered by last rows: all that closes of a list stands at its beginning.
        key = arrays.owners[session]
        for level in range(LEVELS):
            head = heads[key, level]
            if head == NONE:
                break
            while head != NONE and spans[head, _LAST] < closed_before:
                head = links[head, level]
            heads[key, level] = head
        if heads[key, 0] == NONE:
            heads[key, _NEWEST] = NONE
    return n_closed, least_last
