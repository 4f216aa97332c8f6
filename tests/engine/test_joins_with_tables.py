"""Joins of a stream with tables: what is kept of the tables, and what never of the stream."""

from collections import Counter

import duckdb
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine import gathering
from millstream.engine.datafusion import QueryRunner
from millstream.engine.physical_plans import keeps_only_tables

N_ROWS = 60
STREAM = pa.table({"k": [i % 9 for i in range(N_ROWS)], "x": list(range(N_ROWS))})
# Two rows for some keys, none for others.
NAMES = pa.table({"id": [3, 1, 1, 4, 5, 5, 7], "name": list("cabdeEg")})
SIZES = pa.table({"name": ["a", "b", "c", "E", None], "size": [1, 2, 3, 5, 9]})


def runs(sql, batch_rows, partitions=1):
    session = ms.Session(partitions=partitions)
    session.create_stream("t", STREAM.schema)
    session.create_table("names", NAMES)
    session.create_table("sizes", SIZES)
    return session.sql(sql).run({"t": STREAM}, batch_rows=batch_rows)


def expected(*, is_left):
    rows = []
    for row in STREAM.to_pylist():
        matches = [n["name"] for n in NAMES.to_pylist() if n["id"] == row["k"]]
        rows += [(row["x"], name) for name in matches or ([None] if is_left else [])]
    return rows


def as_rows(table):
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def sorted_rows(rows):
    return sorted(rows, key=repr)


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("side", ["", "LEFT"])
def test_each_row_meets_the_whole_table(side, partitions, batch_rows):
    sql = f"SELECT x, name FROM t {side} JOIN names ON k = id"
    got = as_rows(runs(sql, batch_rows, partitions))
    assert sorted_rows(got) == sorted_rows(expected(is_left=side == "LEFT"))


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize(
    "from_where",
    [
        "t JOIN names ON k = id",
        "t LEFT JOIN names ON k = id",
        "t LEFT JOIN names ON k > id",
        "t JOIN names ON k < id",
        "t CROSS JOIN names",
        "t JOIN names ON k = id LEFT JOIN sizes USING (name)",
        "t WHERE k IN (SELECT id FROM names)",
        "t WHERE k NOT IN (SELECT id FROM names)",
        "t WHERE k = 1 OR k IN (SELECT id FROM names)",
        "t WHERE k = (SELECT max(id) FROM names WHERE id = t.k)",
        "t WHERE k IN (SELECT id FROM names UNION ALL SELECT size FROM sizes)",
    ],
)
def test_rows_come_in_the_order_of_the_input(from_where, batch_rows):
    got = runs(f"SELECT x FROM {from_where}", batch_rows)["x"].to_pylist()
    assert got == sorted(got)
    assert len(got) > 0


def test_rows_of_many_results_of_datafusion_come_in_order():
    session = ms.Session(partitions=1)
    session.create_stream("t", STREAM.schema)
    session.create_table("names", NAMES)
    xs = range(30_000)
    rows = pa.table({"k": [x % 9 for x in xs], "x": xs})
    got = session.sql("SELECT x FROM t LEFT JOIN names ON k = id").run({"t": rows}, batch_rows=None)
    n_matches = Counter(NAMES["id"].to_pylist())
    assert got["x"].to_pylist() == [x for x in xs for _ in range(n_matches[x % 9] or 1)]


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize("partitions", [1, 2])
def test_functions_see_rows_of_an_outer_join_as_they_came(partitions, batch_rows):
    sql = "SELECT x, lag(x) OVER () AS before FROM t LEFT JOIN sizes ON k = size"
    got = sorted_rows(as_rows(runs(sql, batch_rows, partitions)))
    assert got == sorted_rows((x, x - 1 if x else None) for x in range(N_ROWS))


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_joins_of_joins(batch_rows):
    sql = (
        "SELECT t.x, n.name, s.size FROM t LEFT JOIN names AS n ON t.k = n.id"
        " JOIN sizes AS s ON n.name = s.name"
    )
    sizes = {row["name"]: row["size"] for row in SIZES.to_pylist() if row["name"] is not None}
    rows = [(x, name, sizes[name]) for x, name in expected(is_left=True) if name in sizes]
    assert sorted_rows(as_rows(runs(sql, batch_rows))) == sorted_rows(rows)


def test_a_subquery_in_the_condition_of_a_join():
    got = runs(
        "SELECT x, name FROM t JOIN names ON k = id AND id IN (SELECT id FROM names WHERE id > 3)",
        7,
    )
    rows = [row for row in expected(is_left=False) if row[0] % 9 > 3]
    assert sorted_rows(as_rows(got)) == sorted_rows(rows)


def test_a_star_is_in_the_order_of_the_query():
    for entries in ("names, t WHERE k = id", "names JOIN t ON k = id"):
        got = runs(f"SELECT * FROM {entries}", 7)
        assert got.column_names == ["id", "name", "k", "x"]
        rows = [(x, name) for _, name, _, x in as_rows(got)]
        assert sorted_rows(rows) == sorted_rows(expected(is_left=False))


@pytest.mark.parametrize("batch_rows", [7, 1000])
def test_tables_that_also_meet_each_other(batch_rows):
    sql = (
        "SELECT n.name, t.x, s.size FROM sizes AS s, t, names AS n"
        " WHERE n.name = s.name AND t.k = n.id AND t.x % 9 = n.id AND s.size < 5"
    )
    sizes = {row["name"]: row["size"] for row in SIZES.to_pylist() if row["name"] is not None}
    rows = [(n, x, sizes[n]) for x, n in expected(is_left=False) if sizes.get(n, 5) < 5]
    assert sorted_rows(as_rows(runs(sql, batch_rows))) == sorted_rows(rows)


@pytest.mark.parametrize(
    ("where", "keeps"),
    [
        ("k IN (SELECT id FROM names)", lambda k: k in (1, 3, 4, 5, 7)),
        ("k NOT IN (SELECT id FROM names)", lambda k: k not in (1, 3, 4, 5, 7)),
        ("k > (SELECT avg(id) FROM names)", lambda k: k > 26 / 7),
        ("EXISTS (SELECT 1 FROM names WHERE id = k + 1)", lambda k: k + 1 in (1, 3, 4, 5, 7)),
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
def test_subqueries_over_tables(where, keeps, batch_rows):
    got = runs(f"SELECT x FROM t WHERE {where}", batch_rows)["x"].to_pylist()
    assert sorted(got) == [row["x"] for row in STREAM.to_pylist() if keeps(row["k"])]


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize("side", ["", "LEFT"])
@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ("x < 30 AND name <> 'a'", lambda x, name: x < 30 and name not in (None, "a")),
        (
            "(k IN (1, 3) OR x = 5) AND NOT x < 3",
            lambda x, _: (x % 9 in (1, 3) or x == 5) and x >= 3,
        ),
        ("x < 30 OR name IS NULL", lambda x, name: x < 30 or name is None),
        ("name IS NULL AND x > 3", lambda x, name: name is None and x > 3),
        ("nullif(x, 4) > 2 AND 10 / (x + 1) < 3", lambda x, _: x > 2 and x != 4),
    ],
)
def test_filters_beside_a_join(where, passes, side, batch_rows):
    sql = f"SELECT x, name FROM t {side} JOIN names ON k = id WHERE {where}"
    rows = [row for row in expected(is_left=side == "LEFT") if passes(*row)]
    assert sorted_rows(as_rows(runs(sql, batch_rows))) == sorted_rows(rows)


def plans_made(monkeypatch, sql):
    """Return how many physical plans were made for ten micro-batches."""
    made = []
    plan = QueryRunner._plan

    def counted(self):
        made.append(plan(self))
        return made[-1]

    monkeypatch.setattr(QueryRunner, "_plan", counted)
    # Each micro-batch by itself, however fast they come.
    monkeypatch.setattr(gathering, "STEPS_MAX", 1)
    runs(sql, 6)
    assert len(made) == 10
    return len({id(plan) for plan in made})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT x, name FROM t JOIN names ON k = id",
        "SELECT x, upper(name) AS u FROM t LEFT JOIN names ON k = id AND x > 7 WHERE x < 50",
        "SELECT x, n.name, size FROM t JOIN names AS n ON k = id"
        " LEFT JOIN sizes AS s ON n.name = s.name",
        "SELECT x, name FROM t CROSS JOIN names",
        "SELECT x, name FROM t JOIN names ON k < id",
        "SELECT x, n.name FROM names AS n, sizes AS s, t WHERE k = id AND x = size AND id = size",
        "SELECT x, n.name FROM t, names AS n, sizes AS s WHERE k = id AND x = size",
    ],
)
def test_a_join_is_planned_once(monkeypatch, sql):
    assert plans_made(monkeypatch, sql) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT x FROM t WHERE k IN (SELECT id FROM names)",
        "SELECT x, name, now() > TIMESTAMP '2020-01-01' AS b FROM t JOIN names ON k = id",
    ],
)
def test_what_would_keep_rows_or_the_time_is_planned_each_time(monkeypatch, sql):
    assert plans_made(monkeypatch, sql) == 10


class Node:
    def __init__(self, text, *inputs):
        self.text = text
        self.inputs = inputs

    def display(self):
        return self.text

    def children(self):
        return list(self.inputs)


ROWS = Node("DatasetExec: number_of_fragments=1, projection=[k, x]")
TABLE = Node("DataSourceExec: partitions=1, partition_sizes=[1]")


@pytest.mark.parametrize(
    ("plan", "keeps"),
    [
        (ROWS, True),
        (Node("FilterExec: x@0 > 1", Node("CooperativeExec", ROWS)), True),
        (Node("HashJoinExec: mode=CollectLeft, join_type=Inner, on=[]", TABLE, ROWS), True),
        (Node("HashJoinExec: mode=CollectLeft, join_type=Inner, on=[]", ROWS, TABLE), False),
        (Node("HashJoinExec: mode=CollectLeft, join_type=RightAnti, on=[]", TABLE, ROWS), True),
        (Node("HashJoinExec: mode=CollectLeft, join_type=Left, on=[]", TABLE, ROWS), False),
        (Node("HashJoinExec: join_type=LeftSemi", Node("FilterExec: a", ROWS), TABLE), False),
        (Node("CrossJoinExec", Node("AggregateExec: mode=Single", TABLE), ROWS), True),
        (Node("CrossJoinExec", Node("AggregateExec: mode=Single", ROWS), ROWS), False),
        (Node("SortExec: expr=[x@0 ASC]", ROWS), True),
        (Node("SortExec: TopK(fetch=3), expr=[x@0 ASC]", ROWS), False),
        (Node("BoundedWindowAggExec: wdw=[rank()]", Node("SortExec: expr=[x@0]", ROWS)), True),
        (Node("AggregateExec: mode=Single, gby=[x@0 as x], aggr=[], lim=[3]", ROWS), False),
        (Node("HashJoinExec: join_type=Inner", TABLE, Node("RepartitionExec: x", ROWS)), False),
        (Node("ScalarSubqueryExec: subqueries=1", ROWS, TABLE), False),
    ],
)
def test_what_a_plan_keeps(plan, keeps):
    assert keeps_only_tables(plan) is keeps


def test_a_table_that_is_replaced_is_read_anew():
    session = ms.Session(partitions=1)
    session.create_stream("t", STREAM.schema)
    session.create_table("names", NAMES)
    rows = []
    with session.sql("SELECT x, name FROM t JOIN names ON k = id").start(
        lambda batch: rows.extend(batch.to_pylist())
    ) as job:
        job.push("t", {"k": [3], "x": [0]})
        session.replace_table("names", pa.table({"id": [3], "name": ["new"]}))
        job.push("t", {"k": [3], "x": [1]})
    assert rows == [{"x": 0, "name": "c"}, {"x": 1, "name": "new"}]


@pytest.mark.parametrize(
    "text",
    [
        pa.array(["a", "b"], pa.string_view()),
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array(["a", "b"])),
    ],
)
def test_a_table_may_hold_text_in_any_encoding(text):
    session = ms.Session(partitions=1)
    session.create_stream("t", STREAM.schema)
    session.create_table("names", pa.table({"id": [3, 1], "name": text}))
    result = session.sql("SELECT DISTINCT k, name FROM t JOIN names ON k = id").run({"t": STREAM})
    assert sorted_rows(as_rows(result)) == [(1, "b"), (3, "a")]


def test_a_table_of_batches_that_differ_is_refused():
    session = ms.Session(partitions=1)
    unlike = [pa.record_batch({"id": [1]}), pa.record_batch({"id": ["1"]})]
    with pytest.raises(ms.SchemaError, match="column 'id': expected int64, got string"):
        session.create_table("names", unlike)


# Columns of different relations have one name here, and DataFusion must not take them for each
# other where it moves a condition.
ALIKE = {
    "t": {"k": [1, 2, 0, None, 4, 4], "v": [4, 4, 0, 4, 2, 5], "ts": [0, 1, 2, 3, 4, 5]},
    "a": {"k": [0, None, 0, 4, 1, 2], "x": [3, 4, 1, 2, 2, 2]},
    "b": {"x": [3, 1, 2, None], "y": [4, 0, 3, 1]},
    "c": {"y": [4, 1, None, 3], "z": [3, 1, 2, 2]},
}


@pytest.mark.parametrize(
    "sql",
    [
        "t.k, a.x FROM t JOIN a ON t.v >= 0 WHERE coalesce(a.k, 1) + t.ts < 3",
        "t.ts, a.k FROM t LEFT JOIN a ON coalesce(t.k, 1) + a.x < 6 WHERE t.k = a.k",
        "t.ts, a.x FROM t LEFT JOIN a ON t.k = a.k WHERE a.k IS NULL OR a.k + t.v > 6",
        "t.k, b.y FROM t CROSS JOIN b LEFT JOIN c ON b.x = c.z WHERE coalesce(c.y, 1) + b.x < 4",
        "t.k, c.z, a.k AS o FROM t LEFT JOIN c ON c.y IS NOT NULL LEFT JOIN a ON"
        " coalesce(c.y, 1) + a.x < 5 WHERE t.k = a.x AND t.k = a.k",
        "t.ts, b.y, c.y AS o, a.x FROM t LEFT JOIN a ON t.k = a.k JOIN c ON t.ts IS NOT NULL AND"
        " (a.k = 1 OR a.k > 0) CROSS JOIN b WHERE (c.y = 4 OR b.x > 2) AND t.v < 5 AND c.y = b.x",
        "t.k, b.y, a.k AS o, c.y AS p FROM t JOIN b ON coalesce(t.v, 1) + t.v < 9, a LEFT JOIN c ON"
        " coalesce(c.y, 1) + a.k < 7 WHERE b.x = c.z AND c.y = a.k",
        "t.k, a.x FROM t JOIN a ON t.v >= 0 WHERE coalesce(a.k, 1) + t.ts < (SELECT max(x) FROM b)",
        "t.k, a.k AS o FROM t JOIN a ON a.x >= 1 WHERE EXISTS (SELECT 1 FROM b WHERE b.x = a.x)"
        " AND t.k > (SELECT min(b.x) FROM b)",
        "t.k, a.k AS o FROM t JOIN a ON a.x >= 1 WHERE t.ts NOT IN (SELECT y FROM b) AND (t.k = 4"
        " OR a.k IN (SELECT z FROM c)) AND a.k < (SELECT sum(b.y) FROM b WHERE b.x = t.ts)",
        # Of tables that nothing else reads.
        "t.ts, a.x FROM t LEFT JOIN a ON t.k = a.k AND a.x < (SELECT max(b.y) FROM b)",
        "t.ts, a.x FROM t JOIN a ON t.k = a.k"
        " AND a.x > (SELECT min(s.y) FROM b AS s WHERE s.x = a.x)",
        "t.ts, a.x FROM t JOIN a ON a.x IN (SELECT b.x FROM b) LEFT JOIN c ON c.y = a.x"
        " WHERE c.z > 0 OR a.k = t.k",
        "t.ts, a.x FROM t, b JOIN a ON NOT EXISTS (SELECT 1 FROM c WHERE c.y = a.x) AND b.x = a.k",
        "t.ts, 12 / b.x AS q FROM t, b, c WHERE b.x <> 0 AND b.y = c.y AND (b.x > 1 OR t.k > 1)",
    ],
)
@pytest.mark.parametrize("batch_rows", [1, 4, 100])
def test_columns_of_one_name_are_told_apart(sql, batch_rows):
    tables = {name: pa.table(columns) for name, columns in ALIKE.items()}
    session = ms.Session(partitions=1)
    session.create_stream("t", tables["t"].schema, event_time="ts")
    database = duckdb.connect()
    for name, table in tables.items():
        database.register(name, table)
        if name != "t":
            session.create_table(name, table)
    sql = f"SELECT {sql}"
    wanted = Counter(database.execute(sql.replace("12 /", "12 //")).fetchall())
    got = session.sql(sql).run({"t": tables["t"]}, batch_rows=batch_rows)
    assert wanted
    assert Counter(zip(*(column.to_pylist() for column in got.columns), strict=True)) == wanted


@pytest.mark.parametrize(
    "condition",
    [
        "t.k IN (SELECT x FROM b)",
        "t.k = a.k AND NOT EXISTS (SELECT 1 FROM b)",
        "t.k = a.k AND a.x > (SELECT min(y) FROM b WHERE b.x = t.v)",
    ],
)
def test_outer_joins_do_not_ask_subqueries_for_each_row(condition):
    session = ms.Session(partitions=1)
    for name in "ab":
        session.create_table(name, pa.table(ALIKE[name]))
    session.create_stream("t", pa.table(ALIKE["t"]).schema)
    with pytest.raises(ms.SqlError, match="correlated subqueries belong in WHERE"):
        session.sql(f"SELECT t.v FROM t LEFT JOIN a ON {condition}")


def test_what_is_computed_of_unwanted_rows_does_not_fail():
    session = ms.Session(partitions=1)
    stream = pa.table({"k": [0, 1, 2], "v": [0, 5, 7]})
    session.create_stream("t", stream.schema)
    session.create_table("a", pa.table({"k": [0, 2], "v": [3, 4]}))
    query = session.sql(
        "SELECT 100 / t.v AS q FROM t LEFT JOIN a ON t.k = a.k WHERE t.v > 0 AND t.v + a.v > 5"
    )
    assert query.run({"t": stream})["q"].to_pylist() == [14]


def test_a_condition_that_changes_its_mind_is_asked_once():
    session = ms.Session(partitions=1)
    stream = pa.table({"k": [1] * 1000, "v": [3] * 1000})
    session.create_stream("t", stream.schema)
    session.create_table("a", pa.table({"k": [1], "v": [4]}))
    query = session.sql(
        'SELECT t.v * 2 AS "a AS b" FROM t JOIN a ON t.k = a.k'
        " WHERE random() < 0.5 AND t.v + a.v > 5"
    )
    result = query.run({"t": stream})["a AS b"].to_pylist()
    assert 300 < len(result) < 700
    assert set(result) == {6}


def test_lists_of_wanted_rows_are_unnested():
    session = ms.Session(partitions=1)
    stream = pa.table({"k": [1, 2], "l": [[1, 2], [3]]})
    session.create_stream("t", stream.schema)
    session.create_table("a", pa.table({"k": [1, 2], "v": [4, 5]}))
    query = session.sql(
        "SELECT unnest(l) AS u FROM t LEFT JOIN a ON t.k = a.k WHERE t.k + a.k + a.v > 6"
    )
    assert query.run({"t": stream})["u"].to_pylist() == [3]
