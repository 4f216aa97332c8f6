"""One of two values for each row, by a condition."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, address_array, kernel

__all__ = ["choose_words"]


@kernel
def choose_words(
    bits_at: int,
    first_bit: int,
    valid_at: int,
    then_at: int,
    then_step: int,
    otherwise_at: int,
    otherwise_step: int,
    out: I64,
) -> None:
    """Take a word of one column where a condition is true, and of another where it is not or NULL.

    Args:
        bits_at: Address of the condition's bits, the lowest of each byte first. Unchecked.
        first_bit: Number of the first row's bit.
        valid_at: Address of the bitmap in which the condition is NULL where a bit is 0; 0 if it
            never is. Unchecked.
        then_at: Address of the words to take where the condition is true. Unchecked.
        then_step: 1 if there is a word for each row, 0 if there is one for all.
        otherwise_at: The same for other rows.
        otherwise_step: The same for other rows.
        out: int64[n_rows], out.
    """
    n_rows = out.shape[0]
    n_bytes = (first_bit + n_rows + 7) >> 3
    bits = address_array(bits_at, n_bytes, np.uint8)
    valid = address_array(valid_at, n_bytes if valid_at != 0 else 0, np.uint8)
    then = address_array(then_at, n_rows if then_step else 1, np.int64)
    otherwise = address_array(otherwise_at, n_rows if otherwise_step else 1, np.int64)
    for row in range(n_rows):
        bit = first_bit + row
        flags = bits[bit >> 3]
        if valid_at != 0:
            flags &= valid[bit >> 3]
        # All bits or none, since a branch on what is true by chance takes five times as long.
        mask = -np.int64((flags >> (bit & 7)) & 1)
        out[row] = (then[row * then_step] & mask) | (otherwise[row * otherwise_step] & ~mask)
