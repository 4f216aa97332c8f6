"""Run one query with the installed package and check its answer."""

import pyarrow as pa

import millstream as ms

table = pa.table({"k": ["a", "b", "a"]})
result = ms.sql("SELECT k, count(*) AS n FROM t GROUP BY k EMIT FINAL", t=table)
counts = {row["k"]: row["n"] for row in result.to_pylist()}
if counts != {"a": 2, "b": 1}:
    raise SystemExit(f"wrong answer: {counts}")
print(f"{ms.__name__} {ms.__file__}: {counts}")
