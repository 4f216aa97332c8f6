"""Partition numbers and the counting sort against plain Python."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.partitioning import partition_indices, scatter_rows

UINT64_MAX = 2**64 - 1


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@given(
    hashes=hnp.arrays(np.uint64, st.integers(0, 50)),
    n_partitions=st.one_of(st.integers(1, 9), st.integers(1, 2**32)),
)
def test_partition_is_the_share_of_the_hash_range(
    hashes: npt.NDArray[np.uint64], n_partitions: int
) -> None:
    partitions = np.empty(len(hashes), np.uint32)
    partition_indices(read_only(hashes), n_partitions, partitions)
    assert partitions.tolist() == [(int(h) >> 32) * n_partitions >> 32 for h in hashes]


@pytest.mark.parametrize("n_partitions", [1, 2, 3, 8, 1000])
def test_partitions_are_within_bounds_and_even(n_partitions: int) -> None:
    hashes = np.random.default_rng(1).integers(0, UINT64_MAX, 50_000, np.uint64, endpoint=True)
    hashes[:2] = 0, UINT64_MAX
    partitions = np.empty(len(hashes), np.uint32)
    partition_indices(read_only(hashes), n_partitions, partitions)
    counts = np.bincount(partitions, minlength=n_partitions)
    mean = len(hashes) / n_partitions
    assert len(counts) == n_partitions
    assert partitions[:2].tolist() == [0, n_partitions - 1]
    assert abs(counts - mean).max() < 6 * mean**0.5 + 1


@given(data=st.data(), n_partitions=st.integers(1, 9))
def test_scatter_rows_is_a_stable_sort(data: Any, n_partitions: int) -> None:
    elements = st.integers(0, n_partitions - 1)
    partitions = data.draw(hnp.arrays(np.uint32, st.integers(0, 70), elements=elements))
    offsets = np.full(n_partitions + 1, -1, np.int64)
    rows = np.full(len(partitions), -1, np.int64)
    scatter_rows(read_only(partitions), n_partitions, offsets, rows)
    wanted = [np.flatnonzero(partitions == p).tolist() for p in range(n_partitions)]
    assert offsets[0] == 0
    assert offsets[-1] == len(partitions)
    assert [rows[a:b].tolist() for a, b in pairwise(offsets)] == wanted
