"""Bitmaps against NumPy's own packing."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.bitmaps import expand_bits, pack_bits

BITS = st.integers(0, 1)


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@given(data=st.data(), bitmap=hnp.arrays(np.uint8, st.integers(0, 30)))
def test_expand_bits_reads_any_run_of_bits(data: Any, bitmap: npt.NDArray[np.uint8]) -> None:
    bit_offset = data.draw(st.integers(0, 8 * len(bitmap)))
    n_rows = data.draw(st.integers(0, 8 * len(bitmap) - bit_offset))
    values = np.full(n_rows, 9, np.uint8)
    expand_bits(read_only(bitmap), bit_offset, values)
    wanted = np.unpackbits(bitmap, bitorder="little")[bit_offset : bit_offset + n_rows]
    assert values.tolist() == wanted.tolist()


@given(hnp.arrays(np.uint8, st.integers(0, 100), elements=BITS))
def test_pack_bits_is_the_inverse_and_counts_zeros(values: npt.NDArray[np.uint8]) -> None:
    bitmap = np.full((len(values) + 7) // 8, 0xAA, np.uint8)
    assert pack_bits(read_only(values), bitmap) == values.tolist().count(0)
    assert bitmap.tolist() == np.packbits(values, bitorder="little").tolist()


@pytest.mark.parametrize("bit_offset", range(17))
def test_expand_bits_needs_no_byte_past_the_last_row(bit_offset: int) -> None:
    bitmap = np.full((bit_offset + 24 + 7) // 8, 0xFF, np.uint8)
    values = np.zeros(24, np.uint8)
    expand_bits(read_only(bitmap), bit_offset, values)
    assert values.tolist() == [1] * 24
