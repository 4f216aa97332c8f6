"""Which micro-batches that wait are processed at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeGuard

import pyarrow as pa

from millstream.engine.step import SourceItem

__all__ = ["STEPS_MAX", "STEPS_ROWS_MAX", "Gathering", "gathered"]

STEPS_MAX = 64
"""Steps that are processed at once if they wait. More would only hold up the first of them."""
STEPS_ROWS_MAX = 1 << 14
"""Rows of steps that are processed at once, more than one: what they close is in state until all
have ended."""

# Micro-batches that are pushed in one go, and their rows unless one alone has more.
_PUSHED_MAX, _PUSHED_ROWS_MAX = 64, 1 << 19


class Gathering:
    """Micro-batches of one stream that are processed at once, as long as there is room for more.

    They are either all no steps, or all steps.

    Args:
        first: The first of them.
        n_columns: Columns of the stream; micro-batches with more carry something of the engine's,
            and go by themselves.
        takes_steps: Whether several steps may be processed at once.
        rows_max: Rows up to which there is room.
        bytes_max: Bytes up to which there is room.
    """

    def __init__(
        self,
        first: SourceItem,
        n_columns: int,
        *,
        takes_steps: bool,
        rows_max: int,
        bytes_max: int,
    ) -> None:
        self._first = first
        self._n_columns = n_columns
        self._takes_steps = takes_steps
        self._n_rows, self._n_bytes = rows_max - first.n_rows, bytes_max - first.n_bytes
        self._n_steps = 0
        self._is_complete = not self._is_plain(first) or self._is_last(first)

    def takes(self, message: object) -> TypeGuard[SourceItem]:
        """Say whether the next message is one of them."""
        if self._is_complete or not isinstance(message, SourceItem):
            return False
        first = self._first
        is_alike = (
            message.stream == first.stream
            and message.tables is first.tables
            and (message.step is None) == (first.step is None)
            and self._is_plain(message)
        )
        if not is_alike or message.n_rows > self._n_rows or message.n_bytes > self._n_bytes:
            return False
        self._n_rows -= message.n_rows
        self._n_bytes -= message.n_bytes
        self._is_complete = self._is_last(message)
        return True

    def _is_plain(self, item: SourceItem) -> bool:
        is_final = item.step is not None and item.step.is_final
        return not is_final and item.batch is not None and item.batch.num_columns == self._n_columns

    def _is_last(self, item: SourceItem) -> bool:
        """Say of an item that is one of them whether there can be no more; asked once of each."""
        if item.step is None:
            return False
        self._n_steps += 1
        return self._n_steps == STEPS_MAX or not self._takes_steps


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Give micro-batches that come one after the other a few at a time."""
    some: list[pa.RecordBatch] = []
    n_rows = 0
    for batch in batches:
        n_rows += batch.num_rows
        if some and (len(some) == _PUSHED_MAX or n_rows > _PUSHED_ROWS_MAX):
            yield some
            some, n_rows = [], batch.num_rows
        some.append(batch)
    if some:
        yield some
