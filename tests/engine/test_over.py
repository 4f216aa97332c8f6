"""Window functions over a stream answer as DataFusion does over the rows that are on time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from datafusion import SessionConfig, SessionContext
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_COLUMN, WATERMARK_END
from millstream.engine.operators.base import Counters
from millstream.engine.operators.over import Over
from millstream.engine.row_watermarks import RowWatermarks
from millstream.errors import InternalError
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
        return [_call(text, self.kind, self.preceding, path, self.sql) for text in texts]


ROWS = Frame("rows", None)


def _call(text: str, kind: Kind, preceding: int | None, path: str, frame_sql: str) -> OverCall:
    function, _, rest = text.removesuffix(")").partition("(")
    words = rest.replace(",", " ").split()
    arguments = tuple(name for name in SCHEMA.names if name in words)
    typed = batch_answer(SCHEMA.empty_table(), [f"{text} OVER (ORDER BY ts, id)"])
    type_ = typed.schema.field("o0").type
    name = f"{text} {frame_sql}"
    return OverCall(name, function, arguments, type_, kind, preceding, text, path, "", frame_sql)


def lag_calls() -> list[OverCall]:
    return [_call(text, "rows", n_back, "kernel", "") for text, n_back in LAGS]


def rank_calls() -> list[OverCall]:
    return [_call(text, "rows", None, "kernel", "") for text in RANKS]


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


frames = st.sampled_from(
    [Frame("rows", n) for n in (0, 1, 3, 20, None)] + [Frame("range", n) for n in (0, 2, 9, None)]
)
batch_cuts = st.sampled_from([1, 7, 1000])
seeds = st.integers(0, 2**32)


@settings(max_examples=60)
@given(
    frames,
    st.lists(st.sampled_from(FOLDS + VALUES), min_size=1, max_size=5, unique=True),
    batch_cuts,
    seeds,
    st.sampled_from([("k",), ("k", "s"), ()]),
    st.sampled_from([0, 6, 1000]),
)
def test_rows_in_the_order_of_event_time(
    frame: Frame,
    texts: list[str],
    batch_rows: int,
    seed: int,
    keys: tuple[str, ...],
    delay: int,
) -> None:
    check(rows_of(90, seed), frame.calls(texts), batch_rows, keys=keys, delay=delay)


@settings(max_examples=30)
@given(
    st.sampled_from([Frame("rows", n) for n in (0, 1, 5, None)]),
    st.lists(st.sampled_from(FOLDS + VALUES), min_size=1, max_size=5, unique=True),
    batch_cuts,
    seeds,
)
def test_rows_in_the_order_of_arrival(
    frame: Frame, texts: list[str], batch_rows: int, seed: int
) -> None:
    calls = [*frame.calls(texts), *lag_calls(), *rank_calls()[:1]]
    check(rows_of(60, seed), calls, batch_rows, by_time=False)


@settings(max_examples=20)
@given(batch_cuts, seeds)
def test_functions_without_a_frame(batch_rows: int, seed: int) -> None:
    check(rows_of(60, seed), [*lag_calls(), *rank_calls()], batch_rows)


def test_frames_of_several_kinds_in_one_operator() -> None:
    texts = ["sum(x)", "min(i)", "first_value(s)", "avg(i)", "count(x)"]
    several = [Frame("rows", 2), Frame("rows", None), Frame("range", 4), Frame("range", None)]
    calls = [call for frame in several for call in frame.calls(texts)]
    check(rows_of(300, 1), [*calls, *lag_calls(), *rank_calls()], 7)


@settings(max_examples=40)
@given(
    st.permutations(
        ["sum(i)", "min(i)", "max(i)", "sum(id)", "min(id)", "max(id)", "sum(u)", "max(u)"]
    ),
    st.integers(2, 8),
    st.sampled_from([0, 1, 2, 5, 15, 16, 17]),
    st.sampled_from([7, 100]),
)
def test_folds_of_several_columns_side_by_side(
    texts: list[str], n_calls: int, preceding: int, batch_rows: int
) -> None:
    rows = rows_of(120, preceding)
    check(rows, Frame("rows", preceding).calls(texts[:n_calls]), batch_rows)


@pytest.mark.parametrize("batch_rows", [37, 5000])
def test_many_keys_and_long_frames_move_rings(batch_rows: int) -> None:
    texts = ["sum(x)", "max(u)", "first_value(s)"]
    frames = [Frame("rows", 40), Frame("range", 300), Frame("rows", None)]
    calls = [call for frame in frames for call in frame.calls(texts)]
    check(rows_of(5000, 3, n_keys=300), calls, batch_rows)


def test_many_rows_of_one_time_stay_in_one_block() -> None:
    rows = rows_of(150_000, 5, n_keys=9)
    times = np.sort(np.arange(150_000) // 40_000)
    rows = rows.set_column(2, "ts", pa.array(times))
    calls = [*Frame("range", 0).calls(["count(*)", "last_value(i)"]), *rank_calls()]
    check(rows, calls, 200_000)


BUFFERED = ("median(x)", "stddev(x)", "nth_value(s, 2)", "array_agg(id)", "count(DISTINCT s)")


@settings(max_examples=20)
@given(frames, st.lists(st.sampled_from(BUFFERED), min_size=1, max_size=3, unique=True), batch_cuts)
def test_functions_without_a_kernel(frame: Frame, texts: list[str], batch_rows: int) -> None:
    calls = [*frame.calls(texts, "buffered"), *frame.calls(["first_value(x)", "sum(i)"])]
    check(rows_of(40, 11), calls, batch_rows)


def test_lag_with_a_default_has_no_kernel() -> None:
    calls = [_call("lag(i, 2, -1)", "rows", 2, "buffered", "")]
    check(rows_of(60, 12), calls, 7)


def test_functions_of_constants_go_to_datafusion() -> None:
    check(rows_of(40, 13), [*Frame("rows", 2).calls(["sum(1)", "count(*)"])], 7)


def test_an_infinity_that_leaves_a_frame_leaves_nothing_behind() -> None:
    values = [1.0, math.inf, 2.0, -math.inf, 3.0, math.nan, 4.0, 5.0, 6.0]
    rows = rows_of(len(values), 0, n_keys=1, disorder=0)
    rows = rows.set_column(5, "x", pa.array(values))
    got = Stream(Frame("rows", 1).calls(["sum(x)", "avg(x)", "max(x)"])).push_all(rows, 2)
    sums, averages, greatest = (column.to_pylist() for column in got.columns[-3:])
    nan = pytest.approx(math.nan, nan_ok=True)
    assert sums == [1, math.inf, math.inf, -math.inf, -math.inf, nan, nan, 9, 11]
    assert averages[-2:] == [4.5, 5.5]
    assert greatest == [1, math.inf, math.inf, 2, 3, nan, nan, 5, 6]


def test_sums_do_not_drift() -> None:
    values = np.tile([1e16, 1.0, -1e16, 0.1], 500)
    rows = rows_of(2000, 0, n_keys=1, disorder=0).set_column(5, "x", pa.array(values))
    got = Stream(Frame("rows", 0).calls(["sum(x)"])).push_all(rows, 300)
    assert got.column(got.num_columns - 1).to_numpy().tolist() == values.tolist()


def test_columns_of_all_types_pass_through() -> None:
    columns = {
        "ts": pa.array([3, 1, 2]),
        "view": pa.array(["a", None, "c"], pa.string_view()),
        "list": pa.array([[1], None, [2, 3]]),
        "struct": pa.array([{"a": 1}, {"a": None}, None]),
        "binary": pa.array([b"x", b"", None]),
        "nothing": pa.nulls(3),
        "flag": pa.array([True, None, False]),
        "decimal": pa.array([1, 2, None], pa.decimal128(20, 2)),
        "zone": pa.array([1, None, 3], pa.timestamp("us", "Europe/Rome")),
    }
    rows = pa.record_batch(columns)
    calls = [
        OverCall(f"{function} {name}", function, (name,), rows.schema.field(name).type, kind, n, "")
        for name in columns
        for function, kind, n in [
            ("lag", "rows", 1),
            ("first_value", "rows", 1),
            ("first_value", "rows", None),
            ("last_value", "range", 0),
        ]
    ]
    stream = Stream(calls, schema=rows.schema, keys=())
    got = stream.push_all(rows, 1)
    order = [1, 2, 0]
    for name, column in columns.items():
        values = [column.to_pylist()[row] for row in order]
        assert got[name].to_pylist() == values
        assert got[f"lag {name}"].to_pylist() == [None, *values[:2]]
        assert got.column(got.schema.names.index(f"last_value {name}")).to_pylist() == values


def test_extremes_of_narrow_and_unsigned_types() -> None:
    types = [pa.int8(), pa.uint16(), pa.uint64(), pa.float32(), pa.time32("s"), pa.timestamp("ns")]
    columns = {f"c{index}": pa.array([1, 0, None, 100], type_) for index, type_ in enumerate(types)}
    rows = pa.record_batch({"ts": pa.array([1, 2, 3, 4]), **columns})
    calls = [
        OverCall(f"{function} {name}", function, (name,), array.type, "rows", 1, "")
        for name, array in columns.items()
        for function in ("min", "max")
    ]
    got = Stream(calls, schema=rows.schema, keys=()).push_all(rows, 3)
    for name, array in columns.items():
        one, zero, _, hundred = array.to_pylist()
        assert got[f"min {name}"].to_pylist() == [one, zero, zero, hundred]
        assert got[f"max {name}"].to_pylist() == [one, one, zero, hundred]


def test_dictionaries_that_hold_a_null_are_merged() -> None:
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), ["a", None, "c"])
    rows = pa.record_batch({"ts": pa.array([1, 2, 3]), "s": dictionary})
    calls = [OverCall("first", "first_value", ("s",), dictionary.type, "rows", 1, "")]
    stream = Stream(calls, schema=rows.schema, keys=("s",), delay=10)
    got = stream.push_all(rows, 1)
    assert got["s"].to_pylist() == got["first"].to_pylist() == ["a", None, "c"]


def test_rows_behind_the_watermark_are_counted_and_written_to_the_side_output() -> None:
    class Late:
        written: list[tuple[list[int], list[int]]] = []  # noqa: RUF012 - one test, one list

        def write(self, batch: Any, rows: Any, starts: Any, ends: Any, watermarks: Any) -> None:
            assert starts is None
            assert ends is None
            self.written.append(
                (batch.column("id").take(pa.array(rows)).to_pylist(), watermarks.tolist())
            )

    rows = rows_of(5, 0, n_keys=1).set_column(2, "ts", pa.array([5, 9, 3, 7, 6]))
    stream = Stream(Frame("rows", 1).calls(["count(*)"]), delay=2, late_rows=Late())
    got = stream.push_all(rows, 3)
    assert got["id"].to_pylist() == [0, 3, 1]
    assert stream.counters.rows_late == 2
    assert Late.written == [([2], [7]), ([4], [7])]


def test_rows_that_leave_in_the_order_of_arrival_keep_what_the_engine_carries() -> None:
    stream = Stream(Frame("rows", 1).calls(["count(*)"]), order_column=None, delay=0)
    rows = rows_of(4, 0).set_column(2, "ts", pa.array([5, 9, 3, 7]))
    stream.push(rows)
    (batch,) = stream.out.batches
    assert batch.schema.names == [*stream.schema.names, WATERMARK_COLUMN]
    assert stream.counters.rows_late == 0


def test_a_row_waits_for_the_watermark_and_for_its_peers() -> None:
    stream = Stream(Frame("range", 0).calls(["count(*)"]), delay=0)
    rows = rows_of(3, 0, n_keys=1).set_column(2, "ts", pa.array([5, 5, 6]))
    stream.push(rows.slice(0, 1))
    stream.push(rows.slice(1, 1))
    assert stream.out.batches == []
    stream.push(rows.slice(2, 1))
    assert stream.collected.columns[-1].to_pylist() == [2, 2]
    assert stream.operator.state_rows > 0


def test_a_row_that_needs_no_peers_leaves_when_the_watermark_reaches_it() -> None:
    calls = [*Frame("rows", 1).calls(["count(*)"]), *lag_calls()[:1], *rank_calls()]
    stream = Stream(calls, delay=0)
    rows = rows_of(4, 0, n_keys=1).set_column(2, "ts", pa.array([5, 5, 4, 6]))
    stream.push(rows.slice(0, 1))
    assert stream.collected["id"].to_pylist() == [0]
    held_back = stream.operator.held_back()
    assert held_back is not None
    assert held_back.times.tolist() == []
    stream.push(rows.slice(1, 2))
    stream.push(rows.slice(3, 1))
    assert stream.counters.rows_late == 1
    assert stream.collected["id"].to_pylist() == [0, 1, 3]
    assert [column.to_pylist() for column in stream.collected.columns[-3:]] == [
        [1, 2, 3],
        [1, 1, 3],
        [1, 1, 2],
    ]


def test_frames_of_rows_keep_as_many_rows_and_frames_without_bounds_none() -> None:
    rows = rows_of(500, 9, n_keys=5, disorder=0)
    bounded = Stream(Frame("rows", 3).calls(["sum(x)", "first_value(s)"]))
    bounded.push_all(rows, 50)
    assert bounded.operator.state_rows == 5 + 5 * 3
    whole = Stream(Frame("rows", None).calls(["sum(x)", "max(i)"]))
    whole.push_all(rows, 50)
    assert whole.operator.state_rows == 5
    assert whole.operator.state_bytes < 20_000


def test_keys_that_do_not_come_again_cost_nothing_with_frames_of_time() -> None:
    stream = Stream(Frame("range", 10).calls(["sum(x)", "first_value(s)", "avg(i)"]), delay=0)
    n_rows = 60_000
    rows = rows_of(n_rows, 2, n_keys=1, disorder=0)
    rows = rows.set_column(1, "k", pa.array([str(row // 3) for row in range(n_rows)]))
    peak = 0
    for start in range(0, n_rows, 500):
        stream.push(rows.slice(start, 500))
        peak = max(peak, stream.operator.state_rows)
    assert peak < 10_000
    assert stream.operator.state_bytes < 4_000_000
    want = expected(rows.slice(0, n_rows - 500), Frame("range", 10).calls(["sum(x)"]), ("k",), True)
    got = stream.collected.slice(0, n_rows - 500).select(["id", stream.schema.names[-3]])
    assert difference(got.rename_columns(want.schema.names), want, ordered=True) is None


def test_a_kernel_that_is_not_there_is_an_internal_error() -> None:
    call = OverCall("x", "median", ("x",), pa.float64(), "rows", 1, "median(x)")
    with pytest.raises(InternalError, match="no kernel computes median over 1 columns"):
        Stream([call])
    with pytest.raises(InternalError, match="order by it"):
        Stream(Frame("range", 1).calls(["sum(x)"]), order_column=None)
    with pytest.raises(InternalError, match="rank needs an order"):
        Stream(rank_calls(), order_column=None)
