"""Two records side by side: what became better, what worse, and what is only noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from perf.records import Record, Result, best_rival_rate
from perf.tables import Cells

__all__ = ["Difference", "comparison_cells", "differences"]

Verdict: TypeAlias = Literal["better", "worse", "same", "new", "gone", "broken", "mended"]

# What is compared where time per row says nothing: the first of these that a result has.
_METRICS = (
    "p95_us",
    "resident_bytes_per_group",
    "peak_bytes_per_group",
    "growth_bytes_per_million_rows",
)
# A metric is one number without a spread; a change by less than this is taken for noise.
_METRIC_NOISE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How one result changed.

    Attributes:
        name: Suite, case and contender.
        quantity: What is compared; less of it is better.
        before: Its value, or None without a right answer.
        after: The same in the later record.
        beside_rivals: How the rate changed relative to the best rival of its own record, which
            takes the noise of the machine out; None without a rival.
        verdict: Times are ``same`` unless all repeats of one record beat all of the other.
    """

    name: tuple[str, str, str]
    quantity: str
    before: float | None
    after: float | None
    beside_rivals: float | None
    verdict: Verdict


def differences(before: Record, after: Record) -> list[Difference]:
    """Compare all that was measured in one of the records."""
    old = {result.name: result for result in before.results if result.role != "derived"}
    new = {result.name: result for result in after.results if result.role != "derived"}
    return [
        _difference(before, after, old.get(name), new.get(name))
        for name in dict.fromkeys([*old, *new])
    ]


def comparison_cells(found: Sequence[Difference]) -> Cells:
    """Lay out differences as a table."""
    rows = [
        (
            f"{difference.name[0]}: {difference.name[1]}",
            difference.name[2],
            difference.quantity,
            _number(difference.before),
            _number(difference.after),
            _factor(difference),
            _number(difference.beside_rivals),
            difference.verdict,
        )
        for difference in found
    ]
    return Cells(
        title="Before and after: factors above 1 are better",
        header=(
            *("case", "contender", "quantity", "before", "after"),
            *("factor", "beside rivals", "verdict"),
        ),
        rows=tuple(rows),
        is_bad=tuple(difference.verdict in ("worse", "broken") for difference in found),
    )


def _difference(
    before: Record, after: Record, old: Result | None, new: Result | None
) -> Difference:
    known = new if new is not None else old
    assert known is not None, "a name comes from one of the records"
    quantity = next((metric for metric in _METRICS if metric in known.metrics), "")
    return Difference(
        name=known.name,
        quantity=quantity or ("ns per row" if known.rows_in else "seconds"),
        before=_value(old, quantity),
        after=_value(new, quantity),
        beside_rivals=_beside_rivals(before, after, old, new),
        verdict=_verdict(old, new, quantity),
    )


def _value(result: Result | None, metric: str) -> float | None:
    if result is None or result.status != "ok":
        return None
    if metric:
        return result.metrics.get(metric)
    seconds = result.wall_seconds
    if seconds is None or result.rows_in == 0:
        return seconds
    return seconds / result.rows_in * 1e9


def _verdict(old: Result | None, new: Result | None, metric: str) -> Verdict:
    if old is None:
        return "new"
    if new is None:
        return "gone"
    value_before, value_after = _value(old, metric), _value(new, metric)
    if value_after is None:
        return "same" if value_before is None else "broken"
    if value_before is None:
        return "mended"
    if metric:
        noise = abs(value_before) * _METRIC_NOISE
        before, after = [value_before - noise, value_before + noise], [value_after]
    else:
        # Per row, since the records may have been made over different numbers of rows.
        before = [sample.wall_seconds / max(old.rows_in, 1) for sample in old.samples]
        after = [sample.wall_seconds / max(new.rows_in, 1) for sample in new.samples]
    if max(after) < min(before):
        return "better"
    return "worse" if min(after) > max(before) else "same"


def _beside_rivals(
    before: Record, after: Record, old: Result | None, new: Result | None
) -> float | None:
    if old is None or new is None or old.rate is None or new.rate is None:
        return None
    rival_before = best_rival_rate(before.results, old.suite, old.case)
    rival_after = best_rival_rate(after.results, new.suite, new.case)
    if rival_before is None or rival_after is None:
        return None
    return (new.rate / rival_after) / (old.rate / rival_before)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _factor(difference: Difference) -> str:
    if not difference.before or not difference.after:
        return ""
    return f"{difference.before / difference.after:.2f}"
