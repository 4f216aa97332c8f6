"""Paths that the engine takes for many rows, taken for a few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from millstream.engine import aside, event_time, exchange, intake
from millstream.engine.operators import (
    aggregate,
    dense_groups,
    dense_lane,
    emission,
    over,
    partials,
    reduction,
    registry,
    session,
    sliding_aggregate,
    windowing,
)
from millstream.engine.state import (
    accumulators,
    dense_pane,
    dense_panes,
    frames,
    key_range,
    key_table,
    keyed_rows,
    pane_runs,
    pane_windows,
    picks,
    record_panes,
    retained_rows,
    sent_rows,
    session_state,
    words,
)
from tests.equivalence.chooser import Chooser

__all__ = ["small_scale"]

# Module, constant and the value that makes a difference to a handful of rows.
_LIMITS = (
    (exchange, "_EARLY_ROWS", 2),
    (event_time, "FEW_ROWS", 0),
    (event_time, "_WAITING_ROWS_MIN", 1),
    (intake, "FEW_ROWS", 0),
    (aside, "_ROWS_MAX", 4),
    (registry, "_PANES_MAX", 0),
    (registry, "_DENSE_PANES_MAX", 0),
    (pane_windows, "_FEW_PANES", 0),
    (partials, "_RUN_ROWS_LEAST", 1),
    (aggregate, "_GATHERED_ROWS_MAX", 2),
    (reduction, "_PROBE_ROWS", 4),
    (reduction, "_POOR_PROBES", 1),
    (reduction, "_LONG_PROBE_ROWS", 8),
    (reduction, "_BYPASS_ROWS", 6),
    (over, "_BLOCK_ROWS", 4),
    (over, "_KEYS_LEAST", 2),
    (over, "_CREDITS_PER_STEP", 2),
    (session, "_GARBAGE_ROWS_MIN", 1),
    (sent_rows, "_GARBAGE_ROWS_MIN", 1),
    (picks, "_GARBAGE_MIN", 1),
    (retained_rows, "_GARBAGE_ROWS", 1),
    (session_state, "_GARBAGE_MIN", 1),
    (words, "_FEW_GROUPS", 1),
    (key_table, "_TRY_ROWS_LEAST", 1),
    (key_table, "_CAPACITY_LEAST", 2),
    (key_table, "_SPARSE_CAPACITY_MAX", 2),
    (accumulators, "_CAPACITY_LEAST", 1),
    (keyed_rows, "_CAPACITY_LEAST", 1),
    (sent_rows, "_CAPACITY_LEAST", 1),
    (session_state, "_CAPACITY_LEAST", 1),
    (frames, "_SLOTS_LEAST", 4),
    (dense_groups, "_WAITING_ROWS_MAX", 2),
    (dense_lane, "_ORDERED_ROWS_LEAST", 1),
    (emission, "_SMALL_ROWS", 0),
    (windowing, "_CUT_ROWS_LEAST", 1),
    (windowing, "_SHARED_CUT_ROWS_LEAST", 1),
    (dense_panes, "_SPARSE", 1),
    (dense_panes, "_LITTLE_ROOM", 0),
    (dense_pane, "_CAPACITY_LEAST", 1),
    (dense_pane, "_FEW_KEYS", 0),
    (key_range, "_LITTLE_ROOM", 0),
    (key_range, "_SPARSE", 1),
    (record_panes, "_SPARSE_PANES_MAX", 1),
    (record_panes, "_STRAYS_MAX", 1),
    (record_panes, "_ABSENT_SHARE", 1),
    (key_range, "_TRY_ROWS_LEAST", 1),
    (sliding_aggregate, "_RUN_ROWS_LEAST", 1),
    (sliding_aggregate, "_WINDOW_ROWS_LEAST", 0),
    (pane_runs, "_RUNS_MAX", 1),
    (pane_runs, "_UNMERGED_ROWS_MAX", 1),
    (pane_runs, "_GARBAGE_KEYS_MIN", 0),
    (pane_runs, "_SPARSE", 0),
)


@contextmanager
def small_scale(chooser: Chooser) -> Iterator[None]:
    """Lower the limits from which other paths are taken; each of them, or not, as is chosen."""
    with ExitStack() as stack:
        if chooser.chance(50):
            for module, name, low in _LIMITS:
                if chooser.chance(50):
                    stack.enter_context(mock.patch.object(module, name, low))
        yield
