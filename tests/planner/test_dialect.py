"""Expressions reach DataFusion in the user's words."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from sqlglot import exp

from millstream.errors import SqlError
from millstream.planner import plan_query
from millstream.planner.dialect import parse_statement
from millstream.planner.place import span_of
from millstream.planner.typing import Typer

EXPRESSIONS = [
    "{'a': 1}",
    "{a: 1}",
    "[1, 2][1]",
    "[quantity, 2][1]",
    "array[1, 2]",
    "tags[1]",
    "tags[1:2]",
    "t.tags[1]",
    "map {'a': 1}",
    "try_cast(symbol AS int)",
    "cast(quantity AS bigint unsigned)",
    "cast(quantity AS int unsigned)",
    "quantity::double",
    "t.quantity::bigint",
    "price::varchar",
    "symbol::timestamp",
    "ts::timestamp(6)",
    "amount::decimal(12, 3)",
    "cast(symbol AS timestamp with time zone)",
    "quantity ^ 2",
    "quantity & 1 | 2",
    "quantity % 3",
    "quantity << 2",
    "x'ff'",
    r"e'a\nb'",
    "$$abc$$",
    "1e3",
    "0x1f",
    "- quantity",
    'NOT "Flag"',
    '"Flag" IS NOT TRUE',
    '"Flag" IS UNKNOWN',
    "symbol IS NOT NULL",
    "symbol IS DISTINCT FROM 'a'",
    "quantity <=> 2",
    "symbol NOT LIKE 'a%'",
    "symbol NOT ILIKE 'x'",
    "symbol ~ 'a'",
    "symbol !~* 'b'",
    "symbol SIMILAR TO 'a'",
    "quantity NOT BETWEEN 1 AND 2",
    "quantity IN (1, 2)",
    "CASE quantity WHEN 1 THEN 'a' END",
    "extract(year FROM ts)",
    "extract('hour' FROM ts)",
    "substring(symbol FROM 1 FOR 2)",
    "trim(both 'a' FROM symbol)",
    "position('a' IN symbol)",
    "overlay(symbol PLACING 'x' FROM 2 FOR 1)",
    "ceil(price)",
    "ts AT TIME ZONE 'UTC'",
    "date '2024-01-01' + interval '1' month",
    "interval '1 day 2 hours'",
    "interval 10 second",
    "current_date",
    "now()",
    "greatest(quantity, 1, 2)",
    "(1, 2) = (quantity, 2)",
    "struct(quantity AS a, 2 AS b)",
    "details['venue']",
    "details.venue",
    "t.details.venue",
    "symbol || symbol || 'x'",
    "arrow_cast(quantity, 'UInt8')",
    "regexp_replace(symbol, 'a', 'b', 'g')",
    "to_char(ts, '%Y')",
    "date_bin(interval '5 minute', ts)",
    "left(symbol, 2)",
    "log(2, price)",
    "quantity / 2.0",
    "cast(tags AS bigint[])",
    "quantity = any([1, 2])",
    "quantity = some([1, 2])",
    "quantity <> all([1, 2])",
    "price::float",
    "quantity | 2 ^ 3 & 4 << 1",
    "encode(data, 'hex')",
    "list_sum([1, 2])",
    "'it''s'",
    "quantity /* a comment */ + 1",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_has_the_type_that_datafusion_gives_it(expression, catalog):
    sql = f"SELECT {expression} AS v FROM trades t"
    tables = {"trades": catalog.streams["trades"].schema}
    expected = Typer(catalog).schema(sql, tables).field("v").type
    assert plan_query(sql, catalog).schema.field("v").type == expected


@pytest.mark.parametrize(
    "expression",
    [
        "string_agg(symbol, ',' ORDER BY symbol DESC)",
        "array_agg(DISTINCT quantity ORDER BY quantity)",
        "approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY price)",
        "approx_percentile_cont(price, 0.5)",
        "nth_value(quantity, 2 ORDER BY ts)",
        "first_value(quantity) IGNORE NULLS",
        'count(DISTINCT quantity) FILTER (WHERE "Flag")',
        "count(quantity, price)",
        "count(NULL)",
        "count()",
        "sum(1)",
        "avg(amount)",
        "max(t.quantity::double)",
        "sum(quantity + 1) / count(*)",
        'bool_and("Flag")',
        "regr_slope(price, quantity)",
        "median(price)",
        "array_agg(quantity)[1]",
    ],
)
def test_an_aggregate_has_the_type_that_datafusion_gives_it(expression, catalog):
    sql = f"SELECT {expression} AS v FROM trades t"
    tables = {"trades": catalog.streams["trades"].schema}
    expected = Typer(catalog).schema(sql, tables).field("v").type
    assert plan_query(sql, catalog).schema.field("v").type == expected


def test_every_function_of_datafusion_is_left_alone(catalog):
    # These have a grammar of their own, which sqlglot parses.
    worded = {"overlay", "position", "substring", "trim"}
    for name in sorted(Typer(catalog).functions - worded):
        tree, _ = parse_statement(f"SELECT {name}(a, b) FROM t")
        call = tree.expressions[0]
        assert isinstance(call, exp.Anonymous), name
        assert call.name == name


def test_string_views_come_out_as_strings(catalog):
    plan = plan_query("SELECT md5(symbol) AS h FROM trades", catalog)
    assert plan.schema.field("h").type == pa.string()


def test_comments_and_line_breaks_do_not_reach_datafusion(catalog):
    plan = plan_query("SELECT price -- the price\n + 1 AS p FROM trades", catalog)
    assert plan.root.projections[0].sql == '"price" + 1'


def test_keywords_can_be_columns(catalog):
    schema = pa.schema([("timestamp", pa.int64()), ("date", pa.int64()), ("value", pa.int64())])
    catalog.streams["odd"] = type(catalog.streams["plain"])("odd", schema)
    plan = plan_query("SELECT timestamp, date, value FROM odd WHERE timestamp > 3", catalog)
    assert plan.schema.names == ["timestamp", "date", "value"]


def test_a_node_knows_its_words():
    tree, source = parse_statement("SELECT a + b * c AS s FROM t")
    product = tree.expressions[0].this.expression
    assert source.text(span_of(product)) == "b * c"


@pytest.mark.parametrize(
    ("sql", "reason", "column"),
    [
        ("", "the query is empty; write a SELECT", None),
        (";", "the query is empty; write a SELECT", None),
        ("SELECT a FROM t; SELECT b FROM t", "only one statement can be run at a time", 16),
        (
            "SELECT /*+ FAST */ a FROM t",
            "unknown hint 'FAST'; the only one is partitioning(strategy)",
            1,
        ),
        ("SELECT 'abc FROM t", "syntax error: ' is missing", 8),
        ("SELECT a FROM t WHERE", "syntax error at 'WHERE': an expression is missing here", 17),
        ("SELECT a FROM WHERE b", "syntax error at 'WHERE': the name of a stream is expected", 15),
        ("SELECT a b c FROM t", "syntax error at 'c': this does not fit here", 12),
        ("SELECT a FROM t EMIT LATER", "syntax error at 'LATER': EMIT takes CHANGES or FINAL", 22),
        (
            "SELECT a FROM t WINDOW HOPPING(1s)",
            "syntax error at 'HOPPING': windows of event time are TUMBLING, SLIDING, SESSION",
            24,
        ),
        (
            "SELEC a FROM t",
            "only queries can be run, which begin with SELECT, WITH or EXPLAIN: SELEC",
            1,
        ),
    ],
)
def test_a_syntax_error_is_one_sentence_with_its_place(sql, reason, column):
    with pytest.raises(SqlError) as caught:
        parse_statement(sql)
    assert caught.value.reason == reason
    assert caught.value.column == column


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO t VALUES (1)",
        "COPY t TO 'x'",
        "CREATE TABLE t (a int)",
        "SET a = 1",
        "DROP TABLE t",
    ],
)
def test_statements_that_are_no_queries_are_refused(statement):
    with pytest.raises(SqlError, match="only queries can be run"):
        parse_statement(statement)


@pytest.mark.parametrize(
    "marked",
    [
        "SELECT price^,, symbol FROM trades",
        "SELECT price^, FROM trades",
        "SELECT ^, price FROM trades",
        "SELECT sum(price^,) FROM trades",
        "SELECT [1^,] FROM trades",
        "SELECT price FROM trades WHERE price IN (1^,)",
        "SELECT price FROM trades^,",
        "SELECT price FROM trades^, WHERE price > 1",
        "SELECT symbol FROM trades GROUP BY symbol^,",
        "SELECT symbol FROM trades GROUP BY symbol^, HAVING count(*) > 1",
        "SELECT symbol FROM trades GROUP BY ROLLUP (symbol^,) EMIT FINAL",
        "SELECT sum(price) OVER (PARTITION BY symbol^, ORDER BY ts) FROM trades",
    ],
)
def test_something_must_stand_on_both_sides_of_a_comma(refusal, marked):
    assert re.match(
        "syntax error at ',': an? (expression|table) is missing", refusal(marked).reason
    )


@pytest.mark.parametrize(
    ("marked", "missing"),
    [
        ("SELECT price FROM trades JOIN symbols ^ON", "a condition"),
        ("SELECT price FROM trades JOIN symbols ^ON WHERE price > 1", "a condition"),
        ("SELECT price FROM trades JOIN symbols ^USING ()", "a column"),
        ("SELECT price FROM trades ^AS", "a name"),
        ("SELECT sum(price) FILTER (^price > 1) FROM trades", "WHERE"),
        ("SELECT median(price) WITHIN GROUP (^) FROM trades", "ORDER BY"),
        ("SELECT sum(price) OVER (^PARTITION BY ORDER BY ts) FROM trades", "an expression"),
        ("SELECT sum(price) OVER (ORDER BY ts ^ROWS) FROM trades", "a bound of the frame"),
        (
            "SELECT sum(price) OVER (ORDER BY ts ROWS BETWEEN 1 PRECEDING ^AND) FROM trades",
            "a bound of the frame",
        ),
        ("SELECT sum(price) OVER (ORDER BY ts ROWS BETWEEN 1 ^PRECEDING) FROM trades", "AND"),
        ("SELECT sum(price) OVER (ORDER BY ts ROWS ^1) FROM trades", "PRECEDING"),
        (
            "SELECT sum(price) OVER (ORDER BY ts ^ROWS 1 PRECEDING AND CURRENT ROW) FROM trades",
            "BETWEEN",
        ),
    ],
)
def test_no_part_of_a_clause_may_be_missing(refusal, marked, missing):
    assert refusal(marked).reason.endswith(f": {missing} is missing here")


def test_a_comment_must_end():
    with pytest.raises(SqlError, match=r"\*/ is missing") as caught:
        parse_statement("SELECT /* a */ b\nFROM /* t")
    assert (caught.value.line, caught.value.column) == (2, 6)
