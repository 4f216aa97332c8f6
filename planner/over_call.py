"""Calls of window functions, and how each is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregate_kernels import (
    FOLDING_FUNCTIONS,
    PICKING_FUNCTIONS,
    STATISTICAL_FUNCTIONS,
    counts_distinct,
    kernel_types,
)
from millstream.planner.aggregates import CallParts
from millstream.planner.context import INPUT, PlanContext
from millstream.planner.nodes import OverCall, quoted
from millstream.planner.typing import TypingError

__all__ = ["RANKINGS", "PendingCall", "counts_rows"]

RANKINGS = frozenset({"row_number", "rank", "dense_rank"})
"""Functions of the place of a row alone."""

_KERNEL_FUNCTIONS = (
    STATISTICAL_FUNCTIONS
    | RANKINGS
    | {"count", "sum", "avg", "min", "max", "first_value", "last_value", "lag"}
)
# The result over all rows so far and one over the rows behind them make the result over both.
_CARRIED_FUNCTIONS = frozenset(
    {"sum", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"}
)


@dataclass(frozen=True, slots=True)
class PendingCall:
    """A call over columns, of a type that is not known yet. Equal ones compute the same.

    Attributes:
        parts: The call as it was written.
        sql: The same over columns, without its OVER clause.
        arguments: The columns that it reads.
        frame_kind: ROWS or RANGE.
        preceding: How far the frame reaches, as in :class:`OverCall`.
        frame_sql: The frame as DataFusion reads it.
    """

    parts: CallParts = field(compare=False)
    sql: str
    arguments: tuple[str, ...]
    frame_kind: Literal["rows", "range"]
    preceding: int | None
    frame_sql: str

    def typed(
        self,
        context: PlanContext,
        name: str,
        schema: pa.Schema,
        keys: Sequence[str],
        order: str | None,
    ) -> OverCall:
        """Find the type of the call, and how it is computed.

        Args:
            context: Of the plan.
            name: Output column.
            schema: Of the rows that it reads.
            keys: Columns of PARTITION BY.
            order: Column of ORDER BY, or None.

        Raises:
            SqlError: DataFusion does not know the call for these types, or cannot compute it.
        """
        partition = f"PARTITION BY {', '.join(map(quoted, keys))} " if keys else ""
        ordering = f"ORDER BY {quoted(order)} " if order is not None else ""
        sql = f"SELECT {self.sql} OVER ({partition}{ordering}{self.frame_sql}) AS a FROM {INPUT}"
        try:
            typed = context.typer.schema(sql, {INPUT: schema})
        except TypingError as failure:
            raise context.source.error(str(failure), self.parts.node) from failure
        types = [schema.field(column).type for column in self.arguments]
        reason = self._why_buffered(context, types)
        if reason and self.parts.function not in context.catalog.functions:
            self._check_runs(context, schema)
        if reason and self.preceding is not None:
            self._check_slides(context, schema)
        return OverCall(
            name=name,
            function=self._function(context),
            arguments=self.arguments,
            result_type=typed.field(0).type,
            frame_kind=self.frame_kind,
            preceding=self.preceding,
            sql=self.sql,
            path=self._path(context, types) if reason else "kernel",
            reason=reason,
            frame_sql=self.frame_sql,
            ignores_nulls=self.parts.nulls == "ignore",
        )

    def _check_runs(self, context: PlanContext, schema: pa.Schema) -> None:
        """Check what DataFusion finds out about an aggregate only when it begins to compute."""
        if self.parts.function not in context.typer.aggregates - context.typer.window_functions:
            return
        over = f"{self.sql} OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
        try:
            context.typer.result_schema(f"SELECT {self.sql} AS a FROM {INPUT}", {INPUT: schema})
            context.typer.check_implemented(f"SELECT {over} AS a", schema)
        except TypingError as failure:
            raise context.source.error(
                f"{self.parts.function} cannot be computed like this: {failure}", self.parts.node
            ) from failure

    def _check_slides(self, context: PlanContext, schema: pa.Schema) -> None:
        over = f"{self.sql} OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"
        try:
            context.typer.check_implemented(f"SELECT {over} AS a", schema)
        except TypingError as failure:
            raise context.source.error(
                f"{self.parts.function} cannot be computed over a bounded frame; use ROWS BETWEEN "
                "UNBOUNDED PRECEDING AND CURRENT ROW, or array_agg and a function over its result",
                self.parts.node,
            ) from failure

    def _function(self, context: PlanContext) -> str:
        name = self.parts.function
        # A function of the user's may have the name of another one.
        return name if name in context.catalog.functions else FOLDING_FUNCTIONS.get(name, name)

    def _path(
        self, context: PlanContext, types: Sequence[pa.DataType]
    ) -> Literal["buffered", "carried"]:
        """How a call without a kernel is computed."""
        function, of_distinct = self._function(context), self.parts.distinct
        is_own = self.parts.function in context.catalog.functions
        if is_own or self.parts.order or self.preceding is not None or len(types) != 1:
            return "buffered"
        if counts_distinct(function, distinct=of_distinct) or self.parts.nulls == "ignore":
            return "buffered"
        return "carried" if function in _CARRIED_FUNCTIONS else "buffered"

    def _keeps_a_value(self, function: str) -> bool:
        """Whether a function that ignores NULLs needs one value of each key."""
        arguments = self.parts.arguments
        is_plain = not (self.parts.distinct or self.parts.order or self.parts.filter is not None)
        if self.parts.nulls != "ignore" or not is_plain or len(self.arguments) != 1:
            return False
        if function == "lag":
            return len(arguments) == 1 or (len(arguments) == 2 and arguments[1].sql() == "1")
        return function in PICKING_FUNCTIONS and self.preceding is None

    def _why_buffered(self, context: PlanContext, types: Sequence[pa.DataType]) -> str:
        function = self._function(context)
        if self.parts.function in context.catalog.functions:
            return f"the user's {self.parts.function} has no kernel"
        if function not in _KERNEL_FUNCTIONS:
            return f"{function} has no kernel"
        if self._keeps_a_value(function):
            return ""
        if self.parts.distinct or self.parts.order or self.parts.nulls == "ignore":
            return "DISTINCT, ORDER BY and IGNORE NULLS need the rows"
        if self.parts.filter is not None and self.parts.function not in FOLDING_FUNCTIONS:
            return f"{function} with FILTER has no kernel"
        if function == "count" and not self.arguments and not counts_rows(self.parts):
            return "count of a constant other than a number has no kernel"
        if function == "lag":
            return "lag with a default has no kernel" if len(self.parts.arguments) > 2 else ""
        if function in PICKING_FUNCTIONS:
            return ""
        runs = self.preceding is None and function in ("sum", "avg", "min", "max")
        if runs and pa.types.is_decimal128(types[0]):
            return ""
        return kernel_types(function, types)


def counts_rows(parts: CallParts) -> bool:
    """Whether a call counts rows, whatever is in them."""
    if FOLDING_FUNCTIONS.get(parts.function) != "count":
        return False
    return all(isinstance(a, exp.Star | exp.Literal | exp.Boolean) for a in parts.arguments)
