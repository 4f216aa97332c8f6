"""Which conditions filter the rows of a stream before they are joined, or put into windows."""

import pytest

from millstream.planner.nodes import AssignWindows, Transform

ROWS = '"input" AS "t"'
JOINED = '"symbols" AS "s" INNER JOIN {rows} ON "t"."symbol" = "s"."symbol"'


def transform_of(plan, where, select="price, name"):
    return plan(
        f"SELECT {select} FROM trades t JOIN symbols s ON t.symbol = s.symbol WHERE {where}"
    ).root


@pytest.mark.parametrize(
    ("where", "moved", "left"),
    [
        ("price > 1", '("t"."price" > 1)', None),
        (
            "price > 1 AND s.name = t.symbol || 'x' AND t.symbol IN ('a', 'b')",
            """("t"."price" > 1) AND ("t"."symbol" IN ('a', 'b'))""",
            """("s"."name" = "t"."symbol" || 'x')""",
        ),
        (
            "(price > 1 OR quantity = 2) AND NOT price IS NULL",
            """(("t"."price" > 1 OR "t"."quantity" = 2)) AND (NOT "t"."price" IS NULL)""",
            None,
        ),
        (
            "ts >= DATE '2024-01-15' - INTERVAL '10' DAY",
            """("t"."ts" >= DATE '2024-01-15' - INTERVAL '10' DAY)""",
            None,
        ),
    ],
)
def test_conditions_on_the_stream_go_before_the_join(plan, where, moved, left):
    root = transform_of(plan, where)
    filtered = f'(SELECT * FROM {ROWS} WHERE {moved}) AS "t"'
    assert root.from_sql == JOINED.format(rows=filtered)
    assert root.where == left


def test_conditions_on_a_table_go_before_the_join(plan):
    root = transform_of(plan, "s.name = 'x' AND (s.symbol > 'a' OR s.name IS NULL)")
    kept = """("s"."name" = 'x') AND (("s"."symbol" > 'a' OR "s"."name" IS NULL))"""
    filtered = f'(SELECT * FROM "symbols" AS "s" WHERE {kept}) AS "s"'
    assert root.from_sql == JOINED.replace('"symbols" AS "s"', filtered, 1).format(rows=ROWS)
    assert root.where is None


def test_conditions_on_the_table_of_an_outer_join_stay(plan):
    root = plan(
        "SELECT price FROM trades t LEFT JOIN symbols s ON t.symbol = s.symbol WHERE s.name = 'x'"
    ).root
    assert root.where == """"s"."name" = 'x'"""


def test_columns_that_have_to_be_equal_are_what_is_joined_by(plan):
    root = plan(
        "SELECT price FROM trades t, symbols s, symbols r WHERE t.symbol = s.symbol"
        " AND (r.name) = s.name AND r.symbol < t.symbol"
    ).root
    inner = JOINED.format(rows=ROWS).replace('"t"."symbol" = "s"."symbol"', "({})")
    inner = inner.format('"t"."symbol" = "s"."symbol"')
    assert root.from_sql == f'"symbols" AS "r" INNER JOIN ({inner}) ON (("r"."name") = "s"."name")'
    assert root.where == '("r"."symbol" < "t"."symbol")'
    assert root.joins_in_turn


@pytest.mark.parametrize(
    "query",
    [
        "SELECT price FROM trades t, symbols s WHERE lower(t.symbol) = s.symbol",
        "SELECT price FROM trades t JOIN symbols s ON t.symbol = s.symbol"
        " WHERE price IN (SELECT 1.0 FROM symbols a, symbols b WHERE a.symbol = b.symbol)",
        "SELECT price FROM trades t JOIN symbols s ON t.symbol = s.symbol"
        " AND s.symbol IN (SELECT symbol FROM symbols)",
        "SELECT price FROM trades t JOIN symbols s ON t.symbol < s.symbol",
        "SELECT price FROM trades t",
    ],
)
def test_what_datafusion_has_to_find_conditions_for_is_left_to_it(plan, query):
    assert not plan(query).root.joins_in_turn


@pytest.mark.parametrize(
    "where",
    [
        "price > 1 OR s.name = 'x'",
        # These may fail on a row that finds no match, or give another answer each time.
        "1 / quantity > 1",
        "CAST(t.symbol AS INT) = 1",
        "random() < 0.5",
        "t.symbol IN (SELECT symbol FROM symbols)",
        "true",
    ],
)
def test_others_stay_where_they_are(plan, where):
    root = transform_of(plan, where)
    assert root.from_sql == JOINED.format(rows=ROWS)
    assert root.where is not None


def test_without_a_join_a_condition_stays(plan):
    root = plan("SELECT price FROM trades WHERE price > 1").root
    assert (root.from_sql, root.where) == ('"input"', '"price" > 1')


def test_a_condition_that_is_wrong_is_shown_where_it_stands(plan):
    with pytest.raises(Exception, match="line 1, column") as raised:
        transform_of(plan, "price > 1 AND t.symbol + 1 = true")
    assert "symbol + 1" in str(raised.value)


def test_rows_of_a_window_are_filtered_too(plan):
    root = plan(
        "SELECT s.name, window_start FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts),"
        " INTERVAL '10' SECOND)) AS t JOIN symbols s ON t.symbol = s.symbol WHERE t.price > 1"
    ).root
    assert 'WHERE ("t"."price" > 1)) AS "t"' in root.from_sql


HOP = "TABLE(HOP(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' SECOND, INTERVAL '10' SECOND))"


@pytest.mark.parametrize(
    ("query", "moved"),
    [
        (f"SELECT price FROM {HOP} WHERE price > 1", '"price" > 1'),
        (f"SELECT price FROM (SELECT * FROM {HOP}) WHERE price > 1", '"price" > 1'),
        (
            f"SELECT price FROM (SELECT * FROM {HOP} WHERE price > 1) WHERE quantity = 2",
            '("price" > 1) AND ("quantity" = 2)',
        ),
    ],
)
def test_rows_are_filtered_before_they_are_put_into_windows(find, query, moved):
    (assign,) = find(query, AssignWindows)
    assert isinstance(assign.input, Transform)
    assert assign.input.where == moved
    assert all(node.where is None for node in find(query, Transform) if node != assign.input)


@pytest.mark.parametrize(
    "where",
    [
        "window_end > TIMESTAMP '2024-01-01'",
        "price > 1 AND window_start IS NOT NULL",
        "price > 1 AND symbol IN (SELECT symbol FROM symbols)",
        "price > 1 AND Random() < 0.5",
    ],
)
def test_a_condition_that_may_differ_from_window_to_window_comes_after_them(find, where):
    query = f"SELECT price FROM {HOP} WHERE {where}"
    (assign,) = find(query, AssignWindows)
    assert not isinstance(assign.input, Transform)
    assert find(query, Transform)[0].where is not None
