"""Steps are taken when a watermark passes the end of a window, and only then."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.event_time import NO_WATERMARK, WATERMARK_END
from millstream.engine.operators.windowing import WindowGrid
from millstream.engine.step import Step, watermark_at
from millstream.engine.window_ends import WindowEnds
from millstream.planner.nodes import WatermarkBound, Window


def tumbling(size, offset=0):
    return Window("tumble", "ts", pa.int64(), size, size, offset)


def passed(ends, *watermarks):
    """Ask after each watermark of the only stream; return at which ones windows ended."""
    return [watermark for watermark in watermarks if ends.are_passed({"t": watermark})]


def test_windows_end_at_multiples_of_their_size():
    ends = WindowEnds([(tumbling(10), 0, (WatermarkBound("t"),))])
    assert passed(ends, NO_WATERMARK, 3, 3, 9, 10, 19, 20, 55, 59, 60) == [3, 10, 20, 55, 60]


def test_windows_before_the_epoch_end_too():
    ends = WindowEnds([(tumbling(10, offset=3), 0, (WatermarkBound("t"),))])
    assert passed(ends, -28, -18, -17, -8, -7, 2, 3) == [-28, -18, -17, -7, 3]


def test_windows_that_take_late_rows_end_twice():
    ends = WindowEnds([(tumbling(10), 4, (WatermarkBound("t"),))])
    assert passed(ends, 1, 3, 4, 9, 10, 13, 14, 20, 24) == [1, 4, 10, 14, 20, 24]


def test_the_slowest_stream_decides():
    bounds = (WatermarkBound("t"), WatermarkBound("u", 5))
    ends = WindowEnds([(tumbling(10), 0, bounds)])
    steps = [(3, NO_WATERMARK), (30, 14), (30, 15), (30, 24), (30, 25), (31, 90), (40, 90)]
    answers = [ends.are_passed({"t": t, "u": u}) for t, u in steps]
    assert answers == [False, True, True, False, True, True, True]


def test_nothing_ends_after_the_end():
    ends = WindowEnds([(tumbling(10), 0, (WatermarkBound("t", 7),))])
    assert passed(ends, 0, WATERMARK_END - 1, WATERMARK_END) == [
        0,
        WATERMARK_END - 1,
        WATERMARK_END,
    ]
    assert passed(ends, WATERMARK_END) == []


WINDOW = st.builds(tumbling, st.integers(1, 12), st.integers(-5, 5))
BOUND = st.builds(WatermarkBound, st.sampled_from("tu"), st.sampled_from([0, 0, 1, 7]))
BOUNDS = st.lists(BOUND, min_size=1, max_size=3).map(tuple)
ADVANCE = st.one_of(st.integers(0, 9), st.sampled_from([40, WATERMARK_END]))


def reached(watermark, advance):
    if watermark == NO_WATERMARK:
        return -20 if advance > 0 else watermark
    return min(watermark + advance, WATERMARK_END)


@pytest.mark.parametrize("start", [NO_WATERMARK, -20, WATERMARK_END - 30])
@given(
    st.lists(st.tuples(WINDOW, st.sampled_from([0, 3]), BOUNDS), max_size=3),
    st.lists(st.tuples(ADVANCE, ADVANCE), max_size=30),
)
def test_windows_have_ended_where_the_number_of_closed_windows_changes(start, windows, advances):
    ends, before = WindowEnds(windows), None
    t = u = start
    for advance_t, advance_u in advances:
        t, u = reached(t, advance_t), reached(u, advance_u)
        step = Step(0, {"t": t, "u": u}, False, 1)
        closed = [
            WindowGrid(window, lateness).closed_below(watermark_at(step, bounds), late)
            for window, lateness, bounds in windows
            for late in (0, lateness)
        ]
        if before is None:
            before = [NO_WATERMARK] * len(closed)
        assert ends.are_passed(step.watermarks) == (closed != before)
        before = closed
