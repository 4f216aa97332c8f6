"""Accumulators that take each distinct value of a group once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import plain
from millstream.engine.state.accumulators import Accumulators, AccumulatorSpec, values_of
from millstream.engine.state.key_table import KeyTable
from millstream.engine.state.state_columns import Arrivals
from millstream.kernels.compile import I64, U32

__all__ = ["DistinctValues"]

_NOT_KEPT = -1


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
        self._type = type_
        self._specs = tuple(specs)
        self._pairs = KeyTable([type_], 1)
        self._accumulators = Accumulators(specs, merges=False)

    @property
    def state_bytes(self) -> int:
        """Bytes of the values and of the accumulators."""
        return self._pairs.state_bytes + self._accumulators.state_bytes

    def add(self, batch: pa.RecordBatch, group_ids: U32) -> None:
        """Take the values of rows: uint32[n_rows] tells the group of each."""
        values = plain(batch.column(self._column))
        if values.null_count > 0:
            is_valid = values.is_valid()
            values = values.filter(is_valid)
            group_ids = group_ids[is_valid.to_numpy(zero_copy_only=False)]
        self._add(values, group_ids)

    def states(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the accumulators of some groups."""
        self._accumulators.reserve(_end_of(group_ids))
        return self._accumulators.columns(group_ids)

    def merge(self, sources: U32, targets: U32) -> None:
        """Give the values of each group in ``sources`` to the group beside it in ``targets``.

        What is left of the sources has to go by :meth:`retain` before their numbers are used again.
        """
        heirs = np.full(self._n_numbers(sources), _NOT_KEPT, np.int64)
        heirs[sources] = targets
        self._copy(self._pairs, heirs)

    def retain(self, group_ids: U32) -> None:
        """Keep the values of these groups only, renumbered from 0 in this order."""
        self._accumulators.reserve(_end_of(group_ids))
        numbers = np.full(self._n_numbers(group_ids), _NOT_KEPT, np.int64)
        numbers[group_ids] = np.arange(len(group_ids))
        before, self._pairs = self._pairs, KeyTable([self._type], 1)
        self._accumulators.retain(group_ids[:0])
        self._accumulators.reserve(len(group_ids))
        self._copy(before, numbers)

    def _n_numbers(self, group_ids: U32) -> int:
        owners = self._pairs.prefix_words(0)
        return max(_end_of(group_ids), int(owners.max()) + 1 if len(owners) > 0 else 0)

    def _copy(self, pairs: KeyTable, numbers: I64) -> None:
        """Add the values of all groups that get another number."""
        owners = numbers[pairs.prefix_words(0)]
        kept = np.flatnonzero(owners != _NOT_KEPT).astype(np.uint32)
        if len(kept) > 0:
            self._add(pairs.columns(kept)[0], owners[kept].astype(np.uint32))

    def _add(self, values: pa.Array, group_ids: U32) -> None:
        if len(values) == 0:
            return
        n_before = self._pairs.n_groups
        self._pairs.assign([values], [group_ids.astype(np.int64)])
        new = slice(n_before, self._pairs.n_groups)
        if new.start < new.stop:
            owners = self._pairs.prefix_words(0)[new].astype(np.uint32)
            taken = pa.RecordBatch.from_arrays(self._pairs.columns(new), [self._column])
            arrays = values_of(self._specs, taken, Arrivals(0, 0, taken.num_rows))
            self._accumulators.update(arrays, owners, _end_of(owners))


def _end_of(group_ids: U32 | slice) -> int:
    if isinstance(group_ids, slice):
        return int(group_ids.stop)
    return int(group_ids.max()) + 1 if len(group_ids) > 0 else 0
