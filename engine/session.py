"""Sessions: where streams and tables are declared and queries are planned."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from millstream.engine.config import SessionConfig
from millstream.engine.conform import Conformer
from millstream.engine.datafusion import aggregate_function, scalar_function
from millstream.engine.durations import parse_duration, time_unit
from millstream.engine.inputs import batches, schema_of
from millstream.engine.job_registry import JobRegistry
from millstream.engine.query import Explanation, Query
from millstream.errors import SchemaError
from millstream.planner import plan_query
from millstream.planner.catalog import Catalog, StreamDefinition

if TYPE_CHECKING:
    from millstream.engine.metrics import MetricsServer

__all__ = ["Session", "sql"]

# What the engine calls the rows of a stream when it speaks to DataFusion.
_RESERVED_NAMES = frozenset({"input"})
_RESERVED_PREFIX = "__"
_EXPLAIN = re.compile(r"\s*EXPLAIN\b", re.IGNORECASE)
_RESERVED_COLUMNS = frozenset({"_op"})


class Session:
    """Declares streams and tables, and plans queries over them.

    Args:
        config: All options at once; mutually exclusive with ``options``.
        options: Fields of :class:`SessionConfig`.

    Raises:
        SchemaError: If an option is out of its range.

    Examples:
        >>> import millstream as ms
        >>> import pyarrow as pa
        >>> session = ms.Session(partitions=2)
        >>> session.create_stream("t", pa.schema({"k": pa.string(), "x": pa.int64()}))
        >>> query = session.sql("SELECT k, sum(x) AS total FROM t GROUP BY k EMIT FINAL")
        >>> query.run({"t": pa.table({"k": ["a", "a"], "x": [1, 2]})}).to_pylist()
        [{'k': 'a', 'total': 3}]
    """

    def __init__(self, config: SessionConfig | None = None, **options: Any) -> None:
        if config is not None and options:
            raise SchemaError("a session takes a config or single options, not both")
        unknown = sorted(options.keys() - SessionConfig.__dataclass_fields__.keys())
        if unknown:
            known = ", ".join(sorted(SessionConfig.__dataclass_fields__))
            raise SchemaError(f"unknown session options: {', '.join(unknown)}; known are {known}")
        self.config = SessionConfig(**options) if config is None else config
        self._catalog = Catalog()
        self._tables: dict[str, pa.Table] = {}
        self._jobs = JobRegistry()

    def create_stream(
        self,
        name: str,
        schema: pa.Schema,
        *,
        event_time: str | None = None,
        max_out_of_orderness: str | timedelta | int = 0,
        allowed_lateness: str | timedelta | int = 0,
        source_partitions: int | None = None,
        idle_timeout: str | timedelta | None = None,
        partitioned_by: Sequence[str] = (),
    ) -> None:
        """Declare a stream.

        Args:
            name: Name in SQL. Unless it is quoted there, it has to be lower case.
            schema: Arrow schema of its rows.
            event_time: Column with the time at which a row happened: a timestamp, a date or an
                integer.
            max_out_of_orderness: How much a row may be earlier than the latest one before it
                without being late: text such as ``"5 seconds"``, a timedelta, or an integer in
                units of the column.
            allowed_lateness: For how long after its end a window still takes rows. Its result comes
                at its end all the same; rows that come later revise it, so that the results get an
                ``_op`` column. Windows of results that nothing can revise, such as ranks, close
                so much later instead.
            source_partitions: Number of partitions of the source, if each :meth:`Job.push` names
                its own. The watermark waits for all of them, and without this number for those that
                have been seen.
            idle_timeout: Time on the clock after which a source partition without rows stops
                holding the watermark back.
            partitioned_by: Columns by which the source is partitioned: rows that agree in them
                always come from one source partition. Grouping by them needs no exchange then.

        Raises:
            SchemaError: If the name is taken, a column is unfit, or the event time is missing or of
                another type.
        """
        self._check_new(name)
        schema = _checked_schema(name, schema)
        partitions = _checked_columns(name, schema, partitioned_by)
        if event_time is None:
            if max_out_of_orderness != 0 or allowed_lateness != 0 or idle_timeout is not None:
                raise SchemaError(
                    f"stream {name!r}: max_out_of_orderness, allowed_lateness and idle_timeout"
                    " need an event_time"
                )
            self._catalog.streams[name] = StreamDefinition(
                name, schema, None, 0, partitioned_by=partitions
            )
            return
        unit = time_unit(_event_time_type(name, schema, event_time))
        if source_partitions is not None and source_partitions < 1:
            raise SchemaError(
                f"stream {name!r}: source_partitions must be at least 1: {source_partitions}"
            )
        idle_ns = None if idle_timeout is None else parse_duration(idle_timeout, "ns")
        self._catalog.streams[name] = StreamDefinition(
            name,
            schema,
            event_time,
            parse_duration(max_out_of_orderness, unit),
            allowed_lateness=parse_duration(allowed_lateness, unit),
            source_partitions=source_partitions,
            idle_timeout_seconds=None if idle_ns is None else idle_ns / 1e9,
            partitioned_by=partitions,
        )

    def create_table(self, name: str, data: Any) -> None:
        """Add a bounded table to join streams with.

        Args:
            name: Name in SQL. Unless it is quoted there, it has to be lower case.
            data: What :meth:`Query.run` takes as input.

        Raises:
            SchemaError: If the name is taken, a column is unfit, or rows are not all alike.
            SourceError: If the data cannot be read.
        """
        self._check_new(name)
        schema = _checked_schema(name, schema_of(data))
        self._tables[name] = _table_of(name, data, schema)
        self._catalog.tables[name] = schema

    def replace_table(self, name: str, data: Any) -> None:
        """Give a table other contents, for queries started from now on and for running jobs.

        A running job takes the new contents up between two micro-batches: what was pushed before
        sees the old ones, what is pushed afterwards the new ones.

        Raises:
            SchemaError: If there is no such table or its schema is another.
            SourceError: If the data cannot be read.
        """
        if name not in self._tables:
            raise SchemaError(f"there is no table {name!r} to replace")
        table = _table_of(name, data, self._catalog.tables[name])
        self._tables[name] = table
        for runtime in self._jobs.jobs():
            runtime.intake.replace_table(name, table)

    def register_udf(
        self,
        name: str,
        function: Callable[..., pa.Array],
        argument_types: Sequence[pa.DataType],
        return_type: pa.DataType,
        *,
        volatility: Literal["immutable", "stable", "volatile"] = "immutable",
    ) -> None:
        """Make a Python function over Arrow arrays available in queries.

        Args:
            name: Name in SQL.
            function: Takes one Arrow array per argument and returns one of the same length.
            argument_types: Types of the arguments.
            return_type: Type of the result.
            volatility: Whether equal arguments always give equal results.

        Raises:
            SchemaError: If the name is taken.
        """
        self._check_function(name)
        self._catalog.functions[name] = scalar_function(
            name, function, argument_types, return_type, volatility
        )
        if volatility == "volatile":
            self._catalog.volatile.add(name)

    def register_udaf(
        self,
        name: str,
        accumulator: type,
        argument_types: Sequence[pa.DataType],
        return_type: pa.DataType,
        state_types: Sequence[pa.DataType],
        *,
        volatility: Literal["immutable", "stable", "volatile"] = "immutable",
    ) -> None:
        """Make a Python aggregate over Arrow arrays available in queries.

        Args:
            name: Name in SQL.
            accumulator: Subclass of ``datafusion.Accumulator``: ``update``, ``merge``, ``state``
                and ``evaluate``.
            argument_types: Types of the arguments.
            return_type: Type of the result.
            state_types: Types of the values in ``state``.
            volatility: Whether equal rows always give equal results.

        Raises:
            SchemaError: If the name is taken.
        """
        self._check_function(name)
        self._catalog.functions[name] = aggregate_function(
            name, accumulator, argument_types, return_type, state_types, volatility
        )

    def sql(self, query: str) -> Query:
        """Plan a query: everything is parsed, typed and checked, and nothing runs yet.

        ``EXPLAIN`` before a query gives a query whose result is its plan, one row for each line.

        Raises:
            SqlError: If the text is not a query, or not one that can run on streams. The message
                has the place.
        """
        explained = _EXPLAIN.match(query) if isinstance(query, str) else None
        if explained is not None:
            # Blanks in the place of the word keep what follows where errors will point.
            query = " " * explained.end() + query[explained.end() :]
        plan = plan_query(query, self._catalog, changelog=self.config.changelog)
        make = Query if explained is None else Explanation
        return make(plan, self.config, self._tables, self._catalog.functions, self._jobs)

    def serve_metrics(
        self, port: int = 0, *, address: str = "127.0.0.1", max_age_seconds: float = 0.5
    ) -> MetricsServer:
        """Serve the metrics of all jobs over HTTP, for Prometheus to collect.

        Args:
            port: Port to listen at; 0 takes one that is free, see :attr:`MetricsServer.port`.
            address: Address to listen at; only this machine can reach the default.
            max_age_seconds: How old the metrics may be. Who asks again within this time gets the
                same, so that asking more often costs jobs nothing.

        Returns:
            The running server. It is closed with the session at the latest.

        Raises:
            OSError: If the address cannot be listened at.
        """
        # Importing a web server takes a while, which those who do not need it should not wait.
        from millstream.engine.metrics import MetricsServer

        server = MetricsServer(self._jobs, address, port, max_age_seconds)
        weakref.finalize(self, server.close_later).atexit = False
        return server

    def _check_function(self, name: str) -> None:
        if not isinstance(name, str) or not name.isidentifier() or name != name.lower():
            raise SchemaError(f"the name of a function must be a lower-case identifier: {name!r}")
        if name in self._catalog.functions:
            raise SchemaError(f"the function {name!r} is registered already")

    def _check_new(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise SchemaError(f"a name must be a string that is not empty: {name!r}")
        if name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIX):
            raise SchemaError(f"the name {name!r} is reserved")
        if name in self._catalog.streams or name in self._catalog.tables:
            raise SchemaError(f"the name {name!r} is taken already")


def _table_of(name: str, data: Any, schema: pa.Schema) -> pa.Table:
    """Read the contents of a table, and make them fit its schema."""
    conformer = Conformer(schema, name)
    conformed = [rows for batch in batches(data, schema, None) for rows in conformer.conform(batch)]
    return pa.Table.from_batches(conformed, schema)


def _checked_schema(name: str, schema: pa.Schema) -> pa.Schema:
    if not isinstance(schema, pa.Schema):
        raise SchemaError(f"{name!r}: schema must be a pyarrow.Schema: {type(schema).__name__}")
    if len(schema) == 0:
        raise SchemaError(f"{name!r}: a schema must have at least one column")
    seen: set[str] = set()
    for column in schema.names:
        if column in seen:
            raise SchemaError(f"{name!r}: column {column!r} occurs twice")
        if column.startswith(_RESERVED_PREFIX) or column in _RESERVED_COLUMNS:
            raise SchemaError(f"{name!r}: the column name {column!r} is reserved")
        seen.add(column)
    return pa.schema(
        [field.with_type(_plain_type(field.type)).remove_metadata() for field in schema]
    )


def _checked_columns(name: str, schema: pa.Schema, columns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise SchemaError(f"stream {name!r}: partitioned_by must be a list of columns: {columns!r}")
    for column in columns:
        if column not in schema.names:
            raise SchemaError(f"stream {name!r}: partitioned_by names no column: {column!r}")
    return tuple(columns)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """Return the type in which values of an encoded type are kept, so as to compute on them."""
    if pa.types.is_run_end_encoded(type_):
        return _plain_type(type_.value_type)
    if type_ == pa.string_view():
        return pa.string()
    return pa.binary() if type_ == pa.binary_view() else type_


def _event_time_type(name: str, schema: pa.Schema, column: str) -> pa.DataType:
    index = schema.get_field_index(column)
    if index < 0:
        raise SchemaError(
            f"stream {name!r}: the event time column {column!r} is not among"
            f" {', '.join(schema.names)}"
        )
    type_ = schema.field(index).type
    try:
        time_unit(type_)
    except SchemaError as error:
        raise SchemaError(f"stream {name!r}: event time column {column!r}: {error}") from None
    return type_


def sql(
    query: str,
    *,
    batch_rows: int | None = None,
    config: SessionConfig | None = None,
    **tables: Any,
) -> pa.Table:
    """Run a stream query over tables: each keyword argument is a stream of that name.

    A window takes its event time from the column that it names, and since the input is bounded, no
    row is late.

    Args:
        query: The query.
        batch_rows: Rows per micro-batch at most; None takes tables whole.
        config: Options of the session.
        tables: What :meth:`Query.run` takes as input, by the name of the stream.

    Returns:
        All that comes out, every version included; see :meth:`Query.run`.

    Raises:
        SqlError: If the query cannot run.
        SchemaError: If a table is unfit.
        SourceError: If a table cannot be read.
        JobFailed: If an expression fails on a row.

    Examples:
        >>> import millstream as ms
        >>> import pyarrow as pa
        >>> t = pa.table({"k": ["a", "b", "a"]})
        >>> answer = ms.sql("SELECT k, count(*) AS n FROM t GROUP BY k EMIT FINAL", t=t)
        >>> answer.sort_by("k").to_pylist()
        [{'k': 'a', 'n': 2}, {'k': 'b', 'n': 1}]
    """
    session = Session(config)
    inputs: Mapping[str, Any] = tables
    for name, data in inputs.items():
        session.create_stream(name, schema_of(data))
    session._catalog = replace(session._catalog, infer_event_time=True)
    planned = session.sql(query)
    return planned.run({name: inputs[name] for name in planned.streams}, batch_rows=batch_rows)
