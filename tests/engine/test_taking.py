"""Rows taken where values are text or binary views, or have such in them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.state.row_store import RowStore
from millstream.engine.taking import filter_rows, take, take_rows

TEXT, BYTES = pa.string_view(), pa.binary_view()
LONG = "a text that is longer than a view holds itself"
COLUMNS = {
    "text": pa.array(["a", None, LONG, ""], TEXT),
    "list": pa.array([["a", None], None, [LONG], []], pa.list_(TEXT)),
    "large list": pa.array([["a", None], None, [LONG], []], pa.large_list(TEXT)),
    "fixed list": pa.array([["a", None], None, [LONG, ""], ["b", "c"]], pa.list_(TEXT, 2)),
    "struct": pa.array(
        [{"t": "a", "n": 1}, None, {"t": None, "n": 2}, {"t": LONG, "n": None}],
        pa.struct([("t", TEXT), ("n", pa.int64())]),
    ),
    "map": pa.array([[("k", b"v")], None, [("l", None)], []], pa.map_(TEXT, BYTES)),
    "deep": pa.array(
        [[{"t": ["a"]}], None, [None, {"t": None}], [{"t": [LONG, None]}]],
        pa.list_(pa.struct([("t", pa.list_(TEXT))])),
    ),
    "list view": pa.array([["a", None], None, [LONG], []], pa.list_view(TEXT)),
    "dictionary": pa.DictionaryArray.from_arrays(
        pa.array([0, None, 1, 0], pa.int32()), pa.array(["a", LONG], TEXT)
    ),
    "number": pa.array([1, None, 3, 4]),
}
BATCH = pa.record_batch(COLUMNS)


@pytest.mark.parametrize("name", COLUMNS)
def test_rows_of_any_column_are_taken(name: str) -> None:
    column = pa.concat_arrays([COLUMNS[name], COLUMNS[name]])[1:-1]
    rows = column.to_pylist()
    taken = take(column, pa.array([2, 0, 0, None, 5], pa.int64()))
    taken.validate(full=True)
    assert taken.type == column.type
    assert taken.to_pylist() == [rows[2], rows[0], rows[0], None, rows[5]]
    assert take(column, pa.array([], pa.int64())).to_pylist() == []


def test_rows_of_batches_are_taken_and_filtered() -> None:
    batch, rows = BATCH[1:], BATCH.to_pylist()[1:]
    for dtype in (np.int64, np.uint32):
        taken = take_rows(batch, np.array([2, 0, 2], dtype))
        assert taken.schema == batch.schema
        assert taken.to_pylist() == [rows[2], rows[0], rows[2]]
    kept = filter_rows(batch, np.array([True, False, True]))
    assert kept.schema == batch.schema
    assert kept.to_pylist() == [rows[0], rows[2]]


def test_stores_give_back_what_they_have_got() -> None:
    store, rows = RowStore(BATCH.schema), BATCH.to_pylist()
    assert [store.append(BATCH[:n]) for n in (4, 1, 3, 0)] == [0, 4, 5, 8]
    expected = [*rows, rows[0], *rows[:3]]
    positions = np.array([7, 0, 2, 4, 4], np.int64)
    taken = store.take(positions)
    assert taken.schema == BATCH.schema
    assert taken.to_pylist() == [expected[place] for place in positions]
    store.rewrite(positions)
    assert store.take(np.arange(5)).to_pylist() == taken.to_pylist()
    assert store.take(np.empty(0, np.int64)).schema == BATCH.schema
    store.rewrite(np.empty(0, np.int64))
    assert store.append(BATCH) == 0
    assert store.take(np.arange(4)).to_pylist() == rows


SELECTS = [
    "v, c, sum(v) OVER (PARTITION BY g ORDER BY x) AS s FROM t",
    "v, lag(c) OVER (ORDER BY x) AS p FROM t",
    "v, lag(c) OVER (PARTITION BY g ORDER BY x) AS p FROM t",
    "v, first_value(c) OVER (PARTITION BY g ORDER BY x) AS p FROM t",
    "v, first_value(c) OVER (PARTITION BY g ORDER BY x ROWS 1 PRECEDING) AS p FROM t",
    "v, last_value(c) OVER (PARTITION BY g ORDER BY x) AS p FROM t",
    "g, first_value(c) AS f, last_value(c) AS l FROM t GROUP BY g EMIT CHANGES",
    "g, last_value(c) AS l FROM t GROUP BY g EMIT FINAL",
    "g, array_agg(c ORDER BY x) AS a FROM t GROUP BY g EMIT CHANGES",
    "g, array_agg(c ORDER BY x) AS a FROM t GROUP BY g WINDOW TUMBLING(x, 2)",
    "g, array_agg(c ORDER BY x) AS a FROM t GROUP BY g WINDOW SLIDING(x, 4, 2)",
    "g, array_agg(c ORDER BY x) AS a FROM t GROUP BY g WINDOW SESSION(x, 2)",
    "c, v FROM (SELECT *, row_number() OVER (PARTITION BY window_end ORDER BY v) AS r"
    " FROM TUMBLE(t, x, 3)) q WHERE r = 1",
    "g, c, window_end FROM HOP(t, x, 2, 4)",
    "window_end, c, v FROM TUMBLE(t, x, 3) ORDER BY v LIMIT 2",
]


def results(select: str, table: pa.Table, partitions: int) -> list[str]:
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema, event_time="x", max_out_of_orderness=1)
    out = session.sql(f"SELECT {select}").run({"t": table}, batch_rows=2)
    out.validate(full=True)
    return sorted(map(str, out.to_pylist()))


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("select", SELECTS)
def test_queries_keep_rows_with_views_in_them(select: str, partitions: int) -> None:
    """Some rows are late, and some come out of order."""
    n_rows = 12
    text = pa.array([["a"], ["b", None], None, [], [LONG], ["c"]] * 2, pa.list_(pa.string()))
    pairs = pa.array([{"t": LONG}, None, {"t": None}] * 4, pa.struct([("t", pa.string())]))
    for column in (text, pairs):
        view_type = pa.list_(TEXT) if column is text else pa.struct([("t", TEXT)])
        plain, views = (
            pa.table(
                {
                    "x": [0, 1, 3, 2, 4, 0, 6, 8, 7, 9, 2, 11],
                    "g": ["x", "y", "z"] * 4,
                    "v": list(range(n_rows)),
                    "c": values,
                }
            )
            for values in (column, column.cast(view_type))
        )
        assert results(select, views, partitions) == results(select, plain, partitions)
