"""Queries whose keys lie close to each other, or not: one answer, with records and without."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import millstream as ms
from millstream.engine.operators.dense_groups import DenseGroups
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.record_panes import KeyRows, RecordPanes

SQL = "SELECT k, count(*) AS n, sum(v) AS s, min(v) AS a, max(v) AS b FROM t GROUP BY k"
WINDOWS = {
    "all": "",
    "tumble": " WINDOW TUMBLING(ts, INTERVAL '1' SECOND)",
    "hop": " WINDOW SLIDING(ts, INTERVAL '2' SECOND, INTERVAL '1' SECOND)",
}


def keys_with(kind: str, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    keys = rng.integers(0, 200, n_rows)
    if kind == "outliers":
        keys[rng.random(n_rows) < 0.01] = rng.choice([-1, 10**12, -(2**63), 2**63 - 1])
    elif kind == "growing":
        keys += np.arange(n_rows) // 20
    elif kind == "sparse":
        keys *= 10**9
    elif kind == "turning sparse":
        keys[n_rows // 2 :] *= 10**9
    return keys


# With a filter rows come as batches that DataFusion made.
@pytest.mark.parametrize("where", ["", " WHERE v <> 3"])
@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("window", list(WINDOWS))
@pytest.mark.parametrize(
    "kind", ["close", "outliers", "growing", "sparse", "turning sparse", "nulls"]
)
def test_queries_have_one_answer_whatever_their_keys(
    kind, window, partitions, where, monkeypatch
) -> None:
    n_rows, n_added, n_calls = 20_000, 0, 0
    rng = np.random.default_rng(5)
    times = np.arange(n_rows) * 300
    if window != "all":
        # Some rows are out of order, and a few late.
        times = np.maximum(times - (rng.random(n_rows) < 0.01) * rng.integers(0, 900_000), 0)
    table = pa.table(
        {
            "ts": times.astype("datetime64[us]"),
            "k": pa.array(
                keys_with(kind, n_rows, rng), mask=rng.random(n_rows) < 0.1 * (kind == "nulls")
            ),
            "v": rng.integers(-1000, 1000, n_rows).astype(np.int32),
        }
    )
    take = RecordPanes.add

    def spied(panes: RecordPanes, parts: Sequence[KeyRows], places: Any) -> Any:
        nonlocal n_added, n_calls
        n_calls += 1
        if n_calls % refused == 0:
            # Some keys get groups here and there.
            return None
        left = take(panes, parts, places)
        if left is not None:
            n_added += sum(part.n_rows for part in parts) - sum(map(len, left))
        return left

    monkeypatch.setattr(RecordPanes, "add", spied)

    def rows_of(n_partitions: int, batch_rows: int) -> list[tuple[Any, ...]]:
        session = ms.Session(partitions=n_partitions)
        session.create_stream("t", table.schema, event_time="ts", max_out_of_orderness="500 ms")
        select = SQL if window == "all" else SQL.replace("SELECT k", "SELECT window_end, k")
        select = select.replace(" GROUP", f"{where} GROUP")
        query = session.sql(select + WINDOWS[window] + " EMIT FINAL")
        out: list[pa.RecordBatch] = []
        with query.start(out.append) as job:
            for batch in table.to_batches(max_chunksize=batch_rows):
                job.push("t", batch)
                # What waits would be taken together.
                job._runtime.ask(lambda operators: None, list(range(n_partitions)), 5.0)
        result = pa.Table.from_batches(out, query.schema)
        rows = zip(*(column.to_pylist() for column in result.columns), strict=True)
        return sorted(rows, key=repr)

    refused = 10**6
    got, n_by_records = rows_of(partitions, 3000), n_added
    # In one piece, and in small ones of which every other is refused.
    others = [rows_of(partitions, n_rows)]
    refused = 2
    others.append(rows_of(partitions, 500))
    monkeypatch.setattr(DensePanes, "takes_rows", property(lambda panes: False))
    others.append(rows_of(partitions, 5000))
    with monkeypatch.context() as patch:
        patch.setattr(RecordPanes, "for_keys", classmethod(lambda *_: None))
        expected = rows_of(1, 3000)
    assert got == expected
    assert others == [expected] * 3
    if kind != "turning sparse":
        assert (n_by_records > n_rows // 2) == (kind != "sparse")


# Of many rows per group, records; of few, groups where windows are put together.
@pytest.mark.parametrize(("n_keys", "uses_records"), [(50, True), (1500, False)])
@pytest.mark.parametrize(
    "calls", ["count(*) AS n, sum(v) AS s", "max(v) AS b", "count(v) AS n, count(*) AS m"]
)
def test_groups_of_hopping_windows_are_where_it_is_quickest(
    n_keys: int, uses_records: bool, calls: str, monkeypatch
) -> None:
    n_rows, rng = 20_000, np.random.default_rng(7)
    keys = rng.integers(0, n_keys, n_rows)
    # Strays have groups elsewhere from the start.
    keys[rng.random(n_rows) < 0.01] = 10**12
    times = (np.arange(n_rows) * 300).astype("datetime64[us]")
    table = pa.table({"ts": times, "k": keys, "v": rng.integers(-9, 9, n_rows)})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts")
    query = session.sql(f"SELECT window_end, k, {calls} FROM t GROUP BY k{WINDOWS['hop']}")
    order = [(name, "ascending") for name in query.schema.names]
    merged: list[int] = []
    merge = DensePanes.add_groups

    def spied(panes: DensePanes, groups: PaneGroups) -> None:
        merged.append(groups.n_groups)
        merge(panes, groups)

    monkeypatch.setattr(DensePanes, "add_groups", spied)
    got = query.run({"t": table}, batch_rows=700).sort_by(order)
    assert (not merged) == uses_records
    monkeypatch.setattr(RecordPanes, "for_keys", classmethod(lambda *_: None))
    assert got.equals(query.run({"t": table}, batch_rows=700).sort_by(order))


def test_panes_whose_first_ones_are_in_sums_already_are_not_shared() -> None:
    number = np.arange(20_000)
    # Values of the first pane have NULLs, so that its groups go another way.
    values = pa.array(np.ones(20_000, np.int64), mask=(number < 2000) & (number % 2 == 1))
    times = (number * 500).astype("datetime64[us]")
    table = pa.table({"ts": times, "k": number // 2 % 1000, "v": values})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts")
    query = session.sql(
        "SELECT window_end, k, count(*) AS n, sum(v) AS s FROM t GROUP BY k"
        " WINDOW SLIDING(ts, INTERVAL '10' SECOND, INTERVAL '1' SECOND)"
    )
    result = query.run({"t": table}, batch_rows=1000)
    assert pc.sum(result["n"]).as_py() == 10 * 20_000


def test_panes_without_groups_are_not_shared() -> None:
    number = np.arange(8000)
    keys = number // 2 % 1000
    # A pane of strays alone is open when the first one ends.
    keys[2000:4000] += 10**12
    times = (number * 500).astype("datetime64[us]")
    table = pa.table({"ts": times, "k": keys, "v": number})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts", max_out_of_orderness="400 ms")
    query = session.sql(SQL + WINDOWS["hop"])
    result = query.run({"t": table}, batch_rows=500)
    assert pc.sum(result["n"]).as_py() == 2 * 8000


def test_texts_are_added_where_windows_are_put_together(monkeypatch) -> None:
    times = (np.arange(20_000) * 300).astype("datetime64[us]")
    keys = pa.array([f"key {n % 20}" for n in range(20_000)])
    table = pa.table({"ts": times, "k": keys, "v": np.arange(20_000)})
    # Records do not tell them elsewhere, so that each pane would look them up again.
    monkeypatch.setattr(RecordPanes, "add", lambda *_: pytest.fail("records"))
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema, event_time="ts")
    result = session.sql(SQL + WINDOWS["hop"]).run({"t": table}, batch_rows=1000)
    assert pc.sum(result["n"]).as_py() == 2 * 20_000


@pytest.mark.parametrize("kind", ["close", "outliers", "growing"])
def test_changes_go_through_records_too(kind) -> None:
    keys = keys_with(kind, 5000, np.random.default_rng(6))
    values = np.arange(5000.0)
    table = pa.table({"k": keys, "v": values})
    session = ms.Session(partitions=2)
    session.create_stream("t", table.schema)
    result = session.sql(f"{SQL} EMIT CHANGES").run({"t": table}, batch_rows=500)
    last = {row["k"]: row for row in result.to_pylist() if row["_op"] in ("+I", "+U")}
    for key in np.unique(keys).tolist():
        mine = values[keys == key]
        row = last.pop(key)
        assert row["n"] == len(mine)
        assert math.isclose(row["s"], mine.sum())
        assert (row["a"], row["b"]) == (mine.min(), mine.max())
    assert not last


@pytest.mark.parametrize("is_dense", [True, False])
def test_panes_that_stay_are_in_memory_of_their_own(is_dense, monkeypatch) -> None:
    times = (np.arange(5000) * 1000).astype("datetime64[us]")
    table = pa.table({"ts": times, "k": np.arange(5000) % 50, "v": np.arange(5000)})
    session = ms.Session(partitions=2)
    session.create_stream("t", table.schema, event_time="ts")
    query = session.sql(SQL + WINDOWS["hop"])
    order = [(name, "ascending") for name in query.schema.names]
    expected = query.run({"t": table}).sort_by(order)
    settle = DenseGroups.settle
    # Of each partition for itself: what another one took may still wait there.
    taken: defaultdict[DenseGroups, list[PaneWords]] = defaultdict(list)

    def add(groups: DenseGroups, words: PaneWords) -> bool:
        taken[groups].append(words)
        return is_dense and add_before(groups, words)

    def settle_and_overwrite(groups: DenseGroups) -> None:
        settle(groups)
        for words in taken[groups]:
            words.words.fill(-1)

    add_before = DenseGroups.add
    monkeypatch.setattr(DenseGroups, "add", add)
    monkeypatch.setattr(DenseGroups, "settle", settle_and_overwrite)
    assert query.run({"t": table}).sort_by(order).equals(expected)
    assert taken


KEYS = {
    "int8": pa.int8(),
    "uint16": pa.uint16(),
    "int32": pa.int32(),
    "uint64": pa.uint64(),
    "date32": pa.date32(),
    "time": pa.timestamp("ms"),
    "boolean": pa.bool_(),
    "decimal": pa.decimal64(18, 0),
    "text": pa.string(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize("key", list(KEYS))
def test_keys_that_are_null_are_a_group_beside_the_records(key, partitions, monkeypatch) -> None:
    n_rows, type_ = 30_000, KEYS[key]
    rng = np.random.default_rng(9)
    # Of a type that casts to all of these.
    numbers = pa.array(rng.integers(0, 2 if key == "boolean" else 100, n_rows), pa.int32())
    if pa.types.is_timestamp(type_):
        numbers = numbers.cast(pa.int64())
    if pa.types.is_dictionary(type_):
        keys = numbers.cast(pa.string()).dictionary_encode()
    else:
        keys = numbers.cast(type_)
    # Whole micro-batches without a NULL, and some of nothing else.
    is_null = (rng.random(n_rows) < 0.2) & (np.arange(n_rows) // 1000 % 5 != 1)
    is_null |= np.arange(n_rows) // 1000 % 7 == 3
    keys = pc.if_else(pa.array(is_null), pa.scalar(None, keys.type), keys)
    # A slice, whose first row is not at the beginning of its memory.
    values = pa.array(rng.integers(-9, 9, n_rows))
    table = pa.table({"k": keys, "v": values}).slice(3)
    session = ms.Session(partitions=partitions)
    session.create_stream("t", table.schema)
    query = session.sql(f"{SQL} EMIT FINAL")

    def rows() -> list[dict[str, Any]]:
        result = query.run({"t": table}, batch_rows=1000)
        return sorted(result.to_pylist(), key=repr)

    got = rows()
    monkeypatch.setattr(RecordPanes, "for_keys", classmethod(lambda *_: None))
    assert got == rows()
    assert sum(row["n"] for row in got) == n_rows - 3
    assert any(row["k"] is None for row in got)
