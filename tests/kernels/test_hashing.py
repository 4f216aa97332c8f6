"""Row hashes against the xxhash package."""

from __future__ import annotations

import struct
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.compile import load_word
from millstream.kernels.hashing import (
    float_words,
    hash_bytes,
    hash_bytes_nullable,
    hash_pairs,
    hash_pairs_nullable,
    hash_words,
    hash_words_nullable,
)

NULL = b"\xff"
SEEDS = st.integers(0, 2**64 - 1)
INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


def expected(values: list[bytes], seeds: npt.NDArray[np.uint64]) -> list[int]:
    return [
        xxhash.xxh64_intdigest(value, seed=int(seed))
        for value, seed in zip(values, seeds, strict=True)
    ]


def as_word(value: int) -> bytes:
    return (value % 2**64).to_bytes(8, "little")


def bitmap_of(valid: list[bool], bit_offset: int) -> npt.NDArray[np.uint8]:
    # The bits before the offset are set, to be seen if they were read.
    return read_only(np.packbits(np.array([True] * bit_offset + valid, bool), bitorder="little"))


@st.composite
def validities(draw: st.DrawFn, n_rows: int) -> tuple[list[bool], int]:
    valid = draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows))
    return valid, draw(st.integers(0, 19))


@st.composite
def seeded(draw: st.DrawFn, n_rows: int) -> npt.NDArray[np.uint64]:
    return draw(hnp.arrays(np.uint64, n_rows, elements=SEEDS))


@pytest.mark.parametrize("dtype", INTEGERS)
@given(data=st.data())
def test_words_hash_as_eight_bytes_of_their_value(dtype: type[np.integer], data: Any) -> None:
    words = data.draw(hnp.arrays(dtype, st.integers(0, 40)))
    hashes = data.draw(seeded(len(words)))
    wanted = expected([as_word(int(word)) for word in words], hashes)
    hash_words(read_only(words), hashes)
    assert hashes.tolist() == wanted


@given(data=st.data())
def test_null_words_hash_as_the_byte_of_null(data: Any) -> None:
    words = data.draw(hnp.arrays(np.int64, st.integers(0, 80)))
    valid, bit_offset = data.draw(validities(len(words)))
    hashes = data.draw(seeded(len(words)))
    values = [as_word(int(w)) if v else NULL for w, v in zip(words, valid, strict=True)]
    wanted = expected(values, hashes)
    hash_words_nullable(read_only(words), bitmap_of(valid, bit_offset), bit_offset, hashes)
    assert hashes.tolist() == wanted


@given(data=st.data())
def test_pairs_hash_as_sixteen_bytes(data: Any) -> None:
    n_rows = data.draw(st.integers(0, 40))
    pairs = data.draw(hnp.arrays(np.int64, (n_rows, 2)))
    valid, bit_offset = data.draw(validities(n_rows))
    hashes = data.draw(seeded(n_rows))
    with_nulls = hashes.copy()
    wanted = expected([pair.tobytes() for pair in pairs], hashes)
    values = [pair.tobytes() if v else NULL for pair, v in zip(pairs, valid, strict=True)]
    wanted_with_nulls = expected(values, hashes)
    hash_pairs(read_only(pairs), hashes)
    hash_pairs_nullable(read_only(pairs), bitmap_of(valid, bit_offset), bit_offset, with_nulls)
    assert hashes.tolist() == wanted
    assert with_nulls.tolist() == wanted_with_nulls


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(data=st.data(), values=st.lists(st.binary(max_size=100), max_size=30))
def test_bytes_hash_as_they_are(dtype: type[np.integer], data: Any, values: list[bytes]) -> None:
    before = data.draw(st.binary(max_size=9))
    lengths = [len(before), *map(len, values)]
    offsets = read_only(np.cumsum(lengths, dtype=dtype))
    text = read_only(np.frombuffer(before + b"".join(values), np.uint8))
    valid, bit_offset = data.draw(validities(len(values)))
    hashes = data.draw(seeded(len(values)))
    with_nulls = hashes.copy()
    wanted = expected(values, hashes)
    nulled = [value if v else NULL for value, v in zip(values, valid, strict=True)]
    wanted_with_nulls = expected(nulled, hashes)
    hash_bytes(offsets, text, hashes)
    hash_bytes_nullable(offsets, text, bitmap_of(valid, bit_offset), bit_offset, with_nulls)
    assert hashes.tolist() == wanted
    assert with_nulls.tolist() == wanted_with_nulls


@pytest.mark.parametrize("n_bytes", range(100))
def test_bytes_of_every_length_hash_at_the_end_of_memory_and_before_it(n_bytes: int) -> None:
    value = bytes(range(100, 100 + n_bytes))
    for text in (value, value + b"more than a word"):
        hashes = np.full(1, 7, np.uint64)
        offsets = read_only(np.array([0, n_bytes], np.int32))
        hash_bytes(offsets, read_only(np.frombuffer(text, np.uint8)), hashes)
        assert hashes.tolist() == [xxhash.xxh64_intdigest(value, seed=7)]


def test_null_is_neither_empty_text_nor_zero_nor_any_text() -> None:
    assert len({xxhash.xxh64_intdigest(value) for value in (NULL, b"", as_word(0))}) == 3
    with pytest.raises(UnicodeDecodeError):
        NULL.decode()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_float_words_are_equal_exactly_where_floats_are(
    dtype: type[np.floating], data: Any
) -> None:
    values = data.draw(hnp.arrays(dtype, st.integers(0, 40)))
    words = np.empty(len(values), np.uint64)
    float_words(read_only(values), words)
    for value, word in zip(values.tolist(), words.tolist(), strict=True):
        one = float("nan") if value != value else value + 0.0
        assert word == struct.unpack("<Q", struct.pack("<d", one))[0]


def test_every_nan_and_both_zeros_have_one_word() -> None:
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000001, 0x7FF0000000000001], np.uint64)
    values = np.concatenate([nans.view(np.float64), [0.0, -0.0]])
    words = np.empty(5, np.uint64)
    float_words(read_only(values), words)
    assert words.tolist() == [0x7FF8000000000000] * 3 + [0, 0]


def test_load_word_reads_at_any_alignment() -> None:
    memory = np.arange(16, dtype=np.uint8)
    for start in range(9):
        wanted = int.from_bytes(bytes(range(start, start + 8)), "little")
        assert load_word(np.uint64(memory.ctypes.data + start)) == wanted
