"""Groups parted by their values, against lists."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.splitting import order_rows, part_rows, split_groups

INT64 = np.iinfo(np.int64)

few_words = st.one_of(
    st.integers(-3, 3), st.sampled_from([INT64.min, INT64.max]), st.integers(INT64.min, INT64.max)
)


@given(hnp.arrays(np.int64, st.integers(0, 50), elements=few_words), few_words)
def test_split_groups_keeps_the_order(values: npt.NDArray[np.int64], limit: int) -> None:
    below = np.zeros(len(values), np.uint32)
    rest = np.zeros(len(values), np.uint32)
    n_below = split_groups(values, limit, below, rest)
    assert below[:n_below].tolist() == [i for i, v in enumerate(values.tolist()) if v < limit]
    assert rest[: len(values) - n_below].tolist() == [
        i for i, v in enumerate(values.tolist()) if v >= limit
    ]


close_words = st.one_of(
    st.integers(-3, 3), st.integers(INT64.min, INT64.min + 3), st.integers(INT64.max - 3, INT64.max)
)


@given(hnp.arrays(np.int64, st.integers(1, 50), elements=few_words | close_words))
def test_rows_of_few_values_are_put_in_order(values: npt.NDArray[np.int64]) -> None:
    listed = values.tolist()
    n_values = max(listed) - min(listed) + 1
    for n_most in {1, 3, 7, min(n_values, 100)}:
        offsets, places = np.full(n_most + 1, -1), np.zeros(len(values), np.uint32)
        least, n_found = order_rows(values, offsets, places)
        assert least == min(listed)
        assert n_found == (n_values if n_values <= n_most else 0)
        if n_found > 0:
            order = np.argsort(values, kind="stable")
            assert places[order].tolist() == list(range(len(values)))
            counts = [listed.count(least + index) for index in range(n_found)]
            assert np.diff(offsets[: n_found + 1]).tolist() == counts
            assert offsets[0] == 0


@given(hnp.arrays(np.uint8, st.integers(0, 50), elements=st.integers(0, 1)))
def test_some_rows_are_put_before_the_others(flags: npt.NDArray[np.uint8]) -> None:
    places = np.full(len(flags), 99, np.uint32)
    part_rows(flags, int(flags.sum()), places)
    order = sorted(range(len(flags)), key=lambda row: (1 - int(flags[row]), row))
    assert places.tolist() == [order.index(row) for row in range(len(flags))]
