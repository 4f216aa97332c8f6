"""How W1 gains by more partitions, and what the interpreter's lock leaves for more cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import pyarrow as pa

from perf.answers import check_answer
from perf.cases import Case, Measurement, Settings, Suite, throughput, timed
from perf.contenders import DataFusion, DuckDb, Millstream
from perf.contenders.engines import cores
from perf.gil import lock_share, predicted_rate
from perf.records import Outcome, Result, Sample
from perf.side_by_side import Work, side_by_side
from perf.workloads.w1 import BATCH_SQL, W1_CASE

__all__ = ["SUITE"]

_BATCH_ROWS = (65_536, 8192)
_CORES_PREDICTED = (8, 16)
_SPY_SECONDS, _SPY_SECONDS_QUICK = 5, 2
_PARTITIONS, _LOCK_SHARE, _PROCESSES = "partitions", "lock_share", "processes"


def _with_lock_share(case: Case, contender: Millstream, settings: Settings) -> Outcome:
    outcome = throughput(case, contender, settings)
    n_rows = settings.rows or (case.rows_quick if settings.is_quick else case.rows)
    run = contender.prepare(case, case.generate(n_rows)).run
    answers: list[pa.Table] = []

    def work() -> None:
        answers[:] = [run()]

    share = lock_share(work, _SPY_SECONDS_QUICK if settings.is_quick else _SPY_SECONDS)
    metrics = {_PARTITIONS: float(contender.partitions), _LOCK_SHARE: share}
    return replace(outcome, metrics=metrics)


def _alone_ready(batch_rows: int, n_rows: int) -> Work:
    """Make one partition ready, and check its answer."""
    case = _case(batch_rows)
    inputs = case.generate(n_rows)
    prepared = Millstream(1, batch_rows).prepare(case, inputs)
    check_answer(prepared.run(), case.expected(inputs), case.keys)

    def work() -> Sample:
        _, sample = timed(prepared.run)
        return sample

    return work


def _processes(case: Case, batch_rows: int, n_processes: int, settings: Settings) -> Outcome:
    """Measure as many processes as there are cores, of one partition each."""
    n_rows = settings.rows or (case.rows_quick if settings.is_quick else case.rows)
    prepare = partial(_alone_ready, batch_rows, n_rows)
    samples = side_by_side(prepare, n_processes, settings.repeats + settings.warm_ups)
    n_rows_out = case.expected(case.generate(n_rows)).num_rows
    return Outcome(
        rows_in=n_processes * n_rows,
        rows_out=n_processes * n_rows_out,
        samples=samples[settings.warm_ups :],
        metrics={_PROCESSES: float(n_processes)},
    )


def _partitions() -> list[int]:
    """Return powers of two up to the number of cores, and that number."""
    n_cores = cores()
    powers = [1 << bit for bit in range(n_cores.bit_length())]
    return sorted({*powers, n_cores})


def _case(batch_rows: int) -> Case:
    rivals = [
        contender(BATCH_SQL, threads)
        for contender in (DataFusion, DuckDb)
        for threads in _partitions()
    ]
    return replace(
        W1_CASE,
        name=f"W1, {batch_rows} rows per batch",
        contenders=tuple(rivals) if batch_rows == _BATCH_ROWS[0] else (),
    )


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    measurements = []
    for batch_rows in _BATCH_ROWS:
        case = _case(batch_rows)
        for n_partitions in _partitions():
            contender = Millstream(n_partitions, batch_rows)
            measurements.append(
                Measurement(
                    case=case.name,
                    contender=contender.name,
                    role=contender.role,
                    ran=contender.describe(case),
                    run=partial(_with_lock_share, case, contender),
                )
            )
        measurements += [
            Measurement(
                case=case.name,
                contender=f"{n_processes} processes p=1 b={batch_rows}",
                role="limit",
                ran=f"{n_processes} processes at once, which share nothing: {case.sql}",
                run=partial(_processes, case, batch_rows, n_processes),
            )
            for n_processes in _partitions()[1:]
        ]
        if not is_quick:
            measurements += case.measurements()
    return measurements


def derive(results: Sequence[Result]) -> Sequence[Result]:
    """Work out the efficiency of more partitions, and what more cores would give."""
    derived: list[Result] = []
    for case in dict.fromkeys(result.case for result in results):
        stream = [
            result
            for result in results
            if result.case == case and result.role == "millstream" and result.rate is not None
        ]
        alone = [result for result in stream if result.metrics[_PARTITIONS] == 1]
        if alone:
            limits = [
                result
                for result in results
                if result.case == case and result.role == "limit" and result.rate is not None
            ]
            derived += [
                _efficiency(result, alone[0], _PARTITIONS)
                for result in stream
                if result is not alone[0]
            ]
            derived += [_efficiency(result, alone[0], _PROCESSES) for result in limits]
            derived += [_prediction(alone[0], n_cores) for n_cores in _CORES_PREDICTED]
    return derived


def _efficiency(result: Result, alone: Result, units: str) -> Result:
    """Say what becomes of the rate of one partition in several partitions or processes."""
    assert result.rate is not None
    assert alone.rate is not None
    n_units = result.metrics[units]
    return replace(
        result,
        contender=f"efficiency of {n_units:.0f} {units}",
        role="derived",
        ran=f"rate of {result.contender} over {n_units:.0f} times that of {alone.contender}",
        samples=(),
        metrics={"efficiency": result.rate / (n_units * alone.rate)},
    )


def _prediction(alone: Result, n_cores: int) -> Result:
    assert alone.cpu_rate is not None
    rate = predicted_rate(alone.cpu_rate, alone.metrics[_LOCK_SHARE], n_cores)
    return replace(
        alone,
        contender=f"prediction for {n_cores} cores",
        role="derived",
        ran=(
            f"mean value analysis of {n_cores} cores that share one lock, each as fast as"
            f" {alone.contender} per second of processor time and with its share of the lock"
        ),
        samples=(),
        metrics={
            "million_rows_per_second": rate / 1e6,
            "efficiency": rate / (n_cores * alone.cpu_rate),
        },
    )


SUITE = Suite(
    name="scaling",
    about="W1 on 1, 2, ... partitions or processes: efficiency, share of the GIL, 8 and 16 cores.",
    measurements=_measurements,
    derive=derive,
)
