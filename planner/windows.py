"""Windows of event time: three spellings read into one value, in units of the time column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import exp

from millstream.errors import SqlError
from millstream.planner.context import PlanContext
from millstream.planner.nodes import Window, WindowKind
from millstream.planner.place import span_of, unwrapped
from millstream.planner.streaming_clauses import Duration, WindowArgument, WindowCall
from millstream.planner.typing import TypingError

__all__ = [
    "WindowSyntax",
    "check_time_type",
    "interval_units",
    "is_group_window",
    "is_time_type",
    "make_window",
    "not_event_time",
    "read_group_window",
    "read_window_call",
]

# What each spelling takes, in order. Roles in brackets may be left out.
_TABLE_PARAMETERS: Mapping[str, tuple[WindowKind, tuple[str, ...]]] = {
    "TUMBLE": ("tumble", ("data", "time", "size", "[offset]")),
    "HOP": ("hop", ("data", "time", "step", "size", "[offset]")),
    "CUMULATE": ("cumulate", ("data", "time", "step", "size", "[offset]")),
    "SESSION": ("session", ("data", "time", "size")),
}
_CLAUSE_PARAMETERS: Mapping[str, tuple[WindowKind, tuple[str, ...]]] = {
    "TUMBLING": ("tumble", ("time", "size", "[offset]")),
    "SLIDING": ("hop", ("time", "size", "step", "[offset]")),
    "SESSION": ("session", ("time", "size")),
}
_GROUP_PARAMETERS: Mapping[str, tuple[WindowKind, tuple[str, ...]]] = {
    name: (kind, roles[1:]) for name, (kind, roles) in _TABLE_PARAMETERS.items()
}
_GROUP_WINDOWS = frozenset(name.lower() for name in _GROUP_PARAMETERS)

_ROLE_BY_NAME = {
    "DATA": "data",
    "TIMECOL": "time",
    "SIZE": "size",
    "GAP": "size",
    "SLIDE": "step",
    "STEP": "step",
    "ADVANCE": "step",
    "OFFSET": "offset",
}
_SIZE_WORD: Mapping[WindowKind, str] = {
    "tumble": "size",
    "hop": "size",
    "cumulate": "size",
    "session": "gap",
}
_STEP_WORD = {"hop": "slide", "cumulate": "step"}

# Arrays are made of this length for what lies in a window.
_PANES_MAX = 1 << 24

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}


@dataclass(frozen=True, slots=True)
class WindowSyntax:
    """A window as it was written, before names and sizes mean anything.

    Attributes:
        kind: Shape of the window.
        place: Node that errors point at.
        time: Expression of the time column, or None for the event time of the stream.
        size: Length, or gap of a session.
        step: Slide or step, or None for shapes without one.
        offset: Shift of the alignment, or None.
        data: What a table function reads.
        partition_by: PARTITION BY of a session's table argument.
    """

    kind: WindowKind
    place: exp.Expr
    time: exp.Expr | None
    size: exp.Expr
    step: exp.Expr | None
    offset: exp.Expr | None
    data: exp.Expr | None
    partition_by: tuple[exp.Expr, ...]


def is_group_window(node: exp.Expr) -> bool:
    """Whether an expression is a window such as ``tumble(ts, INTERVAL '1' MINUTE)``."""
    return isinstance(node, exp.Anonymous) and str(node.name).lower() in _GROUP_WINDOWS


def read_window_call(context: PlanContext, call: WindowCall, *, clause: bool) -> WindowSyntax:
    """Read ``WINDOW TUMBLING(...)`` or ``TUMBLE(TABLE t, ...)``.

    Raises:
        SqlError: An argument is missing, unknown or given twice.
    """
    parameters = _CLAUSE_PARAMETERS if clause else _TABLE_PARAMETERS
    arguments = [
        (argument.args.get("name"), argument.this, argument)
        for argument in call.expressions
        if isinstance(argument, WindowArgument)
    ]
    kind, roles = parameters[call.this]
    if (
        clause
        and arguments
        and arguments[0][0] is None
        and not isinstance(arguments[0][1], exp.Column)
    ):
        return _assign(context, call, kind, roles[1:], arguments)
    return _assign(context, call, kind, roles, _without_swallowed(arguments, len(roles)))


def read_group_window(context: PlanContext, call: exp.Anonymous) -> WindowSyntax:
    """Read ``tumble(ts, INTERVAL '1' MINUTE)`` and the like from GROUP BY.

    Raises:
        SqlError: An argument is missing, unknown or given twice.
    """
    kind, roles = _GROUP_PARAMETERS[str(call.name).upper()]
    arguments: list[_Argument] = [
        (str(argument.this.name).upper(), argument.expression, argument)
        if isinstance(argument, exp.Kwarg)
        else (None, argument, argument)
        for argument in call.expressions
    ]
    return _assign(context, call, kind, roles, arguments)


def make_window(
    context: PlanContext, syntax: WindowSyntax, time_column: str, time_type: pa.DataType
) -> Window:
    """Turn sizes into units of the time column and check them.

    Raises:
        SqlError: A size does not suit the type of the time column or the shape of the window.
    """
    word = _SIZE_WORD[syntax.kind]
    size = _units(context, syntax.size, time_type, word)
    _check_positive(context, syntax.size, size, word)
    step = size
    if syntax.step is not None:
        step_word = _STEP_WORD[syntax.kind]
        step = _units(context, syntax.step, time_type, step_word)
        _check_positive(context, syntax.step, step, step_word)
        _check_grid(context, syntax, step, size, step_word)
    offset = 0 if syntax.offset is None else _units(context, syntax.offset, time_type, "offset")
    return Window(
        kind=syntax.kind,
        time_column=time_column,
        time_type=time_type,
        size=size,
        step=step,
        # Where the first step of a growing window begins depends on the whole size.
        offset=offset % (size if syntax.kind == "cumulate" else step),
    )


_Argument = tuple[str | None, exp.Expr, exp.Expr]


def _without_swallowed(arguments: Sequence[_Argument], n_roles: int) -> list[_Argument]:
    """Take back arguments that follow PARTITION BY in a way that reads as more of its terms."""
    taken: list[_Argument] = []
    missing = n_roles - len(arguments)
    for name, value, place in arguments:
        taken.append((name, value, place))
        terms = list(place.args.get("partition_by") or ())
        if missing > 0 and len(terms) > missing:
            place.set("partition_by", terms[:-missing])
            taken.extend((None, term, term) for term in terms[-missing:])
    return taken


def _assign(
    context: PlanContext,
    call: exp.Expr,
    kind: WindowKind,
    roles: Sequence[str],
    arguments: Sequence[_Argument],
) -> WindowSyntax:
    expected = [role.strip("[]") for role in roles]
    found: dict[str, exp.Expr] = {}
    partition_by: tuple[exp.Expr, ...] = ()
    spelling = f"{call.name.upper()}({', '.join(_parameter(kind, role) for role in roles)})"
    for position, (name, value, place) in enumerate(arguments):
        if name is not None:
            role = _ROLE_BY_NAME.get(name)
        else:
            role = expected[position] if position < len(expected) else None
        if role is None or role not in (*expected, "time"):
            raise context.source.error(f"unexpected argument of a window; write {spelling}", place)
        if role in found:
            raise context.source.error(f"a window argument is given twice; write {spelling}", place)
        found[role] = value
        partition_by = partition_by or tuple(_listed(place.args.get("partition_by") or ()))
    missing = [role for role in roles if not role.startswith("[") and role not in found]
    if missing and missing != ["time"]:
        names = " and ".join(_parameter(kind, role) for role in missing)
        raise context.source.error(f"a window lacks its {names}; write {spelling}", call)
    if partition_by and kind != "session":
        raise context.source.error(
            "PARTITION BY in a window is for SESSION only; use GROUP BY", partition_by[0]
        )
    return WindowSyntax(
        kind=kind,
        place=call,
        time=found.get("time"),
        size=found["size"],
        step=found.get("step"),
        offset=found.get("offset"),
        data=found.get("data"),
        partition_by=partition_by,
    )


def _listed(terms: Sequence[exp.Expr]) -> list[exp.Expr]:
    return [
        inner
        for term in terms
        for inner in (term.expressions if isinstance(term, exp.Tuple) else [unwrapped(term)])
    ]


def _parameter(kind: WindowKind, role: str) -> str:
    if role == "size":
        return _SIZE_WORD[kind]
    if role == "step":
        return _STEP_WORD[kind]
    return {"time": "time column", "data": "table"}.get(role, role)


def _units(context: PlanContext, node: exp.Expr, time_type: pa.DataType, word: str) -> int:
    if isinstance(node, Duration):
        return _scaled(context, node, _short_duration(context, node), time_type, word)
    span = span_of(node)
    assert span is not None
    text = context.source.text(span)
    try:
        value = context.typer.constant(text).as_py()
    except TypingError as failure:
        raise context.source.error(
            f"the {word} of a window must be a constant such as INTERVAL '10' SECOND: {failure}",
            node,
        ) from failure
    if isinstance(value, int) and not isinstance(value, bool):
        if not pa.types.is_integer(time_type):
            raise context.source.error(
                f"the {word} of a window over {time_type} must be an interval, such as "
                f"INTERVAL '{value}' SECOND: {text}",
                node,
            )
        return value
    if not isinstance(value, pa.MonthDayNano):
        raise context.source.error(f"the {word} of a window must be an interval: {text}", node)
    if value.months:
        raise context.source.error(
            f"the {word} of a window cannot be in months or years, whose lengths differ; use "
            f"days: {text}",
            node,
        )
    nanoseconds = value.days * _NANOSECONDS["d"] + value.nanoseconds
    return _scaled(context, node, nanoseconds, time_type, word)


def _short_duration(context: PlanContext, node: Duration) -> int:
    match = re.fullmatch(r"(\d+)([a-z]+)", str(node.this).lower())
    if match is None or match[2] not in _NANOSECONDS:
        units = ", ".join(_NANOSECONDS)
        raise context.source.error(
            f"a short duration is a whole number and one of {units}: {node.this}", node
        )
    return int(match[1]) * _NANOSECONDS[match[2]]


def _scaled(
    context: PlanContext, node: exp.Expr, nanoseconds: int, time_type: pa.DataType, word: str
) -> int:
    unit = _unit_nanoseconds(time_type)
    span = span_of(node)
    text = "" if span is None else context.source.text(span)
    if unit is None:
        raise context.source.error(
            f"the {word} of a window over {time_type} must be a plain integer: {text}", node
        )
    units, rest = divmod(nanoseconds, unit)
    if rest:
        raise context.source.error(
            f"the {word} of a window over {time_type} must be a whole number of its units: {text}",
            node,
        )
    return units


def _unit_nanoseconds(time_type: pa.DataType) -> int | None:
    if pa.types.is_timestamp(time_type):
        return _NANOSECONDS[time_type.unit]
    if pa.types.is_date32(time_type):
        return _NANOSECONDS["d"]
    return _NANOSECONDS["ms"] if pa.types.is_date64(time_type) else None


def _check_positive(context: PlanContext, node: exp.Expr, units: int, word: str) -> None:
    if units < 1:
        raise context.source.error(f"the {word} of a window must be positive", node)


def _check_grid(
    context: PlanContext, syntax: WindowSyntax, step: int, size: int, step_word: str
) -> None:
    assert syntax.step is not None
    numbers = f"{step_word} {step}, size {size}"
    if step > size:
        raise context.source.error(
            f"the {step_word} of a window must not exceed its size: {numbers}", syntax.step
        )
    if size % step:
        raise context.source.error(
            f"the size of a window must be a multiple of its {step_word}: {numbers}", syntax.step
        )
    if size // step > _PANES_MAX:
        raise context.source.error(
            f"a window can be {_PANES_MAX} times as long as its {step_word} at most: {numbers}",
            syntax.step,
        )


def interval_units(context: PlanContext, node: exp.Expr, time_type: pa.DataType, word: str) -> int:
    """An interval, in units of the time column.

    Raises:
        SqlError: It is no constant, negative, or does not suit the type.
    """
    units = _units(context, node, time_type, word)
    if units < 0:
        raise context.source.error(f"the {word} of a window must not be negative", node)
    return units


def is_time_type(data_type: pa.DataType) -> bool:
    """Say whether a column of a type can serve as event time."""
    return bool(
        pa.types.is_integer(data_type)
        or pa.types.is_timestamp(data_type)
        or pa.types.is_date(data_type)
    )


def check_time_type(
    context: PlanContext, place: exp.Expr, name: str, data_type: pa.DataType
) -> None:
    """Check that a column can serve as event time.

    Raises:
        SqlError: It cannot.
    """
    if not is_time_type(data_type):
        raise context.source.error(
            f"event time must be a timestamp, a date or an integer: {name!r} is {data_type}", place
        )


def not_event_time(
    context: PlanContext, place: exp.Expr, name: str, title: str, known: Sequence[str]
) -> SqlError:
    """The error for a window over a column that no watermark follows."""
    if known:
        reason = f"{name!r} is not the event time of {title}; use {' or '.join(map(repr, known))}"
    elif title.startswith("stream "):
        reason = (
            f"{title} has no event time, which a window needs; declare one with event_time={name!r}"
        )
    else:
        reason = (
            f"{title} has no event time, which a window needs; select that of its stream, or the "
            "end of its window"
        )
    return context.source.error(reason, place)
