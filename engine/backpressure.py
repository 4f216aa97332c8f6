"""Backpressure: how full the queue of each partition is, who is told, and how sources are slowed.

A queue that fills up passes through the states of :data:`PressureState`. It enters a state as soon
as the state's threshold is reached, and leaves it only when it has fallen below by a margin, so
that a queue which hovers around a threshold does not flicker. Beyond the threshold of ``critical``
a push returns a little later the fuller the queues are, so that a source which is too fast comes
down to the speed of the job before it has to be stopped.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

__all__ = [
    "CRITICAL",
    "PRESSURE_STATES",
    "WARNING",
    "BackpressureEvent",
    "Gauges",
    "Listener",
    "PressureState",
    "Throttle",
    "pressure_state",
]

PressureState: TypeAlias = Literal["healthy", "warning", "critical", "saturated"]
PRESSURE_STATES: tuple[PressureState, ...] = get_args(PressureState)

# Utilization at which each state begins.
_THRESHOLDS = (0.0, 0.70, 0.85, 0.95)
# How far below its threshold a queue has to fall to leave a state.
_MARGIN = 0.05
CRITICAL = _THRESHOLDS[2]
WARNING = _THRESHOLDS[1]
# However little is known of the job's speed, one push is not held back for longer.
_DELAY_SECONDS_MAX = 0.1
# Pauses shorter than this are saved up, because to begin and end one takes its time, too.
_DELAY_SECONDS_MIN = 0.002
# The speed of a job is measured over intervals of at least this length,
_INTERVAL_SECONDS_MIN = 0.01
# and what was measured before a pause of this length is forgotten.
_MEMORY_SECONDS = 1.0
# Weight of the latest interval.
_WEIGHT = 0.3


@dataclass(frozen=True, slots=True)
class BackpressureEvent:
    """A partition's queue has become fuller or emptier.

    Attributes:
        partition: The partition.
        old_state: State before.
        new_state: State now.
        utilization: How full its queue is: 1 for full, more if a batch beyond its limit is in it.
    """

    partition: int
    old_state: PressureState
    new_state: PressureState
    utilization: float


Listener: TypeAlias = Callable[[BackpressureEvent], object]


def pressure_state(utilization: float) -> PressureState:
    """Return the state that a queue enters at a utilization, whatever was before."""
    return PRESSURE_STATES[_level(utilization)]


def _level(utilization: float) -> int:
    return sum(utilization >= threshold for threshold in _THRESHOLDS[1:])


class _Gauge:
    """The state of one partition's queue, and for how long it has been in which."""

    __slots__ = ("entered_at", "falls_below", "level", "rises_at", "seconds")

    def __init__(self, now: float) -> None:
        self.seconds = [0.0] * len(PRESSURE_STATES)
        self.entered_at = now
        self._enter(0)

    def _enter(self, level: int) -> None:
        self.level = level
        is_last = level + 1 == len(_THRESHOLDS)
        self.rises_at = float("inf") if is_last else _THRESHOLDS[level + 1]
        self.falls_below = float("-inf") if level == 0 else _THRESHOLDS[level] - _MARGIN

    def stays(self, utilization: float) -> bool:
        return self.falls_below <= utilization < self.rises_at

    def move(self, utilization: float, now: float) -> None:
        self.seconds[self.level] += now - self.entered_at
        self.entered_at = now
        if utilization >= self.rises_at:
            self._enter(_level(utilization))
        else:
            # Rounding must not let it stay where it is.
            self._enter(min(_level(utilization + _MARGIN), self.level - 1))


class Gauges:
    """Follows the states of all partitions' queues and tells a listener of changes.

    Args:
        n_partitions: Number of partitions.
        utilization: Says how full the queue of a partition is.
        clock: Seconds of a clock that never goes back.
        listener: Is told of each change in the order in which they happen, one at a time, by the
            thread that brought one about; holds no lock of the job meanwhile. May be None.
        on_error: Takes what the listener raises, and the partition.
    """

    def __init__(
        self,
        n_partitions: int,
        utilization: Callable[[int], float],
        clock: Callable[[], float],
        listener: Listener | None,
        on_error: Callable[[BaseException, int], None],
    ) -> None:
        self._utilization = utilization
        self._clock = clock
        self._listener = listener
        self._on_error = on_error
        now = clock()
        self._gauges = [_Gauge(now) for _ in range(n_partitions)]
        self._n_strained = 0
        self._moving = threading.Lock()
        self._telling = threading.Lock()
        self._untold: deque[BackpressureEvent] = deque()

    def observe(self, partition: int) -> None:
        """Bring the state of a partition up to date. Called whenever its queue has changed."""
        gauge = self._gauges[partition]
        if gauge.stays(self._utilization(partition)):
            return
        with self._moving:
            # Again after each move: whoever changed the queue meanwhile saw the old state.
            while not gauge.stays(utilization := self._utilization(partition)):
                old_state = PRESSURE_STATES[gauge.level]
                gauge.move(utilization, self._clock())
                new_state = PRESSURE_STATES[gauge.level]
                self._n_strained += (new_state != "healthy") - (old_state != "healthy")
                if self._listener is not None and new_state != old_state:
                    self._untold.append(
                        BackpressureEvent(partition, old_state, new_state, utilization)
                    )
        self._tell()

    def relieve(self, partition: int) -> None:
        """Like :meth:`observe`, but for a queue that can only have become emptier."""
        if self._gauges[partition].level > 0:
            self.observe(partition)

    @property
    def are_healthy(self) -> bool:
        """Whether all partitions are in the first state."""
        return self._n_strained == 0

    def state(self, partition: int) -> PressureState:
        """Return the state of a partition."""
        return PRESSURE_STATES[self._gauges[partition].level]

    def seconds(self, partition: int) -> dict[PressureState, float]:
        """Return for how long a partition has been in each state."""
        gauge = self._gauges[partition]
        with self._moving:
            seconds = gauge.seconds.copy()
            seconds[gauge.level] += max(self._clock() - gauge.entered_at, 0.0)
        return dict(zip(PRESSURE_STATES, seconds, strict=True))

    def _tell(self) -> None:
        """Deliver events, unless another thread is at it, which then takes ours along."""
        listener = self._listener
        # Asked again after each round: an event may come while the one who tells is leaving.
        while self._untold and listener is not None and self._telling.acquire(blocking=False):
            event = None
            try:
                while self._untold:
                    event = self._untold.popleft()
                    listener(event)
            except BaseException as error:
                self._on_error(error, -1 if event is None else event.partition)
            finally:
                self._telling.release()


class Throttle:
    """Says how long a source has to pause so that it does not run into full queues.

    Beyond the threshold of ``critical`` the pause after a batch grows in proportion to utilization,
    up to the time in which the job gets as many rows done. A source thus slows down to the speed of
    the job, at a utilization between critical and full.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._measured_at = float("-inf")
        self._rows_done = 0
        self._rows_per_second: float | None = None
        self._owed_seconds = 0.0

    def delay_seconds(self, utilization: float, n_rows: int, rows_done: int) -> float:
        """Return how long to pause after a batch; what is too short is added to the next pause.

        Args:
            utilization: How full the queues of the job are with the batch.
            n_rows: Rows of the batch.
            rows_done: Rows that the job has finished since its start.
        """
        if utilization < CRITICAL:
            self._owed_seconds = 0.0
            return 0.0
        self._measure(rows_done)
        if self._rows_per_second is None:
            return 0.0
        share = min((utilization - CRITICAL) / (1.0 - CRITICAL), 1.0)
        if self._rows_per_second * _DELAY_SECONDS_MAX <= n_rows:
            self._owed_seconds = share * _DELAY_SECONDS_MAX
        else:
            self._owed_seconds += share * n_rows / self._rows_per_second
        if self._owed_seconds < _DELAY_SECONDS_MIN:
            return 0.0
        delay, self._owed_seconds = self._owed_seconds, 0.0
        return delay

    def _measure(self, rows_done: int) -> None:
        now = self._clock()
        elapsed = now - self._measured_at
        if elapsed > _MEMORY_SECONDS:
            self._rows_per_second = None
        elif elapsed < _INTERVAL_SECONDS_MIN:
            return
        else:
            latest = (rows_done - self._rows_done) / elapsed
            before = self._rows_per_second
            self._rows_per_second = (
                latest if before is None else before + _WEIGHT * (latest - before)
            )
        self._measured_at = now
        self._rows_done = rows_done
