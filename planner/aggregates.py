"""Aggregate calls: found in expressions, shared where equal, sorted by how they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from sqlglot import exp

from millstream.planner.context import INPUT, Piece, PlanContext
from millstream.planner.nodes import AggregateCall, SortKey, quoted
from millstream.planner.place import Replace, span_of
from millstream.planner.typing import TypingError

__all__ = [
    "FOLDING_FUNCTIONS",
    "Aggregates",
    "CallParts",
    "aggregate_calls",
    "call_parts",
    "has_over",
    "kernel_types",
]

# Aggregates that ignore NULLs and whose state is updated by kernels, by every name that DataFusion
# gives them.
FOLDING_FUNCTIONS = {
    "count": "count",
    "sum": "sum",
    "avg": "avg",
    "mean": "avg",
    "min": "min",
    "max": "max",
}


# What can follow the parentheses of a call; each node holds the call before it.
_CALL_SUFFIXES = (exp.Window, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)


@dataclass(frozen=True, slots=True)
class CallParts:
    """A function call taken apart.

    Attributes:
        node: The whole call, with what follows the parentheses.
        function: Lower-case name.
        arguments: Arguments without DISTINCT and ORDER BY.
        distinct: Whether DISTINCT stands before the arguments.
        order: Terms of ORDER BY, inside the parentheses or of WITHIN GROUP.
        filter: Condition of FILTER, or None.
        within_group: Whether the order is WITHIN GROUP.
        nulls: ``ignore`` or ``respect`` if said.
        over: The OVER clause if there is one.
    """

    node: exp.Expr
    function: str
    arguments: tuple[exp.Expr, ...]
    distinct: bool
    order: tuple[exp.Ordered, ...]
    filter: exp.Expr | None
    within_group: bool
    nulls: str | None
    over: exp.Window | None


def call_parts(node: exp.Expr) -> CallParts | None:
    """Take a function call apart, or return None for any other node."""
    inner = node
    condition: exp.Expr | None = None
    nulls: str | None = None
    over: exp.Window | None = None
    order: tuple[exp.Ordered, ...] = ()
    within = False
    while isinstance(inner, _CALL_SUFFIXES):
        if isinstance(inner, exp.Window):
            over = inner
        elif isinstance(inner, exp.Filter):
            condition = inner.expression.this
        elif isinstance(inner, exp.WithinGroup):
            order, within = tuple(inner.expression.expressions), True
        else:
            nulls = "ignore" if isinstance(inner, exp.IgnoreNulls) else "respect"
        inner = inner.this
    if not isinstance(inner, exp.Anonymous):
        return None
    arguments, distinct, inner_order, inner_nulls = _plain_arguments(inner.expressions)
    return CallParts(
        node=node,
        function=str(inner.name).lower(),
        arguments=arguments,
        distinct=distinct,
        order=order or inner_order,
        filter=condition,
        within_group=within,
        nulls=nulls or inner_nulls,
        over=over,
    )


def _plain_arguments(
    arguments: Sequence[exp.Expr],
) -> tuple[tuple[exp.Expr, ...], bool, tuple[exp.Ordered, ...], str | None]:
    plain: list[exp.Expr] = []
    distinct = False
    order: tuple[exp.Ordered, ...] = ()
    nulls: str | None = None
    for argument in arguments:
        while isinstance(argument, exp.Order | exp.IgnoreNulls | exp.RespectNulls):
            if isinstance(argument, exp.Order):
                order = tuple(argument.expressions)
            else:
                nulls = "ignore" if isinstance(argument, exp.IgnoreNulls) else "respect"
            argument = argument.this
        if isinstance(argument, exp.Distinct):
            distinct = True
            plain.extend(argument.expressions)
        else:
            plain.append(argument)
    return tuple(plain), distinct, order, nulls


def aggregate_calls(context: PlanContext, root: exp.Expr) -> Iterator[CallParts]:
    """Outermost aggregates under ``root``, without those of subqueries and window functions."""
    parts = call_parts(root)
    if parts is not None and parts.function in context.typer.aggregates and not has_over(root):
        yield parts
        return
    if isinstance(root, exp.Query):
        return
    for child in root.iter_expressions():
        yield from aggregate_calls(context, child)


def has_over(call: exp.Expr) -> bool:
    """Whether a function call stands before OVER, which makes it no aggregate."""
    node = call
    while isinstance(node.parent, _CALL_SUFFIXES) and node.parent.this is node:
        node = node.parent
    return isinstance(node, exp.Window)


@dataclass(slots=True)
class Aggregates:
    """Collects the aggregates of a query block and the columns that they need.

    Attributes:
        replace: How columns of the block's input are written.
        columns: Computed input columns by name, for the transform before the aggregate.
    """

    context: PlanContext
    replace: Replace
    columns: dict[str, Piece] = field(default_factory=dict)
    _column_by_sql: dict[str, str] = field(default_factory=dict)
    _name_by_call: dict[tuple[object, ...], str] = field(default_factory=dict)
    _calls: list[tuple[str, CallParts, str, tuple[str, ...], tuple[SortKey, ...]]] = field(
        default_factory=list
    )

    def reference(self, parts: CallParts) -> str:
        """Name of the output column for a call; equal calls share one.

        Raises:
            SqlError: The call holds another aggregate.
        """
        self._check_nesting(parts)
        if parts.function in FOLDING_FUNCTIONS and not parts.distinct and not parts.order:
            sql, arguments = self._plain_call(parts)
            order: tuple[SortKey, ...] = ()
        else:
            sql, arguments, order = self._general_call(parts)
        key = (sql, arguments)
        name = self._name_by_call.get(key)
        if name is None:
            name = self._name_by_call[key] = f"__a{len(self._calls)}"
            self._calls.append((name, parts, sql, arguments, order))
        return name

    def typed(self, schema: pa.Schema) -> tuple[AggregateCall, ...]:
        """The calls, typed over the schema of the aggregate's input.

        Raises:
            SqlError: DataFusion refuses a call.
        """
        return tuple(self._typed(*call, schema) for call in self._calls)

    def _check_nesting(self, parts: CallParts) -> None:
        inside = (*parts.arguments, *parts.order, *([parts.filter] if parts.filter else []))
        for node in inside:
            for nested in aggregate_calls(self.context, node):
                raise self.context.source.error(
                    f"{nested.function} is an aggregate inside the aggregate {parts.function}; "
                    "compute it in a subquery",
                    nested.node,
                )

    def _text(self, node: exp.Expr) -> str:
        return self.context.source.splice(node, self.replace)

    def _column(self, sql: str, node: exp.Expr, *beside: exp.Expr) -> str:
        name = self._column_by_sql.get(sql)
        if name is None:
            name = self._column_by_sql[sql] = f"__x{len(self.columns)}"
            self.columns[name] = Piece(node, sql, self._text, beside)
        return name

    def _plain_call(self, parts: CallParts) -> tuple[str, tuple[str, ...]]:
        """A call to which rows that FILTER leaves out are NULL, which these functions ignore."""
        function = FOLDING_FUNCTIONS[parts.function]
        condition = None if parts.filter is None else self._text(parts.filter)
        if function == "count" and all(_counts_rows(argument) for argument in parts.arguments):
            if condition is None or parts.filter is None:
                return "count(*)", ()
            counted = self._column(f"CASE WHEN {condition} THEN 1 END", parts.filter)
            return f"count({quoted(counted)})", (counted,)
        names = []
        for argument in parts.arguments:
            sql = self._text(argument)
            if condition is not None:
                sql = f"CASE WHEN {condition} THEN {sql} END"
            beside = () if parts.filter is None else (parts.filter,)
            names.append(self._column(sql, argument, *beside))
        return f"{function}({', '.join(map(quoted, names))})", tuple(names)

    def _general_call(self, parts: CallParts) -> tuple[str, tuple[str, ...], tuple[SortKey, ...]]:
        """A call in the user's words, with its expressions computed beforehand."""
        names: dict[int, str] = {}
        keys: list[SortKey] = []
        for argument in parts.arguments:
            if any(argument.find_all(exp.Column)):
                names[id(argument)] = self._column(self._text(argument), argument)
        for term in parts.order:
            column = self._column(self._text(term.this), term.this)
            names[id(term.this)] = column
            descending = bool(term.args.get("desc"))
            nulls_first = bool(term.args.get("nulls_first"))
            keys.append(SortKey(column, descending, nulls_first))
        if parts.filter is not None:
            names[id(parts.filter)] = self._column(self._text(parts.filter), parts.filter)

        def replace(node: exp.Expr) -> str | None:
            name = names.get(id(node))
            return None if name is None else quoted(name)

        sql = self.context.source.splice(parts.node, replace)
        return sql, tuple(dict.fromkeys(names.values())), tuple(keys)

    def _typed(
        self,
        name: str,
        parts: CallParts,
        sql: str,
        arguments: tuple[str, ...],
        order: tuple[SortKey, ...],
        schema: pa.Schema,
    ) -> AggregateCall:
        try:
            typed = self.context.typer.schema(f"SELECT {sql} AS a FROM {INPUT}", {INPUT: schema})
        except TypingError as failure:
            raise self.context.source.error(
                self._readable(str(failure), schema), parts.node
            ) from failure
        function = FOLDING_FUNCTIONS.get(parts.function, parts.function)
        reason = _why_buffered(parts, function, [schema.field(column).type for column in arguments])
        return AggregateCall(
            name=name,
            function=function,
            arguments=arguments,
            result_type=typed.field(0).type,
            sql=sql,
            distinct=parts.distinct,
            order_by=order,
            path="buffered" if reason else "kernel",
            reason=reason,
        )

    def _readable(self, message: str, schema: pa.Schema) -> str:
        for name, piece in self.columns.items():
            if piece.node is not None and (span := span_of(piece.node)) is not None:
                message = message.replace(name, self.context.source.text(span))
        return message


def _counts_rows(argument: exp.Expr) -> bool:
    return isinstance(argument, exp.Star | exp.Literal | exp.Boolean)


_IsType = Callable[[pa.DataType], bool]
_NUMBERS: tuple[_IsType, ...] = (pa.types.is_integer, pa.types.is_float32, pa.types.is_float64)
_TIMES: tuple[_IsType, ...] = (
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
)


def kernel_types(function: str, types: Sequence[pa.DataType]) -> str:
    """Why a function with a kernel has none for these types of arguments; empty if it has."""
    if function == "count":
        return "count of several columns has no kernel" if len(types) > 1 else ""
    suits = _NUMBERS if function in ("sum", "avg") else (*_NUMBERS, *_TIMES)
    for data_type in types:
        if not any(test(data_type) for test in suits):
            return f"{function} of {data_type} has no kernel"
    return ""


def _why_buffered(parts: CallParts, function: str, types: Sequence[pa.DataType]) -> str:
    """Why a call cannot be computed by kernels; empty if it can."""
    if function not in FOLDING_FUNCTIONS.values():
        return f"{function} has no kernel"
    if parts.distinct:
        return "DISTINCT needs the rows"
    if parts.order:
        return "ORDER BY needs the rows"
    return kernel_types(function, types)
