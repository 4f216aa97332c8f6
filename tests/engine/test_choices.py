"""Values that are chosen by a condition, against DataFusion, which computes CASE as a whole."""

from __future__ import annotations

from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine import choices
from millstream.engine.choices import Choices
from millstream.engine.datafusion import TransformRunner
from millstream.planner.nodes import Transform

SCHEMA = pa.schema(
    {
        "k": pa.int64(),
        "b": pa.bool_(),
        "x": pa.int64(),
        "y": pa.int64(),
        "f": pa.float64(),
        "g": pa.float64(),
        "i": pa.int32(),
        "s": pa.string(),
        "a WHEN b": pa.int64(),
    }
)
CHOSEN = [
    "CASE WHEN x > 3 THEN y ELSE 0 END",
    "CASE WHEN x > 3 THEN y ELSE -12 END",
    "CASE WHEN x > 3 THEN 7 ELSE y END",
    "CASE WHEN x > y THEN x ELSE y END",
    "CASE WHEN b THEN x ELSE 0 END",
    "CASE WHEN NOT b OR x IS NULL THEN f ELSE 0 END",
    "CASE WHEN s = 'CASE WHEN 1 THEN 2 ELSE 3 END' THEN f ELSE 0.25 END",
    "CASE WHEN s = 'it''s \"ELSE\"' THEN f ELSE g END",
    "CASE WHEN f > 0.5 AND (x > 2 OR y < 3) THEN -1.5 ELSE g END",
    'CASE WHEN "a WHEN b" > 0 THEN "a WHEN b" ELSE 0 END',
    "coalesce(x, 0)",
    "coalesce(f, -2.5)",
    "coalesce(f, 1)",
]
LEFT = [
    "CASE WHEN x > 3 THEN y + 1 ELSE 0 END",
    "CASE WHEN x > 3 THEN y END",
    "CASE WHEN x > 3 THEN 1 ELSE 0 END",
    "CASE WHEN x > 3 THEN y WHEN x > 2 THEN x ELSE 0 END",
    "CASE x WHEN 3 THEN y ELSE 0 END",
    "CASE WHEN x > 3 THEN y ELSE 0 END + 1",
    "1 + CASE WHEN x > 3 THEN y ELSE 0 END",
    "CASE WHEN CASE WHEN b THEN x ELSE 0 END > 1 THEN y ELSE 0 END",
    "CASE WHEN x > 3 THEN i ELSE 0 END",
    "CASE WHEN x > 3 THEN s ELSE 'none' END",
    "CASE WHEN x > 3 THEN y ELSE 0.5 END",
    "CASE WHEN x > 3 THEN y ELSE 99999999999999999999 END",
    "coalesce(x, y)",
    "coalesce(i, 0)",
    "coalesce(s, '')",
]


def session(partitions=1):
    made = ms.Session(partitions=partitions)
    made.create_stream("t", SCHEMA)
    return made


def transforms(node):
    return ([node] if isinstance(node, Transform) else []) + [
        found for child in node.inputs for found in transforms(child)
    ]


def n_choices(sql):
    return sum(len(Choices(node)._choices) for node in transforms(session().sql(sql)._plan.root))


def answers(sql, data, partitions=1):
    return session(partitions).sql(sql).run({"t": data}, batch_rows=7)


def by_datafusion(sql, data):
    with patch.object(choices, "_taken_apart", return_value=None):
        return answers(sql, data)


SMALL = st.integers(0, 6)
ANY = SMALL | st.sampled_from([2**63 - 1, -(2**63)])


@st.composite
def rows(draw, integers=ANY):
    n_rows = draw(st.integers(1, 40))
    values = {
        pa.bool_(): st.booleans(),
        pa.int64(): integers,
        pa.int32(): SMALL,
        pa.float64(): st.sampled_from([0.0, -0.0, 0.25, 1.0, float("inf"), float("nan")]),
        pa.string(): st.sampled_from(["", "a", "CASE WHEN 1 THEN 2 ELSE 3 END", 'it\'s "ELSE"']),
    }
    columns = []
    for field in SCHEMA:
        some = values[field.type]
        if field.name != "k" and draw(st.booleans()):
            some = st.none() | some
        column = draw(st.lists(some, min_size=n_rows, max_size=n_rows))
        columns.append(pa.array(column, field.type))
    batch = pa.record_batch(columns, schema=SCHEMA)
    return pa.Table.from_batches([batch.slice(draw(st.integers(0, n_rows - 1)))])


@pytest.mark.parametrize("expression", CHOSEN)
def test_values_are_chosen_here(expression):
    assert n_choices(f"SELECT k, {expression} AS c FROM t") == 1
    assert n_choices(f"SELECT k, sum({expression}) AS c FROM t GROUP BY k EMIT FINAL") == 1


@pytest.mark.parametrize("expression", LEFT)
def test_what_is_no_choice_of_columns_and_numbers_is_left_to_datafusion(expression):
    assert n_choices(f"SELECT k, {expression} AS c FROM t") == 0


@settings(max_examples=40)
@given(rows())
def test_choices_are_those_of_datafusion(data):
    columns = ", ".join(f"{expression} AS c{n}" for n, expression in enumerate(CHOSEN))
    for where in ("", " WHERE x > 1"):
        sql = f"SELECT k, {columns}, s FROM t{where}"
        got, want = answers(sql, data), by_datafusion(sql, data)
        assert got.schema == want.schema
        # Texts, for which NaN is like itself, and zeros have signs.
        assert str(got.to_pylist()) == str(want.to_pylist())


@settings(max_examples=40)
@given(rows(SMALL), st.integers(1, 2))
def test_sums_of_choices_are_those_of_datafusion(data, partitions):
    # Whose order does not matter: of integers.
    whole = [
        e for e in CHOSEN if session().sql(f"SELECT {e} AS c FROM t").schema.types[0] == "int64"
    ]
    sums = ", ".join(f"sum({expression}) AS c{n}" for n, expression in enumerate(whole))
    sql = f"SELECT k, {sums}, count(*) AS n FROM t GROUP BY k EMIT FINAL"
    got = answers(sql, data, partitions).sort_by("k").to_pylist()
    assert got == by_datafusion(sql, data).sort_by("k").to_pylist()


@pytest.mark.parametrize(
    "values",
    [[2, 0, None], [0.5, 0.0, None], ["yes", "off", None], ["t", "0", None]],
)
def test_a_condition_is_what_case_makes_of_it(values):
    data = pa.table({"x": values, "v": [1, 2, 3]})
    made = ms.Session(partitions=1)
    made.create_stream("t", data.schema)
    query = made.sql("SELECT CASE WHEN x THEN v ELSE 0 END AS c FROM t")
    assert len(Choices(query._plan.root)._choices) == 1
    assert query.run({"t": data})["c"].to_pylist() == [1, 0, 0]


def test_a_condition_that_is_none_fails_with_its_row():
    data = pa.table({"x": ["yes", "a"], "v": [1, 2]})
    made = ms.Session(partitions=1)
    made.create_stream("t", data.schema)
    with pytest.raises(ms.JobFailed, match=r"'a' to value of Boolean.*row 1"):
        made.sql("SELECT CASE WHEN x THEN v ELSE 0 END AS c FROM t").run({"t": data})


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CASE WHEN z > 5 THEN x ELSE 0 END AS c FROM t JOIN n ON t.k = n.k",
        "SELECT CASE WHEN b THEN z ELSE 0 END AS c FROM t JOIN n ON t.k = n.k",
        "SELECT CASE WHEN x > (SELECT max(z) FROM n) THEN y ELSE 0 END AS c FROM t",
        "SELECT coalesce(x, 0) AS c FROM t WHERE x IN (SELECT z FROM n)",
    ],
)
def test_what_reads_a_table_is_left_to_datafusion(sql):
    made = session()
    made.create_table("n", pa.table({"k": [1, 2], "z": [5, 6]}))
    assert not any(Choices(node) for node in transforms(made.sql(sql)._plan.root))


def test_a_condition_alone_needs_no_datafusion():
    (node,) = transforms(
        session().sql("SELECT CASE WHEN b THEN x ELSE 0 END AS c FROM t")._plan.root
    )
    runner = TransformRunner(node, {}, {})
    assert runner._picks == ("b", "x")


def test_a_condition_that_fails_fails_as_ever():
    data = pa.table({"x": [1, 0]})
    made = ms.Session(partitions=1)
    made.create_stream("t", data.schema)
    with pytest.raises(ms.JobFailed, match=r"[Dd]ivide by zero"):
        made.sql("SELECT CASE WHEN 1 / x > 0 THEN x ELSE 5 END AS c FROM t").run({"t": data})
