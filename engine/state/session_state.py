"""Keyed state of sessions: keys, the open sessions of each, and accumulators indexed by session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.state.accumulators import Accumulators, AccumulatorSpec
from millstream.engine.state.key_table import KeyTable
from millstream.kernels.compile import I64, U32, Bool
from millstream.kernels.sessions import (
    HEAD_FIELDS,
    LEVELS,
    N_ABSORBED,
    N_COUNTS,
    N_OPEN,
    N_SESSIONS,
    NONE,
    SessionArrays,
    assign_sessions,
    close_sessions,
    resolve_sessions,
)

__all__ = ["AssignedSessions", "SessionState"]

_CAPACITY_LEAST = 64
# Below this many sessions or keys that nobody needs, compacting costs more than it frees.
_GARBAGE_MIN = 1024
_NO_WATERMARKS = np.empty(0, np.int64)
_NO_WATERMARKS.setflags(write=False)


class AssignedSessions(NamedTuple):
    """What became of a batch of rows.

    Attributes:
        session_ids: uint32[n_rows], the session of each row, or ``LATE`` of the kernels.
        n_late: How many rows are late.
        absorbed: uint32[n_absorbed], sessions of earlier batches that are part of another now.
        heirs: uint32[n_absorbed], the sessions that absorbed them.
    """

    session_ids: U32
    n_late: int
    absorbed: U32
    heirs: U32


class SessionState:
    """Sessions by number, with their keys, times and accumulators.

    Numbers ascend with the arrival of a session's first row. Those of sessions that closed, or that
    another session absorbed, are not used again until :meth:`compact` numbers the open ones anew.

    Args:
        key_types: Arrow types of the key columns.
        specs: The accumulators.
        gap: Greatest distance in event time of rows that follow each other in a session.
        lateness: How long a session still takes rows after its end.
    """

    def __init__(
        self,
        key_types: Sequence[pa.DataType],
        specs: Sequence[AccumulatorSpec],
        *,
        gap: int,
        lateness: int,
    ) -> None:
        self._keys = KeyTable(key_types) if key_types else None
        self._accumulators = Accumulators(specs, merges=False)
        self._gap = gap
        self._lateness = lateness
        self._counts = np.zeros(N_COUNTS, np.int64)
        # No open session ends before this, so that most watermarks need no look at all sessions.
        self._least_last = WATERMARK_END
        self._arrays = _allocate(_CAPACITY_LEAST, 1)

    @property
    def n_open(self) -> int:
        """Number of open sessions."""
        return int(self._counts[N_OPEN])

    @property
    def n_sessions(self) -> int:
        """Number of sessions that have a number."""
        return int(self._counts[N_SESSIONS])

    @property
    def state_bytes(self) -> int:
        """Bytes of keys, sessions and accumulators."""
        of_keys = 0 if self._keys is None else self._keys.state_bytes
        of_sessions = sum(array.nbytes for array in self._arrays)
        return of_keys + of_sessions + self._accumulators.state_bytes

    def closed_before(self, watermark: int) -> int:
        """Return the time before which closed sessions have their last rows, at a watermark."""
        return _minus(watermark, self._gap + self._lateness)

    def ended_before(self, watermark: int) -> int:
        """Return the time before which ended sessions have their last rows, at a watermark."""
        return _minus(watermark, self._gap)

    def assign(
        self, keys: Sequence[pa.Array], times: I64, watermarks: I64 | None
    ) -> AssignedSessions:
        """Put rows into sessions and merge the accumulators of sessions that become one.

        Args:
            keys: Key columns.
            times: int64[n_rows] event times, at least one; the gap can be added to them.
            watermarks: int64[n_rows], the watermark before each row, or None if none is behind.
        """
        key_ids = np.zeros(len(times), np.uint32) if self._keys is None else self._keys.assign(keys)
        self._reserve_heads(1 if self._keys is None else self._keys.n_groups)
        self._least_last = min(self._least_last, int(times.min()))
        counts = self._counts
        n_before, n_open_before = self.n_sessions, self.n_open
        counts[N_ABSORBED] = 0
        session_ids = np.empty(len(times), np.uint32)
        absorbed = np.empty(n_before, np.uint32)
        row = 0
        while row < len(times):
            row = assign_sessions(
                key_ids,
                times,
                _NO_WATERMARKS if watermarks is None else watermarks,
                row,
                self._gap,
                self._lateness,
                self._arrays,
                counts,
                session_ids,
                absorbed,
            )
            if row < len(times):
                self._reserve_sessions()
        n_late = 0
        n_created = self.n_sessions - n_before
        if watermarks is not None or self.n_open != n_open_before + n_created:
            n_late = int(resolve_sessions(self._arrays.heirs, session_ids))
        absorbed = absorbed[: counts[N_ABSORBED]]
        heirs = absorbed.copy()
        if len(absorbed) > 0:
            resolve_sessions(self._arrays.heirs, heirs)
            self._accumulators.merge(absorbed, heirs)
        return AssignedSessions(session_ids, n_late, absorbed, heirs)

    def accumulate(self, values: Sequence[pa.Array | None], session_ids: U32) -> None:
        """Add rows to the accumulators: per accumulator its values, or None to count rows."""
        self._accumulators.update(values, session_ids, self.n_sessions)

    def close(self, closed_before: int) -> U32:
        """Close sessions whose last row lies before a time; return them by last row, then arrival.

        Their keys, times and accumulators can still be read, until :meth:`compact`.
        """
        if closed_before <= self._least_last:
            return np.empty(0, np.uint32)
        closed = np.empty(self.n_sessions, np.uint32)
        n_closed, least_last = close_sessions(self._arrays, self.n_sessions, closed_before, closed)
        self._least_last = least_last
        self._counts[N_OPEN] -= n_closed
        return self._ordered(closed[:n_closed])

    def open_between(self, first_last: int, stop_last: int) -> U32:
        """Return open sessions whose last row lies in ``[first_last, stop_last)``, by last row."""
        lasts = self._arrays.spans[: self.n_sessions, 1]
        is_chosen = (lasts >= first_last) & (lasts < stop_last)
        chosen = np.flatnonzero(is_chosen).astype(np.uint32)
        return self._ordered(chosen[self.is_open(chosen)])

    def is_open(self, session_ids: U32) -> Bool:
        """Tell which sessions are open still: neither closed nor absorbed."""
        is_open: Bool = self._arrays.heirs[session_ids] == session_ids
        return is_open

    def starts(self, session_ids: U32) -> I64:
        """Return the event times of first rows."""
        firsts: I64 = self._arrays.spans[session_ids, 0]
        return firsts

    def lasts(self, session_ids: U32) -> I64:
        """Return the event times of last rows."""
        lasts: I64 = self._arrays.spans[session_ids, 1]
        return lasts

    def keys(self, session_ids: U32) -> list[pa.Array]:
        """Return key columns of some sessions."""
        if self._keys is None:
            return []
        return self._keys.columns(self._arrays.owners[session_ids])

    def accumulated(self, session_ids: U32) -> list[pa.Array]:
        """Return accumulator columns of some sessions."""
        return self._accumulators.columns(session_ids)

    @property
    def is_sparse(self) -> bool:
        """Whether most of the state is about sessions and keys that nobody needs any more."""
        n_keys = 0 if self._keys is None else self._keys.n_groups
        return max(self.n_sessions, n_keys) > 2 * self.n_open + _GARBAGE_MIN

    def compact(self) -> U32:
        """Forget all but the open sessions and their keys.

        Returns:
            The sessions that are kept, which have the numbers 0, 1, 2 and so on from now on.
        """
        before = self._arrays
        numbers = np.arange(self.n_sessions, dtype=np.uint32)
        kept: U32 = numbers[before.heirs[: self.n_sessions] == numbers]
        n_kept = len(kept)
        # Links lead to open sessions only. NONE, as an index, stands for the place behind them all.
        new_numbers = np.full(self.n_sessions + 1, NONE, np.uint32)
        new_numbers[kept] = numbers[:n_kept]
        kept_keys = np.flatnonzero(before.heads[:, 0] != NONE).astype(np.uint32)
        new_keys = np.empty(len(before.heads), np.uint32)
        new_keys[kept_keys] = np.arange(len(kept_keys))
        # Memory shrinks by half at a time: the next batch may need as much as the last one.
        capacity = max(_CAPACITY_LEAST, 2 * n_kept, len(before.heirs) // 2)
        after = _allocate(capacity, len(kept_keys))
        after.spans[:n_kept] = before.spans[kept]
        after.owners[:n_kept] = new_keys[before.owners[kept]]
        after.heirs[:n_kept] = numbers[:n_kept]
        after.links[:n_kept] = new_numbers.take(before.links[kept], mode="clip")
        after.heads[:] = new_numbers.take(before.heads[kept_keys], mode="clip")
        self._arrays = after
        self._counts[[N_SESSIONS, N_OPEN]] = n_kept
        self._accumulators.retain(kept)
        if self._keys is not None:
            self._keys.retain(kept_keys)
        return kept

    def _ordered(self, session_ids: U32) -> U32:
        ordered: U32 = session_ids[np.argsort(self.lasts(session_ids), kind="stable")]
        return ordered

    def _reserve_heads(self, n_keys: int) -> None:
        before = self._arrays.heads
        if n_keys > len(before):
            heads = np.full((max(n_keys, 2 * len(before)), HEAD_FIELDS), NONE, np.uint32)
            heads[: len(before)] = before
            self._arrays = self._arrays._replace(heads=heads)

    def _reserve_sessions(self) -> None:
        before = self._arrays
        n_used = len(before.heirs)
        after = _allocate(2 * n_used, 0)
        after.spans[:n_used] = before.spans
        after.owners[:n_used] = before.owners
        after.heirs[:n_used] = before.heirs
        after.links[:n_used] = before.links
        self._arrays = after._replace(heads=before.heads)


def _allocate(capacity: int, n_keys: int) -> SessionArrays:
    return SessionArrays(
        spans=np.empty((capacity, 2), np.int64),
        owners=np.empty(capacity, np.uint32),
        heirs=np.empty(capacity, np.uint32),
        links=np.empty((capacity, LEVELS), np.uint32),
        heads=np.full((n_keys, HEAD_FIELDS), NONE, np.uint32),
    )


def _minus(watermark: int, span: int) -> int:
    if watermark == WATERMARK_END:
        return WATERMARK_END
    return max(watermark - span, NO_WATERMARK)
