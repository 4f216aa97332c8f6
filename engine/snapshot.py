"""Takes the snapshots of a running job: reads its counters, stops nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from millstream.engine.durations import nanoseconds_per, time_unit
from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END, WatermarkTracker
from millstream.engine.flow_control import FlowControl
from millstream.engine.intake import Intake
from millstream.engine.latency import LatencyHistogram
from millstream.engine.partition import Partition
from millstream.engine.stats import (
    JobStats,
    LatencyStats,
    OperatorStats,
    PartitionStats,
    SourceStats,
    StreamStats,
)
from millstream.engine.strategies import PartitioningStrategy
from millstream.engine.time_sheet import BLOCKED, IDLE
from millstream.planner.catalog import StreamDefinition

__all__ = ["Observer"]


class _StateSize(NamedTuple):
    rows: int
    bytes: int
    taken_at: float


class Observer:
    """Reads the counters of a job.

    Args:
        name: Name of the job.
        streams: Streams that it reads.
        partitions: Its partitions.
        flow: Its flow control.
        intake: Its intake.
        strategy: Deals micro-batches to partitions.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        name: str,
        streams: Mapping[str, StreamDefinition],
        partitions: Sequence[Partition],
        flow: FlowControl,
        intake: Intake,
        strategy: PartitioningStrategy,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self._streams = streams
        self._partitions = partitions
        self._flow = flow
        self._intake = intake
        self._strategy = strategy
        self._clock = clock
        self._seconds_per_unit = {
            stream.name: _seconds_per_unit(stream) for stream in streams.values()
        }
        self._state_sizes: dict[int, _StateSize] = {}

    def stats(self, state: str, *, state_age_max: float) -> JobStats:
        """Take a snapshot.

        Args:
            state: State of the job.
            state_age_max: How many seconds old the sizes of operators' states may be. To know them
                is not free where many batches are kept.
        """
        # So that streams are as far as what has been pushed; unless someone else is at it.
        self._intake.catch_up(blocking=False)
        partitions = tuple(
            self._partition(partition, state_age_max) for partition in self._partitions
        )
        rows_late = sum(part.rows_late for part in partitions)
        rows_dead = sum(part.rows_dead_lettered for part in partitions)
        # In this order, so that never more is done than was taken.
        rows_done = self._flow.in_flight.rows_done
        rows_in = sum(self._intake.rows_taken.values())
        # A row that was found late just now may belong to a micro-batch that is still under way.
        rows_processed = max(rows_done - rows_late - rows_dead, 0)
        return JobStats(
            name=self.name,
            state=state,
            rows_in=rows_in,
            rows_processed=rows_processed,
            rows_late=rows_late,
            rows_dead_lettered=rows_dead,
            rows_waiting=rows_in - rows_processed - rows_late - rows_dead,
            rows_out=sum(part.rows_out for part in partitions),
            queue_utilization=self._flow.in_flight.utilization,
            watermarks={
                name: _or_none(tracker.watermark) for name, tracker in self._intake.trackers.items()
            },
            latency=_latency(self.latencies()),
            strategy=self._strategy.name,
            strategy_counters=dict(self._strategy.counters()),
            streams=tuple(
                self._stream(name, tracker) for name, tracker in self._intake.trackers.items()
            ),
            partitions=partitions,
        )

    def latencies(self, partition: int | None = None) -> LatencyHistogram:
        """Return the latencies of the job, or those of one partition."""
        if partition is None:
            return LatencyHistogram.merged(part.latencies.items for part in self._partitions)
        return self._partitions[partition].latencies.parts

    def _partition(self, partition: Partition, state_age_max: float) -> PartitionStats:
        index, counters, sheet = partition.index, partition.counters, partition.sheet
        seconds = sheet.seconds()
        idle, blocked = seconds[IDLE], seconds[BLOCKED]
        state = self._state_size(partition, state_age_max)
        return PartitionStats(
            partition=index,
            rows_in=counters.rows_in,
            batches_in=counters.batches_in,
            bytes_in=counters.bytes_in,
            rows_processed=counters.rows_mapped,
            rows_queued=max(partition.rows_queued, 0),
            rows_late=counters.rows_late,
            rows_dead_lettered=counters.rows_dead_lettered,
            rows_out=counters.rows_out,
            batches_out=counters.batches_out,
            queue_rows=self._flow.backlog.rows[index],
            queue_bytes=self._flow.backlog.bytes[index],
            queue_utilization=self._flow.utilization(index),
            pressure=self._flow.gauges.state(index),
            pressure_seconds=self._flow.gauges.seconds(index),
            busy_seconds=sum(seconds) - idle - blocked,
            idle_seconds=idle,
            blocked_seconds=blocked,
            busy_for_seconds=sheet.busy_for(),
            blocked_for_seconds=sheet.blocked_for(),
            at_work=sheet.operator_at_work,
            operators=tuple(
                OperatorStats(name, spent) for name, spent in sheet.by_operator(seconds).items()
            ),
            state_rows=state.rows,
            state_bytes=state.bytes,
            watermarks={name: _or_none(mark) for name, mark in partition.watermarks.items()},
            watermark_lag_seconds=self._results_lag(partition.watermarks),
            latency=_latency(partition.latencies.parts),
        )

    def _state_size(self, partition: Partition, age_max: float) -> _StateSize:
        now = self._clock()
        known = self._state_sizes.get(partition.index)
        if known is not None and now - known.taken_at < age_max:
            return known
        operators = partition.pipelines.operators
        size = _StateSize(
            sum(operator.state_rows for operator in operators),
            sum(operator.state_bytes for operator in operators),
            now,
        )
        self._state_sizes[partition.index] = size
        return size

    def _results_lag(self, reached: Mapping[str, int]) -> float | None:
        lags = []
        for name, watermark in reached.items():
            unit = self._seconds_per_unit[name]
            ahead = self._intake.trackers[name].watermark
            if unit is not None and watermark != NO_WATERMARK and ahead != WATERMARK_END:
                lags.append(max(ahead - watermark, 0) * unit)
        return max(lags, default=None)

    def _stream(self, name: str, tracker: WatermarkTracker) -> StreamStats:
        intake = self._intake
        watermark, max_time = tracker.watermark, tracker.max_time
        lag = None
        if max_time is not None and watermark not in (NO_WATERMARK, WATERMARK_END):
            lag = max(max_time - watermark, 0)
        unit = self._seconds_per_unit[name]
        silent_since = intake.taken_at.get(name, intake.started_at)
        return StreamStats(
            stream=name,
            rows_in=intake.rows_taken[name] // max(intake.n_readers[name], 1),
            silent_seconds=max(self._clock() - silent_since, 0.0),
            watermark=_or_none(watermark),
            watermark_seconds=(
                None if unit is None or watermark == NO_WATERMARK else watermark * unit
            ),
            max_time=max_time,
            lag=lag,
            lag_seconds=None if lag is None or unit is None else lag * unit,
            sources=tuple(SourceStats(*source) for source in tracker.progress()),
        )


def _latency(histogram: LatencyHistogram) -> LatencyStats:
    return LatencyStats(histogram.n, *histogram.quantiles_us([0.5, 0.95, 0.99]))


def _or_none(watermark: int) -> int | None:
    return None if watermark == NO_WATERMARK else watermark


def _seconds_per_unit(stream: StreamDefinition) -> float | None:
    if stream.event_time is None:
        return None
    unit = time_unit(stream.schema.field(stream.event_time).type)
    return None if unit == "integer" else nanoseconds_per(unit) / 1e9
