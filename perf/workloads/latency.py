"""Time from a push until its results are at the sink.

Pushes come at fixed rates that do not wait for results, which is what a user's data does. Between
two of them a processor may fall asleep, and to wake up takes longer than many a query: so filters
are also given one push at a time, each when the results of the one before have come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from perf.answers import WrongAnswerError, last_versions
from perf.cases import Measurement, RefusedError, Settings, Suite
from perf.records import Outcome, Sample

__all__ = ["SUITE", "Arrivals", "closed_loop", "open_loop", "percentiles"]

I64: TypeAlias = npt.NDArray[np.int64]

_PUSH_ROWS = (1, 10, 100, 1000, 10_000)
_PUSHES_PER_SECOND = (100, 1000)
# Instead of a rate: the next push when the one before has its results.
_ONE_AT_A_TIME = 0
# A processor that is asked for this many rows per second would measure its queue, not its latency.
_ROWS_PER_SECOND_MAX = 2_000_000
_SECONDS, _SECONDS_QUICK = 4.0, 1.0
_N_ONE_AT_A_TIME, _N_ONE_AT_A_TIME_QUICK = 4000, 400
_WARM_UP_SHARE = 0.2
_WARM_UP_PUSHES = 50
_WAIT_SECONDS_MAX = 60.0
_N_KEYS = 100
_PERCENTILES = ((50.0, "p50_us"), (95.0, "p95_us"), (99.0, "p99_us"), (99.9, "p99_9_us"))
_SCHEMA = pa.schema({"push": pa.int64(), "k": pa.int64(), "v": pa.int64()})

_FILTER_SQL = "SELECT push, k, v * 2 AS doubled FROM t WHERE v >= 0"
_CHANGES_SQL = "SELECT k, count(*) AS n, sum(v) AS total, max(push) AS push FROM t GROUP BY k"


class Arrivals:
    """The sink: notes when the results of each push have come."""

    def __init__(self, n_pushes: int) -> None:
        self._at_ns = np.zeros(n_pushes, np.int64)
        self._has_more = threading.Semaphore(0)
        self.batches: list[pa.RecordBatch] = []

    def __call__(self, batch: pa.RecordBatch) -> None:
        now = time.perf_counter_ns()
        pushes = batch.column("push").to_numpy()
        # One batch can bring the results of several pushes that were taken up together.
        self._at_ns[int(pushes.min()) : int(pushes.max()) + 1] = now
        self.batches.append(batch)
        self._has_more.release()

    def wait_for(self, push: int) -> None:
        """Wait until a push has results.

        Raises:
            WrongAnswerError: It has none for a long time.
        """
        while self._at_ns[push] == 0:
            if not self._has_more.acquire(timeout=_WAIT_SECONDS_MAX):
                raise WrongAnswerError(f"push {push} has no result")

    def times_ns(self) -> I64:
        """Return when the results of each push had come.

        Raises:
            WrongAnswerError: The last pushes had none.
        """
        n_pushes = len(self._at_ns)
        # Where pushes were taken up together, a later one may have replaced all that an earlier one
        # changed: its effect came with that.
        places = np.where(self._at_ns > 0, np.arange(n_pushes), n_pushes)
        following = np.minimum.accumulate(places[::-1])[::-1]
        if following[-1] == n_pushes:
            raise WrongAnswerError("the last push had no result")
        return self._at_ns[following]


class Pipeline(Protocol):
    """What is fed."""

    def push(self, batch: pa.RecordBatch) -> None:
        """Take a batch; the results may come later."""

    def finish(self) -> None:
        """Wait for the last results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query with one result or more for each push.

    Attributes:
        name: What it is called.
        sql: The query.
        is_changelog: Whether it is an aggregate that emits changes.
    """

    name: str
    sql: str
    is_changelog: bool


_QUERIES = (
    Query(name="filter", sql=_FILTER_SQL, is_changelog=False),
    Query(name="changes", sql=f"{_CHANGES_SQL} EMIT CHANGES", is_changelog=True),
)


class _Stream:
    def __init__(self, partitions: int, query: Query, sink: Arrivals) -> None:
        import millstream as ms

        session = ms.Session(partitions=partitions)
        session.create_stream("t", _SCHEMA)
        try:
            planned = session.sql(query.sql)
        except ms.SqlError as error:
            raise RefusedError(str(error)) from error
        self._job = planned.start(sink=sink)

    def push(self, batch: pa.RecordBatch) -> None:
        self._job.push("t", batch)

    def finish(self) -> None:
        self._job.finish()


class _DataFusionPerBatch:
    """What a user of DataFusion would write: the same SQL over each batch as it comes."""

    def __init__(self, query: Query, sink: Arrivals) -> None:
        from datafusion import SessionConfig, SessionContext

        self._context = SessionContext(SessionConfig().with_target_partitions(1))
        self._sql = query.sql
        self._sink = sink

    def push(self, batch: pa.RecordBatch) -> None:
        self._context.register_record_batches("t", [[batch]])
        for result in self._context.sql(self._sql).collect():
            self._sink(result)
        self._context.deregister_table("t")

    def finish(self) -> None:
        pass


class _ArrowPerBatch:
    """The least that Python can do: two calls of pyarrow."""

    def __init__(self, query: Query, sink: Arrivals) -> None:
        self._sink = sink

    def push(self, batch: pa.RecordBatch) -> None:
        kept = batch.filter(pc.greater_equal(batch.column("v"), 0))
        doubled = pc.multiply(kept.column("v"), 2)
        columns = [kept.column("push"), kept.column("k"), doubled]
        self._sink(pa.RecordBatch.from_arrays(columns, ["push", "k", "doubled"]))

    def finish(self) -> None:
        pass


def batches(push_rows: int, n_pushes: int) -> list[pa.RecordBatch]:
    """Make the batches, each with its number in all its rows."""
    n_rows = push_rows * n_pushes
    numbers = np.arange(n_rows)
    table = pa.table(
        {"push": numbers // push_rows, "k": numbers % _N_KEYS, "v": numbers % 1000}, _SCHEMA
    )
    return list(table.to_batches(max_chunksize=push_rows))


def open_loop(
    pipeline: Pipeline,
    inputs: Sequence[pa.RecordBatch],
    pushes_per_second: float,
    *,
    now_ns: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> I64:
    """Push at fixed times, whatever becomes of the pushes before, and return when each was due.

    A push that is late because the one before it was held up counts from when it was due, so that
    no wait is left out. One that is late because the system woke this thread late counts from then.
    """
    due_ns = np.zeros(len(inputs), np.int64)
    interval_ns = int(1e9 / pushes_per_second)
    start_ns = now_ns() + interval_ns
    for number, batch in enumerate(inputs):
        planned_ns = start_ns + number * interval_ns
        ahead_ns = planned_ns - now_ns()
        if ahead_ns > 0:
            sleep(ahead_ns / 1e9)
            planned_ns = now_ns()
        due_ns[number] = planned_ns
        pipeline.push(batch)
    return due_ns


def closed_loop(
    pipeline: Pipeline,
    arrivals: Arrivals,
    inputs: Sequence[pa.RecordBatch],
    *,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> I64:
    """Push when the one before has its results, and return when each push began."""
    begun_ns = np.zeros(len(inputs), np.int64)
    for number, batch in enumerate(inputs):
        begun_ns[number] = now_ns()
        pipeline.push(batch)
        arrivals.wait_for(number)
    return begun_ns


def percentiles(latencies_ns: I64) -> dict[str, float]:
    """Return the figures that are reported, in microseconds."""
    found = np.percentile(latencies_ns, [share for share, _ in _PERCENTILES])
    return {name: float(value) / 1000 for (_, name), value in zip(_PERCENTILES, found, strict=True)}


def _latency(
    make: Callable[[Query, Arrivals], Pipeline],
    query: Query,
    push_rows: int,
    pushes_per_second: int,
    settings: Settings,
) -> Outcome:
    is_one_at_a_time = pushes_per_second == _ONE_AT_A_TIME
    seconds = _SECONDS_QUICK if settings.is_quick else _SECONDS
    n_pushes = int(seconds * pushes_per_second)
    if is_one_at_a_time:
        n_pushes = _N_ONE_AT_A_TIME_QUICK if settings.is_quick else _N_ONE_AT_A_TIME
    n_warm_up = int(n_pushes * _WARM_UP_SHARE)
    _warm_up(make, query, push_rows)
    inputs = batches(push_rows, n_pushes)
    arrivals = Arrivals(n_pushes)
    pipeline = make(query, arrivals)
    cpu, wall = time.process_time(), time.perf_counter()
    if is_one_at_a_time:
        due_ns = closed_loop(pipeline, arrivals, inputs)
    else:
        due_ns = open_loop(pipeline, inputs, pushes_per_second)
    pipeline.finish()
    sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
    _check(query, arrivals, push_rows * n_pushes)
    metrics = percentiles((arrivals.times_ns() - due_ns)[n_warm_up:])
    return Outcome(
        rows_in=push_rows * n_pushes,
        rows_out=sum(batch.num_rows for batch in arrivals.batches),
        samples=(sample,),
        metrics={
            "push_rows": push_rows,
            "pushes_per_second": pushes_per_second or n_pushes / sample.wall_seconds,
            **metrics,
        },
    )


def _warm_up(make: Callable[[Query, Arrivals], Pipeline], query: Query, push_rows: int) -> None:
    """Load code and kernels by another pipeline, which would take the first pushes long."""
    inputs = batches(push_rows, _WARM_UP_PUSHES)
    pipeline = make(query, Arrivals(_WARM_UP_PUSHES))
    for batch in inputs:
        pipeline.push(batch)
    pipeline.finish()


def _check(query: Query, arrivals: Arrivals, n_rows: int) -> None:
    table = pa.Table.from_batches(arrivals.batches)
    values = np.arange(n_rows) % 1000
    if query.is_changelog:
        final = last_versions(table, ("k",))
        got = (pc.sum(final["n"]).as_py(), pc.sum(final["total"]).as_py())
        want = (n_rows, int(values.sum()))
    else:
        got = (table.num_rows, pc.sum(table["doubled"]).as_py())
        want = (n_rows, 2 * int(values.sum()))
    if got != want:
        raise WrongAnswerError(f"rows and sum must be {want}: {got}")


def _measurement(
    query: Query,
    contender: str,
    make: Callable[[Query, Arrivals], Pipeline],
    push_rows: int,
    pushes_per_second: int,
) -> Measurement:
    pace, loop = f"{pushes_per_second}/s", f"open loop, {pushes_per_second} pushes a second"
    if pushes_per_second == _ONE_AT_A_TIME:
        pace, loop = "one at a time", "closed loop, one push at a time"
    return Measurement(
        case=f"{query.name}, {push_rows} rows, {pace}",
        contender=contender,
        role="millstream" if contender.startswith("millstream") else "rival",
        ran=f"{query.sql}  -- {loop} of {push_rows} rows",
        run=partial(_latency, make, query, push_rows, pushes_per_second),
    )


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    rates = (1000,) if is_quick else _PUSHES_PER_SECOND
    sizes = (1, 1000) if is_quick else _PUSH_ROWS
    measurements = []
    for query in _QUERIES:
        contenders: list[tuple[str, Callable[[Query, Arrivals], Pipeline]]] = [
            (f"millstream p={partitions}", partial(_Stream, partitions)) for partitions in (1, 2)
        ]
        if not query.is_changelog:
            # Nobody keeps a state over batches in one line of either.
            contenders += [("datafusion per batch", _DataFusionPerBatch)]
            contenders += [("pyarrow per batch", _ArrowPerBatch)]
        measurements += [
            _measurement(query, name, make, push_rows, rate)
            for push_rows in sizes
            for rate in (rates if query.is_changelog else (*rates, _ONE_AT_A_TIME))
            if push_rows * rate <= _ROWS_PER_SECOND_MAX
            for name, make in contenders
        ]
    return measurements


SUITE = Suite(
    name="latency",
    about="p50 to p99.9 from push to sink, 1 to 10,000 rows a push, at fixed rates or one by one.",
    measurements=_measurements,
    has_rates=False,
)
