"""Window functions that DataFusion computes over rows that are listed key after key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.datafusion import QueryRunner
from millstream.engine.state.retained_rows import ListedRows
from millstream.planner.nodes import HIDDEN_PREFIX, quoted

__all__ = ["KEY", "NUMBER", "ListedQuery"]

KEY = HIDDEN_PREFIX + "key"
"""Column with the key of a listed row."""

NUMBER = HIDDEN_PREFIX + "number"
"""Column with the place of a listed row, ascending."""

_ROW = HIDDEN_PREFIX + "row"


class ListedQuery:
    """Computes calls over listed rows, and gives their results for the rows of the step.

    Args:
        calls: By name: a call with its OVER clause, over the columns of ``schema``, ``KEY`` and
            ``NUMBER``.
        schema: Columns of the listed rows.
        types: Types of the results.
        functions: User-defined DataFusion functions by name.
    """

    def __init__(
        self,
        calls: Mapping[str, str],
        schema: pa.Schema,
        types: Sequence[pa.DataType],
        functions: Mapping[str, object],
    ) -> None:
        numbers = [pa.field(name, pa.int64()) for name in (KEY, NUMBER, _ROW)]
        selected = [f"{sql} AS {quoted(name)}" for name, sql in calls.items()]
        inner = f'SELECT {quoted(_ROW)}, {", ".join(selected)} FROM "input"'
        names = ", ".join(quoted(name) for name in calls)
        self._query = QueryRunner(
            f"SELECT {names} FROM ({inner}) WHERE {quoted(_ROW)} >= 0 ORDER BY {quoted(_ROW)}",
            pa.schema([*numbers, *schema]),
            pa.schema(list(zip(calls, types, strict=True))),
            functions=functions,
        )

    def run(self, listed: ListedRows, n_rows: int) -> pa.RecordBatch:
        """Return the results of the ``n_rows`` rows of a step, in their order.

        Raises:
            TransformFailed: A function fails.
        """
        places = np.arange(len(listed.rows))
        columns = [
            array_from_buffers(values, pa.int64(), None)
            for values in (listed.keys, places, listed.rows)
        ]
        names = [KEY, NUMBER, _ROW, *listed.values.schema.names]
        rows = pa.RecordBatch.from_arrays([*columns, *listed.values.columns], names=names)
        computed = pa.Table.from_batches(self._query.run([rows])).combine_chunks().to_batches()[0]
        assert computed.num_rows == n_rows, "every row has a result"
        return computed
