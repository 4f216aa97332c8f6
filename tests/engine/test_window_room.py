"""Windows at the ends of the type of event time: right, or refused; never wrapped around."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators.window_room import WindowRoom, time_limits
from millstream.planner.nodes import Window

LIMITS = {pa.int8(): (-128, 127), pa.uint8(): (0, 255)}
SHAPES = [
    ("tumble", 10, 10),
    ("tumble", 100, 100),
    ("hop", 20, 10),
    ("hop", 30, 3),
    ("cumulate", 30, 10),
    ("tumble", 1, 1),
]


def bounds(kind: str, size: int, step: int, offset: int, time: int) -> tuple[int, int]:
    """The first start and the last end of the windows that a time is in."""
    if kind == "cumulate":
        start = (time - offset) // size * size + offset
        return start, start + size
    last_start = (time - offset) // step * step + offset
    starts = [last_start - n * step for n in range(size // step)]
    return min(starts), max(starts) + size


@pytest.mark.parametrize("type_", list(LIMITS))
@pytest.mark.parametrize("offset", [0, 3, -4])
@pytest.mark.parametrize(("kind", "size", "step"), SHAPES)
def test_rows_are_refused_if_a_window_does_not_fit(kind, size, step, offset, type_):
    least, greatest = LIMITS[type_]
    assert time_limits(type_) == LIMITS[type_]
    room = WindowRoom(Window(kind, "t", type_, size, step, offset))
    for time in range(least, greatest + 1):
        first, last = bounds(kind, size, step, offset, time)
        pane = (time - offset) // step
        if least <= first and last <= greatest:
            room.check([pane], [time])
        else:
            with pytest.raises(
                ms.SchemaError, match=rf"room in {type_} .* {size} around it: {time}"
            ):
                room.check([pane], [time])


TIMES = {
    "int8": (pa.int8(), 127),
    "uint8": (pa.uint8(), 255),
    "int16": (pa.int16(), -32_768),
    "int64": (pa.int64(), 2**63 - 1),
    "nanoseconds": (pa.timestamp("ns"), 2**63 - 1),
    "date": (pa.date32(), 2**31 - 1),
}
WINDOWS = {
    "tumble": "TUMBLING(ts, {size})",
    "hop": "SLIDING(ts, {size}, {size})",
    "session": "SESSION(ts, {size})",
}


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("emit", ["FINAL", "CHANGES"])
@pytest.mark.parametrize("window", list(WINDOWS))
@pytest.mark.parametrize("name", list(TIMES))
def test_queries_refuse_times_without_room(name, window, emit, partitions):
    type_, extreme = TIMES[name]
    if window == "session" and extreme < 0:
        pytest.skip("a session begins with its first row")
    size = {"date": "INTERVAL '10' DAY", "nanoseconds": "INTERVAL '10' SECOND"}.get(name, "10")
    session = ms.Session(partitions=partitions)
    schema = pa.schema({"ts": type_, "k": pa.int64()})
    session.create_stream("t", schema, event_time="ts")
    query = session.sql(
        "SELECT k, window_start, window_end, count(*) AS n FROM t GROUP BY k "
        f"WINDOW {WINDOWS[window].format(size=size)} EMIT {emit}"
    )

    def run(*times: int) -> list[dict[str, object]]:
        words = pa.array(times, pa.int32() if type_.bit_width == 32 else pa.int64())
        columns = [words.cast(type_), pa.array([1] * len(times), pa.int64())]
        table = pa.table(columns, schema=schema)
        return query.run({"t": table}, batch_rows=2).to_pylist()

    rows = run(0, 1)
    assert [row["n"] for row in rows] == [2]
    with pytest.raises(ms.JobFailed, match="event time must leave room"):
        # In order, so that none is late.
        run(*sorted([0, 1, extreme, extreme]))


def test_the_last_window_that_fits_is_right():
    session = ms.Session(partitions=2)
    table = pa.table({"ts": pa.array([117, 118, 119, 109], pa.int8())})
    session.create_stream("t", table.schema, event_time="ts", max_out_of_orderness=10)
    query = session.sql("SELECT window_start, window_end, count(*) AS n FROM t WINDOW TUMBLING(10)")
    rows = query.run({"t": table}, batch_rows=1).to_pylist()
    assert [tuple(row.values()) for row in rows] == [(100, 110, 1), (110, 120, 3)]
