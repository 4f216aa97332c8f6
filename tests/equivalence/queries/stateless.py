"""Cases without state: filters, projections, unions, joins with tables, queries within queries."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from tests.equivalence.case import Case, Stream, choose_stream
from tests.equivalence.chooser import Chooser
from tests.equivalence.columns import Column, fill
from tests.equivalence.expressions import (
    Expression,
    ExpressionKind,
    choose_expression,
    choose_predicate,
)

__all__ = ["filter_case", "join_case", "projection_case", "subquery_case", "union_case"]


def filter_case(chooser: Chooser) -> Case:
    """Choose a query that keeps some rows."""
    stream = choose_stream(chooser, late_percent=20)
    alias = chooser.choice((None, "u"))
    predicate = choose_predicate(chooser, stream.values, qualifier=alias or stream.name)
    columns = chooser.sample(stream.rows.schema.names, 1, 5)
    selected = "*" if chooser.chance(15) else ", ".join(columns)
    source = f"{stream.name} AS {alias}" if alias else stream.name
    sql = f"SELECT {selected} FROM {source} WHERE {predicate.sql}"
    oracle = f"SELECT {', '.join(stream.rows.schema.names if selected == '*' else columns)}"
    oracle += f" FROM {source} WHERE {predicate.sql}"
    return Case("filter", sql, oracle, (stream,), portable=predicate.portable)


def projection_case(chooser: Chooser) -> Case:
    """Choose a query that computes columns, and may filter."""
    stream = choose_stream(chooser, late_percent=20)
    outputs = _choose_outputs(chooser, stream)
    sql = f"SELECT {_select_list(outputs)} FROM {stream.name}"
    portable = all(output.portable for output in outputs)
    if chooser.chance(40):
        predicate = choose_predicate(chooser, stream.values)
        sql += f" WHERE {predicate.sql}"
        portable = portable and predicate.portable
    return Case("projection", sql, sql, (stream,), portable=portable)


def _choose_outputs(chooser: Chooser, stream: Stream) -> list[Expression]:
    kinds: tuple[ExpressionKind, ...] = ("int", "float", "string", "bool")
    return [
        choose_expression(chooser, chooser.choice(kinds), stream.values, depth=3)
        for _ in range(chooser.integer(1, 4))
    ]


def _select_list(outputs: list[Expression]) -> str:
    # The number of the row keeps equal rows apart.
    computed = [f"{output.sql} AS c{index}" for index, output in enumerate(outputs)]
    return ", ".join(["id", *computed])


def subquery_case(chooser: Chooser) -> Case:
    """Choose a query over a query or over a common table expression."""
    stream = choose_stream(chooser)
    inner = [Column("p", pa.int64(), "int"), Column("q", pa.string(), "string")]
    first = choose_expression(chooser, "int", stream.values)
    second = choose_expression(chooser, "string", stream.values)
    condition = choose_predicate(chooser, stream.values)
    body = (
        f"SELECT id, {first.sql} AS p, {second.sql} AS q FROM {stream.name} WHERE {condition.sql}"
    )
    outer = choose_predicate(chooser, inner)
    output = choose_expression(chooser, "int", inner)
    selected = f"SELECT id, q, {output.sql} AS r"
    if chooser.chance(50):
        sql = f"WITH inner_rows AS ({body}) {selected} FROM inner_rows WHERE {outer.sql}"
    else:
        sql = f"{selected} FROM ({body}) AS inner_rows WHERE {outer.sql}"
    portable = all(part.portable for part in (first, second, condition, outer, output))
    return Case("subquery", sql, sql, (stream,), portable=portable)


def union_case(chooser: Chooser) -> Case:
    """Choose a UNION ALL of two streams, or of one stream with itself."""
    left = choose_stream(chooser, name="t")
    right = replace(choose_stream(chooser, name="r", time=left.time), name="r")
    if chooser.chance(30):
        right = left
    branches, portable = [], True
    for stream in (left, right):
        condition = choose_predicate(chooser, stream.values)
        number = choose_expression(chooser, "float", stream.values)
        branches.append(
            f"SELECT id, ts, s, CAST(x AS BIGINT) AS x, {number.sql} AS z"
            f" FROM {stream.name} WHERE {condition.sql}"
        )
        portable = portable and condition.portable and number.portable
    sql = " UNION ALL ".join(branches)
    if chooser.chance(40):
        sql = f"SELECT s, count(*) AS n, sum(x) AS total FROM ({sql}) AS u GROUP BY s"
        oracle = sql
        sql += chooser.choice((" EMIT FINAL", " EMIT CHANGES"))
    else:
        oracle = sql
    streams = (left,) if right is left else (left, right)
    return Case("union", sql, oracle, streams, portable=portable)


def join_case(chooser: Chooser) -> Case:
    """Choose a join of a stream with a table, on a key or on any condition."""
    stream = choose_stream(chooser)
    n_rows = chooser.integer(0, 6)
    label = Column("label", pa.string(), "string", nullable=chooser.chance(50))
    weight = Column("weight", pa.int64(), "int")
    table = pa.table({column.name: fill(chooser, column, n_rows) for column in (label, weight)})
    kind = chooser.choice(("JOIN", "LEFT JOIN", "INNER JOIN", "LEFT OUTER JOIN"))
    condition = chooser.choice(
        (
            "t.s = l.label",
            "t.s = l.label AND t.x > l.weight",
            "t.x < l.weight",
            "upper(t.s) = upper(l.label) AND l.weight IS NOT NULL",
        )
    )
    sql = f"SELECT t.id, t.s, l.label, l.weight FROM t {kind} labels AS l ON {condition}"
    portable = True
    if chooser.chance(40):
        where = choose_predicate(
            chooser, [column for column in stream.values if column.name in ("x", "s")]
        )
        sql += f" WHERE {where.sql}"
        portable = where.portable
    if chooser.chance(35):
        sql = sql.replace("SELECT t.id, t.s, l.label, l.weight", "SELECT l.label, count(*) AS n")
        sql += " GROUP BY l.label"
        emit = chooser.choice((" EMIT FINAL", ""))
        return Case("join", sql + emit, sql, (stream,), {"labels": table}, portable=portable)
    return Case("join", sql, sql, (stream,), {"labels": table}, portable=portable)
