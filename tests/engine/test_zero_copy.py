"""What comes out lies where it came in, or where the state had it."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators.aggregate import SingleAggregate
from millstream.engine.state import record_panes
from millstream.engine.state.record_panes import RecordPanes

SCHEMA = pa.schema([("ts", pa.timestamp("us")), ("k", pa.int64()), ("v", pa.float64())])


def batch_of(n_rows: int, second: int) -> pa.RecordBatch:
    times = np.full(n_rows, second * 1_000_000, "datetime64[us]")
    return pa.record_batch(
        [times, np.arange(n_rows) % 100, np.arange(float(n_rows))], schema=SCHEMA
    )


def session_of(partitions: int = 1) -> ms.Session:
    session = ms.Session(partitions=partitions)
    session.create_stream("t", SCHEMA, event_time="ts")
    return session


def addresses(batch: pa.RecordBatch) -> list[int]:
    """Where the values of each column begin."""
    return [
        column.buffers()[1].address + column.offset * column.type.bit_width // 8
        for column in batch.columns
    ]


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT * FROM t", [0, 1, 2]),
        ("SELECT v, k FROM t", [2, 1]),
        ("SELECT v AS a, v AS b, ts FROM t", [2, 2, 0]),
        ("SELECT k + 1 AS a, v FROM t", [None, 2]),
        ("SELECT v FROM (SELECT k, v FROM t) AS q", [2]),
    ],
)
def test_columns_that_are_passed_through_stay_where_they_are(sql, columns, partitions) -> None:
    pushed = batch_of(1000, 0).slice(10, 900)
    out: list[pa.RecordBatch] = []
    with session_of(partitions).sql(sql).start(out.append) as job:
        job.push("t", pushed)
    (batch,) = out
    before, after = addresses(pushed), addresses(batch)
    for place, column in enumerate(columns):
        assert column is None or after[place] == before[column]


def test_a_table_is_cut_into_micro_batches_without_a_copy() -> None:
    table = pa.Table.from_batches([batch_of(1000, 0)])
    query = session_of().sql("SELECT v FROM t")
    (column,) = query.run({"t": table}, batch_rows=100).columns
    begin = table["v"].chunk(0).buffers()[1].address
    places = [chunk.buffers()[1].address + 8 * chunk.offset for chunk in column.chunks]
    assert places == [begin + 8 * first for first in range(0, 1000, 100)]


def test_a_closed_window_gives_its_arrays_away() -> None:
    out: list[pa.RecordBatch] = []
    query = session_of().sql(
        # Keys that are doubles have no records.
        "SELECT v, count(*) AS n, sum(k) AS s, max(k) AS m FROM t GROUP BY v"
        " WINDOW TUMBLING(ts, INTERVAL '10' SECOND) EMIT FINAL"
    )
    with query.start(out.append) as job:
        for second in (0, 20, 40):
            job.push("t", batch_of(1000, second))
            job.push("t", batch_of(1000, second + 9))
            (held,) = job._runtime.ask(state_addresses, [0], 5.0)
            job.advance_watermark("t", np.datetime64(second + 10, "s"))
            (before,) = job._runtime.ask(state_addresses, [0], 5.0)
            assert before == []
            (batch,) = out
            assert batch.num_rows == 1000
            assert addresses(batch) == held
            # And nobody else writes to them from now on. The keys, which are written once, may be
            # those of other windows too.
            kept = batch.to_pylist()
            job.push("t", batch_of(1000, second + 10))
            (others,) = job._runtime.ask(state_addresses, [0], 5.0)
            assert len(others) == len(held) == 4
            assert not set(others[1:]) & set(held[1:])
            assert batch.to_pylist() == kept
            job.advance_watermark("t", np.datetime64(second + 20, "s"))
            job._runtime.ask(state_addresses, [0], 5.0)
            out.clear()


@pytest.mark.parametrize("is_dense", [True, False])
def test_windows_in_the_state_give_their_arrays_away_too(is_dense) -> None:
    # The way of windows that are not kept densely, here because of a NULL.
    out: list[pa.RecordBatch] = []
    query = session_of().sql(
        "SELECT v, count(k) AS n FROM t GROUP BY v WINDOW TUMBLING(ts, INTERVAL '10' SECOND)"
    )
    batch = batch_of(1000, 0)
    if not is_dense:
        nulls = pa.array([None, *range(999)], pa.int64())
        batch = pa.record_batch([batch["ts"], nulls, batch["v"]], schema=SCHEMA)
    with query.start(out.append) as job:
        job.push("t", batch)
        (held,) = job._runtime.ask(state_addresses, [0], 5.0)
        (dense,) = job._runtime.ask(
            lambda operators: aggregate_of(operators)._dense.n_groups, [0], 5
        )
        assert (dense > 0) is is_dense
        job.advance_watermark("t", np.datetime64(10, "s"))
    (result,) = out
    assert result.num_rows == 1000
    assert addresses(result) == held


def test_columns_that_records_are_dealt_out_to_are_those_of_the_sink() -> None:
    dealt: list[int] = []
    deal = record_panes.deal_records

    def spied(*given: Any) -> None:
        deal(*given)
        *_, order, _, _, _, _, to, _, _ = given
        dealt[:] = [int(to[0]) + 8 * len(order) * row for row in range(4)]

    out: list[pa.RecordBatch] = []
    query = session_of().sql(
        "SELECT k, count(*) AS n, sum(v) AS s, max(v) AS m FROM t GROUP BY k"
        " WINDOW TUMBLING(ts, INTERVAL '10' SECOND) EMIT FINAL"
    )
    with patch.object(record_panes, "deal_records", spied), query.start(out.append) as job:
        for second in (0, 20, 40):
            job.push("t", batch_of(1000, second))
            job.advance_watermark("t", np.datetime64(second + 10, "s"))
            job._runtime.ask(lambda operators: None, [0], 5.0)
            (batch,) = out
            assert batch.num_rows == 100
            assert addresses(batch) == dealt
            out.clear()


def aggregate_of(operators) -> SingleAggregate:
    (aggregate,) = (operator for operator in operators if isinstance(operator, SingleAggregate))
    return aggregate


def state_addresses(operators) -> list[int]:
    """Where the state has the keys and the accumulators of its groups."""
    aggregate = aggregate_of(operators)
    state, dense = aggregate._grouping.state, aggregate._dense
    assert dense is not None
    if dense.n_groups > 0:
        panes = dense._lane.panes
        (pane,) = panes._panes.values()
        keys = panes._table.columns(slice(0, panes.n_keys))
        arrays = [*keys, *pane.take(slice(0, pane.n_groups))]
        return [array.buffers()[1].address for array in arrays]
    if state.n_groups == 0:
        return []
    columns = [*state.keys(slice(0, state.n_groups)), *state.accumulated(slice(0, state.n_groups))]
    return [column.buffers()[1].address for column in columns]


@pytest.mark.parametrize("partitions", [1, 2])
def test_few_groups_of_a_wide_range_do_not_keep_all_of_its_memory(partitions) -> None:
    out: list[pa.RecordBatch] = []
    query = session_of(partitions).sql(
        "SELECT k, count(*) AS n, sum(v) AS s FROM t GROUP BY k"
        " WINDOW TUMBLING(ts, INTERVAL '10' SECOND) EMIT FINAL"
    )
    dealt = []
    deal = RecordPanes._dealt

    def spied(*given: Any) -> Any:
        dealt.append(deal(*given))
        return dealt[-1]

    with patch.object(RecordPanes, "_dealt", spied), query.start(out.append) as job:
        batch = batch_of(1000, 0)
        job.push("t", batch.set_column(1, "k", pa.array(np.arange(1000) % 2 * 5000)))
    assert sum(batch.num_rows for batch in out) == 2
    sizes = [part.words.base.nbytes for pane in dealt for part in pane.parts]
    # Two groups have a key and two states.
    assert 0 < max(sizes) <= 3 * 2 * 8
