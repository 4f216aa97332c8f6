"""The least and the greatest texts of groups against lists of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.kernels.text_extremes import (
    NO_TEXT,
    copy_texts,
    lay_out_texts,
    pick_texts,
    put_texts,
)

N_GROUPS = 3
UNTOUCHED = 0xEE
TEXTS = [
    *(b"", b"a", b"ab", b"b", b"\xff", b"\x00", b"\x7f", b"\x80"),
    # Of these the first eight bytes are the same, or hardly differ.
    *(b"abcdefg", b"abcdefg\x00", b"abcdefgh", b"abcdefgi", b"abcdefghi", b"abcdefghh"),
    *(b"abcdefgh" * 3, b"abcdefgh" * 3 + b"\x00", b"abcdefgh" * 2 + b"abcdefgi"),
    *(b"\xff" * 8, b"\xff" * 9, b"\x00" * 8, b"\x00" * 9),
]
rows = st.lists(
    st.tuples(st.integers(0, N_GROUPS - 1), st.sampled_from(TEXTS) | st.binary(max_size=11)),
    max_size=12,
)


def frozen(values: Any) -> Any:
    values.setflags(write=False)
    return values


@pytest.mark.parametrize("takes_greatest", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(st.lists(rows, max_size=4), st.data())
def test_groups_have_their_extremes_after_each_batch(
    takes_greatest: bool, dtype: Any, batches: list[list[tuple[int, bytes]]], data: st.DataObject
) -> None:
    best: Any = max if takes_greatest else min
    starts, lengths = np.zeros(N_GROUPS, np.int64), np.full(N_GROUPS, NO_TEXT, np.int64)
    heads, winners = np.zeros(N_GROUPS, np.uint64), np.full(N_GROUPS, -1, np.int64)
    arena, n_used = np.full(2000, UNTOUCHED, np.uint8), 0
    extremes: dict[int, bytes] = {}
    for batch in batches:
        sizes = [2, *(len(text) for _, text in batch)]
        offsets = frozen(np.cumsum(sizes).astype(dtype))
        # Texts before and behind are those of other rows.
        end = data.draw(st.sampled_from([b"", b"zzzzzzzzz"]))
        texts = frozen(np.frombuffer(b"zz" + b"".join(text for _, text in batch) + end, np.uint8))
        is_valid = data.draw(
            st.lists(st.integers(0, 1), min_size=len(batch), max_size=len(batch)) | st.just([])
        )
        changed = np.empty(len(batch), np.uint32)
        n_changed, n_bytes = pick_texts(
            offsets,
            texts,
            frozen(np.array(is_valid, np.uint8)),
            frozen(np.array([group for group, _ in batch], np.uint32)),
            takes_greatest,
            starts,
            lengths,
            heads,
            arena,
            winners,
            changed,
        )
        before = dict(extremes)
        for row, (group, text) in enumerate(batch):
            if not is_valid or is_valid[row]:
                extremes[group] = best(extremes.get(group, text), text)
        new = {group for group in extremes if extremes[group] != before.get(group)}
        assert set(changed[:n_changed].tolist()) == new
        assert n_changed == len(new)
        assert n_bytes == sum(len(extremes[group]) for group in new)
        n_before = n_used
        n_used = put_texts(
            offsets, texts, changed[:n_changed], winners, starts, lengths, arena, n_used
        )
        assert n_used == n_before + n_bytes
        assert (winners == -1).all()
        assert (arena[n_used:] == UNTOUCHED).all()
        out = np.empty(N_GROUPS + 1, dtype)
        total = lay_out_texts(lengths, out)
        assert total == sum(map(len, extremes.values()))
        copied = np.full(total, UNTOUCHED, np.uint8)
        copy_texts(starts, lengths, arena, out, copied)
        found = [copied[start:stop].tobytes() for start, stop in pairwise(out)]
        assert found == [extremes.get(group, b"") for group in range(N_GROUPS)]
        assert [length == NO_TEXT for length in lengths] == [
            group not in extremes for group in range(N_GROUPS)
        ]
