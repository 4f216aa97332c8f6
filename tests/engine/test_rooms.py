"""Memory that is used again from step to step."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np

from millstream.engine.state import rooms
from millstream.engine.state.rooms import IdRoom


def test_room_for_ids_is_used_again_grows_and_is_kept_up_to_a_maximum() -> None:
    with patch.object(rooms, "_KEPT_ROWS_MAX", 100):
        room = IdRoom()
        some = room.of(30)
        assert (some.dtype, len(some), len(room.of(0))) == (np.uint32, 30, 0)
        assert room.of(10).ctypes.data == some.ctypes.data
        # Twice as large at the least, so that it does not grow time and again.
        larger = room.of(31)
        assert len(larger) == 31
        assert not np.shares_memory(larger, some)
        assert room.of(60).ctypes.data == larger.ctypes.data
        most = room.of(61)
        assert room.of(100).ctypes.data == most.ctypes.data
        seldom = room.of(101)
        assert len(seldom) == 101
        assert not np.shares_memory(seldom, most)
        assert not np.shares_memory(room.of(101), seldom)
        assert room.of(100).ctypes.data == most.ctypes.data
