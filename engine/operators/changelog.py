"""Changelog: which of a group's versions are news, and what kind of news."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from millstream.engine.columns import fixed_values
from millstream.engine.dictionaries import batch_of, has_few_indices
from millstream.engine.operators.base import Collector
from millstream.engine.operators.grouping import Grouping
from millstream.engine.operators.news import News, NewsMaker, picked_columns
from millstream.engine.state.sent_rows import SentRows
from millstream.engine.state.state_columns import read_only
from millstream.engine.state.step_rows import AssignedSteps
from millstream.engine.taking import filter_rows
from millstream.kernels.compile import I64, U8, U16, U32, Bool
from millstream.kernels.versions import BEFORE, Change
from millstream.planner.nodes import Aggregate, Exchange, Node, Transform
from millstream.planner.nodes import Changelog as ChangelogNode

__all__ = ["DELETE", "INSERT", "UPDATE", "UPDATE_BEFORE", "Changelog"]

INSERT, UPDATE, UPDATE_BEFORE, DELETE = "+I", "+U", "-U", "-D"
_OP_BYTES = 2


def _codes(ops: dict[int, str]) -> U16:
    """Return the two characters of the operation for each kind of row, as one number."""
    texts = "".join(ops.get(kind, "??") for kind in range(2 * BEFORE))
    return np.frombuffer(texts.encode(), np.uint16)


_GONE = BEFORE + Change.NONE
_CODES = _codes(
    {
        Change.NEW: INSERT,
        Change.UPDATED: UPDATE,
        Change.MOVED: INSERT,
        BEFORE + Change.UPDATED: UPDATE_BEFORE,
        BEFORE + Change.MOVED: DELETE,
        _GONE: DELETE,
    }
)


class Changelog:
    """Compares each group's new row with the last one sent.

    The aggregate says which groups a step touched; those whose row does not arrive, because HAVING
    dropped it on the way, are gone. Group ids are the aggregate's, and follow its renumbering.

    The key of a group stays the same, except where groups are sessions, whose windows grow. A row
    with another key is no new version of the last one, which is taken back instead.

    Args:
        node: The plan node; ``node.schema`` ends with the ``_op`` column.

    Attributes:
        needs_groups: Whether rows have to carry their group in a column behind their own, because
            not all that are noted arrive. Else they arrive in the order in which they were noted.
    """

    def __init__(self, node: ChangelogNode) -> None:
        self._node = node
        self._n_columns = len(node.schema) - 1
        self._row_schema = pa.schema(list(node.schema)[:-1])
        self.needs_groups = _may_take_back(node.input)
        self._sent = SentRows(
            self._row_schema,
            node.key_columns,
            keys_move=_has_sessions(node.input),
            are_given_back=node.retract or self.needs_groups,
        )
        self._awaited: U32 = np.empty(0, np.uint32)
        self._touched: list[U32] = []
        self._arrived: list[U32] = []
        self._n_missing = 0
        self._gone: list[pa.RecordBatch] = []
        self._ops = _Ops()
        # Of several steps that are processed at once: how many rows of each arrive, and what is
        # news of each, until the step ends.
        self._rows_of_steps: I64 | None = None
        self._news: deque[pa.RecordBatch | None] = deque()
        # Of groups: None until it has been asked whether words are all that it takes.
        self._maker: NewsMaker | None = None
        self._has_asked = False
        self._ready: list[pa.RecordBatch] = []

    def touch(self, group_ids: U32) -> None:
        """Note groups that have a new version in this step.

        Each row that arrives is of a group that was noted, once per time that it was.
        """
        self._sent.reserve(int(group_ids.max()) + 1)
        self._touched.append(group_ids)
        self._n_missing += len(group_ids)
        if not self.needs_groups:
            assert len(self._awaited) == 0, "all rows that were noted arrive before others"
            self._awaited = read_only(group_ids)

    @property
    def takes_steps(self) -> bool:
        """Whether rows of several steps may arrive in one batch, so that groups come repeatedly.

        What changes rows on their way must not fail either: it would not be known in which step.
        The values of several steps may be more than a dictionary has indices.
        """
        is_plain = not (self.needs_groups or self._node.retract or self._sent.has_variable)
        may_run_out = any(map(has_few_indices, self._row_schema.types))
        return is_plain and not may_run_out and picked_columns(self._node.input) is not None

    def take_groups(self, group_ids: U32, grouping: Grouping) -> bool:
        """Take the versions of groups from the state that they are in, if nothing else is needed.

        Nothing of these groups arrives then. What is news leaves when the step ends.

        Args:
            group_ids: uint32[n], each once.
            grouping: The state of the aggregate.

        Returns:
            Whether that was possible; if not, nothing has been done.
        """
        maker = self._maker_for(grouping)
        news = None if maker is None else maker.make(group_ids)
        if news is None:
            return False
        if news.n_rows > 0:
            self._ready.append(self._batch_of(news))
        return True

    def take_steps(self, steps: AssignedSteps, grouping: Grouping) -> bool:
        """Add the rows of several steps to their state, and do the same after each of them.

        Args:
            steps: The rows.
            grouping: The state of the aggregate.

        Returns:
            Whether that was possible; if not, nothing has been done.
        """
        maker = self._maker_for(grouping)
        found = None if maker is None else maker.make_of_steps(steps)
        if found is None:
            return False
        news, bounds = found
        rows = self._batch_of(news)
        self._news.extend(
            rows.slice(start, stop - start) if stop > start else None
            for start, stop in pairwise(bounds)
        )
        return True

    def _maker_for(self, grouping: Grouping) -> NewsMaker | None:
        """Return who makes news of the groups of the only aggregate that feeds this, if one can."""
        if not self._has_asked:
            self._has_asked = True
            if self.takes_steps:
                codes = _CODES[[Change.NEW, Change.UPDATED]]
                self._maker = NewsMaker.for_changelog(self._node, grouping, self._sent, codes)
        return self._maker

    def _batch_of(self, news: News) -> pa.RecordBatch:
        columns = [*news.columns, self._ops.column(news.ops)]
        return batch_of(columns, self._node.schema)

    def touch_steps(self, group_ids: U32, counts: I64) -> None:
        """Note groups of several steps, the news of which are kept until each step ends.

        Args:
            group_ids: uint32[n], step by step.
            counts: int64[n_steps], how many are of each.
        """
        if len(group_ids) > 0:
            self.touch(group_ids)
            self._rows_of_steps = counts
        self._news.extend([None] * len(counts))

    def withdraw(self, group_ids: U32) -> None:
        """Take back the last rows of groups that are no more, before other rows of this step."""
        self._forget(group_ids[group_ids < self._sent.capacity])

    def retain(self, group_ids: U32) -> None:
        """Forget all groups but these, which the aggregate has renumbered from 0 in this order."""
        self._settle()
        self._sent.retain(group_ids)

    def process_batch(self, batch: pa.RecordBatch, out: Collector) -> None:
        self._send_gone(out)
        columns = batch.columns
        n_rows, n_columns = batch.num_rows, self._n_columns
        if self.needs_groups:
            group_ids = fixed_values(columns.pop())
        else:
            group_ids, self._awaited = self._awaited[:n_rows], self._awaited[n_rows:]
        assert len(columns) == n_columns, "rows carry their group, if that, and nothing else"
        assert len(group_ids) == n_rows, "each row is of a group that was noted"
        self._arrived.append(group_ids)
        self._n_missing -= len(group_ids)
        versions = self._sent.replace(columns, group_ids)
        kinds = versions.changes
        n_news = versions.n_new + versions.n_updated + versions.n_moved
        counts, self._rows_of_steps = self._rows_of_steps, None
        if n_news == 0:
            return
        if versions.n_moved > 0 or (self._node.retract and versions.n_updated > 0):
            columns, kinds = self._sent.pairs(columns, versions, shows_updated=self._node.retract)
        elif n_news < n_rows:
            is_news = kinds != Change.NONE
            kinds = kinds[is_news]
            columns = filter_rows(batch, is_news).columns[:n_columns]
        news = self._with_ops(columns, kinds)
        if counts is None:
            out.emit(news)
        else:
            self._news = _cut(news, versions.changes != Change.NONE, counts)

    def end_batch(self, out: Collector) -> None:
        for news in self._ready:
            out.emit(news)
        self._ready.clear()
        if self._news:
            news = self._news.popleft()
            if news is not None:
                out.emit(news)
            if self._news:
                return
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
            out.emit(self._with_ops(rows.columns, np.full(rows.num_rows, _GONE, np.uint8)))
        self._gone.clear()

    def _with_ops(self, columns: Sequence[pa.Array], kinds: U8) -> pa.RecordBatch:
        ops = self._ops.column(_CODES[kinds])
        return pa.RecordBatch.from_arrays([*columns, ops], schema=self._node.schema)


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


def _cut(news: pa.RecordBatch, is_news: Bool, counts: I64) -> deque[pa.RecordBatch | None]:
    """Cut news into those of each step.

    Args:
        news: The rows that are news.
        is_news: bool[n_rows], of all rows which are.
        counts: int64[n_steps], how many of all rows are of each step.
    """
    bounds = np.zeros(len(is_news) + 1, np.int64)
    np.cumsum(is_news, out=bounds[1:])
    bounds = bounds[np.cumsum(np.concatenate([[0], counts]))]
    return deque(
        news.slice(start, stop - start) if stop > start else None
        for start, stop in pairwise(bounds.tolist())
    )


def _has_sessions(node: Node) -> bool:
    """Whether the rows of a node come from an aggregate over sessions."""
    if isinstance(node, Aggregate):
        return node.window is not None and node.window.kind == "session"
    return any(_has_sessions(below) for below in node.inputs)


def _may_take_back(node: Node) -> bool:
    """Whether rows may be gone or change their keys."""
    if isinstance(node, Aggregate):
        return _has_sessions(node)
    is_whole = isinstance(node, Exchange) or (
        isinstance(node, Transform) and node.where is None and not node.tables
    )
    return not is_whole or any(_may_take_back(below) for below in node.inputs)
