"""Row hashes: XXH64 chained over the columns of a row.

The hash of a row is ``h = xxh64(bytes of the column's value, seed=h)``, column after column, from
the seed 0. Every kernel here takes one column and replaces each row's seed by its hash, in place.
Fixed-width values are hashed as their little-endian bytes, text and binary as they are, and NULL
as the single byte 0xFF, which is neither valid UTF-8 nor as long as any fixed-width value.

References:
    XXH64: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import (
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    address_array,
    inlined_kernel,
    kernel,
    load_word,
)

__all__ = [
    "float_words",
    "hash_bytes",
    "hash_bytes_nullable",
    "hash_pairs",
    "hash_pairs_nullable",
    "hash_words",
    "hash_words_nullable",
]

PRIME_1 = np.uint64(0x9E3779B185EBCA87)
PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
PRIME_3 = np.uint64(0x165667B19E3779F9)
PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
PRIME_5 = np.uint64(0x27D4EB2F165667C5)
# Lane 4 of a long input starts from seed - PRIME_1, lane 1 from seed + PRIME_1 + PRIME_2.
PRIME_1_PLUS_2 = np.uint64(0x60EA27EEADC0B5D6)

NULL_WORD = np.uint64((0xFF * int(PRIME_5)) & 0xFFFFFFFFFFFFFFFF)
NAN_WORD = np.uint64(0x7FF8000000000000)
ZERO_WORD = np.uint64(0)


@kernel
def rotate_left(word: np.uint64, n_bits: int) -> np.uint64:
    return (word << np.uint64(n_bits)) | (word >> np.uint64(64 - n_bits))


@kernel
def scramble(word: np.uint64) -> np.uint64:
    return rotate_left(word * PRIME_2, 31) * PRIME_1


@kernel
def absorb_word(hash_: np.uint64, word: np.uint64) -> np.uint64:
    return rotate_left(hash_ ^ scramble(word), 27) * PRIME_1 + PRIME_4


@kernel
def absorb_null(seed: np.uint64) -> np.uint64:
    return rotate_left((seed + PRIME_5 + np.uint64(1)) ^ NULL_WORD, 11) * PRIME_1


@kernel
def avalanche(hash_: np.uint64) -> np.uint64:
    hash_ = (hash_ ^ (hash_ >> np.uint64(33))) * PRIME_2
    hash_ = (hash_ ^ (hash_ >> np.uint64(29))) * PRIME_3
    return hash_ ^ (hash_ >> np.uint64(32))


@kernel
def validity_bytes(bitmap: U8, bit_offset: int, n_rows: int) -> U8:
    """Unpack a validity bitmap to a byte per row, so that the loops over rows can be vectorized.

    The same as ``expand_bits`` of the kernels for bitmaps: kernels do not call across files.
    """
    valid = np.empty(n_rows, np.uint8)
    first, shift = np.uint64(bit_offset >> 3), np.uint64(bit_offset & 7)
    # Eight rows straddle two bytes of the bitmap; the last rows may have no second byte.
    n_eights = min(n_rows >> 3, bitmap.shape[0] - (bit_offset >> 3) - 1)
    for eight in range(n_eights):
        byte = first + np.uint64(eight)
        bits = np.uint64(bitmap[byte]) | (np.uint64(bitmap[byte + np.uint64(1)]) << np.uint64(8))
        bits >>= shift
        for lane in range(8):
            valid[8 * eight + lane] = (bits >> np.uint64(lane)) & np.uint64(1)
    for row in range(max(0, 8 * n_eights), n_rows):
        bit = bit_offset + row
        valid[row] = (bitmap[bit >> 3] >> (bit & 7)) & 1
    return valid


@kernel
def hash_words(words: I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64, hashes: U64) -> None:
    """Chain a column of integers as 8 bytes each.

    Args:
        words: Any integer type [n_rows]; narrow ones are widened by value, so that a number has
            one hash whatever its type.
        hashes: uint64[n_rows], seeds in, hashes out.
    """
    for row in range(hashes.shape[0]):
        start = hashes[row] + PRIME_5 + np.uint64(8)
        hashes[row] = avalanche(absorb_word(start, np.uint64(words[row])))


@kernel
def hash_words_nullable(
    words: I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64, bitmap: U8, bit_offset: int, hashes: U64
) -> None:
    """Chain a column of integers with NULLs; the value under a NULL does not matter.

    Args:
        words: Any integer type [n_rows].
        bitmap: Arrow validity bitmap; row ``i`` is at bit ``bit_offset + i``.
        bit_offset: Bit of row 0.
        hashes: uint64[n_rows], seeds in, hashes out.
    """
    valid = validity_bytes(bitmap, bit_offset, hashes.shape[0])
    for row in range(hashes.shape[0]):
        seed = hashes[row]
        value = absorb_word(seed + PRIME_5 + np.uint64(8), np.uint64(words[row]))
        null = absorb_null(seed)
        hashes[row] = avalanche(value if valid[row] != 0 else null)


@kernel
def absorb_pair(seed: np.uint64, low: np.uint64, high: np.uint64) -> np.uint64:
    return absorb_word(absorb_word(seed + PRIME_5 + np.uint64(16), low), high)


@kernel
def hash_pairs(pairs: I64, hashes: U64) -> None:
    """Chain a column of 16-byte values.

    Args:
        pairs: int64[n_rows, 2], contiguous, low word first.
        hashes: uint64[n_rows], seeds in, hashes out.
    """
    words = pairs.reshape(-1)
    for row in range(hashes.shape[0]):
        low, high = np.uint64(words[2 * row]), np.uint64(words[2 * row + 1])
        hashes[row] = avalanche(absorb_pair(hashes[row], low, high))


@kernel
def hash_pairs_nullable(pairs: I64, bitmap: U8, bit_offset: int, hashes: U64) -> None:
    """Chain a column of 16-byte values with NULLs; arguments as of the kernels above."""
    words = pairs.reshape(-1)
    valid = validity_bytes(bitmap, bit_offset, hashes.shape[0])
    for row in range(hashes.shape[0]):
        seed = hashes[row]
        low, high = np.uint64(words[2 * row]), np.uint64(words[2 * row + 1])
        value = absorb_pair(seed, low, high)
        null = absorb_null(seed)
        hashes[row] = avalanche(value if valid[row] != 0 else null)


@kernel
def absorb_lane(lane: np.uint64, word: np.uint64) -> np.uint64:
    return rotate_left(lane + word * PRIME_2, 31) * PRIME_1


@kernel
def merge_lane(hash_: np.uint64, lane: np.uint64) -> np.uint64:
    return (hash_ ^ scramble(lane)) * PRIME_1 + PRIME_4


# Text is walked by address: an array handed to a function that is not inlined costs two atomic
# updates of its reference count, which is more than the hash of a short value.
@kernel
def absorb_stripes(at: np.uint64, n_stripes: np.uint64, seed: np.uint64) -> np.uint64:
    """Absorb stripes of 32 bytes in four independent lanes: the bulk of inputs of 32 and more."""
    lane_1 = seed + PRIME_1_PLUS_2
    lane_2 = seed + PRIME_2
    lane_3 = seed
    lane_4 = seed - PRIME_1
    for _ in range(n_stripes):
        lane_1 = absorb_lane(lane_1, load_word(at))
        lane_2 = absorb_lane(lane_2, load_word(at + np.uint64(8)))
        lane_3 = absorb_lane(lane_3, load_word(at + np.uint64(16)))
        lane_4 = absorb_lane(lane_4, load_word(at + np.uint64(24)))
        at += np.uint64(32)
    hash_ = rotate_left(lane_1, 1) + rotate_left(lane_2, 7)
    hash_ += rotate_left(lane_3, 12) + rotate_left(lane_4, 18)
    hash_ = merge_lane(merge_lane(hash_, lane_1), lane_2)
    return merge_lane(merge_lane(hash_, lane_3), lane_4)


@kernel
def gather_bytes(at: np.uint64, n_bytes: np.uint64) -> np.uint64:
    """Read up to 7 bytes as a word without touching what follows them."""
    span = address_array(at, n_bytes, np.uint8)
    word = np.uint64(0)
    for byte in range(n_bytes):
        word |= np.uint64(span[byte]) << (np.uint64(8) * byte)
    return word


@kernel
def absorb_tail(hash_: np.uint64, word: np.uint64, n_bytes: np.uint64) -> np.uint64:
    """Absorb the low ``n_bytes``, at most 7, of a word; what stands above them is ignored."""
    if n_bytes & np.uint64(4):
        half = word & np.uint64(0xFFFFFFFF)
        hash_ = rotate_left(hash_ ^ (half * PRIME_1), 23) * PRIME_2 + PRIME_3
        word >>= np.uint64(32)
    for _ in range(n_bytes & np.uint64(3)):
        byte = word & np.uint64(0xFF)
        hash_ = rotate_left(hash_ ^ (byte * PRIME_5), 11) * PRIME_1
        word >>= np.uint64(8)
    return hash_


@inlined_kernel
def hash_span(at: np.uint64, n_bytes: np.uint64, limit: np.uint64, seed: np.uint64) -> np.uint64:
    """Hash the bytes at an address; reads nothing at or past the address ``limit``."""
    if n_bytes >= np.uint64(32):
        hash_ = absorb_stripes(at, n_bytes >> np.uint64(5), seed) + n_bytes
        at += (n_bytes >> np.uint64(5)) << np.uint64(5)
    else:
        hash_ = seed + PRIME_5 + n_bytes
    for _ in range((n_bytes & np.uint64(31)) >> np.uint64(3)):
        hash_ = absorb_word(hash_, load_word(at))
        at += np.uint64(8)
    n_tail = n_bytes & np.uint64(7)
    if n_tail != 0:
        readable = at + np.uint64(8) <= limit
        hash_ = absorb_tail(hash_, load_word(at) if readable else gather_bytes(at, n_tail), n_tail)
    return avalanche(hash_)


@kernel
def hash_bytes(offsets: I32 | I64, data: U8, hashes: U64) -> None:
    """Chain a column of text or binary values.

    Args:
        offsets: int32 or int64 [n_rows + 1]; row ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
            The first need not be 0. Unchecked.
        data: uint8[n_bytes], contiguous.
        hashes: uint64[n_rows], seeds in, hashes out.
    """
    base = np.uint64(data.ctypes.data)
    limit = base + np.uint64(data.shape[0])
    for row in range(hashes.shape[0]):
        start = np.uint64(offsets[row])
        n_bytes = np.uint64(offsets[row + 1]) - start
        hashes[row] = hash_span(base + start, n_bytes, limit, hashes[row])


@kernel
def hash_bytes_nullable(
    offsets: I32 | I64, data: U8, bitmap: U8, bit_offset: int, hashes: U64
) -> None:
    """Chain a column of text or binary values with NULLs; arguments as of the kernels above."""
    base = np.uint64(data.ctypes.data)
    limit = base + np.uint64(data.shape[0])
    valid = validity_bytes(bitmap, bit_offset, hashes.shape[0])
    for row in range(hashes.shape[0]):
        if valid[row] != 0:
            start = np.uint64(offsets[row])
            n_bytes = np.uint64(offsets[row + 1]) - start
            hashes[row] = hash_span(base + start, n_bytes, limit, hashes[row])
        else:
            hashes[row] = avalanche(absorb_null(hashes[row]))


@kernel
def float_words(values: F32 | F64, words: U64) -> None:
    """Give floats that compare equal the same 64 bits: one NaN, one zero, float32 as float64.

    Args:
        values: float32 or float64 [n_rows].
        words: uint64[n_rows], out.
    """
    floats = words.view(np.float64)
    for row in range(words.shape[0]):
        floats[row] = values[row]
    for row in range(words.shape[0]):
        value = floats[row]
        if value != value:
            words[row] = NAN_WORD
        elif value == 0.0:
            words[row] = ZERO_WORD
