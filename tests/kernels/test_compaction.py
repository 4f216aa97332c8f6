"""Numbers made dense, and changes of value, against NumPy."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.compaction import compact_numbers
from millstream.kernels.splitting import find_changes


@given(data=st.data(), n_all=st.integers(1, 20))
def test_numbers_become_ranks(data: Any, n_all: int) -> None:
    elements = st.integers(0, n_all - 1)
    numbers = data.draw(hnp.arrays(np.uint32, st.integers(0, 50), elements=elements))
    wanted, inverse = np.unique(numbers, return_inverse=True)
    present = np.empty(n_all, np.uint32)
    n_present = compact_numbers(numbers, n_all, np.zeros(n_all, np.uint32), present)
    assert present[:n_present].tolist() == wanted.tolist()
    assert numbers.tolist() == inverse.tolist()


@given(
    values=hnp.arrays(np.int64, st.integers(0, 30), elements=st.integers(0, 2)),
    n_most=st.integers(0, 30),
)
def test_changes_are_found_up_to_a_number(values: npt.NDArray[np.int64], n_most: int) -> None:
    wanted = (np.flatnonzero(np.diff(values)) + 1).tolist()
    changes = np.full(n_most, -1, np.int64)
    n_changes = find_changes(values, changes)
    assert n_changes == min(len(wanted), n_most + 1)
    assert changes[: min(n_changes, n_most)].tolist() == wanted[:n_most]
