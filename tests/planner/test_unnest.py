"""Where unnest can stand, and where its several rows of one would have no meaning."""

from __future__ import annotations

import pytest

from millstream.planner.nodes import Aggregate, WatermarkBound


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT symbol, ^unnest(array_agg(price)) AS p FROM trades GROUP BY symbol",
        "SELECT symbol, 1 + ^unnest(array_agg(price)) AS p FROM trades GROUP BY symbol",
        "SELECT symbol, ^unnest([1, 2]) AS p FROM trades GROUP BY symbol",
        "SELECT ^unnest(a) AS p FROM (SELECT array_agg(price) AS a FROM trades GROUP BY symbol)",
        "SELECT ^unnest(array_agg(price)) AS p FROM trades WINDOW TUMBLING(ts, 10s) EMIT CHANGES",
    ],
)
def test_it_is_refused_where_results_are_still_revised(refusal, sql):
    assert "unnest cannot follow results that are still revised" in str(refusal(sql))
    assert "use EMIT FINAL" in str(refusal(sql))


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("SELECT sum(^unnest(tags)) FROM trades", "the aggregate sum"),
        ("SELECT max(1 + ^unnest(tags)) FROM trades", "the aggregate max"),
        ("SELECT count(*) FILTER (WHERE ^unnest(tags) > 1) FROM trades", "the aggregate count"),
        ("SELECT array_agg(price ORDER BY ^unnest(tags)) FROM trades", "the aggregate array_agg"),
        ("SELECT price FROM trades WHERE price > 1 AND ^unnest(tags) > 1", "WHERE"),
        ("SELECT symbol FROM trades GROUP BY symbol HAVING ^unnest(array_agg(price)) > 1", "HAV"),
        ("SELECT ^unnest(array_agg(price)) AS p FROM trades HAVING p > 1", "HAVING"),
        ("SELECT ^unnest(tags) AS t FROM trades QUALIFY row_number() OVER () < t", "QUALIFY"),
        ("SELECT sum(^unnest(tags)) OVER (ORDER BY ts) FROM trades", "a window function"),
        ("SELECT row_number() OVER (PARTITION BY ^unnest(tags)) FROM trades", "a window function"),
        ("SELECT row_number() OVER (ORDER BY ^unnest(tags)) FROM trades", "a window function"),
        ("SELECT count(*) FROM trades GROUP BY ROLLUP (^unnest(tags)) EMIT FINAL", "grouping sets"),
        ("SELECT price FROM trades t JOIN symbols s ON s.name = ^unnest(['a'])", "of a join"),
        (
            "SELECT price FROM TUMBLE(trades, ts, INTERVAL '1' SECOND) ORDER BY ^unnest(tags)",
            "ORDER BY",
        ),
    ],
)
def test_it_is_refused_where_one_value_is_wanted(refusal, sql, place):
    message = str(refusal(sql))
    assert "unnest cannot be used in" in message
    assert place in message


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT symbol, unnest(tags) AS tag FROM trades",
        "SELECT symbol, unnest(array_agg(price)) AS p FROM trades GROUP BY symbol EMIT FINAL",
        "SELECT unnest(array_agg(price)) AS p FROM trades WINDOW TUMBLING(ts, 10s)",
        "SELECT window_end, unnest(array_agg(price)) AS p FROM trades WINDOW TUMBLING(ts, 10s) "
        "ORDER BY p LIMIT 3",
        "SELECT unnest(tags) AS tag, count(*) FROM trades GROUP BY tag HAVING tag > 1",
        "SELECT sum(tag) FROM (SELECT unnest(tags) AS tag FROM trades)",
        "SELECT price FROM trades WHERE price IN (SELECT * FROM unnest([1, 2]))",
        "SELECT symbol, count(*) FROM trades GROUP BY symbol HAVING EXISTS (SELECT unnest([1]))",
    ],
)
def test_it_makes_rows_of_rows_elsewhere(plan, sql):
    assert plan(sql)


def test_windows_whose_results_it_takes_apart_wait_for_late_rows(plan, find):
    sql = "SELECT unnest(array_agg(n)) AS v FROM ticks WINDOW TUMBLING(at, 10)"
    (aggregate,) = find(sql, Aggregate)
    assert aggregate.allowed_lateness == 0
    assert aggregate.watermark == (WatermarkBound("ticks", 3),)
    assert plan(sql).key_columns == ()
