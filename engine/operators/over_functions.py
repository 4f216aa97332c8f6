"""How the window functions of a node are computed: by folds, or from rows that are kept."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.column_memory import new_column
from millstream.engine.columns import array_from_buffers, plain
from millstream.engine.dictionaries import of_type
from millstream.engine.operators.over_accumulators import (
    Accumulator,
    CountRows,
    CountValues,
    Extreme,
    FirstValue,
    Inputs,
    Ranks,
    Sum,
    as_array,
)
from millstream.engine.operators.over_carried import CarriedCall, CarriedResults
from millstream.engine.operators.over_decimals import RunningDecimals
from millstream.engine.operators.over_frames import (
    ALL_ROWS,
    EVERY_ROW,
    LAST_ROW,
    FrameKey,
    OverFrames,
)
from millstream.engine.operators.over_rows import FrameRows
from millstream.engine.operators.over_statistics import FrameMoments
from millstream.engine.operators.over_valid import ValidRows
from millstream.engine.operators.statistics import PAIR_STATISTICS, STATISTICS
from millstream.engine.state.decimals import average_of
from millstream.engine.state.frame_interfaces import Frame
from millstream.engine.state.frames import TimeFrame, spread_over_peers
from millstream.engine.state.keyed_rows import Keys
from millstream.engine.state.retained_rows import FirstRows
from millstream.errors import InternalError
from millstream.kernels.compile import F64, U8
from millstream.planner.nodes import Over, OverCall

__all__ = ["OverFunctions"]

_Finish: TypeAlias = Callable[[Inputs], pa.Array]
_Made = TypeVar("_Made", bound=Accumulator)


class OverFunctions:
    """The window functions of a node, and what they remember for each key.

    Args:
        node: The plan node.
        keys: Keys of the operator.
        functions: User-defined DataFusion functions by name.

    Raises:
        InternalError: The planner put a function on the kernel path that has no kernel.
    """

    def __init__(self, node: Over, keys: Keys, functions: Mapping[str, object]) -> None:
        self._node = node
        self._keys = keys
        is_timed = node.order_column is not None
        self._frames = OverFrames(keys.columns, is_timed=is_timed)
        self._accumulators: dict[Hashable, Accumulator] = {}
        self._first_columns: dict[str, None] = {}
        self._frame_columns: dict[FrameKey, dict[str, None]] = {}
        self._frames_read_first: set[FrameKey] = set()
        self._frame_calls: dict[FrameKey, list[OverCall]] = {}
        self._carried_calls: dict[CarriedCall, None] = {}
        self._valid_rows: dict[Hashable, ValidRows] = {}
        self._finishes = [self._lower(call) for call in node.calls]
        self._first_rows = FirstRows(self._schema(self._first_columns))
        self._first: pa.RecordBatch | None = None
        self._frame_rows = {key: self._rows_of(key, functions) for key in self._frame_columns}
        self._carried = self._new_carried()
        self._kept: list[FrameRows | CarriedResults | ValidRows] = [
            *self._frame_rows.values(),
            *self._valid_rows.values(),
        ]
        if self._carried is not None:
            self._kept.append(self._carried)
        self._keeps_keys = bool(self._first_columns or self._valid_rows) or not (
            all(isinstance(frame, TimeFrame) for frame in self._frames.all())
            and not any(isinstance(value, _KEEPS_KEYS) for value in self._accumulators.values())
        )

    @property
    def sees_peers(self) -> bool:
        """Whether rows see later rows of the same time, so that these have to be there."""
        is_timed = self._node.order_column is not None
        return is_timed and any(call.frame_kind == "range" for call in self._node.calls)

    @property
    def state_rows(self) -> int:
        """Rows that are kept, once for each frame that reaches them."""
        return self._frames.n_rows

    @property
    def state_bytes(self) -> int:
        """Bytes that are kept, without those of columns per key."""
        frames = sum(frame.state_bytes for frame in self._frames.all())
        rows = sum(kept.state_bytes for kept in self._kept)
        return frames + rows + self._first_rows.state_bytes

    def compute(self, inputs: Inputs) -> list[pa.Array]:
        """Compute all functions for the rows of a step: one array per call, by row.

        Raises:
            TransformFailed: A function fails on the rows of a frame.
        """
        rows = inputs.rows
        for frame in self._frames.all():
            frame.open(rows)
        for accumulator in self._accumulators.values():
            accumulator.update(inputs)
        for frame in self._frames.all():
            frame.fold()
        for accumulator in self._accumulators.values():
            accumulator.finish()
        for kept in self._kept:
            kept.update(inputs)
        if self._first_columns:
            self._first = self._first_rows.first(rows, inputs.batch)
        results = [finish(inputs) for finish in self._finishes]
        for frame in self._frames.all():
            frame.close()
        for kept in self._kept:
            kept.close(rows)
        self._first = None
        return results

    def expire(self, watermark: int) -> None:
        """Drop what rows at or after the watermark do not reach."""
        for frame in self._frames.all():
            if isinstance(frame, TimeFrame):
                frame.expire(watermark)
        for kept in self._kept:
            kept.compact()

    def live_keys(self) -> np.ndarray | None:
        """Return bool[n_keys], whether anything is kept of a key; None if all are kept for ever."""
        if self._keeps_keys:
            return None
        n_keys = self._keys.n_keys
        is_live = np.zeros(n_keys, np.bool_)
        for frame in self._frames.all():
            assert isinstance(frame, TimeFrame), "other frames keep all keys"
            is_live |= frame.heads.values[:n_keys] < frame.counts.values[:n_keys]
        return is_live

    def _lower(self, call: OverCall) -> _Finish:
        lower = _FUNCTIONS.get(call.function)
        is_constant = call.function not in _WITHOUT_ARGUMENT and not call.arguments
        # Values of constants are known to DataFusion alone.
        if call.path == "buffered" or is_constant:
            return self._buffered(call)
        if call.path == "carried":
            return self._carry(call)
        n_arguments_max = 2 if call.function in PAIR_STATISTICS else 1
        if lower is None or len(call.arguments) > n_arguments_max:
            n_arguments = len(call.arguments)
            raise InternalError(f"no kernel computes {call.function} over {n_arguments} columns")
        if call.ignores_nulls:
            return self._find_valid(call)
        if call.function in _DECIMAL_FOLDS and self._reads_decimals(call):
            return self._run_decimals(call)
        return lower(self, call)

    def _share(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        found = self._accumulators.get(key)
        if found is None:
            found = self._accumulators[key] = make()
        return found  # type: ignore[return-value]  # The key tells the class.

    def _count_of(self, key: FrameKey, column: str) -> CountValues:
        frame = self._frames.of(key)
        return self._share(("count", key, column), lambda: CountValues(frame, column))

    def _buffered(self, call: OverCall) -> _Finish:
        key: FrameKey = (call.frame_kind, call.preceding)
        if call.preceding is None:
            key = EVERY_ROW
        columns = self._frame_columns.setdefault(key, {})
        columns.update(dict.fromkeys(call.arguments))
        if call.frame_kind == "range" and self._node.order_column is not None:
            columns[self._node.order_column] = None
        self._frame_calls.setdefault(key, []).append(call)
        return lambda inputs: self._frame_rows[key].computed(call.name)

    def _carry(self, call: OverCall) -> _Finish:
        sees_peers = self._sees_peers(call)
        (column,) = call.arguments
        of_call = CarriedCall(
            call.function,
            column,
            self._carried_type(call),
        )
        self._carried_calls[of_call] = None

        def finish(inputs: Inputs) -> pa.Array:
            assert self._carried is not None, "made of these calls"
            result = self._carried.result(of_call, inputs, sees_peers=sees_peers)
            if pa.types.is_decimal(call.result_type):
                # Sums may have more digits than the type, at which a cast would look.
                return result.view(call.result_type)
            return of_type(result, call.result_type)

        return finish

    def _carried_type(self, call: OverCall) -> pa.DataType:
        """The type in which results are carried: sums of it have the same."""
        type_ = self._node.input.schema.field(call.arguments[0]).type
        if call.function == "sum":
            for is_kind, widest in _WIDEST_DECIMALS:
                if is_kind(type_):
                    return widest(type_.scale)
        return call.result_type

    def _count(self, call: OverCall) -> _Finish:
        key: FrameKey = (call.frame_kind, call.preceding)
        if call.arguments:
            count: Accumulator = self._count_of(key, call.arguments[0])
        else:
            frame = self._frames.of(key)
            count = self._share(("count", key, None), lambda: CountRows(frame))
        return lambda inputs: as_array(count.values, call.result_type, None)

    def _sum(self, call: OverCall) -> _Finish:
        total, count = self._sum_and_count(call, pa.types.is_floating(call.result_type))
        return lambda inputs: as_array(total.values, call.result_type, count.seen)

    def _avg(self, call: OverCall) -> _Finish:
        total, count = self._sum_and_count(call, True)

        def finish(inputs: Inputs) -> pa.Array:
            # Frames without values are NULL, whatever the division gives.
            means: F64 = new_column(len(total.values), np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                np.divide(total.values, count.values, out=means)
            return as_array(means, call.result_type, count.seen)

        return finish

    def _sum_and_count(self, call: OverCall, is_float: bool) -> tuple[Sum, CountValues]:
        key: FrameKey = (call.frame_kind, call.preceding)
        (column,) = call.arguments
        frame = self._frames.of(key)
        total = self._share(
            ("sum", key, column, is_float), lambda: Sum(frame, column, is_float=is_float)
        )
        return total, self._count_of(key, column)

    def _reads_decimals(self, call: OverCall) -> bool:
        return any(
            pa.types.is_decimal(self._node.input.schema.field(name).type) for name in call.arguments
        )

    def _run_decimals(self, call: OverCall) -> _Finish:
        (column,) = call.arguments
        fold, has_peers = _DECIMAL_FOLDS[call.function], self._sees_peers(call)
        decimals = self._share(
            (fold, column, has_peers),
            lambda: RunningDecimals(self._keys.columns, column, fold, has_peers=has_peers),
        )
        if call.function != "avg":
            return lambda inputs: decimals.array(call.result_type)
        count = self._count_of((call.frame_kind, None), column)
        sum_type = pa.decimal128(38, self._node.input.schema.field(column).type.scale)

        def finish(inputs: Inputs) -> pa.Array:
            counts = array_from_buffers(count.values, pa.int64(), None)
            return average_of(decimals.array(sum_type), counts, call.result_type)

        return finish

    def _find_valid(self, call: OverCall) -> _Finish:
        (column,) = call.arguments
        type_ = self._node.input.schema.field(column).type
        takes_first, is_before = call.function == "first_value", call.function == "lag"
        key = (column, takes_first, is_before, self._sees_peers(call))
        rows = self._valid_rows.get(key)
        if rows is None:
            rows = self._valid_rows[key] = ValidRows(
                self._keys.columns,
                column,
                type_,
                takes_first=takes_first,
                is_before=is_before,
                has_peers=key[-1],
            )
        return lambda inputs: of_type(rows.result(), call.result_type)

    def _sees_peers(self, call: OverCall) -> bool:
        return call.frame_kind == "range" and self._node.order_column is not None

    def _extreme(self, call: OverCall) -> _Finish:
        key: FrameKey = (call.frame_kind, call.preceding)
        (column,) = call.arguments
        frame, type_ = self._frames.of(key), self._node.input.schema.field(column).type
        is_greatest = call.function == "max"
        extreme = self._share(
            (call.function, key, column),
            lambda: Extreme(frame, column, type_, is_greatest=is_greatest),
        )
        count = self._count_of(key, column)
        return lambda inputs: as_array(extreme.values, call.result_type, count.seen)

    def _statistic(self, call: OverCall) -> _Finish:
        compute = {**STATISTICS, **PAIR_STATISTICS}[call.function]
        key: FrameKey = (call.frame_kind, call.preceding)
        frame = self._frames.with_moments(key)
        moments = self._share(
            ("moments", key, call.arguments), lambda: FrameMoments(frame, call.arguments)
        )
        return lambda inputs: compute(moments.values)

    def _row_number(self, call: OverCall) -> _Finish:
        frame = self._frames.of(ALL_ROWS)
        numbers = self._share(("count", ALL_ROWS, None), lambda: CountRows(frame))
        return lambda inputs: as_array(numbers.values, call.result_type, None)

    def _rank(self, call: OverCall) -> _Finish:
        if self._node.order_column is None:
            raise InternalError(f"{call.function} needs an order by event time")
        columns, is_dense = self._keys.columns, call.function == "dense_rank"
        ranks = self._share((call.function,), lambda: Ranks(columns, is_dense=is_dense))
        return lambda inputs: as_array(ranks.values, call.result_type, None)

    def _first_value(self, call: OverCall) -> _Finish:
        (column,) = call.arguments
        if call.preceding is not None:
            key: FrameKey = (call.frame_kind, call.preceding)
            value = self._first_word_of(key, column)
            if value is not None:
                return lambda inputs: as_array(value.values, call.result_type, value.seen)
            first = self._first_of(key, column)
            return lambda inputs: of_type(first(), call.result_type)
        self._first_columns[column] = None

        def finish(inputs: Inputs) -> pa.Array:
            assert self._first is not None, "a step is open"
            return of_type(self._first.column(column), call.result_type)

        return finish

    def _last_value(self, call: OverCall) -> _Finish:
        (column,) = call.arguments

        def finish(inputs: Inputs) -> pa.Array:
            array = plain(inputs.batch.column(column))
            if call.frame_kind == "range" and inputs.rows.has_peers:
                last = np.arange(inputs.rows.n_rows)
                spread_over_peers(inputs.rows, last)
                array = array.take(array_from_buffers(last, pa.int64(), None))
            return of_type(array, call.result_type)

        return finish

    def _lag(self, call: OverCall) -> _Finish:
        (column,) = call.arguments
        assert call.preceding is not None, "lag looks a number of rows back"
        key: FrameKey = ("rows", call.preceding)
        frame, n_back = self._frames.of(key), call.preceding
        value = self._first_word_of(key, column)
        if value is not None:
            return lambda inputs: as_array(
                value.values, call.result_type, _where_full(frame, n_back, value.seen)
            )
        first = self._first_of(key, column)

        def finish(inputs: Inputs) -> pa.Array:
            values, is_full = first(), _where_full(frame, n_back, None)
            if is_full is not None:
                mask = pa.array(is_full.view(np.bool_))
                values = pc.if_else(mask, values, pa.scalar(None, values.type))
            return of_type(values, call.result_type)

        return finish

    def _first_word_of(self, key: FrameKey, column: str) -> FirstValue | None:
        type_ = self._node.input.schema.field(column).type
        if not FirstValue.takes(type_):
            return None
        frame = self._frames.with_first_words(key)
        return self._share(("first", key, column), lambda: FirstValue(frame, column, type_))

    def _first_of(self, key: FrameKey, column: str) -> Callable[[], pa.Array]:
        self._frame_columns.setdefault(key, {})[column] = None
        self._frames_read_first.add(key)
        return lambda: self._frame_rows[key].first(column)

    def _new_carried(self) -> CarriedResults | None:
        if not self._carried_calls:
            return None
        frame = self._frames.with_rings(LAST_ROW)
        return CarriedResults(frame, list(self._carried_calls))

    def _rows_of(self, key: FrameKey, functions: Mapping[str, object]) -> FrameRows:
        frame = self._frames.with_rings(key)
        # A batch without columns would not know its number of rows.
        names = self._frame_columns[key] or self._node.input.schema.names[:1]
        calls = self._frame_calls.get(key, ())
        return FrameRows(
            frame,
            self._schema(names),
            calls,
            self._node.order_column,
            functions,
            reads_first=key in self._frames_read_first,
        )

    def _schema(self, names: Mapping[str, None] | list[str]) -> pa.Schema:
        return pa.schema([self._node.input.schema.field(name) for name in names])


_Lower: TypeAlias = Callable[[OverFunctions, OverCall], _Finish]

_WIDEST_DECIMALS: list[tuple[Callable[[pa.DataType], bool], Callable[[int], pa.DataType]]] = [
    (pa.types.is_decimal32, partial(pa.decimal32, 9)),
    (pa.types.is_decimal64, partial(pa.decimal64, 18)),
    (pa.types.is_decimal256, partial(pa.decimal256, 76)),
]
_DECIMAL_FOLDS: dict[str, Literal["sum", "min", "max"]] = {
    "avg": "sum",
    "max": "max",
    "min": "min",
    "sum": "sum",
}
# What these know of a key does not lie in frames.
_KEEPS_KEYS = (Ranks, RunningDecimals)
_WITHOUT_ARGUMENT = frozenset({"count", "dense_rank", "rank", "row_number"})
_FUNCTIONS: dict[str, _Lower] = {
    "avg": OverFunctions._avg,
    "count": OverFunctions._count,
    "dense_rank": OverFunctions._rank,
    "first_value": OverFunctions._first_value,
    "lag": OverFunctions._lag,
    "last_value": OverFunctions._last_value,
    "max": OverFunctions._extreme,
    "min": OverFunctions._extreme,
    "rank": OverFunctions._rank,
    "row_number": OverFunctions._row_number,
    "sum": OverFunctions._sum,
    **dict.fromkeys(STATISTICS, OverFunctions._statistic),
    **dict.fromkeys(PAIR_STATISTICS, OverFunctions._statistic),
}


def _where_full(frame: Frame, n_back: int, seen: U8 | None) -> U8 | None:
    """Leave out the rows that have not as many before them; None if there are none to leave out."""
    is_full = frame.lengths > n_back
    if is_full.all():
        return seen
    return is_full.view(np.uint8) if seen is None else seen & is_full.view(np.uint8)
