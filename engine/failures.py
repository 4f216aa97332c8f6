"""What a failed job says: the cause, and the first row that fails on its own."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from millstream.engine.datafusion import TransformFailed, TransformRunner
from millstream.engine.step import SourceItem
from millstream.errors import JobFailed
from millstream.planner.nodes import Node, Source, Transform

__all__ = ["describe_failure"]


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
    """Return the first row that makes a transform at the source side fail, or None if none does."""
    bad_rows = []
    for source, transforms in _source_chains(root):
        if source.stream != stream:
            continue
        rows = batch.select(source.schema.names)
        runners = [TransformRunner(node, tables, functions) for node in transforms]
        if _fails(runners, rows):
            bad_rows.append(_bisect(runners, rows))
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


def _bisect(runners: list[TransformRunner], rows: pa.RecordBatch) -> int:
    """Return the length of the longest prefix that works: the index of the first bad row."""
    works, fails = 0, rows.num_rows
    while fails - works > 1:
        middle = (works + fails) // 2
        if _fails(runners, rows.slice(0, middle)):
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
