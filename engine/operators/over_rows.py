"""Window functions that look at the rows of a frame themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from millstream.engine.operators.over_accumulators import Inputs
from millstream.engine.operators.over_query import KEY, NUMBER, ListedQuery
from millstream.engine.state.frames import BoundedFrame
from millstream.engine.state.keyed_rows import KeyedRows
from millstream.engine.state.retained_rows import RetainedRows, plain_schema
from millstream.planner.nodes import OverCall, quoted

__all__ = ["FrameRows"]


class FrameRows:
    """The rows that a frame reaches: its first row, and functions that DataFusion computes.

    Args:
        frame: The frame.
        schema: Columns to keep: those that are read of first rows, the arguments of ``calls``, and
            the event time if a call has a frame of time.
        calls: Functions for DataFusion.
        order_column: Event time, or None.
        functions: User-defined DataFusion functions by name.
        reads_first: Whether first rows are wanted.
    """

    def __init__(
        self,
        frame: BoundedFrame,
        schema: pa.Schema,
        calls: Sequence[OverCall],
        order_column: str | None,
        functions: Mapping[str, object],
        *,
        reads_first: bool,
    ) -> None:
        self._frame = frame
        self._retained = RetainedRows(frame, schema)
        self._reads_first = reads_first
        self._query = (
            _query(calls, plain_schema(schema), order_column, functions) if calls else None
        )
        self._first: pa.RecordBatch | None = None
        self._computed: pa.RecordBatch | None = None

    @property
    def state_bytes(self) -> int:
        return self._retained.state_bytes

    def update(self, inputs: Inputs) -> None:
        """Take in a step, while the frame is open.

        Raises:
            TransformFailed: A function fails on the rows of a frame.
        """
        self._retained.open(inputs.batch)
        if self._query is not None:
            listed = self._retained.list(inputs.rows)
            self._computed = self._query.run(listed, inputs.rows.n_rows)
        if self._reads_first:
            self._first = self._retained.first_of_frames(inputs.rows)
        else:
            self._retained.enter(inputs.rows)

    def first(self, column: str) -> pa.Array:
        """Return a column of the first row of each row's frame."""
        assert self._first is not None, "a step is open"
        return self._first.column(column)

    def computed(self, name: str) -> pa.Array:
        """Return the results of a call by its name."""
        assert self._computed is not None, "a step is open"
        return self._computed.column(name)

    def close(self, rows: KeyedRows) -> None:
        """End a step, after the frame has been closed."""
        self._first = self._computed = None
        self._retained.close(rows)

    def compact(self) -> None:
        """Give up rows that nobody reaches any more."""
        self._retained.compact()


def _query(
    calls: Sequence[OverCall],
    schema: pa.Schema,
    order_column: str | None,
    functions: Mapping[str, object],
) -> ListedQuery:
    texts = {
        call.name: _over(call, order_column, is_own=call.function in functions) for call in calls
    }
    return ListedQuery(texts, schema, [call.result_type for call in calls], functions)


def _over(call: OverCall, order_column: str | None, *, is_own: bool) -> str:
    order = NUMBER
    if call.frame_kind == "range":
        assert order_column is not None, "a frame of time follows event time"
        # Rows are listed in the order of arrival, and a sort leaves those of one time like that.
        order = order_column
    frame = f" {call.frame_sql}" if call.frame_sql else ""
    over = f"OVER (PARTITION BY {quoted(KEY)} ORDER BY {quoted(order)}{frame})"
    if call.function == "bit_xor" and not is_own and len(call.arguments) == 1:
        # DataFusion gives 0 where values have left a frame and none is in it.
        return f"CASE WHEN count({quoted(call.arguments[0])}) {over} > 0 THEN {call.sql} {over} END"
    return f"{call.sql} {over}"
