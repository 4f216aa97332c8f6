"""What becomes of each row in event time, told row by row in plain Python.

The watermark is the greatest event time so far minus the allowed disorder. A row is late for a
window if the watermark after the rows before it has passed the window's end and the lateness that
is allowed beyond it. A row that a filter takes away moves the watermark, and is late for nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.equivalence.windows import Window

__all__ = ["Assignment", "RowInWindow", "assign_windows", "running_watermarks", "windows_of"]


@dataclass(frozen=True, slots=True, order=True)
class RowInWindow:
    """A row, by its number, in one of its windows."""

    row: int
    window_start: int
    window_end: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """The windows that rows came into, and those that they were late for."""

    punctual: list[RowInWindow] = field(default_factory=list)
    late: list[RowInWindow] = field(default_factory=list)

    @property
    def rows_late(self) -> int:
        """Number of rows that were late for all of their windows."""
        return len({entry.row for entry in self.late} - {entry.row for entry in self.punctual})


def running_watermarks(times: Sequence[int], delay: int) -> Iterator[int | None]:
    """Give the watermark before each row; None before the first."""
    greatest: int | None = None
    for time in times:
        yield None if greatest is None else greatest - delay
        greatest = time if greatest is None else max(greatest, time)


def windows_of(time: int, window: Window) -> list[tuple[int, int]]:
    """List the windows that an event time belongs to, by start and end; not for sessions."""
    if window.kind == "hop":
        start = window.offset + (time - window.offset) // window.step * window.step
        found = []
        while start > time - window.size:
            found.append((start, start + window.size))
            start -= window.step
        return found[::-1]
    start = window.offset + (time - window.offset) // window.size * window.size
    ends = range(start + window.step, start + window.size + 1, window.step)
    return [(start, end) for end in ends if end > time]


def assign_windows(
    times: Sequence[int],
    window: Window,
    delay: int,
    *,
    allowed_lateness: int = 0,
    passes: Sequence[bool] | None = None,
    keys: Sequence[Hashable] | None = None,
) -> Assignment:
    """Assign rows to windows in order of arrival.

    Args:
        times: Event time of each row.
        window: How rows are assigned.
        delay: How far rows may be behind the greatest event time.
        allowed_lateness: For how long a window takes rows after its end.
        passes: Whether each row reaches the windows; without it all do.
        keys: What keeps the sessions of rows apart.
    """
    if window.kind == "session":
        return _assign_sessions(times, window.size, delay, allowed_lateness, passes, keys)
    assignment = Assignment()
    for row, (time, watermark) in enumerate(
        zip(times, running_watermarks(times, delay), strict=True)
    ):
        if passes is not None and not passes[row]:
            continue
        for start, end in windows_of(time, window):
            is_late = watermark is not None and end + allowed_lateness <= watermark
            entry = RowInWindow(row, start, end)
            (assignment.late if is_late else assignment.punctual).append(entry)
    return assignment


@dataclass(slots=True)
class _Session:
    first: int
    last: int
    rows: list[int]


def _assign_sessions(
    times: Sequence[int],
    gap: int,
    delay: int,
    allowed_lateness: int,
    passes: Sequence[bool] | None,
    keys: Sequence[Hashable] | None,
) -> Assignment:
    """Assign rows to sessions.

    A row at the very end of a session still belongs to it, and may come while the watermark is
    there. So a session is over when the watermark is beyond its end, where other windows are over
    when the watermark reaches it.
    """
    assignment = Assignment()
    open_by_key: dict[Hashable, list[_Session]] = {}
    over: list[_Session] = []
    for row, (time, watermark) in enumerate(
        zip(times, running_watermarks(times, delay), strict=True)
    ):
        if passes is not None and not passes[row]:
            continue
        key = keys[row] if keys is not None else None
        horizon = None if watermark is None else watermark - allowed_lateness - gap
        sessions = open_by_key.setdefault(key, [])
        ended = [s for s in sessions if horizon is not None and s.last < horizon]
        over += ended
        still_open = [s for s in sessions if s not in ended]
        near = [s for s in still_open if s.first - gap <= time <= s.last + gap]
        if horizon is not None and not near and time < horizon:
            assignment.late.append(RowInWindow(row, time, time + gap))
            open_by_key[key] = still_open
            continue
        merged = _Session(
            min([time, *(s.first for s in near)]),
            max([time, *(s.last for s in near)]),
            [row, *(number for s in near for number in s.rows)],
        )
        open_by_key[key] = [*(s for s in still_open if s not in near), merged]
    over += [session for sessions in open_by_key.values() for session in sessions]
    assignment.punctual.extend(
        RowInWindow(row, session.first, session.last + gap)
        for session in over
        for row in session.rows
    )
    return assignment
