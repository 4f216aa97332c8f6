"""Engines that compute the answer in one go, with the whole table before them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from perf.cases import Case, Inputs, Prepared
from perf.records import Role

if TYPE_CHECKING:
    import duckdb
    import polars as pl

__all__ = ["BatchSql", "DataFusion", "DuckDb", "Polars", "cores", "duckdb_answer"]

# What DataFusion itself reads at a time; many more rows make its parts of a table uneven.
_DATAFUSION_BATCH_ROWS = 65_536


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class BatchSql:
    """A query over whole tables, for engines that know no windows of event time.

    Attributes:
        text: The query. ``BUCKET(<interval>, <column>)`` stands for the function that rounds
            times down, which each engine calls otherwise.
        datafusion: The query for DataFusion if it cannot read the same.
    """

    text: str
    datafusion: str | None = None

    def for_duckdb(self) -> str:
        """Return the query for DuckDB."""
        return self.text.replace("BUCKET(", "time_bucket(")

    def for_datafusion(self) -> str:
        """Return the query for DataFusion."""
        return (self.datafusion or self.text).replace("BUCKET(", "date_bin(")


@dataclass(frozen=True, slots=True)
class DuckDb:
    """DuckDB over the Arrow tables as they are."""

    query: BatchSql
    threads: int = field(default_factory=cores)

    @property
    def name(self) -> str:
        return f"duckdb t={self.threads}"

    @property
    def role(self) -> Role:
        return "rival"

    def describe(self, case: Case) -> str:
        return f"{self.query.for_duckdb()}  -- one-shot over Arrow tables, {self.threads} threads"

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        connection = _duckdb(inputs, self.threads)
        sql = self.query.for_duckdb()
        return Prepared(run=lambda: connection.sql(sql).to_arrow_table())


@dataclass(frozen=True, slots=True)
class DataFusion:
    """DataFusion over the tables in memory, dealt out to as many partitions as it has threads."""

    query: BatchSql
    threads: int = field(default_factory=cores)

    @property
    def name(self) -> str:
        return f"datafusion t={self.threads}"

    @property
    def role(self) -> Role:
        return "rival"

    def describe(self, case: Case) -> str:
        return f"{self.query.for_datafusion()}  -- one-shot, {self.threads} target partitions"

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        from datafusion import SessionConfig, SessionContext

        context = SessionContext(SessionConfig().with_target_partitions(self.threads))
        for name, table in inputs.items():
            batches = table.to_batches(max_chunksize=_DATAFUSION_BATCH_ROWS)
            n_parts = min(self.threads, len(batches))
            parts = [batches[index::n_parts] for index in range(n_parts)]
            context.register_record_batches(name, parts)
        sql = self.query.for_datafusion()
        return Prepared(run=lambda: context.sql(sql).to_arrow_table())


@dataclass(frozen=True, slots=True)
class Polars:
    """Polars' streaming engine over the table as it is.

    Attributes:
        query: Builds the query.
        text: Says what it computes.
        stream: Name of the table that it reads.
    """

    query: Callable[[pl.LazyFrame], pl.LazyFrame]
    text: str
    stream: str

    @property
    def name(self) -> str:
        return f"polars t={cores()}"

    @property
    def role(self) -> Role:
        return "rival"

    def describe(self, case: Case) -> str:
        return f"{self.text}  -- one-shot, collect(engine='streaming'), {cores()} threads"

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        import polars as pl

        frame = pl.from_arrow(inputs[self.stream])
        assert isinstance(frame, pl.DataFrame), "a table becomes a frame"
        query = self.query(frame.lazy())
        return Prepared(run=lambda: query.collect(engine="streaming").to_arrow())


def duckdb_answer(query: BatchSql) -> Callable[[Inputs], pa.Table]:
    """Return a function that computes the expected answer by DuckDB."""

    def expected(inputs: Inputs) -> pa.Table:
        return _duckdb(inputs, cores()).sql(query.for_duckdb()).to_arrow_table()

    return expected


def _duckdb(inputs: Inputs, threads: int) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    for name, table in inputs.items():
        connection.register(name, table)
    return connection
