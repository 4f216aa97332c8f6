"""Exchanges: where rows have to go, and where they need not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from millstream.errors import InternalError
from millstream.planner import distribute, explain
from millstream.planner.nodes import Aggregate, Exchange, Node


def nodes(root: Node) -> Iterator[Node]:
    yield root
    for child in root.inputs:
        yield from nodes(child)


def exchanges(plan, sql, n_partitions=4):
    found = nodes(distribute(plan(sql).root, n_partitions))
    return [(node.kind, node.keys) for node in found if isinstance(node, Exchange)]


def phases(plan, sql, n_partitions=4):
    found = nodes(distribute(plan(sql).root, n_partitions))
    return [node.phase for node in found if isinstance(node, Aggregate)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT symbol FROM trades WHERE price > 1", []),
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol", [("hash", ("__k0",))]),
        ("SELECT count(*) FROM trades", [("single", ())]),
        ("SELECT median(price) FROM trades GROUP BY symbol", [("hash", ("__k0",))]),
        ("SELECT count(*) FROM trades GROUP BY symbol WINDOW SESSION(1s)", [("hash", ("__k0",))]),
        ("SELECT DISTINCT symbol, price FROM trades", [("hash", ("symbol", "price"))]),
        (
            "SELECT lag(price) OVER (PARTITION BY symbol ORDER BY ts) FROM trades",
            [("hash", ("symbol",))],
        ),
        ("SELECT lag(price) OVER (ORDER BY ts) FROM trades", [("single", ())]),
        (
            "SELECT symbol, count(*) AS n FROM trades GROUP BY symbol WINDOW TUMBLING(1s) "
            "ORDER BY n LIMIT 3",
            [("single", ()), ("hash", ("__k0",))],
        ),
    ],
)
def test_rows_go_where_their_keys_are(plan, sql, expected):
    assert exchanges(plan, sql) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT symbol, max(n) FROM (SELECT symbol, day, count(*) AS n, "
        "window_end AS e FROM trades "
        "GROUP BY symbol, day WINDOW TUMBLING(1s)) GROUP BY symbol WINDOW TUMBLING(e, 1m)",
        "SELECT count(*) FROM (SELECT symbol, count(*) AS n, window_end AS e FROM trades "
        "GROUP BY symbol WINDOW TUMBLING(1s)) GROUP BY upper(symbol) WINDOW TUMBLING(e, 1m)",
    ],
)
def test_rows_are_exchanged_again_where_fewer_keys_are_asked_for(plan, sql):
    assert len(exchanges(plan, sql)) == 2


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT s, n, max(m) FROM (SELECT symbol AS s, quantity AS n, max(price) AS m, "
        "window_end AS e FROM trades GROUP BY symbol, quantity WINDOW TUMBLING(1s)) "
        "GROUP BY n, s WINDOW TUMBLING(e, 1m)",
        "SELECT symbol, day, max(l) FROM (SELECT symbol, day, ts, lag(price) OVER "
        "(PARTITION BY symbol ORDER BY ts) AS l FROM trades) GROUP BY symbol, day "
        "WINDOW TUMBLING(1m)",
        "SELECT symbol, row_number() OVER (PARTITION BY window_end, symbol ORDER BY n) AS r FROM "
        "(SELECT symbol, window_end, count(*) AS n FROM trades GROUP BY symbol "
        "WINDOW TUMBLING(1s))",
    ],
)
def test_rows_stay_where_keys_that_are_asked_for_include_those_that_placed_them(plan, sql):
    assert len(exchanges(plan, sql)) == 1


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "SELECT lag(price) OVER (PARTITION BY symbol, day ORDER BY ts) AS a, "
            "lag(price) OVER (PARTITION BY day, quantity ORDER BY ts) AS b FROM trades",
            [("hash", ("day", "quantity")), ("hash", ("symbol", "day"))],
        ),
        (
            "SELECT lag(price) OVER (PARTITION BY symbol ORDER BY ts) AS a, "
            "lag(price) OVER (ORDER BY ts) AS b FROM trades",
            [("single", ()), ("hash", ("symbol",))],
        ),
        (
            "SELECT d, first_value(p), max(l) FROM (SELECT day AS d, price AS p, lag(price) OVER "
            "(PARTITION BY day, symbol ORDER BY ts) AS l FROM trades) GROUP BY d",
            [("hash", ("day",))],
        ),
        (
            "SELECT day, max(l) FROM (SELECT day, lag(price) OVER "
            "(PARTITION BY symbol ORDER BY ts) AS l FROM trades) GROUP BY day",
            [("hash", ("__k0",)), ("hash", ("symbol",))],
        ),
    ],
)
def test_rows_in_order_are_not_exchanged_again_where_nothing_orders_them_anew(plan, sql, expected):
    assert exchanges(plan, sql) == expected


def test_rows_of_one_partition_need_no_exchange(plan):
    sql = (
        "SELECT max(n) FROM (SELECT count(*) AS n, window_end AS e FROM trades "
        "WINDOW TUMBLING(1s)) WINDOW TUMBLING(e, 1m)"
    )
    assert exchanges(plan, sql) == [("single", ())]
    assert exchanges(plan, sql, n_partitions=1) == []


def test_kernel_aggregates_are_added_up_before_they_are_exchanged(plan):
    sql = "SELECT symbol, {} FROM trades GROUP BY symbol"
    assert phases(plan, sql.format("sum(price)")) == ["final", "partial"]
    assert phases(plan, sql.format("median(price)")) == ["single"]
    assert phases(plan, sql.format("sum(price)"), n_partitions=1) == ["single"]
    assert phases(plan, "SELECT DISTINCT symbol FROM trades") == ["single"]
    assert phases(plan, "SELECT count(*) FROM trades WINDOW SESSION(1s)") == ["single"]


@pytest.mark.parametrize("n_partitions", [1, 4])
def test_overlapping_windows_are_always_added_up_from_parts(plan, n_partitions):
    sql = "SELECT count(*) FROM trades WINDOW SLIDING(10s, 5s)"
    assert phases(plan, sql, n_partitions) == ["final", "partial"]
    sql = (
        "SELECT count(*) FROM CUMULATE(trades, ts, INTERVAL '1' SECOND, INTERVAL '5' SECOND) "
        "GROUP BY window_end"
    )
    assert phases(plan, sql, n_partitions) == ["final", "partial"]
    assert len(exchanges(plan, sql, n_partitions)) == n_partitions // 4


def test_a_plan_is_distributed_once(plan):
    root = distribute(plan("SELECT count(*) FROM trades").root, 2)
    with pytest.raises(InternalError):
        distribute(root, 2)


def test_a_plan_can_be_read(plan):
    sql = (
        "SELECT symbol, count(*) AS n, median(price) AS m FROM trades WHERE price > 1 "
        "GROUP BY symbol WINDOW SLIDING(10s, 5s) HAVING count(*) > 2"
    )
    assert explain(distribute(plan(sql).root, 2)).splitlines() == [
        "Transform to symbol, n, m",
        '│  sql SELECT "__k0" AS "symbol", "__a0" AS "n", "__a1" AS "m" FROM "input" '
        'WHERE "__a0" > 2',
        "└─ Aggregate by __k0, emit final",
        "   │  window hop on __time, size 10000, step 5000, closed by trades",
        "   │  needs rows that agree in __k0 in one partition: given by an exchange, hash by __k0",
        "   │  state window int64, __k0 string, __a0 count, rows of __x0",
        "   │  __a0 = count(*): int64 (kernel)",
        '   │  __a1 = median("__x0"): double (buffered: median has no kernel)',
        "   └─ Exchange hash by __k0",
        "      └─ Transform to __k0, __x0, __time",
        '         │  sql SELECT "symbol" AS "__k0", "price" AS "__x0", "ts" AS "__time" '
        'FROM "input" WHERE "price" > 1',
        "         └─ Source trades [symbol, price, ts]",
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT symbol, count(*) FROM trades GROUP BY symbol",
        "SELECT lag(price) OVER (ORDER BY ts) FROM trades",
        "SELECT * FROM TUMBLE(trades, ts, INTERVAL '1' SECOND)",
        "SELECT k FROM ticks UNION ALL SELECT k FROM ticks",
        "SELECT price, name FROM trades CROSS JOIN symbols",
        "SELECT count(*) AS n FROM trades WINDOW TUMBLING(1s) ORDER BY n LIMIT 3",
    ],
)
def test_every_node_has_a_line(plan, sql):
    root = distribute(plan(sql).root, 2)
    text = explain(root)
    assert explain(plan(sql)) == explain(plan(sql).root)
    for node in nodes(root):
        assert type(node).__name__ in text
