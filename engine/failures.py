"""What a failed job says: the cause, and the first row that fails on its own."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pyarrow as pa

from millstream.engine.datafusion import TransformFailed, TransformRunner
from millstream.engine.step import SourceItem
from millstream.errors import JobFailed
from millstream.planner.nodes import Node, Source, Transform

__all__ = ["describe_failure"]

# Everybody waits for the error while the row is looked for.
_SEARCH_SECONDS_MAX = 0.3


def describe_failure(
    error: BaseException,
    item: SourceItem | None,
    partition: int | None,
    root: Node,
    tables: Mapping[str, pa.Table],
    functions: Mapping[str, object],
) -> JobFailed:
    """Wrap what a partition thread raised.

    Args:
        error: What was raised.
        item: Item at hand, or None.
        partition: The partition, or None.
        root: Plan of the job.
        tables: Contents of the session's tables.
        functions: User-defined functions.

    Returns:
        The error to raise in the user's thread, with ``error`` as its cause.
    """
    is_batch = item is not None and item.batch is not None
    row = None
    if isinstance(error, TransformFailed) and item is not None and item.batch is not None:
        row = _first_bad_row(item.stream, item.batch, root, tables, functions)
    failure = JobFailed(
        str(error) or type(error).__name__,
        stream=item.stream if item is not None and is_batch else None,
        batch_number=item.batch_number if item is not None and is_batch else None,
        row=row,
        partition=partition,
    )
    failure.__cause__ = error
    return failure


def _first_bad_row(
    stream: str,
    batch: pa.RecordBatch,
    root: Node,
    tables: Mapping[str, pa.Table],
    functions: Mapping[str, object],
) -> int | None:
    """Return the first row that makes a transform at the source side fail.

    Returns:
        None if no row does on its own, or if it would take too long to find out which.
    """
    bad_rows = []
    for source, transforms in _source_chains(root):
        if source.stream != stream:
            continue
        rows = batch.select(source.schema.names)
        probe = _Probe([TransformRunner(node, tables, functions) for node in transforms])
        try:
            if probe.fails(rows):
                bad_rows.append(_bisect(probe, rows))
        except _TooSlowError:
            return None
    return min(bad_rows, default=None)


def _source_chains(root: Node) -> list[tuple[Source, list[Transform]]]:
    """Return each source with the transforms right above it, nearest first."""
    if isinstance(root, Source):
        return [(root, [])]
    chains = []
    for below in root.inputs:
        for source, transforms in _source_chains(below):
            is_connected = below is source or (transforms and below is transforms[-1])
            if isinstance(root, Transform) and is_connected:
                transforms = [*transforms, root]
            chains.append((source, transforms))
    return chains


class _TooSlowError(Exception):
    """The search would keep the job from failing in time."""


class _Probe:
    """Runs transforms on parts of a batch, as long as there is time."""

    def __init__(self, runners: list[TransformRunner]) -> None:
        self._runners = runners
        self._started_at = time.monotonic()
        self._longest = 0.0

    def fails(self, rows: pa.RecordBatch) -> bool:
        """Say whether the transforms fail on some rows.

        Raises:
            _TooSlowError: To find out may take longer than is left.
        """
        began_at = time.monotonic()
        if began_at + self._longest - self._started_at > _SEARCH_SECONDS_MAX:
            raise _TooSlowError
        fails = _fails(self._runners, rows)
        self._longest = max(self._longest, time.monotonic() - began_at)
        return fails


def _bisect(probe: _Probe, rows: pa.RecordBatch) -> int:
    """Return the length of the longest prefix that works: the index of the first bad row."""
    works, fails = 0, rows.num_rows
    while fails - works > 1:
        middle = (works + fails) // 2
        if probe.fails(rows.slice(0, middle)):
            fails = middle
        else:
            works = middle
    return works


def _fails(runners: list[TransformRunner], rows: pa.RecordBatch) -> bool:
    batches = [rows]
    try:
        for runner in runners:
            batches = [result for batch in batches for result in runner.run(batch)]
    except TransformFailed:
        return True
    return False
