"""The command line: ``python -m perf COMMAND``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import millstream as ms
from perf.cases import Measurement, Settings
from perf.compare import comparison_cells, differences
from perf.machine import describe_machine, load_average
from perf.machine_code import code_cells, compiled_kernels
from perf.measure import run_suite
from perf.records import Record, RecordError, Result, read_record, write_record
from perf.report import write_plots
from perf.tables import cells, machine_lines, markdown, print_cells, suites_of
from perf.workloads import SUITES, scenarios, suite, windows
from perf.workloads.w1 import W1_CASE

__all__ = ["app", "exit_by"]

_FOLDER = Path("build/perf")
_PROCESSES, _REPEATS, _REPEATS_QUICK = 3, 5, 2
# A terminal decides by itself; into a file go whole lines.
_FILE_WIDTH = 200

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Measure Millstream beside DataFusion, DuckDB, Polars and a loop over pyarrow.",
)

Quick = Annotated[bool, typer.Option("--quick", help="Fewer rows and cases: within a minute.")]
Out = Annotated[Path | None, typer.Option(help="JSON file [default: build/perf/COMMAND.json].")]
Rows = Annotated[int | None, typer.Option(min=1, help="Rows instead of what each case asks for.")]
Repeats = Annotated[int | None, typer.Option(min=1, help="Timed repeats in each process.")]
Processes = Annotated[int | None, typer.Option(min=1, help="Fresh processes per measurement.")]
Only = Annotated[str, typer.Option(help="Text that case and contender have to contain.")]


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def _measure(
    names: Sequence[str],
    *,
    out: Path,
    is_quick: bool,
    rows: int | None,
    repeats: int | None,
    processes: int | None,
    only: str,
) -> None:
    console = _console()
    settings = Settings(
        is_quick=is_quick,
        repeats=repeats or (_REPEATS_QUICK if is_quick else _REPEATS),
        rows=rows,
    )
    if not any(_n_chosen(name, settings, only) for name in names):
        raise typer.BadParameter(
            f"no case and contender of {', '.join(names)} contains {only!r}", param_hint="--only"
        )
    n_processes = processes or (1 if is_quick else _PROCESSES)
    machine = describe_machine()
    if not is_quick:
        _compile_kernels()
    results: list[Result] = []
    for name in names:
        found = _with_progress(name, settings, n_processes, only)
        results += found
        if found:
            print_cells(cells(found, name), console)
    record = Record(
        machine={**machine, "load_average_after": load_average()},
        settings={
            "quick": is_quick,
            "rows": rows,
            "repeats": settings.repeats,
            "processes": n_processes,
        },
        results=tuple(results),
    )
    write_record(record, out)
    console.print(*machine_lines(record), f"written to {out}", sep="\n", highlight=False)
    exit_by(results, console)


def _compile_kernels() -> None:
    """Compile all kernels, so that no repeat of a measurement meets one that has not been yet."""
    with _progress() as progress:
        task = progress.add_task("compiling kernels", total=None)
        ms.compile_kernels(
            lambda n_done, n_all: progress.update(task, completed=n_done, total=n_all)
        )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _n_chosen(name: str, settings: Settings, only: str) -> int:
    measurements = suite(name).measurements(settings.is_quick)
    return sum(only in measurement.full_name for measurement in measurements)


def _with_progress(name: str, settings: Settings, n_processes: int, only: str) -> list[Result]:
    chosen = suite(name)
    total = n_processes * _n_chosen(name, settings, only)
    with _progress() as progress:
        task = progress.add_task(name, total=total)

        def show(measurement: Measurement) -> None:
            what = f"{name}: {measurement.case}, {measurement.contender}"
            progress.update(task, advance=1, description=what)

        return run_suite(chosen, settings, n_processes=n_processes, only=only, progress=show)


def exit_by(results: Sequence[Result], console: Console) -> None:
    """End with an error if some answer was wrong or something broke; a refusal is none."""
    bad = [result for result in results if result.status in ("wrong", "failed")]
    for result in bad:
        console.print(f"{' / '.join(result.name)} {result.status}: {result.reason}", style="red")
    if bad:
        raise typer.Exit(1)


def _command(name: str) -> Callable[..., None]:
    def command(
        quick: Quick = False,
        out: Out = None,
        rows: Rows = None,
        repeats: Repeats = None,
        processes: Processes = None,
        only: Only = "",
    ) -> None:
        _measure(
            SUITES if name == "all" else (name,),
            out=out or _FOLDER / f"{name}.json",
            is_quick=quick,
            rows=rows,
            repeats=repeats,
            processes=processes,
            only=only,
        )

    return command


for _name in SUITES:
    app.command(_name, help=suite(_name).about)(_command(_name))
app.command("all", help="All of the above, one after the other, into one file.")(_command("all"))


@app.command("compare")
def compare_records(before: Path, after: Path) -> None:
    """Show what changed between two JSON files."""
    found = differences(_read(before), _read(after))
    print_cells(comparison_cells(found), _console())


@app.command("code")
def show_code(
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Compile the kernels of the scenarios anew and show which of their loops are vectorized."""
    with _console().status("compiling"):
        table = code_cells(compiled_kernels([W1_CASE, *windows.cases(), *scenarios.cases()]))
    if as_markdown:
        typer.echo(markdown(table))
    else:
        print_cells(table, _console())


@app.command("report")
def report_record(
    record: Path,
    plots: Annotated[Path, typer.Option(help="Folder for PNG files.")] = _FOLDER / "plots",
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Show the tables of a JSON file and draw its plots."""
    read, console = _read(record), _console()
    lines = machine_lines(read)
    if as_markdown:
        typer.echo("\n".join(f"* {line}" for line in lines) + "\n")
    else:
        console.print(*lines, sep="\n", highlight=False)
    for name in suites_of(read.results):
        table = cells(read.results, name)
        if as_markdown:
            typer.echo(markdown(table))
        else:
            print_cells(table, console)
    for path in write_plots(read, plots):
        typer.echo(f"plot: {path}", err=True)


def _read(path: Path) -> Record:
    try:
        return read_record(path)
    except RecordError as error:
        raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    app(prog_name="python -m perf")
