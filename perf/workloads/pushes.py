"""Small pushes: what is left of the rates of large micro-batches where each has 1,000 rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from perf.cases import Case, Contender, Measurement, Suite
from perf.contenders import DataFusion, DuckDb, Millstream
from perf.workloads import over, scenarios, windows
from perf.workloads.w1 import W1_CASE, arrow_loop

__all__ = ["SUITE", "cases"]

_PUSH_ROWS = 1000
_ROWS, _ROWS_QUICK = 1_000_000, 100_000
_FED = (Millstream(1, _PUSH_ROWS), Millstream(2, _PUSH_ROWS))
# Of groups that stay to the end, pushes are as those of W1.
_SCENARIOS = ("0", "3a", "3b")
_WINDOWS = ("hop", "session")
_RIVALS = (DataFusion, DuckDb)


def cases() -> list[Case]:
    """Return cases of other suites with small pushes, W1 beside a loop that takes the same."""
    chosen = [
        *_small(scenarios.cases(), _SCENARIOS),
        *_small(windows.cases(), _WINDOWS),
        *_small(over.cases(), ("9 preceding",)),
    ]
    return [_fed(W1_CASE, arrow_loop(_PUSH_ROWS)), *chosen]


def _small(found: Sequence[Case], names: tuple[str, ...]) -> list[Case]:
    return [
        _fed(case, *(rival for rival in case.contenders if isinstance(rival, _RIVALS)))
        for case in found
        if case.name.startswith(names)
    ]


def _fed(case: Case, *rivals: Contender) -> Case:
    return replace(case, rows=_ROWS, rows_quick=_ROWS_QUICK, contenders=(*_FED, *rivals))


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    measurements = [found for case in cases() for found in case.measurements()]
    return [found for found in measurements if not is_quick or found.role == "millstream"]


SUITE = Suite(
    name="pushes",
    about="Filters, windows, OVER and changes fed by pushes of 1,000 rows; rivals see all at once.",
    measurements=_measurements,
)
