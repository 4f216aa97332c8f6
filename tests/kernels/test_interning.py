"""Interned text against a dictionary of Python bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.interning import (
    ARENA_SLACK_BYTES,
    copy_strings,
    intern_strings,
    rebuild_string_slots,
    string_lengths,
)

# Few distinct bytes, so that values share long beginnings and differ in one place or in length.
texts = st.binary(max_size=3) | st.text("ab\0", max_size=40).map(str.encode) | st.binary()


def frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = values.view()
    view.flags.writeable = False
    return view


class Interner:
    """The caller's part: allocates, and doubles what is full."""

    def __init__(self) -> None:
        self.slots = np.zeros(2, np.uint64)
        self.offsets = np.zeros(2, np.int64)
        self.arena = np.zeros(ARENA_SLACK_BYTES, np.uint8)
        self.n_strings = 0

    def grow(self) -> None:
        # Stale bytes in the slack must not matter.
        self.arena = np.concatenate([self.arena, np.full(len(self.arena), 7, np.uint8)])
        self.offsets = np.concatenate([self.offsets, np.zeros_like(self.offsets)])
        self.slots = np.full(len(self.slots) * 2, 99, np.uint64)
        rebuild_string_slots(self.offsets, self.arena, self.n_strings, self.slots)

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
    arena = np.zeros(8 + ARENA_SLACK_BYTES, np.uint8)
    nothing = frozen(np.zeros(0, np.uint8))
    done = intern_strings(
        frozen(offsets), data, nothing, 0, 0, np.zeros(32, np.uint64), known_offsets, arena, 0, ids
    )
    assert done == (3, 2)
    assert ids[:3].tolist() == [0, 1, 0]
