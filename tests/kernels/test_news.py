"""News of groups against a definition in Python."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.kernels.news import NewsField, write_news, write_news_shortly

I64 = npt.NDArray[np.int64]

# What the kernel has to overwrite, or to leave alone.
UNTOUCHED = -(2**40) + 17
CODES = np.array([11, 22], np.uint16)
MAGNITUDE, INFINITY = (1 << 63) - 1, 0x7FF0_0000_0000_0000
N_WORDS = 5
DOUBLES = [0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, math.nan]


def bits(value: float) -> int:
    (word,) = struct.unpack("<q", struct.pack("<d", value))
    return int(word)


class State:
    """What some groups hold: an integer, a narrow key, a double, and a total over a count."""

    def __init__(self, n_groups: int) -> None:
        self.integers = np.zeros(n_groups, np.int64)
        self.keys = np.arange(n_groups) - 3
        self.doubles = np.zeros(n_groups, np.float64)
        self.totals, self.counts = np.zeros(n_groups, np.float64), np.ones(n_groups, np.int64)

    def program(self) -> I64:
        """Five columns: a line, the key in 8 bits, the double, the average, and one not kept."""
        program = np.zeros((N_WORDS, len(NewsField)), np.int64)
        values = [self.integers, self.keys, self.doubles, self.totals, self.integers]
        program[:, NewsField.VALUES] = [array.ctypes.data for array in values]
        program[3, NewsField.DIVISOR] = self.counts.ctypes.data
        program[:, NewsField.FACTOR] = [10, 1, 1, 1, 1]
        program[:, NewsField.TERM] = [-7, 0, 0, 0, 0]
        program[:, NewsField.WORD] = [2, 0, 1, 3, -1]
        program[:, NewsField.MASK] = [-1, 0xFF, -1, -1, 0]
        for column in (2, 3):
            program[column, NewsField.MAGNITUDE] = MAGNITUDE
            program[column, NewsField.INFINITY] = INFINITY
        return program

    def row(self, group: int) -> list[int]:
        average = float(self.totals[group] / self.counts[group])
        integer = int(self.integers[group])
        double = bits(float(self.doubles[group]))
        return [10 * integer - 7, int(self.keys[group]), double, bits(average), integer]


def is_same(one: list[int], other: list[int]) -> bool:
    """Compare what is kept of rows: neither the last column, nor how a zero or a NaN looks."""

    def plain(row: list[int]) -> list[Any]:
        doubles = [struct.unpack("<d", struct.pack("<q", word))[0] for word in row[2:4]]
        return [row[0], row[1], *["nan" if math.isnan(x) else x for x in doubles]]

    return plain(one) == plain(other)


@pytest.mark.parametrize("write", [write_news, write_news_shortly])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_rows_that_differ_come_out_and_are_kept(write, data):
    n_groups = data.draw(st.sampled_from([1, 3, 255, 256, 257, 700]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    state, known = State(n_groups), {}
    # One word more than the columns have, which tells NULLs.
    sent = np.full((n_groups, N_WORDS), UNTOUCHED, np.int64)
    is_sent = np.zeros(n_groups, np.uint8)
    for _ in range(4):
        ids = np.flatnonzero(rng.random(n_groups) < rng.choice([0.1, 0.9, 1.0])).astype(np.uint32)
        changed = ids[rng.random(len(ids)) < rng.choice([0.0, 0.5, 1.0])]
        state.integers[changed] += rng.integers(0, 2, len(changed))
        state.doubles[changed] = rng.choice(DOUBLES, len(changed))
        state.totals[changed] = rng.choice(DOUBLES, len(changed))
        state.counts[changed] = rng.integers(1, 4, len(changed))
        at = int(rng.integers(0, 5))
        news = np.full((N_WORDS, at + len(ids)), UNTOUCHED, np.int64)
        ops = np.full(at + len(ids), 99, np.uint16)
        end, n_new = write(state.program(), ids, sent, is_sent, CODES, news, ops, at)
        expected, codes = [], []
        for group in ids.tolist():
            row = state.row(group)
            if group not in known or not is_same(row, known[group]):
                expected.append(row)
                codes.append(22 if group in known else 11)
                known[group] = row
        assert news[:, at:end].T.tolist() == expected
        assert ops[at:end].tolist() == codes
        assert n_new == codes.count(11)
        assert np.all(news[:, :at] == UNTOUCHED)
        assert np.all(ops[:at] == 99)
        assert np.flatnonzero(is_sent).tolist() == sorted(known)
        for group, row in known.items():
            assert sent[group].tolist() == [row[1] & 0xFF, row[2], row[0], row[3], 0]
        assert np.all(sent[is_sent == 0] == UNTOUCHED)
