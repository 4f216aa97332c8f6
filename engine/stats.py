"""Snapshots of what a job has done and where its rows are."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["JobStats", "PartitionStats"]


@dataclass(frozen=True, slots=True)
class PartitionStats:
    """One partition of a job.

    Attributes:
        partition: Its number.
        rows_in: Source rows that it has taken up.
        batches_in: Micro-batches that it has taken up.
        bytes_in: Bytes of Arrow data that it has taken up.
        rows_queued: Source rows that wait in its inbox.
        rows_late: Rows that it dropped because every window that they belong to was closed.
        rows_dead_lettered: Rows that it set aside because they could not be processed.
        rows_out: Rows that it has written to its sink.
        batches_out: Batches that it has written to its sink.
        state_rows: Groups and rows that it holds in state.
        state_bytes: Bytes that it holds in state.
    """

    partition: int
    rows_in: int
    batches_in: int
    bytes_in: int
    rows_queued: int
    rows_late: int
    rows_dead_lettered: int
    rows_out: int
    batches_out: int
    state_rows: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class JobStats:
    """A job at one moment.

    ``rows_in = rows_processed + rows_late + rows_dead_lettered + rows_waiting`` holds. A stream
    that a query reads in two places counts each of its rows twice.

    Attributes:
        state: ``running``, ``finished``, ``cancelled`` or ``failed``.
        rows_in: Rows that ``push`` has taken.
        rows_processed: Rows whose effect is in the state or at the sink, those that a filter
            dropped included.
        rows_late: Rows dropped because every window that they belong to was closed.
        rows_dead_lettered: Rows set aside because they could not be processed.
        rows_waiting: Rows in queues or in process.
        rows_out: Rows written to the sinks.
        watermarks: Per stream the watermark in units of its event time, or None if there is none
            yet.
        latency_p50_us: Median time from push until all results of the micro-batch are at the sink,
            in microseconds.
        latency_p95_us: 95th percentile of that.
        latency_p99_us: 99th percentile of that.
        partitions: The same by partition.
    """

    state: str
    rows_in: int
    rows_processed: int
    rows_late: int
    rows_dead_lettered: int
    rows_waiting: int
    rows_out: int
    watermarks: dict[str, int | None]
    latency_p50_us: float | None
    latency_p95_us: float | None
    latency_p99_us: float | None
    partitions: tuple[PartitionStats, ...]

    def __str__(self) -> str:
        names = [field.name for field in fields(PartitionStats)]
        rows = [names] + [[str(getattr(part, name)) for name in names] for part in self.partitions]
        widths = [max(len(row[index]) for row in rows) for index in range(len(names))]
        table = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        latency = ", ".join(
            f"{name} {'-' if value is None else f'{value:.0f} us'}"
            for name, value in (
                ("p50", self.latency_p50_us),
                ("p95", self.latency_p95_us),
                ("p99", self.latency_p99_us),
            )
        )
        total = (
            f"{self.state}: {self.rows_in} rows in = {self.rows_processed} processed"
            f" + {self.rows_late} late + {self.rows_dead_lettered} dead-lettered"
            f" + {self.rows_waiting} waiting; {self.rows_out} rows out"
        )
        return "\n".join([total, f"latency {latency}; watermarks {self.watermarks}", *table])
