"""Distinct values of groups: what counts as one, growth, and groups that merge or go."""

import decimal

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine.state.accumulators import AccumulatorSpec
from millstream.engine.state.distinct import DistinctValues
from millstream.engine.state.pair_set import PairSet
from millstream.engine.state.words import WordSpec
from millstream.kernels.programs import Opcode

COUNT = WordSpec(Opcode.COUNT, "x")
SUM = WordSpec(Opcode.SUM_I64, "x")


def values_of(type_, *specs: AccumulatorSpec):
    return DistinctValues("x", type_, specs)


def add(values, array, owners):
    values.add(pa.record_batch({"x": array}), np.array(owners, np.uint32))


def counted(values, n_groups):
    return values.states(slice(0, n_groups))[0].to_pylist()


def test_a_set_grows_over_many_pairs():
    pairs = PairSet(1)
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        owners = rng.integers(0, 100, 5000).astype(np.uint32)
        words = rng.integers(0, 2000, 5000)
        new_rows = pairs.add([words], None, owners)
        got = set(zip(owners[new_rows].tolist(), words[new_rows].tolist(), strict=True))
        assert len(got) == len(new_rows)
        assert not got & seen
        seen |= got
        assert seen >= set(zip(owners.tolist(), words.tolist(), strict=True))
    assert pairs.n_pairs == len(seen)
    # Twelve bytes of a pair, in a set that has just grown or is about to.
    assert pairs.state_bytes <= 64 * pairs.n_pairs


def test_a_set_is_as_small_as_what_is_left_of_it():
    pairs = PairSet(1)
    # Too far from each other to be bits.
    pairs.add([np.arange(100_000) << 40], None, np.zeros(100_000, np.uint32))
    large = pairs.state_bytes
    pairs.replace([np.arange(10)], np.arange(10).astype(np.uint32))
    assert pairs.n_pairs == 10
    assert pairs.state_bytes * 100 < large
    owners, words = pairs.of(np.arange(10))
    assert sorted(owners.tolist()) == sorted(words[0].tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, 1, None, 2], pa.int64()), 2),
        (pa.array([1, 1, None, 2], pa.uint8()), 2),
        (pa.array([True, None, True, True]), 1),
        (pa.array([0.0, -0.0, float("nan"), -float("nan"), None]), 2),
        (pa.array(["a", None, "a", ""]), 2),
        (pa.array(["a", None, "a", ""], pa.string_view()), 2),
        (pa.array([b"a", b"b", None], pa.binary(1)), 2),
        (pa.array([decimal.Decimal("1.5"), decimal.Decimal("1.50"), None]), 1),
        (pa.array(["a", None, "a"]).dictionary_encode(), 1),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, 0]), pa.array(["a", None])), 1),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0]), pa.array([7, None, 7])), 1),
        (pa.array([None, None]), 0),
        (pa.array([None, None], pa.int64()), 0),
        (pa.array([], pa.int64()), 0),
    ],
)
def test_what_counts_as_one_value(array, expected):
    values = values_of(array.type, COUNT)
    add(values, array, [0] * len(array))
    assert counted(values, 1) == [expected]


def test_slices_of_arrays_count_what_they_show():
    values = values_of(pa.int64(), COUNT)
    add(values, pa.array([1, None, 2, 2, 3])[1:4], [0, 0, 1])
    assert counted(values, 2) == [1, 1]


@pytest.mark.parametrize("specs", [(COUNT,), (COUNT, SUM)])
def test_a_group_takes_over_the_values_of_another(specs):
    values = values_of(pa.int64(), *specs)
    add(values, pa.array([1, 2, 3, 3, 4]), [0, 0, 1, 1, 2])
    add(values, pa.array([2]), [1])
    values.merge(np.array([0, 2], np.uint32), np.array([1, 1], np.uint32))
    values.retain(np.array([1], np.uint32))
    assert counted(values, 1) == [4]
    if len(specs) > 1:
        assert values.states(slice(0, 1))[1].to_pylist() == [10]


@pytest.mark.parametrize("type_", [pa.string(), pa.int64()])
def test_groups_that_stay_keep_their_values(type_):
    values = values_of(type_, COUNT)
    array = pa.array(range(3000)).cast(type_)
    add(values, array, np.arange(3000) % 3)
    values.retain(np.array([2, 0], np.uint32))
    assert counted(values, 2) == [1000, 1000]
    # The values of 2 are known to its new number, those of 1 to nobody.
    add(values, array, np.arange(3000) % 3)
    assert counted(values, 3) == [2000, 2000, 1000]
    values.retain(np.array([], np.uint32))
    add(values, array, [0] * 3000)
    assert counted(values, 1) == [3000]


def test_many_values_that_are_mostly_new_are_counted():
    rng = np.random.default_rng(2)
    table = pa.table({"k": rng.integers(0, 100, 300_000), "x": rng.integers(0, 1 << 40, 300_000)})
    expected = table.group_by("k").aggregate([("x", "count_distinct")]).sort_by("k")
    result = ms.sql("SELECT k, count(DISTINCT x) AS n FROM t GROUP BY k EMIT FINAL", t=table)
    assert result.sort_by("k")["n"].to_pylist() == expected["x_count_distinct"].to_pylist()
