"""Accumulators that take each distinct value of a group once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.state.accumulators import Accumulators, AccumulatorSpec, values_of
from millstream.engine.state.key_columns import key_column
from millstream.engine.state.pair_set import PairSet
from millstream.engine.state.rooms import WordRoom
from millstream.engine.state.state_columns import Arrivals
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64, U8, U32
from millstream.kernels.programs import Opcode

__all__ = ["DistinctValues"]

_NOT_KEPT = -1
_NULL_NUMBER = -1


class DistinctValues:
    """The distinct values of one column per group, and what is accumulated over them.

    Values are the same where GROUP BY would say so: there is one NaN and one zero. NULL is none.

    Args:
        column: The column.
        type_: Its type.
        specs: The accumulators, all over this column and none of them interested in the order.
    """

    def __init__(self, column: str, type_: pa.DataType, specs: Sequence[AccumulatorSpec]) -> None:
        self._column = column
        self._specs = tuple(specs)
        self._only_counts = all(
            isinstance(spec, WordSpec) and spec.opcode == Opcode.COUNT for spec in specs
        )
        self._values = key_column(type_)
        self._pairs = PairSet(self._values.n_words)
        self._word_room = WordRoom()
        self._accumulators = Accumulators(specs, merges=False)

    @property
    def state_bytes(self) -> int:
        """Bytes of the values and of the accumulators."""
        of_values = self._values.state_bytes + self._pairs.state_bytes
        return of_values + self._accumulators.state_bytes

    def add(self, batch: pa.RecordBatch, group_ids: U32) -> None:
        """Take the values of rows: uint32[n_rows] tells the group of each."""
        array = batch.column(self._column)
        if pa.types.is_null(self._values.type) or array.null_count == len(array):
            return
        self._word_room.clear()
        words, is_null = self._values.encode(array, self._word_room)
        # Text says by its number that it is NULL, also if it is an entry of a dictionary.
        if not self._values.tells_values and (words[0] == _NULL_NUMBER).any():
            is_null = (words[0] == _NULL_NUMBER).view(np.uint8)
        self._add(words, is_null, group_ids)

    def states(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the accumulators of some groups."""
        self._accumulators.reserve(_end_of(group_ids))
        return self._accumulators.columns(group_ids)

    def merge(self, sources: U32, targets: U32) -> None:
        """Give the values of each group in ``sources`` to the group beside it in ``targets``.

        What is left of the sources has to go by :meth:`retain` before their numbers are used again.
        """
        heirs = np.full(_end_of(sources), _NOT_KEPT, np.int64)
        heirs[sources] = targets
        owners, words = self._pairs.of(heirs)
        self._add(list(words), None, owners)

    def retain(self, group_ids: U32) -> None:
        """Keep the values of these groups only, renumbered from 0 in this order."""
        self._accumulators.reserve(_end_of(group_ids))
        self._accumulators.retain(group_ids)
        numbers = np.full(_end_of(group_ids), _NOT_KEPT, np.int64)
        numbers[group_ids] = np.arange(len(group_ids))
        owners, words = self._pairs.of(numbers)
        self._pairs.replace(self._values.retain(list(words)), owners)

    def _add(self, words: Sequence[I64], is_null: U8 | None, owners: U32) -> None:
        new_rows = self._pairs.add(words, is_null, owners)
        if len(new_rows) == 0:
            return
        owners = owners[new_rows]
        arrays: list[pa.Array | None] = [None] * len(self._specs)
        if not self._only_counts:
            values = self._values.decode([array[new_rows] for array in words], None)
            taken = pa.RecordBatch.from_arrays([values], [self._column])
            arrays = values_of(self._specs, taken, Arrivals(0, 0, taken.num_rows))
        self._accumulators.update(arrays, owners, _end_of(owners))


def _end_of(group_ids: U32 | slice) -> int:
    if isinstance(group_ids, slice):
        return int(group_ids.stop)
    return int(group_ids.max()) + 1 if len(group_ids) > 0 else 0
