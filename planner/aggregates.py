"""Aggregate calls: found in expressions, shared where equal, sorted by how they are computed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregate_kernels import (
    FOLDING_FUNCTIONS,
    PICKING_FUNCTIONS,
    counts_distinct,
    kernel_types,
    no_kernel,
)
from millstream.planner.context import INPUT, Piece, PlanContext
from millstream.planner.nodes import ARRIVAL_COLUMN, AggregateCall, SortKey, quoted
from millstream.planner.place import Replace, span_of
from millstream.planner.shifted_sums import Shifted, shifted
from millstream.planner.typing import TypingError
from millstream.planner.unnest import refuse_unnest

__all__ = [
    "FOLDING_FUNCTIONS",
    "Aggregates",
    "CallParts",
    "aggregate_calls",
    "call_parts",
    "has_over",
    "kernel_types",
]

# What can follow the parentheses of a call; each node holds the call before it.
_CALL_SUFFIXES = (exp.Window, exp.Filter, exp.WithinGroup, exp.IgnoreNulls, exp.RespectNulls)


# So many sums of a column and a constant each are worth being made of its sum: the constants are
# added behind the aggregate then, and not in front of it.
_SHIFTED_SUMS_LEAST = 2


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


@dataclass(frozen=True, slots=True)
class _Pending:
    """A call that is not typed yet.

    Attributes:
        name: Output column.
        parts: The call as written.
        sql: The call over computed columns.
        arguments: Those columns.
        order: Terms of its ORDER BY.
        kernel_arguments: The columns that a kernel takes.
        stable_sql: The call with an order that leaves nothing open.
    """

    name: str
    parts: CallParts
    sql: str
    arguments: tuple[str, ...]
    order: tuple[SortKey, ...]
    kernel_arguments: tuple[str, ...]
    stable_sql: str

    @property
    def function(self) -> str:
        """Name of the function, the same for all its spellings."""
        return FOLDING_FUNCTIONS.get(self.parts.function, self.parts.function)

    @property
    def distinct(self) -> bool:
        """Whether duplicates of the arguments are to be left out."""
        return counts_distinct(self.function, distinct=self.parts.distinct)


@dataclass(slots=True)
class Aggregates:
    """Collects the aggregates of a query block and the columns that they need.

    Attributes:
        replace: How columns of the block's input are written.
        type_of: Tells the type of a column of the block's input, by its SQL.
        columns: Computed input columns by name, for the transform before the aggregate.
    """

    context: PlanContext
    replace: Replace
    type_of: Callable[[str], pa.DataType]
    columns: dict[str, Piece] = field(default_factory=dict)
    _column_by_sql: dict[str, str] = field(default_factory=dict)
    _name_by_call: dict[tuple[object, ...], str] = field(default_factory=dict)
    _calls: list[_Pending] = field(default_factory=list)
    _shifted_sums: dict[str, set[int]] = field(default_factory=dict)

    def expect(self, root: exp.Expr) -> None:
        """Look through an expression for calls that will be asked for."""
        for parts in aggregate_calls(self.context, root):
            found = self._shifted(parts)
            if found is not None:
                self._shifted_sums.setdefault(self._text(found.column), set()).add(found.shift)

    def sql(self, parts: CallParts) -> str:
        """SQL of a call over the output columns.

        Raises:
            SqlError: The call holds another aggregate, or unnest.
        """
        self._check_nesting(parts)
        sum_of = self._shifted(parts)
        shifts = set() if sum_of is None else self._shifted_sums.get(self._text(sum_of.column), ())
        if sum_of is None or len(shifts) < _SHIFTED_SUMS_LEAST:
            return quoted(self._reference(parts))
        parts = replace(parts, arguments=(sum_of.column,))
        total, count = self._reference(parts), self._reference(replace(parts, function="count"))
        # What overflows is cut off in both ways of adding up, at the same place.
        return f"({quoted(total)} + ({sum_of.shift}) * {quoted(count)})"

    def _shifted(self, parts: CallParts) -> Shifted | None:
        """Take a sum of integers and a constant apart, if that is all there is to the call."""
        if FOLDING_FUNCTIONS.get(parts.function) != "sum" or len(parts.arguments) != 1:
            return None
        if parts.distinct or parts.order or parts.nulls or self._is_own(parts):
            return None
        found = shifted(parts.arguments[0])
        sql = None if found is None else self.replace(found.column)
        if sql is None or not pa.types.is_signed_integer(self.type_of(sql)):
            return None
        return found

    def _reference(self, parts: CallParts) -> str:
        """Name of the output column for a call; equal calls share one."""
        order: tuple[SortKey, ...] = ()
        if parts.function in FOLDING_FUNCTIONS and not parts.order and not self._is_own(parts):
            sql, arguments = self._plain_call(parts)
            kernel_arguments, stable_sql = arguments, sql
        else:
            sql, arguments, order, stable_sql = self._general_call(parts)
            kernel_arguments = self._picked_columns(parts)
        key = (sql, arguments)
        name = self._name_by_call.get(key)
        if name is None:
            name = self._name_by_call[key] = f"__a{len(self._calls)}"
            self._calls.append(
                _Pending(name, parts, sql, arguments, order, kernel_arguments, stable_sql)
            )
        return name

    def typed(self, schema: pa.Schema) -> tuple[AggregateCall, ...]:
        """The calls, typed over the schema of the aggregate's input.

        Raises:
            SqlError: DataFusion refuses a call.
        """
        return tuple(self._typed(call, schema) for call in self._calls)

    def _is_own(self, parts: CallParts) -> bool:
        """Whether the function is the user's, which may have the name of another one."""
        return parts.function in self.context.catalog.functions

    def _check_nesting(self, parts: CallParts) -> None:
        inside = (*parts.arguments, *parts.order, *([parts.filter] if parts.filter else []))
        for node in inside:
            refuse_unnest(self.context, node, f"the aggregate {parts.function}")
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
        counts_rows = all(_counts_rows(argument) for argument in parts.arguments)
        if function == "count" and counts_rows and not parts.distinct:
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
        distinct = "DISTINCT " if counts_distinct(function, distinct=parts.distinct) else ""
        return f"{function}({distinct}{', '.join(map(quoted, names))})", tuple(names)

    def _general_call(
        self, parts: CallParts
    ) -> tuple[str, tuple[str, ...], tuple[SortKey, ...], str]:
        """A call in the user's words, with its expressions computed beforehand.

        Returns:
            Its SQL, the columns in it, its order, and SQL with an order that leaves nothing open.
        """
        names: dict[int, str] = {}
        keys: list[SortKey] = []
        for argument in parts.arguments:
            if parts.function in PICKING_FUNCTIONS or argument.find(exp.Column, exp.Query):
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

        splice = self.context.source.splice
        sql = splice(parts.node, replace)
        stable_sql = sql
        if keys and not (parts.within_group or parts.distinct):
            values = [splice(argument, replace) for argument in parts.arguments]
            condition = None if parts.filter is None else names[id(parts.filter)]
            stable_sql = _ordered_call(parts, values, keys, condition)
        return sql, tuple(dict.fromkeys(names.values())), tuple(keys), stable_sql

    def _picked_columns(self, parts: CallParts) -> tuple[str, ...]:
        """The column that a value is picked from, and that of the condition if there is one."""
        if parts.function not in PICKING_FUNCTIONS or not parts.arguments:
            return ()
        value = self._text(parts.arguments[0])
        conditions = [] if parts.filter is None else [f"({self._text(parts.filter)})"]
        if parts.nulls == "ignore":
            conditions.append(f"({value}) IS NOT NULL")
        columns = (self._column(value, parts.arguments[0]),)
        if not conditions:
            return columns
        beside = () if parts.filter is None else (parts.filter,)
        return (*columns, self._column(" AND ".join(conditions), parts.arguments[0], *beside))

    def _typed(self, call: _Pending, schema: pa.Schema) -> AggregateCall:
        sql, parts = call.sql, call.parts
        try:
            typed = self.context.typer.schema(f"SELECT {sql} AS a FROM {INPUT}", {INPUT: schema})
        except TypingError as failure:
            raise self.context.source.error(self._readable(str(failure)), parts.node) from failure
        # A condition is no argument as far as types are concerned.
        is_picked = call.function in PICKING_FUNCTIONS
        values = call.kernel_arguments[:1] if is_picked else call.arguments
        reason = no_kernel(
            f"the user's {parts.function}" if self._is_own(parts) else call.function,
            [schema.field(column).type for column in values],
            [schema.field(key.column).type for key in call.order],
            distinct=call.distinct,
        )
        if reason and not self._is_own(parts):
            self._check_runs(call, schema)
        return AggregateCall(
            name=call.name,
            function=call.function,
            arguments=call.arguments if reason else call.kernel_arguments,
            result_type=typed.field(0).type,
            sql=sql,
            distinct=call.distinct,
            order_by=call.order,
            path="buffered" if reason else "kernel",
            reason=reason,
            stable_sql=call.stable_sql,
        )

    def _check_runs(self, call: _Pending, schema: pa.Schema) -> None:
        """Check what DataFusion finds out only when it begins to compute, by group or over all."""
        typer, select = self.context.typer, f"SELECT {call.sql} AS a"
        groups = f" GROUP BY {quoted(schema.names[0])} IS NULL" if len(schema) else ""
        try:
            for tail in dict.fromkeys(("", groups)):
                typer.result_schema(f"{select} FROM {INPUT}{tail}", {INPUT: schema})
                typer.check_implemented(select, schema, tail)
        except TypingError as failure:
            message = self._readable(str(failure))
            raise self.context.source.error(
                f"{call.parts.function} cannot be computed like this: {message}", call.parts.node
            ) from failure

    def _readable(self, message: str) -> str:
        for name, piece in self.columns.items():
            if piece.node is not None and (span := span_of(piece.node)) is not None:
                text = self.context.source.text(span)
                # DataFusion's physical expressions show a column's position as well.
                message = text.join(re.split(rf"\b{name}\b(?:@\d+)?", message))
        return message


def _ordered_call(
    parts: CallParts, values: Sequence[str], keys: Sequence[SortKey], condition: str | None
) -> str:
    """Write a call with ORDER BY anew, with the place of a row as the last term of its order."""
    terms = [
        f"{quoted(key.column)} {'DESC' if key.descending else 'ASC'}"
        f" NULLS {'FIRST' if key.nulls_first else 'LAST'}"
        for key in keys
    ]
    order = ", ".join([*terms, quoted(ARRIVAL_COLUMN)])
    nulls = "" if parts.nulls is None else f" {parts.nulls.upper()} NULLS"
    tail = "" if condition is None else f" FILTER (WHERE {quoted(condition)})"
    return f"{parts.function}({', '.join(values)} ORDER BY {order}){tail}{nulls}"


def _counts_rows(argument: exp.Expr) -> bool:
    return isinstance(argument, exp.Star | exp.Literal | exp.Boolean)
