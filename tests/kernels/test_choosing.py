"""Choices against a loop over Python values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.choosing import choose_words

WORDS = st.integers(-(2**63), 2**63 - 1)


@given(st.data())
def test_words_are_chosen_by_bits(data):
    first_bit = data.draw(st.integers(0, 20))
    flags = data.draw(st.lists(st.sampled_from([True, False, None]), max_size=40))
    n_rows = len(flags)
    bits = data.draw(st.lists(st.booleans(), min_size=first_bit + n_rows, max_size=64))
    valid = list(bits)
    for row, flag in enumerate(flags):
        # What bit is there under a NULL does not matter.
        bits[first_bit + row] = bool(flag) if flag is not None else bits[first_bit + row]
        valid[first_bit + row] = flag is not None
    has_nulls = None in flags or data.draw(st.booleans())
    steps = data.draw(st.tuples(st.integers(0, 1), st.integers(0, 1)))
    then, otherwise = (
        np.array(data.draw(st.lists(WORDS, min_size=n, max_size=n)), np.int64)
        for n in (n_rows if step else 1 for step in steps)
    )
    packed = [np.packbits(np.array(values, bool), bitorder="little") for values in (bits, valid)]
    out = np.empty(n_rows, np.int64)
    choose_words(
        packed[0].ctypes.data,
        first_bit,
        packed[1].ctypes.data if has_nulls else 0,
        then.ctypes.data,
        steps[0],
        otherwise.ctypes.data,
        steps[1],
        out,
    )
    expected = [
        int(then[row * steps[0]] if flag else otherwise[row * steps[1]])
        for row, flag in enumerate(flags)
    ]
    assert out.tolist() == expected
