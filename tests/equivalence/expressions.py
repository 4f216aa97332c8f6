"""Random scalar expressions, typed by kind, that raise no error on any input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from tests.equivalence.chooser import Chooser
from tests.equivalence.columns import Column

__all__ = ["Expression", "ExpressionKind", "choose_expression", "choose_predicate", "column_sql"]

ExpressionKind: TypeAlias = Literal["int", "float", "string", "bool"]

_HOLE = re.compile(r"\{(int|float|string|bool)\}")


@dataclass(frozen=True, slots=True)
class Expression:
    """SQL text.

    Attributes:
        sql: The text.
        portable: Whether DuckDB gives the same value for it.
    """

    sql: str
    portable: bool


# Templates that DuckDB and DataFusion read alike.
_PORTABLE: dict[str, tuple[str, ...]] = {
    "int": (
        "{int} + {int}",
        "{int} - {int}",
        "-({int})",
        "abs({int})",
        "CAST({int} AS BIGINT) * 3",
        "CASE WHEN {bool} THEN {int} ELSE {int} END",
        "CASE WHEN {bool} THEN {int} END",
        "coalesce({int}, {int})",
        "nullif({int}, {int})",
    ),
    "float": (
        "{float} + {float}",
        "{float} - {float}",
        "{float} * 0.5",
        "CAST({int} AS DOUBLE)",
        "CASE WHEN {bool} THEN {float} ELSE {float} END",
        "coalesce({float}, {float})",
        "abs({float})",
        "floor({float})",
        "ceil({float})",
    ),
    "string": (
        "upper({string})",
        "lower({string})",
        "{string} || {string}",
        "concat({string}, 'é', {string})",
        "replace({string}, 'a', 'bb')",
        "coalesce({string}, 'none')",
        "nullif({string}, '')",
        "trim({string})",
        "CASE WHEN {bool} THEN {string} ELSE 'it''s' END",
        "left({string}, 2)",
        "reverse({string})",
    ),
    "bool": (
        "{int} > {int}",
        "{int} <= {int}",
        "{int} <> 0",
        "{float} < {float}",
        "{float} >= 0",
        "{string} = {string}",
        "{string} < {string}",
        "{string} LIKE '%a%'",
        "{string} NOT LIKE '_'",
        "{int} IN (0, 1, -7, 500)",
        "{int} NOT IN (3, 4)",
        "{int} BETWEEN -300 AND {int}",
        "{string} IS NULL",
        "{float} IS NOT NULL",
        "{int} IS DISTINCT FROM {int}",
        "{string} IS NOT DISTINCT FROM {string}",
        "NOT ({bool})",
        "({bool}) AND ({bool})",
        "({bool}) OR ({bool})",
        "({bool}) IS NOT TRUE",
        "({bool}) IS FALSE",
    ),
}

# Templates of DataFusion alone.
_NATIVE: dict[str, tuple[str, ...]] = {
    "int": (
        "{int} / nullif({int}, 0)",
        "{int} % nullif({int}, 0)",
        "{int} * {int}",
        "CAST(char_length({string}) AS BIGINT)",
        "CAST(strpos({string}, 'a') AS BIGINT)",
        "TRY_CAST({float} AS BIGINT)",
        "TRY_CAST({string} AS INT)",
        "greatest({int}, {int}, 0)",
        "least({int}, {int})",
        "CAST(ascii({string}) AS BIGINT)",
        "{int} & 255",
        "{int} | 1",
        "CAST({bool} AS INT)",
        "{int}::bigint",
        "CASE {int} WHEN 0 THEN 1 WHEN 1 THEN 0 ELSE 2 END",
    ),
    "float": (
        "{float} / {float}",
        "sqrt(abs({float}))",
        "round({float})",
        "round({float}, 1)",
        "power({float}, 2)",
        "CAST({int} AS DOUBLE) / 3",
        "nanvl({float}, 0.0)",
        "trunc({float})",
        "greatest({float}, 1.5)",
        "TRY_CAST({string} AS DOUBLE)",
        "arrow_cast({int}, 'Float64')",
    ),
    "string": (
        "CAST({int} AS VARCHAR)",
        "{int}::text",
        "substr({string}, 1, 2)",
        "substring({string} FROM 2 FOR 3)",
        "initcap({string})",
        "lpad({string}, 4, '*')",
        "btrim({string}, 'ax')",
        "regexp_replace({string}, '[aé]', '-')",
        "split_part({string}, 'b', 1)",
        "repeat({string}, 2)",
        "translate({string}, 'ab', 'xy')",
        "to_hex(abs({int}))",
        "md5({string})",
        "CASE {string} WHEN 'a' THEN 'first' ELSE {string} END",
        "right({string}, 1)",
        "concat_ws('-', {string}, {string})",
    ),
    "bool": (
        "{string} ILIKE 'A%'",
        "regexp_like({string}, '^[a-z]')",
        "{string} ~ 'a'",
        "starts_with({string}, 'a')",
        "isnan({float})",
        "{float} = {float}",
        "{float} IS NOT DISTINCT FROM {float}",
        "{string} SIMILAR TO 'a(b|)'",
        "CASE WHEN {bool} THEN {bool} ELSE {int} > 0 END",
        "coalesce({bool}, false)",
        "({bool}) IS NOT UNKNOWN",
        "{string} IN ('a', 'it''s', '')",
    ),
}

_LITERALS: dict[str, tuple[str, ...]] = {
    "int": ("0", "1", "-7", "500"),
    "float": ("0.0", "1.5", "-2.25", "1e3"),
    "string": ("'a'", "''", "'it''s'", "'é'"),
    "bool": ("true", "false"),
}


def column_sql(chooser: Chooser, column: Column, qualifier: str | None) -> str:
    """Write a column's name, plain or quoted, with its qualifier or without."""
    name = f'"{column.name}"' if chooser.chance(15) else column.name
    return f"{qualifier}.{name}" if qualifier and chooser.chance(25) else name


def choose_expression(
    chooser: Chooser,
    kind: ExpressionKind,
    columns: Sequence[Column],
    *,
    qualifier: str | None = None,
    depth: int = 2,
) -> Expression:
    """Choose an expression of a kind over the tame columns.

    Args:
        chooser: Takes the decisions.
        kind: Kind of value that it gives.
        columns: Columns that it may use.
        qualifier: Name that may stand before a column, or None.
        depth: Greatest depth of nesting.
    """
    candidates = [column for column in columns if column.kind == kind and column.tame]
    if depth == 0 or chooser.chance(25):
        if candidates and chooser.chance(90):
            return Expression(column_sql(chooser, chooser.choice(candidates), qualifier), True)
        return Expression(chooser.choice(_LITERALS[kind]), True)
    portable = chooser.chance(60)
    template = chooser.choice((_PORTABLE if portable else _NATIVE)[kind])
    parts, position = [], 0
    for hole in _HOLE.finditer(template):
        inner = choose_expression(
            chooser,
            cast(ExpressionKind, hole[1]),
            columns,
            qualifier=qualifier,
            depth=depth - 1,
        )
        portable = portable and inner.portable
        parts += [template[position : hole.start()], _in_parentheses(inner.sql)]
        position = hole.end()
    return Expression("".join([*parts, template[position:]]), portable)


def _in_parentheses(sql: str) -> str:
    return sql if re.fullmatch(r"[\w.\"]+|'[^']*'", sql) else f"({sql})"


def choose_predicate(
    chooser: Chooser, columns: Sequence[Column], *, qualifier: str | None = None
) -> Expression:
    """Choose a predicate; half of them are a single comparison."""
    depth = chooser.choice((1, 2, 3))
    return choose_expression(chooser, "bool", columns, qualifier=qualifier, depth=depth)
