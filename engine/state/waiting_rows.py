"""Rows that wait for the watermark and leave in the order of event time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.taking import take_rows
from millstream.kernels.compile import I64
from millstream.kernels.ordering import order_by_time, take_times

__all__ = ["TimedRows", "WaitingRows"]

_NONE_WAITS = (1 << 63) - 1


class TimedRows(NamedTuple):
    """Rows in the order of event time, those of one time in the order of arrival.

    Attributes:
        rows: The rows.
        times: int64[n_rows], read-only.
    """

    rows: pa.RecordBatch
    times: I64

    def slice(self, start: int, stop: int) -> TimedRows:
        """Return the rows from ``start`` to before ``stop``, not copied."""
        return TimedRows(self.rows.slice(start, stop - start), self.times[start:stop])


class WaitingRows:
    """A queue in the order of (event time, arrival).

    New rows stay as they came until some are due; then they become a sorted run. A run is merged
    with its neighbour when it is not much shorter, so that there are O(log n) runs and a row is
    copied O(log n) times, however long it waits.
    """

    def __init__(self) -> None:
        self._fresh: list[TimedRows] = []
        self._fresh_least = _NONE_WAITS
        self._runs: list[TimedRows] = []
        self.n_rows = 0

    @property
    def _parts(self) -> list[TimedRows]:
        return [*self._runs, *self._fresh]

    @property
    def state_bytes(self) -> int:
        """Bytes of the rows that wait and of their times."""
        return sum(part.rows.nbytes + part.times.nbytes for part in self._parts)

    def add(self, rows: pa.RecordBatch, times: I64) -> None:
        """Add rows that have arrived.

        Args:
            rows: Rows of one schema in all calls.
            times: int64[n_rows], their event times, in any order, read-only.
        """
        if len(times) == 0:
            return
        self._fresh.append(TimedRows(rows, times))
        self._fresh_least = min(self._fresh_least, int(times.min()))
        self.n_rows += len(times)

    @property
    def times(self) -> I64:
        """Event times of the rows that wait: int64[n_rows], in no particular order."""
        return np.concatenate([np.empty(0, np.int64), *(part.times for part in self._parts)])

    def release(self, limit: int | None) -> TimedRows | None:
        """Take out the rows before ``limit``, or all of them; None if there are none."""
        least = min([self._fresh_least, *(int(run.times[0]) for run in self._runs)])
        if self.n_rows == 0 or (limit is not None and least >= limit):
            return None
        self._settle()
        released, waiting = [], []
        for run in self._runs:
            n_due = len(run.times)
            if limit is not None:
                n_due = int(np.searchsorted(run.times, limit, side="left"))
            if n_due == len(run.times):
                released.append(run)
                continue
            if n_due > 0:
                released.append(run.slice(0, n_due))
            waiting.append(run.slice(n_due, len(run.times)))
        self._runs = waiting
        merged = released[0] if len(released) == 1 else _sorted(released)
        self.n_rows -= len(merged.times)
        return merged

    def _settle(self) -> None:
        if not self._fresh:
            return
        parts, self._fresh, self._fresh_least = self._fresh, [], _NONE_WAITS
        n_rows = sum(len(part.times) for part in parts)
        while self._runs and len(self._runs[-1].times) <= 2 * n_rows:
            run = self._runs.pop()
            parts.insert(0, run)
            n_rows += len(run.times)
        self._runs.append(_sorted(parts))


def _sorted(parts: list[TimedRows]) -> TimedRows:
    """Merge parts that are in the order of arrival."""
    if len(parts) == 1:
        rows, times = parts[0]
    else:
        rows = pa.concat_batches([part.rows for part in parts])
        times = _locked(np.concatenate([part.times for part in parts]))
    order, spare = np.empty(len(times), np.uint32), np.empty(len(times), np.uint32)
    if order_by_time(times, order, spare):
        ordered = np.empty(len(times), np.int64)
        take_times(times, order, ordered)
        return TimedRows(take_rows(rows, order), _locked(ordered))
    return TimedRows(rows, times)


def _locked(times: I64) -> I64:
    times.setflags(write=False)
    return times
