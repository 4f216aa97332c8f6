"""Orders of rows against Python's stable sort."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.ordering import group_rows, order_by_time, take_times

INT64 = np.iinfo(np.int64)

times = st.integers(-5, 5) | st.integers(INT64.min, INT64.max) | st.just(INT64.max)


def read_only(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    view = values.view()
    view.flags.writeable = False
    return view


@given(hnp.arrays(np.int64, st.integers(0, 60), elements=times))
def test_order_by_time(values: npt.NDArray[np.int64]) -> None:
    order, spare = np.empty(len(values), np.uint32), np.empty(len(values), np.uint32)
    expected = sorted(range(len(values)), key=lambda row: values[row])
    is_moved = order_by_time(read_only(values), order, spare)
    assert is_moved == (expected != list(range(len(values))))
    if is_moved:
        assert order.tolist() == expected
        taken = np.empty(len(values), np.int64)
        take_times(read_only(values), order, taken)
        assert taken.tolist() == sorted(values.tolist())


def test_order_by_time_of_many_rows() -> None:
    values = np.random.default_rng(7).integers(-(10**12), 10**12, 5000)
    order, spare = np.empty(5000, np.uint32), np.empty(5000, np.uint32)
    assert order_by_time(values, order, spare)
    assert (order == np.argsort(values, kind="stable")).all()


@given(
    hnp.arrays(np.uint32, st.integers(0, 60), elements=st.integers(0, 9)),
    st.sampled_from([10, 11, 1000]),
)
def test_group_rows(group_ids: npt.NDArray[np.uint32], n_all: int) -> None:
    marks = np.zeros(n_all, np.uint32)
    n_max = min(len(group_ids), 10)
    groups, offsets = np.empty(n_max, np.uint32), np.empty(n_max + 1, np.int64)
    order = np.empty(len(group_ids), np.uint32)
    n_groups = group_rows(group_ids, marks, groups, offsets, order)
    expected: dict[int, list[int]] = {}
    for row, group_id in enumerate(group_ids.tolist()):
        expected.setdefault(group_id, []).append(row)
    found = [order[start:stop].tolist() for start, stop in pairwise(offsets[: n_groups + 1])]
    assert dict(zip(groups[:n_groups].tolist(), found, strict=True)) == expected
    ids = groups[:n_groups].tolist()
    assert ids == (sorted(expected) if 8 * n_groups >= n_all else list(expected))
    assert not marks.any()
