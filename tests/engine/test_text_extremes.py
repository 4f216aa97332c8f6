"""State of the least and the greatest text of each group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.state.text_extremes import TextExtremeSpec

TYPES = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()]
values = st.none() | st.text("aäb\x00", max_size=5) | st.text("xy", min_size=7, max_size=30)


def as_type(texts: list[str | None], type_: pa.DataType) -> pa.Array:
    return pa.array(texts, pa.string()).cast(type_)


@pytest.mark.parametrize("type_", TYPES, ids=str)
@pytest.mark.parametrize("takes_greatest", [False, True])
@given(data=st.data())
def test_the_state_has_the_extreme_of_each_group(
    type_: pa.DataType, takes_greatest: bool, data: st.DataObject
) -> None:
    best: Any = max if takes_greatest else min
    column = TextExtremeSpec("x", takes_greatest, type_).make()
    groups: list[bytes | None] = []
    for _ in range(data.draw(st.integers(1, 6))):
        kept = data.draw(st.lists(st.integers(0, max(len(groups) - 1, 0)), unique=True))
        kept = kept[: len(groups)]
        if data.draw(st.booleans()):
            # All of them stay, and more come.
            kept = list(range(len(groups)))
        n_new = data.draw(st.integers(0, 4))
        column.reallocate(len(kept) + n_new, np.array(kept, np.uint32))
        groups = [groups[group] for group in kept] + [None] * n_new
        if groups:
            ids = st.integers(0, len(groups) - 1)
            rows = data.draw(st.lists(st.tuples(ids, values), max_size=20))
            texts = as_type(["before", *(text for _, text in rows), "behind"], type_)
            ids_of_rows = np.array([group for group, _ in rows], np.uint32)
            add = column.add if data.draw(st.booleans()) else column.merge
            add(texts.slice(1, len(rows)), ids_of_rows)
            for group, text in rows:
                if text is not None:
                    new = text.encode()
                    old = groups[group]
                    groups[group] = new if old is None else best(old, new)
        expected = pa.array(groups, pa.binary()).cast(type_)
        assert column.take(slice(0, len(groups))).equals(expected)
        some = data.draw(st.lists(st.integers(0, len(groups) - 1))) if groups else []
        taken = column.take(np.array(some, np.uint32))
        taken.validate(full=True)
        assert taken.equals(expected.take(pa.array(some, pa.int64())))


def test_texts_that_were_replaced_give_up_their_room() -> None:
    column = TextExtremeSpec("x", True, pa.string()).make()
    column.reallocate(4, slice(0, 0))
    for number in range(3000):
        # Each is longer, and greater, than all before.
        column.add(pa.array(["y" * (20 + number // 4)]), np.array([number % 4], np.uint32))
    n_live = sum(len(text) for text in column.take(slice(0, 4)).to_pylist())
    assert n_live == 4 * (20 + 2999 // 4)
    # Twice what is there and what came last, and the words of four groups.
    assert column.state_bytes <= 2 * (n_live + 20 + 2999 // 4) + 4 * 32
