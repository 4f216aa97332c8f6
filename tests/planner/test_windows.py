"""Windows: three spellings, one value."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.errors import SqlError
from millstream.planner import plan_query
from millstream.planner.catalog import StreamDefinition
from millstream.planner.nodes import Aggregate, AssignWindows, WatermarkBound, Window


def window(kind, size, step=None, offset=0, time_type=None):
    time_type = time_type or pa.timestamp("ms")
    return Window(kind, "__time", time_type, size, step or size, offset)


SPELLINGS = [
    (
        window("tumble", 10_000),
        [
            "FROM trades WINDOW TUMBLING(ts, INTERVAL '10' SECOND)",
            "FROM trades WINDOW TUMBLING(10s)",
            "FROM trades WINDOW TUMBLING(size => 10000ms)",
            "FROM trades GROUP BY tumble(ts, INTERVAL '10' SECOND)",
            "FROM TABLE(TUMBLE(TABLE trades, DESCRIPTOR(ts), INTERVAL '10' SECOND)) "
            "GROUP BY window_start, window_end",
            "FROM TUMBLE(trades, ts, INTERVAL '10 seconds') GROUP BY window_end",
            "FROM TUMBLE(DATA => TABLE trades, TIMECOL => DESCRIPTOR(ts), "
            "SIZE => INTERVAL '10' SECOND) w GROUP BY w.window_start",
            "FROM (SELECT ts AS at FROM trades) WINDOW TUMBLING(at, 10s)",
        ],
    ),
    (
        window("hop", 10_000, 5_000),
        [
            "FROM trades WINDOW SLIDING(ts, INTERVAL '10' SECOND, INTERVAL '5' SECOND)",
            "FROM trades WINDOW SLIDING(10s, 5s)",
            "FROM trades WINDOW SLIDING(ADVANCE => 5s, SIZE => 10s)",
            "FROM trades GROUP BY hop(ts, INTERVAL '5' SECOND, INTERVAL '10' SECOND)",
            "FROM TABLE(HOP(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' SECOND, "
            "INTERVAL '10' SECOND)) GROUP BY window_start",
            "FROM HOP(DATA => trades, SIZE => INTERVAL '10' SECOND, SLIDE => INTERVAL '5' SECOND, "
            "TIMECOL => ts) GROUP BY window_end",
        ],
    ),
    (
        window("cumulate", 10_000, 2_000),
        [
            "FROM trades GROUP BY cumulate(ts, INTERVAL '2' SECOND, INTERVAL '10' SECOND)",
            "FROM CUMULATE(trades, ts, INTERVAL '2' SECOND, INTERVAL '10' SECOND) "
            "GROUP BY window_start, window_end",
        ],
    ),
    (
        window("session", 5_000),
        [
            "FROM trades WINDOW SESSION(ts, INTERVAL '5' SECOND)",
            "FROM trades WINDOW SESSION(5s)",
            "FROM trades GROUP BY session(ts, INTERVAL '5' SECOND)",
            "FROM SESSION(TABLE trades, DESCRIPTOR(ts), INTERVAL '5' SECOND) "
            "GROUP BY window_start, window_end",
        ],
    ),
    (
        window("tumble", 3_600_000, offset=600_000),
        [
            "FROM trades WINDOW TUMBLING(1h, 10m)",
            "FROM TUMBLE(trades, ts, INTERVAL '1' HOUR, INTERVAL '10' MINUTE) GROUP BY window_end",
            "FROM trades GROUP BY tumble(ts, INTERVAL '1' HOUR, INTERVAL '-50' MINUTE)",
        ],
    ),
    # A growing window is aligned by its whole size, a sliding one by its slide.
    (
        window("cumulate", 10_000, 2_000, offset=5_000),
        [
            "FROM CUMULATE(trades, ts, INTERVAL '2' SECOND, INTERVAL '10' SECOND, "
            "INTERVAL '5' SECOND) GROUP BY window_end"
        ],
    ),
    (window("hop", 10_000, 5_000, offset=1_000), ["FROM trades WINDOW SLIDING(10s, 5s, 6s)"]),
    (window("tumble", 10, time_type=pa.int64()), ["FROM ticks WINDOW TUMBLING(at, 10)"]),
    (
        window("tumble", 7, time_type=pa.date32()),
        ["FROM days WINDOW TUMBLING(7d)", "FROM days WINDOW TUMBLING(day, INTERVAL '1 week')"],
    ),
]


@pytest.mark.parametrize(
    ("expected", "rest"), [(expected, rest) for expected, rests in SPELLINGS for rest in rests]
)
def test_spellings_of_a_window_mean_one_value(find, expected, rest):
    (aggregate,) = find(f"SELECT count(*) AS n {rest}", Aggregate)
    assert aggregate.window == expected
    assert aggregate.keys == ()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT symbol FROM trades GROUP BY symbol WINDOW TUMBLING(10s) HAVING count(*) > 1",
        "SELECT symbol FROM trades WINDOW TUMBLING(10s) GROUP BY symbol HAVING count(*) > 1",
        "SELECT symbol FROM trades GROUP BY symbol HAVING count(*) > 1 WINDOW TUMBLING(10s)",
    ],
)
def test_the_clause_may_stand_anywhere_around_group_by(plan, sql):
    expected = "SELECT symbol FROM trades GROUP BY symbol WINDOW TUMBLING(10s) HAVING count(*) > 1"
    assert plan(sql).root == plan(expected).root


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM SESSION(TABLE trades PARTITION BY symbol, DESCRIPTOR(ts), "
        "INTERVAL '5' SECOND) GROUP BY symbol, window_start, window_end",
        "SELECT count(*) FROM SESSION(trades PARTITION BY symbol, ts, INTERVAL '5' SECOND) "
        "GROUP BY symbol, window_start, window_end",
        "SELECT count(*) FROM SESSION(DATA => TABLE trades PARTITION BY symbol, TIMECOL => ts, "
        "GAP => INTERVAL '5' SECOND) GROUP BY symbol, window_start, window_end",
    ],
)
def test_the_keys_of_a_session_may_be_said_in_its_table_argument(find, sql):
    (aggregate,) = find(sql, Aggregate)
    assert (aggregate.window.kind, aggregate.keys) == ("session", ("__k0",))


def test_a_table_function_without_group_by_passes_rows_through(plan, find):
    sql = (
        "SELECT price, window_start, window_time FROM HOP(trades, ts, INTERVAL "
        "'5' SECOND, INTERVAL '10' SECOND)"
    )
    assert plan(sql).schema == pa.schema(
        [
            ("price", pa.float64()),
            pa.field("window_start", pa.timestamp("ms"), nullable=False),
            pa.field("window_time", pa.timestamp("ms"), nullable=False),
        ]
    )
    (node,) = find(sql, AssignWindows)
    assert node.window == Window("hop", "ts", pa.timestamp("ms"), 10_000, 5_000)


@pytest.mark.parametrize(
    ("columns", "having", "kept"),
    [
        ("window_start, count(*) AS n", "", ["window_start"]),
        ("window_time, window_start, count(*) AS n", "", ["window_start", "window_time"]),
        ("count(*) AS n", "", []),
        ("count(*) AS n", "HAVING window_end > '2020-01-01'", ["window_end"]),
    ],
)
def test_columns_of_windows_that_nobody_reads_are_not_made(find, columns, having, kept):
    for window in ("TUMBLING(1s)", "SESSION(1s)"):
        sql = f"SELECT {columns} FROM trades GROUP BY symbol WINDOW {window} {having}"
        (aggregate,) = find(sql, Aggregate)
        assert list(aggregate.window_columns) == kept
        assert aggregate.schema.names == [*kept, *aggregate.keys, aggregate.calls[0].name]


def test_grouping_by_less_than_the_window_aggregates_rows_with_windows(find):
    sql = (
        "SELECT symbol, max(window_end) FROM TUMBLE(trades, ts, INTERVAL '5' "
        "SECOND) GROUP BY symbol"
    )
    (aggregate,) = find(sql, Aggregate)
    assert aggregate.window is None
    assert len(find(sql, AssignWindows)) == 1


def test_a_condition_on_window_columns_is_moved_to_the_groups(plan, find):
    sql = (
        "SELECT count(*) FROM TUMBLE(trades, ts, INTERVAL '5' SECOND) "
        "WHERE window_start > '2020-01-01' AND price > 3 GROUP BY window_start"
    )
    assert plan(sql).root.where == "\"window_start\" > '2020-01-01'"
    (aggregate,) = find(sql, Aggregate)
    assert aggregate.input.where == '"price" > 3'


def test_a_column_of_the_input_is_meant_where_the_window_has_no_columns_yet(catalog, find):
    sql = (
        "SELECT window_start, max(window_start) AS latest FROM "
        "(SELECT window_start, window_time FROM trades WINDOW TUMBLING(1s)) AS inner_one "
        "WHERE window_start > '2020-01-01' WINDOW TUMBLING(window_time, INTERVAL '1' MINUTE)"
    )
    outer, _ = find(sql, Aggregate)
    assert outer.input.where == "\"window_start\" > '2020-01-01'"
    assert outer.calls[0].arguments == ("__x0",)
    assert plan_query(sql, catalog).root.projections[0].sql == '"window_start"'


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        (
            "SELECT n, sum(^window_start) FROM odd GROUP BY n WINDOW TUMBLING(at, 10)",
            "write odd.window_start for the former, or rename it in a subquery",
        ),
        (
            "SELECT count(*) FROM odd o GROUP BY ^window_start WINDOW TUMBLING(at, 10)",
            "write o.window_start for the former, or rename it in a subquery",
        ),
        (
            "SELECT ^window_start, count(*) FROM odd WINDOW TUMBLING(at, 10)",
            "write odd.window_start for the former, or rename it in a subquery",
        ),
        (
            "SELECT count(*) FROM odd WHERE ^window_start > 3 GROUP BY tumble(at, 10)",
            "write odd.window_start for the former, or rename it in a subquery",
        ),
        (
            "SELECT ^window_start, n FROM TUMBLE(odd, at, 10) AS w",
            "write w.window_start for the latter",
        ),
    ],
)
def test_a_name_of_the_window_and_of_the_stream_is_ambiguous(catalog, refusal, marked, reason):
    schema = pa.schema([("n", pa.int64()), ("at", pa.int64()), ("window_start", pa.int64())])
    catalog.streams["odd"] = StreamDefinition("odd", schema, "at", 0)
    message = refusal(marked).reason
    assert message.startswith("'window_start' is ambiguous, a column of ")
    assert message.endswith(reason)


def test_a_column_with_a_name_of_the_window_can_be_qualified_or_renamed(catalog):
    schema = pa.schema([("n", pa.int64()), ("at", pa.int64()), ("window_start", pa.int64())])
    catalog.streams["odd"] = StreamDefinition("odd", schema, "at", 0)
    for sql in (
        "SELECT o.window_start AS own, sum(o.window_start) AS s FROM odd o "
        "GROUP BY o.window_start WINDOW TUMBLING(at, 10)",
        "SELECT window_start, sum(own) AS s FROM (SELECT at, window_start AS own FROM odd) "
        "WINDOW TUMBLING(at, 10)",
        "SELECT w.window_start, count(*) FROM TUMBLE(odd, at, 10) AS w GROUP BY w.window_start",
        "SELECT window_start, n FROM odd",
    ):
        assert plan_query(sql, catalog)


def test_event_time_is_inferred_for_bounded_tables_only(catalog):
    sql = "SELECT count(*) FROM plain WINDOW TUMBLING(ts, 10s)"
    catalog.infer_event_time = True
    (stream,) = plan_query(sql, catalog).streams
    assert (stream.event_time, stream.max_out_of_orderness) == ("ts", None)


@pytest.mark.parametrize(
    ("column", "watermark"),
    [
        # Windows to come end at the watermark of the stream or later, and began a size earlier.
        ("window_end", WatermarkBound("trades", 0)),
        ("window_time", WatermarkBound("trades", 0)),
        ("window_start", WatermarkBound("trades", 10_000)),
    ],
)
def test_window_columns_serve_as_event_time_of_an_outer_query(find, column, watermark):
    sql = (
        f"SELECT max(n) FROM (SELECT {column} AS at, count(*) AS n FROM trades "
        "WINDOW TUMBLING(10s)) WINDOW TUMBLING(at, 1m)"
    )
    outer, inner = find(sql, Aggregate)
    assert outer.watermark == (watermark,)
    assert inner.watermark == (WatermarkBound("trades", 0),)


def test_delays_add_up_over_stages(find):
    sql = (
        "SELECT count(*) FROM (SELECT window_start AS a FROM (SELECT window_start AS b FROM trades "
        "WINDOW TUMBLING(10s)) WINDOW TUMBLING(b, 1m)) WINDOW TUMBLING(a, 1h)"
    )
    delays = [node.watermark[0].delay for node in find(sql, Aggregate)]
    assert delays == [70_000, 10_000, 0]


def test_an_inner_window_waits_for_late_rows_instead_of_being_revised(find):
    sql = (
        "SELECT max(n) FROM (SELECT window_end AS e, count(*) AS n FROM ticks "
        "WINDOW TUMBLING(at, 10)) WINDOW TUMBLING(e, 100)"
    )
    outer, inner = find(sql, Aggregate)
    assert (inner.watermark, inner.allowed_lateness) == ((WatermarkBound("ticks", 3),), 0)
    assert (outer.watermark, outer.allowed_lateness) == ((WatermarkBound("ticks", 3),), 0)


@pytest.mark.parametrize(
    "inner",
    [
        "WINDOW TUMBLING(10s)",
        "WINDOW SLIDING(10s, 5s)",
        "WINDOW SESSION(10s)",
        "GROUP BY cumulate(ts, INTERVAL '5' SECOND, INTERVAL '10' SECOND)",
    ],
)
@pytest.mark.parametrize("keys", ["window_end", "window_start, window_end", "window_end, n"])
def test_groups_of_an_inner_window_close_with_it(plan, find, inner, keys):
    sql = (
        f"SELECT {keys}, max(n) AS m FROM (SELECT count(*) AS n, window_start, window_end "
        f"FROM trades {inner}) GROUP BY {keys}"
    )
    outer, _ = find(sql, Aggregate)
    unit = Window("tumble", "__time", pa.timestamp("ms"), 1, 1, is_of_input=True)
    assert outer.window == unit
    assert outer.emit == "final"
    time = outer.input.projections[-1].sql
    assert time == "arrow_cast(arrow_cast(\"window_end\", 'Int64') - 1, 'Timestamp(ms)')"
    assert plan(sql).schema.names == [*keys.split(", "), "m"]


def test_groups_of_an_inner_window_serve_further_stages(find):
    sql = (
        "SELECT window_start, max(m) FROM (SELECT window_start, window_end, quantity, max(n) AS m "
        "FROM (SELECT count(*) AS n, quantity, symbol, window_start, window_end, window_time "
        "FROM trades GROUP BY symbol, quantity WINDOW TUMBLING(10s)) "
        "GROUP BY window_start, window_end, quantity) WINDOW TUMBLING(window_start, 1m)"
    )
    outer, middle, _ = find(sql, Aggregate)
    assert middle.input.projections[-1].sql == '"window_time"'
    assert outer.watermark == (WatermarkBound("trades", 10_000),)


def test_a_growing_window_is_not_closed_by_its_start(find):
    sql = (
        "SELECT window_start, count(*) FROM CUMULATE(trades, ts, INTERVAL '5' SECOND, "
        "INTERVAL '10' SECOND) GROUP BY window_start"
    )
    (aggregate,) = find(sql, Aggregate)
    assert (aggregate.window, aggregate.emit) == (None, "changes")


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(^price, 1s)",
            "'price' is not the event time of stream 'trades'; use 'ts'",
        ),
        (
            "SELECT count(*) FROM plain WINDOW TUMBLING(^ts, 1s)",
            "stream 'plain' has no event time, which a window needs; declare one with "
            "event_time='ts'",
        ),
        (
            "SELECT count(*) FROM plain ^WINDOW TUMBLING(1s)",
            "stream 'plain' has no event time, which a window needs; declare one with event_time=, "
            "or name the column in the window",
        ),
        (
            "SELECT count(*) FROM trades GROUP BY tumble(^ts + INTERVAL '1' "
            "HOUR, INTERVAL '1' HOUR)",
            "a window needs a plain column as event time; compute it in a subquery",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(ts, ^10)",
            "the size of a window over timestamp[ms] must be an interval, such as INTERVAL '10' "
            "SECOND: 10",
        ),
        (
            "SELECT count(*) FROM ticks WINDOW TUMBLING(at, ^INTERVAL '1' SECOND)",
            "the size of a window over int64 must be a plain integer: INTERVAL '1' SECOND",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(ts, ^INTERVAL '1' MONTH)",
            "the size of a window cannot be in months or years, whose lengths differ; use days: "
            "INTERVAL '1' MONTH",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(^500us)",
            "the size of a window over timestamp[ms] must be a whole number of its units: 500us",
        ),
        (
            "SELECT count(*) FROM days WINDOW TUMBLING(^36h)",
            "the size of a window over date32[day] must be a whole number of its units: 36h",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(^INTERVAL '0' SECOND)",
            "the size of a window must be positive",
        ),
        (
            "SELECT count(*) FROM trades WINDOW SESSION(^INTERVAL '-1' SECOND)",
            "the gap of a window must be positive",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(^10parsecs)",
            "a short duration is a whole number and one of ns, us, ms, s, m, h, d: 10parsecs",
        ),
        (
            "SELECT count(*) FROM trades WINDOW TUMBLING(^'10s')",
            "the size of a window must be an interval: '10s'",
        ),
        (
            "SELECT count(*) FROM trades WINDOW SLIDING(10s, ^3s)",
            "the size of a window must be a multiple of its slide: slide 3000, size 10000",
        ),
        (
            "SELECT count(*) FROM ticks WINDOW SLIDING(at, 9223372036854775807, ^1)",
            "a window can be 16777216 times as long as its slide at most: "
            "slide 1, size 9223372036854775807",
        ),
        (
            "SELECT count(*) FROM trades WINDOW SLIDING(5s, ^10s)",
            "the slide of a window must not exceed its size: slide 10000, size 5000",
        ),
        (
            "SELECT count(*) FROM trades ^WINDOW TUMBLING(ts)",
            "a window lacks its size; write TUMBLING(time column, size, [offset])",
        ),
        (
            "SELECT count(*) FROM trades WINDOW SLIDING(ts, 10s, 5s, 1s, ^7s)",
            "unexpected argument of a window; write SLIDING(time column, size, slide, [offset])",
        ),
        (
            "SELECT count(*) FROM trades GROUP BY tumble(ts, INTERVAL '1' HOUR), "
            "^hop(ts, INTERVAL '1' HOUR, INTERVAL '2' HOUR)",
            "a query can have one window on each level; put one into a subquery",
        ),
        (
            "SELECT count(*) FROM TUMBLE(trades, ts, INTERVAL '1' HOUR) GROUP BY window_end "
            "^WINDOW TUMBLING(1s)",
            "a query can have one window on each level; put one into a subquery",
        ),
        (
            "SELECT * FROM ^SESSION(trades, ts, INTERVAL '1' HOUR)",
            "a session exists only for groups; GROUP BY window_start and window_end",
        ),
        (
            "SELECT count(*) FROM SESSION(TABLE trades PARTITION BY ^symbol, DESCRIPTOR(ts), "
            "INTERVAL '1' HOUR) GROUP BY window_end, day",
            "PARTITION BY of a session must list what GROUP BY lists beside the window",
        ),
        (
            "SELECT count(*) FROM SESSION(TABLE trades PARTITION BY ^symbol, DESCRIPTOR(ts), "
            "INTERVAL '1' HOUR) GROUP BY ROLLUP (symbol), window_start, window_end EMIT FINAL",
            "PARTITION BY of a session must be in every grouping set, since rows of other keys "
            "have other sessions; compute totals in an outer query, or leave PARTITION BY out",
        ),
        (
            "SELECT ^tumble(ts, INTERVAL '1' HOUR) FROM trades",
            "tumble belongs into GROUP BY; here, use window_start or window_end",
        ),
        (
            "SELECT count(*) FROM trades WHERE ^window_start > '2020-01-01' WINDOW TUMBLING(1s)",
            "'window_start' is known only after grouping; use it in SELECT or HAVING",
        ),
        (
            "SELECT max(^window_end) FROM trades WINDOW TUMBLING(1s)",
            "window_end is the same for all rows of a group; use it without an aggregate",
        ),
        (
            "SELECT count(*) FROM TUMBLE(trades, ts, INTERVAL '1' HOUR) "
            "WHERE ^ts > window_start GROUP BY window_end",
            "a condition cannot mix window columns with others here; put the "
            "window into a subquery",
        ),
        (
            "SELECT max(n) FROM (SELECT window_start AS s, count(*) AS n FROM trades "
            "WINDOW SESSION(1s)) WINDOW TUMBLING(^s, 1m)",
            "subquery 'subquery' has no event time, which a window needs; select that of its "
            "stream, or the end of its window",
        ),
    ],
)
def test_a_window_that_cannot_work_is_refused(refusal, marked, reason):
    assert refusal(marked).reason == reason


_WAITED = "SELECT symbol, ts FROM (SELECT *, count(*) OVER (ORDER BY ts) AS n FROM trades)"
_CLOSED = "SELECT symbol, window_time AS ts FROM trades GROUP BY symbol WINDOW TUMBLING(1m)"
_RAW = "SELECT symbol, ts FROM trades"


@pytest.mark.parametrize(
    ("inputs", "is_known"),
    [
        ((_RAW, _RAW), True),
        ((_WAITED, _CLOSED), True),
        ((_RAW, _WAITED), False),
        ((_CLOSED, _RAW), False),
        ((_RAW, f"SELECT * FROM ({_RAW} UNION ALL {_CLOSED})"), False),
    ],
)
@pytest.mark.parametrize("select", ["SELECT", "SELECT DISTINCT"])
def test_sessions_need_inputs_of_which_all_or_none_have_waited(plan, inputs, is_known, select):
    union = " UNION ALL ".join(inputs)
    sql = f"SELECT count(*) FROM ({select} * FROM ({union})) GROUP BY symbol WINDOW SESSION(ts, 1m)"
    if is_known:
        plan(sql)
    else:
        with pytest.raises(SqlError, match="rows that have waited for event time come among"):
            plan(sql)
