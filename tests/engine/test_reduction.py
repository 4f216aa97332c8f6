"""When groups before an exchange are given up, and when they are tried again."""

from __future__ import annotations

import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.operators import reduction as reduction_module
from millstream.engine.operators.reduction import Reduction
from millstream.engine.state import key_range

BATCH_ROWS = 1 << 15


def observe(reduction: Reduction, n_new_groups: int, n_batches: int) -> list[bool]:
    return [reduction.observe(BATCH_ROWS, n_new_groups) for _ in range(n_batches)]


def test_rows_are_handed_on_after_eight_probes_with_few_rows_per_group() -> None:
    reduction = Reduction()
    assert observe(reduction, BATCH_ROWS // 3, 8) == [False] * 7 + [True]
    assert reduction.is_bypassed


def test_one_probe_is_enough_if_nearly_all_groups_have_one_row() -> None:
    assert observe(Reduction(), BATCH_ROWS - 100, 1) == [True]


def test_a_large_batch_whose_first_rows_may_have_found_all_groups_is_two_probes() -> None:
    reduction = Reduction()
    for _ in range(3):
        assert not reduction.observe(8 * BATCH_ROWS, 4 * BATCH_ROWS)
    assert reduction.observe(8 * BATCH_ROWS, 4 * BATCH_ROWS)
    reduction = Reduction()
    assert not reduction.observe(8 * BATCH_ROWS, 4 * BATCH_ROWS)
    assert observe(reduction, 0, 20) == [False] * 20


def test_groups_that_are_found_again_are_kept() -> None:
    reduction = Reduction()
    # At the beginning of each window all groups are new.
    for _ in range(20):
        assert observe(reduction, BATCH_ROWS // 2, 7) == [False] * 7
        assert observe(reduction, 10, 1) == [False]


def test_groups_of_many_rows_are_kept() -> None:
    assert not any(observe(Reduction(), BATCH_ROWS // 6, 100))


def test_groups_are_tried_again_after_four_million_rows() -> None:
    reduction = Reduction()
    observe(reduction, BATCH_ROWS, 1)
    n_rows = 0
    while reduction.is_bypassed:
        reduction.bypass(BATCH_ROWS)
        n_rows += BATCH_ROWS
    assert n_rows == 1 << 22
    assert observe(reduction, BATCH_ROWS // 2, 8) == [False] * 7 + [True]


def test_groups_of_known_keys_are_counted_over_many_rows() -> None:
    # They come out together, long after their rows, and few rows may follow before the next probe.
    reduction = Reduction()
    for _ in range(20):
        assert observe(reduction, 0, 8) == [False] * 8
        reduction.count_old(BATCH_ROWS)
        assert observe(reduction, 0, 1) == [False]


def test_groups_of_known_keys_are_given_up_where_they_have_few_rows() -> None:
    reduction, verdicts = Reduction(), []
    for _ in range(16):
        verdicts += observe(reduction, 0, 1)
        reduction.count_old(BATCH_ROWS // 4)
    assert verdicts == [False] * 15 + [True]
    while reduction.is_bypassed:
        reduction.bypass(BATCH_ROWS)
    # What was found before does not count any more.
    assert observe(reduction, 0, 40) == [False] * 40


def test_groups_of_known_keys_are_counted_anew_after_many_rows() -> None:
    reduction = Reduction()
    assert observe(reduction, 0, 16) == [False] * 16
    reduction.count_old(4 * BATCH_ROWS)
    assert observe(reduction, 0, 16) == [False] * 15 + [True]


def test_windows_with_few_rows_of_known_keys_give_their_groups_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("_PROBE_ROWS", 8), ("_LONG_PROBE_ROWS", 256)):
        monkeypatch.setattr(reduction_module, name, value)
    monkeypatch.setattr(key_range, "_TRY_ROWS_LEAST", 1)
    bypassed: list[int] = []
    monkeypatch.setattr(Reduction, "bypass", lambda seen, n_rows: bypassed.append(n_rows))
    # All keys come in the first window, many times; and twice in each one behind it.
    n_keys, n_first = 10, 400
    times = [0] * n_first + [1 + row // 20 for row in range(2000)]
    keys = [row % n_keys for row in range(len(times))]
    session = ms.Session(partitions=2)
    data = pa.table({"k": keys, "ts": times})
    session.create_stream("t", data.schema, event_time="ts")
    sql = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, 1) EMIT FINAL"
    found = session.sql(sql).run({"t": data}, batch_rows=20)
    assert sorted(found["n"].to_pylist()) == [2] * 1000 + [40] * n_keys
    assert bypassed
