"""The quick way of rows into windows: groups of tumbling windows that nothing revises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from millstream.engine.event_time import WATERMARK_END
from millstream.engine.operators.calls import Calls
from millstream.engine.operators.dense_lane import AnyRows, DenseLane, Located
from millstream.engine.operators.windowing import WindowGrid
from millstream.engine.state.dense_panes import PaneGroups
from millstream.engine.state.record_panes import RecordPanes
from millstream.kernels.compile import I64
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["WindowLane"]

# With so many rows for each group, adding them to records and dealing these out is quicker than
# adding them to accumulators that can be given away as they lie.
_RECORD_ROWS_PER_GROUP_LEAST = 8
# So many times that windows end with fewer, and records are given up: the first one may have been
# cut short.
_FEW_MAX = 3


class WindowLane:
    """Keeps the groups of windows, each of which is one pane, where rows are added quickest.

    Args:
        lane: A lane with panes and perhaps records.
    """

    def __init__(self, lane: DenseLane) -> None:
        self._lane = lane
        self._has_chosen = lane.records is None
        self._n_few = 0

    @classmethod
    def for_node(cls, node: AggregateNode, calls: Calls, grid: WindowGrid) -> WindowLane | None:
        """Return the lane of an aggregate, or None if its keys or calls do not suit it."""
        lane = DenseLane.for_node(node, calls, grid)
        return None if lane is None else cls(lane)

    @property
    def n_groups(self) -> int:
        """Number of groups at most."""
        records = self._lane.records
        return self._lane.panes.n_groups + (0 if records is None else records.n_groups)

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and accumulators."""
        records = self._lane.records
        return self._lane.panes.state_bytes + (0 if records is None else records.state_bytes)

    def panes(self) -> I64:
        """Return the panes that have groups: int64[n], ascending."""
        records = self._lane.records
        of_records = [] if records is None else records.numbers()
        return np.array(sorted({*self._lane.panes.numbers(), *of_records}), np.int64)

    def add_all(self, located: Sequence[Located[AnyRows]]) -> bool:
        """Add all of some rows or, returning False, none of them."""
        return self._lane.add_all(located)

    def close(self, limit: int) -> list[PaneGroups]:
        """Give away the groups of all panes below a limit, in the order of the panes."""
        closed = [*self._close_records(limit), *self._lane.panes.close(limit)]
        return sorted(closed, key=lambda groups: groups.pane)

    def leave(self, limit: int) -> list[PaneGroups]:
        """Give away all panes below a limit, also later on: their rows belong elsewhere."""
        return [*self._close_records(limit), *self._lane.panes.leave(limit)]

    def _close_records(self, limit: int) -> list[PaneGroups]:
        """Give away what records have alone of panes below a limit; the rest goes to the panes."""
        records, panes = self._lane.records, self._lane.panes
        if records is None:
            return []
        is_given_up = self._is_given_up(records, limit)
        elsewhere = set(panes.numbers())
        closed = []
        for groups in records.close(WATERMARK_END if is_given_up else limit):
            if groups.n_groups == 0:
                # All rows were strays.
                continue
            if groups.pane >= limit or groups.pane in elsewhere:
                panes.add_groups(groups)
            else:
                closed.append(groups)
        return closed

    def _is_given_up(self, records: RecordPanes, limit: int) -> bool:
        """Choose, as panes end: what comes then is like what has come until then."""
        if self._has_chosen:
            return False
        rows_per_group = records.rows_per_group(limit)
        if rows_per_group == 0:
            # None has ended that has groups.
            return False
        if rows_per_group >= _RECORD_ROWS_PER_GROUP_LEAST:
            self._has_chosen = True
            return False
        self._n_few += 1
        if self._n_few < _FEW_MAX:
            return False
        self._has_chosen = True
        self._lane.records = None
        return True
