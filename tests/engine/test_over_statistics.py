"""Variances, covariances, correlation and regression over frames: no value outlives its frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datafusion import SessionContext
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms

SINGLE = ("var_pop", "var_samp", "stddev_pop", "stddev_samp")
PAIRS = (
    *("corr", "covar_pop", "covar_samp", "regr_avgx", "regr_avgy", "regr_count"),
    *("regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy", "regr_syy"),
)
FRAMES = {
    "none": "ROWS CURRENT ROW",
    "short": "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
    "long": "ROWS BETWEEN 17 PRECEDING AND CURRENT ROW",
    "time": "RANGE BETWEEN INTERVAL '3' SECOND PRECEDING AND CURRENT ROW",
    "all": "ROWS UNBOUNDED PRECEDING",
    "all time": "RANGE UNBOUNDED PRECEDING",
}
SECOND = 1_000_000


def table_of(
    ys: Sequence[float | None], xs: Sequence[float | None], n_keys: int = 3, *, per_second: int = 2
) -> pa.Table:
    """Rows of which some have the same time."""
    n_rows = len(ys)
    times = [row // per_second * SECOND for row in range(n_rows)]
    return pa.table(
        {
            "id": range(n_rows),
            "ts": pa.array(times, pa.timestamp("us")),
            "k": [row * 7 % n_keys for row in range(n_rows)],
            "y": pa.array(ys, pa.float64()),
            "x": pa.array(xs, pa.float64()),
        }
    )


def answers(table: pa.Table, calls: Sequence[str], frame: str, cut: int, n: int) -> list[list[Any]]:
    """Run calls over a frame: a row of results for each row of the table, by id."""
    session = ms.Session(partitions=n)
    session.create_stream("t", table.schema, event_time="ts")
    over = f"OVER (PARTITION BY k ORDER BY ts {FRAMES[frame]})"
    selected = ", ".join(f"{call} {over} AS r{nth}" for nth, call in enumerate(calls))
    query = session.sql(f"SELECT id, {selected} FROM t")
    assert "buffered" not in query.explain()
    result = query.run({"t": table}, batch_rows=cut).sort_by("id")
    return [list(row.values())[1:] for row in result.to_pylist()]


def frames_of(table: pa.Table, frame: str) -> list[list[int]]:
    """The rows that each row sees."""
    times = [time.value // 1000 for time in table["ts"].cast(pa.timestamp("ns"))]
    keys = table["k"].to_pylist()
    n_back = {"none": 0, "short": 2, "long": 17}.get(frame)
    found = []
    for row, key in enumerate(keys):
        mine = [other for other in range(len(keys)) if keys[other] == key]
        if frame in ("time", "all time"):
            since = times[row] - 3 * SECOND if frame == "time" else -math.inf
            found.append([other for other in mine if since <= times[other] <= times[row]])
        else:
            mine = [other for other in mine if other <= row]
            found.append(mine if n_back is None else mine[-n_back - 1 :])
    return found


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("far", [math.nan, math.inf, -math.inf, 1e16, 1e140])
def test_a_value_that_leaves_a_frame_leaves_nothing_behind(frame: str, far: float) -> None:
    random = np.random.default_rng(2)
    ys, xs = random.normal(5, 2, (2, 160)).tolist()
    for row in (9, 10, 50, 100):
        ys[row] = far
    xs[70] = far
    table = table_of(ys, xs)
    calls = ["var_pop(y)", "stddev(x)", "covar_pop(y, x)", "regr_syy(y, x)", "regr_avgx(y, x)"]
    got = [answers(table, calls, frame, cut, n) for cut, n in ((1, 1), (7, 2), (160, 1))]
    for row, seen in enumerate(frames_of(table, frame)):
        y, x = (np.array([column[other] for other in seen]) for column in (ys, xs))
        if not (np.abs([y, x]) < 1e9).all():
            continue
        want = [
            *(np.var(y), np.std(x, ddof=1) if len(x) > 1 else None),
            *(np.mean((y - y.mean()) * (x - x.mean())), np.var(y) * len(y), x.mean()),
        ]
        for one in got:
            assert one[row] == [
                None if v is None else pytest.approx(v, rel=1e-9, abs=1e-12) for v in want
            ]
    for other in got[1:]:
        for left, right in zip(itertools.chain(*got[0]), itertools.chain(*other), strict=True):
            assert (left is None) == (right is None)
            if left is not None:
                assert left == pytest.approx(right, rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("frame", ["short", "long", "time"])
def test_large_values_close_together_keep_their_digits(frame: str) -> None:
    random = np.random.default_rng(3)
    ys = (1e9 + random.normal(0, 1, 600)).tolist()
    table = table_of(ys, ys)
    got = answers(table, ["var_pop(y)", "covar_pop(y, x)", "corr(y, x)"], frame, 50, 2)
    for row, seen in enumerate(frames_of(table, frame)):
        variance = np.var(np.array([ys[other] for other in seen]) - 1e9)
        assert got[row][:2] == pytest.approx([variance] * 2, rel=1e-6, abs=1e-12)
        if len(seen) > 1 and variance > 0:
            assert got[row][2] == pytest.approx(1)


@pytest.mark.parametrize("frame", FRAMES)
@settings(max_examples=8)
@given(st.integers(0, 2**32), st.sampled_from([(1, 1), (7, 2), (1000, 1)]))
def test_statistics_are_those_of_a_group_of_the_rows_of_a_frame(
    frame: str, seed: int, way: tuple[int, int]
) -> None:
    random = np.random.default_rng(seed)
    ys, xs = (
        [None if random.random() < 0.2 else value for value in random.integers(-3, 4, 40).tolist()]
        for _ in range(2)
    )
    table = table_of(ys, xs)
    texts = [*(f"{name}(y)" for name in SINGLE), *(f"{name}(y, x)" for name in PAIRS)]
    got = answers(table, texts, frame, *way)
    seen = frames_of(table, frame)
    members = table.take([other for frame_rows in seen for other in frame_rows])
    owners = pa.array([row for row, frame_rows in enumerate(seen) for _ in frame_rows])
    context = SessionContext()
    batches = members.set_column(0, "id", owners).combine_chunks().to_batches()
    context.register_record_batches("frames", [batches])
    query = context.sql(f"SELECT id, {', '.join(texts)} FROM frames GROUP BY id ORDER BY id")
    for one, want in zip(got, query.to_arrow_table().to_pylist(), strict=True):
        assert one == [
            v if v is None else pytest.approx(v, abs=1e-9, nan_ok=True)
            for v in list(want.values())[1:]
        ]


def test_all_names_and_types_of_numbers() -> None:
    ys = [float(row * row % 11) for row in range(40)]
    table = table_of(ys, ys)
    texts = [
        *("var(y)", "var_sample(y)", "var_samp(CAST(y AS REAL))", "var_samp(CAST(y AS BIGINT))"),
        *("var_samp(CAST(y AS DECIMAL(9, 3)))", "covar(y, x)", "covar_samp(CAST(y AS INT), x)"),
    ]
    got = answers(table, texts, "short", 9, 2)
    for row, seen in enumerate(frames_of(table, "short")):
        want = np.var([ys[other] for other in seen], ddof=1) if len(seen) > 1 else None
        assert got[row] == [want if want is None else pytest.approx(want, abs=1e-12)] * len(texts)
    decimals = pa.table({"ts": table["ts"], "d": [Decimal(row) for row in range(40)]})
    result = ms.sql("SELECT var_pop(d) OVER (ORDER BY ts ROWS 1 PRECEDING) AS v FROM t", t=decimals)
    assert sorted(result["v"].to_pylist()) == [0.0] + [0.25] * 39


def test_rows_without_a_value_count_for_nothing() -> None:
    ys = [None if row % 3 == 0 else float(row) for row in range(60)]
    xs = [None if row % 4 == 0 else float(row % 5) for row in range(60)]
    table = table_of(ys, xs, 1)
    texts = ["regr_count(y, x)", "var_pop(y)", "var_pop(y) FILTER (WHERE x > 2)"]
    got = answers(table, [*texts, "regr_count(y, 1)", "corr(y, y)"], "long", 7, 1)
    for row, seen in enumerate(frames_of(table, "long")):
        present = [other for other in seen if ys[other] is not None]
        pairs = [other for other in present if xs[other] is not None]
        filtered = [ys[other] for other in pairs if xs[other] > 2]
        y = [ys[other] for other in present]
        want = [
            *(len(pairs), np.var(y) if y else None, np.var(filtered) if filtered else None),
            *(len(present), 1.0 if len(y) > 1 else None),
        ]
        assert got[row] == [v if v is None else pytest.approx(v) for v in want]


def test_unbounded_frames_keep_no_rows() -> None:
    session = ms.Session(partitions=1)
    table = table_of([float(row) for row in range(3000)], [0.0] * 3000)
    session.create_stream("t", table.schema, event_time="ts")
    over = "OVER (PARTITION BY k ORDER BY ts ROWS UNBOUNDED PRECEDING)"
    query = session.sql(f"SELECT id, stddev(y) {over} AS s FROM t")
    job = query.start(ms.CollectSink())
    for start in range(0, 3000, 500):
        job.push("t", table.slice(start, 500))
    job.finish()
    assert sum(part.state_rows for part in job.stats().partitions) <= 3
