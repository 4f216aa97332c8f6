"""Session windows, from push to sink, against sessions that are followed row by row in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.operators.base import Counters
from millstream.engine.operators.session import SessionAggregate
from millstream.engine.row_watermarks import RowWatermarks
from millstream.engine.step import AtHand
from millstream.kernels.compile import I64
from millstream.planner.nodes import Aggregate, AggregateCall, Source, WatermarkBound, Window
from tests.equivalence.compare import fold, rows_of

Row = tuple[str | None, int, int | None]  # key, event time, value
SCHEMA = pa.schema([("k", pa.string()), ("ts", pa.int64()), ("v", pa.int64())])
CALLS = "count(*) AS n, count(v) AS c, sum(v) AS s, min(v) AS lo, max(v) AS hi, avg(v) AS a"
SQL = f"SELECT k, window_start, window_end, {CALLS} FROM t GROUP BY k WINDOW SESSION(ts, 10)"


@dataclass
class Session:
    key: str | None
    first: int
    last: int
    arrival: int
    values: list[int | None] = field(default_factory=list)

    def result(self, gap: int) -> tuple[Any, ...]:
        some = [value for value in self.values if value is not None]
        calls: tuple[Any, ...] = (None, None, None, None)
        if some:
            calls = (sum(some), min(some), max(some), sum(some) / len(some))
        return self.key, self.first, self.last + gap, len(self.values), len(some), *calls


def by_definition(
    rows: Sequence[Row], gap: int, delay: int, lateness: int = 0
) -> tuple[list[Session], list[int]]:
    """Follow sessions row by row; return them in the order in which they end, and the late rows."""
    done: list[Session] = []
    running: list[Session] = []
    late: list[int] = []
    watermark: int | None = None
    for number, (key, time, value) in enumerate(rows):
        if watermark is not None:
            closed = [s for s in running if s.last + gap + lateness < watermark]
            done += closed
            running = [s for s in running if s not in closed]
        near = [s for s in running if s.key == key and s.first - gap <= time <= s.last + gap]
        if not near and watermark is not None and time + gap + lateness < watermark:
            late.append(number)
        else:
            merged = Session(key, time, time, number, [value])
            for session in near:
                running.remove(session)
                merged.first = min(merged.first, session.first)
                merged.last = max(merged.last, session.last)
                merged.arrival = min(merged.arrival, session.arrival)
                merged.values += session.values
            running.append(merged)
        watermark = time - delay if watermark is None else max(watermark, time - delay)
    return sorted([*done, *running], key=lambda s: (s.last, s.arrival)), late


def table_of(rows: Sequence[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    arrays = [pa.array(column, f.type) for column, f in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def query(sql: str, *, delay: int = 0, lateness: int = 0, **options: Any) -> ms.Query:
    session = ms.Session(**{"partitions": 1, **options})
    session.create_stream(
        "t", SCHEMA, event_time="ts", max_out_of_orderness=delay, allowed_lateness=lateness
    )
    return session.sql(sql)


def push(planned: ms.Query, rows: Sequence[Row], cuts: Sequence[int]) -> tuple[pa.Table, int]:
    """Push rows cut into batches; return what came out, and how many rows were late."""
    received: list[pa.RecordBatch] = []
    table = table_of(rows).combine_chunks()
    with planned.start(sink=received.append) as job:
        for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            if start < stop:
                job.push("t", table.slice(start, stop - start))
    stats = job.stats()
    assert stats.rows_in == stats.rows_processed + stats.rows_late == len(rows)
    return pa.Table.from_batches(received, planned.schema), stats.rows_late


def ways_to_cut(n_rows: int, random_cuts: Sequence[int]) -> list[list[int]]:
    some = sorted({cut for cut in random_cuts if cut < n_rows})
    return [list(range(1, n_rows)), list(range(7, n_rows, 7)), [], some]


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    n_rows = draw(st.integers(1, 40))
    disorder = draw(st.sampled_from([0, 15, 60]))
    pace = draw(st.sampled_from([0, 2, 9]))
    keys = st.sampled_from(["a", "b", None])
    values = st.none() | st.integers(-9, 9)
    return [
        (draw(keys), row * pace + draw(st.integers(0, disorder)), draw(values))
        for row in range(n_rows)
    ]


cut_sets = st.lists(st.integers(1, 39), max_size=5)
delays = st.sampled_from([0, 5, 20, 1000])


@settings(max_examples=20)
@given(streams(), delays, cut_sets)
def test_final_results_are_those_of_the_rows_one_by_one(
    rows: list[Row], delay: int, random_cuts: list[int]
) -> None:
    sessions, late = by_definition(rows, 10, delay)
    planned = query(SQL + " EMIT FINAL", delay=delay)
    for cuts in ways_to_cut(len(rows), random_cuts):
        result, n_late = push(planned, rows, cuts)
        # The order is part of the claim: by end, and for the same end by arrival.
        assert rows_of(result) == [session.result(10) for session in sessions]
        assert n_late == len(late)


@settings(max_examples=20)
@given(
    streams(), delays, st.sampled_from([0, 8, 40]), cut_sets, st.sampled_from(["upsert", "retract"])
)
def test_changes_lead_to_the_final_results(
    rows: list[Row], delay: int, lateness: int, random_cuts: list[int], changelog: str
) -> None:
    sessions, late = by_definition(rows, 10, delay, lateness)
    expected = sorted((session.result(10) for session in sessions), key=repr)
    emits = ["EMIT CHANGES"] if lateness == 0 else ["EMIT CHANGES", "EMIT FINAL"]
    for emit in emits:
        options = {"delay": delay, "lateness": lateness, "changelog": changelog}
        planned = query(f"{SQL} {emit}", **options)
        assert planned.key_columns == ("k", "window_start", "window_end")
        for cuts in ways_to_cut(len(rows), random_cuts):
            result, n_late = push(planned, rows, cuts)
            folded = fold(result, planned.key_columns)
            assert sorted(rows_of(folded), key=repr) == expected
            assert n_late == len(late)


def versions(sql: str, rows: Sequence[Row], **options: Any) -> list[tuple[Any, ...]]:
    """Push rows one by one and return all that came out."""
    result, _ = push(query(sql, **options), rows, list(range(1, len(rows))))
    return rows_of(result)


SUMS = "SELECT k, window_start, window_end, sum(v) AS s FROM t GROUP BY k WINDOW SESSION(ts, 10)"


def test_a_growing_session_takes_its_old_window_back() -> None:
    rows: list[Row] = [("a", 0, 1), ("a", 7, 2), ("a", 3, 4), ("a", 7, 0), ("b", 30, 8)]
    assert versions(f"{SUMS} EMIT CHANGES", rows, delay=100) == [
        ("a", 0, 10, 1, "+I"),
        ("a", 0, 10, 1, "-D"),
        ("a", 0, 17, 3, "+I"),
        # Within the session the window stays, and so does its key. A sum that stays is no news.
        ("a", 0, 17, 7, "+U"),
        ("b", 30, 40, 8, "+I"),
    ]


@pytest.mark.parametrize("changelog", ["upsert", "retract"])
def test_a_merge_takes_back_both_sessions_before_the_new_one_is_sent(changelog: str) -> None:
    rows: list[Row] = [("a", 20, 1), ("a", 0, 2), ("a", 10, 4)]
    assert versions(f"{SUMS} EMIT CHANGES", rows, delay=100, changelog=changelog) == [
        ("a", 20, 30, 1, "+I"),
        ("a", 0, 10, 2, "+I"),
        ("a", 0, 10, 2, "-D"),
        ("a", 20, 30, 1, "-D"),
        ("a", 0, 30, 7, "+I"),
    ]


def test_without_the_end_in_the_key_a_growing_session_is_updated() -> None:
    sql = (
        "SELECT k, window_start, sum(v) AS s FROM t GROUP BY k WINDOW SESSION(ts, 10) EMIT CHANGES"
    )
    rows: list[Row] = [("a", 20, 1), ("a", 25, 2), ("a", 0, 4), ("a", 10, 8)]
    assert versions(sql, rows, delay=100) == [
        ("a", 20, 1, "+I"),
        ("a", 20, 3, "+U"),
        ("a", 0, 4, "+I"),
        # The session that began at 0 is absorbed: its row goes before another takes its key.
        ("a", 0, 4, "-D"),
        ("a", 20, 3, "-D"),
        ("a", 0, 15, "+I"),
    ]


def test_having_lets_a_session_come_and_go() -> None:
    sql = f"{SUMS} HAVING sum(v) > 2 EMIT CHANGES"
    rows: list[Row] = [("a", 0, 1), ("a", 0, 2), ("a", 5, -1), ("a", 5, 4)]
    assert versions(sql, rows, delay=100) == [
        ("a", 0, 10, 3, "+I"),
        ("a", 0, 10, 3, "-D"),
        ("a", 0, 15, 6, "+I"),
    ]


def test_lateness_revises_a_session_that_has_ended() -> None:
    rows: list[Row] = [("a", 0, 1), ("b", 30, 2), ("a", 5, 4), ("a", 12, 8), ("b", 31, 16)]
    # The session of 0 has ended when the watermark is 30. The rows at 5 and at 12 revise it.
    assert versions(f"{SUMS} EMIT FINAL", rows, lateness=20) == [
        ("a", 0, 10, 1, "+I"),
        ("a", 0, 10, 1, "-D"),
        ("a", 0, 15, 5, "+I"),
        ("a", 0, 15, 5, "-D"),
        ("a", 0, 22, 13, "+I"),
        ("b", 30, 41, 18, "+I"),
    ]


def test_a_session_that_had_ended_and_grows_beyond_the_watermark_is_taken_back_until_it_ends() -> (
    None
):
    rows: list[Row] = [("a", 0, 1), ("b", 15, 2), ("a", 9, 4), ("b", 40, 8)]
    assert versions(f"{SUMS} EMIT FINAL", rows, lateness=20) == [
        ("a", 0, 10, 1, "+I"),
        ("a", 0, 10, 1, "-D"),
        ("a", 0, 19, 5, "+I"),
        ("b", 15, 25, 2, "+I"),
        ("b", 40, 50, 8, "+I"),
    ]


def test_late_rows_can_be_had_back_with_the_session_that_they_missed() -> None:
    late: list[pa.RecordBatch] = []
    rows: list[Row] = [("a", 0, 1), ("b", 30, 2), ("a", 3, 4), ("a", 20, 8), ("b", 2, 16)]
    with query(SUMS + " EMIT FINAL").start(sink=lambda batch: None, late_sink=late.append) as job:
        job.push("t", table_of(rows))
    columns = ["k", "v", "window_start", "window_end", "watermark"]
    assert [row for batch in late for row in batch.select(columns).to_pylist()] == [
        {"k": "a", "v": 4, "window_start": 3, "window_end": 13, "watermark": 30},
        {"k": "b", "v": 16, "window_start": 2, "window_end": 12, "watermark": 30},
    ]
    assert job.stats().rows_late == 2


@pytest.mark.parametrize("batch_rows", [1, 2, 7])
def test_calls_over_kept_rows_follow_their_sessions(batch_rows: int) -> None:
    calls = "count(DISTINCT v) AS d, median(v) AS m, array_agg(v ORDER BY ts) AS l, sum(v) AS s"
    sql = f"SELECT k, window_start, {calls} FROM t GROUP BY k WINDOW SESSION(ts, 10) EMIT FINAL"
    rows: list[Row] = [
        ("a", 20, 1), ("b", 0, 5), ("a", 0, 2), ("a", 10, 2), ("c", 70, 6), ("b", 90, 7)
    ]  # fmt: skip
    result, _ = push(query(sql, delay=20), rows, list(range(batch_rows, len(rows), batch_rows)))
    assert rows_of(result) == [
        ("b", 0, 1, 5, (5,), 5),
        ("a", 0, 2, 2, (2, 2, 1), 5),
        ("c", 70, 1, 6, (6,), 6),
        ("b", 90, 1, 7, (7,), 7),
    ]


@pytest.mark.parametrize("batch_rows", [1, 2, 7])
def test_sessions_merge_after_a_batch_of_late_rows_alone(batch_rows: int) -> None:
    sql = "SELECT k, median(v) AS m FROM t GROUP BY k WINDOW SESSION(ts, 10) EMIT FINAL"
    rows: list[Row] = [
        ("a", 100, 1), ("b", 85, 2), ("a", 0, 3), ("a", 1, 4), ("b", 96, 5), ("b", 90, 9)
    ]  # fmt: skip
    planned = query(sql, delay=20)
    result, n_late = push(planned, rows, list(range(batch_rows, len(rows), batch_rows)))
    assert rows_of(result) == [("b", 5), ("a", 1)]
    assert n_late == 2


def test_one_session_over_all_rows_without_keys() -> None:
    sql = "SELECT window_start, window_time, count(*) AS n FROM t WINDOW SESSION(ts, 10) EMIT FINAL"
    rows: list[Row] = [("a", 0, 1), ("b", 8, 2), ("c", 19, 3), ("d", 18, 4)]
    result, _ = push(query(sql, delay=5, partitions=3), rows, [1, 2])
    assert rows_of(result) == [(0, 28, 4)]


TIMES = [
    (pa.timestamp("s"), "INTERVAL '10' SECOND", 10),
    (pa.timestamp("ms"), "INTERVAL '10' SECOND", 10_000),
    (pa.timestamp("us", "Europe/Berlin"), "INTERVAL '10' SECOND", 10_000_000),
    (pa.timestamp("ns"), "INTERVAL '10' SECOND", 10_000_000_000),
    (pa.date32(), "INTERVAL '2' DAY", 2),
    (pa.date64(), "INTERVAL '2' DAY", 2 * 86_400_000),
    (pa.int8(), "10", 10),
    (pa.int16(), "10", 10),
    (pa.int32(), "10", 10),
    (pa.int64(), "10", 10),
    (pa.uint8(), "10", 10),
    (pa.uint64(), "10", 10),
]


@pytest.mark.parametrize(("type_", "gap", "units"), TIMES, ids=[str(row[0]) for row in TIMES])
def test_any_type_of_event_time(type_: pa.DataType, gap: str, units: int) -> None:
    session = ms.Session(partitions=2)
    schema = pa.schema([("ts", type_)])
    session.create_stream("t", schema, event_time="ts")
    storage = pa.int64() if type_.bit_width == 64 else pa.int32()
    times = pa.array([0, units, 3 * units], storage).cast(type_, safe=False)
    sql = f"SELECT window_start, window_end, count(*) AS n FROM t WINDOW SESSION(ts, {gap})"
    result = session.sql(sql).run({"t": pa.table([times], schema=schema)}, batch_rows=1)
    assert result.schema.field("window_start").type == type_
    assert result.schema.field("window_end").type == type_
    assert rows_of(result) == [(0, 2 * units, 2), (3 * units, 4 * units, 1)]


@pytest.mark.parametrize(
    ("type_", "time"),
    [(pa.int64(), 2**63 - 10), (pa.int8(), 118), (pa.uint8(), 246), (pa.uint64(), 2**63 - 10)],
    ids=str,
)
def test_a_session_whose_end_is_no_event_time_is_refused(type_: pa.DataType, time: int) -> None:
    session = ms.Session(partitions=1)
    schema = pa.schema([("ts", type_)])
    session.create_stream("t", schema, event_time="ts")
    planned = session.sql("SELECT window_end, count(*) AS n FROM t WINDOW SESSION(ts, 10)")
    last = planned.run({"t": pa.table([pa.array([time - 1], type_)], schema=schema)})
    assert last.column("window_end").to_pylist() == [time + 9]
    with pytest.raises(ms.MillstreamError, match=f"room in .* for the end of a session.*{time}"):
        planned.run({"t": pa.table([pa.array([0, time], type_)], schema=schema)})


def test_times_near_the_least_int64() -> None:
    least = -(2**63)
    rows: list[Row] = [("a", least, 1), ("a", least + 10, 2), ("a", least + 21, 4)]
    result, _ = push(query(SUMS, delay=5), rows, [1])
    assert rows_of(result) == [("a", least, least + 20, 3), ("a", least + 21, least + 31, 4)]


class Judge(RowWatermarks):
    """Lets all rows of a batch meet one watermark."""

    def __init__(self) -> None:
        super().__init__((), AtHand())
        self.watermark: int | None = None

    def of(self, batch: pa.RecordBatch) -> I64 | None:
        return None if self.watermark is None else np.full(batch.num_rows, self.watermark)


class Nowhere:
    def emit(self, batch: pa.RecordBatch) -> None:
        pass


SUM = AggregateCall("s", "sum", ("v",), pa.int64(), 'sum("v")')
MEDIAN = AggregateCall("s", "median", ("v",), pa.float64(), 'median("v")', path="buffered")


def session_node(call: AggregateCall) -> Aggregate:
    names = ("window_start", "window_end", "window_time")
    fields = [*((name, pa.int64()) for name in names), ("k", pa.string()), ("s", call.result_type)]
    bounds = (WatermarkBound("t"),)
    return Aggregate(
        input=Source("t", SCHEMA, bounds),
        keys=("k",),
        window=Window("session", "ts", pa.int64(), size=10, step=10),
        calls=(call,),
        emit="final",
        schema=pa.schema(fields),
        watermark=bounds,
    )


def state_bytes(
    call: AggregateCall, n_batches: int, rows_per_batch: int, late_from: int | None = None
) -> list[int]:
    """Give each of many rows a key of its own, a hundred keys a gap; return bytes after batches."""
    judge = Judge()
    operator = SessionAggregate(session_node(call), Counters(), None, judge, None, {})
    found = []
    for number in range(n_batches):
        rows = np.arange(number * rows_per_batch, (number + 1) * rows_per_batch)
        if late_from is not None and number >= late_from:
            judge.watermark = 10**9
        columns = [pa.array(rows).cast(pa.string()), pa.array(rows // 10), pa.array(rows)]
        batch = pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        operator.process_batch(batch, Nowhere())
        operator.end_batch(Nowhere())
        operator.process_watermark(int(rows[-1]) // 10, Nowhere())
        found.append(operator.state_bytes)
    return found


def test_keys_without_open_sessions_take_no_memory() -> None:
    # A million keys over ten thousand gaps.
    found = state_bytes(SUM, 50, 20_000)
    assert max(found[5:]) <= 1.01 * max(found[:5])


def test_rows_kept_of_closed_sessions_take_no_memory() -> None:
    found = state_bytes(MEDIAN, 40, 2000)
    assert max(found[5:]) <= 1.01 * max(found[:5])


def test_keys_of_late_rows_take_no_memory() -> None:
    found = state_bytes(SUM, 50, 5000, late_from=5)
    assert max(found[10:]) <= 1.01 * max(found[:10])
