"""Cases with GROUP BY: any keys, any aggregates, with or without windows, late rows included."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from tests.equivalence.aggregates import AggregateCall, choose_aggregate, choose_hot_aggregate
from tests.equivalence.case import Case, Stream, choose_stream
from tests.equivalence.chooser import Chooser
from tests.equivalence.columns import Column
from tests.equivalence.compare import rows_of
from tests.equivalence.expressions import Expression, choose_predicate
from tests.equivalence.lateness import Assignment, assign_windows
from tests.equivalence.oracle import run_datafusion
from tests.equivalence.windows import (
    Spelling,
    Window,
    WindowKind,
    choose_spelling,
    choose_window,
    windowed_sql,
)

__all__ = ["Emit", "GroupKey", "choose_key", "grouped_case", "key_of_column", "late_case"]

Emit: TypeAlias = Literal["final", "changes"]
_LATE_PERCENT = 35


@dataclass(frozen=True, slots=True)
class GroupKey:
    """A term of GROUP BY.

    Attributes:
        sql: The term as the query has it.
        oracle_sql: The same with one zero and one NaN.
        name: Its name in the answer.
        portable: Whether DuckDB gives the same value.
    """

    sql: str
    oracle_sql: str
    name: str
    portable: bool = True

    @property
    def select_sql(self) -> str:
        """The term in a select list."""
        return self.sql if self.sql == self.name else f"{self.sql} AS {self.name}"


@dataclass(frozen=True, slots=True)
class _Output:
    sql: str
    oracle_sql: str
    name: str
    portable: bool


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a grouped query is made of."""

    stream: Stream
    keys: tuple[GroupKey, ...]
    calls: tuple[AggregateCall, ...]
    outputs: tuple[_Output, ...]
    where: Expression | None
    having: tuple[str, str] | None
    window: Window | None
    spelling: Spelling
    emit: Emit

    @property
    def portable(self) -> bool:
        keys = all(key.portable for key in self.keys)
        calls = all(call.portable for call in self.calls)
        return keys and calls and (self.where is None or self.where.portable)


def key_of_column(column: Column) -> GroupKey:
    """Make a grouping key of a column; in the oracle zeros and NaNs are made equal."""
    oracle = column.name
    if column.kind == "float":
        name = "FLOAT" if column.type == pa.float32() else "DOUBLE"
        nan = f"CAST('NaN' AS {name})"
        oracle = f"CASE WHEN isnan({oracle}) THEN {nan} ELSE {oracle} + CAST(0 AS {name}) END"
    return GroupKey(column.name, oracle, column.name)


def choose_key(chooser: Chooser, stream: Stream, index: int) -> GroupKey:
    """Choose a key: mostly a column, else an expression."""
    if index < len(stream.keys) and chooser.chance(85):
        return key_of_column(stream.keys[index])
    sql = chooser.choice(
        ("id % 3", "x > 0", "upper(s)", "CASE WHEN b THEN 1 END", "coalesce(s, 'none')")
    )
    return GroupKey(sql, sql, f"g{index}")


def grouped_case(
    chooser: Chooser,
    feature: str,
    *,
    kind: WindowKind | None = None,
    emit: Emit = "final",
    any_aggregate: bool = False,
) -> Case:
    """Choose a grouped query over a stream without late rows."""
    stream = choose_stream(chooser)
    parts = _choose_parts(chooser, stream, kind, emit, any_aggregate)
    names = tuple(f"__g{index}" for index in range(len(parts.keys)))
    source = f"({_keyed_sql(parts)})"
    if parts.window is not None:
        source = f"({windowed_sql(parts.window, source, names)})"
    return _case(chooser, feature, parts, _oracle_sql(parts, source))


def late_case(
    chooser: Chooser,
    feature: str,
    *,
    kind: WindowKind,
    emit: Emit = "final",
    with_allowance: bool = False,
) -> Case:
    """Choose a grouped query over a stream with late rows, which a reference takes out."""
    stream = choose_stream(chooser, late_percent=_LATE_PERCENT)
    if with_allowance:
        allowed = stream.time.grain * chooser.choice((1, 3, 8))
        stream = replace(stream, allowed_lateness=allowed)
    parts = _choose_parts(chooser, stream, kind, emit, any_aggregate=False)
    case = _case(chooser, feature, parts, _oracle_sql(parts, "assigned"))

    def rebuild(changed: Stream) -> Case:
        assignment, assigned = _assign(replace(parts, stream=changed))
        return replace(
            case,
            streams=(changed,),
            oracle_tables={"assigned": assigned},
            rows_late=assignment.rows_late,
            rebuild=rebuild,
        )

    return rebuild(stream)


def _choose_parts(
    chooser: Chooser, stream: Stream, kind: WindowKind | None, emit: Emit, any_aggregate: bool
) -> _Parts:
    n_keys = chooser.choice((1, 2, 0) if kind else (1, 2, 1, 0))
    keys = tuple(choose_key(chooser, stream, index) for index in range(n_keys))
    choose: Callable[[Chooser, Any], AggregateCall] = (
        choose_aggregate if any_aggregate else choose_hot_aggregate
    )
    columns = [*stream.values, *stream.keys]
    calls = tuple(choose(chooser, columns) for _ in range(chooser.integer(1, 4)))
    where = choose_predicate(chooser, stream.values) if chooser.chance(35) else None
    window = choose_window(chooser, kind, stream.time) if kind else None
    spelling = (
        choose_spelling(chooser, window, stream, partition_by=tuple(key.sql for key in keys))
        if window
        else Spelling(stream.name)
    )
    outputs = tuple(_output(chooser, index, call) for index, call in enumerate(calls))
    having = _choose_having(chooser, calls) if chooser.chance(30) else None
    return _Parts(stream, keys, calls, outputs, where, having, window, spelling, emit)


def _output(chooser: Chooser, index: int, call: AggregateCall) -> _Output:
    template = "{}"
    if call.numeric and chooser.chance(20):
        template = chooser.choice(("{} + 1", "coalesce({}, 0)", "{} IS NULL", "-({})"))
    return _Output(
        template.format(call.sql), template.format(call.oracle_sql), f"a{index}", call.portable
    )


def _choose_having(chooser: Chooser, calls: tuple[AggregateCall, ...]) -> tuple[str, str] | None:
    candidates = [AggregateCall("count(*)", "count(*)"), AggregateCall("sum(x)", "sum(x)")]
    candidates += [
        call for call in calls if call.numeric and call.sql.startswith(("min", "max", "count"))
    ]
    call = chooser.choice(candidates)
    condition = chooser.choice((" > 1", " < 100", " IS NOT NULL", " >= 3"))
    return call.sql + condition, call.oracle_sql + condition


def _keyed_sql(parts: _Parts) -> str:
    keys = "".join(f", {key.oracle_sql} AS __g{index}" for index, key in enumerate(parts.keys))
    where = f" WHERE {parts.where.sql}" if parts.where else ""
    return f"SELECT *{keys} FROM {parts.stream.name}{where}"


def _oracle_sql(parts: _Parts, source: str) -> str:
    names = [f"__g{index}" for index in range(len(parts.keys))]
    window = ["window_start", "window_end"] if parts.window else []
    selected = window + [
        f"{name} AS {key.name}" for name, key in zip(names, parts.keys, strict=True)
    ]
    selected += [f"{output.oracle_sql} AS {output.name}" for output in parts.outputs]
    group = f" GROUP BY {', '.join([*window, *names])}" if window or names else ""
    having = f" HAVING {parts.having[1]}" if parts.having else ""
    return f"SELECT {', '.join(selected)} FROM {source} AS q{group}{having}"


def _millstream_sql(chooser: Chooser, parts: _Parts) -> str:
    window = ["window_start", "window_end"] if parts.window else []
    selected = window + [key.select_sql for key in parts.keys]
    selected += [f"{output.sql} AS {output.name}" for output in parts.outputs]
    terms = [*parts.spelling.group, *(key.sql for key in parts.keys)]
    terms = chooser.sample(terms, len(terms), len(terms))
    clauses = [f"GROUP BY {', '.join(terms)}"] if terms else []
    if parts.having:
        clauses.append(f"HAVING {parts.having[0]}")
    if parts.spelling.clause:
        clauses.insert(chooser.integer(0, len(clauses)), parts.spelling.clause)
    where = f" WHERE {parts.where.sql}" if parts.where else ""
    text = f"SELECT {', '.join(selected)} FROM {parts.spelling.source}{where}"
    return " ".join([text, *clauses]) + _emit_sql(chooser, parts)


def _emit_sql(chooser: Chooser, parts: _Parts) -> str:
    is_default = parts.emit == ("final" if parts.window else "changes")
    return "" if is_default and chooser.chance(50) else f" EMIT {parts.emit.upper()}"


def _case(chooser: Chooser, feature: str, parts: _Parts, oracle_sql: str) -> Case:
    time_type = parts.stream.time.type
    lists = zip(parts.outputs, parts.calls, strict=True)
    return Case(
        feature=feature,
        sql=_millstream_sql(chooser, parts),
        oracle_sql=oracle_sql,
        streams=(parts.stream,),
        portable=parts.portable,
        time_columns=dict.fromkeys(("window_start", "window_end"), time_type)
        if parts.window
        else {},
        unordered_lists=frozenset(output.name for output, call in lists if call.unordered_list),
        session_options={"changelog": "retract"} if chooser.chance(10) else {},
    )


def _assign(parts: _Parts) -> tuple[Assignment, pa.Table]:
    """Assign rows to windows by the reference; give the punctual rows with their windows."""
    assert parts.window is not None
    keyed = run_datafusion(_keyed_sql(parts), {parts.stream.name: parts.stream.oracle_rows})
    names = [f"__g{index}" for index in range(len(parts.keys))]
    row_at = {row: place for place, row in enumerate(keyed.column("id").to_pylist())}
    key_at: dict[int, Hashable] = dict(zip(row_at, rows_of(keyed.select(names)), strict=True))
    ids = parts.stream.rows.column("id").to_pylist()
    assignment = assign_windows(
        parts.stream.times,
        parts.window,
        parts.stream.max_out_of_orderness,
        allowed_lateness=parts.stream.allowed_lateness,
        passes=[row in row_at for row in ids],
        keys=[key_at.get(row) for row in ids],
    )
    entries = sorted(assignment.punctual)
    assigned = keyed.take(pa.array([row_at[ids[entry.row]] for entry in entries], pa.int64()))
    for name in ("window_start", "window_end"):
        values = pa.array([getattr(entry, name) for entry in entries], pa.int64())
        assigned = assigned.append_column(name, values)
    return assignment, assigned
