"""Sums of a column and a constant are made of the sum and the count of the column."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest

import millstream as ms

TYPES = {
    "k": pa.int64(),
    "a": pa.int16(),
    "b": pa.int64(),
    "u": pa.uint8(),
    "f": pa.float64(),
    "d": pa.decimal128(9, 2),
}
ROWS = {
    "k": [1, 1, 1, 2, 2, 3],
    "a": [5, None, -7, 32767, -32768, None],
    "b": [2**63 - 1, 3, None, -(2**63), 4, 5],
    "u": [255, 0, None, 1, 2, 3],
    "f": [0.5, 1.5, None, 2.5, 3.5, 4.5],
    "d": [1, 2, 3, 4, 5, 6],
}
TABLE = pa.table({name: pa.array(ROWS[name], type_) for name, type_ in TYPES.items()})


def query_of(select: str, partitions: int = 1, tail: str = "") -> ms.Query:
    session = ms.Session(partitions=partitions)
    session.create_stream("t", TABLE.schema)
    return session.sql(f"SELECT k, {select} FROM t GROUP BY k {tail} EMIT FINAL")


def answer(query: ms.Query) -> dict[int, tuple[Any, ...]]:
    rows = query.run({"t": TABLE}, batch_rows=2).to_pylist()
    return {key: tuple(values) for key, *values in (row.values() for row in rows)}


def calls(query: ms.Query) -> list[str]:
    """What the first aggregate computes."""
    return sorted(set(re.findall(r"__a\d+ = (.*?):", query.explain())))


def sums(column: str, shift: int, keeps: Any = lambda row: True) -> dict[int, int | None]:
    found: dict[int, int | None] = dict.fromkeys(ROWS["k"])
    for row, (key, value) in enumerate(zip(ROWS["k"], ROWS[column], strict=True)):
        if value is not None and keeps(row):
            # Sums of int64 wrap around.
            total = (found[key] or 0) + value + shift
            found[key] = (total + 2**63) % 2**64 - 2**63
    return found


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize(
    ("argument", "column", "shift"),
    [
        ("a + 1", "a", 1),
        ("1 + a", "a", 1),
        ("a - 40000", "a", -40000),
        ("(a) + (-(3))", "a", -3),
        ("a - -3", "a", 3),
        ("b + 9223372036854775807", "b", 2**63 - 1),
        ("b - 9223372036854775807", "b", -(2**63) + 1),
    ],
)
def test_a_sum_with_a_constant_is_made_of_sum_and_count(
    argument, column, shift, partitions
) -> None:
    # One of them alone is added up as it is.
    for more in ("", f", sum({column} + 77) AS more"):
        query = query_of(f"sum({argument}) AS s{more}", partitions)
        found = ['count("__x0")', 'sum("__x0")'] if more else ['sum("__x0")']
        assert calls(query) == found
        assert query.schema.field("s") == pa.field("s", pa.int64())
        expected = sums(column, shift)
        assert {key: row[:1] for key, row in answer(query).items()} == {
            key: (total,) for key, total in expected.items()
        }


def test_many_sums_of_a_column_are_one() -> None:
    many = ", ".join(f"sum(a + {shift}) AS s{shift}" for shift in range(30))
    query = query_of(f"{many}, sum(a) AS s, count(a) AS n")
    assert calls(query) == ['count("__x0")', 'sum("__x0")']
    found = answer(query)
    for key, total in sums("a", 0).items():
        n = sum(k == key and a is not None for k, a in zip(ROWS["k"], ROWS["a"], strict=True))
        shifted = [None if total is None else total + n * shift for shift in range(30)]
        assert found[key] == (*shifted, total, n)


def test_rows_are_filtered_for_both() -> None:
    query = query_of("sum(a + 2) FILTER (WHERE b > 3) AS s, sum(a + 3) AS t")
    assert len(calls(query)) == 4
    expected = sums("a", 2, lambda row: ROWS["b"][row] is not None and ROWS["b"][row] > 3)
    others = sums("a", 3)
    assert answer(query) == {key: (total, others[key]) for key, total in expected.items()}


def test_groups_are_chosen_by_such_sums() -> None:
    query = query_of("sum(a + 1) * 2 AS s", tail="HAVING sum(a - 1) < -2")
    assert calls(query) == ['count("__x0")', 'sum("__x0")']
    assert answer(query) == {1: (0,), 2: (2,)}


@pytest.mark.parametrize(
    "argument",
    [
        "u + {}",
        "f + {}",
        "d + {}",
        "{} - a",
        "a * {}",
        "a + b + {}",
        "a + {}.5",
        "a + 922337203685477580{}",
        "DISTINCT a + {}",
        "a + {} ORDER BY b",
    ],
)
def test_other_sums_are_added_up_as_they_are(argument) -> None:
    query = query_of(f"sum({argument.format(8)}) AS s, sum({argument.format(9)}) AS t")
    assert not any(call.startswith("count") for call in calls(query))


def test_each_version_has_them() -> None:
    session = ms.Session()
    session.create_stream("t", TABLE.schema)
    sink = ms.CollectSink()
    with session.sql(
        "SELECT sum(a + 1) AS s, sum(a) AS t, sum(a - 1) AS u FROM t EMIT CHANGES"
    ).start(sink) as job:
        for start in range(3):
            job.push("t", TABLE.slice(start, 1))
    # The second row is NULL, and changes nothing.
    assert sink.table()["s"].to_pylist() == [6, 0]
