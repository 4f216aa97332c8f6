"""Tumbling windows on one partition: one answer, wherever their groups are kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.operators import window_lane
from millstream.engine.operators.window_lane import WindowLane
from millstream.engine.state import dense_panes, key_range
from millstream.engine.state.dense_panes import DensePanes, PaneGroups
from millstream.engine.state.record_panes import RecordPanes

SCHEMA = pa.schema({"ts": pa.int64(), "k": pa.int64(), "v": pa.int64()})
SQL = (
    "SELECT window_start, k, count(*) AS n, count(v) AS c, sum(v) AS s, max(v) AS m FROM t"
    " GROUP BY k WINDOW TUMBLING(ts, 10) EMIT FINAL"
)
Row = tuple[int, int | None, int | None]


def answer(batches: Sequence[Sequence[Row]]) -> list[tuple[Any, ...]]:
    """What comes out if each micro-batch is worked off before the next one comes."""
    session = ms.Session(partitions=1)
    session.create_stream("t", SCHEMA, event_time="ts", max_out_of_orderness=15)
    sink = ms.CollectSink()
    with session.sql(SQL).start(sink) as job:
        for batch in batches:
            rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in batch]
            job.push("t", pa.RecordBatch.from_pylist(rows, SCHEMA))
            job._runtime.ask(lambda operators: None, [0], 5.0)
    assert job.stats().rows_late == 0
    return [tuple(row.values()) for row in sink.table().to_pylist()]


def definition(batches: Sequence[Sequence[Row]]) -> list[tuple[Any, ...]]:
    groups: dict[tuple[int, int | None], list[int | None]] = defaultdict(list)
    for batch in batches:
        for time, key, value in batch:
            groups[time // 10 * 10, key].append(value)
    found = []
    for (start, key), values in groups.items():
        known = [value for value in values if value is not None]
        found.append((start, key, len(values), len(known), sum(known), max(known, default=0)))
    return [(*row[:4], row[4] if row[3] else None, row[5] if row[3] else None) for row in found]


@pytest.fixture
def closed() -> Iterator[dict[str, list[int]]]:
    """Panes that records gave away alone, that went on to other groups, and that were left."""
    panes: dict[str, list[int]] = defaultdict(list)

    def spied(name: str, method: Any) -> Any:
        def spy(self: Any, given: Any) -> Any:
            found = method(self, given)
            some = [given] if isinstance(given, PaneGroups) else found
            panes[name] += [groups.pane for groups in some]
            return found

        return spy

    with (
        patch.object(RecordPanes, "close", spied("records", RecordPanes.close)),
        patch.object(DensePanes, "close", spied("panes", DensePanes.close)),
        patch.object(DensePanes, "add_groups", spied("added", DensePanes.add_groups)),
        patch.object(WindowLane, "leave", spied("left", WindowLane.leave)),
    ):
        yield panes


def rows_of(time: int, keys: Sequence[int | None], value: int | None = 1) -> list[Row]:
    return [(time, key, value) for key in keys]


MANY = list(range(5)) * 20


def test_windows_of_close_keys_come_from_records(closed) -> None:
    batches = [rows_of(time, MANY, time) for time in (3, 8, 17, 16, 40)]
    assert sorted(answer(batches)) == sorted(definition(batches))
    assert (closed["records"], closed["panes"]) == ([0, 1, 4], [])
    assert not closed["added"] + closed["left"]


def test_strays_and_null_keys_meet_the_records_of_their_window(closed) -> None:
    far = [10**15, None, -(10**17)]
    batches = [rows_of(3, MANY), rows_of(5, [*MANY, *far]), rows_of(8, [*MANY, *far])]
    batches.append(rows_of(17, MANY))
    assert sorted(answer(batches), key=repr) == sorted(definition(batches), key=repr)
    # The second window has keys of one kind alone.
    assert (closed["records"], closed["added"], closed["panes"]) == ([0, 1], [0], [0])


def test_windows_with_null_values_are_left_with_all_that_they_have(closed) -> None:
    far = [10**15, None]
    batches = [
        rows_of(3, MANY),
        rows_of(14, [*MANY, *far]),
        rows_of(4, [1, 2], None),
        rows_of(15, MANY),
        rows_of(27, MANY),
    ]
    assert sorted(answer(batches), key=repr) == sorted(definition(batches), key=repr)
    assert closed["left"] == [0]
    batches[2] += rows_of(14, [1, 3], None)
    closed.clear()
    assert sorted(answer(batches), key=repr) == sorted(definition(batches), key=repr)
    # What is in two places has been put together.
    assert (closed["left"], closed["added"]) == ([0, 1], [1])


@pytest.mark.parametrize(
    ("rows_per_group", "are_given_up"),
    [
        ([7] * 6, True),
        ([8] * 6, False),
        # The first window may have been cut short.
        ([1, 8, 1, 1, 1, 1], False),
        ([1, 1, 8, 1, 1, 1], False),
        ([1, 1, 1, 8, 8, 8], True),
    ],
)
def test_records_are_given_up_where_groups_have_few_rows(
    rows_per_group, are_given_up, closed
) -> None:
    # Each batch closes the window three before its own.
    batches = [
        rows_of(10 * window + 7, list(range(100)) * n_rows)
        for window, n_rows in enumerate(rows_per_group)
    ]
    assert sorted(answer(batches)) == sorted(definition(batches))
    assert closed["records"][:6] == ([0, 1, 2, 3, 4] if are_given_up else [0, 1, 2, 3, 4, 5])
    # The windows that have begun by then go on elsewhere.
    assert closed["added"] == ([3, 4] if are_given_up else [])
    assert closed["panes"] == ([3, 4, 5] if are_given_up else [])


keys = st.integers(0, 6) | st.sampled_from([None, 10**15, -(10**17), 300, 5000])
values = st.integers(-9, 9)


@settings(max_examples=60)
@given(data=st.data())
def test_windows_are_those_of_dictionaries(data: st.DataObject) -> None:
    batches: list[list[Row]] = []
    time = 0
    for _ in range(data.draw(st.integers(1, 8))):
        time += data.draw(st.integers(0, 14))
        of_batch = values | st.none() if data.draw(st.integers(0, 5)) == 0 else values
        offsets = st.integers(-7, 7)
        rows = st.lists(st.tuples(offsets, keys, of_batch), min_size=1, max_size=12)
        batches.append([(time + offset, key, value) for offset, key, value in data.draw(rows)])
    with (
        patch.object(window_lane, "_RECORD_ROWS_PER_GROUP_LEAST", data.draw(st.integers(0, 3))),
        patch.object(dense_panes, "_LITTLE_ROOM", data.draw(st.sampled_from([0, 1 << 14]))),
        patch.object(key_range, "_LITTLE_ROOM", data.draw(st.sampled_from([4, 1 << 10]))),
    ):
        found = answer(batches)
    assert sorted(found, key=repr) == sorted(definition(batches), key=repr)
    # Windows come in the order in which they end.
    starts = [row[0] for row in found]
    assert starts == sorted(starts)


def test_state_is_counted_wherever_it_is() -> None:
    session = ms.Session(partitions=1)
    session.create_stream("t", SCHEMA, event_time="ts", max_out_of_orderness=15)
    job = session.sql(SQL).start(ms.CollectSink())
    sizes = []
    for batch in (rows_of(3, MANY), rows_of(3, [10**15]), rows_of(14, MANY)):
        rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in batch]
        job.push("t", pa.RecordBatch.from_pylist(rows, SCHEMA))
        job._runtime.ask(lambda operators: None, [0], 5.0)
        (partition,) = job.stats().partitions
        sizes.append((partition.state_rows, partition.state_bytes))
    job.cancel()
    (rows, n_bytes), (more_rows, more_bytes), (most_rows, most_bytes) = sizes
    # Records have room for all keys of a range.
    assert 5 <= rows < more_rows < most_rows
    assert np.all(np.diff([n_bytes, more_bytes, most_bytes]) > 0)


def test_windows_that_end_together_come_in_their_order(closed) -> None:
    far = [10**15]
    # The groups of the first window are in two places, those of the second in records alone.
    batches = [rows_of(3, MANY), rows_of(5, [*MANY, *far]), rows_of(14, MANY), rows_of(60, MANY)]
    found = answer(batches)
    assert (closed["records"], closed["added"]) == ([0, 1, 6], [0])
    starts = [row[0] for row in found]
    assert starts == sorted(starts)
    assert sorted(found) == sorted(definition(batches))


def test_windows_in_records_and_others_are_held_back() -> None:
    session = ms.Session(partitions=1)
    session.create_stream("t", SCHEMA, event_time="ts", max_out_of_orderness=100)
    job = session.sql(SQL).start(ms.CollectSink())
    for time, keys in ((3, MANY), (14, MANY), (14, [10**15]), (25, [None, None])):
        rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in rows_of(time, keys)]
        job.push("t", pa.RecordBatch.from_pylist(rows, SCHEMA))
    (held,) = job._runtime.ask(
        lambda operators: [found for one in operators if (found := one.held_back())], [0], 5.0
    )
    assert [part.times.tolist() for part in held] == [[10, 20, 30]]
    job.cancel()
