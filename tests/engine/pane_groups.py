"""Partial groups of panes, and the groups of a pane as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from millstream.engine.state import dense_panes
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.words import WordSpec
from millstream.kernels.programs import Opcode

SUM = WordSpec(Opcode.SUM_I64, "v")
MAX = WordSpec(Opcode.MAX_I64, "v")

# Few keys are never too many, unless there is too little room for any.
little_rooms = st.sampled_from([0, dense_panes._LITTLE_ROOM])


def rows_of(arrays: Sequence[pa.Array]) -> list[tuple[Any, ...]]:
    return list(zip(*(array.to_pylist() for array in arrays), strict=True))


def int_words(pane: int, rows: Sequence[tuple[int, int]]) -> PaneWords:
    """Partial groups of SUM, MAX and the least of the values as doubles."""
    keys, values = np.array(rows, np.int64).T
    doubles = (values / 4).view(np.int64)
    return PaneWords(pane, np.ascontiguousarray([keys, values, values, doubles]))


WINDOW_SPECS = [SUM, MAX, WordSpec(Opcode.MIN_F64, "x")]
