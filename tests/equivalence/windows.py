"""Random windows: the spellings of Millstream's SQL, and the same as integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pyarrow as pa

from tests.equivalence.case import TIME_UNITS, Stream
from tests.equivalence.chooser import Chooser
from tests.equivalence.event_times import TimeShape, duration_sql, short_duration_sql

__all__ = ["Spelling", "Window", "WindowKind", "choose_spelling", "choose_window", "windowed_sql"]

WindowKind: TypeAlias = Literal["tumble", "hop", "cumulate", "session"]


@dataclass(frozen=True, slots=True)
class Window:
    """Windows of event time in its own unit; ``size`` is the gap of a session."""

    kind: WindowKind
    size: int
    step: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Spelling:
    """Where a query says that it has windows.

    Attributes:
        source: What stands after FROM.
        group: Terms of GROUP BY, besides the keys.
        clause: A clause of its own, or an empty string.
    """

    source: str
    group: tuple[str, ...] = ()
    clause: str = ""


def choose_window(chooser: Chooser, kind: WindowKind, shape: TimeShape) -> Window:
    """Choose a window of a kind; sizes are multiples of the shape's grain."""
    step = shape.grain * chooser.choice((1, 2, 5))
    n_steps = chooser.choice((2, 3, 5, 1)) if kind in ("hop", "cumulate") else 1
    with_offset = kind != "session" and chooser.chance(25)
    offset = shape.grain * chooser.choice((1, -1, 7)) if with_offset else 0
    return Window(kind, step * n_steps, step, offset)


def choose_spelling(
    chooser: Chooser, window: Window, stream: Stream, *, partition_by: tuple[str, ...] = ()
) -> Spelling:
    """Choose one of the ways to write a window over the stream.

    Args:
        chooser: Takes the decisions.
        window: The window.
        stream: The stream.
        partition_by: The other terms of GROUP BY, which keep sessions apart.
    """
    forms = [_as_table_function]
    if window.offset == 0:
        forms.append(_as_group_expression)
        if window.kind != "cumulate":
            forms += [_as_clause, _as_clause]
    return chooser.choice(forms)(chooser, window, stream, partition_by)


def _lengths(chooser: Chooser, window: Window, data_type: pa.DataType) -> tuple[str, ...]:
    """Write the lengths in Flink's order: step before size."""
    size = duration_sql(chooser, window.size, data_type)
    if window.kind in ("tumble", "session"):
        return (size,)
    return (duration_sql(chooser, window.step, data_type), size)


def _as_table_function(
    chooser: Chooser, window: Window, stream: Stream, partition_by: tuple[str, ...]
) -> Spelling:
    lengths = list(_lengths(chooser, window, stream.time.type))
    table, descriptor = chooser.choice(
        (("TABLE {}", "DESCRIPTOR(ts)"), ("{}", "ts"), ("{}", "DESCRIPTOR(ts)"))
    )
    table = table.format(stream.name)
    if window.kind == "session" and partition_by:
        table += f" PARTITION BY {', '.join(partition_by)}"
    arguments = [table, descriptor, *lengths]
    labels = ["DATA", "TIMECOL", *_LENGTH_LABELS[window.kind]]
    if window.offset:
        arguments.append(duration_sql(chooser, window.offset, stream.time.type))
        labels.append("OFFSET")
    if chooser.chance(20) and not (window.kind == "session" and partition_by):
        pairs = [f"{label} => {value}" for label, value in zip(labels, arguments, strict=True)]
        arguments = chooser.sample(pairs, len(pairs), len(pairs))
    call = f"{window.kind.upper()}({', '.join(arguments)})"
    source = f"TABLE({call})" if chooser.chance(60) else call
    if window.kind != "session" and chooser.chance(25):
        source = f"(SELECT * FROM {source}) AS {stream.name}"
    return Spelling(source, ("window_start", "window_end"))


_LENGTH_LABELS = {
    "tumble": ("SIZE",),
    "hop": ("SLIDE", "SIZE"),
    "cumulate": ("STEP", "SIZE"),
    "session": ("GAP",),
}


def _as_group_expression(
    chooser: Chooser, window: Window, stream: Stream, partition_by: tuple[str, ...]
) -> Spelling:
    del partition_by
    lengths = _lengths(chooser, window, stream.time.type)
    return Spelling(stream.name, (f"{window.kind}(ts, {', '.join(lengths)})",))


def _as_clause(
    chooser: Chooser, window: Window, stream: Stream, partition_by: tuple[str, ...]
) -> Spelling:
    del partition_by
    data_type = stream.time.type
    lengths = list(reversed(_lengths(chooser, window, data_type)))
    if chooser.chance(30):
        units = (window.size, window.step)[: len(lengths)]
        short = [short_duration_sql(chooser, length, data_type) for length in units]
        lengths = [text or long for text, long in zip(short, lengths, strict=True)]
    name = {"tumble": "TUMBLING", "hop": "SLIDING", "session": "SESSION"}[window.kind]
    column = [] if chooser.chance(25) else ["ts"]
    return Spelling(stream.name, (), f"WINDOW {name}({', '.join([*column, *lengths])})")


def windowed_sql(window: Window, source: str, keys: tuple[str, ...] = ()) -> str:
    """Write a batch query that gives each row of `source` once per window that it belongs to.

    Args:
        window: The window.
        source: A relation with the event time as an integer; its name or a query in parentheses.
        keys: Columns of `source` that keep sessions apart.

    Returns:
        A query of all columns of the source and the integers ``window_start`` and ``window_end``.
    """
    return _WINDOWED[window.kind](window, source, keys)


def _floor_sql(step: int, offset: int) -> str:
    """Write the last point of the grid at or before the event time; ``%`` truncates, so twice."""
    shifted = f"({TIME_UNITS} - ({offset}))"
    return f"({TIME_UNITS} - (({shifted} % {step}) + {step}) % {step})"


def _tumble(window: Window, source: str, keys: tuple[str, ...]) -> str:
    del keys
    start = _floor_sql(window.size, window.offset)
    end = f"{start} + {window.size}"
    return f"SELECT *, {start} AS window_start, {end} AS window_end FROM {source} AS u"


def _hop(window: Window, source: str, keys: tuple[str, ...]) -> str:
    del keys
    last = _floor_sql(window.step, window.offset)
    n_before = (
        f"CAST(floor(({window.size} - 1 - ({TIME_UNITS} - {last})) / {window.step}.0) AS BIGINT)"
    )
    starts = f"range({last} - {n_before} * {window.step}, {last} + 1, {window.step})"
    return (
        f"SELECT *, window_start + {window.size} AS window_end FROM "
        f"(SELECT *, unnest({starts}) AS window_start FROM {source} AS u) AS h"
    )


def _cumulate(window: Window, source: str, keys: tuple[str, ...]) -> str:
    del keys
    start = _floor_sql(window.size, window.offset)
    first_end = f"{_floor_sql(window.step, window.offset)} + {window.step}"
    ends = f"range({first_end}, {start} + {window.size} + 1, {window.step})"
    return f"SELECT *, {start} AS window_start, unnest({ends}) AS window_end FROM {source} AS u"


def _session(window: Window, source: str, keys: tuple[str, ...]) -> str:
    partition = f"PARTITION BY {', '.join(keys)} " if keys else ""
    order = f"{partition}ORDER BY {TIME_UNITS}, id"
    pause = f"{TIME_UNITS} - lag({TIME_UNITS}) OVER ({order})"
    begins = f"CASE WHEN {pause} <= {window.size} THEN 0 ELSE 1 END"
    number = f"sum(begins) OVER ({order} ROWS UNBOUNDED PRECEDING)"
    by_session = f"PARTITION BY {', '.join([*keys, 'number'])}"
    return (
        f"SELECT *, min({TIME_UNITS}) OVER ({by_session}) AS window_start, "
        f"max({TIME_UNITS}) OVER ({by_session}) + {window.size} AS window_end FROM "
        f"(SELECT *, {number} AS number FROM "
        f"(SELECT *, {begins} AS begins FROM {source} AS u) AS v) AS w"
    )


_WINDOWED = {"tumble": _tumble, "hop": _hop, "cumulate": _cumulate, "session": _session}
