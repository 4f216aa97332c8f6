"""Rows that cannot be among the first ones of their window are left out before they are sorted."""

from __future__ import annotations

import datetime as dt
import random
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators import window_select
from millstream.engine.operators.first_rows import first_of_windows
from millstream.planner.nodes import PlaceOrder

NAN = float("nan")


def kept(values, windows, n_rows, *, descending, n_chunks=2, type_=None):
    """Return the rows that are kept, of values dealt to some chunks."""
    chunks, ends = [], []
    rows = np.array_split(np.arange(len(values)), n_chunks)
    for part in rows:
        array = pa.array([values[row] for row in part], type_)
        chunks.append(pa.record_batch({"v": array, "row": pa.array(part)}))
        ends.append(np.array([windows[row] for row in part], np.int64))
    order = PlaceOrder("place", "v", descending)
    batches = first_of_windows(chunks, ends, order, n_rows)
    return [row for batch in batches for row in batch["row"].to_pylist()]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("n_rows", [1, 2, 5, 100])
@pytest.mark.parametrize("seed", range(4))
def test_all_that_are_as_good_as_the_last_one_are_kept(seed, n_rows, descending):
    rng = random.Random(seed)
    values = [rng.randint(-4, 4) for _ in range(60)]
    windows = [rng.randint(0, 2) * 10 for _ in range(60)]
    expected = []
    for row, value in enumerate(values):
        mates = [v for v, w in zip(values, windows, strict=True) if w == windows[row]]
        n_better = sum(v > value if descending else v < value for v in mates)
        if n_better < n_rows:
            expected.append(row)
    assert kept(values, windows, n_rows, descending=descending, n_chunks=3) == expected


@pytest.mark.parametrize("descending", [False, True])
def test_rows_without_a_value_are_kept(descending):
    values = [1.0, None, NAN, 2.0, 3.0, None]
    best = 4 if descending else 0
    assert kept(values, [0] * 6, 1, descending=descending, type_=pa.float64()) == sorted(
        [1, 2, 5, best]
    )
    empty = [None, NAN]
    assert kept(empty, [0, 0], 1, descending=descending, type_=pa.float64()) == [0, 1]


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([0, 2**64 - 1, 2**63, 5], pa.uint64()),
        ([0, 2**63 - 1, 2**62, -(2**63)], pa.int64()),
        ([1, 127, 2, -128], pa.int8()),
        ([dt.date(2020, 1, 1), dt.date(2021, 1, 1), dt.date(1969, 1, 1), None], pa.date32()),
        ([0.0, float("inf"), -float("inf"), 1e300], pa.float64()),
        ([0.5, 2.5, 1.5, -0.5], pa.float32()),
    ],
)
def test_types(values, type_):
    got = kept(values, [0] * 4, 1, descending=True, n_chunks=1, type_=type_)
    assert got == [1, *([3] if values[3] is None else [])]


def test_a_chunk_without_first_rows_is_left_out():
    assert kept([9, 9, 1, 1], [0] * 4, 1, descending=True) == [0, 1]


def rows_of(n_rows, seed=0):
    rng = random.Random(seed)
    return pa.table(
        {
            "ts": pa.array(range(n_rows), pa.int64()),
            "v": [rng.choice([None, NAN, *map(float, range(6))]) for _ in range(n_rows)],
            "i": [rng.choice([None, *range(6)]) for _ in range(n_rows)],
            "s": [rng.choice("abc") for _ in range(n_rows)],
        }
    )


RANKED = (
    "SELECT ts, v, i, place FROM (SELECT *, {call} OVER (PARTITION BY window_start, window_end"
    " ORDER BY {order}) AS place FROM TABLE({window})) WHERE {where}"
)
TUMBLE, HOP = "TUMBLE(t, ts, 20)", "HOP(t, ts, 10, 30)"
QUERIES = [
    RANKED.format(call=call, order=order, window=window, where=where)
    for call, order, window, where in [
        ("rank()", "v DESC", TUMBLE, "place <= 1"),
        ("rank()", "v DESC NULLS LAST", TUMBLE, "place <= 3"),
        ("rank()", "v", TUMBLE, "place < 3 AND i > 1"),
        ("rank()", "i NULLS FIRST", HOP, "place <= 5"),
        ("row_number()", "i DESC NULLS LAST, v", TUMBLE, "place <= 4"),
        ("row_number()", "v", HOP, "place <= 2"),
        # A group of more than a window, other functions, and filters that set no limit.
        ("dense_rank()", "v DESC", TUMBLE, "place <= 2"),
        ("rank()", "v + 1", TUMBLE, "place <= 2"),
        ("rank()", "s", TUMBLE, "place <= 2"),
        ("rank()", "v", TUMBLE, "place <= 2 OR i = 1"),
        ("rank()", "v", TUMBLE, "place > 2"),
        ("percent_rank()", "v", TUMBLE, "place <= 1"),
    ]
]
QUERIES += [
    "SELECT ts, s, v FROM (SELECT *, rank() OVER (PARTITION BY window_end, s ORDER BY v) AS p"
    " FROM TABLE(TUMBLE(t, ts, 20))) WHERE p <= 2",
    "SELECT ts, v, r, p FROM (SELECT *, rank() OVER (PARTITION BY window_end ORDER BY v) AS p,"
    " rank() OVER (PARTITION BY window_end ORDER BY v) AS r FROM TABLE(TUMBLE(t, ts, 20)))"
    " WHERE p <= 2",
    # What else is computed of a window needs all of its rows.
    "SELECT ts, v, p, q FROM (SELECT *, rank() OVER (PARTITION BY window_end ORDER BY v) AS p,"
    " percent_rank() OVER (PARTITION BY window_end ORDER BY v) AS q FROM TABLE(TUMBLE(t, ts, 20)))"
    " WHERE p <= 6",
    "SELECT window_end, s, count(*) AS n FROM t GROUP BY s WINDOW TUMBLING(ts, 20)"
    " ORDER BY n DESC, s LIMIT 2",
]


def answer(sql, batch_rows):
    session = ms.Session(partitions=1)
    table = rows_of(200)
    session.create_stream("t", table.schema, event_time="ts")
    return session.sql(sql).run({"t": table}, batch_rows=batch_rows).to_pylist()


@pytest.mark.parametrize("batch_rows", [1, 7, 1000])
@pytest.mark.parametrize("sql", QUERIES)
def test_answers_are_those_without_the_short_cut(sql, batch_rows):
    def all_of_them(chunks, ends, order, n_rows):
        return chunks

    with mock.patch.object(window_select, "first_of_windows", all_of_them):
        expected = answer(sql, 1000)
    got = answer(sql, batch_rows)
    assert sorted(map(repr, got)) == sorted(map(repr, expected))
    assert len(got) > 0


@pytest.mark.parametrize(
    "values",
    [
        [dt.time(3), dt.time(1), None, dt.time(3), dt.time(2)],
        [b"c", b"a", None, b"c", b"b"],
        pa.array([3, 1, None, 3, 2], pa.duration("s")),
        ["c", "a", None, "c", "b"],
    ],
)
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("row_number()", [3, 1, 5, 4, 2]),
        ("rank()", [3, 1, 5, 3, 2]),
        ("dense_rank()", [3, 1, 4, 3, 2]),
        ("percent_rank()", [0.5, 0.0, 1.0, 0.5, 0.25]),
        ("cume_dist()", [0.8, 0.2, 1.0, 0.8, 0.4]),
        ("ntile(5)", [3, 1, 5, 4, 2]),
        ("lag(id)", [4, None, 3, 0, 1]),
        ("lead(id)", [3, 4, None, 2, 0]),
    ],
)
def test_places_are_by_values_of_any_type(call, expected, values):
    rows = pa.table({"id": range(5), "v": values, "ts": [1] * 5})
    sql = f"SELECT id, {call} OVER (PARTITION BY window_end ORDER BY v) AS x FROM TUMBLE(t, ts, 10)"
    session = ms.Session(partitions=1)
    session.create_stream("t", rows.schema, event_time="ts")
    results = session.sql(sql).run({"t": rows}).sort_by("id")
    assert results["x"].to_pylist() == expected
