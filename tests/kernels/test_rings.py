"""Rings that grow and move, and positions of rows in them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.frames import close_row_frames
from millstream.kernels.rings import (
    allocate_rings,
    copy_rings,
    keep_new_rows,
    list_rows,
    look_up_first_rows,
    pack_rings,
    renumber_positions,
)
from tests.kernels.rows_of_keys import CAPACITY, N_KEYS, RowsOfKeys, long, steps_of

needs = st.lists(st.integers(0, 9), min_size=N_KEYS, max_size=N_KEYS)


@given(needs, needs)
def test_rings_that_are_too_small_move_behind_the_others(has: list[int], wants: list[int]) -> None:
    groups = np.arange(N_KEYS, dtype=np.uint32)
    places, capacities = long(), long()
    moved, before = np.empty(N_KEYS, np.uint32), np.empty((2, N_KEYS), np.int64)
    outs = (moved, before[0], before[1])
    _, n_used = allocate_rings(groups, np.array(has), places, capacities, 0, *outs)
    assert n_used == sum(capacities) <= sum(2 * n for n in has)
    old = np.stack([places, capacities])
    n_moved, n_used_after = allocate_rings(
        groups, np.array(wants), places, capacities, n_used, *outs
    )
    grown = [key for key in range(N_KEYS) if wants[key] > old[1][key]]
    assert moved[:n_moved].tolist() == grown
    assert before[:, :n_moved].tolist() == old[:, grown].tolist()
    assert n_used_after == n_used + sum(capacities[grown])
    assert all(capacities >= np.array(wants))
    assert all(capacity & (capacity - 1) == 0 for capacity in capacities.tolist())
    slots = [
        set(range(p, p + c)) for p, c in zip(places.tolist(), capacities.tolist(), strict=True)
    ]
    assert sum(map(len, slots)) == len(set().union(*slots))


@given(st.lists(st.integers(0, 4), min_size=N_KEYS, max_size=N_KEYS), st.integers(0, 30))
def test_rings_are_copied_by_row_number(lengths: list[int], first: int) -> None:
    groups = np.arange(N_KEYS, dtype=np.uint32)
    heads = first + np.arange(N_KEYS)
    counts = heads + np.array(lengths)
    old_places, old_capacities = np.arange(N_KEYS) * 4, long(fill=4)
    source = np.full(4 * N_KEYS, -1.0)
    for key in range(N_KEYS):
        for number in range(heads[key], counts[key]):
            source[old_places[key] + number % 4] = 100 * key + number
    capacities, places = np.array([8, 16, 4]), long()
    assert pack_rings(capacities, places) == 28
    target = np.full(28, -1.0)
    copy_rings(
        groups, heads, counts, old_places, old_capacities, places, capacities, source, target
    )
    for key in range(N_KEYS):
        for number in range(heads[key], counts[key]):
            assert target[places[key] + number % capacities[key]] == 100 * key + number
    assert (target >= 0).sum() == sum(lengths)


@given(steps_of(st.none()), st.integers(0, 4))
def test_positions_lead_to_the_rows_of_each_frame(
    steps: list[list[tuple[int, None]]], preceding: int
) -> None:
    state, ring = RowsOfKeys(), long(N_KEYS * CAPACITY)
    store: list[tuple[int, int]] = []
    n_seen = dict.fromkeys(range(N_KEYS), 0)
    for step in steps:
        fresh = []
        for key, _ in step:
            fresh.append((key, n_seen[key]))
            n_seen[key] += 1
        state.sort([key for key, _ in step])
        state.open(preceding)
        readable = [*store, *fresh]

        positions, keys, rows = np.empty((3, len(readable)), np.int64)
        listed = list_rows(
            *state.rows, state.heads, *state.rings, ring, len(store), positions, keys, rows
        )
        found = [readable[position] for position in positions[:listed]]
        assert [key for key, _ in found] == state.groups[keys[:listed]].tolist()
        assert found == [
            (key, number)
            for key in state.groups.tolist()
            for number in range(state.heads[key], n_seen[key])
        ]
        new = {row: readable[p] for row, p in zip(rows[:listed], positions, strict=False)}
        assert [new[row] for row in range(len(step))] == fresh

        first = long(len(step))
        told = (preceding, long(0)) if len(store) % 2 else (-1, state.starts)
        look_up_first_rows(*state.rows, *told, *state.rings, ring, len(store), first)
        assert [readable[position] for position in first] == [
            (key, max(0, number - preceding)) for key, number in fresh
        ]

        close_row_frames(state.groups, state.offsets, preceding, state.heads, state.counts)
        kept = long(len(step))
        n_kept = keep_new_rows(
            state.groups, state.offsets, state.heads, *state.rings, ring, len(store), kept
        )
        store += [fresh[row] for row in kept[:n_kept]]

        positions = long(sum((state.counts - state.heads).tolist()))
        assert renumber_positions(state.heads, *state.rings, ring, positions) == len(positions)
        store = [store[position] for position in positions]
        assert store == [
            (key, number)
            for key in range(N_KEYS)
            for number in range(max(0, n_seen[key] - preceding), n_seen[key])
        ]
