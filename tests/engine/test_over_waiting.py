"""Rows of window functions wait for the watermark, late ones are left out, and state is bounded."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from millstream.engine.event_time import WATERMARK_COLUMN
from tests.engine.over_stream import Frame, Stream, expected, lag_calls, rank_calls, rows_of
from tests.equivalence.compare import difference


def test_rows_behind_the_watermark_are_counted_and_written_to_the_side_output() -> None:
    class Late:
        written: list[tuple[list[int], list[int]]] = []  # noqa: RUF012 - one test, one list

        def write(self, batch: Any, rows: Any, starts: Any, ends: Any, watermarks: Any) -> None:
            assert starts is None
            assert ends is None
            self.written.append(
                (batch.column("id").take(pa.array(rows)).to_pylist(), watermarks.tolist())
            )

    rows = rows_of(5, 0, n_keys=1).set_column(2, "ts", pa.array([5, 9, 3, 7, 6]))
    stream = Stream(Frame("rows", 1).calls(["count(*)"]), delay=2, late_rows=Late())
    got = stream.push_all(rows, 3)
    assert got["id"].to_pylist() == [0, 3, 1]
    assert stream.counters.rows_late == 2
    assert Late.written == [([2], [7]), ([4], [7])]


def test_rows_that_leave_in_the_order_of_arrival_keep_what_the_engine_carries() -> None:
    stream = Stream(Frame("rows", 1).calls(["count(*)"]), order_column=None, delay=0)
    rows = rows_of(4, 0).set_column(2, "ts", pa.array([5, 9, 3, 7]))
    stream.push(rows)
    (batch,) = stream.out.batches
    assert batch.schema.names == [*stream.schema.names, WATERMARK_COLUMN]
    assert stream.counters.rows_late == 0


def test_a_row_waits_for_the_watermark_and_for_its_peers() -> None:
    stream = Stream(Frame("range", 0).calls(["count(*)"]), delay=0)
    rows = rows_of(3, 0, n_keys=1).set_column(2, "ts", pa.array([5, 5, 6]))
    stream.push(rows.slice(0, 1))
    stream.push(rows.slice(1, 1))
    assert stream.out.batches == []
    stream.push(rows.slice(2, 1))
    assert stream.collected.columns[-1].to_pylist() == [2, 2]
    assert stream.operator.state_rows > 0


def test_a_row_that_needs_no_peers_leaves_when_the_watermark_reaches_it() -> None:
    calls = [*Frame("rows", 1).calls(["count(*)"]), *lag_calls()[:1], *rank_calls()]
    stream = Stream(calls, delay=0)
    rows = rows_of(4, 0, n_keys=1).set_column(2, "ts", pa.array([5, 5, 4, 6]))
    stream.push(rows.slice(0, 1))
    assert stream.collected["id"].to_pylist() == [0]
    held_back = stream.operator.held_back()
    assert held_back is not None
    assert held_back.times.tolist() == []
    stream.push(rows.slice(1, 2))
    stream.push(rows.slice(3, 1))
    assert stream.counters.rows_late == 1
    assert stream.collected["id"].to_pylist() == [0, 1, 3]
    assert [column.to_pylist() for column in stream.collected.columns[-3:]] == [
        [1, 2, 3],
        [1, 1, 3],
        [1, 1, 2],
    ]


def test_frames_of_rows_keep_as_many_rows_and_frames_without_bounds_none() -> None:
    rows = rows_of(500, 9, n_keys=5, disorder=0)
    bounded = Stream(Frame("rows", 3).calls(["sum(x)", "first_value(s)"]))
    bounded.push_all(rows, 50)
    assert bounded.operator.state_rows == 5 + 5 * 3
    whole = Stream(Frame("rows", None).calls(["sum(x)", "max(i)"]))
    whole.push_all(rows, 50)
    assert whole.operator.state_rows == 5
    assert whole.operator.state_bytes < 20_000


@pytest.mark.parametrize("batch_rows", [500, 5000])
def test_keys_that_do_not_come_again_cost_nothing_with_frames_of_time(batch_rows: int) -> None:
    stream = Stream(Frame("range", 10).calls(["sum(x)", "first_value(s)", "avg(i)"]), delay=0)
    n_rows = 60_000
    rows = rows_of(n_rows, 2, n_keys=1, disorder=0)
    rows = rows.set_column(1, "k", pa.array([str(row // 3) for row in range(n_rows)]))
    peak = 0
    for start in range(0, n_rows, batch_rows):
        stream.push(rows.slice(start, batch_rows))
        peak = max(peak, stream.operator.state_rows)
    assert peak < 10_000
    assert stream.operator.state_bytes < 4_000_000
    want = expected(rows.slice(0, n_rows - 500), Frame("range", 10).calls(["sum(x)"]), ("k",), True)
    got = stream.collected.slice(0, n_rows - 500).select(["id", stream.schema.names[-3]])
    assert difference(got.rename_columns(want.schema.names), want, ordered=True) is None
