"""Types: DataFusion plans each piece of a query over empty tables and says what comes out."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping

import pyarrow as pa
from datafusion import (
    AggregateUDF,
    ScalarUDF,
    SessionConfig,
    SessionContext,
    SQLOptions,
    WindowUDF,
)

from millstream.errors import InternalError
from millstream.planner.catalog import Catalog

__all__ = ["Typer", "TypingError"]

_QUERY_ONLY = SQLOptions().with_allow_ddl(False).with_allow_dml(False).with_allow_statements(False)
_PREFIXES = re.compile(
    r"^(?:DataFusion error|Error during planning|Schema error|SQL error|Execution error|"
    r"Optimizer rule '\w+' failed|type_coercion|caused by|Internal error|"
    r"Assertion failed: [^:]+|"
    r"Invalid \(non-executable\) plan after Analyzer|"
    r"This feature is not implemented|Arrow error|Invalid argument error|Context|"
    r"check_analyzed_plan|Check optimizer-specific invariants[^:]*)\s*:?\s+"
)
# What looks like a call after a comparison, as in ``a = SOME (b)``.
_QUANTIFIERS = frozenset({"all", "some"})
_SUBQUERY_IN_THE_WAY = re.compile(
    r"Physical plan does not support logical expression (\w*Subquery|Exists)"
)
_NO_RANGE = re.compile(r"Cannot run range queries on datatype: (.+?)\.?$", re.MULTILINE)
# How an identifier looks where DataFusion shows its syntax tree.
_IDENTIFIER = re.compile(r'Identifier\(Ident \{ value: "([^"]*)", quote_style: [^}]*\}\)')


class TypingError(Exception):
    """DataFusion refuses a piece of a query; the message is one clean sentence.

    Attributes:
        of_syntax: Whether it cannot even read the piece.
    """

    def __init__(self, message: str, *, of_syntax: bool) -> None:
        super().__init__(message)
        self.of_syntax = of_syntax


_TRIAL = "__trial"


class Typer:
    """Checks and types SQL over empty tables."""

    def __init__(self, catalog: Catalog) -> None:
        self._context = _new_context()
        self._tables: dict[str, pa.Schema] = {}
        for function in catalog.functions.values():
            register_function(self._context, function)
        builtin = _builtin_functions()
        own = {name.lower() for name in catalog.functions}
        # DataFusion plans unnest without listing it among its functions.
        self.functions = frozenset().union(*builtin.values(), own, {"unnest"})
        aggregates, windows = builtin["AGGREGATE"], builtin["WINDOW"]
        self.aggregates = aggregates | {
            name.lower() for name, f in catalog.functions.items() if isinstance(f, AggregateUDF)
        }
        self.window_functions = windows | {
            name.lower() for name, f in catalog.functions.items() if isinstance(f, WindowUDF)
        }

    def schema(self, sql: str, tables: Mapping[str, pa.Schema]) -> pa.Schema:
        """Type a query over the given tables.

        Raises:
            TypingError: The query is not valid.
        """
        for name, schema in tables.items():
            self._register(name, schema)
        try:
            frame = self._context.sql_with_options(sql, _QUERY_ONLY)
            frame.execution_plan()
            # The schema before optimization has types from before coercion, as of CASE branches.
            coerced = self._context.create_dataframe_from_logical_plan(
                frame.optimized_logical_plan()
            )
            schema = coerced.schema()
        except BaseException as error:
            raise self._failure(error) from error
        return pa.schema([pa.field(f.name, f.type, f.nullable) for f in schema])

    def result_schema(self, sql: str, tables: Mapping[str, pa.Schema]) -> pa.Schema:
        """Run a query over empty tables, to see the types of a union after its coercions.

        Some of what is wrong with a query DataFusion finds out only here.

        Raises:
            TypingError: The query is not valid.
        """
        self.schema(sql, tables)
        try:
            return self._context.sql_with_options(sql, _QUERY_ONLY).to_arrow_table().schema
        except BaseException as error:
            raise self._failure(error) from error

    def check_implemented(self, select: str, schema: pa.Schema, tail: str = "") -> None:
        """Run a select list over a few rows of NULLs, to see whether DataFusion can do it.

        Some combinations of functions and frames are found out only when rows come.

        Raises:
            TypingError: DataFusion has not implemented something that the query needs.
        """
        nullable = pa.schema([field.with_nullable(True) for field in schema])
        rows = pa.RecordBatch.from_arrays([pa.nulls(3, f.type) for f in schema], schema=nullable)
        self._context.register_record_batches(_TRIAL, [[rows]])
        try:
            self._context.sql_with_options(f"{select} FROM {_TRIAL}{tail}", _QUERY_ONLY).collect()
        except BaseException as error:
            failure = self._failure(error)
            if not isinstance(error, Exception):
                raise TypingError("DataFusion panics", of_syntax=False) from error
            # Whatever else goes wrong is the fault of rows that are all NULL, not of the query.
            if "not implemented" in str(error) or "not supported" in str(error):
                raise failure from error
        finally:
            self._context.deregister_table(_TRIAL)

    def constant(self, sql: str) -> pa.Scalar:
        """Evaluate an expression without columns.

        Raises:
            TypingError: The expression is not valid or not constant.
        """
        try:
            frame = self._context.sql_with_options(f"SELECT {sql} AS value", _QUERY_ONLY)
            return frame.to_arrow_table().column(0)[0]
        except BaseException as error:
            raise self._failure(error) from error

    def type_name(self, data_type: pa.DataType) -> str:
        """A type in the words of ``arrow_cast``."""
        self._register("__type", pa.schema([pa.field("a", data_type)]))
        sql = (
            'SELECT arrow_typeof(a) AS name FROM (SELECT count(*) FROM "__type") '
            'LEFT JOIN "__type" ON true'
        )
        name: str = self._context.sql(sql).to_arrow_table().column(0)[0].as_py()
        return name

    def _failure(self, error: BaseException) -> TypingError:
        # A panic inside DataFusion arrives as a BaseException of its own; whatever else is not an
        # Exception, such as an interrupt, is none of a query's business.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise error
        message = clean_message(str(error))
        unknown = re.match(r"invalid function '(\w+)'", message)
        return TypingError(
            self.unknown_function(unknown[1]) or message if unknown else message,
            of_syntax="ParserError(" in str(error),
        )

    def unknown_function(self, name: str) -> str | None:
        """What is wrong with a function's name; None where it is the name of one."""
        name = name.lower()
        if name in self.functions or name in _QUANTIFIERS:
            return None
        close = difflib.get_close_matches(name, sorted(self.functions), n=1, cutoff=0.7)
        return f"unknown function {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")

    def _register(self, name: str, schema: pa.Schema) -> None:
        if self._tables.get(name) is schema:
            return
        if name in self._tables:
            self._context.deregister_table(name)
        empty = pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)
        self._context.register_record_batches(name, [[empty]])
        self._tables[name] = schema


def register_function(context: SessionContext, function: object) -> None:
    """Register a user's function of any kind.

    Raises:
        InternalError: The object is no function of DataFusion.
    """
    if isinstance(function, AggregateUDF):
        context.register_udaf(function)
    elif isinstance(function, WindowUDF):
        context.register_udwf(function)
    elif isinstance(function, ScalarUDF):
        context.register_udf(function)
    else:
        raise InternalError(f"not a function of DataFusion: {type(function).__name__}")


def _new_context() -> SessionContext:
    # Plain strings, because string views would change the types that users declare; and one
    # partition, because only the types matter.
    config = (
        SessionConfig()
        .with_information_schema(True)
        .with_target_partitions(1)
        .set("datafusion.sql_parser.map_string_types_to_utf8view", "false")
    )
    return SessionContext(config)


@functools.cache
def _builtin_functions() -> Mapping[str, frozenset[str]]:
    """Names of DataFusion's functions by kind."""
    table = (
        _new_context()
        .sql("SELECT DISTINCT routine_name, function_type FROM information_schema.routines")
        .to_arrow_table()
    )
    kinds: dict[str, set[str]] = {"AGGREGATE": set(), "WINDOW": set()}
    for name, kind in zip(*(column.to_pylist() for column in table.columns), strict=True):
        kinds.setdefault(kind, set()).add(name)
    return {kind: frozenset(names) for kind, names in kinds.items()}


def clean_message(message: str) -> str:
    """Reduce a message of DataFusion to one sentence without prefixes, advice and debris."""
    candidates = re.search(
        r"No function matches the given name and argument types '(.+?)'\.", message
    )
    if candidates:
        return f"no function matches {candidates[1]}"
    if in_the_way := _SUBQUERY_IN_THE_WAY.search(message):
        if in_the_way[1] == "ScalarSubquery":
            return (
                "a subquery for a value can compare columns from outside by = only, and has to"
                " aggregate; use a join"
            )
        return "a subquery cannot stand in this place; use it in WHERE, or a join"
    if no_range := _NO_RANGE.search(message):
        return f"rows ordered by a {no_range[1]} have no frame by values; add ROWS BETWEEN ..."
    suggestion = re.search(r"Did you mean '([^']*)'", message)
    message = _IDENTIFIER.sub(r"\1", message.strip())
    while (stripped := _PREFIXES.sub("", message)) != message:
        message = stripped
    first = message.partition("\n")[0]
    parser_error = re.search(r'ParserError\("(.+?)(?: at Line: \d+, Column: \d+)?"\)', first)
    text = (parser_error[1].replace('\\"', '"') if parser_error else first).strip().rstrip(".")
    text = text.replace('"input".', "").replace("input.", "")
    text = re.sub(r"\. Did you mean '__\w+\.\w+'\?$", "", text)
    if suggestion and "Did you mean" not in text and not suggestion[1].startswith("__"):
        text += f"; did you mean {suggestion[1].replace('input.', '')!r}?"
    return text[:1].lower() + text[1:] if text[:2].istitle() else text
