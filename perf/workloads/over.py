"""OVER: each row with the nine rows of its key before it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from perf.cases import Case, Measurement, StreamSpec, Suite
from perf.contenders import BatchSql, DataFusion, DuckDb, Millstream, Polars, duckdb_answer
from perf.workloads.w1 import ticks

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SUITE"]

_CALLS = (
    "SELECT ts, k, v, count(*) OVER w AS n, sum(v) OVER w AS total, min(v) OVER w AS least,"
    " max(v) OVER w AS greatest FROM ticks WINDOW w AS (PARTITION BY k{order} {frame})"
)
_LAST_TEN = "ROWS BETWEEN 9 PRECEDING AND CURRENT ROW"
_LAST_SECOND = "RANGE BETWEEN INTERVAL '1' SECOND PRECEDING AND CURRENT ROW"


def _sql(order: str, frame: str) -> str:
    return _CALLS.format(order=order, frame=frame)


def _polars(frame: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    values = pl.col("v")
    position = pl.int_range(pl.len()).over("k")
    return frame.with_columns(
        pl.min_horizontal(position + 1, 10).alias("n"),
        values.rolling_sum(10, min_samples=1).over("k").alias("total"),
        values.rolling_min(10, min_samples=1).over("k").alias("least"),
        values.rolling_max(10, min_samples=1).over("k").alias("greatest"),
    )


def cases() -> list[Case]:
    """Return the frames, in event-time order and in the order of arrival."""
    ordered = BatchSql(_sql(" ORDER BY ts", _LAST_TEN))
    ranged = BatchSql(_sql(" ORDER BY ts", _LAST_SECOND))
    polars = Polars(_polars, "rolling_sum/min/max(10).over(k)", "ticks")
    # The rows of W1 arrive in the order of event time, so the answer is the same.
    variants = (
        ("9 preceding, by event time", ordered.text, ordered, (polars,)),
        ("9 preceding, by arrival", _sql("", _LAST_TEN), ordered, (polars,)),
        ("1 s preceding", ranged.text, ranged, ()),
    )
    return [
        Case(
            name=name,
            rows=4_000_000,
            rows_quick=200_000,
            generate=ticks,
            streams=(StreamSpec(name="ticks", event_time="ts"),),
            sql=sql,
            keys=("ts",),
            expected=duckdb_answer(batch_sql),
            contenders=(
                Millstream(2, 65_536),
                Millstream(1, 65_536),
                Millstream(2, 8192),
                *others,
                DataFusion(batch_sql),
                DuckDb(batch_sql),
            ),
        )
        for name, sql, batch_sql, others in variants
    ]


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    measurements = [found for case in cases() for found in case.measurements()]
    if is_quick:
        return [found for found in measurements if found.contender != Millstream(2, 8192).name]
    return measurements


SUITE = Suite(
    name="over",
    about="COUNT, SUM, MIN and MAX over the last ten rows, or the last second, of 10,000 keys.",
    measurements=_measurements,
)
