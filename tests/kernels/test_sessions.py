"""Sessions against a definition that looks at every session for every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.sessions import (
    HEAD_FIELDS,
    LATE,
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

INT64 = np.iinfo(np.int64)
UNKNOWN = int(INT64.min)
N_KEYS = 4

Row = tuple[int, int, int]  # key, event time, watermark before the row


def read_only(values: Sequence[int], dtype: Any) -> npt.NDArray[Any]:
    array = np.array(values, dtype)
    array.flags.writeable = False
    return array


@dataclass
class Session:
    number: int
    key: int
    first: int
    last: int


@dataclass
class Definition:
    """Sessions row by row, in Python's integers, which have no end."""

    gap: int
    lateness: int
    open: list[Session] = field(default_factory=list)
    heirs: dict[int, int] = field(default_factory=dict)
    n_sessions: int = 0

    def take(self, key: int, time: int, watermark: int) -> int:
        closed_before = None if watermark == UNKNOWN else watermark - self.gap - self.lateness
        near = [
            session
            for session in self.open
            if session.key == key
            and session.first - self.gap <= time <= session.last + self.gap
            and (closed_before is None or session.last >= closed_before)
        ]
        if near:
            heir = min(near, key=lambda session: session.number)
            heir.first = min(time, *(session.first for session in near), time)
            heir.last = max(time, *(session.last for session in near), time)
            for session in near:
                if session is not heir:
                    self.heirs[session.number] = heir.number
                    self.open.remove(session)
            return heir.number
        if closed_before is not None and time < closed_before:
            return LATE
        self.open.append(Session(self.n_sessions, key, time, time))
        self.n_sessions += 1
        return self.n_sessions - 1

    def close(self, closed_before: int) -> list[int]:
        closed = [session for session in self.open if session.last < closed_before]
        self.open = [session for session in self.open if session.last >= closed_before]
        return sorted(session.number for session in closed)

    def resolved(self, number: int) -> int:
        while number in self.heirs:
            number = self.heirs[number]
        return number


def allocated(capacity: int) -> SessionArrays:
    return SessionArrays(
        np.full((capacity, 2), 99, np.int64),
        np.full(capacity, 99, np.uint32),
        np.full(capacity, 99, np.uint32),
        np.full((capacity, LEVELS), 99, np.uint32),
        np.full((N_KEYS, HEAD_FIELDS), NONE, np.uint32),
    )


class Kernels:
    """The caller's part, which makes room as late as it can."""

    def __init__(self, gap: int, lateness: int) -> None:
        self.gap = gap
        self.lateness = lateness
        self.counts = np.zeros(N_COUNTS, np.int64)
        self.arrays = allocated(1)

    def take(self, rows: Sequence[Row]) -> tuple[list[int], list[int], list[int]]:
        """Return the sessions when rows came, those at the end, and the absorbed old ones."""
        keys = read_only([key for key, _, _ in rows], np.uint32)
        times = read_only([time for _, time, _ in rows], np.int64)
        none_behind = all(time >= watermark for _, time, watermark in rows)
        watermarks = read_only([] if none_behind else [w for _, _, w in rows], np.int64)
        ids = np.full(len(rows), 77, np.uint32)
        absorbed = np.full(self.counts[N_SESSIONS], 77, np.uint32)
        self.counts[N_ABSORBED] = 0
        row = 0
        while True:
            row = assign_sessions(
                keys,
                times,
                watermarks,
                row,
                self.gap,
                self.lateness,
                self.arrays,
                self.counts,
                ids,
                absorbed,
            )
            if row == len(rows):
                break
            assert self.counts[N_SESSIONS] == len(self.arrays.heirs)
            both = zip(self.arrays, allocated(1), strict=True)
            grown = [np.concatenate(pair) for pair in both]
            self.arrays = SessionArrays(*grown)._replace(heads=self.arrays.heads)
        at_once = ids.tolist()
        assert resolve_sessions(self.arrays.heirs, ids) == at_once.count(LATE)
        return at_once, ids.tolist(), absorbed[: self.counts[N_ABSORBED]].tolist()

    def close(self, closed_before: int) -> list[int]:
        n_sessions = int(self.counts[N_SESSIONS])
        closed = np.full(n_sessions, 77, np.uint32)
        n_closed, least_last = close_sessions(self.arrays, n_sessions, closed_before, closed)
        self.counts[N_OPEN] -= n_closed
        lasts = [session.last for session in self.open_sessions()]
        assert least_last == min(lasts, default=INT64.max)
        return closed[:n_closed].tolist()

    def open_sessions(self) -> list[Session]:
        arrays, numbers = self.arrays, range(int(self.counts[N_SESSIONS]))
        return [
            Session(number, int(arrays.owners[number]), *arrays.spans[number].tolist())
            for number in numbers
            if arrays.heirs[number] == number
        ]

    def listed(self, key: int) -> list[int]:
        """Return the sessions of a key, and check that each level skips some of the one below."""
        heads, links = self.arrays.heads.tolist(), self.arrays.links.tolist()
        below: list[int] = []
        for level in range(LEVELS):
            listed = []
            session = heads[key][level]
            while session != NONE:
                listed.append(session)
                session = links[session][level]
            if level == 0:
                below = every = listed
            assert [number for number in below if number in set(listed)] == listed
            below = listed
        assert heads[key][LEVELS] == (every[-1] if every else NONE)
        return every


def check(gap: int, lateness: int, batches: Sequence[Sequence[Row]], closes: bool) -> Kernels:
    definition, kernels = Definition(gap, lateness), Kernels(gap, lateness)
    for batch in batches:
        n_before = definition.n_sessions
        were_open = [session.number for session in definition.open]
        expected = [definition.take(*row) for row in batch]
        at_once, at_end, absorbed = kernels.take(batch)
        assert at_once == expected
        assert at_end == [LATE if n == LATE else definition.resolved(n) for n in expected]
        assert sorted(absorbed) == [
            number for number in were_open if number < n_before and number in definition.heirs
        ]
        watermark = batch[-1][2]
        if closes and watermark != UNKNOWN:
            closed_before = max(watermark - gap - lateness, UNKNOWN)
            assert kernels.close(closed_before) == definition.close(closed_before)
        by_number = sorted(definition.open, key=lambda session: session.number)
        assert kernels.open_sessions() == by_number
        assert kernels.counts[N_OPEN] == len(by_number)
        assert kernels.counts[N_SESSIONS] == definition.n_sessions
        for key in range(N_KEYS):
            of_key = sorted((s for s in definition.open if s.key == key), key=lambda s: s.last)
            assert kernels.listed(key) == [session.number for session in of_key]
    return kernels


@st.composite
def streams(draw: st.DrawFn) -> list[list[Row]]:
    """Batches of rows whose watermarks follow their times, as those of a stream do."""
    near = st.integers(-20, 60)
    extreme = st.sampled_from([int(INT64.min), int(INT64.min) + 3, int(INT64.max) - 10])
    times = draw(st.lists(near, min_size=1, max_size=40))
    if draw(st.booleans()):
        times = [row // 2 + time // 4 for row, time in enumerate(times)]
    if draw(st.booleans()):
        times.insert(draw(st.integers(0, len(times))), draw(extreme))
    delay = draw(st.sampled_from([0, 2, 7, 30, int(INT64.max)]))
    rows, watermark = [], UNKNOWN
    for time in times:
        rows.append((draw(st.integers(0, N_KEYS - 1)), time, watermark))
        watermark = max(watermark, time - delay)
    cuts = sorted(draw(st.sets(st.integers(1, len(rows)), max_size=4)) | {len(rows)})
    return [rows[start:stop] for start, stop in zip([0, *cuts], cuts, strict=False) if start < stop]


gaps = st.sampled_from([1, 2, 5, 10])
latenesses = st.sampled_from([0, 0, 3, 100])


@given(gaps, latenesses, streams(), st.booleans())
def test_rows_join_open_merge_or_are_late(
    gap: int, lateness: int, batches: list[list[Row]], closes: bool
) -> None:
    check(gap, lateness, batches, closes)


@pytest.mark.parametrize("n_batches", [1, 10])
def test_many_open_sessions_of_a_key_in_any_order(n_batches: int) -> None:
    random = np.random.default_rng(5)
    times = random.permutation(400) * 3 + random.integers(0, 2, 400)
    rows = [(int(row % 2), int(time), UNKNOWN) for row, time in enumerate(times)]
    kernels = check(4, 0, [rows[start::n_batches] for start in range(n_batches)], closes=False)
    assert kernels.counts[N_OPEN] > 50
    assert kernels.arrays.heads[0, 1] != NONE


def test_no_rows() -> None:
    kernels = Kernels(5, 0)
    assert kernels.take([]) == ([], [], [])
    assert kernels.close(100) == []


def test_sessions_by_hand() -> None:
    kernels = Kernels(10, 0)
    # 0 and 10 are exactly a gap apart; 21 is not; 31 of another key is nobody's business.
    rows = [(0, 0, UNKNOWN), (0, 10, UNKNOWN), (0, 21, UNKNOWN), (1, 31, UNKNOWN), (0, 35, UNKNOWN)]
    assert kernels.take(rows)[0] == [0, 0, 1, 2, 3]
    # 28 bridges 21 and 35, and then 15 bridges what that became and the first session.
    at_once, at_end, absorbed = kernels.take([(0, 28, UNKNOWN), (0, 15, UNKNOWN)])
    assert (at_once, at_end, absorbed) == ([1, 0], [0, 0], [3, 1])
    assert kernels.open_sessions() == [Session(0, 0, 0, 35), Session(2, 1, 31, 31)]
    assert kernels.close(35) == [2]
    assert kernels.arrays.heirs[2] == NONE
    assert kernels.close(36) == [0]


def test_a_session_can_be_joined_while_the_watermark_is_at_its_end() -> None:
    kernels = Kernels(10, 0)
    kernels.take([(0, 0, UNKNOWN)])
    assert kernels.take([(0, 5, 10)])[0] == [0]
    kernels = Kernels(10, 0)
    kernels.take([(0, 0, UNKNOWN)])
    # At 11 it is over. 5 alone would end at 15, so it is on time; 0 alone would have ended.
    assert kernels.take([(0, 5, 11), (1, 0, 11)])[0] == [1, LATE]


def test_long_chains_of_merges_are_resolved() -> None:
    n_sessions = 3000
    # Every session is absorbed by the one that came before it, from the youngest on.
    apart = [(0, -11 * number, UNKNOWN) for number in range(n_sessions)]
    bridges = [(0, -11 * number - 5, UNKNOWN) for number in reversed(range(n_sessions - 1))]
    kernels = Kernels(10, 0)
    kernels.arrays = allocated(n_sessions)
    at_once, at_end, _ = kernels.take(apart + bridges)
    assert at_once == [*range(n_sessions), *reversed(range(n_sessions - 1))]
    assert set(at_end) == {0}
