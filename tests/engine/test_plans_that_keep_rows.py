"""Transforms that do more than to answer each batch with one: nothing is lost, nothing is late."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms

ROWS = pa.table(
    {
        "id": list("abcdefg"),
        "k": [1, 2, 1, 1, 3, 1, 1],
        "l": pa.array([[10, 11], [], [20], None, [30, 31, 32], [40], [10]], pa.list_(pa.int64())),
    }
)
TABLES = {"u": pa.table({"w": [1, 5]}), "v": pa.table({"w": [3]})}
CUTS = [(1, None), (1, 1), (1, 3), (2, 1), (2, 3), (3, 2)]

QUERIES = [
    ("id, unnest(l) AS x FROM t", 8),
    ("id, unnest(l) AS x FROM t WHERE k = 1", 5),
    ("x, count(*) AS n FROM (SELECT unnest(l) AS x FROM t) AS q GROUP BY x EMIT FINAL", 7),
    ("id, unnest(make_array(k, k + 1)) AS x FROM t", 14),
    ("id FROM (SELECT id, unnest(l) AS x FROM t) AS q", 8),
    ("k FROM (SELECT id, k, unnest(l) AS x FROM t) AS q WHERE x > 10", 6),
    ("k + 1 AS a, k AS b FROM (SELECT id, k, UNNEST (l) AS x FROM t) AS q WHERE k = 1", 5),
    ("count(*) AS n FROM (SELECT unnest(l) AS x FROM t) AS q EMIT FINAL", 1),
    ("k, count(*) AS n FROM (SELECT k, unnest(l) AS x FROM t) AS q GROUP BY k EMIT FINAL", 2),
    ("id FROM (SELECT id, unnest(l) AS x FROM t UNION ALL SELECT id, k AS x FROM t) AS q", 15),
    ("id FROM t WHERE EXISTS (SELECT 1)", 7),
    ("id FROM t WHERE k IN (SELECT 1)", 5),
    ("id FROM t WHERE k NOT IN (SELECT 1)", 2),
    ("id FROM t WHERE k IN (SELECT * FROM unnest([1, 3]))", 6),
    ("id FROM t WHERE k = ANY (SELECT 1)", 5),
    ("id FROM t WHERE k IN (SELECT * FROM generate_series(2, 3))", 2),
    ("(SELECT max(w) FROM u) AS m, count(*) AS n FROM t GROUP BY (SELECT max(w) FROM u)", 1),
    ("m + 1 AS m, k FROM (SELECT (SELECT min(w) FROM u) AS m, k FROM t GROUP BY m, k) AS q", 3),
    ("id FROM t WHERE k < ALL (SELECT 3)", 6),
    ("k, count(*) AS n FROM t GROUP BY k HAVING EXISTS (SELECT 1) EMIT FINAL", 3),
    ("id FROM t WHERE k IN (SELECT w FROM u UNION ALL SELECT w FROM v)", 6),
    ("id FROM t WHERE k NOT IN (SELECT w FROM u UNION ALL SELECT w FROM v)", 1),
    ("id FROM t WHERE k IN (SELECT w FROM u UNION ALL SELECT 2)", 6),
]


@pytest.mark.parametrize(("select", "n_rows"), QUERIES)
def test_there_are_the_rows_that_datafusion_finds(select: str, n_rows: int) -> None:
    import datafusion

    context = datafusion.SessionContext()
    for name, table in {"t": ROWS, **TABLES}.items():
        context.register_record_batches(name, [table.to_batches()])
    batch = context.sql(f"SELECT {select.removesuffix(' EMIT FINAL')}").to_arrow_table()
    expected = sorted(map(str, batch.to_pylist()))
    assert len(expected) == n_rows
    for partitions, batch_rows in CUTS:
        session = ms.Session(partitions=partitions)
        session.create_stream("t", ROWS.schema)
        for name, table in TABLES.items():
            session.create_table(name, table)
        final = "" if " EMIT" in select or "GROUP" not in select else " EMIT FINAL"
        result = session.sql(f"SELECT {select}{final}").run({"t": ROWS}, batch_rows=batch_rows)
        assert sorted(map(str, result.to_pylist())) == expected, (partitions, batch_rows)


def test_what_a_pushed_batch_becomes_is_there_before_the_next_one() -> None:
    session = ms.Session(partitions=1)
    session.create_stream("t", ROWS.schema)
    came: list[pa.RecordBatch] = []
    with session.sql("SELECT id, unnest(l) AS x FROM t").start(came.append) as job:
        for n_pushed, n_rows in ((1, 2), (2, 2), (3, 3), (4, 3), (5, 6)):
            job.push("t", ROWS.slice(n_pushed - 1, 1))
            job._runtime.ask(lambda operators: None, [0], 5.0)
            assert sum(batch.num_rows for batch in came) == n_rows
