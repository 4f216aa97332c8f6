"""Functions of the user's that have the name of a built-in one."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datafusion import Accumulator

import millstream as ms


class Hundredfold(Accumulator):
    """Sums up, and multiplies by a hundred."""

    def __init__(self) -> None:
        self._total = 0

    def update(self, values: pa.Array) -> None:
        self._total += pc.sum(values).as_py() or 0

    def merge(self, states: list[pa.Array]) -> None:
        self._total += pc.sum(states[0]).as_py() or 0

    def state(self) -> list[pa.Scalar]:
        return [pa.scalar(self._total)]

    def evaluate(self) -> pa.Scalar:
        return pa.scalar(100 * self._total)


TABLE = pa.table({"k": [1, 1, 2], "v": [1, 2, 3], "ts": [1, 2, 3]})


@pytest.mark.parametrize("partitions", [1, 2])
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT k, sum(v) AS s FROM t GROUP BY k EMIT FINAL", [300, 300]),
        ("SELECT k, sum(v) FILTER (WHERE v > 1) AS s FROM t GROUP BY k EMIT FINAL", [200, 300]),
        (
            "SELECT k, sum(v) OVER (PARTITION BY k ORDER BY ts ROWS BETWEEN UNBOUNDED PRECEDING"
            " AND CURRENT ROW) AS s FROM t",
            [100, 300, 300],
        ),
    ],
)
def test_the_users_function_is_the_one_that_is_called(sql, expected, partitions) -> None:
    session = ms.Session(partitions=partitions)
    session.create_stream("t", TABLE.schema, event_time="ts")
    session.register_udaf("sum", Hundredfold, [pa.int64()], pa.int64(), [pa.int64()])
    query = session.sql(sql)
    assert "the user's sum" in query.explain()
    rows = query.run({"t": TABLE}).sort_by([("k", "ascending"), ("s", "ascending")])
    assert rows["s"].to_pylist() == expected
