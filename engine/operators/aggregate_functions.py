"""Which accumulators an aggregate function needs, and how its result is computed from them.

Sums of integers and durations wrap around at 64 bits and those of decimals at 128, as DataFusion's
do. Averages of integers are sums of doubles divided by the count.

Where DataFusion's answer depends on how rows are cut into batches, or on where among the rows a
value stands, there is one answer here: NaN is the greatest float; distinct floats have one NaN and
one zero; an infinite value makes covariances NaN; and of rows that agree in an ORDER BY the one
that came in first is the first value, the one that came in last the last value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_column
from millstream.engine.columns import array_from_buffers, fixed_values
from millstream.engine.dictionaries import encoded
from millstream.engine.operators.statistics import PAIR_STATISTICS, STATISTICS
from millstream.engine.state.accumulators import AccumulatorSpec
from millstream.engine.state.decimals import DecimalSpec, average_of
from millstream.engine.state.moments import CoMomentsSpec, MomentsSpec, moments_of
from millstream.engine.state.picks import PickSpec, picked_values
from millstream.engine.state.state_columns import valid_flags
from millstream.engine.state.text_extremes import TextExtremeSpec
from millstream.engine.state.words import WordSpec
from millstream.errors import InternalError
from millstream.kernels.programs import Opcode
from millstream.planner.nodes import AggregateCall

__all__ = ["AccumulatorPlan", "Finish", "WordResult", "plan_accumulators"]

Finish: TypeAlias = Callable[[Sequence[pa.Array]], pa.Array]


class WordResult(NamedTuple):
    """How words of accumulators make results of 64 bits.

    Attributes:
        value: The accumulator that holds the value; a double, if there is a divisor.
        divisor: The accumulator that holds the integer to divide it by, or None.
    """

    value: int
    divisor: int | None = None


@dataclass(slots=True)
class AccumulatorPlan:
    """The accumulators of a list of calls, shared where two calls need the same one.

    Attributes:
        schema: Input of the aggregate before any exchange.
        specs: The accumulators.
        finishes: Per call, the function from all accumulator columns to the result column.
        word_results: Per call, how words make its results; None where it takes more than that.
    """

    schema: pa.Schema
    specs: list[AccumulatorSpec] = field(default_factory=list)
    finishes: list[Finish] = field(default_factory=list)
    word_results: list[WordResult | None] = field(default_factory=list)

    def need(self, spec: AccumulatorSpec) -> int:
        """Return the index of an accumulator, adding it if it is new."""
        if spec not in self.specs:
            self.specs.append(spec)
        return self.specs.index(spec)

    def count(self, column: str | None) -> int:
        """Return the index of the accumulator that counts rows, or the values of a column."""
        return self.need(WordSpec(Opcode.COUNT, column))

    def type_of(self, column: str) -> pa.DataType:
        """Return the type of the values of an input column, as the accumulators see them."""
        return _decoded(self.schema.field(column).type)


def plan_accumulators(calls: Sequence[AggregateCall], schema: pa.Schema) -> AccumulatorPlan:
    """Choose the accumulators for calls on the kernel path.

    Args:
        calls: Aggregates over columns of ``schema``.
        schema: Input of the aggregate before any exchange.

    Raises:
        InternalError: If the planner put a function on the kernel path that has no kernel.
    """
    plan = AccumulatorPlan(schema)
    for call in calls:
        lower = _FUNCTIONS.get(call.function)
        if lower is None:
            raise InternalError(f"no kernel computes {call.function}")
        lowered = lower(plan, call)
        plan.finishes.append(lowered.finish)
        plan.word_results.append(lowered.words)
    return plan


class _Lowered(NamedTuple):
    """How accumulators make results: of Arrow columns, and of words where that is enough."""

    finish: Finish
    words: WordResult | None = None


_Lower = Callable[[AccumulatorPlan, AggregateCall], _Lowered]


def _state(plan: AccumulatorPlan, index: int, type_: pa.DataType) -> _Lowered:
    """Give what an accumulator holds as values of a type."""
    spec = plan.specs[index]
    is_same = isinstance(spec, WordSpec) and (
        spec.state_type == type_
        or (_is_integral(spec.state_type) and _is_integral(type_) and type_.bit_width == 64)
    )
    return _Lowered(
        lambda states: _as_type(states[index], type_), WordResult(index) if is_same else None
    )


def _count(plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    index = plan.count(call.arguments[0] if call.arguments else None)
    return _Lowered(lambda states: states[index], WordResult(index))


def _sum(plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    """Add up values; integers that overflow wrap around in silence, because DataFusion's do."""
    return _state(plan, _need_sum(plan, call.arguments[0]), call.result_type)


def _need_sum(plan: AccumulatorPlan, column: str) -> int:
    type_ = plan.type_of(column)
    if pa.types.is_decimal128(type_):
        return plan.need(DecimalSpec("sum", column, pa.decimal128(38, type_.scale)))
    return plan.need(WordSpec(_by_sign(type_, _SUMS), column))


def _avg(plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    column = call.arguments[0]
    type_ = plan.type_of(column)
    count = plan.count(column)
    if pa.types.is_decimal128(type_):
        total = _need_sum(plan, column)
        return _Lowered(lambda states: average_of(states[total], states[count], call.result_type))
    if pa.types.is_duration(type_):
        total = _need_sum(plan, column)
        return _Lowered(
            lambda states: _truncated(states[total], states[count]).view(call.result_type)
        )
    total = plan.need(WordSpec(Opcode.SUM_F64, column))
    return _Lowered(lambda states: _divided(states[total], states[count]), WordResult(total, count))


def _extreme(name: Literal["min", "max"], plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    column = call.arguments[0]
    type_ = plan.type_of(column)
    if pa.types.is_decimal128(type_):
        index = plan.need(DecimalSpec(name, column, type_))
    elif _is_bytes(type_):
        index = plan.need(TextExtremeSpec(column, name == "max", type_))
    else:
        index = plan.need(WordSpec(_by_sign(type_, _MINIMA if name == "min" else _MAXIMA), column))
    return _state(plan, index, call.result_type)


def _fold(opcode: Opcode, plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    return _state(plan, plan.need(WordSpec(opcode, call.arguments[0])), call.result_type)


def _statistic(plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    index = plan.need(MomentsSpec(call.arguments[0]))
    compute = STATISTICS[call.function]
    return _Lowered(lambda states: compute(moments_of(states[index])))


def _pair_statistic(plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    index = plan.need(CoMomentsSpec(*call.arguments))
    compute = PAIR_STATISTICS[call.function]
    return _Lowered(lambda states: compute(moments_of(states[index])))


def _pick(plan: AccumulatorPlan, call: AggregateCall) -> _Lowered:
    column, *condition = call.arguments
    index = plan.need(
        PickSpec(
            column,
            takes_last=call.function == "last_value",
            order_by=call.order_by,
            condition=condition[0] if condition else None,
            ignores_nulls=call.function == "any_value",
            value_type=plan.type_of(column),
        )
    )
    return _Lowered(lambda states: _as_type(picked_values(states[index]), call.result_type))


_SUMS = (Opcode.SUM_I64, Opcode.SUM_U64, Opcode.SUM_F64)
_MINIMA = (Opcode.MIN_I64, Opcode.MIN_U64, Opcode.MIN_F64)
_MAXIMA = (Opcode.MAX_I64, Opcode.MAX_U64, Opcode.MAX_F64)

_FUNCTIONS: dict[str, _Lower] = {
    "count": _count,
    "sum": _sum,
    "avg": _avg,
    "min": partial(_extreme, "min"),
    "max": partial(_extreme, "max"),
    "bool_and": partial(_fold, Opcode.BIT_AND),
    "bool_or": partial(_fold, Opcode.BIT_OR),
    "bit_and": partial(_fold, Opcode.BIT_AND),
    "bit_or": partial(_fold, Opcode.BIT_OR),
    "bit_xor": partial(_fold, Opcode.BIT_XOR),
    "first_value": _pick,
    "last_value": _pick,
    "any_value": _pick,
    **dict.fromkeys(STATISTICS, _statistic),
    **dict.fromkeys(PAIR_STATISTICS, _pair_statistic),
}


def _by_sign(type_: pa.DataType, opcodes: tuple[Opcode, Opcode, Opcode]) -> Opcode:
    """Choose among opcodes for signed integers, for unsigned ones and for doubles."""
    if pa.types.is_floating(type_):
        return opcodes[2]
    is_unsigned = pa.types.is_unsigned_integer(type_) or pa.types.is_boolean(type_)
    return opcodes[1 if is_unsigned else 0]


def _decoded(type_: pa.DataType) -> pa.DataType:
    """Return the type that values have without dictionaries and views."""
    if pa.types.is_dictionary(type_):
        return _decoded(type_.value_type)
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(
        type_, type_
    )


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
    )


def _divided(sums: pa.Array, counts: pa.Array) -> pa.Array:
    """Divide doubles by counts; NULL where there is nothing to divide."""
    totals, divisors = fixed_values(sums), fixed_values(counts)
    if sums.null_count == 0:
        # NumPy divides in one call what takes two of Arrow's, which matters where groups are few.
        quotients = new_column(len(totals), np.float64)
        np.divide(totals, divisors, out=quotients)
        return array_from_buffers(quotients, pa.float64(), None)
    return array_from_buffers(totals / np.maximum(divisors, 1), pa.float64(), valid_flags(sums))


def _truncated(sums: pa.Array, counts: pa.Array) -> pa.Array:
    """Divide integers by counts, towards zero; NULL where there is nothing to divide."""
    totals, divisors = fixed_values(sums), np.maximum(fixed_values(counts), 1)
    quotients = totals // divisors
    quotients += (quotients < 0) & (quotients * divisors != totals)
    flags = valid_flags(sums)
    return array_from_buffers(quotients, pa.int64(), flags if len(flags) > 0 else None)


def _as_type(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Give values of an accumulator the type of a result."""
    if array.type == type_:
        return array
    if pa.types.is_dictionary(type_):
        return encoded(_as_type(array, type_.value_type), type_)
    if not _is_word(array.type):
        return _as_same_kind(array, type_)
    if pa.types.is_floating(type_):
        return array.cast(type_, safe=False)
    if type_.bit_width == 64:
        return array.view(type_)
    # The word has the value of the narrow type.
    if pa.types.is_boolean(type_):
        return array.cast(type_)
    if pa.types.is_unsigned_integer(type_):
        return array.view(pa.uint64()).cast(type_)
    narrow = array.cast({32: pa.int32(), 16: pa.int16(), 8: pa.int8()}[type_.bit_width])
    return narrow if narrow.type == type_ else narrow.view(type_)


def _as_same_kind(array: pa.Array, type_: pa.DataType) -> pa.Array:
    # Sums of decimals may have more digits than any type allows, which a cast would look at.
    return array.view(type_) if pa.types.is_decimal(type_) else array.cast(type_)


def _is_integral(type_: pa.DataType) -> bool:
    """Whether values are integers, or times that are kept as such."""
    return bool(
        pa.types.is_integer(type_)
        or (pa.types.is_temporal(type_) and not pa.types.is_interval(type_))
    )


def _is_word(type_: pa.DataType) -> bool:
    return type_ in (pa.int64(), pa.uint64(), pa.float64())
