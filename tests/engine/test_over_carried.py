"""Window functions over all rows so far of types that are no words: only results are kept."""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms

N_ROWS = 120
SECOND = 1_000_000


def first(left: Any, right: Any) -> Any:
    return left


def last(left: Any, right: Any) -> Any:
    return right


# How each function folds two values that are not NULL.
FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "sum(d)": operator.add,
    "sum(wide)": operator.add,
    "min(d)": min,
    "max(d)": max,
    "max(wide)": max,
    "max(s)": max,
    "min(v)": min,
    "max(e)": max,
    "min(b)": min,
    "bool_and(b)": operator.and_,
    "bool_or(b)": operator.or_,
    "bit_and(i)": operator.and_,
    "bit_or(i)": operator.or_,
    "bit_xor(i)": operator.xor,
    "max(DISTINCT s)": max,
    "first_value(s) IGNORE NULLS": first,
    "last_value(s) IGNORE NULLS": last,
    "last_value(d) IGNORE NULLS": last,
    "last_value(l) IGNORE NULLS": last,
    "first_value(v) IGNORE NULLS": first,
    "last_value(e) IGNORE NULLS": last,
}
OVER = "OVER (PARTITION BY k ORDER BY ts {kind} UNBOUNDED PRECEDING)"


def rows(seed: int, n_rows: int = N_ROWS, n_keys: int = 3) -> pa.Table:
    """Rows in the order of their times, of which some are the same; the first ones are NULL."""
    random = np.random.default_rng(seed)

    def column(values: list[Any], type_: pa.DataType) -> pa.Array:
        is_null = (random.random(n_rows) < 0.4) | (np.arange(n_rows) < 10)
        return pa.array([None if n else v for v, n in zip(values, is_null, strict=True)], type_)

    integers = random.integers(-100, 100, n_rows).tolist()
    words = [f"w{value % 17}" for value in integers]
    decimals = [Decimal(value) / 100 for value in integers]
    return pa.table(
        {
            "id": range(n_rows),
            "ts": pa.array([row // 3 * SECOND for row in range(n_rows)], pa.timestamp("us")),
            "k": random.integers(0, n_keys, n_rows),
            "d": column(decimals, pa.decimal128(7, 2)),
            "wide": column(decimals, pa.decimal256(50, 4)),
            "s": column(words, pa.string()),
            "v": column(words, pa.string_view()),
            "e": column(words, pa.string()).dictionary_encode(),
            "b": column([value > 0 for value in integers], pa.bool_()),
            "i": column(integers, pa.int16()),
            "l": column([[value] for value in integers], pa.list_(pa.int64())),
        }
    )


def answer(table: pa.Table, calls: list[str], kind: str, cut: int, n: int) -> pa.Table:
    session = ms.Session(partitions=n)
    session.create_stream("t", table.schema, event_time="ts")
    over = OVER.format(kind=kind)
    selected = ", ".join(f"{call} {over} AS r{nth}" for nth, call in enumerate(calls))
    query = session.sql(f"SELECT id, {selected} FROM t")
    assert "buffered" not in query.explain()
    return query.run({"t": table}, batch_rows=cut).sort_by("id")


def seen_by(table: pa.Table, kind: str) -> list[list[int]]:
    """The rows that each row sees, in their order."""
    keys, times = table["k"].to_pylist(), table["ts"].cast(pa.int64()).to_pylist()
    return [
        [
            other
            for other in range(len(keys))
            if keys[other] == keys[row]
            and (times[other] <= times[row] if kind == "RANGE" else other <= row)
        ]
        for row in range(len(keys))
    ]


@pytest.mark.parametrize("kind", ["ROWS", "RANGE"])
@pytest.mark.parametrize(("cut", "n"), [(1, 1), (7, 2), (N_ROWS, 1)])
def test_results_go_on_from_step_to_step(kind: str, cut: int, n: int) -> None:
    table = rows(cut)
    got = answer(table, list(FOLDS), kind, cut, n)
    seen = seen_by(table, kind)
    for nth, (call, fold) in enumerate(FOLDS.items()):
        column = table[call.split("(")[1].split(")")[0].removeprefix("DISTINCT ")].to_pylist()
        want = []
        for frame in seen:
            values = [column[row] for row in frame if column[row] is not None]
            want.append(reduce(fold, values) if values else None)
        assert got[f"r{nth}"].to_pylist() == want, call


@pytest.mark.parametrize("kind", ["ROWS", "RANGE"])
def test_averages_of_decimals_round_towards_zero(kind: str) -> None:
    table = rows(5)
    got = answer(table, ["avg(d)", "avg(d) FILTER (WHERE i > 0)"], kind, 7, 2)
    decimals, integers = table["d"].to_pylist(), table["i"].to_pylist()
    for row, frame in enumerate(seen_by(table, kind)):
        values = [decimals[other] for other in frame if decimals[other] is not None]
        chosen = [
            decimals[other]
            for other in frame
            if decimals[other] is not None and (integers[other] or 0) > 0
        ]
        for name, some in (("r0", values), ("r1", chosen)):
            result = got[name][row].as_py()
            if not some:
                assert result is None
            else:
                assert result == int(sum(some) * 10**6 / len(some)) / Decimal(10**6)


@pytest.mark.parametrize(("cut", "n"), [(1, 1), (7, 2), (N_ROWS, 1)])
@pytest.mark.parametrize("column", ["s", "d", "v", "e", "b", "i", "l"])
def test_lag_looks_for_a_value(column: str, cut: int, n: int) -> None:
    table = rows(8)
    session = ms.Session(partitions=n)
    session.create_stream("t", table.schema, event_time="ts")
    over = "OVER (PARTITION BY k ORDER BY ts)"
    query = session.sql(f"SELECT id, lag({column}) IGNORE NULLS {over} AS r FROM t")
    got = query.run({"t": table}, batch_rows=cut).sort_by("id")
    values = table[column].to_pylist()
    want = []
    for row, frame in enumerate(seen_by(table, "ROWS")):
        before = [values[o] for o in frame if o != row and values[o] is not None]
        want.append(before[-1] if before else None)
    assert got["r"].to_pylist() == want
    is_view = pa.types.is_string_view(table.schema.field(column).type)
    assert got["r"].type == (pa.string() if is_view else table.schema.field(column).type)


def test_constants_are_columns_like_others() -> None:
    calls = ["sum(1)", "max('a')", "sum(1.5)", "bool_and(true)", "min(DATE '2024-01-01')"]
    got = answer(rows(6), calls, "ROWS", 7, 1).to_pylist()
    counts = [len(frame) for frame in seen_by(rows(6), "ROWS")]
    assert [row["r0"] for row in got] == counts
    assert [row["r2"] for row in got] == [1.5 * count for count in counts]
    assert {(row["r1"], row["r3"]) for row in got} == {("a", True)}


@pytest.mark.parametrize(
    ("call", "n_kept"),
    [
        ("sum(d)", 1),
        ("avg(d)", 1),
        ("last_value(s) IGNORE NULLS", 1),
        ("lag(s) IGNORE NULLS", 1),
        ("bool_or(b)", 2),
    ],
)
def test_one_row_at_most_is_kept_of_each_key(call: str, n_kept: int) -> None:
    table = rows(7, n_rows=6000, n_keys=5)
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts")
    query = session.sql(f"SELECT id, {call} {OVER.format(kind='ROWS')} AS r FROM t")
    job = query.start(ms.CollectSink())
    for start in range(0, table.num_rows, 200):
        job.push("t", table.slice(start, 200))
    job.finish()
    (part,) = job.stats().partitions
    # A key, and the last result where it is carried.
    assert part.state_rows == 5 * n_kept
    assert part.state_bytes < 200_000


@pytest.mark.parametrize(
    "call",
    [
        *("sum(d)", "avg(d)", "max(d)", "bool_or(b)", "max(s)"),
        *("last_value(s) IGNORE NULLS", "first_value(s) IGNORE NULLS"),
    ],
)
@pytest.mark.parametrize("kind", ["ROWS", "RANGE"])
def test_no_key_is_forgotten(call: str, kind: str) -> None:
    n_keys, n_rounds = 3000, 4
    words = pa.array([f"w{key}" if key % 2 else None for key in range(n_keys)])
    one_round = {
        "k": pa.array(range(n_keys)),
        "d": pa.array([Decimal(key) for key in range(n_keys)], pa.decimal128(9, 2)),
        "s": words,
        "b": pa.array([bool(key % 3) for key in range(n_keys)]),
    }
    blank = {name: pa.nulls(n_keys, one_round[name].type) for name in "dsb"}
    rounds = [
        pa.table({**one_round, **(blank if nth else {}), "ts": [nth * 100] * n_keys})
        for nth in range(n_rounds)
    ]
    session = ms.Session(partitions=1)
    session.create_stream("t", rounds[0].schema, event_time="ts")
    query = session.sql(f"SELECT k, ts, {call} {OVER.format(kind=kind)} AS r FROM t")
    results = ms.CollectSink()
    with query.start(results) as job:
        for rows_of_round in rounds:
            job.push("t", rows_of_round)
    by_round = results.table().sort_by([("ts", "ascending"), ("k", "ascending")])["r"].to_pylist()
    assert by_round[:n_keys] * n_rounds == by_round
    assert any(by_round)
