"""Window functions over all rows so far that DataFusion computes, without keeping the rows.

For these functions the result over all rows so far is that over the result of the rows before a
step and the rows of the step. So a result is all that is kept of a key: that of its last row, which
is put in front of the key's next rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, plain
from millstream.engine.operators.over_accumulators import Inputs
from millstream.engine.operators.over_query import KEY, NUMBER, ListedQuery
from millstream.engine.state.frames import BoundedFrame, spread_over_peers
from millstream.engine.state.keyed_rows import KeyedRows
from millstream.engine.state.retained_rows import RetainedRows
from millstream.planner.nodes import quoted

__all__ = ["CarriedCall", "CarriedResults"]

_SO_FAR = (
    f"OVER (PARTITION BY {quoted(KEY)} ORDER BY {quoted(NUMBER)} "
    "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
)


@dataclass(frozen=True, slots=True)
class CarriedCall:
    """A function that goes on from its own result.

    Attributes:
        function: As DataFusion knows it, of one argument.
        argument: Column.
        result_type: Type of the result, and of the argument that leads to it.
    """

    function: str
    argument: str
    result_type: pa.DataType

    def sql(self, column: str) -> str:
        """The call with its OVER clause, over a column."""
        return f"{self.function}({quoted(column)}) {_SO_FAR}"


class CarriedResults:
    """Results of calls over all rows so far.

    Args:
        frame: Of one preceding row, without peers.
        calls: Each once.
    """

    def __init__(self, frame: BoundedFrame, calls: Sequence[CarriedCall]) -> None:
        names = {call: f"r{index}" for index, call in enumerate(calls)}
        types = [plain(pa.nulls(0, call.result_type)).type for call in calls]
        self._calls = calls
        self._schema = pa.schema(list(zip(names.values(), types, strict=True)))
        self._retained = RetainedRows(frame, self._schema)
        texts = {name: call.sql(name) for call, name in names.items()}
        self._query = ListedQuery(texts, self._schema, types, {})
        self._results: dict[CarriedCall, pa.Array] = {}

    @property
    def state_bytes(self) -> int:
        return self._retained.state_bytes

    def update(self, inputs: Inputs) -> None:
        """Take in a step, while the frame is open.

        Raises:
            TransformFailed: A function fails.
        """
        arguments = [
            inputs.column(call.argument)[0].cast(type_)
            for call, type_ in zip(self._calls, self._schema.types, strict=True)
        ]
        self._retained.open(pa.RecordBatch.from_arrays(arguments, schema=self._schema))
        computed = self._query.run(self._retained.list(inputs.rows), inputs.rows.n_rows)
        self._retained.enter(inputs.rows)
        self._retained.put_in_place(computed)
        self._results = dict(zip(self._calls, computed.columns, strict=True))

    def result(self, call: CarriedCall, inputs: Inputs, *, sees_peers: bool) -> pa.Array:
        """Return a call's results of the step, by row.

        Args:
            call: The call.
            inputs: The step.
            sees_peers: Whether rows have the result of the last row of their time.
        """
        result = self._results[call]
        if not sees_peers or not inputs.rows.has_peers:
            return result
        last = np.arange(inputs.rows.n_rows)
        spread_over_peers(inputs.rows, last)
        return result.take(array_from_buffers(last, pa.int64(), None))

    def close(self, rows: KeyedRows) -> None:
        """End a step, after the frame has been closed."""
        self._results = {}
        self._retained.close(rows)

    def compact(self) -> None:
        """Give up results that newer ones have taken the place of."""
        self._retained.compact()
