"""W1: counts, sums and maxima of 10,000 keys in windows of ten seconds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from perf.cases import Case, Inputs, Measurement, StreamSpec, Suite
from perf.contenders import (
    ArrowLoop,
    BatchSql,
    CopyColumns,
    DataFusion,
    DuckDb,
    Millstream,
    Polars,
    SumColumns,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["N_KEYS", "ROWS_PER_SECOND", "SQL", "SUITE", "W1_CASE", "ticks", "tumbled"]

N_KEYS = 10_000
ROWS_PER_SECOND = 100_000
_ROW_US = 1_000_000 // ROWS_PER_SECOND
_WINDOW_US = 10_000_000
_VALUES = 1000
_SEED = 1

SQL = (
    "SELECT window_start, k, count(*) AS n, sum(v) AS total, max(v) AS greatest FROM ticks"
    " GROUP BY k WINDOW TUMBLING(ts, INTERVAL '10' SECOND)"
)
BATCH_SQL = BatchSql(
    "SELECT BUCKET(INTERVAL '10 seconds', ts) AS window_start, k,"
    " count(*) AS n, sum(v) AS total, max(v) AS greatest FROM ticks GROUP BY 1, 2"
)
AGGREGATES = (("v", "count", "n"), ("v", "sum", "total"), ("v", "max", "greatest"))


def ticks(n_rows: int) -> Inputs:
    """Make rows in the order of event time, with keys and values drawn at random."""
    random = np.random.default_rng(_SEED)
    return {
        "ticks": pa.table(
            {
                "ts": pa.array(np.arange(n_rows) * _ROW_US, pa.timestamp("us")),
                "k": random.integers(0, N_KEYS, n_rows),
                "v": random.integers(0, _VALUES, n_rows),
            }
        )
    }


def tumbled(inputs: Inputs) -> pa.Table:
    """Work the answer out by counting codes of window and key."""
    table = inputs["ticks"].combine_chunks()
    times, keys, values = (column.chunk(0).view(pa.int64()).to_numpy() for column in table.columns)
    codes = times // _WINDOW_US * N_KEYS + keys
    counts = np.bincount(codes)
    totals = np.bincount(codes, weights=values).astype(np.int64)
    greatest = np.full(len(counts), -1, np.int64)
    np.maximum.at(greatest, codes, values)
    present = np.flatnonzero(counts)
    return pa.table(
        {
            "window_start": pa.array(present // N_KEYS * _WINDOW_US, pa.timestamp("us")),
            "k": present % N_KEYS,
            "n": counts[present],
            "total": totals[present],
            "greatest": greatest[present],
        }
    )


def _polars(frame: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    values = pl.col("v")
    window = pl.col("ts").dt.truncate("10s").alias("window_start")
    return frame.group_by(window, "k").agg(
        pl.len().alias("n"), values.sum().alias("total"), values.max().alias("greatest")
    )


def arrow_loop(batch_rows: int) -> ArrowLoop:
    """Return the loop that computes W1 by hand."""
    return ArrowLoop(
        stream="ticks",
        batch_rows=batch_rows,
        keys=("k",),
        aggregates=AGGREGATES,
        time="ts",
        size=_WINDOW_US,
    )


W1_CASE = Case(
    name="tumble 10 s, 10,000 keys",
    rows=40_000_000,
    rows_quick=2_000_000,
    generate=ticks,
    streams=(StreamSpec(name="ticks", event_time="ts"),),
    sql=SQL,
    keys=("window_start", "k"),
    expected=tumbled,
    contenders=(
        Millstream(2, 65_536),
        Millstream(1, 65_536),
        Millstream(2, 8192),
        Millstream(1, 8192),
        arrow_loop(65_536),
        arrow_loop(8192),
        DataFusion(BATCH_SQL),
        DuckDb(BATCH_SQL),
        Polars(_polars, "group_by(ts.dt.truncate('10s'), k).agg(len, sum, max)", "ticks"),
        SumColumns("ticks"),
        CopyColumns("ticks"),
    ),
)


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    return W1_CASE.measurements()


SUITE = Suite(
    name="w1",
    about="Windows of 10 s, 10,000 keys, COUNT, SUM, MAX, 100,000 rows per event second.",
    measurements=_measurements,
)
