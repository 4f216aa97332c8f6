"""What a job takes, when it answers, and what it says about itself."""

from __future__ import annotations

import datetime
import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from tests.equivalence.compare import fold, rows_of

TIMEOUT_SECONDS = 30
SCHEMA = pa.schema({"k": pa.string(), "v": pa.int64(), "ts": pa.int64()})
FINAL = "SELECT k, count(*) AS n, sum(v) AS total FROM t GROUP BY k EMIT FINAL"
CHANGES = FINAL.replace("FINAL", "CHANGES")
WINDOWS = """
    SELECT window_start, k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, 10)
"""


def session(partitions=2, event_time="ts", out_of_order=0, **options):
    made = ms.Session(partitions=partitions, **options)
    made.create_stream(
        "t", SCHEMA, event_time=event_time, max_out_of_orderness=out_of_order if event_time else 0
    )
    return made


def rows(*values, schema=SCHEMA):
    """Make a batch of tuples in the order of the schema's columns."""
    columns = zip(*values, strict=True) if values else [()] * len(schema)
    arrays = [
        pa.array(list(column), type_) for column, type_ in zip(columns, schema.types, strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)


def idle(job):
    """Wait until everything that was pushed is processed."""
    assert job._runtime._in_flight.wait_empty(TIMEOUT_SECONDS)


# Changes and final answers

ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | st.integers(-2, 2), st.integers(0, 40)),
    max_size=12,
)
AGGREGATES = [
    "SELECT k, count(*) AS n, sum(v) AS total FROM t GROUP BY k",
    "SELECT k, min(v) AS least, max(v) AS greatest FROM t GROUP BY k",
    "SELECT k, sum(v) AS total FROM t GROUP BY k HAVING sum(v) > 0",
    "SELECT count(*) AS n, sum(v) AS total FROM t",
    "SELECT k, window_start, sum(v) AS total FROM t GROUP BY k WINDOW TUMBLING(ts, 10)",
    "SELECT window_start, count(v) AS n FROM t WINDOW TUMBLING(ts, 10) HAVING count(v) < 3",
]


@pytest.mark.parametrize("changelog", ["upsert", "retract"])
@pytest.mark.parametrize("sql", AGGREGATES)
@settings(max_examples=8)
@given(values=ROWS, batch_rows=st.sampled_from([1, 3, None]), partitions=st.integers(1, 3))
def test_changes_fold_to_the_final_answer(sql, changelog, values, batch_rows, partitions):
    """The fold refuses versions that repeat, start or end where they must not."""
    made = session(partitions, out_of_order=100, changelog=changelog)
    table = pa.Table.from_batches([rows(*values)])
    changes = made.sql(sql + " EMIT CHANGES")
    folded = fold(changes.run({"t": table}, batch_rows=batch_rows), changes.key_columns)
    final = made.sql(sql + " EMIT FINAL").run({"t": table}, batch_rows=batch_rows)
    assert sorted(map(repr, rows_of(folded))) == sorted(map(repr, rows_of(final)))


def versions(sql, *batches, **options):
    """Run a query and give the rows that come out, in order."""
    table = pa.Table.from_batches([rows(*batch) for batch in batches])
    received = []
    with session(1, None, **options).sql(sql).start(received.append) as job:
        for batch in table.to_batches():
            job.push("t", batch)
    return [row for batch in received for row in rows_of(pa.Table.from_batches([batch]))]


def test_a_changed_row_is_a_new_version():
    assert versions(CHANGES, [("a", 1, 0)], [("a", 2, 0), ("b", 5, 0)]) == [
        ("a", 1, 1, "+I"),
        ("a", 2, 3, "+U"),
        ("b", 1, 5, "+I"),
    ]


def test_retract_takes_the_old_version_back_first():
    assert versions(CHANGES, [("a", 1, 0)], [("a", 2, 0)], changelog="retract") == [
        ("a", 1, 1, "+I"),
        ("a", 1, 1, "-U"),
        ("a", 2, 3, "+U"),
    ]


def test_a_row_is_deleted_when_having_no_longer_holds():
    sql = "SELECT k, sum(v) AS total FROM t GROUP BY k HAVING sum(v) > 0"
    batches = [("a", 1, 0)], [("a", -1, 0)], [("a", -1, 0)], [("a", 5, 0)]
    assert versions(sql, *batches) == [("a", 1, "+I"), ("a", 1, "-D"), ("a", 4, "+I")]


def test_a_version_without_a_change_is_not_sent():
    sql = "SELECT k, max(v) AS greatest FROM t GROUP BY k"
    batches = [("a", 5, 0)], [("a", 4, 0)], [("a", 5, 0)], [("a", 6, 0)]
    assert versions(sql, *batches) == [("a", 5, "+I"), ("a", 6, "+U")]


# When windows close


def test_a_watermark_that_jumps_closes_all_windows_in_order():
    received = []
    job = session(1, out_of_order=100).sql(WINDOWS).start(received.append)
    job.push("t", rows(("a", 1, 35), ("a", 1, 5), ("a", 1, 15), ("b", 1, 5), ("a", 1, 95)))
    idle(job)
    assert received == []
    job.advance_watermark("t", 60)
    idle(job)
    starts = [start for batch in received for start in batch["window_start"].to_pylist()]
    assert starts == [0, 0, 10, 30]
    job.finish()
    assert received[-1].to_pylist() == [{"window_start": 90, "k": "a", "n": 1}]


@pytest.mark.parametrize("partitions", [1, 2, 3, 8])
def test_windows_that_are_open_at_the_end_are_not_lost(partitions):
    keys = [chr(ord("a") + index) for index in range(20)]
    received = []
    with session(partitions).sql(WINDOWS).start(received.append) as job:
        job.push("t", rows(*[(key, 1, 7) for key in keys]))
        idle(job)
        assert received == []
    assert sorted(key for batch in received for key in batch["k"].to_pylist()) == keys


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("emit", ["EMIT FINAL", "EMIT CHANGES"])
def test_no_rows_have_a_count_of_zero(partitions, emit):
    query = session(partitions).sql(f"SELECT count(*) AS n, sum(v) AS total FROM t {emit}")
    answer = query.run({"t": rows()})
    assert rows_of(fold(answer, query.key_columns)) == [(0, None)]


def test_no_rows_have_no_groups_and_no_windows():
    for sql in (FINAL, CHANGES, WINDOWS):
        assert session().sql(sql).run({"t": rows()}).num_rows == 0


def test_a_window_closes_while_the_job_runs():
    closed = threading.Event()
    with session(2).sql(WINDOWS).start(lambda batch: closed.set()) as job:
        job.push("t", rows(("a", 1, 5)))
        job.push("t", rows(("a", 1, 10)))
        assert closed.wait(TIMEOUT_SECONDS)


def test_a_source_partition_that_is_behind_holds_the_watermark_back():
    job = session(1).sql(WINDOWS).start(lambda batch: None)
    job.push("t", rows(("a", 1, 5)), source_partition=0)
    job.push("t", rows(("a", 1, 2)), source_partition=1)
    job.push("t", rows(("a", 1, 50)), source_partition=0)
    assert job.stats().watermarks == {"t": 5}
    job.push("t", rows(("a", 1, 30)), source_partition=1)
    assert job.stats().watermarks == {"t": 30}
    job.finish()
    assert job.stats().rows_late == 0


# A job's life


def test_leaving_the_block_finishes():
    sink = ms.CollectSink()
    with session().sql(FINAL).start(sink) as job:
        job.push("t", rows(("a", 1, 0)))
        assert job.stats().state == "running"
    assert job.stats().state == "finished"
    assert rows_of(sink.table()) == [("a", 1, 1)]


def test_an_error_in_the_block_cancels():
    sink = ms.CollectSink()
    job = session().sql(FINAL).start(sink)

    def block():
        with job:
            job.push("t", rows(("a", 1, 0)))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        block()
    assert job.stats().state == "cancelled"
    assert sink.table().num_rows == 0


@pytest.mark.parametrize("end", ["finish", "cancel"])
def test_a_job_that_ended_takes_no_more_input(end):
    job = session().sql(FINAL).start(lambda batch: None)
    getattr(job, end)()
    state = job.stats().state
    assert state == {"finish": "finished", "cancel": "cancelled"}[end]
    for call in (
        lambda: job.push("t", rows(("a", 1, 0))),
        lambda: job.push("t", {"k": "a", "v": 1, "ts": 0}),
        lambda: job.advance_watermark("t", 5),
    ):
        with pytest.raises(ms.SourceError, match=f"the job is {state} and takes no more input"):
            call()
    job.finish()
    job.cancel()
    assert job.stats().state == state


def test_threads_end_with_the_job():
    before = set(threading.enumerate())
    with session(3).sql(FINAL).start(lambda batch: None) as job:
        job.push("t", rows(("a", 1, 0)))
    assert set(threading.enumerate()) <= before


def test_a_query_runs_as_often_as_it_is_started():
    query = session().sql(FINAL)
    table = pa.Table.from_batches([rows(("a", 1, 0), ("b", 2, 0))])
    jobs = [query.start(ms.CollectSink()) for _ in range(2)]
    for job in jobs:
        job.push("t", table)
        job.finish()
    assert query.run({"t": table}).sort_by("k") == query.run({"t": table}).sort_by("k")


def test_counters_tell_where_rows_are():
    with session(1).sql(WINDOWS).start(lambda batch: None) as job:
        job.push("t", rows(("a", 1, 5), ("a", 1, 25), ("a", 1, 7), ("b", 1, 8)))
        job.push("t", rows(("a", 1, 26)))
        idle(job)
        stats = job.stats()
        assert (stats.rows_in, stats.rows_late, stats.rows_processed) == (5, 2, 3)
        assert (stats.rows_waiting, stats.rows_dead_lettered, stats.rows_out) == (0, 0, 1)
        assert stats.watermarks == {"t": 26}
        (part,) = stats.partitions
        assert (part.rows_in, part.batches_in, part.rows_out, part.state_rows) == (5, 2, 1, 1)
        assert part.state_bytes > 0
        assert 0 < stats.latency_p50_us <= stats.latency_p95_us <= stats.latency_p99_us
    assert "finished: 5 rows in = 3 processed + 2 late + 0 dead-lettered" in str(job.stats())


def test_each_batch_of_a_list_is_a_micro_batch():
    sink = ms.CollectSink()
    batches = [rows(("a", 1, 5)), rows(("a", 1, 25), ("a", 1, 7)), rows()]
    with session(1).sql(WINDOWS).start(sink) as job:
        job.push("t", batches)
        job.push("t", [])
        job.push("t", tuple(batches[:1]))
    stats = job.stats()
    assert (stats.partitions[0].batches_in, stats.rows_in, stats.rows_late) == (3, 4, 2)
    assert sum(sink.table()["n"].to_pylist()) == 2


# What is refused, and that the job goes on

BAD_PUSHES = {
    "unknown stream": (
        lambda job: job.push("u", rows()),
        ms.SourceError,
        "does not read stream 'u'; it reads 't'",
    ),
    "missing column": (
        lambda job: job.push("t", pa.table({"k": ["a"], "ts": [1]})),
        ms.SchemaError,
        "column 'v': expected int64, got no such column",
    ),
    "missing event time": (
        lambda job: job.push("t", pa.table({"k": ["a"], "v": [1]})),
        ms.SchemaError,
        "column 'ts': expected int64, got no such column",
    ),
    "misspelt column": (
        lambda job: job.push("t", pa.table({"k": ["a"], "vv": [1], "ts": [1]})),
        ms.SchemaError,
        "no column 'vv' .*did you mean 'v'",
    ),
    "wrong type": (
        lambda job: job.push("t", pa.table({"k": ["a"], "v": ["x"], "ts": [1]})),
        ms.SchemaError,
        "column 'v': expected int64, got string",
    ),
    "mistyped event time": (
        lambda job: job.push("t", pa.table({"k": ["a"], "v": [1], "ts": [1.5]})),
        ms.SchemaError,
        "column 'ts': expected int64, got double",
    ),
    "NULL event time": (
        lambda job: job.push("t", rows(("a", 1, 1), ("a", 1, None))),
        ms.SchemaError,
        "event time column 'ts'.*NULL.*row 1",
    ),
    "NULL event time of a single row": (
        lambda job: job.push("t", {"k": "a", "v": 1, "ts": None}),
        ms.SchemaError,
        "column 'ts' must be a value of type int64 and not NULL: None",
    ),
    "a single row that does not fit": (
        lambda job: job.push("t", {"k": "a", "v": 1.5, "ts": 4}),
        ms.SchemaError,
        "column 'v' must be a value of type int64: 1.5",
    ),
    "not rows": (lambda job: job.push("t", 5), ms.SchemaError, "takes Arrow data.*: int"),
    "a watermark that goes back": (
        lambda job: job.advance_watermark("t", -1),
        ms.SourceError,
        "cannot go back from 3 to -1",
    ),
    "a watermark that is none": (
        lambda job: job.advance_watermark("t", "soon"),
        ms.SchemaError,
        "watermark must be an event time of type int64: 'soon'",
    ),
    "a watermark beyond all event times": (
        lambda job: job.advance_watermark("t", 2**63),
        ms.SchemaError,
        "watermark must be an event time of type int64: 9223372036854775808",
    ),
    "a time as the watermark of integers": (
        lambda job: job.advance_watermark("t", datetime.datetime(2024, 1, 15)),
        ms.SchemaError,
        "watermark must be an event time of type int64",
    ),
    "a source partition that is no number": (
        lambda job: job.push("t", rows(("a", 2, 4)), source_partition="first"),
        ms.SourceError,
        "source_partition must be an integer: 'first'",
    ),
    "a timeout that is no number": (
        lambda job: job.push("t", rows(("a", 2, 4)), timeout="1s"),
        ms.SourceError,
        "timeout must be a number of seconds: '1s'",
    ),
}


@pytest.mark.parametrize("case", BAD_PUSHES)
def test_bad_input_is_refused_and_the_job_goes_on(case):
    call, error, message = BAD_PUSHES[case]
    sink = ms.CollectSink()
    with session().sql(FINAL).start(sink) as job:
        job.push("t", rows(("a", 1, 3)))
        idle(job)
        with pytest.raises(error, match=message):
            call(job)
        stats = job.stats()
        assert (stats.state, stats.rows_in, stats.rows_waiting) == ("running", 1, 0)
        assert stats.watermarks == {"t": 3}
        job.push("t", rows(("a", 2, 4)))
    assert rows_of(sink.table()) == [("a", 2, 3)]


def test_a_stream_without_event_time_has_no_watermark():
    with session(event_time=None).sql(FINAL).start(lambda batch: None) as job:
        with pytest.raises(ms.SourceError, match="has no event time"):
            job.advance_watermark("t", 5)
        job.push("t", rows(("a", 1, None)))
        assert job.stats().watermarks == {"t": None}


BAD_SESSIONS = {
    "unknown option": (lambda: ms.Session(partitons=2), "unknown session options: partitons"),
    "no partitions": (lambda: ms.Session(partitions=0), "partitions must be .*at least 1: 0"),
    "too many": (lambda: ms.Session(partitions=10_000), "partitions must be at most"),
    "a flag": (lambda: ms.Session(partitions=True), "partitions must be an integer"),
    "changelog": (lambda: ms.Session(changelog="all"), "'upsert' or 'retract': 'all'"),
    "both": (lambda: ms.Session(ms.SessionConfig(), partitions=2), "not both"),
    "no such event time": (
        lambda: ms.Session().create_stream("t", SCHEMA, event_time="at"),
        "event time column 'at' is not among k, v, ts",
    ),
    "mistyped event time": (
        lambda: ms.Session().create_stream("t", SCHEMA, event_time="k"),
        "event time must be a timestamp, a date or an integer: string",
    ),
    "disorder without event time": (
        lambda: ms.Session().create_stream("t", SCHEMA, max_out_of_orderness=5),
        "need an event_time",
    ),
    "unreadable disorder": (
        lambda: ms.Session().create_stream("t", SCHEMA, event_time="ts", max_out_of_orderness="x"),
        "duration",
    ),
    "name that is taken": (lambda: session().create_table("t", rows()), "'t' is taken already"),
    "not a schema": (lambda: ms.Session().create_stream("t", {"k": "int"}), "a pyarrow.Schema"),
}


@pytest.mark.parametrize("case", BAD_SESSIONS)
def test_a_declaration_that_cannot_work_is_refused(case):
    declare, message = BAD_SESSIONS[case]
    with pytest.raises(ms.SchemaError, match=message):
        declare()


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT kk FROM t", "(?s)kk.*\n.*SELECT kk FROM t\n +\\^"),
        ("SELECT k FROM tt", "(?s)tt.*\n.*SELECT k FROM tt\n"),
        ("SELEC k FROM t", "(?s)line 1, column"),
        ("SELECT k FROM", "(?s)line 1, column"),
        ("DROP TABLE t", "(?i)select"),
        ("SELECT k FROM 'rows.parquet'", "unknown stream or table 'rows.parquet'"),
    ],
)
def test_a_query_that_cannot_run_is_refused_with_its_place(sql, message):
    with pytest.raises(ms.SqlError, match=message):
        session().sql(sql)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no input is given for the streams 't'"),
        ({"t": rows(), "u": rows()}, "does not read the streams 'u'"),
        ([rows()], "must be a mapping"),
        ({"t": "missing.parquet"}, "missing.parquet"),
        ({"t": 5}, "input must be"),
    ],
)
def test_run_says_what_is_wrong_with_its_input(inputs, message):
    with pytest.raises(ms.SourceError, match=message):
        session().sql(FINAL).run(inputs)


FITTING = {
    "another order of columns": lambda table: table.select(["ts", "v", "k"]),
    "narrow integers": lambda table: table.set_column(1, "v", table["v"].cast(pa.int32())),
    "unsigned integers": lambda table: table.set_column(1, "v", table["v"].cast(pa.uint64())),
    "dictionaries": lambda table: table.set_column(0, "k", table["k"].dictionary_encode()),
    "large strings": lambda table: table.set_column(0, "k", table["k"].cast(pa.large_string())),
    "string views": lambda table: table.set_column(0, "k", table["k"].cast(pa.string_view())),
    "metadata": lambda table: table.replace_schema_metadata({"made": "elsewhere"}),
    "chunks": lambda table: pa.concat_tables([table.slice(0, 1), table.slice(1)]),
    "a batch": lambda table: table.to_batches()[0],
    "a reader": lambda table: table.to_reader(),
    "columns of Python": lambda table: table.to_pydict(),
    "rows of Python": lambda table: table.to_pylist(),
}


@pytest.mark.parametrize("case", FITTING)
def test_rows_that_fit_are_taken_however_they_are_laid_out(case):
    table = pa.Table.from_batches([rows(("a", 1, 0), ("b", 2, 1), ("a", 3, 2))])
    sink = ms.CollectSink()
    with session().sql(FINAL).start(sink) as job:
        job.push("t", FITTING[case](table))
    assert sorted(rows_of(sink.table())) == [("a", 2, 4), ("b", 1, 2)]


def test_numbers_of_numpy_are_taken_for_watermarks_and_timeouts():
    session = ms.Session()
    session.create_stream("n", pa.schema([("at", pa.int64())]), event_time="at")
    results = ms.CollectSink()
    job = session.sql("SELECT at FROM n WINDOW TUMBLING(at, 10) GROUP BY at").start(results)
    job.push("n", pa.table({"at": [1]}), timeout=np.int64(5))
    job.advance_watermark("n", np.int64(20))
    job.push("n", pa.table({"at": [2]}))
    job.finish()
    assert job.stats().rows_late == 1
