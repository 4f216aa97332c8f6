"""Aggregates without a kernel: rows are kept, and DataFusion computes when a group is emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.datafusion import QueryRunner
from millstream.engine.taking import filter_rows
from millstream.kernels.compile import U32
from millstream.planner.nodes import ARRIVAL_COLUMN, HIDDEN_PREFIX, AggregateCall, SortKey, quoted

__all__ = ["BufferedCalls"]

_GROUP = HIDDEN_PREFIX + "group"
_ARRIVAL = pa.field(ARRIVAL_COLUMN, pa.int64())
_NOT_WANTED = -1


class BufferedCalls:
    """The rows of all groups with the columns that some calls need, in order of arrival.

    Args:
        calls: Aggregates to compute.
        schema: Schema of the rows; only the columns that the calls name are kept.
        functions: User-defined DataFusion functions by name.
    """

    def __init__(
        self, calls: Sequence[AggregateCall], schema: pa.Schema, functions: Mapping[str, object]
    ) -> None:
        self._calls = tuple(calls)
        self._columns = _columns_of(calls)
        fields = [schema.field(name) for name in self._columns]
        self._schema = pa.schema([pa.field(_GROUP, pa.int64()), _ARRIVAL, *fields])
        self._chunks: list[pa.RecordBatch] = []
        self._group_ids: list[U32] = []
        # Rows cannot be in two orders at once.
        by_order: dict[tuple[SortKey, ...], list[AggregateCall]] = {}
        for call in calls:
            by_order.setdefault(_order_of(call), []).append(call)
        self._queries = [_Query(alike, self._schema, functions) for alike in by_order.values()]

    @property
    def n_rows(self) -> int:
        """Rows kept."""
        return sum(len(group_ids) for group_ids in self._group_ids)

    @property
    def state_bytes(self) -> int:
        """Bytes of the rows kept, as far as they are not shared with other columns of a batch."""
        return int(sum(part.nbytes for part in (*self._chunks, *self._group_ids)))

    def add(self, batch: pa.RecordBatch, group_ids: U32) -> None:
        """Keep rows: uint32[n_rows] tells the group of each."""
        if batch.num_rows == 0:
            return
        self._chunks.append(batch.select(self._columns))
        self._group_ids.append(group_ids)

    def results(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Compute all calls for some groups, one array per call in the order of ``group_ids``.

        Raises:
            TransformFailed: If a function fails on the rows of a group.
        """
        if isinstance(group_ids, slice):
            group_ids = np.arange(group_ids.start, group_ids.stop, dtype=np.uint32)
        rows = self._rows_of(group_ids)
        if not rows:
            # Only the group of a query without keys can be empty.
            assert len(group_ids) == 1, "a group with a key has rows"
            found = [query.of_none() for query in self._queries]
        else:
            found = [query.of_groups(rows, len(group_ids)) for query in self._queries]
        columns = {name: column for one in found for name, column in one.items()}
        return [columns[call.name] for call in self._calls]

    def retain(self, group_ids: U32) -> None:
        """Keep the rows of these groups only, renumbered from 0 in this order."""
        if len(group_ids) == 0:
            self._chunks, self._group_ids = [], []
            return
        new_ids = self._numbers(group_ids)
        chunks, ids = self._chunks, self._group_ids
        self._chunks, self._group_ids = [], []
        for chunk, chunk_ids in zip(chunks, ids, strict=True):
            renumbered = new_ids[chunk_ids]
            is_kept = renumbered != _NOT_WANTED
            if is_kept.any():
                self._chunks.append(chunk if is_kept.all() else filter_rows(chunk, is_kept))
                self._group_ids.append(renumbered[is_kept].astype(np.uint32))

    def merge(self, sources: U32, targets: U32) -> None:
        """Give the rows of each group in ``sources`` to its counterpart in ``targets``."""
        for chunk_ids in self._group_ids:
            moved = np.arange(max(int(chunk_ids.max()), int(sources.max())) + 1, dtype=np.uint32)
            moved[sources] = targets
            chunk_ids[:] = moved[chunk_ids]

    def _numbers(self, group_ids: U32) -> np.ndarray:
        greatest = [int(ids.max()) for ids in [group_ids, *self._group_ids] if len(ids) > 0]
        n_groups = max(greatest, default=-1) + 1
        numbers = np.full(n_groups, _NOT_WANTED, np.int64)
        numbers[group_ids] = np.arange(len(group_ids))
        return numbers

    def _rows_of(self, group_ids: U32) -> list[pa.RecordBatch]:
        if not self._chunks:
            return []
        numbers = self._numbers(group_ids)
        rows: list[pa.RecordBatch] = []
        n_rows = 0
        for chunk, chunk_ids in zip(self._chunks, self._group_ids, strict=True):
            places = numbers[chunk_ids]
            is_wanted = places != _NOT_WANTED
            if not is_wanted.any():
                continue
            wanted = chunk if is_wanted.all() else filter_rows(chunk, is_wanted)
            arrival = np.arange(n_rows, n_rows + wanted.num_rows)
            n_rows += wanted.num_rows
            columns = [
                array_from_buffers(words, pa.int64(), None)
                for words in (places[is_wanted], arrival)
            ]
            rows.append(
                pa.RecordBatch.from_arrays([*columns, *wanted.columns], schema=self._schema)
            )
        return rows


class _Query:
    """Computes calls that want rows in one order, or in none."""

    def __init__(
        self, calls: Sequence[AggregateCall], schema: pa.Schema, functions: Mapping[str, object]
    ) -> None:
        results = [pa.field(call.name, call.result_type) for call in calls]
        select = ", ".join(
            f"{call.stable_sql or call.sql} AS {quoted(call.name)}" for call in calls
        )
        group = quoted(_GROUP)
        self._grouped = QueryRunner(
            f'SELECT {group}, {select} FROM "input" GROUP BY {group} ORDER BY {group}',
            schema,
            pa.schema([pa.field(_GROUP, pa.int64()), *results]),
            functions=functions,
        )
        self._global = QueryRunner(
            f'SELECT {select} FROM "input"', schema, pa.schema(results), functions=functions
        )

    def of_groups(self, rows: Sequence[pa.RecordBatch], n_groups: int) -> dict[str, pa.Array]:
        """Return the results of groups by the name of the call: all have rows."""
        computed = pa.Table.from_batches(self._grouped.run(rows)).combine_chunks().to_batches()[0]
        assert computed.num_rows == n_groups, "every group has a result"
        return dict(zip(computed.schema.names[1:], computed.columns[1:], strict=True))

    def of_none(self) -> dict[str, pa.Array]:
        """Return the results of a group without rows."""
        (computed,) = self._global.run([])
        return dict(zip(computed.schema.names, computed.columns, strict=True))


def _order_of(call: AggregateCall) -> tuple[SortKey, ...]:
    """Return the order in which a call wants rows; percentiles take them in any."""
    is_ordered = call.distinct or call.stable_sql != call.sql
    return call.order_by if is_ordered else ()


def _columns_of(calls: Sequence[AggregateCall]) -> list[str]:
    names: dict[str, None] = {}
    for call in calls:
        names.update(dict.fromkeys(call.arguments))
        names.update(dict.fromkeys(key.column for key in call.order_by))
    return list(names)
