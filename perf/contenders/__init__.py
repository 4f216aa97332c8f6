"""Who takes part: Millstream, and those that it is compared with."""

from perf.contenders.arrow_loop import ArrowLoop
from perf.contenders.engines import BatchSql, DataFusion, DuckDb, Polars, duckdb_answer
from perf.contenders.limit import CopyColumns, SumColumns
from perf.contenders.stream import Millstream

__all__ = [
    "ArrowLoop",
    "BatchSql",
    "CopyColumns",
    "DataFusion",
    "DuckDb",
    "Millstream",
    "Polars",
    "SumColumns",
    "duckdb_answer",
]
