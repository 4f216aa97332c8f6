"""All shapes of windows over the rows of W1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from perf.cases import Case, Contender, Measurement, StreamSpec, Suite
from perf.contenders import (
    ArrowLoop,
    BatchSql,
    DataFusion,
    DuckDb,
    Millstream,
    duckdb_answer,
)
from perf.workloads.w1 import AGGREGATES, BATCH_SQL, SQL, arrow_loop, ticks

__all__ = ["SUITE"]

_SELECT = "SELECT window_start, window_end, k, count(*) AS n, sum(v) AS total, max(v) AS greatest"
_GROUPS = "count(*) AS n, sum(v) AS total, max(v) AS greatest"
_SIZE_US, _STEP_US = 10_000_000, 2_000_000

_HOP_SQL = (
    f"SELECT window_start, k, {_GROUPS} FROM ticks"
    " GROUP BY k WINDOW SLIDING(ts, INTERVAL '10' SECOND, INTERVAL '2' SECOND)"
)
# Each row stands in five windows: the one that starts with its pane, and the four before.
_HOP_BATCH_SQL = BatchSql(
    "WITH p AS (SELECT BUCKET(INTERVAL '2 seconds', ts) AS pane, k, v FROM ticks)"
    f" SELECT pane - INTERVAL '1 second' * i AS window_start, k, {_GROUPS}"
    " FROM p CROSS JOIN (VALUES (0), (2), (4), (6), (8)) AS shifts(i) GROUP BY 1, 2",
    datafusion="WITH p AS (SELECT BUCKET(INTERVAL '2 seconds', ts) AS pane, k, v FROM ticks)"
    f" SELECT pane - i AS window_start, k, {_GROUPS}"
    " FROM p CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'),"
    " (INTERVAL '4 seconds'), (INTERVAL '6 seconds'), (INTERVAL '8 seconds')) AS shifts(i)"
    " GROUP BY 1, 2",
)

_CUMULATE_SQL = (
    f"{_SELECT} FROM TABLE(CUMULATE(TABLE ticks, DESCRIPTOR(ts),"
    " INTERVAL '2' SECOND, INTERVAL '10' SECOND)) GROUP BY window_start, window_end, k"
)
# A growing window that ends at a step has the rows of all panes of its size up to there. Like
# Millstream, this has a row for a key as soon as it has been seen, and again at each later step.
_CUMULATE_BATCH_SQL = BatchSql(
    "WITH p AS (SELECT BUCKET(INTERVAL '10 seconds', ts) AS window_start,"
    " BUCKET(INTERVAL '2 seconds', ts) AS pane, k, v FROM ticks)"
    " SELECT window_start, window_start + shifts.i AS window_end, k,"
    f" {_GROUPS} FROM p JOIN (VALUES (INTERVAL '2 seconds'), (INTERVAL '4 seconds'),"
    " (INTERVAL '6 seconds'), (INTERVAL '8 seconds'), (INTERVAL '10 seconds')) AS shifts(i)"
    " ON p.pane < p.window_start + shifts.i GROUP BY 1, 2, 3"
)

_SESSION_SQL = f"{_SELECT} FROM ticks GROUP BY k WINDOW SESSION(ts, INTERVAL '250' MILLISECOND)"
_SESSION_BATCH_SQL = BatchSql(
    "WITH marked AS (SELECT ts, k, v, CASE WHEN ts - lag(ts) OVER (PARTITION BY k ORDER BY ts)"
    " <= INTERVAL '250 milliseconds' THEN 0 ELSE 1 END AS is_first FROM ticks),"
    " numbered AS (SELECT ts, k, v, sum(is_first) OVER (PARTITION BY k ORDER BY ts"
    " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS session FROM marked)"
    " SELECT min(ts) AS window_start, max(ts) + INTERVAL '250 milliseconds' AS window_end, k,"
    f" {_GROUPS} FROM numbered GROUP BY k, session"
)


def _stream(*, rivals: Sequence[Contender]) -> tuple[Contender, ...]:
    return (Millstream(2, 65_536), Millstream(1, 65_536), Millstream(2, 8192), *rivals)


def _case(
    name: str,
    sql: str,
    batch_sql: BatchSql,
    *,
    keys: tuple[str, ...],
    others: Sequence[Contender] = (),
    rows: int = 10_000_000,
) -> Case:
    return Case(
        name=name,
        rows=rows,
        rows_quick=300_000,
        generate=ticks,
        streams=(StreamSpec(name="ticks", event_time="ts"),),
        sql=sql,
        keys=keys,
        expected=duckdb_answer(batch_sql),
        contenders=_stream(rivals=(*others, DataFusion(batch_sql), DuckDb(batch_sql))),
    )


def cases() -> list[Case]:
    """Return one case per shape."""
    hop_loop = ArrowLoop(
        stream="ticks",
        batch_rows=65_536,
        keys=("k",),
        aggregates=AGGREGATES,
        time="ts",
        size=_SIZE_US,
        slide=_STEP_US,
    )
    return [
        _case(
            "tumble 10 s",
            SQL,
            BATCH_SQL,
            keys=("window_start", "k"),
            others=(arrow_loop(65_536),),
        ),
        _case(
            "hop 10 s by 2 s",
            _HOP_SQL,
            _HOP_BATCH_SQL,
            keys=("window_start", "k"),
            others=(hop_loop,),
        ),
        _case(
            "cumulate 10 s by 2 s",
            _CUMULATE_SQL,
            _CUMULATE_BATCH_SQL,
            keys=("window_start", "window_end", "k"),
        ),
        _case(
            "session 250 ms",
            _SESSION_SQL,
            _SESSION_BATCH_SQL,
            keys=("window_start", "window_end", "k"),
            rows=2_000_000,
        ),
    ]


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    measurements = [found for case in cases() for found in case.measurements()]
    if is_quick:
        return [found for found in measurements if found.contender != Millstream(2, 8192).name]
    return measurements


SUITE = Suite(
    name="windows",
    about="Tumbling, hopping, cumulating and session windows over the rows of W1.",
    measurements=_measurements,
)
