"""Every type of event time closes windows."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.test_jobs import idle

EPOCH = datetime.datetime(2024, 1, 15)
EVENT_TIMES = [
    *[pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC")],
    pa.timestamp("us", "America/New_York"),
]
INTEGERS = [
    *[pa.int8(), pa.int16(), pa.int32(), pa.int64()],
    *[pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()],
]


def closed_windows(times, sql):
    """Push rows with these times one by one; return the windows closed before the end, and all."""
    schema = pa.schema({"ts": times.type})
    made = ms.Session(partitions=2)
    made.create_stream("t", schema, event_time="ts")
    received = []
    with made.sql(sql).start(received.append) as job:
        for batch in pa.table([times], schema=schema).to_batches(max_chunksize=1):
            job.push("t", batch)
        idle(job)
        before = sum(batch.num_rows for batch in received)
    table = pa.Table.from_batches(received, job._runtime.root.schema).sort_by("window_start")
    assert table.schema.field("window_start").type == times.type
    return before, table


@pytest.mark.parametrize("type_", EVENT_TIMES, ids=str)
def test_every_timestamp_is_an_event_time(type_):
    seconds = [1, 2, 11, 25]
    times = pa.array([EPOCH + datetime.timedelta(seconds=s) for s in seconds], pa.timestamp("s"))
    times = times.cast(pa.timestamp(type_.unit))
    if type_.tz is not None:
        times = times.cast(pa.timestamp(type_.unit, "UTC")).cast(type_)
    sql = "SELECT window_start, count(*) AS n FROM t WINDOW TUMBLING(ts, INTERVAL '10' SECOND)"
    before, table = closed_windows(times, sql)
    assert before == 2
    assert table["n"].to_pylist() == [2, 1, 1]
    starts = table["window_start"].cast(pa.timestamp(type_.unit, type_.tz and "UTC")).to_pylist()
    epoch = EPOCH if type_.tz is None else EPOCH.replace(tzinfo=datetime.UTC)
    assert [start - epoch for start in starts] == [
        datetime.timedelta(seconds=s) for s in (0, 10, 20)
    ]


@pytest.mark.parametrize("type_", [pa.date32(), pa.date64()], ids=str)
def test_every_date_is_an_event_time(type_):
    days = [datetime.date(2024, 1, day) for day in (15, 15, 16, 18)]
    sql = "SELECT window_start, count(*) AS n FROM t WINDOW TUMBLING(ts, INTERVAL '1' DAY)"
    before, table = closed_windows(pa.array(days, type_), sql)
    assert before == 2
    assert table.to_pydict() == {"window_start": [days[0], days[2], days[3]], "n": [2, 1, 1]}


@pytest.mark.parametrize("type_", INTEGERS, ids=str)
def test_every_integer_is_an_event_time(type_):
    sql = "SELECT window_start, count(*) AS n FROM t WINDOW TUMBLING(ts, 10)"
    before, table = closed_windows(pa.array([1, 2, 11, 25], type_), sql)
    assert before == 2
    assert table.to_pydict() == {"window_start": [0, 10, 20], "n": [2, 1, 1]}
