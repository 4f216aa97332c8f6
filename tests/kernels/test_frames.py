"""Frames, step by step, against the rows that they should reach by definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.frames import (
    close_row_frames,
    close_time_frames,
    expire_rows,
    measure_frames,
    number_rows,
    open_time_frames,
    rank_rows,
    spread_to_peers,
)
from tests.kernels.rows_of_keys import CAPACITY, N_KEYS, RowsOfKeys, locked, long, steps_of

INT64 = np.iinfo(np.int64)

Steps = list[list[tuple[int, int]]]


def ascending(steps: Steps, time: int, gap: int) -> Steps:
    """Add times up from ``time`` on, with a gap between steps, so that no time is in two."""
    ascending_steps = []
    for step in steps:
        rows = []
        for key, more in step:
            time += more
            rows.append((key, time))
        ascending_steps.append(rows)
        time += gap
    return ascending_steps


timed_steps = st.builds(
    ascending,
    steps_of(st.integers(0, 3)),
    st.sampled_from([-20, INT64.min]),
    st.integers(1, 9),
)


@given(steps_of(st.none()), st.integers(0, 9))
def test_frames_of_rows(steps: list[list[tuple[int, None]]], preceding: int) -> None:
    state, numbered = RowsOfKeys(), long()
    counts = dict.fromkeys(range(N_KEYS), 0)
    n_kept = 0
    for step in steps:
        state.sort([key for key, _ in step])
        state.open(preceding)
        numbers = long(len(step))
        number_rows(state.group_ids, numbered, numbers)
        lengths, same_lengths = long(len(step)), long(len(step))
        measure_frames(*state.rows, preceding, long(0), state.counts, lengths)
        measure_frames(*state.rows, -1, state.starts, state.counts, same_lengths)
        n_kept += close_row_frames(
            state.groups, state.offsets, preceding, state.heads, state.counts
        )
        for row, (key, _) in enumerate(step):
            counts[key] += 1
            assert numbers[row] == counts[key]
            assert lengths[row] == same_lengths[row] == min(counts[key], preceding + 1)
        assert state.are_full == all(length == preceding + 1 for length in lengths)
        assert state.needs.tolist() == [min(counts[key], preceding + 1) for key in state.groups]
        assert state.counts.tolist() == numbered.tolist() == list(counts.values())
        assert n_kept == sum(min(count, preceding) for count in counts.values())


@given(timed_steps, st.integers(0, 9) | st.just(INT64.max))
def test_frames_of_time(steps: Steps, reach: int) -> None:
    state, ring_times = RowsOfKeys(), long(N_KEYS * CAPACITY)
    seen: dict[int, list[int]] = {key: [] for key in range(N_KEYS)}
    n_kept = 0
    for step, next_step in zip(steps, [*steps, []][1:], strict=True):
        state.sort([key for key, _ in step])
        times = locked([step[row][1] for row in state.order], np.int64)
        rings = (state.heads, *state.rings, ring_times)
        open_time_frames(state.groups, state.offsets, times, reach, *rings, *state.found)
        for key, time in step:
            seen[key].append(time)
        lengths = long(len(step))
        measure_frames(*state.rows, -1, state.starts, state.counts, lengths)
        spread_to_peers(state.offsets, state.order, times, lengths)
        n_kept += close_time_frames(state.groups, state.offsets, times, state.starts, *rings)
        for row, (key, time) in enumerate(step):
            assert lengths[row] == sum(time - reach <= other <= time for other in seen[key])
        if next_step:
            limit = max(next_step[0][1] - reach, INT64.min)
            n_kept -= expire_rows(limit, *rings)
            reached = [sum(time >= limit for time in seen[key]) for key in seen]
            assert (state.counts - state.heads).tolist() == reached
            assert n_kept == sum(reached)
            # A key without rows has no ring; give it one again, as a test needs no allocation.
            assert all((state.capacities == 0) <= (np.array(reached) == 0))
            state.capacities[:] = CAPACITY


@given(timed_steps, st.booleans())
def test_ranks(steps: Steps, is_dense: bool) -> None:
    state = [long(), long(), long()]
    seen: dict[int, list[int]] = {key: [] for key in range(N_KEYS)}
    for step in steps:
        # Rows of one time may come in several steps.
        for rows in (step[: len(step) // 2], step[len(step) // 2 :]):
            ranks, group_ids = long(len(rows)), np.array([key for key, _ in rows], np.uint32)
            times = locked([time for _, time in rows], np.int64)
            rank_rows(group_ids, times, is_dense, *state, ranks)
            for row, (key, time) in enumerate(rows):
                earlier = [other for other in seen[key] if other < time]
                assert ranks[row] == 1 + len(set(earlier) if is_dense else earlier)
                seen[key].append(time)


@given(st.lists(st.tuples(st.integers(0, N_KEYS - 1), st.integers(0, 2)), max_size=20))
def test_peers_have_what_the_last_of_them_has(rows: list[tuple[int, int]]) -> None:
    rows = sorted(rows, key=lambda row: row[1])
    state = RowsOfKeys()
    state.sort([key for key, _ in rows])
    values = np.arange(len(rows))
    times = locked([rows[row][1] for row in state.order], np.int64)
    spread_to_peers(state.offsets, state.order, times, values)
    last = {row: index for index, row in enumerate(rows)}
    assert values.tolist() == [last[row] for row in rows]
