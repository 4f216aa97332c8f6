"""Results as tables: the same rows for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from perf.records import Record, Result, best_rival_rate
from perf.workloads import suite

__all__ = ["Cells", "cells", "machine_lines", "markdown", "print_cells", "suites_of"]

_REASON_CHARACTERS_MAX = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """A table as text.

    Attributes:
        title: What stands above it.
        header: Names of the columns; the first two are on the left, the others on the right.
        rows: The cells.
        is_bad: Per row, whether something is wrong with it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    is_bad: tuple[bool, ...]


def suites_of(results: Sequence[Result]) -> list[str]:
    """Return the suites that results belong to, in their order."""
    return list(dict.fromkeys(result.suite for result in results))


def cells(results: Sequence[Result], name: str) -> Cells:
    """Lay out the results of one suite."""
    of_suite = [result for result in results if result.suite == name]
    has_rates = suite(name).has_rates
    metrics = list(dict.fromkeys(metric for result in of_suite for metric in result.metrics))
    header = ["case", "contender", "rows in", "rows out", "seconds", "spread", "CPU seconds"]
    if has_rates:
        header += ["M rows/s", "per CPU s", "to best rival"]
    rows = []
    for result in of_suite:
        row = [result.case, result.contender]
        if result.status != "ok":
            reason = f"{result.status}: {result.reason.splitlines()[0][:_REASON_CHARACTERS_MAX]}"
            rows.append((*row, reason, *[""] * (len(header) + len(metrics) - 3)))
            continue
        row += [f"{result.rows_in:,}", f"{result.rows_out:,}"]
        row += [_number(result.wall_seconds), _percent(result.spread), _number(result.cpu_seconds)]
        if has_rates:
            row += [_millions(result.rate), _millions(result.cpu_rate), _ratio(result, results)]
        row += [_number(result.metrics.get(metric)) for metric in metrics]
        rows.append(tuple(row))
    return Cells(
        title=f"{name}: {suite(name).about}",
        header=(*header, *(metric.replace("_", " ") for metric in metrics)),
        rows=tuple(rows),
        is_bad=tuple(result.status != "ok" for result in of_suite),
    )


def print_cells(table: Cells, console: Console) -> None:
    """Print a table on a terminal."""
    shown = Table(title=table.title, title_justify="left", header_style="bold")
    for place, name in enumerate(table.header):
        shown.add_column(name, justify="left" if place < 2 else "right", overflow="fold")
    for row, is_bad in zip(table.rows, table.is_bad, strict=True):
        shown.add_row(*row, style="red" if is_bad else None)
    console.print(shown)


def markdown(table: Cells) -> str:
    """Return a table as Markdown."""
    aligned = ["---" if place < 2 else "---:" for place in range(len(table.header))]
    lines = [table.header, aligned, *table.rows]
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"## {table.title}", "", *body, ""])


def machine_lines(record: Record) -> list[str]:
    """Say in a few lines what a record was measured on and how."""
    machine, settings = record.machine, record.settings
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    memory = machine["memory_bytes"]
    return [
        f"{machine['started']}, commit {machine['commit']}",
        f"{machine['processor']}, {machine['cores']} cores,"
        f" {'?' if memory is None else f'{memory / 2**30:.0f}'} GiB, {machine['system']}",
        f"Python {machine['python']}, {packages}",
        f"load average {machine['load_average_before']} before and"
        f" {machine.get('load_average_after')} after",
        ", ".join(f"{name} {value}" for name, value in settings.items()),
    ]


def _ratio(result: Result, results: Sequence[Result]) -> str:
    best = best_rival_rate(results, result.suite, result.case)
    return "" if best is None or result.rate is None else f"{result.rate / best:.2f}"


def _millions(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e6:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
