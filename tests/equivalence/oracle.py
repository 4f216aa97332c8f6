"""Batch engines that answer a case's question over the whole of its tables."""

from __future__ import annotations

from collections.abc import Mapping

import datafusion
import duckdb
import pyarrow as pa

from tests.equivalence.case import Case

__all__ = ["OracleError", "answer_of_datafusion", "answer_of_duckdb", "run_datafusion"]


class OracleError(Exception):
    """A batch engine does not answer the question; the case proves nothing."""


def run_datafusion(sql: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Run a query by DataFusion over whole tables, in one partition.

    Raises:
        OracleError: If DataFusion raises.
    """
    config = datafusion.SessionConfig().with_target_partitions(1)
    config = config.set("datafusion.sql_parser.map_string_types_to_utf8view", "false")
    context = datafusion.SessionContext(config)
    for name, table in tables.items():
        batches = table.combine_chunks().to_batches()
        empty = pa.RecordBatch.from_arrays(
            [pa.array([], f.type) for f in table.schema], schema=table.schema
        )
        context.register_record_batches(name, [batches or [empty]])
    try:
        frame = context.sql(sql)
        batches = frame.collect()
    except (Exception, BaseException) as error:
        raise OracleError(f"{type(error).__name__}: {error}\n{sql}") from error
    if not batches:
        return frame.schema().empty_table()
    return _as_planned(pa.Table.from_batches(batches), frame.schema())


def _as_planned(answer: pa.Table, planned: pa.Schema) -> pa.Table:
    """Give decimals the type that the query was planned with.

    DataFusion rewrites a query with a single distinct aggregate so that the others are summed up
    twice, and forgets to narrow the sums again.
    """
    for index, field in enumerate(planned):
        if pa.types.is_decimal(field.type) and answer.schema.field(index).type != field.type:
            narrowed = answer.column(index).cast(field.type)
            answer = answer.set_column(index, answer.schema.field(index).name, narrowed)
    return answer


def answer_of_datafusion(case: Case) -> pa.Table:
    """Give DataFusion's answer, with window columns in the type of the event time.

    Raises:
        OracleError: If DataFusion raises.
    """
    answer = run_datafusion(case.oracle_sql, case.all_oracle_tables())
    for name, data_type in case.time_columns.items():
        index = answer.schema.get_field_index(name)
        column = answer.column(index)
        narrow = pa.types.is_date32(data_type) or pa.types.is_int32(data_type)
        column = (column.cast(pa.int32()) if narrow else column).cast(data_type)
        answer = answer.set_column(index, name, column)
    return answer


def answer_of_duckdb(case: Case) -> pa.Table:
    """Give DuckDB's answer in DuckDB's own types.

    Raises:
        OracleError: If DuckDB raises.
    """
    with duckdb.connect() as connection:
        for name, table in case.all_oracle_tables().items():
            connection.register(name, table)
        try:
            return connection.sql(case.oracle_sql).to_arrow_table()
        except duckdb.Error as error:
            raise OracleError(f"{type(error).__name__}: {error}\n{case.oracle_sql}") from error
