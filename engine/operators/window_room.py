"""Whether windows fit into the type of event time, as they do not at its ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.errors import SchemaError
from millstream.kernels.compile import I64
from millstream.planner.nodes import Window

__all__ = ["WindowRoom", "time_limits"]


class WindowRoom:
    """Refuses rows some window of which begins or ends beyond the type of event time.

    Args:
        window: A window that is not a session.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        least, greatest = time_limits(window.time_type)
        size, step, offset = window.size, window.step, window.offset
        if window.kind == "cumulate":
            # All windows of a pane begin with the same one, and the last is of full size.
            n_panes = size // step
            self._least = -((offset - least) // size) * n_panes
            self._greatest = (greatest - offset) // size * n_panes - 1
        else:
            # A pane is the last of its first window, and the first of its last one.
            self._least = -((offset - least - size) // step) - 1
            self._greatest = (greatest - offset - size) // step

    def check(self, panes: I64 | Sequence[int], times: I64 | Sequence[int]) -> None:
        """Look at the panes of rows, or at the first and the last of them.

        Args:
            panes: The panes.
            times: Event times of the rows, or the least and the greatest of them.

        Raises:
            SchemaError: Some window would not fit.
        """
        if len(panes) == 0:
            return
        if isinstance(panes, np.ndarray):
            first, last = int(panes.min()), int(panes.max())
        else:
            first, last = min(panes), max(panes)
        if self._least <= first and last <= self._greatest:
            return
        window, time = self._window, min(times) if first < self._least else max(times)
        raise SchemaError(
            f"event time must leave room in {window.time_type} for windows of {window.size} "
            f"around it: {time}"
        )


def time_limits(type_: pa.DataType) -> tuple[int, int]:
    """Return the least and the greatest event time of a type."""
    n_bits: int = type_.bit_width
    if pa.types.is_unsigned_integer(type_):
        # They are read as int64.
        return 0, (1 << min(n_bits, 63)) - 1
    return -(1 << (n_bits - 1)), (1 << (n_bits - 1)) - 1
