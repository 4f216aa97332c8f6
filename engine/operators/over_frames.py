"""The frames that the window functions of a node look through."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

from millstream.engine.state.frame_interfaces import FirstWordsFrame, Frame, MomentsFrame
from millstream.engine.state.frames import PRECEDING_MAX, BoundedFrame, RowFrame, TimeFrame
from millstream.engine.state.keyed_rows import KeyColumns
from millstream.engine.state.short_frames import SHORT_PRECEDING_MAX, ShortFrame
from millstream.engine.state.whole_frame import WholeFrame
from millstream.errors import InternalError

__all__ = ["ALL_ROWS", "EVERY_ROW", "LAST_ROW", "FrameKey", "OverFrames"]

# Kind of a frame, and how far it reaches; None is without bounds.
FrameKey: TypeAlias = tuple[Literal["rows", "range"], int | None]

ALL_ROWS: FrameKey = ("rows", None)
LAST_ROW: FrameKey = ("rows", 1)
# Rows of all time, of which each is kept.
EVERY_ROW: FrameKey = ("rows", PRECEDING_MAX)


class OverFrames:
    """One frame for all who ask for the same, if it is good for what they do with it.

    Args:
        columns: Where columns per key are made.
        is_timed: Whether rows are in the order of event time.
    """

    def __init__(self, columns: KeyColumns, *, is_timed: bool) -> None:
        self._columns = columns
        self._is_timed = is_timed
        self._frames: dict[FrameKey, Frame] = {}
        # Of short frames, for those that the quick way is not open to.
        self._ringed: dict[FrameKey, RowFrame] = {}

    def all(self) -> Collection[Frame]:
        """Return all frames, each once."""
        return [*self._frames.values(), *self._ringed.values()]

    @property
    def n_rows(self) -> int:
        """Rows that are kept, once for each frame that reaches them."""
        return sum(frame.n_rows for frame in {**self._ringed, **self._frames}.values())

    def of(self, key: FrameKey) -> Frame:
        """Return a frame whose lengths are wanted, or folds of it.

        Raises:
            InternalError: It is one of event time where rows come in another order.
        """
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = self._new_frame(*key)
        return frame

    def with_first_words(self, key: FrameKey) -> FirstWordsFrame:
        """Return a frame with bounds of whose first rows words of 64 bits are wanted."""
        frame = self.of(key)
        assert isinstance(frame, BoundedFrame | ShortFrame), "others began with the first of all"
        return frame

    def with_moments(self, key: FrameKey) -> MomentsFrame:
        """Return a frame of which moments are wanted."""
        frame = self.of(key) if key[1] is None else self.with_rings(key)
        assert isinstance(frame, BoundedFrame | WholeFrame), "short frames have rings as well"
        return frame

    def with_rings(self, key: FrameKey) -> BoundedFrame:
        """Return a frame with bounds, with rings that others may use."""
        kind, preceding = key
        if kind == "rows" and preceding is not None and preceding <= SHORT_PRECEDING_MAX:
            if key not in self._ringed:
                self._ringed[key] = RowFrame(self._columns, preceding)
            return self._ringed[key]
        frame = self.of(key)
        assert isinstance(frame, BoundedFrame), "nothing is kept of others"
        return frame

    def _new_frame(self, kind: Literal["rows", "range"], preceding: int | None) -> Frame:
        if preceding is None:
            return WholeFrame(self._columns, has_peers=kind == "range" and self._is_timed)
        if kind == "rows" and preceding <= SHORT_PRECEDING_MAX:
            return ShortFrame(self._columns, preceding)
        if kind == "rows":
            return RowFrame(self._columns, min(preceding, PRECEDING_MAX))
        if not self._is_timed:
            raise InternalError("a frame of event time needs an order by it")
        return TimeFrame(self._columns, preceding)
