"""Says in words why nothing comes out of a job, or what holds its results back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.engine.event_time import WATERMARK_END
from millstream.engine.operators.base import HeldBack, HoldsBack, Operator
from millstream.engine.plan_shape import walk
from millstream.engine.runtime import Runtime
from millstream.engine.stats import JobStats, PartitionStats, SourceStats, StreamStats
from millstream.planner import nodes
from millstream.planner.catalog import StreamDefinition

__all__ = ["Diagnosis", "Finding", "diagnose"]

# A sink or an operator that takes longer than this for one message is worth a word.
_SLOW_SECONDS = 1.0
# How long to wait for what partitions that are at work have to say.
_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason for which results wait or are missing.

    Attributes:
        kind: ``state``, ``no_input``, ``watermark``, ``held_back``, ``late``, ``sink``,
            ``operator``, ``queue``, ``filtered``, ``end_of_input`` or ``none``.
        text: A sentence.
        stream: The stream concerned, or None.
        partition: The partition concerned, or None.
    """

    kind: str
    text: str
    stream: str | None = None
    partition: int | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What has been found out about a job, the most pressing first; prints as sentences."""

    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        return "\n".join(finding.text for finding in self.findings)


def diagnose(runtime: Runtime) -> Diagnosis:
    """Look a job over."""
    case = _Case(runtime)
    findings = tuple(case.findings())
    if not findings:
        findings = (Finding("none", "Nothing holds results back: all input has been processed."),)
    return Diagnosis(findings)


class _Case:
    def __init__(self, runtime: Runtime) -> None:
        self._stats: JobStats = runtime.stats()
        self._streams: Mapping[str, StreamDefinition] = runtime.streams
        self._plan = list(walk(runtime.root))
        self._held_back = _held_back(runtime, self._stats)
        self._error = runtime.error

    def findings(self) -> Iterator[Finding]:
        if self._stats.state != "running":
            yield self._ended()
            return
        for partition in self._stats.partitions:
            yield from self._held_up(partition)
        for stream in self._stats.streams:
            yield from self._input(stream)
        yield from self._late()
        for stream in self._stats.streams:
            if self._is_timed and self._streams[stream.stream].event_time is not None:
                yield from self._watermark(stream)
        yield from self._open()
        yield from self._silent_query()

    @property
    def _is_timed(self) -> bool:
        """Whether results wait for event time."""
        return any(
            isinstance(node, nodes.WindowSelect)
            or (isinstance(node, nodes.Over) and node.order_column is not None)
            or (isinstance(node, nodes.Aggregate) and node.window is not None)
            for node in self._plan
        )

    def _ended(self) -> Finding:
        if self._error is not None:
            return Finding("state", f"The job has failed: {self._error}.")
        return Finding("state", f"The job is {self._stats.state}: nothing more comes out.")

    def _held_up(self, part: PartitionStats) -> Iterator[Finding]:
        index = part.partition
        if part.blocked_for_seconds >= _SLOW_SECONDS:
            yield Finding(
                "sink",
                f"The sink of partition {index} has not returned for"
                f" {_seconds(part.blocked_for_seconds)}; {_rows(part.queue_rows)} wait behind it.",
                partition=index,
            )
        elif part.busy_for_seconds >= _SLOW_SECONDS:
            place = "" if part.at_work is None else f" in {part.at_work}"
            yield Finding(
                "operator",
                f"Partition {index} has been at work{place} for"
                f" {_seconds(part.busy_for_seconds)} on one message.",
                partition=index,
            )
        if part.pressure != "healthy":
            yield Finding(
                "queue",
                f"The queue of partition {index} is {part.pressure}:"
                f" {part.queue_utilization:.0%} full.",
                partition=index,
            )

    def _input(self, stream: StreamStats) -> Iterator[Finding]:
        silent = _seconds(stream.silent_seconds)
        if stream.rows_in == 0:
            text = f"No rows have come on stream {stream.stream!r} in the {silent} of the job."
        elif stream.silent_seconds >= _SLOW_SECONDS:
            text = f"No rows have come on stream {stream.stream!r} for {silent}."
        else:
            return
        yield Finding("no_input", text, stream=stream.stream)

    def _late(self) -> Iterator[Finding]:
        late, seen = self._stats.rows_late, self._stats.rows_processed + self._stats.rows_late
        if late > 0 and 2 * late >= seen:
            share = "All" if late >= seen else f"{late / seen:.0%} of the"
            yield Finding(
                "late",
                f"{share} {_rows(seen)} so far came too late: every window that they belong to was"
                " closed. A larger max_out_of_orderness or an allowed_lateness would take them in;"
                " a late_sink would show them.",
            )

    def _watermark(self, stream: StreamStats) -> Iterator[Finding]:
        definition = self._streams[stream.stream]
        if stream.watermark == WATERMARK_END or stream.rows_in == 0:
            return
        type_ = definition.schema.field(definition.event_time).type
        name = f"The watermark of stream {stream.stream!r}"
        stands = (
            f"{name} has not begun"
            if stream.watermark is None
            else f"{name} stands at {_event_time(stream.watermark, type_)}"
        )
        yield Finding("watermark", stands + _why(stream, type_) + ".", stream=stream.stream)

    def _open(self) -> Iterator[Finding]:
        for kind, verb in (("window", "closes"), ("session", "ends"), ("row", "comes out")):
            found = [held for held in self._held_back if held.kind == kind]
            times = np.concatenate([np.empty(0, np.int64), *(held.times for held in found)])
            if kind == "window":
                # Partitions share windows, and so do the operators before and behind an exchange.
                times = np.unique(times)
            if len(times) == 0:
                continue
            subject = f"1 {kind} is" if len(times) == 1 else f"{len(times)} {kind}s are"
            yield Finding(
                "held_back",
                f"{subject} held back; the next {verb} when the watermark reaches"
                f" {_event_time(int(times.min()), found[0].time_type)}.",
            )

    def _silent_query(self) -> Iterator[Finding]:
        stats = self._stats
        if stats.rows_out > 0 or stats.rows_processed == 0:
            return
        if any(
            isinstance(node, nodes.Aggregate) and node.emit == "final" and node.window is None
            for node in self._plan
        ):
            yield Finding(
                "end_of_input",
                "The query gives final results of groups without a window: they come when the"
                " input ends, at finish().",
            )
        elif not self._is_timed and stats.rows_waiting == 0:
            yield Finding(
                "filtered",
                f"{_rows(stats.rows_processed)} have been processed and none has passed the"
                " conditions of the query.",
            )


def _why(stream: StreamStats, type_: pa.DataType) -> str:
    """Say which source partition holds a watermark back, if one does."""
    waited_for = [source for source in stream.sources if not source.is_idle]
    idle = len(stream.sources) - len(waited_for)
    if len(stream.sources) < 2 or not waited_for:
        return _lag(stream)
    slowest = min(waited_for, key=_progress)
    left_out = "" if idle == 0 else f"; idle and not waited for: {idle} of {len(stream.sources)}"
    if slowest.max_time is None:
        return (
            f" because source partition {slowest.source_partition} has brought no rows for"
            f" {_seconds(slowest.silent_seconds)}{left_out}"
        )
    return (
        f" because source partition {slowest.source_partition} is the furthest behind, at"
        f" {_event_time(slowest.max_time, type_)}, and has brought no rows for"
        f" {_seconds(slowest.silent_seconds)}{left_out}"
    )


def _lag(stream: StreamStats) -> str:
    if not stream.lag:
        return ""
    lag = str(stream.lag) if stream.lag_seconds is None else _seconds(stream.lag_seconds)
    return f", {lag} behind the latest row"


def _progress(source: SourceStats) -> tuple[bool, int]:
    return (source.max_time is not None, source.max_time or 0)


def _held_back(runtime: Runtime, stats: JobStats) -> list[HeldBack]:
    """Ask all partitions what waits for the watermark, unless they are not going to answer soon."""
    if stats.state != "running":
        return []
    free = [part.partition for part in stats.partitions if part.busy_for_seconds < _SLOW_SECONDS]
    answers = runtime.ask(_what_is_held_back, free, _ANSWER_SECONDS)
    return [held for answer in answers for held in answer]


def _what_is_held_back(operators: Sequence[Operator]) -> list[HeldBack]:
    found = [operator.held_back() for operator in operators if isinstance(operator, HoldsBack)]
    return [held for held in found if held is not None]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s"


def _rows(n_rows: int) -> str:
    return f"{n_rows} row" if n_rows == 1 else f"{n_rows} rows"


def _event_time(value: int, type_: pa.DataType) -> str:
    """Write an event time as its column would show it."""
    if pa.types.is_integer(type_):
        return str(value)
    storage = pa.int32() if type_.bit_width == 32 else pa.int64()
    return str(pa.array([value], storage).view(type_).cast(pa.string())[0])
