"""Generated queries over queries, over streams whose rows come late.

What is late depends on the rows before a row, and on nothing else: such a query answers the same
however its input is cut. No batch engine knows lateness, so the oracle is the query itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from tests.equivalence.chooser import Chooser

__all__ = ["TABLE", "choose_query", "choose_rows"]

TABLE = pa.table({"key": pa.array([1, 2, 2], pa.int64()), "name": ["x", "y", "z"]})

_WINDOWS = (
    "TUMBLE({}, ts, 10)",
    "HOP({}, ts, 5, 10)",
    "CUMULATE({}, ts, 5, 15)",
    "TUMBLE({}, ts, 7, 2)",
)
_OWN_WINDOWS = ("TUMBLING({}, 10)", "SLIDING({}, 10, 5)", "SESSION({}, 4)", "TUMBLING({}, 3)")
_AGGREGATES = (
    "count(*)",
    "sum({})",
    "max({})",
    "count(DISTINCT {})",
    "median({})",
    "avg({})",
    "array_agg({0} ORDER BY {0})",
)
_FUNCTIONS = ("sum", "count", "max", "first_value", "last_value", "lag")
_FRAMES = ("ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", "ROWS UNBOUNDED PRECEDING")
_STREAMS = ("a", "b")
_ROWS_MAX = 40


@dataclass(frozen=True, slots=True)
class _Relation:
    """A relation in FROM.

    Attributes:
        sql: Its name, or a query in parentheses.
        columns: Columns of integers that it has.
        times: Columns that can serve as event time.
        windowed: Whether it has ``window_end``.
        ordered: Whether its rows come in the order of arrival.
    """

    sql: str
    columns: tuple[str, ...]
    times: tuple[str, ...]
    windowed: bool = False
    ordered: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.columns, *self.times, *(["window_end"] if self.windowed else []))


def choose_rows(chooser: Chooser) -> tuple[pa.Table, list[str]]:
    """Choose rows, and the stream that each is pushed into."""
    time, stream = chooser.integer(-20, 20), "a"
    times, streams = [], []
    for _ in range(chooser.integer(1, _ROWS_MAX)):
        time += chooser.choice((0, 0, 1, 1, 2, 3, 8))
        times.append(time - (chooser.choice((2, 5, 12, 30)) if chooser.chance(25) else 0))
        stream = chooser.choice(_STREAMS) if chooser.chance(15) else stream
        streams.append(stream)
    keys = [chooser.choice((1, 2, 3, None)) for _ in times]
    columns = {
        "k": pa.array(keys, pa.int64()),
        "g": pa.array([chooser.integer(1, 2) for _ in times], pa.int64()),
        "v": pa.array([chooser.integer(0, 6) for _ in times], pa.int64()),
        "ts": pa.array(times, pa.int64()),
    }
    return pa.table(columns), streams


def choose_query(chooser: Chooser) -> str:
    """Choose a query over the streams ``a`` and ``b`` and the table ``names``."""
    relation = _choose(chooser, chooser.integer(1, 3))
    names = ", ".join(relation.names)
    sql = f"SELECT {names} FROM {relation.sql} AS q"
    if relation.windowed and chooser.chance(15):
        sql += f" ORDER BY {names} LIMIT 2"
    return sql + chooser.choice(("", "", " EMIT FINAL", " EMIT CHANGES"))


def _choose(chooser: Chooser, depth: int) -> _Relation:
    if depth == 0 or chooser.chance(15):
        return _Relation(chooser.choice(("a", "a", "b")), ("k", "g", "v"), ("ts",))
    if chooser.chance(30):
        return _in_windows(chooser)
    below = _choose(chooser, depth - 1)
    make = chooser.choice((_grouped, _grouped, _filtered, _distinct, _joined, _over, _united))
    return make(chooser, below, depth)


def _in_windows(chooser: Chooser) -> _Relation:
    call = chooser.choice(_WINDOWS).format(chooser.choice(_STREAMS))
    where = " WHERE v > 2" if chooser.chance(40) else ""
    times = ("ts", "window_time", "window_start")
    return _Relation(f"(SELECT * FROM {call}{where})", ("k", "g", "v"), times, windowed=True)


def _filtered(chooser: Chooser, below: _Relation, depth: int) -> _Relation:
    column = chooser.choice(below.names)
    return replace(below, sql=f"(SELECT * FROM {below.sql} AS q WHERE {column} IS NOT NULL)")


def _distinct(chooser: Chooser, below: _Relation, depth: int) -> _Relation:
    kept = chooser.sample(below.names, 1, 4)
    return replace(
        below,
        sql=f"(SELECT DISTINCT {', '.join(kept)} FROM {below.sql} AS q)",
        columns=tuple(name for name in kept if name in below.columns),
        times=tuple(name for name in kept if name in below.times),
        windowed="window_end" in kept,
        ordered=False,
    )


def _joined(chooser: Chooser, below: _Relation, depth: int) -> _Relation:
    if not below.columns:
        return below
    listed = ", ".join(f"q.{name}" for name in below.names)
    join = chooser.choice(("JOIN", "LEFT JOIN"))
    column = chooser.choice(below.columns)
    sql = f"(SELECT {listed} FROM {below.sql} AS q {join} names ON q.{column} = names.key)"
    return replace(below, sql=sql)


def _over(chooser: Chooser, below: _Relation, depth: int) -> _Relation:
    ends = ["window_end"] if below.windowed else []
    orders: list[str | None] = [*below.times, *ends, *([None] if below.ordered else [])]
    if not below.columns or not orders:
        return below
    calls, columns, of_calls = [], list(below.columns), set()
    shared = chooser.choice(orders) if chooser.chance(70) else None
    for _ in range(chooser.integer(1, 2)):
        function, column = chooser.choice(_FUNCTIONS), chooser.choice(below.columns)
        key, order = chooser.choice(below.columns), shared or chooser.choice(orders)
        of_calls.add(order)
        columns.append(f"o{depth}{len(columns)}")
        order_by = f"ORDER BY {order}" if order else ""
        over = f"PARTITION BY {key} {order_by} {chooser.choice(_FRAMES)}"
        calls.append(f"{function}({column}) OVER ({over}) AS {columns[-1]}")
    sql = f"(SELECT {', '.join((*below.names, *calls))} FROM {below.sql} AS q)"
    made = replace(below, sql=sql, columns=tuple(columns), ordered=False)
    if of_calls == {None}:
        return made
    # What has waited for one time is in step with the ends of windows, but with no other time.
    waited = of_calls - {None}
    times = tuple(time for time in below.times if {time} == waited)
    return replace(made, times=times, windowed=below.windowed and len(waited) == 1)


def _united(chooser: Chooser, below: _Relation, depth: int) -> _Relation:
    other = _choose(chooser, depth - 1)
    shared = [name for name in below.names if name in other.names]
    if not shared:
        return below
    listed = ", ".join(shared)
    return _Relation(
        f"(SELECT {listed} FROM {below.sql} AS q UNION ALL SELECT {listed} FROM {other.sql} AS r)",
        tuple(name for name in shared if name in below.columns),
        tuple(name for name in shared if name in below.times),
        windowed="window_end" in shared,
        ordered=below.ordered and other.ordered,
    )


def _grouped(chooser: Chooser, below: _Relation, depth: int) -> _Relation:
    keys = chooser.sample(below.columns, 0, 2)
    aggregate = chooser.choice(_AGGREGATES) if below.columns else "count(*)"
    column = chooser.choice(below.columns) if below.columns else ""
    call = f"{aggregate.format(column)} AS c{depth}"
    lists = aggregate.startswith("array_agg")
    columns = (*keys, *([] if lists else [f"c{depth}"]))
    if below.windowed and chooser.chance(60):
        listed = ", ".join([*keys, "window_end"])
        sql = f"(SELECT {listed}, {call} FROM {below.sql} AS q GROUP BY {listed})"
        return replace(below, sql=sql, columns=columns, times=(), windowed=True, ordered=False)
    if not below.times:
        return below
    window = chooser.choice(_OWN_WINDOWS).format(chooser.choice(below.times))
    group_by = f"GROUP BY {', '.join(keys)}" if keys else ""
    listed = ", ".join([*keys, "window_time", "window_end", call])
    sql = f"(SELECT {listed} FROM {below.sql} AS q {group_by} WINDOW {window})"
    return replace(
        below, sql=sql, columns=columns, times=("window_time",), windowed=True, ordered=False
    )
