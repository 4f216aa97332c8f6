"""Random aggregate calls, each with the SQL by which a batch engine gives its value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tests.equivalence.chooser import Chooser
from tests.equivalence.columns import Column
from tests.equivalence.expressions import choose_expression, choose_predicate

__all__ = ["AggregateCall", "choose_aggregate", "choose_hot_aggregate", "greatest_sql", "least_sql"]


@dataclass(frozen=True, slots=True)
class AggregateCall:
    """An aggregate call.

    Attributes:
        sql: The call as the query has it.
        oracle_sql: An expression with the same value that does not depend on the order of rows.
        portable: Whether DuckDB gives the same value for ``oracle_sql``.
        numeric: Whether the value can be computed with.
        unordered_list: Whether the value is a list whose order is not promised.
    """

    sql: str
    oracle_sql: str
    portable: bool = True
    numeric: bool = True
    unordered_list: bool = False


def least_sql(argument: str, over: str = "", type_name: str = "DOUBLE") -> str:
    """Write the least value of floats: NaN only where there is nothing else.

    DataFusion's own ``min`` depends on where among the rows a NaN stands, and gives the greatest
    finite number where all values are infinite.
    """
    infinity = f"CAST('Infinity' AS {type_name})"
    return _extreme_sql("min", argument, infinity, over, nan_first=False)


def greatest_sql(argument: str, over: str = "", type_name: str = "DOUBLE") -> str:
    """Write the greatest value of floats, where NaN is greater than every number."""
    infinity = f"CAST('-Infinity' AS {type_name})"
    return _extreme_sql("max", argument, infinity, over, nan_first=True)


def _extreme_sql(name: str, argument: str, farthest: str, over: str, *, nan_first: bool) -> str:
    nan = f"max(CASE WHEN isnan({argument}) THEN {argument} END){over}"
    is_number = f"NOT isnan({argument})"
    number = f"{name}(CASE WHEN {is_number} AND {argument} <> {farthest} THEN {argument} END){over}"
    far = f"CASE WHEN count(CASE WHEN {is_number} THEN 1 END){over} > 0 THEN {farthest} END"
    parts = [nan, number, far] if nan_first else [number, far, nan]
    return f"coalesce({', '.join(parts)})"


def choose_hot_aggregate(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    """Choose one of the calls that streams are full of: count, sum, avg, min, max."""
    return chooser.choice(_HOT)(chooser, columns)


def choose_aggregate(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    """Choose any call: statistics, FILTER, DISTINCT, ordered ones; or a hot one between them."""
    if chooser.chance(25):
        return choose_hot_aggregate(chooser, columns)
    return chooser.choice(_RARE)(chooser, columns)


def _column(
    chooser: Chooser, columns: Sequence[Column], kinds: Sequence[str], *, tame: bool
) -> Column:
    candidates = [c for c in columns if c.kind in kinds and (c.tame or not tame)]
    return chooser.choice(candidates)


def _number(chooser: Chooser, columns: Sequence[Column]) -> str:
    """Choose a tame number: a column, or an expression over columns."""
    if chooser.chance(70):
        return _column(chooser, columns, ("int", "float"), tame=True).name
    # Products and quotients would make sums that depend on the order of addition.
    column = _column(chooser, columns, ("int", "float"), tame=True).name
    template = chooser.choice(("{} + 1", "-{}", "abs({})", "coalesce({}, 0)", "{} * 2"))
    return template.format(column)


def _count_rows(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    del columns
    sql = chooser.choice(("count(*)", "count(1)", "COUNT(*)"))
    return AggregateCall(sql, "count(*)")


def _count_values(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    column = chooser.choice(columns)
    return AggregateCall(f"count({column.name})", f"count({column.name})")


def _sum(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    wild = [c for c in columns if c.kind == "int" and not c.tame]
    if wild and chooser.chance(30):
        # Sums of integers wrap around in DataFusion; in DuckDB they have 128 bits.
        call = f"sum({chooser.choice(wild).name})"
        return AggregateCall(call, call, portable=False, numeric=False)
    call = f"sum({_number(chooser, columns)})"
    return AggregateCall(call, call)


def _avg(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    argument = _number(chooser, columns)
    name = chooser.choice(("avg", "avg", "mean"))
    return AggregateCall(f"{name}({argument})", f"avg({argument})")


def _extreme(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(("min", "max"))
    column = _column(chooser, columns, ("int", "float", "date", "time"), tame=False)
    call = f"{name}({column.name})"
    if column.kind == "float":
        type_name = "FLOAT" if column.type == pa.float32() else "DOUBLE"
        write = least_sql if name == "min" else greatest_sql
        oracle = write(column.name, type_name=type_name)
        return AggregateCall(call, oracle, numeric=column.tame)
    return AggregateCall(call, call, numeric=column.kind == "int" and column.tame)


def _extreme_of_others(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(("min", "max"))
    column = _column(chooser, columns, ("string", "bool", "decimal"), tame=True)
    call = f"{name}({column.name})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _filtered(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    predicate = choose_predicate(chooser, columns)
    # The oracle's expressions for doubles are more than one call.
    inner = choose_hot_aggregate(chooser, [c for c in columns if c.kind != "float"])
    suffix = f" FILTER (WHERE {predicate.sql})"
    return AggregateCall(
        inner.sql + suffix,
        inner.oracle_sql + suffix,
        inner.portable and predicate.portable,
        inner.numeric,
    )


def _distinct(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    if chooser.chance(40):
        call = f"sum(DISTINCT {_column(chooser, columns, ('int',), tame=True).name})"
        return AggregateCall(call, call)
    kinds = ("int", "string", "bool", "date", "time", "decimal")
    call = f"count(DISTINCT {_column(chooser, columns, kinds, tame=False).name})"
    return AggregateCall(call, call)


def _moment(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(
        ("stddev", "stddev_pop", "stddev_samp", "var_pop", "var_samp", "var", "var_population")
    )
    column = _column(chooser, columns, ("int",), tame=True)
    call = f"{name}({column.name})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _pair_moment(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(("covar_pop", "covar_samp", "regr_count", "regr_avgx", "regr_sxx"))
    column = _column(chooser, columns, ("int",), tame=True)
    call = f"{name}({column.name}, id)"
    return AggregateCall(call, call, portable=False, numeric=False)


def _boolean(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(("bool_and", "bool_or"))
    predicate = choose_expression(chooser, "bool", columns, depth=1)
    call = f"{name}({predicate.sql})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _bitwise(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(("bit_and", "bit_or", "bit_xor"))
    call = f"{name}({_column(chooser, columns, ('int',), tame=False).name})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _ordered_value(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    name = chooser.choice(("first_value", "last_value"))
    direction = chooser.choice(("", " DESC"))
    call = f"{name}({chooser.choice(columns).name} ORDER BY id{direction})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _quantile(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    column = _column(chooser, columns, ("int",), tame=True).name
    call = chooser.choice(
        (
            f"median({column})",
            f"median({column} * 0.5)",
            f"percentile_cont({column}, 0.25)",
            f"percentile_cont(0.75) WITHIN GROUP (ORDER BY {column})",
        )
    )
    return AggregateCall(call, call, portable=False, numeric=False)


def _approximate(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    kinds = ("int", "string")
    call = f"approx_distinct({_column(chooser, columns, kinds, tame=False).name})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _list(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    candidates = [c for c in columns if c.kind in ("int", "string", "date")]
    column = chooser.choice(candidates).name
    if chooser.chance(30):
        call = f"array_agg({column})"
        return AggregateCall(call, call, portable=False, numeric=False, unordered_list=True)
    call = f"array_agg({column} ORDER BY id{chooser.choice(('', ' DESC'))})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _text(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    column = _column(chooser, columns, ("string",), tame=True).name
    call = f"string_agg({column}, ',' ORDER BY id{chooser.choice(('', ' DESC'))})"
    return AggregateCall(call, call, portable=False, numeric=False)


def _decimal(chooser: Chooser, columns: Sequence[Column]) -> AggregateCall:
    candidates = [column for column in columns if pa.types.is_decimal(column.type) and column.tame]
    if not candidates:
        return _count_values(chooser, columns)
    call = f"{chooser.choice(('sum', 'avg', 'min', 'max'))}({chooser.choice(candidates).name})"
    return AggregateCall(call, call, portable=False, numeric=False)


Factory = Callable[[Chooser, Sequence[Column]], AggregateCall]

_HOT: tuple[Factory, ...] = (_count_rows, _sum, _avg, _extreme, _count_values)
_RARE: tuple[Factory, ...] = (
    _filtered,
    _distinct,
    _moment,
    _pair_moment,
    _boolean,
    _bitwise,
    _ordered_value,
    _quantile,
    _approximate,
    _list,
    _text,
    _decimal,
    _extreme_of_others,
)
