"""Groups of panes in which most keys come again: keys have one number for all panes.

To look a key up by its number alone takes no part of the pane, so that nothing is learned anew with
each pane, and a pane that ends gives its arrays away as they are. In turn each pane has room for
all keys, which pays as long as most of them occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.state.key_table import KeyPart, KeyTable
from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.aggregation import Opcode
from millstream.kernels.compile import I64, U32

__all__ = ["DensePanes", "PaneGroups"]

_CAPACITY_LEAST = 64
# A pane with fewer than one in so many of all keys has too much room.
_SPARSE = 4


class PaneGroups(NamedTuple):
    """The groups of a pane that has ended.

    Attributes:
        pane: Its number.
        n_groups: How many there are.
        n_old: How many of them are of keys that were there before the pane.
        keys: Key columns.
        states: Accumulators.
    """

    pane: int
    n_groups: int
    n_old: int
    keys: list[pa.Array]
    states: list[pa.Array]


class DensePanes:
    """Adds rows up by pane and key.

    Values must not be NULL, so that a group which has rows has a value of each accumulator.

    Args:
        key_types: Types of the key columns, one or more.
        specs: The accumulators.
    """

    def __init__(self, key_types: Sequence[pa.DataType], specs: Sequence[WordSpec]) -> None:
        self._key_types = list(key_types)
        self._n_states = len(specs)
        counts = [i for i, spec in enumerate(specs) if spec.opcode == Opcode.COUNT]
        # By a count of rows it is known which groups there are.
        self._specs = list(specs) if counts else [*specs, WordSpec(Opcode.COUNT, None)]
        self._count = counts[0] if counts else len(specs)
        self._table = KeyTable(self._key_types)
        self._panes: dict[int, _Pane] = {}
        self._is_leaving = False

    @property
    def counts_rows(self) -> bool:
        """Whether places are needed for one more accumulator, a count of rows."""
        return len(self._specs) > self._n_states

    @property
    def takes_rows(self) -> bool:
        """Whether rows can be added now: not while panes with too much room have yet to end."""
        return not self._is_leaving

    @property
    def n_keys(self) -> int:
        """Number of keys."""
        return self._table.n_groups

    @property
    def n_groups(self) -> int:
        """Number of groups at most: each pane may have all keys that there were in its time."""
        return sum(pane.words.n_groups for pane in self._panes.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        of_panes = sum(pane.words.state_bytes for pane in self._panes.values())
        return self._table.state_bytes + of_panes

    def panes(self) -> I64:
        """Return the panes that have groups: int64[n]."""
        return np.array(list(self._panes), np.int64)

    def add(self, parts: Sequence[KeyPart], panes: Sequence[int], places: I64) -> None:
        """Add rows that came one after the other.

        Args:
            parts: Keys of each part, without prefix words.
            panes: The pane of each part.
            places: int64[n_parts, n_accumulators, PLACE_WORDS], where the values of each part lie.
        """
        bounds = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([part.n_rows for part in parts], out=bounds[1:])
        n_before = self._table.n_groups
        group_ids = self._table.assign_parts(parts, bounds)
        for pane, run in groupby(range(len(parts)), key=panes.__getitem__):
            first, *rest = run
            stop = rest[-1] + 1 if rest else first + 1
            rows = bounds[first : stop + 1]
            ids = group_ids[rows[0] : rows[-1]]
            self._pane(pane, n_before).add(places[first:stop], rows - rows[0], ids, self.n_keys)

    def close(self, limit: int) -> list[PaneGroups]:
        """Give away the groups of all panes below a limit, in the order of the panes."""
        closed = [
            self._closed(pane, self._panes.pop(pane))
            for pane in sorted(pane for pane in self._panes if pane < limit)
        ]
        if self._is_leaving and not self._panes:
            self._table = KeyTable(self._key_types)
            self._is_leaving = False
        return closed

    def _pane(self, number: int, n_keys: int) -> _Pane:
        pane = self._panes.get(number)
        if pane is None:
            if self._panes:
                # However long panes wait for their end: not one more if they have too much room.
                self._look_at(next(reversed(self._panes.values())))
            pane = self._panes[number] = _Pane(Words(self._specs, merges=False), n_keys)
        return pane

    def _look_at(self, pane: _Pane) -> None:
        """Leave these keys if few of them occur in a pane that has had most of its rows."""
        if np.count_nonzero(pane.words.counts(self._count)) * _SPARSE < self.n_keys:
            self._is_leaving = True

    def _closed(self, number: int, pane: _Pane) -> PaneGroups:
        words = pane.words
        present = np.flatnonzero(words.counts(self._count))
        n_groups, n_all = len(present), words.n_groups
        group_ids: U32 | slice = slice(0, n_all)
        if n_groups < n_all:
            group_ids = present.astype(np.uint32)
        self._look_at(pane)
        n_new = n_groups - int(np.searchsorted(present, pane.n_keys_before))
        return PaneGroups(
            number,
            n_groups,
            n_groups - n_new,
            self._table.columns(group_ids),
            words.take(group_ids)[: self._n_states],
        )


class _Pane:
    """Accumulators of a pane, and how many keys there were before it."""

    __slots__ = ("_capacity", "n_keys_before", "words")

    def __init__(self, words: Words, n_keys_before: int) -> None:
        self.words = words
        self.n_keys_before = n_keys_before
        self._capacity = 0

    def add(self, places: I64, bounds: I64, group_ids: U32, n_keys: int) -> None:
        if n_keys > self._capacity:
            before, self._capacity = self._capacity, _capacity(self._capacity, n_keys)
            self.words.reallocate(self._capacity, slice(0, before))
        # Of a key without rows nobody asks, so that it does not matter what is noted of it.
        self.words.update_at(places, bounds, group_ids, n_keys, new_have_rows=True)


def _capacity(before: int, n_keys: int) -> int:
    # A new pane will hardly get more keys than there are.
    return max(_CAPACITY_LEAST, n_keys, 2 * before)
