"""Cases that keep the rows of a window: with its columns, the first ones, no duplicates."""

from __future__ import annotations

from tests.equivalence.case import Case, Stream, choose_stream
from tests.equivalence.chooser import Chooser
from tests.equivalence.expressions import choose_predicate
from tests.equivalence.windows import (
    Spelling,
    Window,
    WindowKind,
    choose_spelling,
    choose_window,
    windowed_sql,
)

__all__ = [
    "deduplication_case",
    "top_groups_case",
    "top_n_case",
    "window_limit_case",
    "window_rows_case",
]

_KINDS: tuple[WindowKind, ...] = ("tumble", "hop", "cumulate")


def _choose_window_rows(chooser: Chooser, stream: Stream) -> tuple[Window, str]:
    window = choose_window(chooser, chooser.choice(_KINDS), stream.time)
    spelling = Spelling("")
    while spelling.group != ("window_start", "window_end"):
        spelling = choose_spelling(chooser, window, stream)
    return window, spelling.source


def _case(feature: str, stream: Stream, sql: str, oracle_sql: str, times: tuple[str, ...]) -> Case:
    time_columns = dict.fromkeys(times, stream.time.type)
    # Where NULLs come in a descending order is another place in DuckDB.
    portable = "DESC" not in sql.replace("DESC NULLS LAST", "").replace("DESCRIPTOR", "")
    return Case(feature, sql, oracle_sql, (stream,), portable=portable, time_columns=time_columns)


def window_rows_case(chooser: Chooser) -> Case:
    """Choose rows with the columns of their windows, each row once per window."""
    stream = choose_stream(chooser)
    window, source = _choose_window_rows(chooser, stream)
    where = ""
    if chooser.chance(40):
        predicate = choose_predicate(chooser, stream.values)
        where = f" WHERE {predicate.sql}" if predicate.portable else ""
    columns = chooser.sample(["x", "s", "y"], 0, 2)
    times = ("window_start", "window_end", "window_time")
    selected = ", ".join(["id", *columns, *times])
    oracle = ", ".join(
        ["id", *columns, "window_start", "window_end", "window_end - 1 AS window_time"]
    )
    batch = windowed_sql(window, f"(SELECT * FROM {stream.name}{where})")
    return _case(
        "window_rows",
        stream,
        f"SELECT {selected} FROM {source}{where}",
        f"SELECT {oracle} FROM ({batch}) AS q",
        times,
    )


def top_n_case(chooser: Chooser) -> Case:
    """Choose the first n rows of each window, and of each key in it."""
    stream = choose_stream(chooser)
    window, source = _choose_window_rows(chooser, stream)
    keys = chooser.sample([key.name for key in stream.keys if key.kind != "float"], 0, 1)
    partition = ", ".join(["window_start", "window_end", *keys])
    order = chooser.choice(("x DESC", "x", "s", "y DESC NULLS LAST", "s DESC NULLS LAST, x"))
    number = f"row_number() OVER (PARTITION BY {partition} ORDER BY {order}, id)"
    n_kept = chooser.choice((1, 2, 5))
    condition = chooser.choice((f"place <= {n_kept}", f"place < {n_kept + 1}"))
    selected = "id, x, window_start, window_end, place"
    body = f"SELECT *, {number} AS place FROM"
    sql = f"SELECT {selected} FROM ({body} {source}) AS r WHERE {condition}"
    if chooser.chance(20):
        sql = (
            f"SELECT id, x, window_start, window_end, {number} AS place FROM {source}"
            f" QUALIFY {condition}"
        )
    batch = windowed_sql(window, stream.name)
    oracle = f"SELECT {selected} FROM ({body} ({batch}) AS q) AS r WHERE {condition}"
    return _case("top_n", stream, sql, oracle, ("window_start", "window_end"))


def deduplication_case(chooser: Chooser) -> Case:
    """Choose the first row of each key in each window, by event time."""
    stream = choose_stream(chooser)
    window, source = _choose_window_rows(chooser, stream)
    key = chooser.choice(["s", *(key.name for key in stream.keys if key.kind != "float")])
    direction = chooser.choice(("", " ASC"))
    number = "row_number() OVER (PARTITION BY window_start, window_end, {} ORDER BY {}{}) AS place"
    selected = f"id, {key}, window_start, window_end"
    inner = f"SELECT *, {number.format(key, 'ts', direction)} FROM {source}"
    batch = windowed_sql(window, stream.name)
    batch_inner = f"SELECT *, {number.format(key, '__t', ', id')} FROM ({batch}) AS q"
    return _case(
        "deduplication",
        stream,
        f"SELECT {selected} FROM ({inner}) AS r WHERE place = 1",
        f"SELECT {selected} FROM ({batch_inner}) AS r WHERE place = 1",
        ("window_start", "window_end"),
    )


def window_limit_case(chooser: Chooser) -> Case:
    """Choose ORDER BY and LIMIT over a windowed aggregate, which hold for each window."""
    stream = choose_stream(chooser)
    window, source = _choose_window_rows(chooser, stream)
    n_kept = chooser.choice((1, 2, 3))
    body = (
        "SELECT window_start, window_end, s, count(*) AS n FROM {}"
        " GROUP BY window_start, window_end, s"
    )
    order = chooser.choice(("n DESC, s", "n, s DESC", "s"))
    batch = body.format(f"({windowed_sql(window, stream.name)}) AS q")
    place = f"row_number() OVER (PARTITION BY window_start, window_end ORDER BY {order}) AS place"
    return _case(
        "window_limit",
        stream,
        f"{body.format(source)} ORDER BY {order} LIMIT {n_kept}",
        f"SELECT window_start, window_end, s, n FROM (SELECT *, {place} FROM ({batch}) AS c) AS r"
        f" WHERE place <= {n_kept}",
        ("window_start", "window_end"),
    )


def top_groups_case(chooser: Chooser) -> Case:
    """Choose the first n groups of a windowed aggregate."""
    stream = choose_stream(chooser)
    window, source = _choose_window_rows(chooser, stream)
    body = (
        "SELECT window_start, window_end, s, count(*) AS n, max(x) AS hi FROM {}"
        " GROUP BY window_start, window_end, s"
    )
    place = "row_number() OVER (PARTITION BY window_start, window_end ORDER BY n DESC, s) AS place"
    outer = (
        "SELECT window_start, window_end, s, n, hi FROM (SELECT *, {} FROM ({}) AS c) AS r"
        " WHERE place <= {}"
    )
    n_kept = chooser.choice((1, 2, 3))
    batch = body.format(f"({windowed_sql(window, stream.name)}) AS q")
    return _case(
        "top_groups",
        stream,
        outer.format(place, body.format(source), n_kept),
        outer.format(place, batch, n_kept),
        ("window_start", "window_end"),
    )
