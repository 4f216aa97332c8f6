"""Accumulators of panes added up where keys have the same numbers in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from millstream.kernels.compile import I64
from millstream.kernels.panes import combine_few, combine_panes

__all__ = ["PaneParts", "add_up", "rows_at"]

# So many words are added while the GIL is kept.
_FEW_WORDS = 1 << 12


class PaneParts(NamedTuple):
    """Accumulators of the first keys.

    Attributes:
        at: int64[n_accumulators], addresses of arrays that somebody keeps alive.
        n_keys: Number of keys.
    """

    at: I64
    n_keys: int


def add_up(
    opcodes: I64, count_row: int, parts: Sequence[Sequence[PaneParts]], sums: Sequence[I64]
) -> list[int]:
    """Add some parts up for each of several sums.

    Args:
        opcodes: int64[n_accumulators], what adds accumulators to each other.
        count_row: The accumulator that counts rows.
        parts: Those of each sum, at least one.
        sums: int64[n_accumulators, n_keys] each, out, with as many keys as any of its parts has.

    Returns:
        How many keys of each sum have rows.
    """
    if not sums:
        return []
    flat = [part for of_sum in parts for part in of_sum]
    n_keys = np.array([part.n_keys for part in flat], np.int64)
    n_present = np.empty(len(sums), np.int64)
    combine = combine_few if int(n_keys.sum()) * len(opcodes) <= _FEW_WORDS else combine_panes
    combine(
        opcodes,
        count_row,
        np.array([0, *accumulate(map(len, parts))], np.int64),
        np.array([part.at for part in flat]),
        n_keys,
        np.array([rows_at(words) for words in sums]),
        n_present,
    )
    counted: list[int] = n_present.tolist()
    return counted


def rows_at(words: I64) -> I64:
    """Return the addresses of the rows of int64[n_rows, n], each in one piece."""
    at, stride = words.ctypes.data, words.strides[0]
    return np.array([at + row * stride for row in range(len(words))], np.int64)
