"""Memory for the group ids of a micro-batch that is used again for those of the next one."""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import U32

__all__ = ["IdRoom"]

# More rows at once are seldom, and their memory is not kept.
_KEPT_ROWS_MAX = 1 << 20


class IdRoom:
    """Gives room for group ids, which are not needed any more when it is asked again.

    Fresh memory of this size costs more than the kernels that fill it: the system hands it out page
    by page, and takes it back in between.
    """

    def __init__(self) -> None:
        self._ids = np.empty(0, np.uint32)

    def of(self, n_rows: int) -> U32:
        """Return uint32[n_rows] of any content."""
        if n_rows > _KEPT_ROWS_MAX:
            return np.empty(n_rows, np.uint32)
        if n_rows > len(self._ids):
            self._ids = np.empty(min(max(n_rows, 2 * len(self._ids)), _KEPT_ROWS_MAX), np.uint32)
        return self._ids[:n_rows]
