"""Joins with tables, subqueries, WITH and UNION ALL."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import Aggregate, Source, Transform, Union, WatermarkBound


def test_a_join_with_a_table_is_a_transform(plan):
    root = plan(
        "SELECT t.symbol, name FROM trades t JOIN symbols AS s ON t.symbol = "
        "s.symbol AND price > 1 "
        "WHERE s.name LIKE 'a%'"
    ).root
    assert isinstance(root, Transform)
    assert root.from_sql == (
        '(SELECT * FROM "symbols" AS "s" WHERE ("s"."name" LIKE \'a%\')) AS "s" '
        'INNER JOIN "input" AS "t" ON "t"."symbol" = "s"."symbol" AND "t"."price" > 1'
    )
    assert (root.where, root.tables) == (None, ("symbols",))
    assert root.input.schema.names == ["symbol", "price"]


@pytest.mark.parametrize(
    ("join", "sql"),
    [
        (
            "LEFT JOIN symbols USING (symbol)",
            '"symbols" AS "symbols" RIGHT JOIN "input" AS "trades" USING ("symbol")',
        ),
        (
            "LEFT OUTER JOIN symbols s ON true",
            '"symbols" AS "s" RIGHT JOIN "input" AS "trades" ON true',
        ),
        ("CROSS JOIN symbols s", '"symbols" AS "s" CROSS JOIN "input" AS "trades"'),
        (", symbols s", '"symbols" AS "s" CROSS JOIN "input" AS "trades"'),
    ],
)
def test_joins_take_all_conditions_and_put_the_table_first(plan, join, sql):
    assert plan(f"SELECT price, name FROM trades {join}").root.from_sql == sql


def test_a_further_table_is_put_before_the_joins_so_far(plan):
    root = plan(
        "SELECT price FROM trades t LEFT JOIN symbols a USING (symbol) JOIN symbols b ON true"
    ).root
    assert root.from_sql == (
        '"symbols" AS "b" INNER JOIN ("symbols" AS "a" RIGHT JOIN "input" AS "t"'
        ' USING ("symbol")) ON true'
    )


def test_a_column_of_a_left_join_may_be_null(plan, catalog):
    catalog.tables["strict"] = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    schema = plan("SELECT price, id FROM trades LEFT JOIN strict ON id = quantity").schema
    assert schema.field("id").nullable


def test_a_join_keeps_event_time_and_can_be_grouped(plan):
    root = plan(
        "SELECT name, count(*) FROM trades t JOIN symbols s USING (symbol) "
        "GROUP BY name WINDOW TUMBLING(10s)"
    ).root
    assert root.input.input.projections[-1].sql == '"t"."ts"'


def test_a_subquery_in_an_expression_reads_tables(plan):
    root = plan(
        "SELECT symbol, (SELECT max(name) FROM symbols s WHERE s.symbol = trades.symbol) AS name "
        "FROM trades WHERE symbol IN (SELECT symbol FROM symbols)"
    ).root
    # Columns of the stream are named in full there, since the table has columns of the same name.
    assert root.projections[1].sql == (
        '(SELECT max(name) FROM symbols s WHERE s.symbol = "input"."symbol")'
    )
    assert root.tables == ("symbols",)


def test_a_join_in_a_subquery_is_merged_with_what_only_picks_from_it(plan):
    sql = "SELECT n AS m FROM (SELECT name AS n, price FROM trades CROSS JOIN symbols) AS q"
    root = plan(sql).root
    assert isinstance(root.input, Source)
    assert root.projections[0].sql == '"symbols"."name"'


def test_unread_columns_are_not_read(find):
    sql = "SELECT a FROM (SELECT symbol AS a, price AS b, ts FROM trades WHERE quantity > 1)"
    (source,) = find(sql, Source)
    assert source.schema.names == ["symbol", "quantity"]


def test_subqueries_without_work_of_their_own_cost_no_node(plan):
    sql = "SELECT b + 1 AS c FROM (SELECT price AS b FROM (SELECT * FROM trades)) AS x WHERE b > 2"
    assert plan(sql).root == plan("SELECT price + 1 AS c FROM trades WHERE price > 2").root


def test_what_a_subquery_computes_is_not_computed_twice(plan):
    root = plan("SELECT r AS a, r AS b FROM (SELECT random() AS r FROM trades)").root
    assert isinstance(root.input, Transform)
    assert root.input.projections[0].sql == "random()"


def test_text_that_looks_like_a_name_is_left_alone(plan):
    sql = "SELECT '\"p\"' || p AS a FROM (SELECT symbol AS p FROM trades)"
    assert plan(sql).root.projections[0].sql == '\'"p"\' || "symbol"'


def test_columns_can_be_renamed_where_a_subquery_is_named(plan):
    sql = "SELECT x, y FROM (SELECT symbol, price FROM trades) AS q(x, y)"
    assert plan(sql).schema.names == ["x", "y"]


def test_a_query_of_with_can_be_used_twice(plan):
    sql = (
        "WITH cheap AS (SELECT symbol, price FROM trades WHERE price < 1), "
        "more(s, p) AS (SELECT symbol, price * 2 FROM cheap) "
        "SELECT * FROM cheap UNION ALL SELECT s, p FROM more"
    )
    root = plan(sql).root
    assert isinstance(root, Union)
    assert [branch.where for branch in root.branches] == ['"price" < 1', '"price" < 1']
    assert root.schema.names == ["symbol", "price"]


def test_branches_of_a_union_are_cast_to_one_type(plan):
    root = plan("SELECT quantity AS q FROM trades UNION ALL SELECT n FROM ticks").root
    assert root.schema == pa.schema([("q", pa.int64())])
    assert [branch.projections[0].sql for branch in root.branches] == [
        "arrow_cast(\"quantity\", 'Int64')",
        '"n"',
    ]


def test_the_watermark_of_a_union_is_the_least_of_its_branches(plan):
    root = plan("SELECT symbol FROM trades UNION ALL SELECT k FROM ticks").root
    assert root.watermark == (WatermarkBound("ticks"), WatermarkBound("trades"))


def test_a_union_of_one_event_time_can_have_windows(plan):
    sql = (
        "SELECT count(*) FROM (SELECT ts AS t FROM trades UNION ALL SELECT ts FROM trades) "
        "WINDOW TUMBLING(10s)"
    )
    assert plan(sql).root.input.watermark == (WatermarkBound("trades"),)


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        (
            "SELECT a.price FROM trades a JOIN ^trades b ON true",
            "joins of two streams are not supported; 'trades' must be a table of the session",
        ),
        (
            "SELECT price FROM trades RIGHT JOIN ^symbols ON true",
            "RIGHT JOIN is not supported; a stream takes INNER, LEFT and CROSS JOIN with tables",
        ),
        (
            "SELECT price FROM trades NATURAL JOIN ^symbols",
            "NATURAL JOIN is not supported; a stream takes INNER, LEFT and CROSS JOIN with tables",
        ),
        ("SELECT price FROM trades JOIN ^symbol ON true", "unknown table 'symbol'; did you mean"),
        (
            "SELECT price FROM trades JOIN (SELECT ^1 AS a) AS x ON true",
            "a stream can be joined with tables of the session only, not with subqueries",
        ),
        (
            "SELECT price FROM trades JOIN symbols USING (^name)",
            "'trades' has no column 'name'; there are symbol, price, quantity",
        ),
        (
            "SELECT price FROM trades s JOIN ^symbols s ON true",
            "'s' stands twice in FROM; give one an alias",
        ),
        (
            "SELECT k FROM ticks WHERE k IN (SELECT symbol FROM ^trades)",
            "a subquery in an expression can read tables of the session only: 'trades' is none",
        ),
        (
            "SELECT k FROM ticks UNION SELECT ^k FROM ticks",
            "UNION removes duplicates of all time; use UNION ALL, or SELECT DISTINCT over it",
        ),
        ("SELECT k FROM ticks EXCEPT SELECT ^k FROM ticks", "EXCEPT is not supported"),
        (
            "SELECT k, n FROM ticks UNION ALL SELECT ^k FROM ticks",
            "all queries of UNION ALL must have as many columns as the first, 2: 1",
        ),
        (
            "SELECT k FROM ticks UNION ALL SELECT k FROM ticks ORDER BY ^1",
            "ORDER BY after UNION ALL is not supported",
        ),
        (
            "SELECT k FROM ticks UNION ALL SELECT ^k FROM ticks GROUP BY k",
            "UNION ALL cannot take results that are still revised; use a window or EMIT FINAL",
        ),
        ("WITH RECURSIVE ^a AS (SELECT k FROM ticks) SELECT * FROM a", "WITH RECURSIVE is not"),
        (
            "WITH a AS (SELECT k FROM ticks), ^a AS (SELECT n FROM ticks) SELECT * FROM a",
            "WITH defines 'a' twice",
        ),
        ("SELECT k FROM ^ticks TABLESAMPLE (10)", "TABLESAMPLE is not supported"),
        (
            "SELECT * FROM ^ticks PIVOT (sum(n) FOR k IN ('a'))",
            "PIVOT is not supported; use aggregates with FILTER",
        ),
        ("SELECT k FROM ticks OFFSET ^3", "OFFSET is not supported"),
        (
            "SELECT k FROM ticks ^FOR UPDATE",
            "FOR UPDATE and the like mean nothing for a stream; leave them out",
        ),
        ("SELECT ^1", "a query needs FROM with a stream to read"),
        ("SELECT x FROM (VALUES (^1)) AS v(x)", "FROM takes the name of a stream, or a subquery"),
        ("SELECT n FROM unnest(^[1, 2]) AS u(n)", "FROM takes the name of a stream, or a subquery"),
    ],
)
def test_a_query_that_cannot_work_is_refused(refusal, marked, reason):
    assert refusal(marked).reason.startswith(reason)


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        ("^FROM trades", "only queries can be run, which begin with SELECT, WITH or EXPLAIN: FROM"),
        ("SELECT price FROM (FROM ^trades) AS t", "SELECT is missing before FROM"),
        ("SELECT array_agg(^price LIMIT 1) FROM trades", "LIMIT in the parentheses of array_agg"),
        ("SELECT array_agg(^price ORDER BY ts LIMIT 1) FROM trades", "LIMIT in the parentheses"),
        ("SELECT any_value(^price HAVING MAX ts) FROM trades", "HAVING in the parentheses of any"),
        ("SELECT max(^price AS p) FROM trades", "AS in the parentheses of max is not supported"),
        ("SELECT ^unnest(two) FROM pairs", "this gives 2 columns, one for each field of a struct"),
        ("SELECT 1 + price, ^unnest(max(two)) FROM pairs GROUP BY price EMIT FINAL", "2 columns"),
        (
            "SELECT price FROM trades WHERE EXISTS (SELECT 1 FROM ^nosuch)",
            "a subquery in an expression can read tables of the session only: 'nosuch' is none",
        ),
        (
            "SELECT price FROM trades WHERE EXISTS (SELECT 1 FROM ^ticks)",
            "a subquery in an expression can read tables of the session only: 'ticks' is none",
        ),
        (
            "SELECT price FROM trades WHERE price IN (SELECT * FROM ^nosuch(1))",
            "unknown function 'nosuch'",
        ),
    ],
)
def test_what_other_dialects_know_is_refused_at_its_place(catalog, refusal, marked, reason):
    two = pa.struct([("a", pa.int64()), ("b", pa.int64())])
    schema = pa.schema([("price", pa.int64()), ("two", two)])
    catalog.streams["pairs"] = StreamDefinition("pairs", schema)
    assert reason in str(refusal(marked))


def test_a_subquery_is_a_key_in_the_words_of_the_query(find):
    sql = "SELECT count(*) FROM trades GROUP BY (SELECT max(name) FROM symbols)"
    (aggregate,) = find(sql, Aggregate)
    assert aggregate.input.projections[0].sql == "(SELECT max(name) FROM symbols)"
    assert aggregate.input.tables == ("symbols",)


@pytest.mark.parametrize(
    ("sql", "is_ordered"),
    [
        ("SELECT name FROM {}", True),
        ("SELECT name, count(*) FROM {} GROUP BY name", False),
        ("SELECT count(*) FROM (SELECT * FROM {} UNION ALL SELECT * FROM {}) AS u", False),
        ("SELECT first_value(name) FROM {} GROUP BY price EMIT FINAL", True),
        ("SELECT median(price) FROM {} GROUP BY name EMIT FINAL", True),
        ("SELECT DISTINCT name FROM {}", True),
        ("SELECT count(*) FROM {} GROUP BY name WINDOW TUMBLING(ts, 1m)", False),
        ("SELECT count(*) FROM {} GROUP BY name WINDOW SESSION(ts, 1m)", True),
        ("SELECT count(*) OVER (ORDER BY ts) FROM {}", True),
        (
            "SELECT n, count(*) FROM (SELECT count(*) OVER (ORDER BY ts) AS n FROM {}) GROUP BY n",
            True,
        ),
    ],
)
def test_joins_keep_the_order_of_rows_where_something_asks_for_it(find, sql, is_ordered):
    joined = "(SELECT s.name, t.* FROM trades AS t LEFT JOIN symbols AS s USING (symbol)) AS j"
    joins = [node for node in find(sql.format(joined, joined), Transform) if node.tables]
    assert joins
    assert {node.is_ordered for node in joins} == {is_ordered}


@pytest.mark.parametrize(
    "written",
    [
        "symbols AS s, trades AS t WHERE t.symbol = s.symbol",
        "symbols AS s CROSS JOIN trades AS t WHERE t.symbol = s.symbol",
        "symbols AS s JOIN trades AS t ON t.symbol = s.symbol",
    ],
)
def test_tables_may_stand_before_the_stream(plan, written):
    after = "FROM trades AS t JOIN symbols AS s ON t.symbol = s.symbol"
    before, usual = plan(f"SELECT s.*, price FROM {written}"), plan(f"SELECT s.*, price {after}")
    assert before.root.schema == usual.root.schema
    assert before.root.from_sql.replace("(", "").replace(")", "") == usual.root.from_sql
