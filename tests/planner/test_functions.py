"""Functions of the user in queries."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from datafusion import Accumulator, udaf, udf

from millstream.planner import plan_query
from millstream.planner.nodes import Aggregate, Over


class Longest(Accumulator):
    """Length of the longest text."""

    def __init__(self):
        self.length = 0

    def update(self, values):
        self.length = max(self.length, pc.max(pc.utf8_length(values)).as_py() or 0)

    def merge(self, states):
        self.length = max(self.length, pc.max(states[0]).as_py() or 0)

    def state(self):
        return [pa.scalar(self.length)]

    def evaluate(self):
        return pa.scalar(self.length)


@pytest.fixture
def extended(catalog):
    catalog.functions["half"] = udf(
        lambda values: pc.divide(values, 2.0), [pa.float64()], pa.float64(), "volatile", "half"
    )
    catalog.functions["longest"] = udaf(
        Longest, pa.string(), pa.int64(), [pa.int64()], "volatile", "longest"
    )
    return catalog


def test_a_scalar_function_is_typed_like_any_other(extended):
    plan = plan_query("SELECT HALF(price) AS h FROM trades WHERE half(price) > 1", extended)
    assert plan.schema == pa.schema([("h", pa.float64())])


def test_an_aggregate_function_groups_and_is_buffered(extended):
    root = plan_query("SELECT longest(symbol) AS l FROM trades EMIT FINAL", extended).root
    assert isinstance(root.input, Aggregate)
    (call,) = root.input.calls
    assert (call.function, call.path) == ("longest", "buffered")
    assert call.result_type == pa.int64()


def test_a_function_of_the_user_goes_before_one_with_a_kernel(catalog):
    for name in ("max", "first_value"):
        catalog.functions[name] = udaf(
            Longest, pa.string(), pa.int64(), [pa.int64()], "volatile", name
        )
        root = plan_query(f"SELECT {name}(symbol) AS l FROM trades EMIT FINAL", catalog).root
        assert isinstance(root.input, Aggregate)
        (call,) = root.input.calls
        assert (call.path, call.result_type) == ("buffered", pa.int64())
        assert call.reason == f"the user's {name} has no kernel"


def test_a_window_function_of_the_user_goes_before_one_with_a_kernel(catalog):
    for name in ("max", "stddev"):
        catalog.functions[name] = udaf(
            Longest, pa.string(), pa.int64(), [pa.int64()], "volatile", name
        )
        over = "OVER (ORDER BY ts ROWS UNBOUNDED PRECEDING)"
        root = plan_query(f"SELECT {name}(symbol) {over} AS l FROM trades", catalog).root
        assert isinstance(root.input, Over)
        (call,) = root.input.calls
        assert (call.function, call.path, call.result_type) == (name, "buffered", pa.int64())


def test_a_function_that_is_not_registered_is_unknown(refusal):
    assert refusal("SELECT ^half(price) FROM trades").reason == "unknown function 'half'"
