"""Cases with OVER: frames of rows and of event time, in the order of event time or of arrival."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa

from tests.equivalence.aggregates import greatest_sql, least_sql
from tests.equivalence.case import TIME_UNITS, Case, Stream, choose_stream
from tests.equivalence.chooser import Chooser
from tests.equivalence.event_times import duration_sql
from tests.equivalence.lateness import running_watermarks

__all__ = ["late_over_case", "over_arrival_case", "over_range_case", "over_rows_case"]

# A function and what a batch engine computes for it; both take an OVER.
_Call = tuple[str, Callable[[str], str]]


def _plain(call: str) -> _Call:
    return call, lambda over: call + over


_FRAMED: tuple[_Call, ...] = (
    _plain("count(*)"),
    _plain("sum(x)"),
    _plain("avg(x)"),
    _plain("count(s)"),
    _plain("min(x)"),
    _plain("max(x)"),
    ("min(y)", lambda over: least_sql("y", over)),
    ("max(y)", lambda over: greatest_sql("y", over)),
)
_BY_PLACE: tuple[_Call, ...] = (
    _plain("first_value(x)"),
    _plain("last_value(s)"),
    _plain("first_value(y)"),
)
_UNFRAMED: tuple[_Call, ...] = (
    _plain("row_number()"),
    _plain("lag(x)"),
    _plain("lag(x, 2)"),
    _plain("lag(s, 1, 'none')"),
)


def over_rows_case(chooser: Chooser) -> Case:
    """Choose functions over preceding rows in the order of event time."""
    stream = choose_stream(chooser)
    return _rows_case(chooser, "over_rows", stream, by_time=True)


def over_arrival_case(chooser: Chooser) -> Case:
    """Choose functions over preceding rows in the order of arrival."""
    stream = choose_stream(chooser, late_percent=30)
    return _rows_case(chooser, "over_arrival", stream, by_time=False)


def late_over_case(chooser: Chooser) -> Case:
    """Choose functions over rows of which those behind the watermark are late."""
    stream = choose_stream(chooser, late_percent=30)
    case = _rows_case(chooser, "late_over", stream, by_time=True)

    def rebuild(changed: Stream) -> Case:
        watermarks = running_watermarks(changed.times, changed.max_out_of_orderness)
        punctual = [
            row
            for row, (time, watermark) in enumerate(zip(changed.times, watermarks, strict=True))
            if watermark is None or time >= watermark
        ]
        kept = changed.oracle_rows.take(pa.array(punctual, pa.int64()))
        return replace(
            case,
            streams=(changed,),
            oracle_tables={changed.name: kept},
            rows_late=changed.rows.num_rows - len(punctual),
            rebuild=rebuild,
        )

    return rebuild(stream)


def _rows_case(chooser: Chooser, feature: str, stream: Stream, *, by_time: bool) -> Case:
    n_preceding = chooser.choice((1, 0, 3, 10))
    bound = "UNBOUNDED" if chooser.chance(25) else str(n_preceding)
    frame = f"ROWS BETWEEN {bound} PRECEDING AND CURRENT ROW"
    if chooser.chance(20):
        frame = f"ROWS {bound} PRECEDING"
    keys = _partition(chooser, stream)
    order = "ORDER BY ts" if by_time else ""
    oracle_order = f"ORDER BY {TIME_UNITS}, id" if by_time else "ORDER BY id"
    spec = " ".join(part for part in (keys, order, frame) if part)
    calls = chooser.sample([*_FRAMED, *_BY_PLACE], 1, 3)
    selected = [_spelled(chooser, call[0], spec) for call in calls]
    batch = [call[1](f" OVER ({keys} {oracle_order} {frame})") for call in calls]
    if chooser.chance(40):
        call = chooser.choice(_UNFRAMED)
        selected.append(f"{call[0]} OVER ({keys} {order})")
        batch.append(call[1](f" OVER ({keys} {oracle_order})"))
    if by_time and chooser.chance(20):
        name = chooser.choice(("rank()", "dense_rank()"))
        selected.append(f"{name} OVER ({keys} {order})")
        batch.append(f"{name} OVER ({keys} ORDER BY {TIME_UNITS})")
    return _case(chooser, feature, stream, selected, batch, spec)


def over_range_case(chooser: Chooser) -> Case:
    """Choose functions over the rows of a stretch of event time; rows of one time are peers."""
    stream = choose_stream(chooser)
    keys = _partition(chooser, stream)
    length = stream.time.grain * chooser.choice((1, 2, 5, 0))
    if chooser.chance(25):
        batch_frame = frame = "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
        if chooser.chance(50):
            # This is the frame where there is an order and no frame.
            frame = ""
    else:
        text = duration_sql(chooser, length, stream.time.type)
        frame = f"RANGE BETWEEN {text} PRECEDING AND CURRENT ROW"
        batch_frame = f"RANGE BETWEEN {length} PRECEDING AND CURRENT ROW"
    spec = f"{keys} ORDER BY ts {frame}".strip()
    calls = chooser.sample(_FRAMED, 1, 3)
    selected = [_spelled(chooser, call[0], spec) for call in calls]
    batch = [call[1](f" OVER ({keys} ORDER BY {TIME_UNITS} {batch_frame})") for call in calls]
    return _case(chooser, "over_range", stream, selected, batch, spec)


def _partition(chooser: Chooser, stream: Stream) -> str:
    if chooser.chance(15):
        return ""
    names = [key.name for key in stream.keys if key.kind != "float"] or ["s"]
    return f"PARTITION BY {', '.join(chooser.sample(names, 1, 2))}"


def _spelled(chooser: Chooser, call: str, spec: str) -> str:
    return f"{call} OVER w" if chooser.chance(25) else f"{call} OVER ({spec})"


def _case(
    chooser: Chooser,
    feature: str,
    stream: Stream,
    selected: list[str],
    batch: list[str],
    spec: str,
) -> Case:
    columns = ["id", *chooser.sample(["x", "s"], 0, 2)]
    outputs = [f"{sql} AS o{index}" for index, sql in enumerate(selected)]
    oracle_outputs = [f"{sql} AS o{index}" for index, sql in enumerate(batch)]
    named = f" WINDOW w AS ({spec})" if any(" OVER w" in sql for sql in selected) else ""
    where = " WHERE x IS NOT NULL" if chooser.chance(25) and feature != "late_over" else ""
    return Case(
        feature,
        f"SELECT {', '.join([*columns, *outputs])} FROM {stream.name}{where}{named}",
        f"SELECT {', '.join([*columns, *oracle_outputs])} FROM {stream.name}{where}",
        (stream,),
        portable=not any(name in sql for sql in batch for name in ("sum(", "lag(")),
    )
