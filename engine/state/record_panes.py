"""Groups of panes by integer keys that lie close to each other: a record for each key of a range.

A key's record is found by the key itself, in each pane at the same place, and has all running
values of a column side by side. Keys out of the range are strays, which belong elsewhere; the range
grows where that takes no more room than rows have been seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_columns
from millstream.engine.routing import hash_columns
from millstream.engine.state.dense_panes import DealtPane, PaneGroups
from millstream.engine.state.key_columns import KeyColumn, key_column
from millstream.engine.state.key_range import KeyRange, are_too_many
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.record_layout import RecordLayout
from millstream.engine.state.rooms import WordRoom
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64, U32
from millstream.kernels.partitioning import place_rows
from millstream.kernels.records import (
    RecordColumn,
    add_rows,
    clear_records,
    count_present,
    deal_records,
)

__all__ = ["KeyRows", "RecordPanes"]

# So many panes one after the other that have too much room, or one of so many keys, and the range
# is given up.
_SPARSE_PANES_MAX, _SPARSE_KEYS_MAX = 3, 1 << 17
# Strays are told of so many at a time.
_STRAYS_MAX = 1 << 10
# Of the keys of a pane, one in so many may be without rows and be dealt out all the same: groups
# that have the same keys in each partition, and in each pane, are quicker to add up.
_ABSENT_SHARE = 8
# Panes whose memory is kept for the next ones, and bytes of each of them.
_FREE_MAX, _FREE_BYTES_MAX = 2, 1 << 23
# Groups are copied where they take no more than one in so many parts of their room.
_SPARE = 2
# The groups of so many keys are counted while the GIL is kept.
_FEW_KEYS = 1 << 14
_WORD_BYTES = 8
_NO_ROWS: I64 = np.empty(0, np.int64)


class KeyRows(NamedTuple):
    """Rows of one pane.

    Attributes:
        keys: The key column.
        n_rows: Number of rows, at least 1.
        pane: Number of the pane.
    """

    keys: pa.Array
    n_rows: int
    pane: int


class RecordPanes:
    """Adds rows up by pane and key.

    Values must not be NULL.

    Args:
        key_type: Type of the key column.
        layout: What records hold.
    """

    def __init__(self, key_type: pa.DataType, layout: RecordLayout) -> None:
        self._key_type = key_type
        self._layout = layout
        self._column = key_column(key_type)
        self._room = WordRoom()
        self._range = KeyRange()
        self._panes: dict[int, _Pane] = {}
        self._free: list[_Pane] = []
        self._owners = _Owners(0)
        self._is_leaving = False
        self._n_sparse = 0
        self._strays = np.empty((_STRAYS_MAX, 2), np.int64)

    @classmethod
    def for_keys(
        cls, key_types: Sequence[pa.DataType], specs: Sequence[WordSpec]
    ) -> RecordPanes | None:
        """Return panes for groups, or None if their keys or accumulators do not suit records."""
        layout = RecordLayout.of(specs)
        if layout is None or len(key_types) != 1 or not key_column(key_types[0]).is_integral:
            return None
        return cls(key_types[0], layout)

    @property
    def n_groups(self) -> int:
        """Number of groups at most: each row of a pane may have another key."""
        return sum(min(pane.n_rows, self._range.n_keys) for pane in self._panes.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        panes = [*self._panes.values(), *self._free]
        return self._column.state_bytes + sum(pane.nbytes for pane in panes)

    @property
    def tells_values(self) -> bool:
        """Whether keys have words that tell them elsewhere."""
        return self._column.tells_values

    def numbers(self) -> list[int]:
        """Return the panes that have groups, in the order in which they came."""
        return list(self._panes)

    def rows_per_group(self, limit: int) -> float:
        """Tell how many rows have come for each group of the panes below a limit; 0 for none."""
        ended = [pane for number, pane in self._panes.items() if number < limit]
        n_groups = sum(pane.n_groups() for pane in ended)
        return sum(pane.n_rows for pane in ended) / n_groups if n_groups > 0 else 0.0

    def add(self, parts: Sequence[KeyRows], places: I64) -> list[I64] | None:
        """Add rows that came one after the other.

        Args:
            parts: Rows of one pane each.
            places: int64[n_parts, n_accumulators, PLACE_WORDS], where the values of each part lie.

        Returns:
            Per part the rows that have not been added, int64[n]; or None if no row has been.
        """
        is_due = self._range.is_due(sum(part.n_rows for part in parts))
        if self._is_leaving or not is_due:
            return None
        # Asked before texts are looked up, which whoever takes these rows does again.
        if self._range.n_keys > 0 and not self._make_panes(parts):
            return None
        self._room.clear()
        words = [place for part in parts if (place := self._words(part.keys)) is not None]
        if len(words) < len(parts):
            # Keys that are NULL have no record.
            return None
        at = [(where, part.n_rows) for (where, _), part in zip(words, parts, strict=True)]
        keys = np.array(at, np.int64)
        if self._range.n_keys == 0 and not (self._range.begin(keys) and self._make_panes(parts)):
            return None
        panes = [self._panes[part.pane] for part in parts]
        for pane, part in zip(panes, parts, strict=True):
            pane.n_rows += part.n_rows
        return self._add(keys, places, panes)

    def close(self, limit: int) -> list[PaneGroups]:
        """Give away the groups of all panes below a limit, in the order of the panes."""
        closed = []
        for dealt in self._deal(limit, _Owners(1), absent_share=0, room=_own_room):
            (groups,) = dealt.parts
            keys = self._column.decode([groups.words[0]], None)
            states = self._layout.arrays(groups.words[1:])
            closed.append(PaneGroups(groups.pane, groups.n_groups, dealt.n_old, [keys], states))
        self._begin_anew()
        return closed

    def deal(self, limit: int, n_partitions: int) -> list[DealtPane] | None:
        """Do what :meth:`close` does, by the partitions that own the keys.

        Returns:
            None if keys have no words that tell them elsewhere; then nothing has been given away.
        """
        if not self._column.tells_values:
            return None
        if self._owners.n_partitions != n_partitions:
            self._owners = _Owners(n_partitions)
        absent_share = 0 if self._layout.rows is None else _ABSENT_SHARE
        dealt = self._deal(limit, self._owners, absent_share, new_columns)
        self._begin_anew()
        return dealt

    def _words(self, keys: pa.Array) -> tuple[int, object] | None:
        """Return where keys lie as words and what keeps them there, or None if some are NULL."""
        if self._column.has_words and keys.type == self._column.type and keys.null_count == 0:
            return keys.buffers()[1].address + keys.offset * _WORD_BYTES, keys
        (words,), is_null = self._column.encode(keys, self._room)
        return None if is_null is not None else (words.ctypes.data, words)

    def _grow(self, keys: I64) -> bool:
        """Let the range grow by some keys, and all panes with it; return False if it does not."""
        base, n_keys = self._range.base, self._range.n_keys
        if not self._range.grow(keys):
            return False
        for pane in self._panes.values():
            pane.move(base - self._range.base, n_keys, self._range.n_keys)
        self._free.clear()
        return True

    def _add(self, keys: I64, places: I64, panes: Sequence[_Pane]) -> list[I64]:
        columns = self._layout.columns_of(places)
        self._locate(columns, panes)
        n_parts = len(keys)
        part, row, n_strays = add_rows(
            keys, columns, self._range.base, self._range.n_keys, self._strays
        )
        if n_strays == 0 and part == n_parts:
            return [_NO_ROWS] * n_parts
        runs = np.stack([np.arange(n_parts), np.zeros(n_parts, np.int64), keys[:, 1]], axis=1)
        return self._add_rest(*self._split(runs, part, row, n_strays), keys, columns, panes)

    def _add_rest(
        self, strays: I64, rest: I64, keys: I64, columns: I64, panes: Sequence[_Pane]
    ) -> list[I64]:
        """Let the range grow by strays or leave them, and go on.

        Runs of rows are int64[n_runs, 3]: part, first row and number of rows of each.
        """
        n_rows = int(keys[:, 1].sum())
        left: list[I64] = []
        while len(strays) + len(rest) > 0:
            runs = np.concatenate([strays, rest])
            if not self._grow(_keys_of(runs, keys)):
                left.append(strays)
                n_left = sum(map(len, left))
                if are_too_many(n_left, n_rows - int(rest[:, 2].sum())):
                    # Most of these keys are elsewhere.
                    self._is_leaving = True
                    left.append(rest)
                    break
                runs = rest
            self._locate(columns, panes)
            at = columns[runs[:, 0]]
            shifts = at[:, :, RecordColumn.VALUE_KIND] & 3
            at[:, :, RecordColumn.VALUES] += runs[:, 1:2] << shifts
            found = add_rows(
                _keys_of(runs, keys), at, self._range.base, self._range.n_keys, self._strays
            )
            strays, rest = self._split(runs, *found)
        return _rows_of(left, len(keys))

    @staticmethod
    def _locate(columns: I64, panes: Sequence[_Pane]) -> None:
        """Note where the records of each part are."""
        for part, pane in enumerate(panes):
            columns[part, :, RecordColumn.RECORDS] = pane.columns[:, 0]

    def _split(self, runs: I64, run: int, row: int, n_strays: int) -> tuple[I64, I64]:
        """Return runs of one stray each, and what is behind a row of a run."""
        strays = self._strays[:n_strays]
        found = np.ones((n_strays, 3), np.int64)
        found[:, :2] = runs[strays[:, 0], :2]
        found[:, 1] += strays[:, 1]
        rest = runs[run:].copy()
        rest[:1, 1] += row
        rest[:1, 2] -= row
        return found, rest

    def _make_panes(self, parts: Sequence[KeyRows]) -> bool:
        """Make the panes of some rows; return False if they would have too much room."""
        new = dict.fromkeys(part.pane for part in parts if part.pane not in self._panes)
        n_rows = sum(part.n_rows for part in parts if part.pane in new)
        return self._range.suits(n_rows, len(new)) and all(map(self._make_pane, new))

    def _make_pane(self, number: int) -> bool:
        if self._panes:
            # However long panes wait for their end: not one more if they have too much room.
            latest = next(reversed(self._panes.values()))
            if not latest.is_looked_at:
                self._look_at(latest, latest.n_groups())
        if self._is_leaving:
            return False
        pane = self._free.pop() if self._free else _Pane(self._layout, self._range.n_keys)
        self._panes[number] = pane
        return True

    def _look_at(self, pane: _Pane, n_groups: int) -> None:
        """Leave this range if few of its keys occur in panes that have had most of their rows."""
        if pane.is_looked_at or n_groups == 0:
            # Its rows are yet to come, or went elsewhere.
            return
        pane.is_looked_at = True
        if not self._range.is_sparse(n_groups, len(self._panes) + 1):
            self._n_sparse = 0
            self._range.confirm()
            return
        # A single one may have been cut short, because its other rows went elsewhere.
        self._n_sparse += 1
        if self._n_sparse >= _SPARSE_PANES_MAX or self._range.n_keys > _SPARSE_KEYS_MAX:
            self._is_leaving = True

    def _deal(
        self, limit: int, owners: _Owners, absent_share: int, room: Callable[[int, int], I64]
    ) -> list[DealtPane]:
        numbers = sorted(number for number in self._panes if number < limit)
        if not numbers:
            return []
        panes = [self._panes[number] for number in numbers]
        n_keys, n_rows = self._range.n_keys, 1 + len(self._layout.states)
        n_kept = _FREE_MAX - len(self._free) if panes[0].nbytes <= _FREE_BYTES_MAX else 0
        kept = panes[: max(n_kept, 0)]
        order, starts = owners.of(self._column, self._range.base, n_keys)
        dealt = [room(n_rows, n_keys) for _ in panes]
        clears = np.zeros(len(panes), np.uint8)
        clears[: len(kept)] = 1
        offsets = np.empty((len(panes), len(starts)), np.int64)
        n_present = np.empty(len(panes), np.int64)
        deal_records(
            np.array([pane.columns for pane in panes]),
            self._layout.states,
            self._range.base,
            order,
            starts,
            absent_share,
            clears,
            np.empty(n_keys, np.uint32),
            np.array([words.ctypes.data for words in dealt], np.int64),
            offsets,
            n_present,
        )
        for number, n_groups in zip(numbers, n_present.tolist(), strict=True):
            self._look_at(self._panes.pop(number), n_groups)
        for pane in kept:
            pane.is_looked_at = False
            pane.n_rows = 0
        self._free += kept
        of_panes = zip(numbers, dealt, n_present.tolist(), offsets.tolist(), strict=True)
        return [self._dealt(*of_pane) for of_pane in of_panes]

    def _dealt(self, number: int, words: I64, n_groups: int, offsets: list[int]) -> DealtPane:
        rows = None
        if offsets[-1] > n_groups and self._layout.rows is not None:
            rows = 1 + self._layout.rows
        if _SPARE * offsets[-1] < words.shape[1]:
            # Results may keep them for long.
            words = words[:, : offsets[-1]].copy()
        parts = [PaneWords(number, words[:, start:stop], rows) for start, stop in pairwise(offsets)]
        return DealtPane(n_groups, parts)

    def _begin_anew(self) -> None:
        """Forget the range and all texts, if they are too many and no pane has any of them."""
        if self._is_leaving and not self._panes:
            self._column = key_column(self._key_type)
            self._owners = _Owners(0)
            self._range.give_up()
            self._n_sparse = 0
            self._free.clear()
            self._is_leaving = False


class _Pane:
    """Records of a pane, one array per column of records.

    Attributes:
        arrays: The records.
        columns: int64[n_columns, 3], where they lie, their form, and the words of one.
        is_looked_at: Whether it is known how many keys have rows.
        n_rows: Rows that have come, strays included.
    """

    __slots__ = ("_layout", "arrays", "columns", "is_looked_at", "n_rows")

    def __init__(self, layout: RecordLayout, n_keys: int) -> None:
        self._layout = layout
        self.arrays = [_records(form, width, n_keys) for form, width in layout.forms]
        self.is_looked_at = False
        self.n_rows = 0
        self._note()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def n_groups(self) -> int:
        """Count the keys that have rows."""
        (_, width), array = self._layout.forms[0], self.arrays[0]
        counts = array[::width]
        return int(count_present(counts) if len(counts) <= _FEW_KEYS else np.count_nonzero(counts))

    def move(self, offset: int, n_before: int, n_keys: int) -> None:
        """Make room for so many keys, with the records that there are behind the first ones."""
        for index, (form, width) in enumerate(self._layout.forms):
            records = _records(form, width, n_keys)
            records[width * offset : width * (offset + n_before)] = self.arrays[index]
            self.arrays[index] = records
        self._note()

    def _note(self) -> None:
        arrays = zip(self.arrays, self._layout.forms, strict=True)
        self.columns = np.array(
            [(array.ctypes.data, form, width) for array, (form, width) in arrays], np.int64
        )


class _Owners:
    """The records of a range in the order of the partitions that own their keys."""

    def __init__(self, n_partitions: int) -> None:
        self.n_partitions = n_partitions
        self._range = (0, 0)
        self._order = np.zeros(0, np.uint32)
        self._offsets = np.zeros(n_partitions + 1, np.int64)

    def of(self, column: KeyColumn, base: int, n_keys: int) -> tuple[U32, I64]:
        """Return the order, uint32[n_keys], and where each partition begins in it."""
        if self._range != (base, n_keys):
            self._range = base, n_keys
            self._order = np.arange(n_keys, dtype=np.uint32)
            self._offsets[1:] = n_keys
            if self.n_partitions > 1:
                words = base + np.arange(n_keys, dtype=np.int64)
                hashes = hash_columns([column.decode([words], None)])
                places = np.empty(n_keys, np.uint32)
                place_rows(hashes, self.n_partitions, self._offsets, places)
                self._order[places] = np.arange(n_keys, dtype=np.uint32)
        return self._order, self._offsets


def _own_room(n_columns: int, n_rows: int) -> I64:
    """Do what :func:`new_columns` does, for what may stay for long."""
    return np.empty((n_columns, n_rows), np.int64)


def _records(form: int, width: int, n_keys: int) -> I64:
    records = np.empty(width * n_keys, np.int64)
    clear_records(form, records, 0, n_keys)
    return records


def _keys_of(runs: I64, keys: I64) -> I64:
    """Tell where the keys of runs lie, as kernels want to know."""
    return np.stack([keys[runs[:, 0], 0] + _WORD_BYTES * runs[:, 1], runs[:, 2]], axis=1)


def _rows_of(left: Sequence[I64], n_parts: int) -> list[I64]:
    """Return the rows of each part that are in some runs, ascending."""
    rows: list[list[I64]] = [[] for _ in range(n_parts)]
    for runs in left:
        for part, first, n_rows in runs.tolist():
            rows[part].append(np.arange(first, first + n_rows))
    return [np.sort(np.concatenate(found)) if found else _NO_ROWS for found in rows]
