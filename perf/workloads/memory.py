"""Memory: what a group costs, and whether a job that runs on and on grows."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from perf.answers import WrongAnswerError
from perf.cases import (
    Case,
    Contender,
    Inputs,
    Measurement,
    RefusedError,
    Settings,
    StreamSpec,
    Suite,
)
from perf.contenders import BatchSql, DataFusion, DuckDb, Millstream
from perf.contenders.stream import micro_batches, plan
from perf.records import Outcome, Sample
from perf.workloads.w1 import N_KEYS, ROWS_PER_SECOND, SQL

__all__ = ["SUITE", "growth_bytes_per_million_rows"]

F64: TypeAlias = npt.NDArray[np.float64]

_N_GROUPS, _N_GROUPS_QUICK = 4_000_000, 500_000
_BATCH_ROWS = 65_536
_GROUPS_SQL = BatchSql(
    "SELECT k, count(*) AS n, sum(v) AS total, max(v) AS greatest FROM t GROUP BY k"
)
_GROWTH_SECONDS, _GROWTH_SECONDS_QUICK = 30.0, 4.0
_SAMPLE_EVERY_BATCHES = 20
_WARM_UP_SHARE = 0.4


def resident_bytes() -> int:
    """Return the memory that this process occupies now.

    Raises:
        RefusedError: The system does not tell.
    """
    path = Path("/proc/self/statm")
    if not path.exists():
        raise RefusedError("the memory in use is read from /proc, which this system has not")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the most memory that this process has occupied so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def growth_bytes_per_million_rows(rows: F64, resident: F64) -> float:
    """Fit a line through memory over rows and return its slope."""
    slope: float = np.polyfit(rows / 1e6, resident, 1)[0]
    return float(slope)


def _distinct_keys(n_rows: int) -> Inputs:
    """Make as many keys as rows, in an order that is not theirs."""
    keys = np.random.default_rng(3).permutation(n_rows)
    return {"t": pa.table({"k": keys, "v": keys % 1000})}


_CASE = Case(
    name="all keys distinct",
    rows=_N_GROUPS,
    rows_quick=_N_GROUPS_QUICK,
    generate=_distinct_keys,
    streams=(StreamSpec(name="t"),),
    sql=f"{_GROUPS_SQL.text} EMIT FINAL",
    keys=("k",),
    expected=lambda inputs: inputs["t"],
    contenders=(),
)


def _n_rows(settings: Settings) -> int:
    return settings.rows or (_CASE.rows_quick if settings.is_quick else _CASE.rows)


def _warm(contender: Contender, prepare_rows: int = 1000) -> None:
    """Load code and compile kernels, which are no group's memory."""
    contender.prepare(_CASE, _distinct_keys(prepare_rows)).run()


def _state(contender: Millstream, settings: Settings) -> Outcome:
    """Measure a job that holds its groups and has not emitted them yet."""
    n_groups = _n_rows(settings)
    _warm(contender)
    inputs = _distinct_keys(n_groups)
    pushes = micro_batches(_CASE, inputs, contender.batch_rows)
    job = plan(_CASE, inputs, contender.partitions).start(sink=lambda batch: None)
    before = resident_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    for stream, batch in pushes:
        job.push(stream, batch)
    while job.stats().rows_waiting > 0:
        time.sleep(0.01)
    sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
    resident, stats = resident_bytes() - before, job.stats()
    job.finish()
    if job.stats().rows_out != n_groups:
        raise WrongAnswerError(f"{job.stats().rows_out} groups came out instead of {n_groups}")
    n_state = sum(partition.state_rows for partition in stats.partitions)
    n_bytes = sum(partition.state_bytes for partition in stats.partitions)
    return Outcome(
        rows_in=n_groups,
        rows_out=n_groups,
        samples=(sample,),
        metrics={
            "resident_bytes_per_group": resident / n_groups,
            "state_bytes_per_group": n_bytes / n_state,
        },
    )


def _peak(contender: Contender, settings: Settings) -> Outcome:
    """Measure the peak of the whole computation, with its result."""
    n_groups = _n_rows(settings)
    _warm(contender)
    prepared = contender.prepare(_CASE, _distinct_keys(n_groups))
    before = resident_bytes()
    cpu, wall = time.process_time(), time.perf_counter()
    answer = prepared.run()
    sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
    peak = max(peak_bytes() - before, 0)
    if answer.num_rows != n_groups or pc.sum(answer["n"]).as_py() != n_groups:
        raise WrongAnswerError(f"{answer.num_rows} groups came out instead of {n_groups}")
    return Outcome(
        rows_in=n_groups,
        rows_out=answer.num_rows,
        samples=(sample,),
        metrics={"peak_bytes_per_group": peak / n_groups},
    )


@dataclass(frozen=True, slots=True)
class _EndlessTicks:
    """Batches of W1 without end, in little memory: only the times are new in each."""

    batch_rows: int

    def batch(self, number: int) -> pa.RecordBatch:
        first = number * self.batch_rows
        times = np.arange(first, first + self.batch_rows) * (1_000_000 // ROWS_PER_SECOND)
        keys = (np.arange(self.batch_rows) * 7919 + number) % N_KEYS
        return pa.record_batch(
            {"ts": pa.array(times, pa.timestamp("us")), "k": keys, "v": keys % 1000}
        )


def _growth(contender: Millstream, settings: Settings) -> Outcome:
    import millstream as ms

    ticks = _EndlessTicks(contender.batch_rows)
    session = ms.Session(partitions=contender.partitions)
    session.create_stream("ticks", ticks.batch(0).schema, event_time="ts")
    n_out = [0]
    counted: list[int] = []

    def sink(batch: pa.RecordBatch) -> None:
        n_out[0] += batch.num_rows
        counted.append(pc.sum(batch.column("n")).as_py())

    seconds = _GROWTH_SECONDS_QUICK if settings.is_quick else _GROWTH_SECONDS
    rows, resident = [], []
    cpu, wall = time.process_time(), time.perf_counter()
    with session.sql(SQL).start(sink=sink) as job:
        number = 0
        while time.perf_counter() - wall < seconds:
            job.push("ticks", ticks.batch(number))
            number += 1
            if number % _SAMPLE_EVERY_BATCHES == 0:
                rows.append(number * contender.batch_rows)
                resident.append(resident_bytes())
    sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
    n_rows = number * contender.batch_rows
    if sum(counted) != n_rows:
        raise WrongAnswerError(f"{sum(counted)} rows were counted instead of {n_rows}")
    first = int(len(rows) * _WARM_UP_SHARE)
    rows_array = np.array(rows[first:], np.float64)
    resident_array = np.array(resident[first:], np.float64)
    return Outcome(
        rows_in=n_rows,
        rows_out=n_out[0],
        samples=(sample,),
        metrics={
            "growth_bytes_per_million_rows": growth_bytes_per_million_rows(
                rows_array, resident_array
            ),
            "resident_mib_after_warm_up": resident_array[0] / 2**20,
            "resident_mib_at_end": resident_array[-1] / 2**20,
        },
    )


def _measurement(
    case: str,
    contender: Contender,
    ran: str,
    run: Callable[[Settings], Outcome],
) -> Measurement:
    return Measurement(case=case, contender=contender.name, role=contender.role, ran=ran, run=run)


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    stream = (Millstream(1, _BATCH_ROWS), Millstream(2, _BATCH_ROWS))
    everybody: tuple[Contender, ...] = (*stream, DataFusion(_GROUPS_SQL), DuckDb(_GROUPS_SQL))
    return [
        *(
            _measurement(
                "state, all keys distinct",
                contender,
                f"{_CASE.sql}  -- memory of the job while it holds all groups",
                partial(_state, contender),
            )
            for contender in stream
        ),
        *(
            _measurement(
                "peak, all keys distinct",
                contender,
                f"{contender.describe(_CASE)}  -- peak of memory, the result included",
                partial(_peak, contender),
            )
            for contender in everybody
        ),
        *(
            _measurement(
                "growth, windows on and on",
                contender,
                f"{SQL}  -- pushed without end; slope of memory over rows",
                partial(_growth, contender),
            )
            for contender in stream
        ),
    ]


SUITE = Suite(
    name="memory",
    about="Bytes per group, the peak of a GROUP BY, and growth of a job that runs on and on.",
    measurements=_measurements,
    has_rates=False,
)
