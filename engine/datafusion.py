"""The one place where the engine runs DataFusion.

A filter or projection is planned once and executed once: its input is a table that never ends, and
each micro-batch is one batch pulled through the running plan. That skips planning, which costs ten
times as much as the work on a small batch. What has to see its whole input is executed once per
micro-batch: a join with tables by a physical plan that stays, with the hash tables that it has made
of the tables; others are planned anew each time from a logical plan that stays. What comes of rows
comes in their order, if need be by their places in the batch.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from datafusion import ExecutionPlan, SessionConfig, SessionContext, udaf, udf

from millstream.engine.choices import Choices
from millstream.engine.columns import array_from_buffers, empty_batch, fixed_values
from millstream.engine.dictionaries import MergeableRows, of_type
from millstream.engine.physical_plans import (
    filters_twice,
    keeps_only_tables,
    keeps_order,
    only_passes_rows,
)
from millstream.engine.taking import take_rows
from millstream.engine.transform_sql import TransformSql
from millstream.errors import InternalError, MillstreamError
from millstream.planner.nodes import HIDDEN_PREFIX, Transform

__all__ = [
    "QueryRunner",
    "TransformFailed",
    "TransformRunner",
    "aggregate_function",
    "scalar_function",
]

INPUT_TABLE = "input"
# A resident plan has to hand over a batch's rows at once and not wait to fill a larger batch of its
# own.
_RESIDENT_BATCH_ROWS = 1
_WHOLE_BATCH_ROWS = 8192
# The place of each row in its batch, where results have to be put in order by it.
_PLACE = pa.field(HIDDEN_PREFIX + "place", pa.int64())
# It would join tables with each other first, where any columns of theirs have to be equal, or make
# a hash table of rows of the stream.
_OWN_ORDER_OF_JOINS = "eliminate_cross_join"
# These make filters of what joins say.
_MAKERS_OF_FILTERS = [_OWN_ORDER_OF_JOINS, "eliminate_outer_join"]
_CLOCK_FUNCTIONS = re.compile(
    r"\b(now|current_timestamp|current_date|current_time|today)\b", re.IGNORECASE
)


class TransformFailed(MillstreamError):
    """An expression of the query failed on a row; carries DataFusion's message, shortened."""


class _LiveTable(ds.Dataset):  # type: ignore[misc]
    """A dataset whose fragment yields the batches that wait, and ends when there are none."""

    def __init__(self, schema: pa.Schema) -> None:
        self._live_schema = schema
        self.waiting: deque[pa.RecordBatch] = deque()

    @property
    def schema(self) -> pa.Schema:
        return self._live_schema

    def get_fragments(self, filter: object = None) -> Iterator[_LiveFragment]:
        return iter([_LiveFragment(self)])

    def scanner(
        self, columns: Sequence[str] | None = None, filter: object = None, **_: object
    ) -> _Scanner:
        # Filters are not pushed down (see _context); if one ever were, ignoring it would give wrong
        # rows.
        assert filter is None, f"a filter was pushed into the live table: {filter}"
        return _Scanner(self, columns)


class _LiveFragment:
    """The one fragment of a live table. DataFusion gives it the schema by position."""

    def __init__(self, table: _LiveTable) -> None:
        self._table = table

    def scanner(self, schema: pa.Schema | None = None, **options: Any) -> _Scanner:
        return self._table.scanner(**options)


class _Scanner:
    def __init__(self, table: _LiveTable, columns: Sequence[str] | None) -> None:
        self._table = table
        indices = (
            None if columns is None else [table.schema.get_field_index(name) for name in columns]
        )
        self._indices = None if indices == list(range(len(table.schema))) else indices
        self.projected_schema = (
            table.schema
            if indices is None
            else pa.schema([table.schema.field(index) for index in indices])
        )
        self.dataset_schema = self.projected_schema

    def to_batches(self) -> Iterator[pa.RecordBatch]:
        waiting = self._table.waiting
        while waiting:
            batch = waiting.popleft()
            yield batch if self._indices is None else batch.select(self._indices)


def _context(
    tables: Mapping[str, pa.Table],
    functions: Mapping[str, object],
    *,
    batch_rows: int,
    without: Sequence[str] = (),
) -> SessionContext:
    config = (
        SessionConfig()
        .with_target_partitions(1)
        .with_batch_size(batch_rows)
        .set("datafusion.sql_parser.map_string_types_to_utf8view", "false")
        # What a join has learned of a table to filter rows by takes longer to ask than to join.
        .set("datafusion.optimizer.enable_dynamic_filter_pushdown", "false")
    )
    context = SessionContext(config)
    # The live table could only apply a pushed-down filter by a slower path than DataFusion's own.
    for rule in ("push_down_filter", *without):
        context.remove_optimizer_rule(rule)
    for name, table in tables.items():
        context.register_record_batches(name, [table.to_batches() or [empty_batch(table.schema)]])
    for function in functions.values():
        _register_function(context, function)
    return context


def _register_function(context: SessionContext, function: Any) -> None:
    register = (
        context.register_udaf if type(function).__name__ == "AggregateUDF" else context.register_udf
    )
    register(function)


def scalar_function(
    name: str,
    function: Callable[..., pa.Array],
    argument_types: Sequence[pa.DataType],
    return_type: pa.DataType,
    volatility: str,
) -> object:
    """Return the DataFusion function for a Python function over Arrow arrays."""
    return udf(function, list(argument_types), return_type, volatility, name)


def aggregate_function(
    name: str,
    accumulator: type,
    argument_types: Sequence[pa.DataType],
    return_type: pa.DataType,
    state_types: Sequence[pa.DataType],
    volatility: str,
) -> object:
    """Return the DataFusion aggregate for a Python accumulator over Arrow arrays."""
    return udaf(accumulator, list(argument_types), return_type, list(state_types), volatility, name)


def tells_time(sql: str) -> bool:
    """Say whether a query may ask for the current time, so that it cannot be planned for ever."""
    return _CLOCK_FUNCTIONS.search(sql) is not None


class QueryRunner:
    """Runs one query again and again, each time over other rows. Belongs to one thread.

    Args:
        sql: Query over the table ``input`` and the tables of the session.
        in_schema: Schema of ``input``.
        out_schema: Schema of the result.
        tables: Tables of the session by name.
        functions: User-defined DataFusion functions by name.
        joins_in_turn: Whether joins are made in the order in which the query has them.
        kept_by: Name of a last column of booleans that the query has beside those of
            ``out_schema``: whether a row is wanted.
    """

    def __init__(
        self,
        sql: str,
        in_schema: pa.Schema,
        out_schema: pa.Schema,
        *,
        tables: Mapping[str, pa.Table] | None = None,
        functions: Mapping[str, object] | None = None,
        joins_in_turn: bool = False,
        kept_by: str | None = None,
    ) -> None:
        self._kept_by = kept_by
        self._live = _LiveTable(in_schema)
        self._sql = sql
        for without in ([_OWN_ORDER_OF_JOINS] if joins_in_turn else [], _MAKERS_OF_FILTERS):
            self._context = _context(
                tables or {}, functions or {}, batch_rows=_WHOLE_BATCH_ROWS, without=without
            )
            self._context.register_dataset(INPUT_TABLE, self._live)
            self._query = self._context.sql(sql)
            if not filters_twice(self._query.optimized_logical_plan()):
                break
        else:
            raise InternalError(f"a filter stands over another one: {sql}")
        self._tells_time = tells_time(sql)
        # A plan that may be executed again and again.
        self._physical: ExecutionPlan | None = None
        self._out_schema = out_schema
        self._mergeable = MergeableRows(out_schema)

    @property
    def keeps_order(self) -> bool:
        """Whether what comes of rows comes in the order of the rows."""
        return keeps_order(self._query.execution_plan())

    def _plan(self) -> ExecutionPlan:
        if self._physical is not None:
            return self._physical
        plan = self._query.execution_plan()
        if not self._tells_time and keeps_only_tables(plan):
            self._physical = plan
        return plan

    def run(self, batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
        """Run the query over the rows of ``batches``; no empty batch is returned.

        Raises:
            TransformFailed: If an expression fails on a row. The runner stays usable.
        """
        self._live.waiting.extend(batches)
        try:
            if self._tells_time:
                # DataFusion puts the time of parsing in the place of now().
                self._query = self._context.sql(self._sql)
            plan = self._plan()
            # A union within a subquery makes several partitions, of which each has some rows.
            results = [
                self._kept(result.to_pyarrow())
                for partition in range(plan.partition_count)
                for result in self._context.execute(plan, partition)
            ]
        except Exception as error:
            raise TransformFailed(_message(error)) from error
        finally:
            # A LIMIT, or an error, leaves batches behind that the next run must not see.
            self._live.waiting.clear()
        return [
            self._mergeable.of(_as_schema(result, self._out_schema))
            for result in results
            if result.num_rows > 0
        ]

    def _kept(self, result: pa.RecordBatch) -> pa.RecordBatch:
        if self._kept_by is None:
            return result
        wanted = result.filter(result.column(self._kept_by))
        return wanted.drop_columns([self._kept_by])


class TransformRunner:
    """Runs one transform over micro-batches. Belongs to one thread.

    Columns of the input whose names begin with ``__ms_`` are carried through to the output behind
    the node's own.

    Args:
        node: What to compute.
        tables: Tables of the session that the node reads, by name.
        functions: User-defined DataFusion functions by name.
    """

    def __init__(
        self, node: Transform, tables: Mapping[str, pa.Table], functions: Mapping[str, object]
    ) -> None:
        self._choices = Choices(node)
        self._node = node = self._choices.node
        self._tables = {name: tables[name] for name in node.tables}
        self._functions = functions
        self._picks = node.picks
        self._sql = TransformSql(node, self._tables, list(functions))
        self._plans: dict[tuple[str, ...], QueryRunner | _InOrder | _Resident] = {}

    def run(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Transform one batch; rows keep their order if the node says so, and no batch is empty.

        Raises:
            TransformFailed: If an expression fails on a row. The runner stays usable.
        """
        if batch.num_rows == 0:
            return []
        hidden = tuple(name for name in batch.schema.names if name.startswith(HIDDEN_PREFIX))
        if self._picks is not None:
            results = [self._pick(batch, hidden)]
        else:
            plan = self._plans.get(hidden)
            if plan is None:
                plan = self._plans[hidden] = self._plan(batch.schema, hidden)
            results = plan.run((batch,))
        return [self._choices.made(result) for result in results] if self._choices else results

    def replace_tables(self, tables: Mapping[str, pa.Table]) -> None:
        """Use other contents for the session's tables from the next batch on."""
        self._tables = {name: tables[name] for name in self._node.tables}
        self._plans.clear()

    def _pick(self, batch: pa.RecordBatch, hidden: tuple[str, ...]) -> pa.RecordBatch:
        assert self._picks is not None
        columns = [batch.column(name) for name in self._picks + hidden]
        schema = self._node.schema
        for name in hidden:
            schema = schema.append(batch.schema.field(name))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _plan(
        self, in_schema: pa.Schema, hidden: tuple[str, ...]
    ) -> QueryRunner | _InOrder | _Resident:
        out_schema = self._node.schema
        for name in hidden:
            out_schema = out_schema.append(in_schema.field(name))
        sql = self._sql.text(hidden)
        if not self._tables and not tells_time(sql):
            context = _context({}, self._functions, batch_rows=_RESIDENT_BATCH_ROWS)
            resident = _Resident(context, sql, in_schema, out_schema)
            if resident.answers_each_batch:
                return resident
        runner = self._runner(sql, in_schema, out_schema)
        if not self._node.is_ordered or runner.keeps_order:
            return runner
        sql = self._sql.text((*hidden, _PLACE.name))
        return _InOrder(self._runner(sql, in_schema.append(_PLACE), out_schema.append(_PLACE)))

    def _runner(self, sql: str, in_schema: pa.Schema, out_schema: pa.Schema) -> QueryRunner:
        return QueryRunner(
            sql,
            in_schema,
            out_schema,
            tables=self._tables,
            functions=self._functions,
            joins_in_turn=self._node.joins_in_turn or self._sql.kept_by is not None,
            kept_by=self._sql.kept_by,
        )


class _InOrder:
    """Puts what a query makes of rows in their order, as for outer joins.

    Args:
        runner: Of the query, which takes the place of each row and gives it as its last column.
    """

    def __init__(self, runner: QueryRunner) -> None:
        self._runner = runner

    def run(self, batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
        ordered: list[pa.RecordBatch] = []
        for batch in batches:
            numbers = array_from_buffers(np.arange(batch.num_rows), pa.int64(), None)
            results = self._runner.run((batch.append_column(_PLACE, numbers),))
            if results:
                ordered.append(self._in_order(pa.concat_batches(results)))
        return ordered

    def _in_order(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        places = fixed_values(rows.column(rows.num_columns - 1))
        rows = rows.select(range(rows.num_columns - 1))
        if bool((places[1:] >= places[:-1]).all()):
            return rows
        return take_rows(rows, np.argsort(places, kind="stable"))


class _Resident:
    """A filter or projection that is executed once and pulled once per batch.

    Other plans may give several results for a batch, as those of ``unnest`` do, or keep rows back,
    as joins with a subquery do: see :attr:`answers_each_batch`.
    """

    def __init__(
        self, context: SessionContext, sql: str, in_schema: pa.Schema, out_schema: pa.Schema
    ) -> None:
        self._context = context
        self._live = _LiveTable(in_schema)
        context.register_dataset(INPUT_TABLE, self._live)
        self._physical = context.sql(sql).execution_plan()
        self._out_schema = out_schema
        self._mergeable = MergeableRows(out_schema)
        self._stream: Any = None

    @property
    def answers_each_batch(self) -> bool:
        """Whether each batch has one result at most, and none waits for another batch."""
        return only_passes_rows(self._physical)

    def run(self, batches: Iterable[pa.RecordBatch]) -> list[pa.RecordBatch]:
        self._live.waiting.extend(batches)
        try:
            return self._pull()
        except Exception as error:
            self._stream = None
            self._live.waiting.clear()
            raise TransformFailed(_message(error)) from error

    def _pull(self) -> list[pa.RecordBatch]:
        if self._stream is None:
            self._stream = self._context.execute(self._physical, 0)
        out: list[pa.RecordBatch] = []
        while True:
            try:
                result = self._stream.next().to_pyarrow()
            except StopIteration:
                # The live table ran dry while the plan looked for a row that passes: this execution
                # is over.
                self._stream = None
                return out
            if result.num_rows > 0:
                out.append(self._mergeable.of(_as_schema(result, self._out_schema)))
            # The table hands over a whole batch at a time and a filter or projection answers each
            # with at most one.
            if not self._live.waiting and out:
                return out


def _as_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    if batch.schema.equals(schema):
        return batch
    columns = [
        of_type(column, field.type) for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _message(error: Exception) -> str:
    text = str(error).strip()
    for prefix in ("DataFusion error: ", "Execution error: ", "Arrow error: ", "External error: "):
        text = text.removeprefix(prefix)
    return text or type(error).__name__
