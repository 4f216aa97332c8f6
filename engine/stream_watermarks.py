"""The watermarks of all streams of a job, among which idle streams must not hold up the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from millstream.engine.durations import nanoseconds_per, time_unit
from millstream.engine.event_time import NO_WATERMARK, WatermarkTracker
from millstream.planner.catalog import StreamDefinition

__all__ = ["StreamWatermarks"]


class StreamWatermarks:
    """Reads the watermarks of streams. Called under the intake's lock.

    Args:
        streams: Streams of the plan.
        trackers: Follow the event time of each.

    Attributes:
        may_idle: Whether some stream is idle when it brings nothing for a while.
    """

    def __init__(
        self, streams: Sequence[StreamDefinition], trackers: Mapping[str, WatermarkTracker]
    ) -> None:
        self._trackers = trackers
        self._unit_ns = {stream.name: _unit_nanoseconds(stream) for stream in streams}
        self._timed = [stream.name for stream in streams if stream.event_time is not None]
        self.may_idle = any(stream.idle_timeout_seconds is not None for stream in streams)

    def of_all(self) -> dict[str, int]:
        """Return the watermark of each stream, after moving idle ones up to the others."""
        if self.may_idle and len(self._timed) > 1:
            self._lift_idle_streams()
        return {name: tracker.watermark for name, tracker in self._trackers.items()}

    def _lift_idle_streams(self) -> None:
        idle = {name for name in self._timed if self._trackers[name].is_idle()}
        active = [self._trackers[name].watermark for name in self._timed if name not in idle]
        if not idle or not active or NO_WATERMARK in active:
            return
        least_ns = min(
            self._trackers[name].watermark * self._unit_ns[name]
            for name in self._timed
            if name not in idle
        )
        for name in idle:
            tracker = self._trackers[name]
            # Lifting the stream itself makes its rows late if it comes back with older ones.
            tracker.watermark = max(tracker.watermark, least_ns // self._unit_ns[name])


def _unit_nanoseconds(stream: StreamDefinition) -> int:
    """Return the length of a stream's unit of event time; integers count as nanoseconds."""
    if stream.event_time is None:
        return 1
    unit = time_unit(stream.schema.field(stream.event_time).type)
    return 1 if unit == "integer" else nanoseconds_per(unit)
