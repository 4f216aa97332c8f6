"""Micro-batches that wait are taken together where nobody can tell the difference."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

import millstream as ms
from tests.engine.stalling import Gate

SCHEMA = pa.schema({"k": pa.int64(), "x": pa.int64()})
FINAL = "SELECT k, sum(gate(x)) AS s FROM t GROUP BY k EMIT FINAL"


def run_behind_a_gate(sql: str, *, n_batches: int = 20, **options: object) -> tuple[list, ms.Job]:
    """Push batches of two rows while the first one is held up, and note what sizes come by."""
    sizes: list[int] = []
    entered, opened = threading.Event(), threading.Event()

    def gate(values: pa.Array) -> pa.Array:
        sizes.append(len(values))
        entered.set()
        assert opened.wait(30)
        return values

    session = ms.Session(partitions=1, **options)
    session.create_stream("t", SCHEMA)
    session.register_udf("gate", gate, [pa.int64()], pa.int64())
    sink = ms.CollectSink()
    # Planning and typing do not call the function with rows.
    with session.sql(sql).start(sink) as job:
        sizes.clear()
        for number in range(n_batches):
            job.push("t", pa.record_batch([[number % 3, 7], [1, number]], schema=SCHEMA))
            if number == 0:
                assert entered.wait(30)
        opened.set()
    total = {row["k"]: row["s"] for row in sink.table().to_pylist()}
    assert total == {0: 7, 1: 7, 2: 6, 7: 190}
    assert job.stats().rows_processed == 2 * n_batches
    assert job.stats().partitions[0].batches_in == n_batches
    return sizes, job


def test_what_waits_is_processed_as_one_batch():
    sizes, _ = run_behind_a_gate(FINAL)
    assert sizes == [2, 38]


@pytest.mark.parametrize(
    ("option", "sizes"),
    [
        ({"batch_rows_max": 10}, [2, 10, 10, 10, 8]),
        ({"batch_bytes_max": 96}, [2] + [6] * 6 + [2]),
        ({"batch_rows_max": 1}, [2] * 20),
    ],
)
def test_how_much_is_taken_together_is_limited(option, sizes):
    assert run_behind_a_gate(FINAL, **option)[0] == sizes


def test_changes_come_for_each_of_a_few_micro_batches_all_the_same():
    sizes, job = run_behind_a_gate(FINAL.replace("EMIT FINAL", "EMIT CHANGES"))
    assert sizes == [2] * 20
    assert job.stats().rows_out == 40


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("window", ["", " WINDOW TUMBLING(x, 100)"])
def test_a_changelog_that_is_behind_leaves_out_versions(partitions, window):
    n_batches = 300
    gate = Gate()
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="x")
    sql = f"SELECT k, count(*) AS n, max(x) AS last FROM t WHERE k < 9 GROUP BY k{window}"
    if window:
        sql = sql.replace("SELECT ", "SELECT window_start, ")
    with session.sql(f"{sql} EMIT CHANGES").start(gate) as job:
        for number in range(n_batches):
            job.push("t", pa.record_batch([[number % 3, 7], [number, number]], schema=SCHEMA))
            if number == 0:
                gate.wait_entered()
        gate.opened.set()
    names = ("window_start", "k") if window else ("k",)
    final = {tuple(row[name] for name in names): (row["n"], row["last"]) for row in gate.rows}
    wanted: dict[tuple[int, ...], tuple[int, int]] = {}
    for number in range(n_batches):
        for k in (number % 3, 7):
            key = (number // 100 * 100, k) if window else (k,)
            wanted[key] = wanted.get(key, (0, 0))[0] + 1, number
    assert final == wanted
    assert len(gate.rows) < n_batches
    assert job.stats().rows_processed == 2 * n_batches
    assert [row["_op"] for row in gate.rows].count("+I") == len(wanted)


def test_bounded_input_gives_every_version_however_fast_it_comes():
    session = ms.Session(partitions=2)
    session.create_stream("t", SCHEMA)
    query = session.sql("SELECT k, count(*) AS n FROM t GROUP BY k EMIT CHANGES")
    rows = pa.table({"k": [1] * 500, "x": range(500)}, SCHEMA)
    counts = query.run({"t": rows}, batch_rows=1)["n"].to_pylist()
    assert counts == list(range(1, 501))
