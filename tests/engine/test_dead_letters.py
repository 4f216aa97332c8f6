"""Rows on which an expression fails: they fail the job, are skipped, or come back."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms

ROWS = pa.table({"k": ["a", "b", "a", "c", "b", "a"], "x": pa.array([1, 3, 2, 3, None, 7])})
DIVIDED = "SELECT k, 10 / (x - 3) AS q FROM t"


def session(partitions: int = 1) -> ms.Session:
    made = ms.Session(partitions=partitions)
    made.create_stream("t", ROWS.schema)
    return made


def pairs(batches: list[pa.RecordBatch]) -> list[tuple[object, ...]]:
    rows = [row for batch in batches for row in batch.to_pylist()]
    return sorted((tuple(row.values()) for row in rows), key=repr)


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("batch_rows", [1, 2, 6])
def test_a_bad_row_goes_to_the_dead_letters_as_it_was_pushed(partitions, batch_rows):
    good: list[pa.RecordBatch] = []
    dead: list[pa.RecordBatch] = []
    with session(partitions).sql(DIVIDED).start(good.append, dead_letter_sink=dead.append) as job:
        for batch in ROWS.to_batches(max_chunksize=batch_rows):
            job.push("t", batch)
    assert pairs(good) == sorted([("a", -5), ("a", -10), ("b", None), ("a", 2)], key=repr)
    assert pairs(dead) == [("b", 3, "Divide by zero error"), ("c", 3, "Divide by zero error")]
    stats = job.stats()
    assert (stats.rows_in, stats.rows_processed, stats.rows_dead_lettered) == (6, 4, 2)


def test_skipped_rows_are_counted():
    good: list[pa.RecordBatch] = []
    with session().sql(DIVIDED).start(good.append, on_error="skip") as job:
        job.push("t", ROWS)
    assert len(pairs(good)) == 4
    assert job.stats().rows_dead_lettered == 2


def test_good_rows_around_a_bad_one_are_aggregated():
    good: list[pa.RecordBatch] = []
    sql = "SELECT k, sum(10 / (x - 3)) AS s FROM t GROUP BY k EMIT FINAL"
    with session(2).sql(sql).start(good.append, on_error="skip") as job:
        job.push("t", ROWS)
    assert pairs(good) == [("a", -13), ("b", None)]


def test_without_a_policy_the_first_bad_row_fails_the_job():
    job = session().sql(DIVIDED).start(lambda batch: None)
    job.push("t", ROWS)
    with pytest.raises(ms.JobFailed, match="Divide by zero") as failure:
        job.finish()
    assert (failure.value.stream, failure.value.batch_number, failure.value.row) == ("t", 0, 1)


def test_a_function_of_the_users_that_raises_makes_its_rows_dead_letters():
    def picky(values: pa.Array) -> pa.Array:
        if 7 in values.to_pylist():
            raise ValueError("not seven")
        return values

    made = session()
    made.register_udf("picky", picky, [pa.int64()], pa.int64())
    good: list[pa.RecordBatch] = []
    dead: list[pa.RecordBatch] = []
    query = made.sql("SELECT picky(x) AS y FROM t")
    with query.start(good.append, dead_letter_sink=dead.append) as job:
        job.push("t", ROWS)
    assert job.stats().rows_dead_lettered == 1
    ((key, value, error),) = pairs(dead)
    assert (key, value) == ("a", 7)
    assert "not seven" in str(error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "dead_letter"}, "needs a dead_letter_sink"),
        ({"on_error": "skip", "dead_letter_sink": print}, "has no use for a dead_letter_sink"),
        ({"on_error": "ignore"}, "must be 'fail', 'skip' or 'dead_letter'"),
        ({"dead_letter_sink": {"nope": print}}, "names streams that it is not for: nope"),
    ],
)
def test_policies_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ms.SourceError, match=message):
        session().sql(DIVIDED).start(print, **options)
