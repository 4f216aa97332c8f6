"""The process that measures one thing and ends: ``python -m perf.worker JOB OUTCOME``.

It reads from the file JOB what to measure, and writes to the file OUTCOME what it found. Whatever
goes wrong is told there as well; without that file, the process itself broke.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perf.answers import WrongAnswerError
from perf.cases import Measurement, RefusedError, Settings
from perf.records import Outcome, Sample, Status
from perf.workloads import suite

__all__ = ["Job", "Report", "main", "measure", "read_job", "read_report", "write_job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Which measurement to take, and how."""

    suite: str
    case: str
    contender: str
    settings: Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of it: an outcome if it is ok, and a reason if not."""

    status: Status
    outcome: Outcome | None = None
    reason: str = ""


def main(arguments: list[str]) -> None:
    """Measure what one file says and write what came of it to another."""
    job_path, report_path = map(Path, arguments)
    job = read_job(job_path)
    chosen = [
        measurement
        for measurement in suite(job.suite).measurements(job.settings.is_quick)
        if (measurement.case, measurement.contender) == (job.case, job.contender)
    ]
    (measurement,) = chosen
    report_path.write_text(json.dumps(asdict(measure(measurement, job.settings))))


def measure(measurement: Measurement, settings: Settings) -> Report:
    """Take a measurement in this process; never raises."""
    try:
        return Report(status="ok", outcome=measurement.run(settings))
    except RefusedError as error:
        return Report(status="refused", reason=str(error))
    except WrongAnswerError as error:
        return Report(status="wrong", reason=str(error))
    except Exception as error:
        # The suite goes on without this line, and its last lines are enough to find the place.
        traceback.print_exc()
        return Report(status="failed", reason=f"{type(error).__name__}: {error}")


def write_job(job: Job, path: Path) -> None:
    """Write a job for a worker to read."""
    content = asdict(job)
    answers = job.settings.answers
    content["settings"]["answers"] = None if answers is None else str(answers)
    path.write_text(json.dumps(content))


def read_report(path: Path) -> Report:
    """Read what a worker has written."""
    content: dict[str, Any] = json.loads(path.read_text())
    outcome = content["outcome"]
    if outcome is not None:
        samples = tuple(Sample(**sample) for sample in outcome["samples"])
        content["outcome"] = Outcome(**{**outcome, "samples": samples})
    return Report(**content)


def read_job(path: Path) -> Job:
    """Read what to measure."""
    content: dict[str, Any] = json.loads(path.read_text())
    settings = content["settings"]
    answers = settings["answers"]
    settings["answers"] = None if answers is None else Path(answers)
    return Job(**{**content, "settings": Settings(**settings)})


if __name__ == "__main__":
    main(sys.argv[1:])
