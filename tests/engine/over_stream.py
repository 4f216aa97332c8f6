"""An OVER operator that is fed by hand, and what DataFusion answers over the rows on time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datafusion import SessionConfig, SessionContext

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_COLUMN, WATERMARK_END
from millstream.engine.operators.base import Counters
from millstream.engine.operators.over import Over
from millstream.engine.row_watermarks import RowWatermarks
from millstream.planner.nodes import Over as OverNode
from millstream.planner.nodes import OverCall, Source, WatermarkBound
from tests.equivalence.compare import difference

BOUNDS = (WatermarkBound("s"),)
SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "k": pa.string(),
        "ts": pa.int64(),
        "i": pa.int32(),
        "u": pa.uint64(),
        "x": pa.float64(),
        "d": pa.date32(),
        "s": pa.dictionary(pa.int8(), pa.string()),
    }
)

FOLDS = (
    "count(*)",
    "count(s)",
    "count(x)",
    "sum(i)",
    "sum(x)",
    "avg(i)",
    "avg(x)",
    "min(i)",
    "max(u)",
    "min(x)",
    "max(x)",
    "max(d)",
)
VALUES = ("first_value(s)", "first_value(x)", "last_value(s)", "last_value(i)")
LAGS = (("lag(x)", 1), ("lag(s, 3)", 3), ("lag(i, 0)", 0))
RANKS = ("row_number()", "rank()", "dense_rank()")

Kind = Literal["rows", "range"]


class Frame:
    """A frame of rows or of event time; None is without bounds."""

    def __init__(self, kind: Kind, preceding: int | None) -> None:
        self.kind = kind
        self.preceding = preceding
        bound = "UNBOUNDED" if preceding is None else str(preceding)
        self.sql = f"{kind.upper()} BETWEEN {bound} PRECEDING AND CURRENT ROW"

    def calls(self, texts: Sequence[str], path: str = "kernel") -> list[OverCall]:
        return [call_of(text, self.kind, self.preceding, path, self.sql) for text in texts]


ROWS = Frame("rows", None)


def call_of(text: str, kind: Kind, preceding: int | None, path: str, frame_sql: str) -> OverCall:
    function, _, rest = text.removesuffix(")").partition("(")
    words = rest.replace(",", " ").split()
    arguments = tuple(name for name in SCHEMA.names if name in words)
    typed = batch_answer(SCHEMA.empty_table(), [f"{text} OVER (ORDER BY ts, id)"])
    type_ = typed.schema.field("o0").type
    name = f"{text} {frame_sql}"
    return OverCall(name, function, arguments, type_, kind, preceding, text, path, "", frame_sql)


def lag_calls() -> list[OverCall]:
    return [call_of(text, "rows", n_back, "kernel", "") for text, n_back in LAGS]


def rank_calls() -> list[OverCall]:
    return [call_of(text, "rows", None, "kernel", "") for text in RANKS]


def batch_answer(rows: pa.Table, selected: Sequence[str]) -> pa.Table:
    """Select beside id, from a whole table, what a list of expressions says."""
    context = SessionContext(SessionConfig().with_target_partitions(1))
    batches = rows.combine_chunks().to_batches()
    context.register_record_batches("t", [batches or [pa.RecordBatch.from_pylist([], rows.schema)]])
    columns = ", ".join(f"{sql} AS o{index}" for index, sql in enumerate(selected))
    return context.sql(f"SELECT id, {columns} FROM t").to_arrow_table()


def rows_of(n_rows: int, seed: int, *, n_keys: int = 4, disorder: int = 6) -> pa.RecordBatch:
    """Rows about one unit of time apart, that come up to ``disorder`` units too late."""
    random = np.random.default_rng(seed)
    # The first rows have no NULL, so that counting values has to begin in the middle.
    may_be_null = np.arange(n_rows) > n_rows // 3

    def nullable(values: np.ndarray, name: str) -> pa.Array:
        is_null = may_be_null & (random.random(n_rows) < 0.2)
        return pa.array(values, mask=is_null).cast(SCHEMA.field(name).type)

    keys = random.integers(0, n_keys, n_rows)
    arrays = [
        pa.array(np.arange(n_rows)),
        pa.array([f"k{key}" for key in keys], pa.string()),
        pa.array(np.arange(n_rows) * 2 // 3 - random.integers(0, disorder + 1, n_rows)),
        nullable(random.integers(-(2**31), 2**31, n_rows), "i"),
        nullable(random.integers(2**63 - 5, 2**63 + 5, n_rows, dtype=np.uint64), "u"),
        nullable(random.normal(0, 1e3, n_rows), "x"),
        nullable(random.integers(-9, 9, n_rows).astype(np.int32), "d"),
        nullable(random.choice(np.array(["a", "b", "cc"], object), n_rows), "s"),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


class Collected:
    """Output of an operator."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def emit(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)


class Stream:
    """An operator, and batches that are given to it with their watermarks."""

    def __init__(
        self,
        calls: Sequence[OverCall],
        *,
        schema: pa.Schema = SCHEMA,
        keys: tuple[str, ...] = ("k",),
        order_column: str | None = "ts",
        delay: int = 6,
        late_rows: Any = None,
    ) -> None:
        fields = [pa.field(call.name, call.result_type) for call in calls]
        self.schema = pa.schema([*schema, *fields])
        node = OverNode(
            Source("s", schema, BOUNDS), keys, order_column, tuple(calls), self.schema, BOUNDS
        )
        self.counters = Counters()
        at_hand: Any = SimpleNamespace(item=SimpleNamespace(stream="s", watermarks={}))
        watermarks = RowWatermarks(BOUNDS, at_hand)
        self.operator = Over(node, self.counters, watermarks, late_rows, {})
        self.delay = delay
        self.max_time = NO_WATERMARK
        self.watermark = NO_WATERMARK
        self.out = Collected()

    def push(self, batch: pa.RecordBatch) -> None:
        watermarks = []
        for time in batch.column("ts").to_pylist():
            watermarks.append(max(self.max_time - self.delay, NO_WATERMARK))
            self.max_time = max(self.max_time, time)
        if any(
            time < watermark
            for time, watermark in zip(batch.column("ts").to_pylist(), watermarks, strict=True)
        ):
            batch = batch.append_column(WATERMARK_COLUMN, pa.array(watermarks, pa.int64()))
        self.operator.process_batch(batch, self.out)
        self.operator.end_batch(self.out)
        self.advance(max(self.max_time - self.delay, NO_WATERMARK))

    def advance(self, watermark: int) -> None:
        if watermark > self.watermark:
            self.watermark = watermark
            self.operator.process_watermark(watermark, self.out)

    def push_all(self, rows: pa.RecordBatch, batch_rows: int) -> pa.Table:
        """Push all rows in batches, end the input, and return everything that came out."""
        for start in range(0, rows.num_rows, batch_rows):
            self.push(rows.slice(start, batch_rows))
        self.advance(WATERMARK_END)
        self.operator.end_input(self.out)
        return self.collected

    @property
    def collected(self) -> pa.Table:
        return pa.Table.from_batches(self.out.batches, self.schema)


def on_time(rows: pa.RecordBatch, delay: int) -> pa.RecordBatch:
    """Rows that are not behind the greatest time before them minus the delay."""
    kept, max_time = [], -math.inf
    for row, time in enumerate(rows.column("ts").to_pylist()):
        if time >= max_time - delay:
            kept.append(row)
        max_time = max(max_time, time)
    return rows.take(pa.array(kept, pa.int64()))


def expected(
    rows: pa.RecordBatch, calls: Sequence[OverCall], keys: tuple[str, ...], by_time: bool
) -> pa.Table:
    """What DataFusion answers, in the order in which rows should leave."""
    partition = f"PARTITION BY {', '.join(keys)}" if keys else ""
    selected = []
    for call in calls:
        order = "ts, id" if by_time else "id"
        if call.frame_kind == "range" or call.function in ("rank", "dense_rank"):
            order = "ts"
        selected.append(f"{call.sql} OVER ({partition} ORDER BY {order} {call.frame_sql})")
    table = pa.Table.from_batches([rows]).set_column(7, "s", rows.column("s").cast(pa.string()))
    # Rows of one time keep their order if no sort has to move any row.
    names = [*keys, "ts", "id"] if by_time else [*keys, "id"]
    table = table.sort_by([(name, "ascending") for name in names])
    answer = batch_answer(table, selected).sort_by("id")
    if by_time:
        answer = answer.take(np.argsort(rows.column("ts").to_numpy(), kind="stable"))
    return answer


def check(
    rows: pa.RecordBatch,
    calls: Sequence[OverCall],
    batch_rows: int,
    *,
    keys: tuple[str, ...] = ("k",),
    by_time: bool = True,
    delay: int = 6,
) -> Stream:
    stream = Stream(calls, keys=keys, order_column="ts" if by_time else None, delay=delay)
    got = stream.push_all(rows, batch_rows)
    punctual = on_time(rows, delay) if by_time else rows
    assert stream.counters.rows_late == rows.num_rows - punctual.num_rows
    want = expected(punctual, calls, keys, by_time)
    results = got.select(["id", *(call.name for call in calls)]).rename_columns(want.schema.names)
    assert difference(results, want, ordered=True) is None
    if by_time:
        punctual = punctual.take(np.argsort(punctual.column("ts").to_numpy(), kind="stable"))
    assert got.select(SCHEMA.names).to_pylist() == punctual.to_pylist()
    return stream
