"""Plots of a record, one PNG per suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perf.records import Record, Result
from perf.tables import suites_of
from perf.workloads import suite

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_plots"]

_COLOURS = {"millstream": "#1f6f8b", "rival": "#b0b7bd", "limit": "#e0c068", "derived": "#7fb069"}
_BAR_INCHES = 0.26
_WIDTH_INCHES = 9.0
_DPI = 120
_PERCENTILES = ("p50_us", "p95_us", "p99_us", "p99_9_us")


def write_plots(record: Record, folder: Path) -> list[Path]:
    """Draw all suites of a record.

    Args:
        record: What to draw.
        folder: Where the files go; made if need be.

    Returns:
        The files.
    """
    import matplotlib as mpl

    # Files are all that is wanted: no window, and no display that may be missing.
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in suites_of(record.results):
        results = [result for result in record.results if result.suite == name]
        path = folder / f"{name}.png"
        if _draw(name, [result for result in results if result.status == "ok"], path):
            paths.append(path)
    return paths


def _draw(name: str, results: Sequence[Result], path: Path) -> bool:
    import matplotlib.pyplot as plt

    if name == "latency":
        panels = _latency_panels(results)
    else:
        panels = _bar_panels(results, has_rates=suite(name).has_rates)
    if not panels:
        return False
    heights = [height for height, _ in panels]
    figure, axes = plt.subplots(
        len(panels),
        squeeze=False,
        figsize=(_WIDTH_INCHES, sum(heights)),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for (_, draw), axis in zip(panels, axes[:, 0], strict=True):
        draw(axis)
    figure.suptitle(suite(name).about)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
    return True


def _bar_panels(
    results: Sequence[Result], *, has_rates: bool
) -> list[tuple[float, Callable[[Axes], None]]]:
    """Return per case its height and what draws it: a bar for each contender."""
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    for case in dict.fromkeys(result.case for result in results):
        bars = [
            (result, value)
            for result in results
            if result.case == case and (value := _bar_value(result, has_rates)) is not None
        ]
        # Rates have one axis each, since what is cheap would dwarf what is dear.
        if bars:
            panels.append((0.7 + _BAR_INCHES * len(bars), _bars(case, bars, has_rates)))
    return panels


def _bar_value(result: Result, has_rates: bool) -> float | None:
    if not has_rates:
        return result.wall_seconds
    predicted = result.metrics.get("million_rows_per_second")
    return predicted if result.rate is None else result.rate / 1e6


def _bars(
    case: str, bars: Sequence[tuple[Result, float]], has_rates: bool
) -> Callable[[Axes], None]:
    def draw(axis: Axes) -> None:
        names = [result.contender for result, _ in bars]
        values = [value for _, value in bars]
        colours = [_COLOURS[result.role] for result, _ in bars]
        drawn = axis.barh(names, values, color=colours)
        axis.bar_label(drawn, fmt="{:.3g}", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.12)
        axis.set_title(case, loc="left", fontsize=10)
        axis.set_xlabel("million rows per second" if has_rates else "seconds", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)

    return draw


def _latency_panels(results: Sequence[Result]) -> list[tuple[float, Callable[[Axes], None]]]:
    """Return one panel per query and rate: percentiles over the rows per push."""
    panels: list[tuple[float, Callable[[Axes], None]]] = []
    groups = dict.fromkeys(
        (result.case.partition(",")[0], result.metrics["pushes_per_second"]) for result in results
    )
    for query, rate in groups:
        chosen = [
            result
            for result in results
            if result.case.startswith(f"{query},") and result.metrics["pushes_per_second"] == rate
        ]
        panels.append((3.0, _latency_lines(f"{query}, {rate:.0f} pushes per second", chosen)))
    return panels


def _latency_lines(title: str, results: Sequence[Result]) -> Callable[[Axes], None]:
    def draw(axis: Axes) -> None:
        for place, contender in enumerate(dict.fromkeys(result.contender for result in results)):
            lines = [result for result in results if result.contender == contender]
            sizes = [result.metrics["push_rows"] for result in lines]
            for percentile, style in zip(_PERCENTILES, ("-", "--", "-.", ":"), strict=True):
                values = [result.metrics[percentile] for result in lines]
                label = f"{contender} {percentile.removesuffix('_us').replace('_', '.')}"
                axis.plot(sizes, values, style, color=f"C{place}", marker=".", label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("rows per push", fontsize=8)
        axis.set_ylabel("microseconds", fontsize=8)
        axis.set_title(title, loc="left", fontsize=10)
        axis.legend(fontsize=6, ncols=4)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)

    return draw
