"""What a run of the harness leaves behind: results with all their samples, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal, TypeAlias

__all__ = [
    "Outcome",
    "Record",
    "RecordError",
    "Result",
    "Role",
    "Sample",
    "Status",
    "best_rival_rate",
    "merged",
    "read_record",
    "write_record",
]

_FORMAT = 1

Role: TypeAlias = Literal["millstream", "rival", "limit", "derived"]
Status: TypeAlias = Literal["ok", "refused", "failed", "wrong"]


class RecordError(Exception):
    """A file is no record of this harness."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed repeat.

    Attributes:
        wall_seconds: Time on the clock.
        cpu_seconds: Processor time of all threads of the process; what a busy machine spoils least.
    """

    wall_seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one process measured, its answer checked.

    Attributes:
        rows_in: Rows that each repeat took.
        rows_out: Rows that each repeat gave.
        samples: The timed repeats.
        metrics: Further figures, each with its unit in its name.
    """

    rows_in: int
    rows_out: int
    samples: tuple[Sample, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One line of a table.

    Attributes:
        suite: Command that it belongs to.
        case: What was to be computed.
        contender: Who computed it.
        role: Millstream, one that it is compared with, a limit of the machine, or a figure that was
            worked out from other results.
        ran: The query or the procedure, in words or SQL.
        rows_in: Rows that each repeat took.
        rows_out: Rows that each repeat gave.
        samples: Timed repeats of all processes.
        metrics: Further figures, each with its unit in its name.
        status: ``ok``; ``refused`` if the engine does not offer this; ``failed`` if it broke;
            ``wrong`` if the answer was.
        reason: Why it is not ok.
    """

    suite: str
    case: str
    contender: str
    role: Role
    ran: str
    rows_in: int = 0
    rows_out: int = 0
    samples: tuple[Sample, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    status: Status = "ok"
    reason: str = ""

    @property
    def name(self) -> tuple[str, str, str]:
        """What identifies the result over several records."""
        return self.suite, self.case, self.contender

    @property
    def wall_seconds(self) -> float | None:
        """Median over the repeats."""
        return median(sample.wall_seconds for sample in self.samples) if self._is_timed else None

    @property
    def cpu_seconds(self) -> float | None:
        """Median over the repeats."""
        return median(sample.cpu_seconds for sample in self.samples) if self._is_timed else None

    @property
    def spread(self) -> float | None:
        """Distance between the slowest and the fastest repeat, as a share of the median."""
        if not self._is_timed:
            return None
        walls = [sample.wall_seconds for sample in self.samples]
        return (max(walls) - min(walls)) / median(walls)

    @property
    def rate(self) -> float | None:
        """Rows in per second on the clock; None without a right answer."""
        seconds = self.wall_seconds
        return self.rows_in / seconds if seconds else None

    @property
    def cpu_rate(self) -> float | None:
        """Rows in per second of processor time; None without a right answer."""
        seconds = self.cpu_seconds
        return self.rows_in / seconds if seconds else None

    @property
    def _is_timed(self) -> bool:
        return self.status == "ok" and bool(self.samples)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One run of the harness.

    Attributes:
        machine: What it ran on.
        settings: How it was asked to run.
        results: What it found.
    """

    machine: dict[str, Any]
    settings: dict[str, Any]
    results: tuple[Result, ...]


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Join what several processes measured of the same thing: all samples, medians of metrics."""
    first = outcomes[0]
    metrics = {
        name: median(outcome.metrics[name] for outcome in outcomes if name in outcome.metrics)
        for name in first.metrics
    }
    samples = tuple(sample for outcome in outcomes for sample in outcome.samples)
    return Outcome(rows_in=first.rows_in, rows_out=first.rows_out, samples=samples, metrics=metrics)


def best_rival_rate(results: Sequence[Result], suite: str, case: str) -> float | None:
    """Return the highest rate of those that Millstream is compared with in a case."""
    rates = [
        result.rate
        for result in results
        if (result.suite, result.case) == (suite, case)
        and result.role == "rival"
        and result.rate is not None
    ]
    return max(rates, default=None)


def write_record(record: Record, path: Path) -> None:
    """Write a record as JSON, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": _FORMAT, **asdict(record)}, indent=1) + "\n")


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        RecordError: The file is missing or no record.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != _FORMAT:
            raise RecordError(f"{path}: format must be {_FORMAT}: {content['format']!r}")
        results = tuple(
            Result(**{**entry, "samples": tuple(Sample(**sample) for sample in entry["samples"])})
            for entry in content["results"]
        )
        return Record(machine=content["machine"], settings=content["settings"], results=results)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path} is not a record of this harness: {error!r}") from error
