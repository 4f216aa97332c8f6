"""Window functions: frames, orders, and what is computed when a window closes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.errors import SqlError
from millstream.planner import plan_query
from millstream.planner.nodes import Aggregate, Over, Transform, WatermarkBound, WindowSelect


def only_call(find, sql):
    (over,) = find(sql, Over)
    (call,) = over.calls
    return over, call


@pytest.mark.parametrize(
    "over",
    [
        "OVER (PARTITION BY symbol ORDER BY ts ROWS BETWEEN 99 PRECEDING AND CURRENT ROW)",
        "OVER (PARTITION BY symbol ORDER BY ts ROWS 99 PRECEDING)",
        "OVER (ROWS WINDOW BUFFER 100 ROWS PARTITION BY symbol ORDER BY ts)",
        "OVER w",
        "OVER (w ROWS 99 PRECEDING)",
    ],
)
def test_spellings_of_a_frame_mean_one_node(find, over):
    windows = {
        "OVER w": " WINDOW w AS (PARTITION BY symbol ORDER BY ts ROWS 99 PRECEDING)",
        "OVER (w ROWS 99 PRECEDING)": " WINDOW w AS (PARTITION BY symbol ORDER BY ts)",
    }
    node, call = only_call(
        find, f"SELECT avg(price) {over} AS a FROM trades{windows.get(over, '')}"
    )
    assert (node.keys, node.order_column) == (("symbol",), "ts")
    assert (call.function, call.arguments) == ("avg", ("price",))
    assert (call.frame_kind, call.preceding, call.path) == ("rows", 99, "kernel")
    assert call.frame_sql == "ROWS BETWEEN 99 PRECEDING AND CURRENT ROW"


@pytest.mark.parametrize(
    ("call_sql", "frame"),
    [
        ("sum(price) OVER (ORDER BY ts)", ("range", None)),
        ("sum(price) OVER (ORDER BY ts ROWS UNBOUNDED PRECEDING)", ("rows", None)),
        ("sum(price) OVER (ROWS UNBOUNDED PRECEDING)", ("rows", None)),
        ("sum(price) OVER (ORDER BY ts ROWS CURRENT ROW)", ("rows", 0)),
        (
            "sum(price) OVER (ORDER BY ts RANGE BETWEEN INTERVAL '1' MINUTE PRECEDING "
            "AND CURRENT ROW)",
            ("range", 60_000),
        ),
        ("lag(price) OVER (ORDER BY ts)", ("rows", 1)),
        ("lag(price, 3) OVER (ORDER BY ts)", ("rows", 3)),
        ("row_number() OVER ()", ("rows", None)),
        ("rank() OVER (ORDER BY ts)", ("rows", None)),
        ("stddev(price) OVER (ORDER BY ts ROWS 5 PRECEDING)", ("rows", 5)),
        ("sum(amount) OVER (ORDER BY ts)", ("range", None)),
        ("last_value(symbol) IGNORE NULLS OVER (ORDER BY ts)", ("range", None)),
        ("lag(symbol) IGNORE NULLS OVER (ORDER BY ts)", ("rows", None)),
        ("lag(symbol, 1) IGNORE NULLS OVER (ORDER BY ts)", ("rows", None)),
        ("avg(amount) OVER (ORDER BY ts ROWS UNBOUNDED PRECEDING)", ("rows", None)),
        ("corr(price, 2) FILTER (WHERE price > 1) OVER (ORDER BY ts)", ("range", None)),
        ("first_value(symbol) OVER (ORDER BY ts)", ("range", None)),
        ("last_value([symbol]) OVER (ORDER BY ts ROWS 5 PRECEDING)", ("rows", 5)),
        ("first_value('none') OVER (ORDER BY ts)", ("range", None)),
        ("last_value(1) IGNORE NULLS OVER (ORDER BY ts)", ("range", None)),
        ("lag(NULL) IGNORE NULLS OVER (ORDER BY ts)", ("rows", None)),
    ],
)
def test_frames_reach_back_from_the_current_row(find, call_sql, frame):
    _, call = only_call(find, f"SELECT {call_sql} AS v FROM trades")
    assert (call.frame_kind, call.preceding) == frame
    assert call.path == "kernel"
    assert call.function in ("row_number", "rank") or len(call.arguments) > 0


@pytest.mark.parametrize(
    ("call_sql", "reason"),
    [
        (
            "max(symbol) OVER (ORDER BY ts ROWS 5 PRECEDING)",
            "max of string has no kernel",
        ),
        (
            "sum(amount) OVER (ORDER BY ts ROWS 5 PRECEDING)",
            "sum of decimal128(10, 2) has no kernel",
        ),
        ("nth_value(price, 2) OVER (ORDER BY ts)", "nth_value has no kernel"),
        ("lag(price, 1, 0.0) OVER (ORDER BY ts)", "lag with a default has no kernel"),
        (
            "var_pop(DISTINCT price) OVER (ORDER BY ts)",
            "DISTINCT, ORDER BY and IGNORE NULLS need the rows",
        ),
        (
            "first_value(price) IGNORE NULLS OVER (ORDER BY ts ROWS 5 PRECEDING)",
            "DISTINCT, ORDER BY and IGNORE NULLS need the rows",
        ),
    ],
)
def test_the_rest_is_buffered_and_says_why(find, call_sql, reason):
    _, call = only_call(find, f"SELECT {call_sql} AS v FROM trades")
    assert (call.path, call.reason) == ("buffered", reason)


@pytest.mark.parametrize(
    ("call_sql", "reason"),
    [
        ("max(symbol) OVER (ORDER BY ts)", "max of string has no kernel"),
        ("max(arrow_cast(price, 'Decimal256(40, 2)')) OVER (ORDER BY ts)", "max of decimal256"),
        ("bool_or(price > 1) OVER (ROWS UNBOUNDED PRECEDING)", "bool_or has no kernel"),
        ("max(symbol) FILTER (WHERE price > 1) OVER (ORDER BY ts)", "max of string"),
        ("max(DISTINCT symbol) OVER (ORDER BY ts)", "DISTINCT, ORDER BY and IGNORE NULLS"),
    ],
)
def test_results_are_carried_where_rows_need_not_be_kept(find, call_sql, reason):
    _, call = only_call(find, f"SELECT {call_sql} AS v FROM trades")
    assert (call.path, call.preceding, len(call.arguments)) == ("carried", None, 1)
    assert call.reason.startswith(reason)


@pytest.mark.parametrize(
    "call_sql",
    [
        "sum(DISTINCT price) OVER (ORDER BY ts)",
        "median(price) OVER (ORDER BY ts)",
        "lag(price, 2) IGNORE NULLS OVER (ORDER BY ts)",
        "lag(price, 1, 0.0) IGNORE NULLS OVER (ORDER BY ts)",
        "nth_value(price, 2) IGNORE NULLS OVER (ORDER BY ts)",
    ],
)
def test_rows_are_kept_where_a_result_does_not_tell_enough(find, call_sql):
    _, call = only_call(find, f"SELECT {call_sql} AS v FROM trades")
    assert (call.path, call.preceding) == ("buffered", None)


def test_calls_over_the_same_rows_share_a_node(find):
    sql = (
        "SELECT sum(price) OVER w AS s, lag(price) OVER w AS l, "
        "max(price) OVER (PARTITION BY upper(symbol) ORDER BY ts) AS m FROM trades "
        "WINDOW w AS (PARTITION BY symbol ORDER BY ts)"
    )
    nodes = find(sql, Over)
    assert [len(node.calls) for node in nodes] == [1, 2]
    assert nodes[0].input.projections[-1].sql == 'upper("symbol")'


def test_equal_calls_are_computed_once(find):
    sql = (
        "SELECT price FROM trades QUALIFY sum(price) OVER (ORDER BY ts) > 1 "
        "OR sum(price) OVER (ORDER BY ts) < -1"
    )
    only_call(find, sql)


def test_expressions_around_and_inside_calls_are_computed_beside_them(plan, find):
    sql = "SELECT price - avg(price * 2) OVER (ORDER BY ts) AS d FROM trades WHERE price > 0"
    (over,) = find(sql, Over)
    assert over.input.where == '"price" > 0'
    assert over.calls[0].sql == f'avg("{over.calls[0].arguments[0]}")'
    assert plan(sql).root.projections[0].sql == f'"price" - "{over.calls[0].name}"'


def test_aggregates_can_be_summed_over_windows(find):
    sql = (
        "SELECT symbol, sum(count(*)) OVER (PARTITION BY symbol ORDER BY window_time "
        "ROWS UNBOUNDED PRECEDING) AS total FROM trades GROUP BY symbol WINDOW TUMBLING(10s)"
    )
    node, call = only_call(find, sql)
    assert (node.keys, node.order_column, call.sql) == (("__k0",), "window_time", 'sum("__a0")')


def test_joined_columns_can_be_ranked(find):
    sql = (
        "SELECT lag(s.name) OVER (PARTITION BY t.symbol ORDER BY t.ts) AS l "
        "FROM trades t JOIN symbols s ON t.symbol = s.symbol"
    )
    node, call = only_call(find, sql)
    assert (node.keys, call.arguments) == (("symbol",), ("name",))


def test_deduplication_keeps_the_first_row_of_a_key(plan, find):
    sql = (
        "SELECT symbol, price FROM trades "
        "QUALIFY row_number() OVER (PARTITION BY symbol ORDER BY ts) = 1"
    )
    _, call = only_call(find, sql)
    assert plan(sql).root.where == f'"{call.name}" = 1'


TOP = [
    "SELECT symbol, n FROM (SELECT symbol, n, row_number() OVER (PARTITION BY window_start, "
    "window_end ORDER BY n DESC) AS r FROM (SELECT symbol, window_start, window_end, count(*) AS n "
    "FROM trades GROUP BY symbol WINDOW TUMBLING(10s))) WHERE r <= 3",
    "SELECT symbol, count(*) AS n FROM trades GROUP BY symbol WINDOW TUMBLING(10s) "
    "QUALIFY row_number() OVER (PARTITION BY window_end ORDER BY count(*) DESC) <= 3",
    "SELECT symbol, n FROM (SELECT symbol, window_end, count(*) AS n, row_number() OVER "
    "(PARTITION BY window_end ORDER BY count(*) DESC) AS r FROM trades GROUP BY symbol "
    "WINDOW TUMBLING(10s)) WHERE r <= 3",
]


@pytest.mark.parametrize("sql", TOP)
def test_ranks_within_a_window_are_given_when_it_closes(plan, find, sql):
    (node,) = find(sql, WindowSelect)
    assert (node.window_end_column, node.keys) == ("window_end", ())
    assert node.watermark == (WatermarkBound("trades"),)
    root = plan(sql).root
    assert isinstance(root, Transform)
    assert root.where.endswith("<= 3")
    assert root.input is node or root.input == node


def test_other_terms_of_the_partition_are_keys(find):
    sql = (
        "SELECT price, rank() OVER (PARTITION BY window_end, symbol, upper(symbol) "
        "ORDER BY price DESC) AS r FROM TUMBLE(trades, ts, INTERVAL '10' SECOND)"
    )
    (node,) = find(sql, WindowSelect)
    assert node.keys[0] == "symbol"
    assert len(node.keys) == 2


def test_order_by_with_limit_is_about_each_window(find):
    sql = (
        "SELECT symbol, count(*) AS n FROM trades GROUP BY symbol WINDOW TUMBLING(10s) "
        "ORDER BY n DESC, 1 LIMIT 3"
    )
    (node,) = find(sql, WindowSelect)
    assert node.schema == pa.schema([("symbol", pa.string()), pa.field("n", pa.int64(), False)])
    assert node.sql == (
        'SELECT "symbol", "n" FROM (SELECT *, row_number() OVER (PARTITION BY "__window_end", '
        '"__window_start" ORDER BY "__s0" DESC NULLS FIRST, "__s1" ASC NULLS LAST, "symbol", "n", '
        '"__s0", "__s1", "__window_end", "__window_start") AS "__n" FROM "input") WHERE '
        '"__n" <= 3 ORDER BY "__window_end", "__window_start", "__n"'
    )


def test_order_by_event_time_is_inferred_for_bounded_tables(catalog):
    catalog.infer_event_time = True
    sql = "SELECT lag(price) OVER (ORDER BY ts) AS l FROM plain"
    (stream,) = plan_query(sql, catalog).streams
    assert (stream.event_time, stream.max_out_of_orderness) == ("ts", None)


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        (
            "SELECT ^count(*) OVER (PARTITION BY symbol) FROM trades",
            "without ORDER BY the frame is the whole partition, of which rows are still to come; "
            "add ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
        ),
        (
            "SELECT ^lead(price) OVER (ORDER BY ts) FROM trades",
            "lead needs rows that are still to come; use it within a window, by "
            "adding the window's "
            "end to PARTITION BY",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ts ROWS BETWEEN ^1 PRECEDING AND 1 "
            "FOLLOWING) FROM trades",
            "a frame with FOLLOWING needs rows that are still to come; end it at CURRENT ROW",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ts ROWS BETWEEN ^2 PRECEDING AND 1 "
            "PRECEDING) FROM trades",
            "a frame must end at CURRENT ROW",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ts GROUPS ^2 PRECEDING) FROM trades",
            "GROUPS frames are not supported; use ROWS or RANGE",
        ),
        (
            "SELECT sum(price) OVER (RANGE BETWEEN ^INTERVAL '1' SECOND PRECEDING AND CURRENT ROW) "
            "FROM trades",
            "a RANGE frame needs ORDER BY event time",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ^price) FROM trades",
            "rows of a stream can be ordered by event time only, which price is not; use 'ts', or "
            "add the end of a window to PARTITION BY",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ^price) FROM plain",
            "rows of a stream can be ordered by event time only, which price is not; declare one "
            "with event_time=, or add the end of a window to PARTITION BY",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ^ts DESC) FROM trades",
            "rows of a stream can be ordered by ascending time only",
        ),
        (
            "SELECT sum(price) OVER (ORDER BY ts, ^price) FROM trades",
            "rows of a stream are ordered by event time alone; rows of one time keep the order in "
            "which they came",
        ),
        ("SELECT ^rank() OVER (PARTITION BY symbol) FROM trades", "rank needs ORDER BY"),
        ("SELECT sum(price) OVER ^v FROM trades", "unknown window 'v'"),
        (
            "SELECT sum(price) OVER ^v FROM trades WINDOW w AS (ORDER BY ts)",
            "unknown window 'v'; there are w",
        ),
        (
            "SELECT sum(price) OVER (^ROWS WINDOW BUFFER 0 ROWS ORDER BY ts) FROM trades",
            "a window buffer must hold at least 1 row: 0",
        ),
        ("SELECT ^upper(symbol) OVER (ORDER BY ts) FROM trades", "upper cannot be used with OVER"),
        (
            "SELECT price FROM trades WHERE ^row_number() OVER (ORDER BY ts) = 1",
            "row_number with OVER cannot be used in WHERE; use QUALIFY",
        ),
        (
            "SELECT count(*) FROM trades GROUP BY symbol HAVING ^sum(count(*)) OVER () > 1",
            "sum with OVER cannot be used in HAVING; use QUALIFY",
        ),
        (
            "SELECT price FROM trades QUALIFY ^price > 1",
            "QUALIFY needs a window function; use WHERE or HAVING",
        ),
        (
            "SELECT price FROM trades ORDER BY ^price",
            "ORDER BY needs a window, since a stream has no end; add one, or pass window_end on "
            "from the subquery",
        ),
        (
            "SELECT price FROM trades LIMIT ^3",
            "LIMIT needs a window, since a stream has no end; add one, or pass window_end on from "
            "the subquery",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(1s) LIMIT ^3",
            "LIMIT needs ORDER BY, or any rows would do",
        ),
        (
            "SELECT count(*) AS n FROM trades WINDOW TUMBLING(1s) ORDER BY n LIMIT ^3 + 1",
            "LIMIT takes a whole number of rows",
        ),
        (
            "SELECT count(*) AS n FROM trades WINDOW TUMBLING(1s) ORDER BY ^n LIMIT 3 EMIT CHANGES",
            "ORDER BY cannot follow results that are still revised; use EMIT FINAL",
        ),
        (
            "SELECT ^row_number() OVER (ORDER BY window_end) FROM trades WINDOW TUMBLING(1s) "
            "EMIT CHANGES",
            "window functions cannot follow results of the grouped query that are still revised; "
            "use EMIT FINAL there",
        ),
    ],
)
def test_a_window_function_that_cannot_work_is_refused(refusal, marked, reason):
    assert refusal(marked).reason == reason


@pytest.mark.parametrize(
    ("source", "ties"),
    [
        ("trades", "none"),
        ("(SELECT * FROM trades WHERE price > 1) AS s", "none"),
        ("TUMBLE(trades, ts, INTERVAL '1' SECOND)", "none"),
        (
            "(SELECT *, count(*) OVER (PARTITION BY price ROWS 1 PRECEDING) FROM trades) AS s",
            "arrival",
        ),
        ("(SELECT *, count(*) OVER (PARTITION BY price ORDER BY ts) FROM trades) AS s", "arrival"),
        ("(SELECT * FROM trades UNION ALL SELECT * FROM trades) AS s", "arrival"),
        ("(SELECT DISTINCT symbol, price, ts FROM trades) AS s", "arrival"),
        (
            "(SELECT DISTINCT symbol, price, ts FROM"
            " (SELECT * FROM trades UNION ALL SELECT * FROM trades) AS u) AS s",
            "arrival",
        ),
        (
            "(SELECT window_time AS ts, symbol, count(*) AS price FROM trades GROUP BY symbol"
            " WINDOW TUMBLING(1m)) AS s",
            "columns",
        ),
        (
            "(SELECT symbol, price, ts FROM trades UNION ALL SELECT symbol, sum(price) OVER"
            " (PARTITION BY symbol ORDER BY ts), ts FROM trades) AS s",
            "columns",
        ),
    ],
)
def test_what_orders_rows_of_one_time(find, source, ties):
    sql = f"SELECT sum(price) OVER (PARTITION BY symbol ORDER BY ts ROWS 1 PRECEDING) FROM {source}"
    assert find(sql, Over)[0].ties == ties


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "(SELECT symbol, window_time, count(*) AS price FROM trades GROUP BY symbol"
            " WINDOW TUMBLING(1m))",
            "in no particular order.*; add ORDER BY 'window_time'",
        ),
        (
            "(SELECT symbol, sum(price) AS price FROM trades GROUP BY symbol WINDOW TUMBLING(1m))",
            "in no particular order.*; pass an event time on and ORDER BY it",
        ),
        (
            "(SELECT *, count(*) OVER (PARTITION BY price ORDER BY ts) FROM trades)",
            "in the order of event time.*; add ORDER BY 'ts'",
        ),
    ],
)
def test_rows_that_do_not_come_as_they_arrived_need_an_order(plan, source, message):
    with pytest.raises(SqlError, match=message):
        plan(f"SELECT sum(price) OVER (PARTITION BY symbol ROWS 1 PRECEDING) FROM {source} AS s")


@pytest.mark.parametrize(
    ("above", "ties"),
    [
        ("SELECT * FROM {} AS d", "none"),
        ("SELECT DISTINCT price FROM {} AS d WHERE price > 1", "none"),
        ("SELECT count(*) FROM {} AS d WINDOW TUMBLING(ts, INTERVAL '1' SECOND)", "arrival"),
        ("SELECT first_value(price) FROM {} AS d EMIT FINAL", "arrival"),
        ("SELECT sum(price) OVER (ORDER BY ts ROWS 1 PRECEDING) FROM {} AS d", "arrival"),
        ("SELECT DISTINCT ts FROM TUMBLE({}, ts, INTERVAL '1' SECOND)", "arrival"),
    ],
)
def test_distinct_rows_are_put_in_order_only_where_it_matters(find, above, ties):
    union = "(SELECT * FROM trades UNION ALL SELECT * FROM trades) AS u"
    distinct = f"(SELECT DISTINCT ts, price FROM {union})"
    assert find(above.format(distinct), Aggregate)[-1].ties == ties
