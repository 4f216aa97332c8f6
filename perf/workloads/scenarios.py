"""Five queries over made-up trades whose answers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from perf.cases import Case, Contender, Inputs, Measurement, StreamSpec, Suite
from perf.contenders import (
    ArrowLoop,
    BatchSql,
    CopyColumns,
    DataFusion,
    DuckDb,
    Millstream,
    Polars,
    SumColumns,
    duckdb_answer,
)

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SUITE", "cases", "market_data", "orders"]

_MINUTE_MS = 60_000
_FIRST_TRADE_MS = 1_700_000_000
_BATCH_ROWS = 65_536
_BUFFER_CASE = "1 over, as a buffer"

_FILTER_SQL = (
    "SELECT order_id, customer_id, order_date, total_amount FROM orders WHERE total_amount > 100"
)
_OVER_SQL = (
    'SELECT symbol, price, "timestamp", avg(price) OVER w AS average, min(price) OVER w AS least,'
    " max(price) OVER w AS greatest FROM market_data WINDOW w AS"
    ' (PARTITION BY symbol ORDER BY "timestamp" ROWS BETWEEN 99 PRECEDING AND CURRENT ROW)'
)
_BUFFER = '(ROWS WINDOW BUFFER 100 ROWS PARTITION BY symbol ORDER BY "timestamp")'
_BUFFER_SQL = (
    f'SELECT symbol, price, "timestamp", avg(price) OVER {_BUFFER} AS average,'
    f" min(price) OVER {_BUFFER} AS least, max(price) OVER {_BUFFER} AS greatest FROM market_data"
)
_SYMBOLS_SQL = (
    "SELECT symbol, count(*) AS n, avg(price) AS average, min(price) AS least,"
    " max(price) AS greatest, sum(quantity) AS volume FROM market_data GROUP BY symbol"
)
_TRADES = (
    "trader_id, symbol, count(*) AS n, avg(price) AS average, sum(quantity) AS volume,"
    " sum(price * quantity) AS turnover"
)
_MINUTES_SQL = (
    f"SELECT window_start, {_TRADES} FROM market_data"
    " GROUP BY trader_id, symbol WINDOW TUMBLING(trade_time, INTERVAL '1' MINUTE)"
)
_MINUTES_BATCH_SQL = BatchSql(
    f"SELECT BUCKET(INTERVAL '1 minute', trade_time) AS window_start, {_TRADES}"
    " FROM market_data GROUP BY 1, trader_id, symbol"
)


def orders(n_rows: int) -> Inputs:
    """Make orders that all pass the filter."""
    numbers = np.arange(n_rows)
    return {
        "orders": pa.table(
            {
                "order_id": numbers,
                "customer_id": numbers % 1000,
                "order_date": pa.array(["2024-01-15"]).take(pa.array(np.zeros(n_rows, np.int32))),
                "total_amount": (150 + numbers % 100).astype(np.float64),
            }
        )
    }


def market_data(
    n_symbols: int, n_prices: int, first_quantity: int, time_column: str, n_rows: int
) -> Inputs:
    """Make trades, one a second, that go round through symbols, traders, prices and quantities."""
    numbers = np.arange(n_rows)
    start_ms = _FIRST_TRADE_MS if time_column == "trade_time" else 0
    return {
        "market_data": pa.table(
            {
                "trader_id": _numbered("TRADER", numbers % 20),
                "symbol": _numbered("SYM", numbers % n_symbols),
                "price": (100 + numbers % n_prices).astype(np.float64),
                "quantity": first_quantity + numbers % 1000,
                time_column: pa.array(start_ms + 1000 * numbers, pa.timestamp("ms")),
            }
        )
    }


def _numbered(prefix: str, numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    texts = pa.array([f"{prefix}{number}" for number in range(int(numbers.max()) + 1)])
    return texts.take(pa.array(numbers))


def _over_market(n_rows: int) -> Inputs:
    return market_data(10, 50, 0, "timestamp", n_rows)


def _symbols_market(n_rows: int) -> Inputs:
    return market_data(200, 100, 0, "trade_time", n_rows)


def _minutes_market(n_rows: int) -> Inputs:
    return market_data(10, 50, 100, "trade_time", n_rows)


def _contenders(
    sql: BatchSql, *others: Contender, table: str = "market_data"
) -> tuple[Contender, ...]:
    stream = (Millstream(1, _BATCH_ROWS), Millstream(2, _BATCH_ROWS), Millstream(1, 8192))
    limits = (SumColumns(table), CopyColumns(table))
    return (*stream, *others, DataFusion(sql), DuckDb(sql), *limits)


def _polars_filter(frame: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    columns = ("order_id", "customer_id", "order_date", "total_amount")
    return frame.filter(pl.col("total_amount") > 100).select(columns)


def _polars_symbols(frame: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    price = pl.col("price")
    return frame.group_by("symbol").agg(
        pl.len().alias("n"),
        price.mean().alias("average"),
        price.min().alias("least"),
        price.max().alias("greatest"),
        pl.col("quantity").sum().alias("volume"),
    )


def _polars_minutes(frame: pl.LazyFrame) -> pl.LazyFrame:
    import polars as pl

    price, quantity = pl.col("price"), pl.col("quantity")
    minute = pl.col("trade_time").dt.truncate("1m").alias("window_start")
    return frame.group_by(minute, "trader_id", "symbol").agg(
        pl.len().alias("n"),
        price.mean().alias("average"),
        quantity.sum().alias("volume"),
        (price * quantity).sum().alias("turnover"),
    )


def _symbols_loop() -> ArrowLoop:
    return ArrowLoop(
        stream="market_data",
        batch_rows=_BATCH_ROWS,
        keys=("symbol",),
        aggregates=(
            ("price", "count", "n"),
            ("price", "mean", "average"),
            ("price", "min", "least"),
            ("price", "max", "greatest"),
            ("quantity", "sum", "volume"),
        ),
    )


def cases() -> list[Case]:
    """Return the scenarios in their order."""
    timed = (StreamSpec(name="market_data", event_time="trade_time"),)
    by_timestamp = (StreamSpec(name="market_data", event_time="timestamp"),)
    minutes_keys = ("window_start", "trader_id", "symbol")
    filter_sql, over_sql = BatchSql(_FILTER_SQL), BatchSql(_OVER_SQL)
    symbols_sql = BatchSql(_SYMBOLS_SQL)
    return [
        Case(
            name="0 filter",
            rows=4_000_000,
            rows_quick=500_000,
            generate=orders,
            streams=(StreamSpec(name="orders"),),
            sql=_FILTER_SQL,
            keys=("order_id",),
            expected=duckdb_answer(filter_sql),
            contenders=_contenders(
                filter_sql,
                Polars(_polars_filter, "filter(total_amount > 100)", "orders"),
                table="orders",
            ),
        ),
        *(
            Case(
                name=name,
                rows=2_000_000,
                rows_quick=100_000,
                generate=_over_market,
                streams=by_timestamp,
                sql=sql,
                keys=("timestamp",),
                expected=duckdb_answer(over_sql),
                contenders=_contenders(over_sql),
            )
            for name, sql in (("1 over", _OVER_SQL), (_BUFFER_CASE, _BUFFER_SQL))
        ),
        Case(
            name="2 group by",
            rows=8_000_000,
            rows_quick=1_000_000,
            generate=_symbols_market,
            streams=timed,
            sql=f"{_SYMBOLS_SQL} EMIT FINAL",
            keys=("symbol",),
            expected=duckdb_answer(symbols_sql),
            contenders=_contenders(
                symbols_sql,
                _symbols_loop(),
                Polars(_polars_symbols, "group_by(symbol).agg(...)", "market_data"),
            ),
        ),
        *(
            Case(
                name=name,
                rows=rows,
                rows_quick=100_000,
                generate=_minutes_market,
                streams=timed,
                sql=sql,
                keys=minutes_keys,
                expected=duckdb_answer(_MINUTES_BATCH_SQL),
                contenders=_contenders(
                    _MINUTES_BATCH_SQL,
                    Polars(
                        _polars_minutes,
                        "group_by(trade_time.dt.truncate('1m'), trader_id, symbol).agg(...)",
                        "market_data",
                    ),
                ),
            )
            for name, sql, rows in (
                ("3a tumble", _MINUTES_SQL, 4_000_000),
                ("3b tumble, changes", f"{_MINUTES_SQL} EMIT CHANGES", 1_000_000),
            )
        ),
    ]


def _is_quick_one(measurement: Measurement) -> bool:
    # The other spelling of scenario 1 has the same rivals and limits.
    is_repeated = measurement.case == _BUFFER_CASE and measurement.role != "millstream"
    return not is_repeated and measurement.contender != Millstream(1, 8192).name


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    measurements = [found for case in cases() for found in case.measurements()]
    return [found for found in measurements if not is_quick or _is_quick_one(found)]


SUITE = Suite(
    name="scenarios",
    about="Five queries over made-up trades: filter, OVER, GROUP BY, windows, changes.",
    measurements=_measurements,
)
