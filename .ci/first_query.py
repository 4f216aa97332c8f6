"""Run one query with the installed package and check its answer.

All kernels have been compiled before; it may not compile any more.
"""

import sys

import pyarrow as pa
from numba.core.dispatcher import Dispatcher

import millstream as ms

table = pa.table({"k": ["a", "b", "a"]})
result = ms.sql("SELECT k, count(*) AS n FROM t GROUP BY k EMIT FINAL", t=table)
counts = {row["k"]: row["n"] for row in result.to_pylist()}
if counts != {"a": 2, "b": 1}:
    raise SystemExit(f"wrong answer: {counts}")
compiled = [
    kernel.py_func.__qualname__
    for name, module in sys.modules.items()
    if name.startswith("millstream.kernels.")
    for kernel in vars(module).values()
    if isinstance(kernel, Dispatcher) and kernel.stats.cache_misses
]
if compiled:
    raise SystemExit(f"kernels that had not been compiled ahead of time: {compiled}")
print(f"{ms.__name__} {ms.__file__}: {counts}")
