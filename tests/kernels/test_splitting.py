"""Groups parted by their values, against lists."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.splitting import split_groups

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
