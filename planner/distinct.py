"""SELECT DISTINCT: each row once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from millstream.planner.closing import TIME_COLUMN, allowed_lateness, unit_window
from millstream.planner.context import Piece, PlanContext
from millstream.planner.event_time import before, delayed
from millstream.planner.grouping import check_key_type
from millstream.planner.nodes import Aggregate, quoted
from millstream.planner.row_order import row_order
from millstream.planner.scope import Relation
from millstream.planner.select_list import SelectItem

__all__ = ["distinct_rows"]


def distinct_rows(
    context: PlanContext, clause: exp.Expr, relation: Relation, items: Sequence[SelectItem]
) -> Relation:
    """Let each row of a select list come out once, as soon as it comes in.

    Rows that have the end of a window are forgotten, and later ones are late, when it closes.

    Raises:
        SqlError: The rows are revised, or of types that cannot be told apart.
    """
    if clause.args.get("on"):
        raise context.source.error(
            "DISTINCT ON is not supported; use QUALIFY row_number() OVER (...) = 1", clause
        )
    if relation.changes:
        raise context.source.error(
            "DISTINCT cannot follow results that are still revised; use EMIT FINAL", items[0].node
        )
    node = relation.node
    for item in items:
        check_key_type(context, item.node, node.schema.field(item.name).type)
    windowed = _in_windows(context, relation)
    if windowed is not None:
        return windowed
    aggregate = Aggregate(
        input=node,
        keys=tuple(node.schema.names),
        window=None,
        calls=(),
        emit="append",
        schema=node.schema,
        watermark=node.watermark,
        ties="arrival" if row_order(node) == "mixed" else "none",
    )
    return replace(relation, node=aggregate)


def _in_windows(context: PlanContext, relation: Relation) -> Relation | None:
    """Distinct rows of windows that close; None if the rows do not tell when theirs does."""
    node, roles = relation.node, relation.window_columns
    role = next((r for r in ("window_time", "window_end") if r in roles), None)
    bounds = None if role is None else relation.event_times.get(roles[role])
    if role is None or bounds is None:
        return None
    column = relation.columns[roles[role]]
    time_type = node.schema.field(column).type
    moment = quoted(column)
    if role == "window_end":
        moment = before(context, moment, time_type)
    keys = {name: f"__k{place}" for place, name in enumerate(node.schema.names)}
    columns = [(key, Piece(None, quoted(name))) for name, key in keys.items()]
    below = context.transform(node, [*columns, (TIME_COLUMN, Piece(None, moment))])
    lateness = 0 if relation.settled else allowed_lateness(context, bounds)
    aggregate = Aggregate(
        input=below,
        keys=tuple(keys.values()),
        window=unit_window(time_type),
        calls=(),
        emit="append",
        schema=below.schema.remove(below.schema.get_field_index(TIME_COLUMN)),
        watermark=bounds,
        allowed_lateness=lateness,
        ties="arrival" if row_order(below) == "mixed" else "none",
    )
    named = [(name, Piece(None, quoted(key))) for name, key in keys.items()]
    shown = frozenset(roles.values())
    times = {
        name: delayed(of_time, lateness)
        for name, of_time in relation.event_times.items()
        if name in shown
    }
    return replace(
        relation, node=context.transform(aggregate, named), event_times=times, settled=True
    )
