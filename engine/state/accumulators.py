"""Accumulators: the columns of an aggregate's state, indexed by group id and grown together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from millstream.engine.columns import plain
from millstream.engine.state.state_columns import Arrivals, StateColumn, StateSpec
from millstream.engine.state.step_rows import AssignedSteps, StepStates
from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.compile import I64, U32

__all__ = ["AccumulatorSpec", "Accumulators", "values_of"]

AccumulatorSpec: TypeAlias = WordSpec | StateSpec

_CAPACITY_LEAST = 64


def values_of(
    specs: Sequence[AccumulatorSpec], batch: pa.RecordBatch, arrivals: Arrivals
) -> list[pa.Array | None]:
    """Return what each accumulator takes of a batch of rows; None stands for the rows."""
    columns: dict[str, pa.Array] = {}
    values: list[pa.Array | None] = []
    for spec in specs:
        if not isinstance(spec, WordSpec):
            values.append(spec.values(batch, arrivals))
        elif spec.column is None:
            values.append(None)
        else:
            column = columns.get(spec.column)
            if column is None:
                column = columns[spec.column] = plain(batch.column(spec.column))
            values.append(spec.values(column))
    return values


class Accumulators:
    """The state of a list of accumulators.

    Args:
        specs: The accumulators.
        merges: Whether rows are partial values of the accumulators themselves, in the order of
            ``specs``.
    """

    def __init__(self, specs: Sequence[AccumulatorSpec], *, merges: bool) -> None:
        self._merges = merges
        self._n_specs = len(specs)
        words = [(i, spec) for i, spec in enumerate(specs) if isinstance(spec, WordSpec)]
        self._word_places = [place for place, _ in words]
        self._words = Words([spec for _, spec in words], merges=merges)
        self._columns: dict[int, StateColumn] = {
            place: spec.make() for place, spec in enumerate(specs) if isinstance(spec, StateSpec)
        }
        self._capacity = 0
        self._reallocate(_CAPACITY_LEAST, slice(0, 0))

    def update(
        self,
        arrays: Sequence[pa.Array | None],
        group_ids: U32,
        n_groups: int,
        *,
        new_have_rows: bool = False,
    ) -> None:
        """Add one value per row to each accumulator.

        Args:
            arrays: Per accumulator the values of the batch, or None to count rows. Same length as
                ``group_ids``.
            group_ids: uint32[n_rows], each below ``n_groups``.
            n_groups: Number of groups that exist now.
            new_have_rows: Whether each group that is new since the last update is among
                ``group_ids``.
        """
        bounds = np.array([0, len(group_ids)], np.int64)
        self.update_parts([arrays], bounds, group_ids, n_groups, new_have_rows=new_have_rows)

    def update_parts(
        self,
        parts: Sequence[Sequence[pa.Array | None]],
        bounds: I64,
        group_ids: U32,
        n_groups: int,
        *,
        new_have_rows: bool,
    ) -> None:
        """Do what :meth:`update` does for several batches in one go.

        Args:
            parts: Per batch and accumulator its values, or None to count rows.
            bounds: int64[n_parts + 1], where each batch begins in ``group_ids`` and the last ends.
            group_ids: uint32[n_rows], the groups of all rows, one batch after the other.
            n_groups: Number of groups that exist now.
            new_have_rows: Whether each group that is new since the last update is among
                ``group_ids``.
        """
        self.reserve(n_groups)
        if self._word_places:
            words = [[arrays[place] for place in self._word_places] for arrays in parts]
            self._words.update(words, bounds, group_ids, n_groups, new_have_rows=new_have_rows)
        if len(group_ids) == 0 or not self._columns:
            return
        for arrays, (start, stop) in zip(parts, pairwise(bounds.tolist()), strict=True):
            ids = group_ids[start:stop]
            for place, column in self._columns.items():
                if self._merges:
                    column.merge(arrays[place], ids)
                else:
                    column.add(arrays[place], ids)

    def update_at(
        self, places: I64, bounds: I64, group_ids: U32, n_groups: int, *, new_have_rows: bool
    ) -> None:
        """Do what :meth:`update_parts` does where all accumulators are words, by places.

        Args:
            places: int64[n_parts, n_accumulators, PLACE_WORDS], good during this call.
            bounds: As for :meth:`update_parts`.
            group_ids: As for :meth:`update_parts`.
            n_groups: As for :meth:`update_parts`.
            new_have_rows: As for :meth:`update_parts`.
        """
        assert not self._columns, "only words have places"
        self.reserve(n_groups)
        if self._word_places:
            self._words.update_at(places, bounds, group_ids, n_groups, new_have_rows=new_have_rows)

    def each_step(self, steps: AssignedSteps) -> Iterator[U32]:
        """Add the rows of several steps, and give after each the groups that it touched."""
        assert not self._columns, "only words have places"
        self.reserve(int(steps.rows.n_groups[-1]))
        return self._words.each_step(steps)

    def update_steps(self, steps: AssignedSteps) -> StepStates:
        """Add the rows of several steps, and note what the groups of each hold after it."""
        assert not self._columns, "only words have places"
        rows = steps.rows
        self.reserve(int(rows.n_groups[-1]))
        return StepStates(rows.touched, rows.touched_bounds, self._words.update_steps(steps))

    def merge(self, sources: U32, targets: U32) -> None:
        """Add the states of groups to those of others.

        Args:
            sources: uint32[n], groups that have a state already, which stays as it is. None of them
                is in ``targets``.
            targets: uint32[n], per source the group that takes its state, which has one already.
        """
        if len(sources) == 0:
            return
        if self._word_places:
            self._words.merge(self._words.take(sources), targets, self._words.n_groups)
        for column in self._columns.values():
            column.merge(column.take(sources), targets)

    def merge_states(self, states: Sequence[pa.Array], group_ids: U32, n_groups: int) -> None:
        """Add states that :meth:`columns` of others gave, where all accumulators are words.

        Args:
            states: One array per accumulator, without NULLs.
            group_ids: uint32[n], the group that each goes to.
            n_groups: Number of groups that exist now; new ones are among ``group_ids``.
        """
        assert not self._columns, "only words are merged like that"
        self.reserve(n_groups)
        if self._word_places:
            self._words.merge(states, group_ids, n_groups)

    def columns(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the state of some groups as Arrow arrays; a slice may not be copied."""
        words = iter(self._words.take(group_ids))
        return [
            self._columns[place].take(group_ids) if place in self._columns else next(words)
            for place in range(self._n_specs)
        ]

    def addresses(self) -> I64 | None:
        """Return where the states of groups lie, if all are words and none may be NULL.

        Returns:
            int64[n_accumulators], good until the next update or reallocation.
        """
        return None if self._columns or self._words.have_nulls else self._words.addresses()

    def reserve(self, n_groups: int) -> None:
        """Make room for at least ``n_groups``."""
        if n_groups > self._capacity:
            self._reallocate(max(2 * self._capacity, n_groups), slice(0, self._capacity))

    def retain(self, group_ids: U32, n_before: int = 0) -> None:
        """Keep only these groups, renumbered from 0 in this order, in arrays of their own.

        Args:
            group_ids: uint32[n], the groups to keep.
            n_before: Number of groups until now; for as many there is room again.
        """
        self._reallocate(max(_CAPACITY_LEAST, 2 * len(group_ids), n_before), group_ids)

    @property
    def state_bytes(self) -> int:
        """Bytes of all state arrays."""
        return self._words.state_bytes + sum(c.state_bytes for c in self._columns.values())

    def _reallocate(self, capacity: int, kept: U32 | slice) -> None:
        self._capacity = capacity
        self._words.reallocate(capacity, kept)
        for column in self._columns.values():
            column.reallocate(capacity, kept)
