"""Time kernels against arithmetic with Python's unbounded integers."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from millstream.kernels.windows import (
    count_expanded,
    cut_ascending,
    cut_panes,
    expand_panes,
    first_open_windows,
    late_for_tumble,
    pane_indices,
    running_watermarks,
    scan_batches,
    scan_few_times,
    scan_times,
)

INT64 = np.iinfo(np.int64)
NONE = INT64.min

I64Array = npt.NDArray[np.int64]
near = st.integers(-60, 60)
any_time = near | st.integers(INT64.min, INT64.max) | st.sampled_from([INT64.min, INT64.max])
delays = st.integers(0, 30) | st.sampled_from([INT64.max, 2**40])


def read_only(values: I64Array) -> I64Array:
    view = values.view()
    view.flags.writeable = False
    return view


def times_of(elements: st.SearchStrategy[int], n_max: int = 50) -> st.SearchStrategy[I64Array]:
    return hnp.arrays(np.int64, st.integers(0, n_max), elements=elements)


def watermarks_by_definition(times: list[int], max_time: int, delay: int) -> list[int]:
    watermarks = []
    for time in times:
        watermarks.append(NONE if max_time == NONE else max(max_time - delay, NONE))
        max_time = max(max_time, time)
    return watermarks


@given(times_of(any_time), any_time, delays)
def test_running_watermarks_and_rows_behind(times: I64Array, max_time: int, delay: int) -> None:
    expected = watermarks_by_definition(times.tolist(), max_time, delay)
    watermarks = np.zeros(len(times), np.int64)
    running_watermarks(read_only(times), max_time, delay, watermarks)
    assert watermarks.tolist() == expected
    n_behind = sum(time < limit for time, limit in zip(times.tolist(), expected, strict=True))
    assert scan_few_times(read_only(times), max_time, delay) == scan_times(
        read_only(times), max_time, delay
    )
    assert scan_times(read_only(times), max_time, delay) == (
        max([max_time, *times.tolist()]),
        n_behind,
        min(times.tolist(), default=INT64.max),
        max(times.tolist(), default=INT64.min),
        times.tolist() == sorted(times.tolist()),
    )


@pytest.mark.parametrize("delay", [0, 3, 50, 5000])
@pytest.mark.parametrize("disorder", [0, 4, 40])
def test_rows_behind_over_many_blocks(delay: int, disorder: int) -> None:
    random = np.random.default_rng(disorder)
    times = np.arange(5000) // 3 + random.integers(0, disorder + 1, 5000)
    times[[1500, 4999]] -= 1000
    expected = watermarks_by_definition(times.tolist(), 20, delay)
    n_behind = int((times < np.array(expected)).sum())
    assert scan_times(read_only(times), 20, delay) == (
        *(times.max(), n_behind),
        *(times.min(), times.max(), bool((np.diff(times) >= 0).all())),
    )


@given(st.lists(times_of(any_time), max_size=4), any_time, delays)
def test_batches_are_scanned_one_after_the_other(
    batches: list[I64Array], max_time: int, delay: int
) -> None:
    places = [(times.ctypes.data, len(times)) for times in batches]
    found = np.zeros((len(batches), 5), np.int64)
    scan_batches(np.array(places, np.int64).reshape(-1, 2), max_time, delay, found)
    for times, scanned in zip(batches, found.tolist(), strict=True):
        expected = scan_times(read_only(times), max_time, delay)
        assert scanned == list(expected)
        max_time = expected[0]


@pytest.mark.parametrize("row", [None, 1, 1023, 1024, 1025, 2048, 2999])
def test_whether_times_ascend_over_many_blocks(row: int | None) -> None:
    times = np.arange(3000) // 2 * 2
    if row is not None:
        times[row] = times[row - 1] - 1
    for delay in (0, 100):
        assert scan_times(read_only(times), NONE, delay)[4] == (row is None)


sizes = st.integers(1, 9) | st.sampled_from([1000, 2**40, INT64.max])


@given(times_of(any_time), st.integers(-100, 100) | st.just(2**50), sizes)
def test_pane_is_the_floor_of_the_quotient(times: I64Array, offset: int, size: int) -> None:
    expected = [(time - offset) // size for time in times.tolist()]
    assume(all(INT64.min <= pane <= INT64.max for pane in expected))
    panes = np.zeros(len(times), np.int64)
    least, greatest = pane_indices(read_only(times), offset, size, panes)
    assert panes.tolist() == expected
    assert least == min(expected, default=INT64.max)
    assert greatest == max(expected, default=INT64.min)
    cuts = [row for row in range(len(expected)) if row == 0 or expected[row - 1] != expected[row]]
    for room in {len(cuts), len(times)}:
        starts, found = np.zeros(room, np.int64), np.zeros(room, np.int64)
        assert cut_panes(read_only(times), offset, size, starts, found) == len(cuts)
        assert starts[: len(cuts)].tolist() == cuts
        assert found[: len(cuts)].tolist() == [expected[row] for row in cuts]
    if cuts:
        less = np.zeros(len(cuts) - 1, np.int64)
        assert cut_panes(read_only(times), offset, size, less, less.copy()) == len(cuts)
    ascending = np.sort(times)
    n_cuts = cut_panes(ascending, offset, size, starts, found)
    for room in {n_cuts, max(n_cuts - 1, 0), len(times)}:
        others, their = np.zeros(room, np.int64), np.zeros(room, np.int64)
        assert cut_ascending(read_only(ascending), offset, size, others, their) == n_cuts
        n = min(n_cuts, room)
        assert others[:n].tolist() == starts[:n].tolist()
        assert their[:n].tolist() == found[:n].tolist()


@pytest.mark.parametrize("n_panes_per_block", [0.3, 1, 5, 8, 9, 300])
def test_panes_over_many_blocks(n_panes_per_block: float) -> None:
    size = int(1024 * 10 / n_panes_per_block)
    times = 10 * np.arange(-3000, 2000) + np.random.default_rng(1).integers(0, 200, 5000)
    panes = np.zeros(5000, np.int64)
    least, greatest = pane_indices(read_only(times), 7, size, panes)
    assert panes.tolist() == [(time - 7) // size for time in times.tolist()]
    assert (least, greatest) == (panes.min(), panes.max())
    cuts = np.flatnonzero(np.diff(panes, prepend=panes[0] - 1))
    starts, found = np.zeros((2, 5000), np.int64)
    assert cut_panes(read_only(times), 7, size, starts, found) == len(cuts)
    assert starts[: len(cuts)].tolist() == cuts.tolist()
    assert found[: len(cuts)].tolist() == panes[cuts].tolist()


def ends_by_definition(pane: int, is_cumulate: bool, n_panes: int) -> list[int]:
    """End indices of the windows whose panes include ``pane``, by searching all windows near it."""
    ends = []
    for end in range(pane - 2 * n_panes, pane + 2 * n_panes + 1):
        start = (end - 1) // n_panes * n_panes if is_cumulate else end - n_panes
        if start <= pane < end:
            ends.append(end)
    return ends


def is_late(end: int, offset: int, step: int, lateness: int, watermark: int) -> bool:
    return watermark != NONE and offset + end * step + lateness <= watermark


grids = st.tuples(st.integers(-20, 20), st.integers(1, 7), st.integers(0, 9))
rows_with_watermarks = st.lists(
    st.tuples(st.integers(-20, 20), near | st.sampled_from([NONE, NONE + 1, INT64.max])),
    max_size=30,
)


@given(rows_with_watermarks, grids)
def test_late_for_a_tumbling_window(
    rows: list[tuple[int, int]], grid: tuple[int, int, int]
) -> None:
    panes, watermarks = np.array(rows, np.int64).reshape(-1, 2).T.copy()
    late = np.full(len(rows), 9, np.uint8)
    n_late = late_for_tumble(read_only(panes), *grid, read_only(watermarks), late)
    expected = [is_late(pane + 1, *grid, watermark) for pane, watermark in rows]
    assert late.tolist() == expected
    assert n_late == sum(expected)


@given(rows_with_watermarks, grids, st.booleans(), st.integers(1, 5))
def test_first_open_window_and_what_expands_from_it(
    rows: list[tuple[int, int]], grid: tuple[int, int, int], is_cumulate: bool, n_panes: int
) -> None:
    panes, watermarks = np.array(rows, np.int64).reshape(-1, 2).T.copy()
    first_ends = np.zeros(len(rows), np.int64)
    late = np.full(len(rows), 9, np.uint8)
    n_late = first_open_windows(
        read_only(panes), read_only(watermarks), *grid, is_cumulate, n_panes, first_ends, late
    )
    open_ends = [
        [
            end
            for end in ends_by_definition(pane, is_cumulate, n_panes)
            if not is_late(end, *grid, watermark)
        ]
        for pane, watermark in rows
    ]
    assert late.tolist() == [int(not ends) for ends in open_ends]
    assert n_late == int(late.sum())
    on_time = late == 0
    assert first_ends[on_time].tolist() == [ends[0] for ends in open_ends if ends]
    on_grid = panes[on_time]
    assert expanded(on_grid, first_ends[on_time], is_cumulate, n_panes) == [
        (row, end) for row, ends in enumerate(filter(None, open_ends)) for end in ends
    ]


def expanded(
    panes: I64Array, first_ends: I64Array, is_cumulate: bool, n_panes: int
) -> list[tuple[int, int]]:
    panes, first_ends = read_only(panes), read_only(first_ends)
    n_out = count_expanded(panes, first_ends, is_cumulate, n_panes)
    rows = np.zeros(n_out, np.int64)
    ends = np.zeros(n_out, np.int64)
    assert expand_panes(panes, first_ends, is_cumulate, n_panes, rows, ends) == n_out
    return list(zip(rows.tolist(), ends.tolist(), strict=True))


@given(times_of(st.integers(-20, 20), 20), st.booleans(), st.integers(1, 5))
def test_without_a_first_end_a_row_counts_in_all_its_windows(
    panes: I64Array, is_cumulate: bool, n_panes: int
) -> None:
    first_ends = np.full(len(panes), INT64.min, np.int64)
    assert expanded(panes, first_ends, is_cumulate, n_panes) == [
        (row, end)
        for row, pane in enumerate(panes.tolist())
        for end in ends_by_definition(pane, is_cumulate, n_panes)
    ]


def test_windows_by_hand() -> None:
    # Size 3 steps. Pane -1 is the last of the cumulating window before the epoch, pane 1 the middle
    # one of the window after it.
    panes = np.array([-1, 1], np.int64)
    everything = np.full(2, INT64.min, np.int64)
    assert expanded(panes, everything, True, 3) == [(0, 0), (1, 2), (1, 3)]
    assert expanded(panes, everything, False, 3) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 2),
        (1, 3),
        (1, 4),
    ]
