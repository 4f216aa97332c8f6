"""Interned text against a dictionary of Python bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.interning import (
    copy_strings,
    intern_strings,
    rebuild_string_slots,
    string_lengths,
)

# Few distinct bytes, so that values share long beginnings and differ in one place or in length.
# Around 8 bytes values change from being their own words to having a hash; so they do if the last
# of 8 bytes is small.
texts = (
    st.binary(max_size=3)
    | st.text("ab\0", max_size=40).map(str.encode)
    | st.binary()
    | st.lists(st.sampled_from(b"\0\1\7\x08a\xff"), min_size=6, max_size=10).map(bytes)
)


def frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view


class Interner:
    """The caller's part: allocates, and doubles what is full."""

    def __init__(self) -> None:
        self.slots = np.zeros(2, np.uint32)
        self.words = np.zeros(2, np.uint64)
        self.offsets = np.zeros(2, np.int64)
        self.arena = np.zeros(1, np.uint8)
        self.n_strings = 0

    def grow(self) -> None:
        # Stale bytes must not matter.
        self.arena = np.concatenate([self.arena, np.full(len(self.arena), 7, np.uint8)])
        self.offsets = np.concatenate([self.offsets, np.zeros_like(self.offsets)])
        self.words = np.concatenate([self.words, np.full(len(self.words), 99, np.uint64)])
        self.slots = np.full(len(self.slots) * 2, 99, np.uint32)
        rebuild_string_slots(self.words, self.n_strings, self.slots)

    def intern(
        self, rows: list[bytes | None], dtype: type[np.signedinteger[Any]], padding: int
    ) -> list[int]:
        """Intern rows laid out as a slice of an Arrow array, ``padding`` rows into it."""
        values = [b"skipped!"] * padding + [b"under a NULL" if r is None else r for r in rows]
        lengths = [len(value) for value in values]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(dtype)[padding:]
        data = np.frombuffer(b"".join(values), np.uint8)
        if len(data) < 8:
            data = np.concatenate([data, np.full(8, 9, np.uint8)])
        valid = np.array([True] * padding + [row is not None for row in rows], np.bool_)
        bitmap = np.packbits(valid, bitorder="little")
        if all(row is not None for row in rows):
            bitmap = bitmap[:0]
        ids = np.full(len(rows), 77, np.int64)
        row = 0
        while True:
            row, self.n_strings = intern_strings(
                frozen(offsets),
                frozen(data),
                frozen(bitmap),
                padding,
                row,
                self.slots,
                self.words,
                self.offsets,
                self.arena,
                self.n_strings,
                ids,
            )
            if row == len(rows):
                return ids.tolist()
            self.grow()

    def values(self, ids: list[int], dtype: type[np.signedinteger[Any]]) -> list[bytes | None]:
        rows = frozen(np.array(ids, np.int64))
        offsets = np.full(len(ids) + 1, 77, dtype)
        n_bytes = string_lengths(rows, self.offsets, offsets)
        data = np.zeros(n_bytes, np.uint8)
        copy_strings(rows, self.offsets, self.arena, offsets, data)
        assert offsets[-1] == n_bytes
        return [
            None if row < 0 else data[start:stop].tobytes()
            for row, start, stop in zip(ids, offsets[:-1], offsets[1:], strict=True)
        ]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(
    batches=st.lists(st.lists(st.none() | texts, max_size=20), max_size=3),
    padding=st.integers(0, 9),
)
def test_ids_are_dense_and_stand_for_their_values(
    dtype: type[np.signedinteger[Any]], batches: list[list[bytes | None]], padding: int
) -> None:
    interner = Interner()
    known: dict[bytes, int] = {}
    for rows in batches:
        expected = [-1 if row is None else known.setdefault(row, len(known)) for row in rows]
        assert interner.intern(rows, dtype, padding) == expected
        assert interner.values(expected, dtype) == rows
    assert interner.n_strings == len(known)
    assert interner.values(list(range(len(known))), dtype) == list(known)


def test_many_values_over_many_blocks() -> None:
    random = np.random.default_rng(3)
    rows: list[bytes | None] = [
        b"symbol-%d" % number * int(number % 5) for number in random.integers(0, 700, 5000)
    ]
    rows[100:5000:97] = [None] * len(rows[100:5000:97])
    interner = Interner()
    ids = interner.intern(rows, np.int32, 3)
    assert interner.values(ids, np.int32) == rows
    assert interner.n_strings == len({row for row in rows if row is not None})


def test_a_full_arena_stops_at_the_first_value_without_room() -> None:
    offsets = np.array([0, 4, 8, 12, 13], np.int32)
    data = np.frombuffer(b"aaaabbbbaaaac", np.uint8)
    ids = np.full(4, 77, np.int64)
    known_offsets = np.zeros(10, np.int64)
    arena = np.zeros(8, np.uint8)
    nothing = frozen(np.zeros(0, np.uint8))
    slots, words = np.zeros(32, np.uint32), np.zeros(10, np.uint64)
    done = intern_strings(
        frozen(offsets), data, nothing, 0, 0, slots, words, known_offsets, arena, 0, ids
    )
    assert done == (3, 2)
    assert ids[:3].tolist() == [0, 1, 0]


def test_values_that_differ_in_length_or_in_one_byte_are_different() -> None:
    rows: list[bytes | None] = [bytes(length) for length in range(20)]
    rows += [b"\1" * length for length in range(1, 20)]
    # Each of these 8 bytes would be the word of a shorter value.
    rows += [b"ab\0\0\0\0\0\2", b"ab", b"\0" * 7 + b"\1", b"a" + b"\0" * 6 + b"\1", b"a"]
    rows += [b"seventeen bytes" + bytes([last]) * 2 for last in range(20)]
    interner = Interner()
    expected = [rows.index(row) for row in rows]
    numbers = {first: number for number, first in enumerate(dict.fromkeys(expected))}
    for _ in range(2):
        assert interner.intern(rows, np.int32, 0) == [numbers[first] for first in expected]
    assert interner.n_strings == len(set(rows))
