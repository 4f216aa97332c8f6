"""Values compared as they lie in memory, against the numbers that they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import millstream as ms
from millstream.engine.state.equality import equal_values

NANS = np.array([0x7FF8_0000_0000_0000, 0xFFF8_0000_0000_1234], np.uint64).view(np.float64)
DOUBLES = [0.0, -0.0, NANS[0], NANS[1], 1.5, float("inf"), float("-inf")]
INTS = [0, 1, 2, 2**31 - 1]
LONGS = [*INTS[:3], 2**62, 10**12]
TEXTS = ["", "a", "b", "a text that is longer than a view holds itself"]
UUIDS = pa.ExtensionArray.from_storage(
    pa.uuid(), pa.array([bytes([i] * 16) for i in (0, 1, 2)], pa.binary(16))
)
# Values that differ by as little as they can.
LEAVES: dict[str, pa.Array] = {
    "null": pa.nulls(4),
    "bool": pa.array([False, True]),
    "int8": pa.array([0, 1, -128], pa.int8()),
    "uint64": pa.array([0, 1, 2**64 - 1], pa.uint64()),
    "float16": pa.array(np.array(DOUBLES, np.float16)),
    "float32": pa.array(DOUBLES, pa.float32()),
    "float64": pa.array(DOUBLES, pa.float64()),
    "date32": pa.array(INTS, pa.int32()).view(pa.date32()),
    "date64": pa.array([0, 86_400_000, 86_400_000 * 10**9]).view(pa.date64()),
    "time32": pa.array([0, 1, 2], pa.int32()).view(pa.time32("ms")),
    "time64": pa.array([0, 1, 2, 3]).view(pa.time64("ns")),
    "timestamp[s]": pa.array(LONGS).view(pa.timestamp("s")),
    "timestamp[ns]": pa.array(LONGS).view(pa.timestamp("ns", "UTC")),
    "duration": pa.array(LONGS).view(pa.duration("s")),
    "interval": pa.array([(0, 0, 0), (0, 0, 1), (1, 0, 0)], pa.month_day_nano_interval()),
    "decimal32": pa.array([0, 1, -1], pa.decimal32(9, 2)),
    "decimal64": pa.array([0, 1, -1], pa.decimal64(18, 2)),
    "decimal128": pa.array([0, 1, 10**30], pa.decimal128(38, 2)),
    "decimal256": pa.array([0, 1, 10**60], pa.decimal256(76, 2)),
    "fixed": pa.array([b"aa", b"ab", b"\0\0"], pa.binary(2)),
    "string": pa.array(TEXTS),
    "large_string": pa.array(TEXTS, pa.large_string()),
    "string_view": pa.array(TEXTS, pa.string_view()),
    "binary": pa.array([b"\xff", b"\xfe", b""]),
    "binary_view": pa.array([text.encode() for text in TEXTS], pa.binary_view()),
    "uuid": UUIDS,
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
}
ENCODINGS = ("plain", "dictionary", "runs")
LISTS = ("list", "large_list", "fixed", "list_view", "large_list_view")
N_FIXED = 2

# The layout of a column: what kind of values, and the layouts that they consist of.
Shape = tuple[str, Any]
names = st.sampled_from(sorted(LEAVES))
keys = st.tuples(st.just("plain"), names.filter(lambda name: name != "null"))


def parts(inner: st.SearchStrategy[Shape]) -> st.SearchStrategy[list[Shape]]:
    return st.lists(inner, min_size=1, max_size=3)


def has_no_views(shape: Shape) -> bool:
    return "y_view" not in str(shape) and "g_view" not in str(shape)


# Arrow takes no rows with runs in them, and none of unions with text views in them.
shapes: st.SearchStrategy[Shape] = st.tuples(st.just("runs"), names) | st.recursive(
    st.tuples(st.sampled_from(["plain", "dictionary"]), names),
    lambda inner: (
        st.tuples(st.sampled_from(LISTS), inner)
        | st.tuples(st.just("struct"), parts(inner))
        | st.tuples(st.sampled_from(["sparse", "dense"]), parts(inner.filter(has_no_views)))
        | st.tuples(st.just("map"), st.tuples(keys, inner))
    ),
    max_leaves=4,
)


def cells(shape: Shape) -> st.SearchStrategy[Any]:
    """Draw a value as numbers of leaves, or None."""
    kind, inner = shape
    if kind in ENCODINGS:
        return st.none() | st.integers(0, len(LEAVES[inner]) - 1)
    if kind == "struct":
        return st.none() | st.tuples(*(cells(part) for part in inner))
    if kind in ("sparse", "dense"):
        return st.one_of(st.tuples(st.just(i), cells(part)) for i, part in enumerate(inner))
    if kind == "map":
        return st.none() | st.lists(st.tuples(some(inner[0]), cells(inner[1])), max_size=2)
    n_most = N_FIXED if kind == "fixed" else 3
    n_least = N_FIXED if kind == "fixed" else 0
    return st.none() | st.lists(cells(inner), min_size=n_least, max_size=n_most)


def some(shape: Shape) -> st.SearchStrategy[Any]:
    return cells(shape).filter(lambda cell: cell is not None)


def junk(shape: Shape) -> Any:
    """Return a value to lie where nobody looks."""
    kind, inner = shape
    if kind in ENCODINGS:
        return len(LEAVES[inner]) - 1
    if kind == "struct":
        return tuple(junk(part) for part in inner)
    if kind in ("sparse", "dense"):
        return 0, junk(inner[0])
    if kind == "map":
        return [(junk(inner[0]), junk(inner[1]))]
    return [junk(inner)] * N_FIXED


def arrow(shape: Shape, values: list[Any]) -> pa.Array:
    """Make a slice of an array, with something under its NULLs and around its rows."""
    padded = [junk(shape), *values, junk(shape)]
    filled = [junk(shape) if value is None else value for value in padded]
    missing = [value is None for value in padded]
    return made(*shape, filled, missing).slice(1, len(values))


def made(kind: str, inner: Any, filled: list[Any], missing: list[bool]) -> pa.Array:
    mask = pa.array(missing)
    if kind in ENCODINGS:
        return leaves(kind, LEAVES[inner], filled, missing)
    if kind == "struct":
        children = [arrow(part, [row[i] for row in filled]) for i, part in enumerate(inner)]
        return pa.StructArray.from_arrays(children, [f"f{i}" for i in range(len(inner))], mask=mask)
    if kind in ("sparse", "dense"):
        return union(kind, inner, filled)
    entries = [entry for row in filled for entry in row]
    lengths = [len(row) for row in filled]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    if kind == "map":
        keys, items = (arrow(part, [e[i] for e in entries]) for i, part in enumerate(inner))
        seen = np.packbits(~np.array(missing), bitorder="little")
        array = pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items)
        buffers = [pa.py_buffer(seen), array.buffers()[1]]
        return pa.Array.from_buffers(array.type, len(filled), buffers, children=[array.values])
    child = arrow(inner, entries)
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(child, N_FIXED, mask=mask)
    if kind.endswith("view"):
        array_type = pa.ListViewArray if kind == "list_view" else pa.LargeListViewArray
        word = pa.int32() if kind == "list_view" else pa.int64()
        starts, sizes = pa.array(offsets[:-1], word), pa.array(lengths, word)
        return array_type.from_arrays(starts, sizes, child, mask=mask)
    array_type = pa.ListArray if kind == "list" else pa.LargeListArray
    word = pa.int32() if kind == "list" else pa.int64()
    return array_type.from_arrays(pa.array(offsets, word), child, mask=mask)


def leaves(kind: str, pool: pa.Array, filled: list[int], missing: list[bool]) -> pa.Array:
    numbers = pa.array(filled, pa.int64(), mask=np.array(missing))
    is_view = pool.type in (pa.string_view(), pa.binary_view())
    if kind == "dictionary":
        return pa.DictionaryArray.from_arrays(numbers, pool)
    if is_view:
        return pool.cast(pa.binary()).take(numbers).cast(pool.type)
    if kind == "runs":
        ends = pa.array(range(1, len(filled) + 1), pa.int32())
        return pa.RunEndEncodedArray.from_arrays(ends, pool.take(numbers))
    if isinstance(pool, pa.ExtensionArray) or pool.type == pa.null():
        return pool.take(numbers)
    full = pool.take(pa.array(filled, pa.int64()))
    seen = pa.py_buffer(np.packbits(~np.array(missing), bitorder="little"))
    return pa.Array.from_buffers(pool.type, len(full), [seen, *full.buffers()[1:]])


def union(kind: str, inner: list[Shape], filled: list[Any]) -> pa.Array:
    codes = pa.array([code for code, _ in filled], pa.int8())
    if kind == "sparse":
        children = [
            arrow(part, [cell if own == code else junk(part) for own, cell in filled])
            for code, part in enumerate(inner)
        ]
        return pa.UnionArray.from_sparse(codes, children)
    members: list[list[Any]] = [[] for _ in inner]
    places = []
    for code, cell in filled:
        places.append(len(members[code]))
        members[code].append(cell)
    children = [arrow(part, own) for part, own in zip(inner, members, strict=True)]
    return pa.UnionArray.from_dense(codes, pa.array(places, pa.int32()), children)


def canonical(shape: Shape, cell: Any) -> Any:
    """Return what values have in common that are equal."""
    kind, inner = shape
    if cell is None or (kind in ENCODINGS and inner == "null"):
        return None
    if kind in ENCODINGS:
        # Of floats, the first two are zeros and the next two are NaN.
        return cell // 2 * 2 if inner.startswith("float") and cell < 4 else cell
    if kind == "struct":
        return tuple(canonical(part, own) for part, own in zip(inner, cell, strict=True))
    if kind in ("sparse", "dense"):
        return cell[0], canonical(inner[cell[0]], cell[1])
    if kind == "map":
        return [(canonical(inner[0], key), canonical(inner[1], item)) for key, item in cell]
    return [canonical(inner, entry) for entry in cell]


@given(st.data())
def test_values_of_any_type_are_compared_in_pairs(data: st.DataObject) -> None:
    shape = data.draw(shapes)
    ones = data.draw(st.lists(cells(shape), max_size=6))
    others = [data.draw(st.just(one) | cells(shape)) for one in ones]
    left, right = arrow(shape, ones), arrow(shape, others)
    left.validate(full=True)
    expected = [
        canonical(shape, one) == canonical(shape, other)
        for one, other in zip(ones, others, strict=True)
    ]
    equal = equal_values(left, right)
    assert equal.dtype == np.bool_
    assert equal.tolist() == expected
    assert equal_values(left, left).all()


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_each_pair_of_values_of_a_type_is_told_apart(name: str, encoding: str) -> None:
    shape = (encoding, name)
    numbers = [*range(len(LEAVES[name])), None]
    pairs = [(one, other) for one in numbers for other in numbers]
    for around in (shape, ("list", shape), ("struct", [shape])):
        wrap = {"list": lambda cell: [cell], "struct": lambda cell: (cell,)}.get(
            around[0], lambda cell: cell
        )
        left, right = (arrow(around, [wrap(pair[side]) for pair in pairs]) for side in (0, 1))
        assert equal_values(left, right).tolist() == [
            canonical(shape, one) == canonical(shape, other) for one, other in pairs
        ]


def test_lists_that_lie_in_another_order_are_compared_by_their_entries() -> None:
    values = pa.array([1, 2, 3, 4, None])
    word = pa.int32()
    one = pa.ListViewArray.from_arrays(pa.array([3, 0, 0], word), pa.array([2, 2, 2], word), values)
    other = pa.array([[4, None], [1, 2], [2, 1]], one.type)
    assert equal_values(one, other).tolist() == [True, True, False]


TIMES = pa.array([1, 2, 3])
COLUMNS = {
    "time64[ns]": TIMES.view(pa.time64("ns")),
    "timestamp[ns]": TIMES.view(pa.timestamp("ns")),
    "beyond year 9999": pa.array([10**12, 10**12 + 1, 10**12 + 2], pa.timestamp("s")),
    "late date": pa.array([2**31 - 3, 2**31 - 2, 2**31 - 1], pa.int32()).view(pa.date32()),
    "long duration": pa.array([2**60, 2**60 + 1, 2**60 + 2], pa.duration("s")),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("expression", ["[max(c)]", "named_struct('m', max(c))"])
def test_changes_within_nested_values_come_out(name: str, expression: str) -> None:
    table = pa.table({"k": ["a"] * 6, "c": pa.concat_arrays([COLUMNS[name]] * 2)})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema)
    query = session.sql(f"SELECT k, {expression} AS z FROM t GROUP BY k")
    result = query.run({"t": table}, batch_rows=1)
    assert result["_op"].to_pylist() == ["+I", "+U", "+U"]
    nested = result["z"].combine_chunks()
    values = nested.values if pa.types.is_list(nested.type) else nested.field(0)
    assert values.equals(COLUMNS[name])


@pytest.mark.parametrize("expression", ["[max(c)]", "named_struct('m', max(c))", "max(n)"])
def test_nan_and_columns_of_nothing_do_not_change(expression: str) -> None:
    table = pa.table({"c": [float("nan")] * 3, "n": pa.nulls(3)})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema)
    result = session.sql(f"SELECT {expression} AS z FROM t").run({"t": table}, batch_rows=1)
    assert result["_op"].to_pylist() == ["+I"]


def test_changes_of_extension_types_come_out() -> None:
    table = pa.table({"u": UUIDS.take(pa.array([0, 0, 2]))})
    session = ms.Session(partitions=1)
    session.create_stream("t", table.schema)
    query = session.sql("SELECT last_value(u) AS u FROM t")
    result = query.run({"t": table}, batch_rows=1)
    assert result["_op"].to_pylist() == ["+I", "+U"]
    assert result["u"].combine_chunks().cast(pa.binary(16)).to_pylist() == [b"\0" * 16, b"\2" * 16]
