"""How many rows of a window can reach the result."""

import pytest

from millstream.planner.explain import explain
from millstream.planner.nodes import PlaceOrder, WindowSelect

INNER = (
    "SELECT *, {call} OVER (PARTITION BY window_start, window_end ORDER BY {order}) AS place"
    " FROM TABLE(TUMBLE(trades, ts, INTERVAL '10' SECOND))"
)


def select_of(plan, where, *, call="rank()", order="price DESC"):
    inner = INNER.format(call=call, order=order)
    node = plan(f"SELECT symbol, price, place FROM ({inner}) AS q WHERE {where}").root
    while not isinstance(node, WindowSelect):
        node = node.input
    return node


@pytest.mark.parametrize(
    ("where", "first_rows"),
    [
        ("place <= 3", 3),
        ("place < 3", 2),
        ("place = 2", 2),
        ("place <= 3 AND price > 7", 3),
        ("price > 7 AND (place <= 3 AND place < 3)", 2),
        ("place <= 3 OR price > 7", None),
        ("NOT place <= 3", None),
        ("place >= 3", None),
        ("place <= price", None),
        ("place <= 0", None),
        ("price <= 3", None),
    ],
)
def test_filters_that_set_a_limit(plan, where, first_rows):
    assert select_of(plan, where).first_rows == first_rows


def test_what_places_come_by(plan):
    order = select_of(plan, "place <= 3").order
    assert order is not None
    assert (order.column, order.descending) == ("price", True)
    order = select_of(plan, "place <= 3", call="row_number()", order="quantity, price").order
    assert order is not None
    assert (order.column, order.descending) == ("quantity", False)


@pytest.mark.parametrize(
    "options",
    [
        {"call": "dense_rank()"},
        {"order": "price * 2"},
        {"order": "symbol"},
    ],
)
def test_places_of_which_nothing_is_known(plan, options):
    select = select_of(plan, "place <= 3", **options)
    assert (select.order, select.first_rows) == (None, None)


def test_the_first_rows_of_an_ordered_window(plan):
    node = plan(
        "SELECT window_end, symbol, count(*) AS n FROM trades GROUP BY symbol"
        " WINDOW TUMBLING(10s) ORDER BY n DESC LIMIT 3"
    ).root
    while not isinstance(node, WindowSelect):
        node = node.input
    assert node.first_rows == 3
    assert node.order == PlaceOrder(None, "__s0", True)


def test_columns_that_nobody_reads_are_not_kept(plan):
    assert select_of(plan, "place <= 3").input.schema.names == [
        "symbol",
        "price",
        "window_start",
        "window_end",
    ]


def test_a_plan_says_which_rows_count(plan):
    inner = INNER.format(call="rank()", order="price DESC")
    planned = plan(f"SELECT symbol FROM ({inner}) AS q WHERE place <= 3")
    assert "only rows with the 3 greatest values of price count" in explain(planned)
