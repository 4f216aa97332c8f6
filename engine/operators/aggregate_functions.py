"""Which accumulators an aggregate function needs, and how its result is computed from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.state.accumulators import AccumulatorSpec
from millstream.errors import InternalError
from millstream.kernels.aggregation import Opcode
from millstream.planner.nodes import AggregateCall

__all__ = ["AccumulatorPlan", "empty_group", "plan_accumulators"]

_Finish = Callable[[Sequence[pa.Array]], pa.Array]

_SUM = {"int64": Opcode.SUM_I64, "uint64": Opcode.SUM_U64, "double": Opcode.SUM_F64}
_MIN = {"int64": Opcode.MIN_I64, "uint64": Opcode.MIN_U64, "double": Opcode.MIN_F64}
_MAX = {"int64": Opcode.MAX_I64, "uint64": Opcode.MAX_U64, "double": Opcode.MAX_F64}


@dataclass(slots=True)
class AccumulatorPlan:
    """The accumulators of a list of calls, shared where two calls need the same one.

    Attributes:
        specs: The accumulators.
        finishes: Per call, the function from all accumulator columns to the result column.
    """

    specs: list[AccumulatorSpec] = field(default_factory=list)
    finishes: list[_Finish] = field(default_factory=list)

    def need(self, spec: AccumulatorSpec) -> int:
        """Return the index of an accumulator, adding it if it is new."""
        if spec not in self.specs:
            self.specs.append(spec)
        return self.specs.index(spec)


def plan_accumulators(calls: Sequence[AggregateCall], schema: pa.Schema) -> AccumulatorPlan:
    """Choose the accumulators for calls on the kernel path.

    Args:
        calls: Aggregates over columns of ``schema``.
        schema: Input of the aggregate before any exchange.

    Raises:
        InternalError: If the planner put a function on the kernel path that has no kernel.
    """
    plan = AccumulatorPlan()
    for call in calls:
        lower = _FUNCTIONS.get(call.function)
        if lower is None or len(call.arguments) > 1:
            raise InternalError(
                f"no kernel computes {call.function} over {len(call.arguments)} columns"
            )
        plan.finishes.append(lower(plan, call, schema))
    return plan


def _state_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_floating(type_):
        return pa.float64()
    return pa.uint64() if pa.types.is_unsigned_integer(type_) else pa.int64()


def _count(plan: AccumulatorPlan, call: AggregateCall, schema: pa.Schema) -> _Finish:
    column = call.arguments[0] if call.arguments else None
    index = _need_count(plan, column)
    return lambda columns: columns[index]


def _need_count(plan: AccumulatorPlan, column: str | None) -> int:
    return plan.need(AccumulatorSpec(Opcode.COUNT, Opcode.SUM_I64, column, pa.int64(), False))


def _sum(plan: AccumulatorPlan, call: AggregateCall, schema: pa.Schema) -> _Finish:
    column = call.arguments[0]
    state_type = _state_type(call.result_type)
    opcode = _SUM[str(state_type)]
    index = plan.need(AccumulatorSpec(opcode, opcode, column, state_type, True))
    return lambda columns: _as_type(columns[index], call.result_type)


def _avg(plan: AccumulatorPlan, call: AggregateCall, schema: pa.Schema) -> _Finish:
    column = call.arguments[0]
    total = plan.need(AccumulatorSpec(Opcode.SUM_F64, Opcode.SUM_F64, column, pa.float64(), True))
    count = _need_count(plan, column)

    def finish(columns: Sequence[pa.Array]) -> pa.Array:
        return _as_type(
            pc.divide(columns[total], columns[count].cast(pa.float64())), call.result_type
        )

    return finish


def _extreme(
    opcodes: dict[str, Opcode],
) -> Callable[[AccumulatorPlan, AggregateCall, pa.Schema], _Finish]:
    def lower(plan: AccumulatorPlan, call: AggregateCall, schema: pa.Schema) -> _Finish:
        column = call.arguments[0]
        state_type = _state_type(schema.field(column).type)
        opcode = opcodes[str(state_type)]
        index = plan.need(AccumulatorSpec(opcode, opcode, column, state_type, True))
        return lambda columns: _as_type(columns[index], call.result_type)

    return lower


_FUNCTIONS: dict[str, Callable[[AccumulatorPlan, AggregateCall, pa.Schema], _Finish]] = {
    "count": _count,
    "sum": _sum,
    "avg": _avg,
    "mean": _avg,
    "min": _extreme(_MIN),
    "max": _extreme(_MAX),
}


def _as_type(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Give state values their result type: the same bits, or the low half of them."""
    if array.type == type_:
        return array
    if type_.bit_width == array.type.bit_width:
        return array.view(type_)
    storage = {32: pa.int32(), 16: pa.int16(), 8: pa.int8()}[type_.bit_width]
    if pa.types.is_floating(type_):
        return array.cast(type_, safe=False)
    if pa.types.is_unsigned_integer(type_):
        return array.cast(type_)
    narrow = array.cast(storage)
    return narrow if type_ == storage else narrow.view(type_)


def empty_group(finish: _Finish, specs: Sequence[AccumulatorSpec]) -> pa.Array:
    """Return the result of a call for a group without rows, as a one-row array."""
    return finish([pa.array([None if spec.can_be_null else 0], spec.state_type) for spec in specs])
