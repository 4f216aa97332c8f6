"""Snapshots of what a job has done, where its rows are, and what its time goes into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from millstream.engine.backpressure import PressureState

__all__ = [
    "JobStats",
    "LatencyStats",
    "OperatorStats",
    "PartitionStats",
    "SourceStats",
    "StreamStats",
]


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Times from push until something is done, in microseconds.

    The quantiles are those of all times since the job began, rounded up by at most a sixteenth.

    Attributes:
        n: Number of times.
        p50_us: Median, or None if there are none.
        p95_us: 95th percentile, or None.
        p99_us: 99th percentile, or None.
    """

    n: int
    p50_us: float | None
    p95_us: float | None
    p99_us: float | None


@dataclass(frozen=True, slots=True)
class OperatorStats:
    """One node of the plan in one partition.

    Attributes:
        name: Its place in the plan, counted from the sink, and its kind.
        seconds: Time that it has taken, without the nodes behind it.
    """

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SourceStats:
    """One partition of the source of a stream with event time.

    Attributes:
        source_partition: Its number.
        max_time: The greatest event time that it has brought, or None.
        silent_seconds: Time since it brought rows or, if it has not, since the job began.
        is_idle: Whether it has been silent for the stream's idle timeout, and so does not hold the
            watermark back.
    """

    source_partition: int
    max_time: int | None
    silent_seconds: float
    is_idle: bool


@dataclass(frozen=True, slots=True)
class StreamStats:
    """One stream of a job. Event times are in units of the stream's event time column.

    Attributes:
        stream: Its name.
        rows_in: Rows that ``push`` has taken.
        silent_seconds: Time since rows were last pushed or, if none were, since the job began.
        watermark: The watermark, or None if there is none yet.
        watermark_seconds: The same in seconds of Unix time, or None if event times are mere
            integers.
        max_time: The greatest event time seen, or None.
        lag: By how much the watermark is behind that, or None.
        lag_seconds: The same in seconds, or None if event times are mere integers.
        sources: Its source partitions that are known of; none if its watermark does not depend on
            its rows.
    """

    stream: str
    rows_in: int
    silent_seconds: float
    watermark: int | None
    watermark_seconds: float | None
    max_time: int | None
    lag: int | None
    lag_seconds: float | None
    sources: tuple[SourceStats, ...]


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """One partition of a job.

    Attributes:
        partition: Its number.
        rows_in: Source rows that it has taken up.
        batches_in: Micro-batches that it has taken up.
        bytes_in: Bytes of Arrow data that it has taken up.
        rows_processed: Source rows that it is done with on its source side, late ones included.
        rows_queued: Source rows that wait in its inbox.
        rows_late: Rows that it dropped because every window that they belong to was closed.
        rows_dead_lettered: Rows that it set aside because they could not be processed.
        rows_out: Rows that it has written to its sink.
        batches_out: Batches that it has written to its sink.
        queue_rows: Source rows of all micro-batches that it has still a part in.
        queue_bytes: Bytes of those micro-batches.
        queue_utilization: How full its queue is, by the nearest limit: 1 for full, more with a
            batch that is larger than the limit.
        pressure: State of its queue: ``healthy``, ``warning``, ``critical`` or ``saturated``.
        pressure_seconds: For how long it has been in each state.
        busy_seconds: Time spent computing.
        idle_seconds: Time spent waiting for something to do.
        blocked_seconds: Time spent waiting for its sinks to take batches.
        busy_for_seconds: For how long it has been at what it is doing, sinks included; 0 if idle.
        blocked_for_seconds: For how long a sink has not returned; 0 if none is being written to.
        at_work: The node of the plan that is at work, or None.
        operators: What the busy time went into.
        state_rows: Groups and rows that it holds in state.
        state_bytes: Bytes that it holds in state.
        watermarks: Per stream the watermark that its results have reached, or None.
        watermark_lag_seconds: How far its results are behind the watermarks of their streams, or
            None if event times are mere integers, or there is no watermark.
        latency: Times from push until it has done its part.
    """

    partition: int
    rows_in: int
    batches_in: int
    bytes_in: int
    rows_processed: int
    rows_queued: int
    rows_late: int
    rows_dead_lettered: int
    rows_out: int
    batches_out: int
    queue_rows: int
    queue_bytes: int
    queue_utilization: float
    pressure: PressureState
    pressure_seconds: Mapping[PressureState, float]
    busy_seconds: float
    idle_seconds: float
    blocked_seconds: float
    busy_for_seconds: float
    blocked_for_seconds: float
    at_work: str | None
    operators: tuple[OperatorStats, ...]
    state_rows: int
    state_bytes: int
    watermarks: Mapping[str, int | None]
    watermark_lag_seconds: float | None
    latency: LatencyStats

    @property
    def busy_share(self) -> float:
        """Share of its time that it has been computing."""
        return 1.0 - self.idle_share - self.blocked_share

    @property
    def idle_share(self) -> float:
        """Share of its time that it has had nothing to do."""
        total = self._total_seconds
        return self.idle_seconds / total if total > 0 else 1.0

    @property
    def blocked_share(self) -> float:
        """Share of its time that it has waited for its sinks."""
        total = self._total_seconds
        return self.blocked_seconds / total if total > 0 else 0.0

    @property
    def _total_seconds(self) -> float:
        return self.busy_seconds + self.idle_seconds + self.blocked_seconds


@dataclass(frozen=True, slots=True)
class JobStats:
    """A job at one moment; prints as a table.

    ``rows_in = rows_processed + rows_late + rows_dead_lettered + rows_waiting`` holds. A stream
    that a query reads in two places counts each of its rows twice.

    Attributes:
        name: Name of the job.
        state: ``running``, ``finished``, ``cancelled`` or ``failed``.
        rows_in: Rows that ``push`` has taken.
        rows_processed: Rows whose effect is in the state or at the sink, those that a filter
            dropped included.
        rows_late: Rows dropped because every window that they belong to was closed.
        rows_dead_lettered: Rows set aside because they could not be processed.
        rows_waiting: Rows in queues or in process.
        rows_out: Rows written to the sinks.
        queue_utilization: How much of what the job may hold it does hold, by the nearest limit.
        watermarks: Per stream the watermark in units of its event time, or None if there is none
            yet.
        latency: Times from push until all results of the micro-batch are at the sinks; where a
            query collects for windows, until it is in their state, and from the push that closes a
            window until its results are there.
        strategy: Name of the partitioning strategy.
        strategy_counters: What it has counted.
        streams: The same by stream.
        partitions: The same by partition.
    """

    name: str
    state: str
    rows_in: int
    rows_processed: int
    rows_late: int
    rows_dead_lettered: int
    rows_waiting: int
    rows_out: int
    queue_utilization: float
    watermarks: Mapping[str, int | None]
    latency: LatencyStats
    strategy: str
    strategy_counters: Mapping[str, int]
    streams: tuple[StreamStats, ...]
    partitions: tuple[PartitionStats, ...]

    @property
    def latency_p50_us(self) -> float | None:
        """Median of :attr:`latency`."""
        return self.latency.p50_us

    @property
    def latency_p95_us(self) -> float | None:
        """95th percentile of :attr:`latency`."""
        return self.latency.p95_us

    @property
    def latency_p99_us(self) -> float | None:
        """99th percentile of :attr:`latency`."""
        return self.latency.p99_us

    def __str__(self) -> str:
        latency = ", ".join(
            f"{name} {_microseconds(value)}"
            for name, value in (
                ("p50", self.latency.p50_us),
                ("p95", self.latency.p95_us),
                ("p99", self.latency.p99_us),
            )
        )
        counters = ", ".join(f"{name} {count}" for name, count in self.strategy_counters.items())
        lines = [
            f"{self.name} {self.state}: {self.rows_in} rows in = {self.rows_processed} processed"
            f" + {self.rows_late} late + {self.rows_dead_lettered} dead-lettered"
            f" + {self.rows_waiting} waiting; {self.rows_out} rows out",
            f"latency {latency}; queues {self.queue_utilization:.0%} full;"
            f" {self.strategy} ({counters})",
            *(f"stream {_describe(stream)}" for stream in self.streams),
            *_table(self.partitions),
        ]
        return "\n".join(lines)


_COLUMNS: tuple[tuple[str, Callable[[PartitionStats], str]], ...] = (
    ("partition", lambda part: str(part.partition)),
    ("rows_in", lambda part: str(part.rows_in)),
    ("batches_in", lambda part: str(part.batches_in)),
    ("late", lambda part: str(part.rows_late)),
    ("dead", lambda part: str(part.rows_dead_lettered)),
    ("rows_out", lambda part: str(part.rows_out)),
    ("queue", lambda part: f"{part.queue_utilization:.0%}"),
    ("pressure", lambda part: part.pressure),
    ("busy", lambda part: f"{part.busy_share:.0%}"),
    ("idle", lambda part: f"{part.idle_share:.0%}"),
    ("blocked", lambda part: f"{part.blocked_share:.0%}"),
    ("state_rows", lambda part: str(part.state_rows)),
    ("state_bytes", lambda part: str(part.state_bytes)),
    ("p95", lambda part: _microseconds(part.latency.p95_us)),
)


def _table(partitions: Sequence[PartitionStats]) -> list[str]:
    rows = [[name for name, _ in _COLUMNS]]
    rows += [[show(part) for _, show in _COLUMNS] for part in partitions]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]


def _describe(stream: StreamStats) -> str:
    lag = "" if stream.lag is None else f", {stream.lag} behind"
    watermark = "no watermark" if stream.watermark is None else f"watermark {stream.watermark}{lag}"
    return f"{stream.stream}: {stream.rows_in} rows, {watermark}"


def _microseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} us"
