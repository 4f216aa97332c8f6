"""OVER clauses, read: whose rows, in which order, and how far back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from millstream.planner.aggregates import CallParts, call_parts
from millstream.planner.context import PlanContext
from millstream.planner.place import unwrapped
from millstream.planner.scope import identifier_name, nearest
from millstream.planner.streaming_clauses import WindowBuffer, WindowCall

__all__ = ["Frame", "OverClause", "named_windows", "over_calls", "read_over"]


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as written. A bound is an expression, ``UNBOUNDED`` or ``CURRENT ROW``.

    Attributes:
        kind: ``rows``, ``range`` or ``groups``.
        start: Where the frame begins.
        start_side: ``preceding``, ``following`` or empty for the current row.
        end: Where it ends.
        end_side: As ``start_side``.
        place: Node that errors point at.
    """

    kind: str
    start: exp.Expr | str
    start_side: str
    end: exp.Expr | str
    end_side: str
    place: exp.Expr

    @property
    def ends_now(self) -> bool:
        """Whether the current row is the last one of the frame."""
        return self.end == "CURRENT ROW"

    def sql(self, render: Callable[[exp.Expr], str]) -> str:
        """The frame as text."""

        def bound(value: exp.Expr | str, side: str) -> str:
            text = render(value) if isinstance(value, exp.Expr) else value
            return f"{text} {side.upper()}".strip()

        first, last = bound(self.start, self.start_side), bound(self.end, self.end_side)
        return f"{self.kind.upper()} BETWEEN {first} AND {last}"


@dataclass(frozen=True, slots=True)
class OverClause:
    """An OVER clause with named windows written out.

    Attributes:
        node: The whole call, for errors.
        partition: Terms of PARTITION BY.
        order: Terms of ORDER BY.
        frame: The frame, or None where none is written.
    """

    node: exp.Expr
    partition: tuple[exp.Expr, ...]
    order: tuple[exp.Ordered, ...]
    frame: Frame | None


def over_calls(root: exp.Expr) -> Iterator[CallParts]:
    """Outermost calls with OVER under ``root``, without those of subqueries."""
    if isinstance(root, exp.Query):
        return
    parts = call_parts(root)
    if parts is not None and parts.over is not None:
        yield parts
        return
    for child in root.iter_expressions():
        yield from over_calls(child)


def named_windows(context: PlanContext, select: exp.Select) -> dict[str, exp.Window]:
    """Windows of ``WINDOW w AS (...)`` by name.

    Raises:
        SqlError: A name is given twice.
    """
    found: dict[str, exp.Window] = {}
    for window in select.args.get("windows") or ():
        if isinstance(window, WindowCall):
            continue
        name = identifier_name(window.this)
        if name in found:
            raise context.source.error(f"window {name!r} is defined twice", window)
        found[name] = window
    return found


def read_over(
    context: PlanContext, parts: CallParts, named: Mapping[str, exp.Window]
) -> OverClause:
    """Read the OVER clause of a call.

    Raises:
        SqlError: A named window is unknown or cannot be extended this way.
    """
    assert parts.over is not None
    return _read(context, parts.over, parts.node, named)


def _read(
    context: PlanContext,
    window: exp.Window,
    place: exp.Expr,
    named: Mapping[str, exp.Window],
    depth: int = 0,
) -> OverClause:
    if window.args.get("first") is not None:
        raise context.source.error("FIRST and LAST have no meaning in OVER", place)
    terms = window.args.get("partition_by") or []
    order = window.args.get("order")
    clause = OverClause(
        node=place,
        partition=tuple(unwrapped(term) for term in terms if not isinstance(term, WindowBuffer)),
        order=tuple(order.expressions) if order is not None else (),
        frame=_frame(context, window, [t for t in terms if isinstance(t, WindowBuffer)]),
    )
    alias = window.args.get("alias")
    if alias is None:
        return clause
    name = identifier_name(alias)
    if name not in named:
        raise context.source.error(f"unknown window {name!r}{nearest(name, named)}", alias)
    if depth > len(named):
        raise context.source.error(f"window {name!r} is defined by itself", alias)
    base = _read(context, named[name], place, named, depth + 1)
    return _extended(context, base, clause, name, alias)


def _extended(
    context: PlanContext, base: OverClause, clause: OverClause, name: str, place: exp.Expr
) -> OverClause:
    if clause.partition or (clause.order and base.order) or (clause.frame and base.frame):
        raise context.source.error(f"window {name!r} says this already; leave it out", place)
    return replace(base, order=clause.order or base.order, frame=clause.frame or base.frame)


def _frame(
    context: PlanContext, window: exp.Window, buffers: Sequence[WindowBuffer]
) -> Frame | None:
    spec = window.args.get("spec")
    if buffers:
        if spec is not None:
            raise context.source.error("OVER can have one frame", spec)
        return _buffer_frame(context, buffers[0])
    if spec is None:
        return None
    if spec.args.get("exclude"):
        raise context.source.error("EXCLUDE in a frame is not supported", window)
    start, start_side = _bound(spec, "start")
    end, end_side = _bound(spec, "end")
    return Frame(
        kind=str(spec.args["kind"]).lower(),
        start=start,
        start_side=start_side,
        end=end or "CURRENT ROW",
        end_side=end_side,
        place=spec if any(spec.find_all(exp.Literal)) else window,
    )


def _bound(spec: exp.Expr, key: str) -> tuple[exp.Expr | str, str]:
    value = spec.args.get(key)
    if isinstance(value, exp.Expr):
        return value, str(spec.args.get(f"{key}_side") or "").lower()
    text = str(value or "").upper()
    return text, "" if text != "UNBOUNDED" else str(spec.args.get(f"{key}_side") or "").lower()


def _buffer_frame(context: PlanContext, buffer: WindowBuffer) -> Frame:
    """``ROWS WINDOW BUFFER n ROWS`` counts the current row; a frame counts the rows before it."""
    text = str(buffer.this.name)
    if not text.isdigit() or int(text) < 1:
        raise context.source.error(f"a window buffer must hold at least 1 row: {text}", buffer)
    return Frame(
        kind="rows",
        start=exp.Literal.number(int(text) - 1),
        start_side="preceding",
        end="CURRENT ROW",
        end_side="",
        place=buffer,
    )
