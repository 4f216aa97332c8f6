"""Which aggregate calls kernels compute, and why the others keep their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

__all__ = [
    "FOLDING_FUNCTIONS",
    "PICKING_FUNCTIONS",
    "STATISTICAL_FUNCTIONS",
    "counts_distinct",
    "kernel_types",
    "no_kernel",
]

FOLDING_FUNCTIONS = {
    "any_value": "any_value",
    "avg": "avg",
    "bit_and": "bit_and",
    "bit_or": "bit_or",
    "bit_xor": "bit_xor",
    "bool_and": "bool_and",
    "bool_or": "bool_or",
    "corr": "corr",
    "count": "count",
    "covar": "covar_samp",
    "covar_pop": "covar_pop",
    "covar_samp": "covar_samp",
    "max": "max",
    "mean": "avg",
    "min": "min",
    "regr_avgx": "regr_avgx",
    "regr_avgy": "regr_avgy",
    "regr_count": "regr_count",
    "regr_intercept": "regr_intercept",
    "regr_r2": "regr_r2",
    "regr_slope": "regr_slope",
    "regr_sxx": "regr_sxx",
    "regr_sxy": "regr_sxy",
    "regr_syy": "regr_syy",
    "stddev": "stddev_samp",
    "stddev_pop": "stddev_pop",
    "stddev_samp": "stddev_samp",
    "sum": "sum",
    "var": "var_samp",
    "var_pop": "var_pop",
    "var_population": "var_pop",
    "var_samp": "var_samp",
    "var_sample": "var_samp",
}
"""Aggregates that ignore NULLs and have a kernel: the name of each by all that DataFusion knows."""

PICKING_FUNCTIONS = frozenset({"first_value", "last_value"})
"""Aggregates that take the value of one row, NULL or not, and have a kernel."""

# With or without DISTINCT, these come to the same.
_DEAF_TO_DISTINCT = frozenset({"bit_and", "bit_or", "bool_and", "bool_or", "max", "min"})
_OF_DISTINCT = frozenset({"avg", "count", "sum"})

_IsType = Callable[[pa.DataType], bool]
_INTEGERS: tuple[_IsType, ...] = (pa.types.is_integer,)
_NUMBERS: tuple[_IsType, ...] = (pa.types.is_integer, pa.types.is_floating)
_TIMES: tuple[_IsType, ...] = (
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
)
_SUMMED = (*_NUMBERS, pa.types.is_decimal128, pa.types.is_duration)
_ORDERED = (*_NUMBERS, *_TIMES, pa.types.is_boolean)
_BYTES: tuple[_IsType, ...] = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
)
_COMPARED = (
    *_ORDERED,
    *_BYTES,
    pa.types.is_decimal32,
    pa.types.is_decimal64,
    pa.types.is_decimal128,
)
_KEYS = (
    *_COMPARED,
    pa.types.is_decimal256,
    pa.types.is_fixed_size_binary,
    pa.types.is_interval,
    pa.types.is_null,
)
_ARGUMENTS: dict[str, tuple[_IsType, ...]] = {
    "any_value": _KEYS,
    "avg": _SUMMED,
    "first_value": _KEYS,
    "last_value": _KEYS,
    "max": _COMPARED,
    "min": _COMPARED,
    "sum": _SUMMED,
    **dict.fromkeys(("bit_and", "bit_or", "bit_xor"), _INTEGERS),
    **dict.fromkeys(("bool_and", "bool_or"), (pa.types.is_boolean,)),
}
_STATISTICAL = (*_NUMBERS, pa.types.is_decimal)


STATISTICAL_FUNCTIONS = frozenset(
    {
        *("corr", "covar_pop", "covar_samp", "stddev_pop", "stddev_samp", "var_pop", "var_samp"),
        *(name for name in FOLDING_FUNCTIONS.values() if name.startswith("regr_")),
    }
)
"""Functions of the moments of values, or of pairs of values."""


def kernel_types(function: str, types: Sequence[pa.DataType]) -> str:
    """Why a window function with a kernel has none for these types; empty if it has."""
    if function == "count":
        return "count of several columns has no kernel" if len(types) > 1 else ""
    suits: tuple[_IsType, ...] = (*_NUMBERS, *_TIMES)
    if function in ("sum", "avg"):
        suits = _NUMBERS
    elif function in STATISTICAL_FUNCTIONS:
        suits = _STATISTICAL
    for data_type in types:
        if not any(test(data_type) for test in suits):
            return f"{function} of {data_type} has no kernel"
    return ""


def counts_distinct(function: str, *, distinct: bool) -> bool:
    """Whether DISTINCT stands before the arguments and makes a difference."""
    return distinct and function not in _DEAF_TO_DISTINCT


def no_kernel(
    function: str,
    arguments: Sequence[pa.DataType],
    order: Sequence[pa.DataType],
    *,
    distinct: bool,
) -> str:
    """Why a call cannot be computed by kernels; empty if it can.

    Args:
        function: Name as :data:`FOLDING_FUNCTIONS` gives it, or any other.
        arguments: Types of the arguments.
        order: Types of the terms of ORDER BY.
        distinct: Whether duplicates of the arguments are to be left out.
    """
    if function in PICKING_FUNCTIONS:
        return _why_not_picked(function, arguments, order, distinct=distinct)
    if function not in FOLDING_FUNCTIONS.values():
        return f"{function} has no kernel"
    if order:
        return "ORDER BY needs the rows"
    if distinct and function not in _OF_DISTINCT:
        return "DISTINCT needs the rows"
    if function == "count":
        if len(arguments) > 1:
            return "count of several columns has no kernel"
        return _unsuited("count of distinct", arguments, _KEYS) if distinct else ""
    return _unsuited(f"{function} of", arguments, _ARGUMENTS.get(function, _STATISTICAL))


def _why_not_picked(
    function: str,
    arguments: Sequence[pa.DataType],
    order: Sequence[pa.DataType],
    *,
    distinct: bool,
) -> str:
    if distinct:
        return "DISTINCT needs the rows"
    return _unsuited(f"{function} of", arguments, _KEYS) or _unsuited("ORDER BY", order, _ORDERED)


def _unsuited(what: str, types: Sequence[pa.DataType], suited: tuple[_IsType, ...]) -> str:
    for data_type in types:
        value_type = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
        if not any(test(value_type) for test in suited):
            return f"{what} {data_type} has no kernel"
    return ""
