"""Watermarks of partitioned and silent sources, and what a session adds to its queries."""

from __future__ import annotations

from unittest.mock import patch

import pyarrow as pa
import pytest
from datafusion import Accumulator
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine import event_time
from millstream.engine.event_time import NO_WATERMARK, WatermarkTracker
from millstream.kernels.windows import scan_times
from millstream.planner.catalog import StreamDefinition

SCHEMA = pa.schema({"k": pa.string(), "v": pa.int64(), "ts": pa.timestamp("s")})
WINDOWS = "SELECT window_start, sum(v) AS s FROM t WINDOW TUMBLING(10s)"


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rows(*seconds: int, v: int = 1) -> pa.RecordBatch:
    times = pa.array(seconds, pa.int64()).cast(pa.timestamp("s"))
    return pa.record_batch([["k"] * len(seconds), [v] * len(seconds), times], schema=SCHEMA)


def watermark(job: ms.Job, stream: str = "t") -> int | None:
    return job.stats().watermarks[stream]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def session(clock: Clock | None = None, **stream: object) -> ms.Session:
    options = {} if clock is None else {"clock": clock}
    made = ms.Session(partitions=2, **options)
    made.create_stream("t", SCHEMA, event_time="ts", **stream)
    return made


def test_the_slowest_source_partition_holds_the_watermark():
    with session().sql(WINDOWS).start(ms.CollectSink()) as job:
        job.push("t", rows(100), source_partition=0)
        assert watermark(job) == 100
        job.push("t", rows(200), source_partition=1)
        assert watermark(job) == 100
        job.push("t", rows(150), source_partition=0)
        assert watermark(job) == 150


def test_rows_of_a_slow_source_partition_are_not_late():
    sink = ms.CollectSink()
    with session(source_partitions=2).sql(WINDOWS).start(sink) as job:
        job.push("t", rows(5, 95), source_partition=0)
        job.push("t", rows(4, 8, 25, 3), source_partition=1)
    assert job.stats().rows_late == 1  # The row at 3, after 25 in its own partition.
    assert sorted(sink.table()["s"].to_pylist()) == [1, 1, 3]


def test_a_declared_source_partition_is_waited_for():
    with session(source_partitions=2).sql(WINDOWS).start(ms.CollectSink()) as job:
        job.push("t", rows(100), source_partition=1)
        assert watermark(job) is None
        job.push("t", rows(50), source_partition=0)
        assert watermark(job) == 50
        with pytest.raises(ms.SourceError, match="2 source partitions"):
            job.push("t", rows(60), source_partition=2)


def test_an_idle_source_partition_stops_counting_and_counts_again(clock):
    made = session(clock, source_partitions=2, idle_timeout="30 seconds")
    with made.sql(WINDOWS).start(ms.CollectSink()) as job:
        job.push("t", rows(10), source_partition=0)
        job.push("t", rows(20), source_partition=1)
        clock.now = 29
        job.push("t", rows(40), source_partition=1)
        assert watermark(job) == 10
        clock.now = 31
        job.push("t", rows(50), source_partition=1)
        assert watermark(job) == 50
        # Back again, it is behind what has been promised since.
        job.push("t", rows(15), source_partition=0)
        assert watermark(job) == 50
        job.push("t", rows(70), source_partition=1)
        assert watermark(job) == 50
    assert job.stats().rows_late == 1


def test_an_idle_stream_does_not_hold_a_union_back(clock):
    made = session(clock, idle_timeout="10 seconds")
    made.create_stream("u", SCHEMA, event_time="ts", idle_timeout="10 seconds")
    sink = ms.CollectSink()
    sql = (
        f"{WINDOWS.replace('FROM t', 'FROM (SELECT v, ts FROM t UNION ALL SELECT v, ts FROM u) b')}"
    )
    with made.sql(sql.replace("TUMBLING(10s)", "TUMBLING(ts, 10s)")).start(sink) as job:
        job.push("u", rows(1))
        clock.now = 20
        job.push("t", rows(5, 40))
        # The window of the first ten seconds has closed, so this row comes too late for it.
        job.push("u", rows(2))
    assert job.stats().rows_late == 1
    assert sorted(sink.table()["s"].to_pylist()) == [1, 2]


def test_a_watermark_of_the_source_closes_windows_and_cannot_go_back():
    sink = ms.CollectSink()
    job = session(max_out_of_orderness="1 hour").sql(WINDOWS).start(sink)
    job.push("t", rows(3, 14))
    job.advance_watermark("t", 20)
    with pytest.raises(ms.SourceError, match="cannot go back from 20 to 19"):
        job.advance_watermark("t", 19)
    job.push("t", rows(12))
    job.finish()
    assert job.stats().rows_late == 1
    assert sorted(sink.table()["s"].to_pylist()) == [1, 1]


def tracker(clock: Clock, type_: pa.DataType) -> WatermarkTracker:
    schema = pa.schema({"k": pa.string(), "ts": type_})
    stream = StreamDefinition("t", schema, event_time="ts", max_out_of_orderness=2)
    return WatermarkTracker(stream, clock)


def test_a_batch_that_is_only_looked_at_changes_nothing(clock):
    seen = tracker(clock, pa.timestamp("s"))
    batch = rows(10, 20, 13).select(["k", "ts"])
    first, again = seen.observe(batch, 3), seen.observe(batch, 3)
    assert first.batch["__ms_watermark"].to_pylist() == [NO_WATERMARK, 8, 18]
    assert first == again
    assert (first.watermark, first.bounds) == (18, (10, 20, False))
    assert (seen.watermark, seen.max_time, seen.progress()) == (NO_WATERMARK, None, [])
    seen.take(again)
    assert (seen.watermark, seen.max_time) == (18, 20)
    assert [source.source_partition for source in seen.progress()] == [3]


@pytest.mark.parametrize(
    "type_", [pa.int64(), pa.timestamp("ns"), pa.date64(), pa.int16(), pa.uint64(), pa.date32()]
)
def test_event_times_of_every_type_are_read_from_where_a_slice_begins(type_, clock):
    day = 86_400_000 if type_ == pa.date64() else 1
    storage = pa.int32() if type_ == pa.date32() else pa.int64()
    times = pa.array([time * day for time in (99, 4, 7, 5, 0)], storage)
    times = times.cast(type_)
    batch = pa.record_batch([["k"] * 5, times], ["k", "ts"]).slice(1, 3)
    assert tracker(clock, type_).observe(batch, 0).bounds == (4 * day, 7 * day, False)
    assert tracker(clock, type_).observe(batch.slice(0, 2), 0).bounds == (4 * day, 7 * day, True)


def test_an_event_time_that_is_null_is_refused(clock):
    batch = pa.record_batch([["k"] * 2, pa.array([1, None], pa.int64())], ["k", "ts"])
    with pytest.raises(ms.SchemaError, match=r"event time column 'ts': .* NULL: row 1"):
        tracker(clock, pa.int64()).observe(batch, 0)


def test_a_table_is_replaced_between_two_micro_batches():
    made = session()
    made.create_table("names", pa.table({"k": ["k"], "name": ["old"]}))
    sink = ms.CollectSink()
    query = made.sql("SELECT name, v FROM t JOIN names ON t.k = names.k")
    with query.start(sink) as job:
        for n in range(20):
            job.push("t", rows(n, v=n))
        made.replace_table("names", pa.table({"k": ["k", "k"], "name": ["new", "newer"]}))
        for n in range(20, 40):
            job.push("t", rows(n, v=n))
    got = sorted((row["v"], row["name"]) for row in sink.table().to_pylist())
    expected = [(n, "old") for n in range(20)]
    expected += [(n, name) for n in range(20, 40) for name in ("new", "newer")]
    assert got == expected
    assert query.run({"t": rows(1)})["name"].to_pylist() == ["new", "newer"]
    with pytest.raises(ms.SchemaError, match="there is no table 'nope'"):
        made.replace_table("nope", pa.table({"k": ["k"]}))
    with pytest.raises(ms.SchemaError, match="name"):
        made.replace_table("names", pa.table({"k": ["k"]}))


class Product(Accumulator):
    """Multiplies what it gets."""

    def __init__(self) -> None:
        self._product = 1

    def update(self, values: pa.Array) -> None:
        for value in values.to_pylist():
            self._product *= 1 if value is None else value

    def merge(self, states: list[pa.Array]) -> None:
        self.update(states[0])

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(self._product)]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(self._product)


@pytest.mark.parametrize("partitions", [1, 3])
def test_an_aggregate_of_the_users_runs_with_and_without_windows(partitions):
    made = ms.Session(partitions=partitions)
    made.create_stream("t", SCHEMA, event_time="ts")
    made.register_udaf("product", Product, [pa.int64()], pa.int64(), [pa.int64()])
    data = {"t": pa.Table.from_batches([rows(1, 2, v=3), rows(11, v=5), rows(12, v=7)])}
    total = made.sql("SELECT product(v) AS p, count(*) AS n FROM t EMIT FINAL")
    assert total.run(data, batch_rows=1).to_pylist() == [{"p": 315, "n": 4}]
    windows = made.sql("SELECT window_start, product(v) AS p FROM t WINDOW TUMBLING(10s)")
    assert sorted(windows.run(data, batch_rows=1)["p"].to_pylist()) == [9, 35]
    assert "buffered" in total.explain()
    with pytest.raises(ms.SchemaError, match="registered already"):
        made.register_udaf("product", Product, [pa.int64()], pa.int64(), [pa.int64()])


def test_explain_is_a_query_whose_result_is_the_plan():
    made = session()
    explained = made.sql("EXPLAIN " + WINDOWS)
    lines = explained.run()["plan"].to_pylist()
    assert lines == made.sql(WINDOWS).explain().splitlines()
    assert explained.schema.names == ["plan"]
    with pytest.raises(ms.SqlError, match="starts no job"):
        explained.start(print)
    with pytest.raises(ms.SqlError) as error:
        made.sql("EXPLAIN SELECT nope FROM t")
    assert (error.value.line, error.value.column) == (1, 16)


@pytest.mark.parametrize("type_", [pa.int64(), pa.timestamp("ns"), pa.int32()])
@settings(max_examples=100)
@given(data=st.data())
def test_to_look_ahead_changes_nothing(type_, data):
    clock = Clock()
    plain, ahead = tracker(clock, type_), tracker(clock, type_)
    n_scans = 0

    def spied(*given):
        nonlocal n_scans
        n_scans += 1
        return scan_times(*given)

    with (
        patch.object(event_time, "FEW_ROWS", 0),
        patch.object(event_time, "scan_times", spied),
    ):
        for _ in range(data.draw(st.integers(1, 4))):
            of_batches = st.lists(st.integers(0, 50), min_size=1, max_size=4)
            batches = [
                pa.record_batch([["k"] * len(times), pa.array(times, type_)], ["k", "ts"])
                for times in data.draw(st.lists(of_batches, max_size=4))
            ]
            partition = data.draw(st.integers(0, 1))
            ahead.look_ahead(batches, partition)
            disturbance, place = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
            n_before = n_scans
            for number, batch in enumerate(batches):
                if number == place and disturbance == 1:
                    watermark = plain.watermark + 5
                    plain.advance(watermark)
                    ahead.advance(watermark)
                elif number == place and disturbance == 2:
                    # Another thread pushes, perhaps for the same partition.
                    other = data.draw(st.integers(0, 1))
                    for seen in (plain, ahead):
                        seen.take(seen.observe(batches[0], other))
                elif number == place and disturbance == 3:
                    # There was no room for it at first, or never.
                    assert ahead.observe(batch, partition) == plain.observe(batch, partition)
                    if data.draw(st.booleans()):
                        continue
                expected, observed = (
                    plain.observe(batch, partition),
                    ahead.observe(batch, partition),
                )
                assert observed[1:] == expected[1:]
                assert observed.batch.equals(expected.batch)
                plain.take(expected)
                ahead.take(observed)
                assert ahead.watermark == plain.watermark
                assert ahead.max_time == plain.max_time
            if len(batches) > 1 and disturbance == 0 and type_ != pa.int32():
                # Each batch has been looked through by the plain one alone.
                assert n_scans - n_before == len(batches)


def test_a_null_time_is_told_of_by_its_batch(clock):
    seen = tracker(clock, pa.int64())
    first, second = (
        pa.record_batch([["k"] * 2, pa.array(times, pa.int64())], ["k", "ts"])
        for times in ([1, 2], [5, None])
    )
    with patch.object(event_time, "FEW_ROWS", 0):
        seen.look_ahead([first, second], 0)
        seen.take(seen.observe(first, 0))
        with pytest.raises(ms.SchemaError, match="row 1"):
            seen.observe(second, 0)


def test_no_batch_of_a_list_is_taken_if_one_has_a_null_time():
    job = session().sql(WINDOWS).start(ms.CollectSink())
    null = rows(3).set_column(2, "ts", pa.nulls(1, pa.timestamp("s")))
    with pytest.raises(ms.SchemaError, match="NULL: row 0"):
        job.push("t", [rows(1, 2), null])
    assert job.stats().rows_in == 0
    job.push("t", [rows(1, 2), rows(3)])
    job.finish()
    assert job.stats().rows_in == 3


def test_what_was_looked_at_and_never_came_does_not_matter(clock):
    seen = tracker(clock, pa.timestamp("s"))
    never, batches = (
        [rows(second).select(["k", "ts"]) for second in seconds] for seconds in ((1, 2), (3, 4))
    )
    with patch.object(event_time, "FEW_ROWS", 0):
        seen.look_ahead(never, 0)
        seen.look_ahead(batches, 0)
        with patch.object(event_time, "scan_times") as scan:
            for batch in batches:
                seen.take(seen.observe(batch, 0))
    assert (scan.call_count, seen.max_time) == (0, 4)


def test_a_bounded_run_looks_ahead_and_a_push_of_one_batch_does_not():
    looked_at = []
    look = WatermarkTracker.look_ahead

    def spied(seen, batches, source_partition):
        looked_at.append(len(batches))
        look(seen, batches, source_partition)

    with patch.object(WatermarkTracker, "look_ahead", spied):
        table = pa.Table.from_batches([rows(*range(660))])
        session().sql(WINDOWS).run({"t": table}, batch_rows=10)
        assert looked_at == [64, 2]
        looked_at.clear()
        with session().sql(WINDOWS).start(ms.CollectSink()) as job:
            job.push("t", rows(1))
            job.push("t", [rows(2), rows(), rows(3)])
        assert looked_at == [2]


def test_no_batch_of_a_list_is_taken_if_one_has_a_time_beyond_int64():
    made = ms.Session()
    made.create_stream("t", pa.schema({"ts": pa.uint64()}), event_time="ts")
    job = made.sql("SELECT ts FROM t").start(ms.CollectSink())
    batches = [pa.record_batch([pa.array([time], pa.uint64())], ["ts"]) for time in (5, 2**63)]
    with pytest.raises(ms.SchemaError, match="below 2\\*\\*63"):
        job.push("t", batches)
    assert job.stats().rows_in == 0
    job.cancel()
