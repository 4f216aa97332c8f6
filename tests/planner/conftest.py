"""A catalog to plan over, and plans by their text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest

from millstream.errors import SqlError
from millstream.planner import plan_query
from millstream.planner.catalog import Catalog, QueryPlan, StreamDefinition
from millstream.planner.nodes import Node

TRADES = pa.schema(
    [
        ("symbol", pa.string()),
        ("price", pa.float64()),
        ("quantity", pa.int32()),
        ("ts", pa.timestamp("ms")),
        ("Flag", pa.bool_()),
        ("day", pa.date32()),
        ("details", pa.struct([("venue", pa.string())])),
        ("tags", pa.list_(pa.int64())),
        ("amount", pa.decimal128(10, 2)),
        ("small", pa.uint8()),
        ("data", pa.binary()),
    ]
)
TICKS = pa.schema([("k", pa.string()), ("n", pa.int64()), ("at", pa.int64())])
SYMBOLS = pa.schema([("symbol", pa.string()), ("name", pa.string())])


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(
        streams={
            "trades": StreamDefinition("trades", TRADES, "ts", 5_000),
            "ticks": StreamDefinition("ticks", TICKS, "at", 0, allowed_lateness=3),
            "days": StreamDefinition("days", TRADES, "day", 0),
            "plain": StreamDefinition("plain", TRADES),
        },
        tables={"symbols": SYMBOLS},
    )


@pytest.fixture
def plan(catalog: Catalog) -> Callable[[str], QueryPlan]:
    return lambda sql: plan_query(sql, catalog)


@pytest.fixture
def find(plan: Callable[[str], QueryPlan]) -> Callable[..., list[Node]]:
    """Nodes of a type in the plan of a query, from the sink down."""

    def below(node: Node) -> Iterator[Node]:
        yield node
        for child in node.inputs:
            yield from below(child)

    def nodes_of(sql: str, kind: type) -> list[Node]:
        return [node for node in below(plan(sql).root) if isinstance(node, kind)]

    return nodes_of


@pytest.fixture
def refusal(catalog: Catalog) -> Callable[[str], SqlError]:
    """The error of a query. The place is marked in the text by a caret, which is taken out."""

    def refuse(marked: str) -> SqlError:
        sql = marked.replace("^", "", 1)
        with pytest.raises(SqlError) as caught:
            plan_query(sql, catalog)
        if sql != marked:
            before = marked[: marked.index("^")]
            place = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
            assert (caught.value.line, caught.value.column) == place, str(caught.value)
        return caught.value

    return refuse
