"""From the text of a query to its plan."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from sqlglot import exp

from millstream.errors import InternalError
from millstream.planner.catalog import Catalog, QueryPlan
from millstream.planner.context import PlanContext
from millstream.planner.dialect import parse_statement, partitioning_hint
from millstream.planner.first_rows import limit_windows
from millstream.planner.nodes import OP_COLUMN, Changelog, Emit, Node
from millstream.planner.prune import prune
from millstream.planner.queries import lower_query
from millstream.planner.row_order import without_needless_order
from millstream.planner.scope import Relation
from millstream.planner.typing import Typer

__all__ = ["plan_query"]


def plan_query(
    sql: str, catalog: Catalog, *, changelog: Literal["upsert", "retract"] = "upsert"
) -> QueryPlan:
    """Plan a query: parse, resolve names, type, and lower it to a tree of nodes.

    Args:
        sql: Text of the query.
        catalog: Streams, tables and functions that it can name.
        changelog: Whether revised results carry only the new version of a row, or the old one as
            well.

    Raises:
        SqlError: The query is not valid or asks for what is not supported.
    """
    tree, source = parse_statement(sql)
    context = PlanContext(catalog, Typer(catalog), source, lower_query, emit=_take_emit(tree))
    relation = lower_query(context, tree)
    pruned = prune(_finish(relation, retract=changelog == "retract"))
    root = limit_windows(without_needless_order(pruned))
    return QueryPlan(
        sql=sql,
        root=root,
        schema=root.schema,
        key_columns=relation.key_columns if relation.changes else (),
        streams=tuple(context.streams[name] for name in sorted(context.streams)),
        strategy=partitioning_hint(source),
    )


def _take_emit(tree: exp.Expr) -> Emit | None:
    """Take the EMIT clause off the query; the parser leaves it at the last SELECT of a union."""
    last = tree
    while isinstance(last, exp.SetOperation) and last.args.get("emit") is None:
        last = last.expression
    emit = last.args.get("emit")
    last.set("emit", None)
    if emit is None:
        return None
    return "final" if emit.this == "FINAL" else "changes"


def _finish(relation: Relation, *, retract: bool) -> Node:
    node = relation.node
    if list(relation.columns.values()) != node.schema.names:
        raise InternalError("the root of a plan does not give its columns in order")
    if not relation.changes:
        return node
    schema = node.schema.append(pa.field(OP_COLUMN, pa.string(), nullable=False))
    return Changelog(
        input=node,
        key_columns=relation.key_columns,
        schema=schema,
        watermark=node.watermark,
        retract=retract,
    )
