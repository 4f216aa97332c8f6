"""How results of several windows leave an operator."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from millstream.engine.operators.base import Collector

__all__ = ["emit_together"]

# Windows of fewer rows on average are emitted in one batch.
_SMALL_ROWS = 1 << 10


def emit_together(batches: Sequence[pa.RecordBatch], out: Collector) -> None:
    """Hand on batches in their order, as one where they are small."""
    if sum(batch.num_rows for batch in batches) < _SMALL_ROWS * len(batches) and len(batches) > 1:
        batches = [pa.concat_batches(batches)]
    for batch in batches:
        out.emit(batch)
