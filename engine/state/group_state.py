"""Keyed state: a key table that numbers groups, and accumulators indexed by those numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from millstream.engine.state.accumulators import Accumulators, AccumulatorSpec
from millstream.engine.state.key_table import KeyPart, KeyTable, Word
from millstream.engine.state.pane_words import PaneWords, state_kinds, state_places
from millstream.engine.state.rooms import IdRoom
from millstream.engine.state.step_rows import AssignedSteps, StepRows, StepStates
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64, U32
from millstream.kernels.splitting import split_groups

__all__ = ["NO_LIMIT", "GroupState"]

# Below any word.
NO_LIMIT = -(1 << 63)


class GroupState:
    """Groups with their keys and accumulators.

    Args:
        key_types: Arrow types of the key columns.
        n_prefix_words: Words of a key that come before its columns, such as the number of a pane.
        specs: The accumulators.
        merges: Whether rows are partial values.
    """

    def __init__(
        self,
        key_types: Sequence[pa.DataType],
        n_prefix_words: int,
        specs: Sequence[AccumulatorSpec],
        *,
        merges: bool,
    ) -> None:
        self._is_global = not key_types and n_prefix_words == 0
        self._n_global = 0
        self._zeros = np.empty(0, np.uint32)
        self._table = KeyTable(key_types, n_prefix_words)
        self._accumulators = Accumulators(specs, merges=merges)
        self._kinds = state_kinds([spec for spec in specs if isinstance(spec, WordSpec)])

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self._n_global if self._is_global else self._table.n_groups

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        return self._table.state_bytes + self._accumulators.state_bytes

    def update(
        self,
        n_rows: int,
        prefix: Sequence[Word],
        keys: Sequence[pa.Array],
        values: Sequence[pa.Array | None],
    ) -> U32:
        """Add rows to their groups, which are made where they are new.

        Args:
            n_rows: Number of rows; the length of every array.
            prefix: Prefix words, of all rows or of each.
            keys: Key columns.
            values: Per accumulator its values, or None to count rows.

        Returns:
            The group of each row, uint32[n_rows].
        """
        return self.update_parts([KeyPart(keys, prefix, n_rows)], [values])

    def update_parts(
        self,
        parts: Sequence[KeyPart],
        values: Sequence[Sequence[pa.Array | None]],
        room: IdRoom | None = None,
    ) -> U32:
        """Add rows of several batches to their groups.

        Args:
            parts: Keys of each batch.
            values: Per batch and accumulator its values.
            room: Where the groups may lie, if nobody keeps them.

        Returns:
            The groups of all rows, one batch after the other: uint32[n_rows].
        """
        bounds, group_ids, new_have_rows = self._assign(parts, room)
        self._accumulators.update_parts(
            values, bounds, group_ids, self.n_groups, new_have_rows=new_have_rows
        )
        return group_ids

    def update_at(self, parts: Sequence[KeyPart], places: I64, room: IdRoom | None = None) -> U32:
        """Add rows of several batches to their groups, where all accumulators are words.

        Args:
            parts: Keys of each batch.
            places: int64[n_parts, n_accumulators, PLACE_WORDS], where the values lie meanwhile.
            room: Where the groups may lie, if nobody keeps them.

        Returns:
            The groups of all rows, one batch after the other: uint32[n_rows].
        """
        bounds, group_ids, new_have_rows = self._assign(parts, room)
        self._accumulators.update_at(
            places, bounds, group_ids, self.n_groups, new_have_rows=new_have_rows
        )
        return group_ids

    def update_words(
        self,
        parts: Sequence[PaneWords],
        prefixes: Sequence[Sequence[int]],
        room: IdRoom | None = None,
    ) -> U32:
        """Add partial groups, where all accumulators are words.

        Args:
            parts: The groups.
            prefixes: Per part the prefix words of all its groups.
            room: Where the groups may lie, if nobody keeps them.

        Returns:
            The groups that they went to, one part after the other: uint32[n].
        """
        bounds, group_ids = self._assign_words(parts, prefixes, room)
        places = state_places(parts, self._kinds)
        self._accumulators.update_at(places, bounds, group_ids, self.n_groups, new_have_rows=True)
        return group_ids

    def assign_steps(
        self, keys: Sequence[KeyPart], places: I64, values: object, parts: I64
    ) -> AssignedSteps:
        """Give the rows of several steps their groups, where all accumulators are words.

        Args:
            keys: Keys of each part.
            places: int64[n_parts, n_accumulators, PLACE_WORDS], where the values lie.
            values: What they lie in.
            parts: int64[n_steps + 1], the first part of each step, and the number of parts.
        """
        n_before = self.n_groups
        bounds, group_ids, _ = self._assign(keys, None)
        rows = StepRows.of(group_ids, bounds, parts, n_before=n_before, n_groups=self.n_groups)
        return AssignedSteps(rows, places, values)

    def assign_steps_of_words(
        self, groups: Sequence[PaneWords], prefixes: Sequence[Sequence[int]], parts: I64
    ) -> AssignedSteps:
        """Do what :meth:`assign_steps` does for partial groups."""
        n_before = self.n_groups
        bounds, group_ids = self._assign_words(groups, prefixes, None)
        rows = StepRows.of(group_ids, bounds, parts, n_before=n_before, n_groups=self.n_groups)
        return AssignedSteps(rows, state_places(groups, self._kinds), groups)

    def update_steps(self, steps: AssignedSteps) -> StepStates:
        """Add the rows of several steps and return what the groups of each hold after it."""
        return self._accumulators.update_steps(steps)

    def each_step(self, steps: AssignedSteps) -> Iterator[U32]:
        """Add the rows of several steps, and give after each the groups that it touched."""
        return self._accumulators.each_step(steps)

    def merge(self, part: KeyPart, states: Sequence[pa.Array]) -> None:
        """Add groups of another state, where all accumulators are words and have values.

        Args:
            part: Keys of the groups.
            states: Their accumulators, as :meth:`accumulated` gives them.
        """
        _, group_ids, _ = self._assign([part], None)
        self._accumulators.merge_states(states, group_ids, self.n_groups)

    def _assign(self, parts: Sequence[KeyPart], room: IdRoom | None) -> tuple[I64, U32, bool]:
        """Return where parts begin and end, the groups of rows, and whether all new ones have rows.

        The group of a query without keys is there without rows, too.
        """
        bounds = np.array([*accumulate((part.n_rows for part in parts), initial=0)], np.int64)
        if self._is_global:
            self._n_global = 1
            group_ids = self._ids_of_global(int(bounds[-1]))
        else:
            group_ids = self._table.assign_parts(parts, bounds, room)
        return bounds, group_ids, len(group_ids) > 0 or not self._is_global

    def _ids_of_global(self, n_rows: int) -> U32:
        """Return zeros, which nobody writes to."""
        if n_rows > len(self._zeros):
            self._zeros = np.zeros(n_rows, np.uint32)
        return self._zeros[:n_rows]

    def _assign_words(
        self,
        parts: Sequence[PaneWords],
        prefixes: Sequence[Sequence[int]],
        room: IdRoom | None,
    ) -> tuple[I64, U32]:
        bounds = np.array([*accumulate((part.n_groups for part in parts), initial=0)], np.int64)
        keys = [part.keys(len(self._kinds)) for part in parts]
        return bounds, self._table.assign_words(keys, prefixes, bounds, room)

    def prefix_words(self, index: int) -> I64:
        """Return one prefix word of every group: int64[n_groups], not to be kept."""
        return self._table.prefix_words(index)

    def split(self, limit: int, floor: int = NO_LIMIT) -> tuple[U32 | slice, U32]:
        """Split groups by their first prefix word.

        Args:
            limit: The word at which the second part begins.
            floor: Groups with a lesser word are left out.

        Returns:
            The groups below ``limit`` ordered by that word, as a slice where they are the first
            ones and in order already; and the others.
        """
        words = self.prefix_words(0)
        if len(words) > 0 and floor <= words[0] < limit and bool((words == words[0]).all()):
            # Mostly a single window is open.
            return slice(0, len(words)), np.empty(0, np.uint32)
        below = np.empty(len(words), np.uint32)
        rest = np.empty(len(words), np.uint32)
        n_below = split_groups(words, limit, below, rest)
        below, rest = below[:n_below], rest[: len(words) - n_below]
        chosen = words[below]
        if floor > NO_LIMIT:
            is_left = chosen >= floor
            if not is_left.all():
                below, chosen = below[is_left], chosen[is_left]
        is_ordered = bool(np.all(chosen[1:] >= chosen[:-1]))
        if not is_ordered:
            below = below[np.argsort(chosen, kind="stable")]
        elif len(below) > 0 and int(below[-1]) - int(below[0]) == len(below) - 1:
            return slice(int(below[0]), int(below[-1]) + 1), rest
        return below, rest

    def keys(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return key columns of some groups."""
        return [] if self._is_global else self._table.columns(group_ids)

    def accumulated(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return accumulator columns of some groups; a slice is not copied."""
        return self._accumulators.columns(group_ids)

    def key_addresses(self) -> list[int] | None:
        """Return where the words of prefix and keys lie, one per group, if no key is NULL.

        Good until groups are added or renumbered.
        """
        return [] if self._is_global else self._table.addresses()

    def key_words(self) -> list[int] | None:
        """Return which word of a key is that of each column; None if a column has several."""
        return [] if self._is_global else self._table.words_of_columns()

    def state_addresses(self) -> I64 | None:
        """Return where accumulators lie, a word per group, if all are words and none may be NULL.

        Returns:
            int64[n_accumulators], good until groups are added or renumbered.
        """
        return self._accumulators.addresses()

    def decoded_key(self, index: int, words: list[I64]) -> pa.Array:
        """Return values of a key column by their words, of which none is NULL by another word."""
        return self._table.decoded(index, words)

    def retain(self, group_ids: U32) -> None:
        """Keep only these groups, renumbered from 0 in this order."""
        n_before = self.n_groups
        if self._is_global:
            self._n_global = len(group_ids)
        else:
            self._table.retain(group_ids)
        self._accumulators.retain(group_ids, n_before)
