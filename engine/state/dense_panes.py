"""Groups of panes in which most keys come again: keys have one number for all panes.

To look a key up by its number alone takes no part of the pane, so that nothing is learned anew with
each pane, and a pane that ends gives its arrays away as they are. In turn each pane has room for
all keys, which pays as long as most of them occur.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_columns
from millstream.engine.state.dense_pane import DensePane
from millstream.engine.state.key_table import KeyPart, KeyTable
from millstream.engine.state.pane_sums import PaneParts, add_up, rows_at
from millstream.engine.state.pane_words import KeyOwners, PaneWords, state_kinds, state_places
from millstream.engine.state.rooms import IdRoom
from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.compile import I64, U32
from millstream.kernels.panes import deal_groups
from millstream.kernels.programs import Opcode

__all__ = ["DealtPane", "DensePanes", "PaneGroups"]

# A pane with fewer than one in so many of all keys has too much room.
_SPARSE = 4
# Panes with fewer groups are not worth arrays of their own where so often, and no larger one in
# between, they had too much room.
_SMALL_GROUPS, _SMALL_LEFT_MAX = 1 << 9, 3
# Room for so many groups does not matter.
_LITTLE_ROOM = 1 << 14
# Below any pane.
_NO_PANE = -(1 << 63)
# Panes whose memory is kept for the next ones, and bytes of each of them.
_FREE_MAX, _FREE_BYTES_MAX = 2, 1 << 23


class PaneGroups(NamedTuple):
    """The groups of a pane that has ended, or of several added up.

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


class DealtPane(NamedTuple):
    """The groups of a pane that has ended, by the partitions that own their keys.

    Attributes:
        n_old: How many groups are of keys that were there before the pane.
        parts: Those of each partition.
    """

    n_old: int
    parts: list[PaneWords]


class DensePanes:
    """Adds rows up by pane and key, or partial groups.

    Values must not be NULL, so that a group which has rows has a value of each accumulator.

    Args:
        key_types: Types of the key columns, one or more.
        specs: The accumulators.
        merges: Whether rows are partial values of the accumulators themselves.
        keeps_panes: Whether panes stay until :meth:`drop`. Then partial groups are copied: what
            they lie in may be much larger.

    Attributes:
        opcodes: int64[n_accumulators], what adds accumulators to each other; behind them, if none
            of them does, there is one more that counts rows.
        count_row: The accumulator that counts rows.
    """

    def __init__(
        self,
        key_types: Sequence[pa.DataType],
        specs: Sequence[WordSpec],
        *,
        merges: bool,
        keeps_panes: bool = False,
    ) -> None:
        self._keeps_panes = keeps_panes
        self._key_types = list(key_types)
        self._n_states = len(specs)
        # Partial counts of the values of a column may be 0, but not those of rows.
        counts = [
            index
            for index, spec in enumerate(specs)
            if spec.opcode == Opcode.COUNT and (spec.column is None or not merges)
        ]
        # By a count of rows it is known which groups there are.
        rows = WordSpec(Opcode.COUNT, None, counts_partials=True)
        self._specs = list(specs) if counts else [*specs, rows]
        self.count_row = counts[0] if counts else len(specs)
        self._kinds = state_kinds(specs)
        self.opcodes: I64 = np.array([spec.merge_opcode for spec in self._specs], np.int64)
        if self.counts_rows:
            self.opcodes[-1] = Opcode.SUM_I64
        self._words = Words(self._specs, merges=merges)
        self._table = KeyTable(self._key_types)
        self._owners = KeyOwners(0)
        self._panes: dict[int, DensePane] = {}
        self._free: list[DensePane] = []
        self._room = IdRoom()
        self._is_leaving = False
        self._n_small_left = 0
        self._takes_from = _NO_PANE

    @property
    def counts_rows(self) -> bool:
        """Whether places are needed for one more accumulator, a count of rows."""
        return len(self._specs) > self._n_states

    @property
    def takes_rows(self) -> bool:
        """Whether rows can be added now: not while panes with too much room have yet to end.

        Nor where that has come to nothing again and again.
        """
        return not self._is_leaving and self._n_small_left < _SMALL_LEFT_MAX

    def takes(self, pane: int) -> bool:
        """Say whether rows of a pane can be added: as ``takes_rows``, but to none that was left."""
        return pane >= self._takes_from and self.takes_rows

    @property
    def n_keys(self) -> int:
        """Number of keys."""
        return self._table.n_groups

    @property
    def n_groups(self) -> int:
        """Number of groups at most: each pane may have all keys that there were in its time."""
        return sum(pane.n_groups for pane in self._panes.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        panes = [*self._panes.values(), *self._free]
        return self._table.state_bytes + sum(pane.state_bytes for pane in panes)

    def panes(self) -> I64:
        """Return the panes that have groups: int64[n]."""
        return np.array(self.numbers(), np.int64)

    def numbers(self) -> list[int]:
        """Return the panes that have groups, in the order in which they came."""
        return list(self._panes)

    def add(self, parts: Sequence[KeyPart], panes: Sequence[int], places: I64) -> None:
        """Add rows that came one after the other.

        Args:
            parts: Keys of each part, without prefix words.
            panes: The pane of each part.
            places: int64[n_parts, n_accumulators, PLACE_WORDS], where the values of each part lie.
        """
        bounds = _bounds(part.n_rows for part in parts)
        n_before = self._table.n_groups
        group_ids = self._table.assign_parts(parts, bounds, self._room)
        self._add(group_ids, bounds, panes, places, n_before)

    def add_words(self, parts: Sequence[PaneWords]) -> None:
        """Add partial groups, to whose words nobody else writes any more."""
        parts = [part.present() for part in self._add_in_order(parts)]
        if not parts:
            return
        bounds = _bounds(part.n_groups for part in parts)
        n_before = self._table.n_groups
        keys = [part.keys(self._n_states) for part in parts]
        group_ids = self._table.assign_words(keys, [()] * len(parts), bounds, self._room)
        places = state_places(parts, self._kinds, n_more=len(self._specs) - self._n_states)
        self._add(group_ids, bounds, [part.pane for part in parts], places, n_before)

    def add_groups(self, groups: PaneGroups) -> None:
        """Add groups of a pane, none of whose accumulators is NULL, to what has been added."""
        n_before, bounds = self.n_keys, np.array([0, groups.n_groups], np.int64)
        part = KeyPart(groups.keys, (), groups.n_groups)
        group_ids = self._table.assign_parts([part], bounds, self._room)
        states = groups.states
        if self.counts_rows:
            states = [*states, pa.repeat(pa.scalar(1, pa.int64()), groups.n_groups)]
        self._pane(groups.pane, n_before).merge(states, group_ids, self.n_keys)

    def close(self, limit: int) -> list[PaneGroups]:
        """Give away the groups of all panes below a limit, in the order of the panes."""
        closed = [self._closed(number, pane) for number, pane in self._pop(limit)]
        self.begin_anew()
        return closed

    def deal(self, limit: int, n_partitions: int) -> list[DealtPane] | None:
        """Do what :meth:`close` does, by the partitions that own the keys.

        Returns:
            None if keys have no words that tell them elsewhere; then nothing has been given away.
        """
        words = self._table.words()
        if words is None:
            return None
        if self._owners.n_partitions != n_partitions:
            self._owners = KeyOwners(n_partitions)
        dealt = [self._dealt(number, pane, words) for number, pane in self._pop(limit)]
        self.begin_anew()
        return dealt

    def leave(self, limit: int) -> list[PaneGroups]:
        """Give away all panes below a limit, also later on: their rows belong elsewhere."""
        self.take_from(limit)
        return self.close(limit)

    def sums_at(self, number: int) -> PaneParts:
        """Tell where a pane has its accumulators, those of ``opcodes``.

        They are good until something is added to the pane or it is given away.
        """
        pane = self._panes[number]
        return PaneParts(pane.addresses(), pane.n_groups)

    def groups_of(self, number: int, sums: I64, n_groups: int) -> PaneGroups:
        """Return groups whose accumulators were summed up elsewhere.

        Args:
            number: A pane to call them by.
            sums: int64[n_accumulators, n_keys], those of ``opcodes``; keys that have no group have
                no rows. The caller does not write to them any more.
            n_groups: How many keys have one.
        """
        key_ids: U32 | slice = slice(0, n_groups)
        if n_groups < sums.shape[1]:
            present = np.flatnonzero(sums[self.count_row])
            sums, key_ids = np.take(sums, present, axis=1), present.astype(np.uint32)
        specs = self._specs[: self._n_states]
        _, states = PaneWords(number, sums[: self._n_states]).arrays([], specs)
        return PaneGroups(number, n_groups, 0, self._table.columns(key_ids), states)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget some panes; the keys keep their numbers until :meth:`begin_anew`."""
        for number in list(numbers):
            self._recycle(self._panes.pop(number))

    def begin_anew(self) -> None:
        """Forget the keys, if they are too many and no pane has any of them."""
        if self._is_leaving and not self._panes:
            self._table = KeyTable(self._key_types)
            self._owners = KeyOwners(0)
            self._free.clear()
            self._is_leaving = False

    def take_from(self, pane: int) -> None:
        """Take rows of this pane and later ones only."""
        self._takes_from = max(self._takes_from, pane)

    def _add_in_order(self, parts: Sequence[PaneWords]) -> list[PaneWords]:
        """Add groups in one go whose keys are numbered in their order; return the others."""
        others: list[PaneWords] = []
        new: dict[int, tuple[int, list[I64]]] = {}
        for part in parts:
            n_keys_before = self.n_keys
            assert part.rows is None or not self.counts_rows, "absent groups have a count of 0"
            if not self._table.are_in_order(part.keys(self._n_states)):
                others.append(part)
                continue
            states = part.words[len(part.words) - self._n_states :]
            if self.counts_rows:
                states = np.concatenate([states, np.ones((1, part.n_groups), np.int64)])
            if part.pane in self._panes:
                self._panes[part.pane].add_in_order(self.opcodes, states)
            else:
                new.setdefault(part.pane, (n_keys_before, []))[1].append(states)
        if new:
            self._begin(new)
        return others

    def _begin(self, new: dict[int, tuple[int, list[I64]]]) -> None:
        """Make panes of partial groups: per pane how many keys there were, and the groups."""
        self._look_at_latest()
        blocks = [of_pane for _, of_pane in new.values()]
        panes = [self._make(number, n_keys) for number, (n_keys, _) in new.items()]
        if self._keeps_panes:
            self._copy(panes, blocks)
        else:
            for pane, (first, *others) in zip(panes, blocks, strict=True):
                pane.adopt(first)
                for block in others:
                    pane.add_in_order(self.opcodes, block)
        for pane in panes[:-1]:
            self._look_at(self._count(pane))

    def _copy(self, panes: Sequence[DensePane], blocks: Sequence[Sequence[I64]]) -> None:
        """Let panes begin with the sums of some blocks each."""
        parts = [[PaneParts(rows_at(block), block.shape[1]) for block in some] for some in blocks]
        sums = [
            pane.begin(max(part.n_keys for part in some))
            for pane, some in zip(panes, parts, strict=True)
        ]
        counted = add_up(self.opcodes, self.count_row, parts, sums)
        for pane, n_groups in zip(panes, counted, strict=True):
            pane.n_present = n_groups

    def _add(
        self, group_ids: U32, bounds: I64, panes: Sequence[int], places: I64, n_keys_before: int
    ) -> None:
        for pane, run in groupby(range(len(panes)), key=panes.__getitem__):
            first, *rest = run
            stop = rest[-1] + 1 if rest else first + 1
            rows = bounds[first : stop + 1]
            ids = group_ids[rows[0] : rows[-1]]
            self._pane(pane, n_keys_before).add(
                places[first:stop], rows - rows[0], ids, self.n_keys
            )

    def _pane(self, number: int, n_keys: int) -> DensePane:
        pane = self._panes.get(number)
        if pane is None:
            self._look_at_latest()
            pane = self._make(number, n_keys)
        return pane

    def _make(self, number: int, n_keys: int) -> DensePane:
        pane = self._free.pop() if self._free else DensePane(self._words.anew(), self._specs)
        pane.n_keys_before = n_keys
        self._panes[number] = pane
        return pane

    def _count(self, pane: DensePane) -> int:
        """Count the groups of a pane."""
        if pane.n_present is None:
            pane.n_present = int(np.count_nonzero(pane.counts(self.count_row)))
        return pane.n_present

    def _look_at_latest(self) -> None:
        # However long panes wait for their end: not one more if they have too much room.
        if self._panes:
            self._look_at(self._count(next(reversed(self._panes.values()))))

    def _look_at(self, n_groups: int) -> None:
        """Leave these keys if few of them occur in a pane that has had most of its rows."""
        is_sparse = n_groups * _SPARSE < self.n_keys
        if n_groups >= _SMALL_GROUPS:
            self._n_small_left = 0
        if is_sparse and self.n_keys * (len(self._panes) + 1) > _LITTLE_ROOM:
            self._n_small_left += not self._is_leaving and n_groups < _SMALL_GROUPS
            self._is_leaving = True

    def _pop(self, limit: int) -> list[tuple[int, DensePane]]:
        numbers = sorted(number for number in self._panes if number < limit)
        return [(number, self._panes.pop(number)) for number in numbers]

    def _recycle(self, pane: DensePane) -> None:
        is_small = pane.state_bytes <= _FREE_BYTES_MAX
        if len(self._free) < _FREE_MAX and is_small and not pane.is_adopted:
            pane.clear()
            self._free.append(pane)

    def _closed(self, number: int, pane: DensePane) -> PaneGroups:
        counts = pane.counts(self.count_row)
        n_groups = int(np.count_nonzero(counts))
        group_ids: U32 | slice = slice(0, n_groups)
        if n_groups < len(counts):
            group_ids = np.flatnonzero(counts).astype(np.uint32)
        self._look_at(n_groups)
        return PaneGroups(
            number,
            n_groups,
            int(np.count_nonzero(counts[: pane.n_keys_before])),
            self._table.columns(group_ids),
            pane.take(group_ids)[: self._n_states],
        )

    def _dealt(self, number: int, pane: DensePane, keys: I64) -> DealtPane:
        counts = pane.counts(self.count_row)
        n_keys, owners = len(counts), self._owners
        of_keys = owners.of(self._table)[:n_keys]
        columns = np.concatenate([rows_at(keys), pane.addresses()[: self._n_states]])
        dealt = new_columns(len(columns), n_keys)
        n_old = int(np.count_nonzero(counts[: pane.n_keys_before]))
        is_ordered = owners.n_ordered == n_keys
        deal_groups(counts, of_keys, owners.offsets, owners.order, is_ordered, columns, dealt)
        starts = owners.offsets.tolist()
        owners.n_ordered = n_keys if starts[-1] == n_keys else 0
        self._look_at(starts[-1])
        self._recycle(pane)
        parts = [PaneWords(number, dealt[:, start:stop]) for start, stop in pairwise(starts)]
        return DealtPane(n_old, parts)


def _bounds(n_rows: Iterable[int]) -> I64:
    return np.array([*accumulate(n_rows, initial=0)], np.int64)
