"""Accumulators of one word per group, all updated by one call of one kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.state.places import (
    VALIDITY_WORD,
    have_nulls,
    is_taken_as_it_is,
    places_of,
)
from millstream.engine.state.state_columns import resized, valid_flags
from millstream.engine.state.step_rows import AssignedSteps
from millstream.engine.state.word_states import IDENTITY, STATE_DTYPE
from millstream.kernels.aggregation import accumulate
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.panes import fill_words
from millstream.kernels.programs import Field, Opcode
from millstream.kernels.touched import copy_states

__all__ = ["WordSpec", "Words"]

# So many states are set while the GIL is kept: to give it away and have it back takes longer.
_FEW_GROUPS = 1 << 15
_PLACE = slice(Field.VALUES, Field.STATE)
_EXTREMES = {
    Opcode.SUM_I64: (Opcode.MIN_I64, Opcode.MAX_I64),
    Opcode.SUM_F64: (Opcode.MIN_F64, Opcode.MAX_F64),
}
_STATE_TYPES = {
    np.dtype(np.int64): pa.int64(),
    np.dtype(np.uint64): pa.uint64(),
    np.dtype(np.float64): pa.float64(),
}


@dataclass(frozen=True, slots=True)
class WordSpec:
    """One running value per group.

    Attributes:
        opcode: What a row does to it.
        column: Input column that is accumulated, or None to count rows.
        counts_partials: Whether a partial value counts as one row, whatever it is; for COUNT.
    """

    opcode: Opcode
    column: str | None
    counts_partials: bool = False

    @property
    def merge_opcode(self) -> Opcode:
        """What a partial value of the same group does to it."""
        if self.opcode == Opcode.COUNT and not self.counts_partials:
            return Opcode.SUM_I64
        return self.opcode

    @property
    def state_type(self) -> pa.DataType:
        """int64, uint64 or float64."""
        return _STATE_TYPES[STATE_DTYPE[self.opcode]]

    @property
    def can_be_null(self) -> bool:
        """Whether a group without a value is NULL: all are but counts."""
        return self.opcode != Opcode.COUNT

    def values(self, array: pa.Array) -> pa.Array:
        """Return the values of the column, without encodings, as the accumulator takes them."""
        if is_taken_as_it_is(array.type):
            return array
        if pa.types.is_null(array.type):
            # The null type has no bitmap of its own.
            return array.cast(pa.int8())
        if self.opcode == Opcode.COUNT:
            return array
        if pa.types.is_boolean(array.type):
            return _bytes_of(array)
        return array.cast(pa.float32()) if pa.types.is_float16(array.type) else array


_COUNT_ROWS = WordSpec(Opcode.COUNT, None)


class Words:
    """The state of a list of accumulators, one array per accumulator.

    Args:
        specs: The accumulators.
        merges: Whether rows are partial values of the accumulators themselves.
    """

    def __init__(self, specs: Sequence[WordSpec], *, merges: bool) -> None:
        self._specs = tuple(specs)
        self._program = np.zeros((len(specs), len(Field)), np.int64)
        for step, spec in zip(self._program, specs, strict=True):
            step[Field.OPCODE] = spec.merge_opcode if merges else spec.opcode
        if not merges:
            for index in range(len(specs)):
                self._program[index, [Field.LEAST, Field.GREATEST]] = _extremes(specs, index)
        self._values = [np.zeros(0, STATE_DTYPE[spec.opcode]) for spec in specs]
        # Accumulators over one column have seen the same values: the first of them takes note.
        first_steps: dict[str, int] = {}
        for index, spec in enumerate(specs):
            if spec.column is not None and spec.can_be_null:
                first_steps.setdefault(spec.column, index)
        self._first_steps = first_steps
        self._seen = {column: np.zeros(0, np.uint8) for column in first_steps}
        identities = [np.array(IDENTITY[spec.opcode], STATE_DTYPE[spec.opcode]) for spec in specs]
        self._identities = np.array([word.view(np.int64) for word in identities], np.int64)
        self._n_groups = 0
        # States up to here hold something: those behind are made when their groups are.
        self._n_ready = 0
        # As long as a column has had no NULL, a count of its values is one of rows: by step, the
        # step that counts rows.
        self._counts_shared: dict[int, int] = {}
        rows = next((i for i, spec in enumerate(specs) if spec == _COUNT_ROWS), None)
        if rows is not None and not merges:
            counts = (i for i, spec in enumerate(specs) if spec.opcode == Opcode.COUNT)
            self._counts_shared = {step: rows for step in counts if step != rows}
        self._counts_to_share = dict(self._counts_shared)
        # As long as a column has had no NULL its groups have all seen a value, and need no notes.
        self._is_complete = dict.fromkeys(first_steps, True)

    def anew(self) -> Words:
        """Return accumulators like these, without groups."""
        words = copy(self)
        words._program = self._program.copy()
        words._program[:, [Field.STATE, Field.SEEN]] = 0
        words._values = [values[:0] for values in self._values]
        words._seen = {column: seen[:0] for column, seen in self._seen.items()}
        words._counts_shared = dict(self._counts_to_share)
        words.clear()
        return words

    def update(
        self,
        parts: Sequence[Sequence[pa.Array | None]],
        bounds: I64,
        group_ids: U32,
        n_groups: int,
        *,
        new_have_rows: bool,
    ) -> None:
        """Add one value per row to each accumulator.

        Args:
            parts: Per batch and accumulator the values, or None to count rows.
            bounds: int64[n_parts + 1], where each batch begins in ``group_ids`` and the last ends.
            group_ids: uint32[n_rows], each within the room that there is.
            n_groups: Number of groups that exist now.
            new_have_rows: Whether each group that is new since the last update is among
                ``group_ids``.
        """
        places = places_of(parts)
        self.update_at(places, bounds, group_ids, n_groups, new_have_rows=new_have_rows)

    def update_at(
        self, places: I64, bounds: I64, group_ids: U32, n_groups: int, *, new_have_rows: bool
    ) -> None:
        """Do what :meth:`update` does with values by their places.

        Args:
            places: int64[n_parts, n_accumulators, PLACE_WORDS], good during this call.
            bounds: As for :meth:`update`.
            group_ids: As for :meth:`update`.
            n_groups: As for :meth:`update`.
            new_have_rows: As for :meth:`update`.
        """
        n_before, self._n_groups = self._n_groups, n_groups
        self._make_ready(n_groups)
        with_nulls = [False] * len(self._specs)
        if have_nulls(places):
            with_nulls = (np.count_nonzero(places[:, :, VALIDITY_WORD], axis=0) > 0).tolist()
        for column, step in self._first_steps.items():
            seen = self._seen[column]
            is_complete = self._is_complete[column] and (new_have_rows or n_before == n_groups)
            if is_complete and not with_nulls[step]:
                if n_groups > n_before:
                    seen[n_before:n_groups] = 1
                self._program[step, Field.SEEN] = 0
            else:
                self._is_complete[column] = False
                self._program[step, Field.SEEN] = seen.ctypes.data
        for step, rows in list(self._counts_shared.items()):
            if with_nulls[step]:
                del self._counts_shared[step]
                self._values[step] = self._values[rows].copy()
                self._program[step, Field.STATE] = self._values[step].ctypes.data
        if len(group_ids) > 0:
            self._run(self._program, places, bounds, group_ids)

    def each_step(self, steps: AssignedSteps) -> Iterator[U32]:
        """Add the rows of several steps, and give after each the groups that it touched.

        Args:
            steps: The rows, for whose groups there is room.
        """
        rows, places = steps.rows, steps.places
        bounds, touched_bounds = rows.bounds, rows.touched_bounds.tolist()
        n_groups = rows.n_groups.tolist()
        for step, (part, end) in enumerate(pairwise(rows.parts.tolist())):
            start, stop = int(bounds[part]), int(bounds[end])
            if start < stop:
                self.update_at(
                    places[part:end],
                    bounds[part : end + 1] - start,
                    rows.group_ids[start:stop],
                    n_groups[step + 1],
                    new_have_rows=True,
                )
            yield rows.touched[touched_bounds[step] : touched_bounds[step + 1]]

    def update_steps(self, steps: AssignedSteps) -> list[pa.Array]:
        """Add the rows of several steps, and note what the groups of each hold after it.

        Args:
            steps: The rows, for whose groups there is room.

        Returns:
            One array per accumulator, with the groups of one step after those of the other.
        """
        n_touched = len(steps.rows.touched)
        copies = np.empty((len(self._specs), n_touched), np.int64)
        seen: dict[str, U8] = {}
        start = 0
        for chosen in self.each_step(steps):
            copy_states(self.addresses(), chosen, copies, start)
            stop = start + len(chosen)
            for column, is_complete in self._is_complete.items():
                if not is_complete:
                    flags = seen.setdefault(column, np.ones(n_touched, np.uint8))
                    flags[start:stop] = self._seen[column][chosen]
            start = stop
        return [
            array_from_buffers(
                words.view(STATE_DTYPE[spec.opcode]),
                spec.state_type,
                seen.get(spec.column) if spec.column is not None and spec.can_be_null else None,
            )
            for spec, words in zip(self._specs, copies, strict=True)
        ]

    def merge(self, states: Sequence[pa.Array], group_ids: U32, n_groups: int) -> None:
        """Add states that :meth:`take` gave.

        Args:
            states: One array per accumulator.
            group_ids: uint32[n_rows], the group that each goes to.
            n_groups: Number of groups that exist now; new ones are among ``group_ids``.
        """
        self._make_ready(n_groups)
        self._n_groups = max(self._n_groups, n_groups)
        program = self._program.copy()
        program[:, Field.OPCODE] = [spec.merge_opcode for spec in self._specs]
        # Partial values of each step are its own.
        program[:, [Field.LEAST, Field.GREATEST]] = 0
        for column, step in self._first_steps.items():
            program[step, Field.SEEN] = self._seen[column].ctypes.data
        bounds = np.array([0, len(group_ids)], np.int64)
        self._run(program, places_of([states]), bounds, group_ids)

    @property
    def n_groups(self) -> int:
        """Number of groups at the last update."""
        return self._n_groups

    def counts(self, step: int) -> I64:
        """View what an accumulator of opcode COUNT holds: int64[n_groups], not to be kept."""
        counts: I64 = self._values[self._counts_shared.get(step, step)][: self._n_groups].view(
            np.int64
        )
        return counts

    def addresses(self) -> I64:
        """Return where the states lie, which hold something up to the number of groups.

        Returns:
            int64[n_accumulators], good until the next update or reallocation.
        """
        steps = [self._counts_shared.get(step, step) for step in range(len(self._specs))]
        addresses: I64 = self._program[steps, Field.STATE]
        return addresses

    @property
    def have_nulls(self) -> bool:
        """Whether some state may be NULL, as far as is noted."""
        return not all(self._is_complete.values())

    def clear(self) -> None:
        """Forget all groups, and use the memory for others; nobody else may have it."""
        self._n_groups = self._n_ready = 0
        self._is_complete = dict.fromkeys(self._first_steps, True)

    def make_room(self, n_groups: int) -> None:
        """Let there be so many groups at least, new ones with what accumulators hold at first.

        There is memory for them, and whoever asks gives all new groups a value of each accumulator.
        """
        n_before = self._n_groups
        if n_groups > n_before:
            self._make_ready(n_groups)
            self._n_groups = n_groups
            for seen in self._seen.values():
                seen[n_before:n_groups] = 1

    def adopt(self, states: Sequence[I64]) -> None:
        """Forget all groups, and have others in arrays that nobody else writes to.

        Args:
            states: int64[n_groups] each, what each accumulator holds. None is NULL.
        """
        n_groups = len(states[0])
        self._values = [
            words.view(STATE_DTYPE[spec.opcode])
            for words, spec in zip(states, self._specs, strict=True)
        ]
        self._program[:, Field.STATE] = [words.ctypes.data for words in states]
        self._seen = {column: np.ones(n_groups, np.uint8) for column in self._seen}
        self._n_groups = self._n_ready = n_groups
        self._is_complete = dict.fromkeys(self._first_steps, True)
        self._counts_shared.clear()

    def take(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the states of some groups; a slice is not copied."""
        n_taken = _last(group_ids) + 1
        self._make_ready(n_taken)
        are_known = n_taken <= self._n_groups
        seen = {
            column: flags[group_ids]
            for column, flags in self._seen.items()
            if not (are_known and self._is_complete[column])
        }
        return [
            array_from_buffers(
                self._values[self._counts_shared.get(step, step)][group_ids],
                spec.state_type,
                seen.get(spec.column) if spec.column is not None and spec.can_be_null else None,
            )
            for step, spec in enumerate(self._specs)
        ]

    def reallocate(self, capacity: int, kept: U32 | slice) -> None:
        """Make new arrays for ``capacity`` groups, the first of which are those of ``kept``."""
        if isinstance(kept, slice):
            # Behind these there is nothing to keep.
            chosen_ids: U32 | slice = slice(kept.start, min(kept.stop, self._n_ready))
        else:
            self._make_ready(_last(kept) + 1)
            chosen_ids = kept
        for step in range(len(self._specs)):
            if step not in self._counts_shared:
                chosen = self._values[step][chosen_ids]
                values = np.empty(capacity, chosen.dtype)
                values[: len(chosen)] = chosen
                self._values[step] = values
                self._program[step, Field.STATE] = values.ctypes.data
        for column, flags in self._seen.items():
            self._seen[column] = resized(flags, capacity, kept)
        if not isinstance(kept, slice):
            self._n_groups = self._n_ready = len(kept)
            for column, flags in self._seen.items():
                self._is_complete[column] = bool(flags[: len(kept)].all())

    def _make_ready(self, n_groups: int) -> None:
        """Let the states of new groups hold that they have taken nothing."""
        if n_groups > self._n_ready:
            if n_groups - self._n_ready <= _FEW_GROUPS:
                fill_words(self._program[:, Field.STATE], self._n_ready, n_groups, self._identities)
            else:
                for step, spec in enumerate(self._specs):
                    if step not in self._counts_shared:
                        self._values[step][self._n_ready : n_groups] = IDENTITY[spec.opcode]
            self._n_ready = n_groups

    @property
    def state_bytes(self) -> int:
        """Bytes of all arrays."""
        flags = sum(seen.nbytes for seen in self._seen.values())
        return flags + sum(values.nbytes for values in self._values)

    @staticmethod
    def _run(program: I64, places: I64, bounds: I64, group_ids: U32) -> None:
        programs = np.empty((len(places), *program.shape), np.int64)
        programs[:] = program
        programs[:, :, _PLACE] = places
        accumulate(programs, bounds, group_ids)
        # What steps remember for the next time.
        program[:, Field.RESTLESS_BLOCKS] = programs[-1, :, Field.RESTLESS_BLOCKS]


def _last(group_ids: U32 | slice) -> int:
    if isinstance(group_ids, slice):
        return int(group_ids.stop) - 1
    return int(group_ids.max(initial=0))


def _bytes_of(array: pa.Array) -> pa.Array:
    """Return booleans as integers of 0 and 1."""
    flags = valid_flags(array)
    return array_from_buffers(fixed_values(array), pa.uint8(), flags if len(flags) > 0 else None)


def _extremes(specs: Sequence[WordSpec], index: int) -> tuple[int, int]:
    """Return the steps behind a sum that take the least and greatest of the same values, or 0s."""
    total, places = specs[index], []
    for opcode in _EXTREMES.get(total.opcode, ()):
        wanted = WordSpec(opcode, total.column)
        places.append(next((i for i, spec in enumerate(specs) if spec == wanted and i > index), 0))
    return (places[0], places[1]) if len(places) == 2 and all(places) else (0, 0)
