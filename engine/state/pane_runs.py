"""Partial groups by pane, kept apart until a window that covers them is asked for.

A pane counts in several windows. Adding its groups to each of them as they come would keep every
group as many times as there are windows; here it is kept once, and windows are put together from
the panes that they cover. Keys have numbers of their own, so that this takes no hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.state.accumulators import Accumulators, AccumulatorSpec
from millstream.engine.state.key_table import KeyTable
from millstream.engine.state.places import place_of
from millstream.engine.state.words import WordSpec
from millstream.kernels.compaction import compact_numbers
from millstream.kernels.compile import I64, U32, Bool

__all__ = ["PaneRuns", "WindowGroups"]

# With this many times as many keys as a window has rows, ranks are found by sorting.
_SPARSE = 8
# Keys that nobody has any more are forgotten if there are more than this and as many as others.
_GARBAGE_KEYS_MIN = 4096
# Runs of a pane that are not worth being added up before a window asks for them.
_RUNS_MAX = 4
# Groups of a pane, or as many as have been added up already, that may wait to be added up.
_UNMERGED_ROWS_MAX = 1 << 16


class WindowGroups(NamedTuple):
    """Groups of one window or several, in the order of the windows.

    Attributes:
        last_panes: int64[n_groups], the last pane of each group's window, or that of all.
        keys: Key columns.
        states: Accumulators.
    """

    last_panes: I64 | int
    keys: list[pa.Array]
    states: list[pa.Array]


class _Run(NamedTuple):
    """Groups of a pane that count in all windows of the pane.

    Attributes:
        numbers: uint32[n], the numbers of their keys.
        states: Accumulators.
        places: int64[n_accumulators, PLACE_WORDS], where these lie, or None if some are no words.
    """

    numbers: U32
    states: list[pa.Array]
    places: I64 | None


class _Mixed(NamedTuple):
    """Groups of several panes, or that count in some windows only: int64[n] each."""

    panes: I64
    first_ends: I64
    numbers: U32
    states: list[pa.Array]

    def chosen(self, rows: I64) -> _Mixed:
        """Return some rows."""
        taken = pa.array(rows)
        states = [state.take(taken) for state in self.states]
        return _Mixed(self.panes[rows], self.first_ends[rows], self.numbers[rows], states)


class PaneRuns:
    """Keeps partial groups by pane.

    Args:
        key_types: Types of the key columns.
        specs: The accumulators.
        all_windows: The first end that stands for all windows of a pane.
    """

    def __init__(
        self,
        key_types: Sequence[pa.DataType],
        specs: Sequence[AccumulatorSpec],
        all_windows: int,
    ) -> None:
        self._specs = tuple(specs)
        self._is_words = bool(specs) and all(isinstance(spec, WordSpec) for spec in specs)
        self._all_windows = all_windows
        self._table = KeyTable(key_types) if key_types else None
        self._accumulators = Accumulators(specs, merges=True)
        self._runs: dict[int, list[_Run]] = {}
        self._mixed: list[_Mixed] = []

    @property
    def n_rows(self) -> int:
        """Number of partial groups."""
        of_runs = sum(len(run.numbers) for runs in self._runs.values() for run in runs)
        return of_runs + sum(len(mixed.numbers) for mixed in self._mixed)

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        states = [run.states for runs in self._runs.values() for run in runs]
        states += [mixed.states for mixed in self._mixed]
        n_bytes: int = sum(array.nbytes for arrays in states for array in arrays)
        n_bytes += sum(mixed.panes.nbytes + mixed.first_ends.nbytes for mixed in self._mixed)
        of_keys = 0 if self._table is None else self._table.state_bytes
        return of_keys + n_bytes + 4 * self.n_rows + self._accumulators.state_bytes

    def add_run(self, pane: int, keys: Sequence[pa.Array], states: list[pa.Array], n: int) -> None:
        """Take in ``n`` groups of a pane, which count in all its windows."""
        runs = self._runs.setdefault(pane, [])
        runs.append(self._run(self._numbers(keys, n), states))
        n_more = sum(len(run.numbers) for run in runs[1:])
        if n_more > max(len(runs[0].numbers), _UNMERGED_ROWS_MAX):
            self._runs[pane] = [self._merged(runs)]

    def add_mixed(
        self, panes: I64, first_ends: I64, keys: Sequence[pa.Array], states: list[pa.Array]
    ) -> None:
        """Take in groups with the pane of each, and the first end of a window that it counts in."""
        numbers = self._numbers(keys, len(panes))
        self._mixed.append(_Mixed(panes, first_ends, numbers, states))

    def panes(self) -> I64:
        """Return the distinct panes that have groups: int64[n], ascending."""
        found = [np.array(list(self._runs), np.int64), *(mixed.panes for mixed in self._mixed)]
        return np.unique(np.concatenate(found))

    def has_groups(self, first_pane: int, last_pane: int) -> bool:
        """Say whether there are groups of some panes."""
        return bool(self._panes_between(first_pane, last_pane)) or any(
            bool(((mixed.panes >= first_pane) & (mixed.panes <= last_pane)).any())
            for mixed in self._mixed
        )

    def window(
        self,
        first_pane: int,
        last_pane: int,
        others: tuple[Sequence[pa.Array], list[pa.Array]] | None = None,
    ) -> WindowGroups | None:
        """Put a window together; None if nothing counts in it.

        Args:
            first_pane: Its first pane.
            last_pane: Its last pane.
            others: Keys and accumulators of groups that are kept elsewhere and count in it too.
        """
        parts: list[_Run] = []
        if others is not None:
            keys, states = others
            parts.append(self._run(self._numbers(keys, len(keys[0])), states))
        for pane in self._panes_between(first_pane, last_pane):
            runs = self._runs[pane]
            if len(runs) > _RUNS_MAX:
                # They are asked for once per window, and will hardly get more now.
                runs = self._runs[pane] = [self._merged(runs)]
            parts += runs
        for mixed in self._mixed:
            counts = (mixed.panes >= first_pane) & (mixed.panes <= last_pane)
            counts &= mixed.first_ends <= last_pane + 1
            rows = np.flatnonzero(counts)
            if len(rows) > 0:
                chosen = mixed.chosen(rows)
                parts.append(self._run(chosen.numbers, chosen.states))
        if not parts:
            return None
        merged = self._merged(parts)
        return WindowGroups(last_pane, self._keys(merged.numbers), merged.states)

    def windows(
        self, last_of_all: Callable[[I64], I64], least: int, limit: int
    ) -> WindowGroups | None:
        """Put several windows together in one go, for which each may be small.

        Args:
            last_of_all: Tells the last pane of the last window of panes, int64[n].
            least: Least last pane of a window.
            limit: Last panes are below this.
        """
        every = self._every()
        # A first end is one more than the last pane of the window.
        firsts = np.maximum(np.maximum(every.first_ends, every.panes + 1) - 1, least)
        lasts = np.minimum(last_of_all(every.panes), limit - 1)
        rows, last_panes = _spread(firsts, lasts)
        if len(rows) == 0:
            return None
        order = np.argsort(last_panes, kind="stable")
        rows, last_panes = rows[order], last_panes[order]
        numbers = every.numbers[rows].astype(np.int64)
        groups = KeyTable([], 2)
        group_ids = groups.assign((), (last_panes, numbers))
        taken = pa.array(rows)
        run = self._run(every.numbers[rows], [state.take(taken) for state in every.states])
        states = self._accumulated([run], group_ids, groups.n_groups)
        keys = self._keys(groups.prefix_words(1).astype(np.uint32))
        return WindowGroups(groups.prefix_words(0), keys, states)

    def drop(self, is_over: Callable[[I64], Bool]) -> None:
        """Forget panes that count in no window any more.

        Args:
            is_over: Says so of panes, int64[n].
        """
        if self._runs:
            panes = np.array(list(self._runs), np.int64)
            for pane in panes[is_over(panes)].tolist():
                del self._runs[pane]
        kept = []
        for mixed in self._mixed:
            rows = np.flatnonzero(~is_over(mixed.panes))
            if len(rows) == len(mixed.panes):
                kept.append(mixed)
            elif len(rows) > 0:
                kept.append(mixed.chosen(rows))
        self._mixed = kept
        if len(self._mixed) > 1:
            self._mixed = [_joined(self._mixed)]
        self._forget_keys()

    def _panes_between(self, first_pane: int, last_pane: int) -> list[int]:
        if last_pane - first_pane < len(self._runs):
            wanted = range(first_pane, last_pane + 1)
            return [pane for pane in wanted if pane in self._runs]
        return sorted(pane for pane in self._runs if first_pane <= pane <= last_pane)

    def _every(self) -> _Mixed:
        """Return all groups with their panes."""
        parts = list(self._mixed)
        for pane, runs in self._runs.items():
            for run in runs:
                panes = np.full(len(run.numbers), pane, np.int64)
                first_ends = np.full(len(run.numbers), self._all_windows, np.int64)
                parts.append(_Mixed(panes, first_ends, run.numbers, run.states))
        return _joined(parts)

    def _numbers(self, keys: Sequence[pa.Array], n: int) -> U32:
        if self._table is None:
            return np.zeros(n, np.uint32)
        return self._table.assign(keys, (), n)

    def _keys(self, numbers: U32) -> list[pa.Array]:
        """Return the keys with ascending or other numbers; those of all keys are not copied."""
        if self._table is None:
            return []
        n_keys = self._table.n_groups
        is_all = len(numbers) == n_keys and bool((numbers == np.arange(n_keys)).all())
        return self._table.columns(slice(0, n_keys) if is_all else numbers)

    def _merged(self, parts: Sequence[_Run]) -> _Run:
        """Add up groups by key."""
        n_keys = 1 if self._table is None else self._table.n_groups
        ranks = np.concatenate([part.numbers for part in parts])
        if len(ranks) * _SPARSE < n_keys:
            present, inverse = np.unique(ranks, return_inverse=True)
            ranks, n_groups = inverse.astype(np.uint32), len(present)
        else:
            present = np.empty(n_keys, np.uint32)
            n_groups = compact_numbers(ranks, n_keys, np.zeros(n_keys, np.uint32), present)
            present = present[:n_groups]
        return self._run(present, self._accumulated(parts, ranks, n_groups))

    def _run(self, numbers: U32, states: list[pa.Array]) -> _Run:
        places = (
            np.array([place_of(state) for state in states], np.int64) if self._is_words else None
        )
        return _Run(numbers, states, places)

    def _accumulated(self, parts: Sequence[_Run], group_ids: U32, n_groups: int) -> list[pa.Array]:
        if not self._specs:
            return []
        counts = accumulate((len(part.numbers) for part in parts), initial=0)
        bounds = np.array([*counts], np.int64)
        places = [part.places for part in parts if part.places is not None]
        if places:
            self._accumulators.update_at(
                np.array(places), bounds, group_ids, n_groups, new_have_rows=True
            )
        else:
            states = [part.states for part in parts]
            self._accumulators.update_parts(states, bounds, group_ids, n_groups, new_have_rows=True)
        states = self._accumulators.columns(slice(0, n_groups))
        # What is given away is nobody else's.
        self._accumulators.retain(np.empty(0, np.uint32), n_groups)
        return states

    def _forget_keys(self) -> None:
        if self._table is None:
            return
        if self._table.n_groups <= 2 * self.n_rows + _GARBAGE_KEYS_MIN:
            return
        every = [run.numbers for runs in self._runs.values() for run in runs]
        every += [mixed.numbers for mixed in self._mixed]
        kept = np.unique(np.concatenate([np.empty(0, np.uint32), *every]))
        ranks = np.zeros(self._table.n_groups, np.uint32)
        ranks[kept] = np.arange(len(kept))
        self._table.retain(kept)
        for pane, runs in self._runs.items():
            self._runs[pane] = [run._replace(numbers=ranks[run.numbers]) for run in runs]
        self._mixed = [mixed._replace(numbers=ranks[mixed.numbers]) for mixed in self._mixed]


def _spread(firsts: I64, lasts: I64) -> tuple[I64, I64]:
    """List all numbers from a first to a last one, for each row in turn.

    Args:
        firsts: int64[n_rows].
        lasts: int64[n_rows]; with one below the first, the row has no number.

    Returns:
        The row of each number, and the numbers, both int64[n].
    """
    counts = np.maximum(lasts - firsts + 1, 0)
    rows = np.repeat(np.arange(len(counts)), counts)
    starts = np.cumsum(counts) - counts
    return rows, firsts[rows] + (np.arange(len(rows)) - starts[rows])


def _joined(parts: Sequence[_Mixed]) -> _Mixed:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*(part.states for part in parts), strict=True)
    return _Mixed(
        np.concatenate([part.panes for part in parts]),
        np.concatenate([part.first_ends for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        [pa.concat_arrays(arrays) for arrays in columns],
    )
