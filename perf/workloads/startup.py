"""The time to a first result: import, first query, and the very first one on a machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from perf.answers import WrongAnswerError
from perf.cases import Measurement, Settings, Suite
from perf.records import Outcome, Role, Sample

__all__ = ["SUITE"]

_N_ROWS, _N_GROUPS = 1000, 20

# What each program prints: seconds on the clock and of the processor for its import, the same for
# its first query, and the groups of that query.
_PROGRAM = """
import json, time
def now():
    return time.perf_counter(), time.process_time()
start = now()
{imports}
imported = now()
import pyarrow as pa
numbers = list(range({n_rows}))
t = pa.table({{
    "ts": pa.array([number * 1_000_000 for number in numbers], pa.timestamp("us")),
    "k": [number % {n_groups} for number in numbers],
    "v": numbers,
}})
ready = now()
{query}
done = now()
print(json.dumps([
    imported[0] - start[0], imported[1] - start[1], done[0] - ready[0], done[1] - ready[1], n_out
]))
"""
_QUICK = ("millstream", "datafusion", "duckdb")
_BATCH_SQL = "SELECT k, count(*) AS n, sum(v) AS total, max(v) AS greatest FROM t GROUP BY k"
_WINDOW_SQL = f"{_BATCH_SQL} WINDOW TUMBLING(ts, INTERVAL '1' DAY)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    role: Role
    imports: str
    query: str

    @property
    def text(self) -> str:
        return _PROGRAM.format(
            imports=self.imports, query=self.query, n_rows=_N_ROWS, n_groups=_N_GROUPS
        )


_PROGRAMS = {
    "millstream": _Program(
        role="millstream",
        imports="import millstream as ms",
        query=f'n_out = ms.sql("{_WINDOW_SQL}", t=t).num_rows',
    ),
    "datafusion": _Program(
        role="rival",
        imports="import datafusion",
        query="context = datafusion.SessionContext()\n"
        "context.register_record_batches('t', [t.to_batches()])\n"
        f'n_out = context.sql("{_BATCH_SQL}").to_arrow_table().num_rows',
    ),
    "duckdb": _Program(
        role="rival",
        imports="import duckdb",
        query=f'n_out = duckdb.sql("{_BATCH_SQL}").to_arrow_table().num_rows',
    ),
    "polars": _Program(
        role="rival",
        imports="import polars as pl",
        query="v = pl.col('v')\n"
        "n_out = pl.from_arrow(t).lazy().group_by('k').agg(\n"
        "    pl.len(), v.sum().alias('total'), v.max().alias('greatest')\n"
        ").collect().height",
    ),
    "pyarrow": _Program(
        role="rival",
        imports="import pyarrow",
        query="n_out = t.group_by('k').aggregate(\n"
        "    [('v', 'count'), ('v', 'sum'), ('v', 'max')]\n"
        ").num_rows",
    ),
}


def _run(program: _Program, environment: Mapping[str, str]) -> tuple[Sample, Sample, Sample]:
    """Run a program in a process of its own and return its import, its query, and both together.

    Raises:
        WrongAnswerError: The number of groups is not right.
    """
    done = subprocess.run(
        [sys.executable, "-c", program.text],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ChildProcessError(done.stderr.strip()[-300:])
    *seconds, n_out = json.loads(done.stdout)
    if n_out != _N_GROUPS:
        raise WrongAnswerError(f"{n_out} groups came out instead of {_N_GROUPS}")
    imported, queried = Sample(*seconds[:2]), Sample(*seconds[2:])
    # What is not loaded by the import is loaded by the query: only the sum can be compared.
    whole = Sample(
        imported.wall_seconds + queried.wall_seconds, imported.cpu_seconds + queried.cpu_seconds
    )
    return imported, queried, whole


def _started(place: int, program: _Program, settings: Settings) -> Outcome:
    """Measure one of the three times that a program gives, with kernels compiled before."""
    _run(program, os.environ)
    samples = [_run(program, os.environ)[place] for _ in range(settings.repeats)]
    return Outcome(rows_in=_N_ROWS, rows_out=_N_GROUPS, samples=tuple(samples))


def _first_ever(program: _Program, settings: Settings) -> Outcome:
    samples = []
    for _ in range(1 if settings.is_quick else settings.repeats):
        with tempfile.TemporaryDirectory(prefix="perf-kernels-") as folder:
            samples.append(_run(program, {**os.environ, "NUMBA_CACHE_DIR": folder})[2])
    return Outcome(rows_in=_N_ROWS, rows_out=_N_GROUPS, samples=tuple(samples))


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    everybody = tuple(_PROGRAMS)
    kinds: tuple[tuple[str, Callable[[_Program, Settings], Outcome], Sequence[str]], ...] = (
        ("import", partial(_started, 0), everybody),
        ("first query, kernels cached", partial(_started, 1), everybody),
        ("import and first query, kernels cached", partial(_started, 2), everybody),
        ("import and first query ever, kernels compiled", _first_ever, ("millstream",)),
    )
    return [
        Measurement(
            case=case,
            contender=name,
            role=_PROGRAMS[name].role,
            ran=f"{_PROGRAMS[name].imports}; {_PROGRAMS[name].query}",
            run=partial(run, _PROGRAMS[name]),
        )
        for case, run, names in kinds
        for name in names
        if not is_quick or name in _QUICK
    ]


SUITE = Suite(
    name="startup",
    about="Import, first query with kernels cached, and the first query ever; a process for each.",
    measurements=_measurements,
    has_rates=False,
)
