"""Groups of a pane as words: so they go from one phase of an aggregate to the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.routing import hash_columns
from millstream.engine.state.key_columns import key_column
from millstream.engine.state.key_table import KeyTable
from millstream.engine.state.places import NOWHERE, PLACE_WORDS
from millstream.engine.state.word_states import STATE_DTYPE
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64, U32
from millstream.kernels.partitioning import find_owners
from millstream.kernels.programs import ValueKind

__all__ = ["KeyOwners", "PaneWords", "state_kinds", "state_places"]

_KINDS = {
    np.dtype(np.int64): int(ValueKind.I64),
    np.dtype(np.uint64): int(ValueKind.U64),
    np.dtype(np.float64): int(ValueKind.F64),
}


class PaneWords(NamedTuple):
    """Groups of one pane, which count in all of its windows.

    Attributes:
        pane: Its number.
        words: int64[n_key_words + n_accumulators, n_groups], keys first, each row in one piece.
            Nothing is NULL, and words tell the keys by themselves.
        rows: The row of words that counts the rows of groups, if there may be groups without any,
            which are none; else None.
    """

    pane: int
    words: I64
    rows: int | None = None

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.words.shape[1])

    def present(self) -> PaneWords:
        """Return the groups that have rows."""
        if self.rows is None:
            return self
        counts = self.words[self.rows]
        return PaneWords(self.pane, np.compress(counts != 0, self.words, axis=1))

    def copied(self) -> PaneWords:
        """Return the groups in memory of their own."""
        return self._replace(words=self.words.copy())

    def keys(self, n_states: int) -> I64:
        """View the words of keys: int64[n_key_words, n_groups]."""
        return self.words[: len(self.words) - n_states]

    def arrays(
        self, key_types: Sequence[pa.DataType], specs: Sequence[WordSpec]
    ) -> tuple[list[pa.Array], list[pa.Array]]:
        """Return key columns and accumulators, without a copy where Arrow has them as words."""
        rows = iter(self.words)
        keys = []
        for type_ in key_types:
            column = key_column(type_)
            keys.append(column.decode([next(rows) for _ in range(column.n_words)], None))
        states = [
            array_from_buffers(next(rows).view(STATE_DTYPE[spec.opcode]), spec.state_type, None)
            for spec in specs
        ]
        return keys, states


def state_places(parts: Sequence[PaneWords], kinds: Sequence[int], n_more: int = 0) -> I64:
    """Tell where the accumulators of groups lie.

    Args:
        parts: The groups, which somebody keeps alive.
        kinds: The :class:`ValueKind` of each accumulator.
        n_more: Values that are not there, for accumulators that count rows behind the others.

    Returns:
        int64[n_parts, n_accumulators + n_more, PLACE_WORDS].
    """
    places: list[tuple[int, int, int, int]] = []
    for _, words, _ in parts:
        stride = words.strides[0]
        at = words.ctypes.data + (len(words) - len(kinds)) * stride
        places += [(at + index * stride, kind, 0, 0) for index, kind in enumerate(kinds)]
        places += [NOWHERE] * n_more
    found: I64 = np.array(places, np.int64)
    return found.reshape(len(parts), len(kinds) + n_more, PLACE_WORDS)


def state_kinds(specs: Sequence[WordSpec]) -> list[int]:
    """Return the :class:`ValueKind` of the states of accumulators."""
    return [_KINDS[STATE_DTYPE[spec.opcode]] for spec in specs]


class KeyOwners:
    """The partitions that own the keys of a table, found once for each key.

    Args:
        n_partitions: Number of partitions.

    Attributes:
        offsets: int64[n_partitions + 1], where the groups of each partition began the last time.
        order: uint32[n_keys_most], the keys in the order of these groups.
        n_ordered: The number of keys, if they all had groups the last time, else 0.
    """

    def __init__(self, n_partitions: int) -> None:
        self.n_partitions = n_partitions
        self.offsets: I64 = np.zeros(n_partitions + 1, np.int64)
        self.order = np.zeros(0, np.uint32)
        self.n_ordered = 0
        self._owners = np.zeros(0, np.uint32)
        self._n_known = 0

    def of(self, table: KeyTable) -> U32:
        """Return the owner of each key: uint32[n_keys], as an exchange by these keys has it."""
        first, n_keys = self._n_known, table.n_groups
        if n_keys > len(self._owners):
            owners = np.zeros(max(2 * len(self._owners), n_keys), np.uint32)
            owners[:first] = self._owners[:first]
            self._owners = owners
            self.order, self.n_ordered = np.zeros(len(owners), np.uint32), 0
        if n_keys > first and self.n_partitions > 1:
            hashes = hash_columns(table.columns(slice(first, n_keys)))
            find_owners(hashes, self.n_partitions, self._owners[first:n_keys])
        self._n_known = n_keys
        return self._owners[:n_keys]
