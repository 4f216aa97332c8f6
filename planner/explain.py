"""A plan as text: one line per node, inputs indented below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from millstream.planner.catalog import QueryPlan
from millstream.planner.nodes import (
    Aggregate,
    AggregateCall,
    AssignWindows,
    Changelog,
    Exchange,
    Node,
    Over,
    OverCall,
    Source,
    Transform,
    Union,
    WatermarkBound,
    Window,
    WindowSelect,
    quoted,
)

__all__ = ["explain"]


def explain(plan: Node | QueryPlan) -> str:
    """Describe a plan as a readable tree, from the sink down to the streams."""
    root = plan.root if isinstance(plan, QueryPlan) else plan
    lines: list[str] = []
    _describe(root, "", "", lines)
    return "\n".join(lines)


def _describe(node: Node, lead: str, below: str, lines: list[str]) -> None:
    title, *details = _TEXTS[type(node)](node)
    lines.append(lead + title)
    inputs = node.inputs
    lines.extend(f"{below}{'│' if inputs else ' '}  {detail}" for detail in details)
    for index, child in enumerate(inputs):
        last = index == len(inputs) - 1
        branch, rest = ("└─ ", "   ") if last else ("├─ ", "│  ")
        _describe(child, below + branch, below + rest, lines)


def _source(node: Source) -> list[str]:
    return [f"Source {node.stream} [{', '.join(node.schema.names)}]"]


def _transform(node: Transform) -> list[str]:
    listed = ", ".join(_projection(p.sql, p.name) for p in node.projections)
    title = f"Transform to {', '.join(p.name for p in node.projections)}"
    if node.picks is not None:
        return [title, f"picks {listed}, without DataFusion"]
    where = f" WHERE {node.where}" if node.where is not None else ""
    return [title, f"sql SELECT {listed} FROM {node.from_sql}{where}"]


def _projection(sql: str, name: str) -> str:
    return sql if sql == quoted(name) else f"{sql} AS {quoted(name)}"


def _assign_windows(node: AssignWindows) -> list[str]:
    return [f"AssignWindows {_window(node.window)}"]


def _aggregate(node: Aggregate) -> list[str]:
    phase = "" if node.phase == "single" else f" ({node.phase})"
    by = ", ".join(node.keys) if node.keys else "all rows"
    lines = [f"Aggregate{phase} by {by}, emit {node.emit}"]
    if node.window is not None:
        lateness = f", revised for {node.allowed_lateness}" if node.allowed_lateness else ""
        lines.append(
            f"window {_window(node.window)}, closed by {_watermark(node.watermark)}{lateness}"
        )
    if node.phase != "partial":
        lines.append(_needs(node.keys, node.input))
    lines.append(f"state {_aggregate_state(node)}")
    lines.extend(_call(call) for call in node.calls)
    return lines


def _aggregate_state(node: Aggregate) -> str:
    """The columns that are kept per group, and the rows where some call needs them."""
    columns = [] if node.window is None else ["window int64"]
    if node.window is not None and node.window.kind == "session":
        columns = ["first int64", "last int64"]
    below: Node = node
    while isinstance(below, Aggregate | Exchange):
        below = below.input
    columns += [f"{key} {below.schema.field(key).type}" for key in node.keys]
    columns += [f"{call.name} {call.function}" for call in node.calls if call.path == "kernel"]
    kept = {name: None for call in node.calls if call.path == "buffered" for name in call.arguments}
    rows = [f"rows of {', '.join(kept) or 'each group'}"] * any(
        call.path == "buffered" for call in node.calls
    )
    return ", ".join(columns + rows) or "one group"


def _needs(keys: Sequence[str], node: Node) -> str:
    """The distribution that an operator requires, and what gives it."""
    wanted = f"rows that agree in {', '.join(keys)}" if keys else "all rows"
    below = node
    while not isinstance(below, Exchange) and len(below.inputs) == 1:
        (below,) = below.inputs
    if isinstance(below, Exchange):
        given = f"an exchange, {below.kind}" + (
            f" by {', '.join(below.keys)}" if below.keys else ""
        )
    else:
        given = "the source, or one partition"
    return f"needs {wanted} in one partition: given by {given}"


def _call(call: AggregateCall) -> str:
    path = "kernel" if call.path == "kernel" else f"buffered: {call.reason}"
    return f"{call.name} = {call.sql}: {call.result_type} ({path})"


def _over_call(call: OverCall) -> str:
    preceding = "unbounded" if call.preceding is None else str(call.preceding)
    path = "kernel" if call.path == "kernel" else f"{call.path}: {call.reason}"
    frame = f"{call.frame_kind} {preceding} preceding"
    return f"{call.name} = {call.sql} over {frame}: {call.result_type} ({path})"


def _changelog(node: Changelog) -> list[str]:
    kind = "retract" if node.retract else "upsert"
    return [f"Changelog {kind} by {', '.join(node.key_columns) or 'the group'}"]


def _over(node: Over) -> list[str]:
    by = ", ".join(node.keys) if node.keys else "all rows"
    order = f"order by {node.order_column}" if node.order_column else "in order of arrival"
    kept = {
        call.name: "totals" if call.preceding is None and call.path != "buffered" else "rows"
        for call in node.calls
    }
    state = ", ".join(f"{what} for {name}" for name, what in kept.items())
    return [
        f"Over by {by} {order}",
        _needs(node.keys, node.input),
        f"state per key: {state}",
        *map(_over_call, node.calls),
    ]


def _window_select(node: WindowSelect) -> list[str]:
    by = f" by {', '.join(node.keys)}" if node.keys else ""
    return [
        f"WindowSelect at {node.window_end_column}{by}",
        _needs(node.keys, node.input),
        "state: the rows of open windows",
        *_first_rows(node),
        f"sql {node.sql}",
    ]


def _first_rows(node: WindowSelect) -> list[str]:
    if node.order is None or node.first_rows is None or node.keys:
        return []
    direction = "greatest" if node.order.descending else "least"
    return [f"only rows with the {node.first_rows} {direction} values of {node.order.column} count"]


def _union(node: Union) -> list[str]:
    return [f"Union of {len(node.branches)}"]


def _exchange(node: Exchange) -> list[str]:
    return [f"Exchange {node.kind}" + (f" by {', '.join(node.keys)}" if node.keys else "")]


def _window(window: Window) -> str:
    step = f", step {window.step}" if window.step != window.size else ""
    offset = f", offset {window.offset}" if window.offset else ""
    word = "gap" if window.kind == "session" else "size"
    return f"{window.kind} on {window.time_column}, {word} {window.size}{step}{offset}"


def _watermark(bounds: Sequence[WatermarkBound]) -> str:
    return ", ".join(
        f"{bound.stream} - {bound.delay}" if bound.delay else bound.stream for bound in bounds
    )


_TEXTS: dict[type, Callable[..., list[str]]] = {
    Source: _source,
    Transform: _transform,
    AssignWindows: _assign_windows,
    Aggregate: _aggregate,
    Changelog: _changelog,
    Over: _over,
    WindowSelect: _window_select,
    Union: _union,
    Exchange: _exchange,
}
