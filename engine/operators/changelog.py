"""Changelog: which of a group's versions are news, and what kind of news."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.operators.base import Collector
from millstream.engine.state.row_store import RowStore
from millstream.kernels.compile import I64, U32, Bool
from millstream.planner.nodes import HIDDEN_PREFIX, Aggregate, Node
from millstream.planner.nodes import Changelog as ChangelogNode

__all__ = ["DELETE", "INSERT", "UPDATE", "UPDATE_BEFORE", "Changelog"]

INSERT, UPDATE, UPDATE_BEFORE, DELETE = "+I", "+U", "-U", "-D"
_OPS = pa.array([INSERT, UPDATE, UPDATE_BEFORE, DELETE])
_NOT_SENT = -1
# Below this many rows that nobody refers to, rewriting costs more than it frees.
_GARBAGE_ROWS_MIN = 4096


class Changelog:
    """Compares each group's new row with the last one sent.

    The aggregate says which groups a step touched; those whose row does not arrive, because HAVING
    dropped it on the way, are gone. Group ids are the aggregate's, and follow its renumbering.

    The key of a group stays the same, except where groups are sessions, whose windows grow. A row
    with another key is no new version of the last one, which is taken back instead.

    Args:
        node: The plan node; ``node.schema`` ends with the ``_op`` column.
    """

    def __init__(self, node: ChangelogNode) -> None:
        self._node = node
        self._row_schema = pa.schema(list(node.schema)[:-1])
        self._sent = RowStore(self._row_schema)
        self._n_live = 0
        self._positions: I64 = np.empty(0, np.int64)
        self._touched: list[U32] = []
        self._arrived: list[U32] = []
        self._gone: list[pa.RecordBatch] = []
        self._moving_keys = list(node.key_columns) if _has_sessions(node.input) else []

    def touch(self, group_ids: U32) -> None:
        """Note groups that have a new version in this step."""
        n_groups = int(group_ids.max()) + 1
        if n_groups > len(self._positions):
            grown = np.full(max(n_groups, 2 * len(self._positions)), _NOT_SENT, np.int64)
            grown[: len(self._positions)] = self._positions
            self._positions = grown
        self._touched.append(group_ids)

    def withdraw(self, group_ids: U32) -> None:
        """Take back the last rows of groups that are no more, before other rows of this step."""
        self._forget(group_ids[group_ids < len(self._positions)])

    def retain(self, group_ids: U32) -> None:
        """Forget all groups but these, which the aggregate has renumbered from 0 in this order."""
        self._settle()
        in_range = group_ids[group_ids < len(self._positions)]
        positions = np.full(len(group_ids), _NOT_SENT, np.int64)
        positions[: len(in_range)] = self._positions[in_range]
        self._positions = positions
        self._n_live = int(np.count_nonzero(positions != _NOT_SENT))
        self._drop_garbage()

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        hidden = [
            index for index, name in enumerate(batch.schema.names) if name.startswith(HIDDEN_PREFIX)
        ]
        assert len(hidden) == 1, "rows of a changelog carry their group and nothing else"
        self._send_gone(out)
        group_ids = fixed_values(batch.column(hidden[0]))
        rows = pa.RecordBatch.from_arrays(batch.columns[: hidden[0]], schema=self._row_schema)
        self._arrived.append(group_ids)
        positions = self._positions[group_ids]
        is_update = positions != _NOT_SENT
        is_news = np.ones(len(group_ids), np.bool_)
        before = self._sent.take(positions[is_update]) if is_update.any() else None
        if before is not None:
            after = rows if is_update.all() else rows.filter(_mask(is_update))
            is_news[is_update] = ~_rows_equal(before, after)
        if not is_news.all():
            rows = rows.filter(_mask(is_news))
        if rows.num_rows == 0:
            return
        if before is None:
            out.emit(self._with_ops(rows, np.zeros(rows.num_rows, np.int8)))
        else:
            before = before.filter(_mask(is_news[is_update]))
            self._emit_updates(rows, is_update[is_news], before, out)
        first = self._sent.append(rows)
        self._positions[group_ids[is_news]] = np.arange(first, first + rows.num_rows)
        self._n_live += int(np.count_nonzero(is_news & ~is_update))

    def end_batch(self, out: Collector) -> None:
        self._settle()
        self._send_gone(out)
        self._drop_garbage()

    def process_watermark(self, watermark: int, out: Collector) -> None:
        """Do nothing: a closed window's last version has been sent."""

    def end_input(self, out: Collector) -> None:
        """Do nothing: every last version has been sent."""

    @property
    def state_rows(self) -> int:
        return self._n_live

    @property
    def state_bytes(self) -> int:
        return self._sent.state_bytes + self._positions.nbytes

    def _emit_updates(
        self, rows: pa.RecordBatch, is_update: Bool, before: pa.RecordBatch, out: Collector
    ) -> None:
        is_moved = np.zeros(rows.num_rows, np.bool_)
        if self._moving_keys:
            keys_before = before.select(self._moving_keys)
            keys_after = rows.filter(_mask(is_update)).select(self._moving_keys)
            is_moved[is_update] = ~_rows_equal(keys_before, keys_after)
        ops = np.where(is_update & ~is_moved, np.int8(1), np.int8(0))
        is_shown = is_update if self._node.retract else is_moved
        if is_shown.any():
            # Each replaced version goes right before the one that replaces it.
            n_rows = rows.num_rows
            order = np.full(2 * n_rows, -1, np.int64)
            order[1::2] = np.arange(n_rows)
            order[0::2][is_update] = np.arange(n_rows, n_rows + before.num_rows)
            order[0::2][~is_shown] = -1
            order = order[order >= 0]
            ops_before = np.where(is_moved[is_update], np.int8(3), np.int8(2))
            ops = np.concatenate([ops, ops_before])[order]
            both = pa.concat_batches([rows, before])
            rows = both.take(array_from_buffers(order, pa.int64(), None))
        out.emit(self._with_ops(rows, ops))

    def _settle(self) -> None:
        """Find the touched groups whose row has not arrived, while their numbers still hold."""
        if not self._touched:
            return
        missing = np.unique(np.concatenate(self._touched))
        if self._arrived:
            missing = np.setdiff1d(missing, np.concatenate(self._arrived))
        self._touched.clear()
        self._arrived.clear()
        self._forget(missing)

    def _forget(self, group_ids: U32) -> None:
        gone = group_ids[self._positions[group_ids] != _NOT_SENT]
        if len(gone) > 0:
            self._gone.append(self._sent.take(self._positions[gone]))
            self._positions[gone] = _NOT_SENT
            self._n_live -= len(gone)

    def _send_gone(self, out: Collector) -> None:
        for rows in self._gone:
            out.emit(self._with_ops(rows, np.full(rows.num_rows, 3, np.int8)))
        self._gone.clear()

    def _with_ops(self, rows: pa.RecordBatch, ops: np.ndarray) -> pa.RecordBatch:
        column = _OPS.take(pa.array(ops))
        return pa.RecordBatch.from_arrays([*rows.columns, column], schema=self._node.schema)

    def _drop_garbage(self) -> None:
        if self._sent.n_rows < 2 * self._n_live + _GARBAGE_ROWS_MIN:
            return
        is_live = self._positions != _NOT_SENT
        self._sent.rewrite(self._positions[is_live])
        self._positions[is_live] = np.arange(self._n_live)


def _has_sessions(node: Node) -> bool:
    """Whether the rows of a node come from an aggregate over sessions."""
    if isinstance(node, Aggregate):
        return node.window is not None and node.window.kind == "session"
    return any(_has_sessions(below) for below in node.inputs)


def _mask(flags: Bool) -> pa.Array:
    return array_from_buffers(flags.view(np.uint8), pa.bool_(), None)


def _rows_equal(left: pa.RecordBatch, right: pa.RecordBatch) -> Bool:
    """Compare rows in pairs; NULL equals NULL and NaN equals NaN."""
    equal = np.ones(left.num_rows, np.bool_)
    for one, other in zip(left.columns, right.columns, strict=True):
        equal &= _values_equal(one, other)
    return equal


def _values_equal(one: pa.Array, other: pa.Array) -> Bool:
    type_ = one.type
    if pa.types.is_dictionary(type_):
        return _values_equal(one.cast(type_.value_type), other.cast(type_.value_type))
    if pa.types.is_float16(type_):
        # Arrow compares floats of 32 bits and more.
        return _values_equal(one.cast(pa.float32()), other.cast(pa.float32()))
    if pa.types.is_nested(type_):
        # Arrow has no comparison of nested values; these are the rare outputs of array_agg and the
        # like.
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.fromiter((left == right for left, right in pairs), np.bool_, len(one))
    equal = pc.fill_null(pc.equal(one, other), False)
    if one.null_count > 0 and other.null_count > 0:
        equal = pc.or_(equal, pc.and_(one.is_null(), other.is_null()))
    if pa.types.is_floating(type_):
        both_nan = pc.and_(pc.is_nan(one), pc.is_nan(other))
        equal = pc.or_(equal, pc.fill_null(both_nan, False))
    return np.asarray(equal.to_numpy(zero_copy_only=False), dtype=np.bool_)
