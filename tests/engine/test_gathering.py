"""Micro-batches that wait are taken together where nobody can tell the difference."""

from __future__ import annotations

import itertools
import threading
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.engine import gathering as module
from millstream.engine import partition

SCHEMA = pa.schema({"k": pa.int64(), "x": pa.int64()})
FINAL = "SELECT k, sum(gate(x)) AS s FROM t GROUP BY k EMIT FINAL"


class Gate:
    """A function of rows that lets none pass until it is opened, and notes how many came."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def __call__(self, values: pa.Array) -> pa.Array:
        self.sizes.append(len(values))
        self.entered.set()
        assert self.opened.wait(30)
        return values


def run_behind_a_gate(sql: str, *, n_batches: int = 20, **options: object) -> tuple[list, ms.Job]:
    """Push batches of two rows while the first one is held up, and note what sizes come by."""
    gate = Gate()
    session = ms.Session(partitions=1, **options)
    session.create_stream("t", SCHEMA)
    session.register_udf("gate", gate, [pa.int64()], pa.int64())
    sink = ms.CollectSink()
    # Planning and typing do not call the function with rows.
    with session.sql(sql).start(sink) as job:
        gate.sizes.clear()
        for number in range(n_batches):
            job.push("t", pa.record_batch([[number % 3, 7], [1, number]], schema=SCHEMA))
            if number == 0:
                assert gate.entered.wait(30)
        gate.opened.set()
    total = {row["k"]: row["s"] for row in sink.table().to_pylist()}
    assert total == {0: 7, 1: 7, 2: 6, 7: 190}
    assert job.stats().rows_processed == 2 * n_batches
    assert job.stats().partitions[0].batches_in == n_batches
    return gate.sizes, job


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


def test_changes_come_for_each_micro_batch_all_the_same():
    sizes, job = run_behind_a_gate(FINAL.replace("EMIT FINAL", "EMIT CHANGES"))
    assert sizes == [2] * 20
    assert job.stats().rows_out == 40


def test_rows_meet_the_table_of_when_they_were_pushed_though_they_wait_together():
    gate = Gate()
    session = ms.Session(partitions=1)
    session.create_stream("t", SCHEMA)
    session.create_table("d", pa.table({"id": [1], "name": ["old"]}))
    session.register_udf("gate", gate, [pa.int64()], pa.int64())
    sql = "SELECT name, sum(gate(x)) AS s FROM t JOIN d ON k = id GROUP BY name EMIT FINAL"
    sink = ms.CollectSink()
    with session.sql(sql).start(sink) as job:
        for x in (1, 10, 100):
            job.push("t", pa.record_batch([[1], [x]], schema=SCHEMA))
            if x == 1:
                assert gate.entered.wait(30)
            if x == 10:
                session.replace_table("d", pa.table({"id": [1], "name": ["new"]}))
        gate.opened.set()
    assert {row["name"]: row["s"] for row in sink.table().to_pylist()} == {"old": 11, "new": 100}


def test_large_batches_that_wait_are_filtered_where_they_lie(monkeypatch):
    monkeypatch.setattr(partition, "_PORTION_ROWS", 2)
    sizes, _ = run_behind_a_gate(FINAL)
    assert sizes == [2] * 20
    # Where small ones are put together, the rest of them is a portion of its own.
    monkeypatch.setattr(partition, "_PORTION_ROWS", 7)
    sizes, _ = run_behind_a_gate(FINAL)
    assert sizes == [2, 8, 8, 8, 8, 6]


def test_portions_have_all_rows_in_order_and_copy_no_large_batch():
    batches = [
        pa.record_batch([list(range(first, last)), [0] * (last - first)], schema=SCHEMA)
        for first, last in itertools.pairwise([0, 5, 6, 7, 9, 20, 21])
    ]
    portions = partition._portions(batches, 4)
    assert [portion.num_rows for portion in portions] == [5, 4, 11, 1]
    assert portions[0] is batches[0]
    assert portions[2] is batches[4]
    assert portions[3] is batches[5]
    assert pa.Table.from_batches(portions).equals(pa.Table.from_batches(batches))
    assert [portion.num_rows for portion in partition._portions(batches, 21)] == [21]
    assert [portion.num_rows for portion in partition._portions(batches[:4], 5)] == [5, 4]


@pytest.mark.parametrize("portion_rows", [1, 5, 1 << 14])
@pytest.mark.parametrize("kind", ["single", "windowed"])
def test_of_batches_that_wait_the_one_that_fails_is_told(monkeypatch, portion_rows, kind):
    monkeypatch.setattr(partition, "_PORTION_ROWS", portion_rows)
    gate = Gate()
    session = ms.Session(partitions=1)
    session.create_stream("t", SCHEMA, event_time="k")
    session.register_udf("gate", gate, [pa.int64()], pa.int64())
    window = "WINDOW TUMBLING(k, 1000)" if kind == "windowed" else ""
    sql = f"SELECT sum(10 / gate(x)) AS s FROM t WHERE x < 50 GROUP BY k {window} EMIT FINAL"
    job = session.sql(sql).start(ms.CollectSink())
    for number in range(20):
        x = [1, 0, 2] if number == 12 else [1, 60, 2]
        job.push("t", pa.record_batch([[number] * 3, x], schema=SCHEMA))
        if number == 0:
            assert gate.entered.wait(30)
    gate.opened.set()
    with pytest.raises(ms.JobFailed, match=r"[Dd]ivide by zero") as failure:
        job.finish()
    assert "batch 12" in str(failure.value)


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 5), st.integers(1, 20))
def test_micro_batches_are_pushed_a_few_at_a_time(sizes, n_most, rows_max) -> None:
    batches = [pa.record_batch([list(range(n))], ["x"]) for n in sizes]
    with (
        patch.object(module, "_PUSHED_MAX", n_most),
        patch.object(module, "_PUSHED_ROWS_MAX", rows_max),
    ):
        some = list(module.gathered(iter(batches)))
    assert [batch for part in some for batch in part] == batches
    n_rows = [sum(batch.num_rows for batch in part) for part in some]
    for part, n in zip(some, n_rows, strict=True):
        assert len(part) == 1 or (len(part) <= n_most and n <= rows_max)
    for (part, n), after in zip(zip(some, n_rows, strict=True), some[1:], strict=False):
        # As many as there is room for.
        assert len(part) == n_most or n + after[0].num_rows > rows_max
