"""GROUP BY without windows: few keys and many, of all types that keys have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from perf.cases import Case, Contender, Inputs, Measurement, StreamSpec, Suite
from perf.contenders import (
    ArrowLoop,
    BatchSql,
    DataFusion,
    DuckDb,
    Millstream,
    Polars,
    duckdb_answer,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CARDINALITIES", "SUITE", "cases", "int64_case_name"]

CARDINALITIES = (10, 1000, 100_000, 1_000_000, 10_000_000)
_SEED = 2
_CENTS_MAX = 1_000_000
_AGGREGATES = (
    ("v", "count", "n"),
    ("v", "mean", "average"),
    ("v", "min", "least"),
    ("v", "max", "greatest"),
    ("v", "sum", "total"),
)
_GROUPS = "count(*) AS n, avg(v) AS average, min(v) AS least, max(v) AS greatest, sum(v) AS total"
_QUICK_CASES = ("int64, 1000 keys", "int64, 1000000 keys", "string, 200 keys")


def _int64_keys(n_keys: int, random: np.random.Generator, n_rows: int) -> dict[str, pa.Array]:
    return {"k": pa.array(random.integers(0, n_keys, n_rows))}


def _string_keys(n_keys: int, random: np.random.Generator, n_rows: int) -> dict[str, pa.Array]:
    return {"k": _dictionary_keys(n_keys, random, n_rows)["k"].cast(pa.string())}


def _dictionary_keys(n_keys: int, random: np.random.Generator, n_rows: int) -> dict[str, pa.Array]:
    texts = pa.array([f"SYM{number}" for number in range(n_keys)])
    codes = pa.array(random.integers(0, n_keys, n_rows).astype(np.int32))
    return {"k": pa.DictionaryArray.from_arrays(codes, texts)}


def _two_columns(n_keys: int, random: np.random.Generator, n_rows: int) -> dict[str, pa.Array]:
    return {
        "k": _string_keys(n_keys // 100, random, n_rows)["k"],
        "k2": pa.array(random.integers(0, 100, n_rows)),
    }


def _generate(
    keys: Callable[[np.random.Generator, int], dict[str, pa.Array]], is_decimal: bool, n_rows: int
) -> Inputs:
    random = np.random.default_rng(_SEED)
    columns = keys(random, n_rows)
    cents = random.integers(0, _CENTS_MAX, n_rows)
    values = pa.array(cents)
    if is_decimal:
        words = np.zeros((n_rows, 2), np.int64)
        words[:, 0] = cents
        values = pa.Array.from_buffers(
            pa.decimal128(12, 2), n_rows, [None, pa.py_buffer(words.tobytes())]
        )
    return {"t": pa.table({**columns, "v": values})}


def _polars(keys: Sequence[str], frame: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    values = pl.col("v")
    return frame.group_by(*keys).agg(
        pl.len().alias("n"),
        values.mean().alias("average"),
        values.min().alias("least"),
        values.max().alias("greatest"),
        values.sum().alias("total"),
    )


def int64_case_name(n_keys: int) -> str:
    """Return the name of the case with this many int64 keys."""
    return f"int64, {n_keys} keys"


def _case(
    name: str,
    keys: Callable[[np.random.Generator, int], dict[str, pa.Array]],
    *,
    columns: tuple[str, ...] = ("k",),
    is_decimal: bool = False,
    groups: str = _GROUPS,
) -> Case:
    names = ", ".join(columns)
    batch_sql = BatchSql(f"SELECT {names}, {groups} FROM t GROUP BY {names}")
    others: tuple[Contender, ...] = (DataFusion(batch_sql), DuckDb(batch_sql))
    if not is_decimal:
        # Sums of decimals have other types in pyarrow and in Polars.
        loop = ArrowLoop(stream="t", batch_rows=65_536, keys=columns, aggregates=_AGGREGATES)
        polars = Polars(partial(_polars, columns), f"group_by({names}).agg(...)", "t")
        others = (loop, *others, polars)
    return Case(
        name=name,
        rows=10_000_000,
        rows_quick=2_000_000,
        generate=partial(_generate, keys, is_decimal),
        streams=(StreamSpec(name="t"),),
        sql=f"{batch_sql.text} EMIT FINAL",
        keys=columns,
        expected=duckdb_answer(batch_sql),
        contenders=(Millstream(2, 65_536), Millstream(1, 65_536), *others),
    )


def cases() -> list[Case]:
    """Return all cases: cardinalities of one int64 key, then other types of keys and values."""
    return [
        *(_case(int64_case_name(n_keys), partial(_int64_keys, n_keys)) for n_keys in CARDINALITIES),
        _case("string, 200 keys", partial(_string_keys, 200)),
        _case("string, 100000 keys", partial(_string_keys, 100_000)),
        _case("dictionary, 200 keys", partial(_dictionary_keys, 200)),
        _case("string and int64, 10000 keys", partial(_two_columns, 10_000), columns=("k", "k2")),
        _case(
            "decimal sums, 10000 keys",
            partial(_int64_keys, 10_000),
            is_decimal=True,
            groups="count(*) AS n, min(v) AS least, max(v) AS greatest, sum(v) AS total",
        ),
    ]


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    return [
        measurement
        for case in cases()
        if not is_quick or case.name in _QUICK_CASES
        for measurement in case.measurements()
    ]


SUITE = Suite(
    name="keys",
    about="COUNT, AVG, MIN, MAX and SUM by 10 to 10 million keys of several types.",
    measurements=_measurements,
)
