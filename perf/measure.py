"""Takes measurements: a fresh process for each, round by round, so that all meet the same noise."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from perf.cases import Measurement, Settings, Suite
from perf.records import Result, merged
from perf.worker import Job, Report, read_report, write_job

__all__ = ["as_result", "kernel_cache_folder", "run_suite", "worker_environment"]

_REPOSITORY = Path(__file__).resolve().parent.parent
# An engine that hangs must not hold up the whole suite.
_PROCESS_SECONDS_MAX = 600
_REASON_CHARACTERS_MAX = 400


def run_suite(
    suite: Suite,
    settings: Settings,
    *,
    n_processes: int,
    only: str = "",
    progress: Callable[[Measurement], None] = lambda measurement: None,
) -> list[Result]:
    """Take all measurements of a suite.

    Args:
        suite: What to measure.
        settings: For each process.
        n_processes: Processes per measurement; their samples are joined.
        only: Text that the case or the contender has to contain.
        progress: Called before each process is started.
    """
    chosen = [
        measurement
        for measurement in suite.measurements(settings.is_quick)
        if only in measurement.full_name
    ]
    reports: dict[tuple[str, str], list[Report]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="perf-") as folder:
        settings = replace(settings, answers=Path(folder))
        # Rounds, so that a minute in which the machine is busy does not hit one contender alone.
        for _ in range(n_processes):
            for measurement in chosen:
                so_far = reports[measurement.case, measurement.contender]
                if any(report.status != "ok" for report in so_far):
                    continue
                progress(measurement)
                so_far.append(_in_fresh_process(suite.name, measurement, settings, Path(folder)))
    results = [
        as_result(suite.name, measurement, reports[measurement.case, measurement.contender])
        for measurement in chosen
    ]
    if suite.derive is not None:
        results += suite.derive(results)
    return results


def kernel_cache_folder() -> Path:
    """Name the folder for compiled kernels: one for each state of their sources.

    Numba's disk cache does not notice an edit in a helper of another file.
    """
    digest = hashlib.sha256()
    for path in sorted((_REPOSITORY / "kernels").glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return _REPOSITORY / ".numba_cache" / f"perf-{digest.hexdigest()[:16]}"


def worker_environment() -> Mapping[str, str]:
    """Return the environment in which workers run."""
    return {**os.environ, "NUMBA_CACHE_DIR": str(kernel_cache_folder())}


def _in_fresh_process(
    suite: str, measurement: Measurement, settings: Settings, folder: Path
) -> Report:
    job_path, report_path = folder / "job.json", folder / "report.json"
    job = Job(
        suite=suite, case=measurement.case, contender=measurement.contender, settings=settings
    )
    write_job(job, job_path)
    report_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "perf.worker", str(job_path), str(report_path)]
    try:
        process = subprocess.run(
            command,
            cwd=_REPOSITORY,
            env=worker_environment(),
            capture_output=True,
            text=True,
            timeout=_PROCESS_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"was stopped after {_PROCESS_SECONDS_MAX} seconds"
        return Report(status="failed", reason=reason)
    if report_path.exists():
        return read_report(report_path)
    return Report(
        status="failed",
        reason=f"the process ended with {process.returncode}: {_last_words(process.stderr)}",
    )


def as_result(suite: str, measurement: Measurement, reports: Sequence[Report]) -> Result:
    """Join what the processes of a measurement have found; what went wrong once is wrong."""
    result = Result(
        suite=suite,
        case=measurement.case,
        contender=measurement.contender,
        role=measurement.role,
        ran=measurement.ran,
    )
    for report in reports:
        if report.status != "ok":
            return replace(result, status=report.status, reason=report.reason)
    outcome = merged([report.outcome for report in reports if report.outcome is not None])
    return replace(
        result,
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        samples=outcome.samples,
        metrics=outcome.metrics,
    )


def _last_words(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1][:_REASON_CHARACTERS_MAX] if lines else "it said nothing"
