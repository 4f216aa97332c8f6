"""Memory for what is worked out of a micro-batch, used again for the next one.

Fresh memory of this size costs more than the kernels that fill it: the system hands it out page by
page, and takes it back in between.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U32

__all__ = ["IdRoom", "WordRoom"]

# More rows at once are seldom, and their memory is not kept.
_KEPT_ROWS_MAX = 1 << 20


class IdRoom:
    """Gives room for group ids, which are not needed any more when it is asked again."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.uint32)

    def of(self, n_rows: int) -> U32:
        """Return uint32[n_rows] of any content."""
        if n_rows > _KEPT_ROWS_MAX:
            return np.empty(n_rows, np.uint32)
        if n_rows > len(self._ids):
            self._ids = np.empty(min(max(n_rows, 2 * len(self._ids)), _KEPT_ROWS_MAX), np.uint32)
        return self._ids[:n_rows]


class WordRoom:
    """Gives room for words of keys, which are needed until :meth:`clear`."""

    def __init__(self) -> None:
        self._words = np.empty(0, np.int64)
        self._n_taken = 0
        self._n_wanted = 0

    def of(self, n_rows: int) -> I64:
        """Return int64[n_rows] of any content."""
        self._n_wanted += n_rows
        stop = self._n_taken + n_rows
        if stop > len(self._words):
            return np.empty(n_rows, np.int64)
        words, self._n_taken = self._words[self._n_taken : stop], stop
        return words

    def clear(self) -> None:
        """Take everything back, and make room for as much as was asked for."""
        if len(self._words) < self._n_wanted <= _KEPT_ROWS_MAX:
            self._words = np.empty(self._n_wanted, np.int64)
        self._n_taken = self._n_wanted = 0
