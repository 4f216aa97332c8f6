"""Partition numbers and the counting sort against plain Python."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.partitioning import MovedColumn, move_columns, place_rows

UINT64_MAX = 2**64 - 1


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def placed(
    hashes: npt.NDArray[np.uint64], n_partitions: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    offsets = np.full(n_partitions + 1, -1, np.int64)
    places = np.full(len(hashes), 2**32 - 1, np.uint32)
    place_rows(read_only(hashes), n_partitions, offsets, places)
    return offsets, places


@given(
    hashes=hnp.arrays(np.uint64, st.integers(0, 70)),
    n_partitions=st.one_of(st.integers(1, 9), st.integers(1, 2**16)),
)
def test_rows_are_sorted_by_the_share_of_the_hash_range_that_they_lie_in(
    hashes: npt.NDArray[np.uint64], n_partitions: int
) -> None:
    offsets, places = placed(hashes, n_partitions)
    partitions = [(int(h) >> 32) * n_partitions >> 32 for h in hashes]
    ordered = sorted(range(len(hashes)), key=lambda row: (partitions[row], row))
    wanted = np.empty(len(hashes), np.uint32)
    wanted[ordered] = np.arange(len(hashes))
    assert places.tolist() == wanted.tolist()
    counts = np.bincount(np.array(partitions, np.int64), minlength=n_partitions)
    assert offsets.tolist() == [0, *np.cumsum(counts).tolist()]


@pytest.mark.parametrize("n_partitions", [2, 3, 8, 1000])
def test_partitions_are_even(n_partitions: int) -> None:
    hashes = np.random.default_rng(1).integers(0, UINT64_MAX, 50_000, np.uint64, endpoint=True)
    hashes[:2] = 0, UINT64_MAX
    offsets, places = placed(hashes, n_partitions)
    mean = len(hashes) / n_partitions
    assert places[:2].tolist() == [0, offsets[-2]]
    assert abs(np.diff(offsets) - mean).max() < 6 * mean**0.5 + 1


@given(data=st.data(), asks_rows=st.booleans())
def test_values_of_all_widths_go_where_their_rows_go(data: Any, asks_rows: bool) -> None:
    n_rows = data.draw(st.integers(0, 40))
    places = np.array(data.draw(st.permutations(range(n_rows))), np.uint32)
    dtypes = data.draw(st.lists(st.sampled_from([np.int8, np.uint16, np.float32, np.int64])))
    columns = [data.draw(hnp.arrays(dtype, n_rows)) for dtype in dtypes]
    moved = [np.zeros_like(column) for column in columns]
    program = np.zeros((len(columns), len(MovedColumn)), np.int64)
    for step, source, target in zip(program, columns, moved, strict=True):
        step[:] = source.ctypes.data, target.ctypes.data, source.itemsize
    rows = np.full(n_rows if asks_rows else 0, -1, np.int64)
    move_columns(read_only(places), program, rows)
    for source, target in zip(columns, moved, strict=True):
        assert target[places].tobytes() == source.tobytes()
    assert rows.tolist() == (np.argsort(places).tolist() if asks_rows else [])
