"""Changelog: which of a group's versions are news, and what kind of news."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.operators.base import Collector
from millstream.engine.state.sent_rows import SentRows, Versions
from millstream.kernels.compile import U16, U32, Bool
from millstream.kernels.versions import Change
from millstream.planner.nodes import Aggregate, Node
from millstream.planner.nodes import Changelog as ChangelogNode

__all__ = ["DELETE", "INSERT", "UPDATE", "UPDATE_BEFORE", "Changelog"]

INSERT, UPDATE, UPDATE_BEFORE, DELETE = "+I", "+U", "-U", "-D"
_OP_BYTES = 2


def _codes(ops: dict[Change, str]) -> U16:
    """Return the two characters of the operation for each kind of change, as one number."""
    texts = "".join(ops.get(change, "??") for change in Change)
    return np.frombuffer(texts.encode(), np.uint16)


# What rows are called, and the rows in whose place they come, where these are sent as well.
_AFTER = _codes({Change.NEW: INSERT, Change.UPDATED: UPDATE, Change.MOVED: INSERT})
_BEFORE = _codes({Change.UPDATED: UPDATE_BEFORE, Change.MOVED: DELETE})
_GONE = _codes({Change.NONE: DELETE})


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
        self._n_columns = len(node.schema) - 1
        self._row_schema = pa.schema(list(node.schema)[:-1])
        keys_move = _has_sessions(node.input)
        self._sent = SentRows(self._row_schema, node.key_columns, keys_move=keys_move)
        self._touched: list[U32] = []
        self._arrived: list[U32] = []
        self._n_missing = 0
        self._gone: list[pa.RecordBatch] = []
        self._ops = _Ops()

    def touch(self, group_ids: U32) -> None:
        """Note groups that have a new version in this step.

        Each row that arrives is of a group that was noted, once per time that it was.
        """
        self._sent.reserve(int(group_ids.max()) + 1)
        self._touched.append(group_ids)
        self._n_missing += len(group_ids)

    def withdraw(self, group_ids: U32) -> None:
        """Take back the last rows of groups that are no more, before other rows of this step."""
        self._forget(group_ids[group_ids < self._sent.capacity])

    def retain(self, group_ids: U32) -> None:
        """Forget all groups but these, which the aggregate has renumbered from 0 in this order."""
        self._settle()
        self._sent.retain(group_ids)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        n_columns = self._n_columns
        assert batch.num_columns == n_columns + 1, "rows carry their group and nothing else"
        self._send_gone(out)
        group_ids = fixed_values(batch.column(n_columns))
        self._arrived.append(group_ids)
        self._n_missing -= len(group_ids)
        columns = batch.columns[:n_columns]
        versions = self._sent.replace(columns, group_ids)
        changes = versions.changes
        n_news = versions.n_new + versions.n_updated + versions.n_moved
        if n_news == 0:
            return
        is_news = None
        if n_news < len(group_ids):
            is_news = changes != Change.NONE
            changes = changes[is_news]
            columns = batch.filter(_mask(is_news)).columns[:n_columns]
        if versions.n_moved > 0 or (self._node.retract and versions.n_updated > 0):
            self._emit_pairs(columns, versions, is_news, out)
        else:
            out.emit(self._with_ops(columns, _AFTER[changes]))

    def end_batch(self, out: Collector) -> None:
        self._settle()
        self._send_gone(out)
        self._sent.drop_garbage()

    def process_watermark(self, watermark: int, out: Collector) -> None:
        """Do nothing: a closed window's last version has been sent."""

    def end_input(self, out: Collector) -> None:
        """Do nothing: every last version has been sent."""

    @property
    def state_rows(self) -> int:
        return self._sent.n_rows

    @property
    def state_bytes(self) -> int:
        return self._sent.state_bytes

    def _emit_pairs(
        self,
        columns: Sequence[pa.Array],
        versions: Versions,
        is_news: Bool | None,
        out: Collector,
    ) -> None:
        """Send each row that is replaced right before the one that replaces it."""
        changes = versions.changes
        is_shown = changes == Change.MOVED
        if self._node.retract:
            is_shown |= changes == Change.UPDATED
        replaced = np.flatnonzero(is_shown)
        before = self._sent.before(versions, replaced)
        if is_news is not None:
            changes, is_shown = changes[is_news], is_shown[is_news]
        n_rows, n_replaced = len(changes), len(replaced)
        places = np.arange(n_rows) + np.cumsum(is_shown)
        order = np.empty(n_rows + n_replaced, np.int64)
        order[places] = np.arange(n_rows)
        order[places[is_shown] - 1] = np.arange(n_rows, n_rows + n_replaced)
        codes = np.concatenate([_AFTER[changes], _BEFORE[changes[is_shown]]])[order]
        after = pa.RecordBatch.from_arrays(columns, schema=self._row_schema)
        both = pa.concat_batches([after, before])
        rows = both.take(array_from_buffers(order, pa.int64(), None))
        out.emit(self._with_ops(rows.columns, codes))

    def _settle(self) -> None:
        """Find the touched groups whose row has not arrived, while their numbers still hold."""
        if self._n_missing > 0:
            touched = np.concatenate(self._touched)
            missing = touched[self._sent.are_sent(touched)]
            if len(missing) > 0 and self._arrived:
                has_arrived = np.zeros(self._sent.capacity, np.bool_)
                for group_ids in self._arrived:
                    has_arrived[group_ids] = True
                missing = missing[~has_arrived[missing]]
            if len(missing) > 0:
                self._forget(np.unique(missing))
        self._n_missing = 0
        self._touched.clear()
        self._arrived.clear()

    def _forget(self, group_ids: U32) -> None:
        gone = group_ids[self._sent.are_sent(group_ids)]
        if len(gone) > 0:
            self._gone.append(self._sent.take(gone))
            self._sent.forget(gone)

    def _send_gone(self, out: Collector) -> None:
        for rows in self._gone:
            changes = np.full(rows.num_rows, Change.NONE, np.uint8)
            out.emit(self._with_ops(rows.columns, _GONE[changes]))
        self._gone.clear()

    def _with_ops(self, columns: Sequence[pa.Array], codes: U16) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(
            [*columns, self._ops.column(codes)], schema=self._node.schema
        )


class _Ops:
    """Makes columns of operations, which are all two characters long."""

    def __init__(self) -> None:
        self._offsets = np.empty(0, np.int32)

    def column(self, codes: U16) -> pa.Array:
        """Return texts from uint16[n_rows], the two characters of each."""
        n_rows = len(codes)
        if n_rows >= len(self._offsets):
            self._offsets = np.arange(2 * n_rows, dtype=np.int32) * _OP_BYTES
        offsets = pa.py_buffer(self._offsets[: n_rows + 1])
        return pa.StringArray.from_buffers(n_rows, offsets, pa.py_buffer(codes))


def _has_sessions(node: Node) -> bool:
    """Whether the rows of a node come from an aggregate over sessions."""
    if isinstance(node, Aggregate):
        return node.window is not None and node.window.kind == "session"
    return any(_has_sessions(below) for below in node.inputs)


def _mask(flags: Bool) -> pa.Array:
    return array_from_buffers(flags.view(np.uint8), pa.bool_(), None)
