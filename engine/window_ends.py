"""The ends of windows: whether watermarks have come so far that some window closes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.step import delayed_watermark
from millstream.planner.nodes import WatermarkBound, Window

__all__ = ["WindowEnds"]

# No watermark comes so far.
_NEVER = WATERMARK_END + 1


@dataclass(slots=True)
class _Ends:
    """Where windows of one kind end.

    Attributes:
        step: From one end to the next.
        offset: Of the ends from the epoch, with the lateness that the windows allow.
        bounds: Of the watermark that closes them, one or more.
        next: The least watermark that closes one more window.
    """

    step: int
    offset: int
    bounds: tuple[WatermarkBound, ...]
    next: int = NO_WATERMARK + 1

    def slowest(self, watermarks: Mapping[str, int]) -> tuple[int, WatermarkBound]:
        """Return the watermark that closes windows, and by which bound it is so low."""
        bounded = [
            (delayed_watermark(watermarks[bound.stream], bound.delay), bound)
            for bound in self.bounds
        ]
        return min(bounded, key=itemgetter(0))

    def move(self, watermark: int) -> None:
        """Note that all windows have been closed that a watermark closes."""
        n_closed = (watermark - self.offset) // self.step
        end = (n_closed + 1) * self.step + self.offset
        self.next = _NEVER if watermark == WATERMARK_END else min(end, WATERMARK_END)


class WindowEnds:
    """Compares the watermarks of streams with the ends of windows.

    To ask after each micro-batch costs next to nothing: until one stream has reached a mark no
    window can have closed, and only then all are looked at.

    Args:
        windows: Windows, the lateness that each allows, and the bounds of its watermark.
    """

    def __init__(self, windows: Iterable[tuple[Window, int, tuple[WatermarkBound, ...]]]) -> None:
        self._ends = [
            _Ends(window.step, window.offset + late, bounds)
            for window, lateness, bounds in windows
            for late in sorted({0, lateness})
        ]
        # By stream, the least watermark at which a window may have ended.
        self._marks = [
            (bound.stream, NO_WATERMARK + 1) for ends in self._ends for bound in ends.bounds
        ]

    def are_passed(self, watermarks: Mapping[str, int]) -> bool:
        """Say whether a window has ended since this was last asked.

        Args:
            watermarks: Of each stream; none may be less than when this was last asked.
        """
        for stream, mark in self._marks:
            if watermarks[stream] >= mark:
                return self._look(watermarks)
        return False

    def _look(self, watermarks: Mapping[str, int]) -> bool:
        are_passed = False
        marks: dict[str, int] = {}
        for ends in self._ends:
            watermark, slowest = ends.slowest(watermarks)
            if watermark >= ends.next:
                are_passed = True
                ends.move(watermark)
            if ends.next <= WATERMARK_END:
                # While the slowest stream stays below the next end, the others do not matter.
                mark = min(ends.next + slowest.delay, WATERMARK_END)
                marks[slowest.stream] = min(marks.get(slowest.stream, mark), mark)
        self._marks = list(marks.items())
        return are_passed
