"""Grouping, aggregates, and when their results come out."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.planner import plan_query
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import Aggregate, Changelog, SortKey, Transform, Union


def call(find, expression, rest=""):
    (aggregate,) = find(f"SELECT {expression} AS v FROM trades {rest}", Aggregate)
    (only,) = aggregate.calls
    return only


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT symbol, count(*) FROM trades GROUP BY symbol",
        "SELECT symbol, count(*) FROM trades t GROUP BY t.symbol",
        "SELECT symbol, count(*) FROM trades GROUP BY 1",
        "SELECT symbol, count(*) FROM trades GROUP BY (symbol)",
        "SELECT symbol, count(*) FROM trades GROUP BY ALL",
        "SELECT SYMBOL, COUNT(*) FROM trades GROUP BY Symbol",
    ],
)
def test_ways_to_name_a_key_give_one_plan(plan, sql):
    expected = "SELECT symbol, count(*) FROM trades GROUP BY symbol"
    assert plan(sql).root == plan(expected).root


def test_an_alias_is_a_key_only_if_no_column_is_called_so(plan, find):
    (aggregate,) = find("SELECT upper(symbol) AS u FROM trades GROUP BY u", Aggregate)
    assert aggregate.input.projections[0].sql == "upper(symbol)".replace("symbol", '"symbol"')
    (aggregate,) = find("SELECT 1 AS n, k AS at FROM ticks GROUP BY k, at", Aggregate)
    assert [p.sql for p in aggregate.input.projections] == ['"k"', '"at"']


def test_an_expression_over_keys_is_computed_after_grouping(plan):
    root = plan(
        "SELECT upper(symbol) || 'x' AS u FROM trades GROUP BY upper(symbol) EMIT FINAL"
    ).root
    assert root.projections[0].sql == "\"__k0\" || 'x'"


@pytest.mark.parametrize(
    ("key", "expression", "sql"),
    [
        # What is negated has no words of its own to put the key in place of.
        ('"Flag" IS TRUE', '"Flag" IS NOT TRUE', '"__k1" IS NOT TRUE'),
        ("symbol ~ 'a'", "symbol !~ 'a'", "\"__k1\" !~ 'a'"),
        ("symbol SIMILAR TO 'a'", "symbol NOT SIMILAR TO 'a'", "\"__k1\" NOT SIMILAR TO 'a'"),
        ('"Flag" IS TRUE', 'NOT "Flag" IS TRUE', 'NOT "__k0"'),
        # Operators bind as they do in DataFusion.
        ("quantity | small", "quantity | small & 3", '"__k1" | "__k2" & 3'),
        ("small & 3", "quantity | small & 3", '"__k1" | "__k0"'),
        ("quantity ^ small", "quantity ^ small & 3", '"__k1" ^ "__k2" & 3'),
        ("quantity | small", "quantity | small << 1", '"__k1" | "__k2" << 1'),
        ("quantity + small", "quantity + small << 1", '"__k0" << 1'),
        ("quantity < small", '"Flag" = (quantity < small)', '"__k3" = "__k0"'),
        # Types that other dialects take for one.
        ("price::float", "price::double", '"__k1"::double'),
        ("price::real", "price::float", '"__k0"'),
    ],
)
def test_a_key_stands_for_nothing_but_itself(plan, key, expression, sql):
    names = ("symbol", "quantity", "small", '"Flag"', "price")
    columns = ", ".join(name for name in names if name in expression)
    query = f"SELECT {expression} AS v FROM trades GROUP BY {key}, {columns} EMIT FINAL"
    assert plan(query).root.projections[0].sql == sql


def test_equal_aggregates_and_arguments_are_computed_once(find):
    (aggregate,) = find(
        "SELECT sum(price), SUM( price ) + avg(price) AS s, mean(price) AS m FROM trades "
        "HAVING sum(price) > 1",
        Aggregate,
    )
    assert [c.sql for c in aggregate.calls] == ['sum("__x0")', 'avg("__x0")']
    assert aggregate.input.schema.names == ["__x0"]


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("count(*)", pa.int64()),
        ("count(symbol)", pa.int64()),
        ("sum(quantity)", pa.int64()),
        ("sum(small)", pa.uint64()),
        ("sum(price)", pa.float64()),
        ("sum(1)", pa.int64()),
        ("avg(quantity)", pa.float64()),
        ("min(ts)", pa.timestamp("ms")),
        ("max(day)", pa.date32()),
        ("min(small)", pa.uint8()),
        ("min(symbol)", pa.string()),
        ("sum(amount)", pa.decimal128(20, 2)),
        ("avg(amount)", pa.decimal128(14, 6)),
        ("count(DISTINCT price)", pa.int64()),
        ("max(DISTINCT price)", pa.float64()),
        ("stddev(quantity)", pa.float64()),
        ("regr_count(price, quantity)", pa.uint64()),
        ("first_value(symbol) IGNORE NULLS", pa.string()),
        ("last_value(day ORDER BY ts DESC, price)", pa.date32()),
    ],
)
def test_kernels_serve_what_is_hot(find, expression, result):
    found = call(find, expression)
    assert (found.path, found.reason, found.result_type) == ("kernel", "", result)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("bit_xor(DISTINCT quantity)", "DISTINCT needs the rows"),
        ("sum(price ORDER BY ts)", "ORDER BY needs the rows"),
        ("first_value(price ORDER BY symbol)", "ORDER BY string has no kernel"),
        ("median(price)", "median has no kernel"),
        ("count(price, symbol)", "count of several columns has no kernel"),
        ("array_agg(price ORDER BY ts DESC)", "array_agg has no kernel"),
    ],
)
def test_the_rest_is_buffered_and_says_why(find, expression, reason):
    found = call(find, expression)
    assert (found.path, found.reason) == ("buffered", reason)


def test_a_buffered_call_keeps_its_words_over_computed_columns(find):
    found = call(find, "array_agg(price * 2 ORDER BY ts DESC) FILTER (WHERE quantity > 1)")
    assert found.sql == 'array_agg("__x0" ORDER BY "__x1" DESC) FILTER (WHERE "__x2")'
    assert found.arguments == ("__x0", "__x1", "__x2")
    assert found.order_by == (SortKey("__x1", descending=True, nulls_first=True),)
    assert call(find, "percentile_cont(price, 0.5)").sql == 'percentile_cont("__x0", 0.5)'


@pytest.mark.parametrize(
    ("expression", "argument"),
    [
        ("count(*) FILTER (WHERE quantity > 1)", 'CASE WHEN "quantity" > 1 THEN 1 END'),
        ("count(1) FILTER (WHERE quantity > 1)", 'CASE WHEN "quantity" > 1 THEN 1 END'),
        ('sum(price) FILTER (WHERE "Flag")', 'CASE WHEN "Flag" THEN "price" END'),
    ],
)
def test_a_filter_turns_rows_into_nulls_for_kernels(find, expression, argument):
    (aggregate,) = find(f"SELECT {expression} AS v FROM trades", Aggregate)
    assert aggregate.calls[0].path == "kernel"
    assert aggregate.input.projections[0].sql == argument


def test_a_value_is_picked_among_the_rows_that_meet_a_condition(find):
    (aggregate,) = find(
        "SELECT first_value(price ORDER BY ts) FILTER (WHERE quantity > 1) IGNORE NULLS AS v"
        " FROM trades",
        Aggregate,
    )
    (found,) = aggregate.calls
    columns = {p.name: p.sql for p in aggregate.input.projections}
    assert [columns[name] for name in found.arguments] == [
        '"price"',
        '("quantity" > 1) AND ("price") IS NOT NULL',
    ]
    assert [columns[key.column] for key in found.order_by] == ['"ts"']


def test_counting_rows_reads_the_narrowest_column(find):
    (aggregate,) = find("SELECT count(*) FROM trades", Aggregate)
    assert aggregate.input.input.schema.names == ["Flag"]


def test_having_is_the_condition_of_the_transform_after(plan):
    sql = "SELECT symbol, count(*) AS n FROM trades GROUP BY symbol HAVING {} EMIT FINAL"
    assert plan(sql.format("count(*) > 2")).root.where == '"__a0" > 2'
    assert plan(sql.format("n > 2")).root.where == '("__a0") > 2'
    assert plan(sql.format("symbol <> 'a' AND sum(price) > 2")).root.where == (
        '"__k0" <> \'a\' AND "__a1" > 2'
    )


@pytest.mark.parametrize(
    ("sql", "emit", "keys"),
    [
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol", "changes", ("symbol",)),
        ("SELECT symbol AS s, count(*) FROM trades GROUP BY symbol, day", "changes", ("s",)),
        ("SELECT count(*) FROM trades", "changes", ()),
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol EMIT FINAL", "final", ()),
        ("SELECT count(*), window_end FROM trades WINDOW TUMBLING(1s)", "final", ()),
        (
            "SELECT count(*), window_end, symbol FROM trades GROUP BY symbol WINDOW TUMBLING(1s) "
            "EMIT CHANGES",
            "changes",
            ("window_end", "symbol"),
        ),
    ],
)
def test_results_are_final_for_windows_and_changes_otherwise_unless_said(
    plan, find, sql, emit, keys
):
    (aggregate,) = find(sql, Aggregate)
    assert aggregate.emit == emit
    assert plan(sql).key_columns == keys
    assert (plan(sql).schema.names[-1] == "_op") == (emit == "changes")


def test_final_results_have_versions_while_lateness_is_allowed(plan, find):
    sql = "SELECT window_end, count(*) AS n FROM ticks WINDOW TUMBLING(10) EMIT FINAL"
    assert find(sql, Aggregate)[0].allowed_lateness == 3
    assert isinstance(plan(sql).root, Changelog)


def test_the_changelog_can_retract(catalog):
    sql = "SELECT symbol, count(*) FROM trades GROUP BY symbol"
    assert plan_query(sql, catalog).root.retract is False
    assert plan_query(sql, catalog, changelog="retract").root.retract is True


def test_filters_over_a_changelog_stay_one_plain_transform(plan):
    sql = (
        "SELECT symbol AS s, c + 1 AS c FROM "
        "(SELECT symbol, count(*) AS c FROM trades GROUP BY symbol HAVING count(*) > 1) WHERE c < 9"
    )
    root = plan(sql).root
    assert isinstance(root, Changelog)
    assert isinstance(root.input, Transform)
    assert isinstance(root.input.input, Aggregate)
    assert root.input.where == '("__a0" > 1) AND ("__a0" < 9)'
    assert root.key_columns == ("s",)


def test_emit_final_reaches_inner_queries(find):
    sql = "SELECT max(n) FROM (SELECT count(*) AS n FROM trades GROUP BY symbol) EMIT FINAL"
    assert [node.emit for node in find(sql, Aggregate)] == ["final", "final"]


def test_emit_changes_is_about_the_outermost_aggregate(find):
    sql = (
        "SELECT max(n) FROM (SELECT count(*) AS n, window_end AS e FROM trades "
        "WINDOW TUMBLING(1s)) EMIT CHANGES"
    )
    assert [node.emit for node in find(sql, Aggregate)] == ["changes", "final"]


def test_distinct_gives_each_row_once(plan, find):
    sql = "SELECT DISTINCT symbol, quantity FROM trades"
    (aggregate,) = find(sql, Aggregate)
    assert (aggregate.keys, aggregate.calls) == (("symbol", "quantity"), ())
    assert aggregate.emit == "append"
    assert plan(sql).key_columns == ()


def test_grouping_sets_are_a_union_of_aggregates(find):
    sql = (
        "SELECT symbol, quantity, grouping(symbol, quantity) AS g, count(*) AS n FROM trades "
        "GROUP BY {} EMIT FINAL"
    )
    (union,) = find(sql.format("ROLLUP (symbol, quantity)"), Union)
    aggregates = find(sql.format("ROLLUP (symbol, quantity)"), Aggregate)
    assert [node.keys for node in aggregates] == [("__k0", "__k1"), ("__k0",), ()]
    assert [branch.projections[-1].sql for branch in union.branches] == [
        "arrow_cast(0, 'Int32')",
        "arrow_cast(1, 'Int32')",
        "arrow_cast(3, 'Int32')",
    ]
    assert union.branches[2].projections[0].sql == "arrow_cast(NULL, 'Utf8')"
    cube = find(sql.format("CUBE (symbol, quantity)"), Aggregate)
    assert [node.keys for node in cube] == [("__k0", "__k1"), ("__k0",), ("__k1",), ()]
    sets = find(sql.format("GROUPING SETS ((symbol), (quantity))"), Aggregate)
    assert [node.keys for node in sets] == [("__k0",), ("__k1",)]


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        (
            "SELECT symbol, ^price FROM trades GROUP BY symbol",
            "column 'price' is neither grouped nor aggregated; add it to GROUP BY or aggregate it, "
            "such as first_value(price)",
        ),
        (
            "SELECT count(*) FROM trades GROUP BY symbol HAVING ^price > 1",
            "column 'price' is neither grouped nor aggregated; add it to GROUP BY or aggregate it, "
            "such as first_value(price)",
        ),
        (
            "SELECT symbol FROM trades WHERE ^count(*) > 1",
            "count is an aggregate and cannot be used in WHERE; use HAVING",
        ),
        (
            "SELECT count(*) FROM trades GROUP BY ^sum(price)",
            "sum is an aggregate and cannot be grouped by",
        ),
        (
            "SELECT sum(^max(price)) FROM trades",
            "max is an aggregate inside the aggregate sum; compute it in a subquery",
        ),
        (
            "SELECT symbol FROM trades HAVING ^symbol = 'a'",
            "HAVING needs GROUP BY or an aggregate; use WHERE",
        ),
        ("SELECT symbol FROM trades GROUP BY ^2", "GROUP BY position must be from 1 to 1: 2"),
        (
            "SELECT count(*) FROM trades GROUP BY ^details",
            "rows cannot be grouped by a struct<venue: string>",
        ),
        ("SELECT DISTINCT ^tags FROM trades", "rows cannot be grouped by a list<item: int64>"),
        (
            "SELECT DISTINCT ON (^symbol) symbol FROM trades",
            "DISTINCT ON is not supported; use QUALIFY row_number() OVER (...) = 1",
        ),
        (
            "SELECT symbol, count(*) FROM trades GROUP BY ROLLUP (^symbol)",
            "grouping sets have no changelog, since their keys are not unique; add EMIT FINAL",
        ),
        (
            "SELECT grouping(price) FROM trades GROUP BY price, ^sum(quantity)",
            "sum is an aggregate and cannot be grouped by",
        ),
        (
            "SELECT ^grouping(quantity) FROM trades GROUP BY price",
            "grouping takes expressions of GROUP BY",
        ),
        (
            "SELECT max(c) FROM (SELECT ^count(*) AS c FROM trades GROUP BY symbol) AS counts",
            "subquery 'counts' gives results that are still revised, which can "
            "only be filtered and "
            "projected; give it a window, or add EMIT FINAL to the query",
        ),
        (
            "SELECT symbol FROM (SELECT symbol FROM trades ^EMIT FINAL)",
            "EMIT belongs at the end of the whole query",
        ),
    ],
)
def test_a_grouping_that_cannot_work_is_refused(refusal, marked, reason):
    assert refusal(marked).reason == reason


@pytest.mark.parametrize(
    "marked",
    [
        "SELECT count(*) FROM things GROUP BY ^id",
        "SELECT DISTINCT ^id FROM things",
        "SELECT count(*) OVER (PARTITION BY ^id ORDER BY at) FROM things",
    ],
)
def test_values_of_an_extension_are_no_keys_but_their_storage_is(catalog, refusal, marked):
    schema = pa.schema([("id", pa.uuid()), ("at", pa.int64())])
    catalog.streams["things"] = StreamDefinition("things", schema, "at")
    assert refusal(marked).reason == (
        "rows cannot be grouped by values of extension<arrow.uuid>; use arrow_cast(..., "
        "'FixedSizeBinary(16)')"
    )
    storage = marked.replace("^id", "arrow_cast(id, 'FixedSizeBinary(16)')")
    assert plan_query(storage, catalog)
