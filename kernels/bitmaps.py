"""Arrow bitmaps, one bit per row, least significant first, to and from one byte per row."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import U8, kernel

__all__ = ["expand_bits", "pack_bits"]


@kernel
def expand_bits(bitmap: U8, bit_offset: int, values: U8) -> None:
    """Unpack bits to bytes.

    Args:
        bitmap: uint8[n_bytes]; row ``i`` is bit ``bit_offset + i``. That all bits are there goes
            unchecked.
        bit_offset: Bit of row 0, at least 0.
        values: uint8[n_rows], out: 0 or 1.
    """
    n_rows = values.shape[0]
    first, shift = np.uint64(bit_offset >> 3), np.uint64(bit_offset & 7)
    # Eight rows straddle two bytes of the bitmap; the last rows may have no second byte.
    n_eights = max(0, min(n_rows >> 3, bitmap.shape[0] - (bit_offset >> 3) - 1))
    for eight in range(n_eights):
        byte = first + np.uint64(eight)
        bits = np.uint64(bitmap[byte]) | (np.uint64(bitmap[byte + np.uint64(1)]) << np.uint64(8))
        bits >>= shift
        for lane in range(8):
            values[8 * eight + lane] = (bits >> np.uint64(lane)) & np.uint64(1)
    for row in range(8 * n_eights, n_rows):
        bit = bit_offset + row
        values[row] = (bitmap[bit >> 3] >> (bit & 7)) & 1


@kernel
def pack_bits(values: U8, bitmap: U8) -> int:
    """Pack bytes to bits.

    Args:
        values: uint8[n_rows], 0 or 1. Unchecked.
        bitmap: uint8[(n_rows + 7) // 8], out; the bits after the last row are 0.

    Returns:
        How many values are 0: the number of NULLs if this is a validity.
    """
    n_rows = values.shape[0]
    n_ones = np.uint64(0)
    for eight in range(n_rows >> 3):
        bits = np.uint64(0)
        for lane in range(8):
            value = np.uint64(values[8 * eight + lane])
            n_ones += value
            bits |= value << np.uint64(lane)
        bitmap[eight] = bits
    if n_rows & 7:
        bits = np.uint64(0)
        for row in range(n_rows & ~7, n_rows):
            value = np.uint64(values[row])
            n_ones += value
            bits |= value << np.uint64(row & 7)
        bitmap[n_rows >> 3] = bits
    return int(n_rows - np.int64(n_ones))
