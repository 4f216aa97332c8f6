"""Cases of more than one stage, of several groupings at once, and of rows once each."""

from __future__ import annotations

from tests.equivalence.case import Case, choose_stream
from tests.equivalence.chooser import Chooser
from tests.equivalence.event_times import duration_sql
from tests.equivalence.expressions import choose_predicate
from tests.equivalence.queries.grouped import key_of_column
from tests.equivalence.windows import Window, choose_window, windowed_sql

__all__ = ["distinct_case", "grouping_sets_case", "nested_case", "regrouped_case"]


def distinct_case(chooser: Chooser) -> Case:
    """Choose SELECT DISTINCT."""
    stream = choose_stream(chooser, late_percent=20)
    keys = [key_of_column(key) for key in stream.keys]
    where = ""
    portable = True
    if chooser.chance(30):
        predicate = choose_predicate(chooser, stream.values)
        where, portable = f" WHERE {predicate.sql}", predicate.portable
    selected = ", ".join(key.select_sql for key in keys)
    oracle = ", ".join(f"{key.oracle_sql} AS {key.name}" for key in keys)
    return Case(
        "distinct",
        f"SELECT DISTINCT {selected} FROM {stream.name}{where}",
        f"SELECT DISTINCT {oracle} FROM {stream.name}{where}",
        (stream,),
        portable=portable,
    )


def nested_case(chooser: Chooser) -> Case:
    """Choose a window over windows: the inner window's columns are the outer one's event time."""
    stream = choose_stream(chooser)
    data_type, grain = stream.time.type, stream.time.grain
    inner = Window("tumble", grain, grain)
    n_inner = chooser.choice((2, 3, 6))
    outer = Window("tumble", n_inner * grain, n_inner * grain)
    time = chooser.choice(("window_start", "window_time"))
    # An alias keeps the names of the two levels apart.
    key = chooser.choice(("s", "b"))
    inner_sql = (
        f"SELECT {time} AS at, {key}, count(*) AS n, sum(x) AS total FROM {stream.name}"
        f" GROUP BY tumble(ts, {duration_sql(chooser, inner.size, data_type)}), {key}"
    )
    outer_key = f"{key}, " if chooser.chance(50) else ""
    calls = "sum(n) AS n, max(n) AS most, max(total) AS highest, count(*) AS parts"
    sql = (
        f"SELECT window_start, window_end, {outer_key}{calls} FROM ({inner_sql}) AS i"
        f" GROUP BY {outer_key}tumble(at, {duration_sql(chooser, outer.size, data_type)})"
    )
    batch_time = "window_start" if time == "window_start" else "window_end - 1"
    batch_inner = (
        f"SELECT {batch_time} AS __t, {key}, count(*) AS n, sum(x) AS total"
        f" FROM ({windowed_sql(inner, stream.name)}) AS q GROUP BY window_start, window_end, {key}"
    )
    oracle = (
        f"SELECT window_start, window_end, {outer_key}{calls}"
        f" FROM ({windowed_sql(outer, f'({batch_inner})')}) AS p"
        f" GROUP BY {outer_key}window_start, window_end"
    )
    times = dict.fromkeys(("window_start", "window_end"), data_type)
    return Case("nested", sql, oracle, (stream,), portable=True, time_columns=times)


def regrouped_case(chooser: Chooser) -> Case:
    """Choose an aggregate over a windowed aggregate that keeps its windows."""
    stream = choose_stream(chooser)
    window = choose_window(chooser, chooser.choice(("tumble", "hop")), stream.time)
    lengths = [duration_sql(chooser, window.size, stream.time.type)]
    if window.kind == "hop":
        lengths.insert(0, duration_sql(chooser, window.step, stream.time.type))
    if window.offset:
        lengths.append(duration_sql(chooser, window.offset, stream.time.type))
    source = f"{window.kind.upper()}({stream.name}, ts, {', '.join(lengths)})"
    inner = (
        "SELECT window_start, window_end, s, b, count(*) AS n FROM {}"
        " GROUP BY window_start, window_end, s, b"
    )
    outer = (
        "SELECT window_start, window_end, b, sum(n) AS n, count(*) AS parts FROM ({}) AS i"
        " GROUP BY window_start, window_end, b"
    )
    batch = outer.format(inner.format(f"({windowed_sql(window, stream.name)}) AS q"))
    sql = outer.format(inner.format(source))
    if chooser.chance(40):
        sql = f"WITH per_s AS ({inner.format(source)}) " + outer.replace("({})", "per_s")
    times = dict.fromkeys(("window_start", "window_end"), stream.time.type)
    return Case("regrouped", sql, batch, (stream,), portable=True, time_columns=times)


def grouping_sets_case(chooser: Chooser) -> Case:
    """Choose GROUPING SETS, ROLLUP or CUBE."""
    stream = choose_stream(chooser)
    groups = chooser.choice(
        (
            "ROLLUP (s, b)",
            "CUBE (s, b)",
            "GROUPING SETS ((s), (b), ())",
            "GROUPING SETS ((s, b), (s))",
            "ROLLUP (b)",
        )
    )
    keys = "b" if groups == "ROLLUP (b)" else "s, b"
    marks = "".join(f", grouping({key}) AS g_{key}" for key in keys.split(", "))
    sql = f"SELECT {keys}{marks}, count(*) AS n, sum(x) AS total, min(x) AS lo"
    sql += f" FROM {stream.name} GROUP BY {groups}"
    return Case("grouping_sets", f"{sql} EMIT FINAL", sql, (stream,), portable=False)
