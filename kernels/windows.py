"""Event time: running watermarks, panes, and the windows that panes belong to.

Event times are int64 in a unit of their own. Time is cut into panes of ``step`` units; pane ``p``
begins at ``offset + p * step``, before the epoch as after it. A window is a run of panes that is
known by its end index ``e``: it ends at ``offset + e * step``, where pane ``e`` begins.

* A tumbling window is one pane.
* A hopping window is ``k`` panes, and one ends with every pane: pane ``p`` belongs to the end
  indices ``p + 1`` to ``p + k``.
* A cumulating window grows by a pane at a time up to ``k`` panes, then the next one begins: pane
  ``p`` belongs to the end indices from ``p + 1`` to the next multiple of ``k``.

``INT64_MIN`` as a watermark, or as the greatest time seen, means that there is none yet.
"""

from __future__ import annotations

import numpy as np

from millstream.kernels.compile import I64, U8, address_array, inlined_kernel, kernel, short_kernel

__all__ = [
    "NO_PANE",
    "count_expanded",
    "cut_ascending",
    "cut_panes",
    "expand_panes",
    "first_open_windows",
    "late_for_tumble",
    "only_pane",
    "pane_indices",
    "running_watermarks",
    "scan_batches",
    "scan_few_times",
    "scan_times",
]

_INT64_MIN = -(2**63)
NO_PANE = _INT64_MIN
"""What :func:`only_pane` returns for several panes; no pane of two time units has this number."""

_INT64_MAX = 2**63 - 1
_BLOCK_ROWS = 1024
# Up to this many borders between panes, comparing with each is cheaper than a division per row.
_BORDERS_MAX = 8


@kernel
def _watermark(max_time: int, delay: int) -> int:
    return max(max_time, _INT64_MIN + delay) - delay


@kernel
def scan_times(times: I64, max_time: int, delay: int) -> tuple[int, int, int, int, bool]:
    """Follow the running watermark over a batch and count the rows that are behind it.

    The watermark before a row is the greatest time of all rows before it, minus the delay. Times
    that ascend, or that lie within the delay of each other, are only looked at block by block.

    Args:
        times: int64[n_rows], event times.
        max_time: Greatest time before the batch, or INT64_MIN.
        delay: How far rows may be behind, 0 or more: unchecked.

    Returns:
        The greatest time after the batch; the number of rows before their watermark; the least and
        the greatest time of the batch, INT64_MAX and INT64_MIN for no rows; and whether no time of
        the batch is less than the one before.
    """
    n_behind = 0
    do_ascend = True
    least_of_all = _INT64_MAX
    greatest_of_all = _INT64_MIN
    for first in range(0, times.shape[0], _BLOCK_ROWS):
        block = times[first : first + _BLOCK_ROWS]
        least = greatest = block[0]
        n_descents = 0
        for row in range(1, block.shape[0]):
            least = min(least, block[row])
            greatest = max(greatest, block[row])
            n_descents += block[row] < block[row - 1]
        do_ascend = do_ascend and n_descents == 0 and block[0] >= times[max(first - 1, 0)]
        least_of_all = min(least_of_all, least)
        greatest_of_all = max(greatest_of_all, greatest)
        max_before = max_time
        max_time = max(max_time, greatest)
        # In a block that ascends no row is behind another: what came before the block decides.
        highest = max_before if n_descents == 0 else max_time
        if least >= _watermark(highest, delay):
            continue
        for row in range(block.shape[0]):
            n_behind += block[row] < _watermark(max_before, delay)
            max_before = max(max_before, block[row])
    return max_time, n_behind, least_of_all, greatest_of_all, do_ascend


@kernel
def scan_batches(places: I64, max_time: int, delay: int, found: I64) -> None:
    """Do what :func:`scan_times` does, for batches that come one after the other.

    Args:
        places: int64[n_batches, 2], the address of the int64 event times of each, and how many. The
            caller keeps them alive. Unchecked.
        max_time: Greatest time before the first batch, or INT64_MIN.
        delay: How far rows may be behind, 0 or more: unchecked.
        found: int64[n_batches, 5], out: what :func:`scan_times` returns for each.
    """
    for batch in range(places.shape[0]):
        times = address_array(places[batch, 0], places[batch, 1], np.int64)
        scanned = scan_times(times, max_time, delay)
        max_time = scanned[0]
        found[batch, 0] = max_time
        found[batch, 1] = scanned[1]
        found[batch, 2] = scanned[2]
        found[batch, 3] = scanned[3]
        found[batch, 4] = scanned[4]


@short_kernel
def scan_few_times(times: I64, max_time: int, delay: int) -> tuple[int, int, int, int, bool]:
    """Do what :func:`scan_times` does, for up to some thousands of rows.

    Args:
        times: int64[n_rows], event times.
        max_time: Greatest time before the batch, or INT64_MIN.
        delay: How far rows may be behind, 0 or more: unchecked.

    Returns:
        As :func:`scan_times`.
    """
    return scan_times(times, max_time, delay)


@kernel
def running_watermarks(times: I64, max_time: int, delay: int, watermarks: I64) -> None:
    """Give each row the watermark before it, as :func:`scan_times` judges by.

    Args:
        times: int64[n_rows], event times.
        max_time: Greatest time before the batch, or INT64_MIN.
        delay: How far rows may be behind, 0 or more: unchecked.
        watermarks: int64[n_rows], INT64_MIN where there is none.
    """
    for row in range(times.shape[0]):
        watermarks[row] = _watermark(max_time, delay)
        max_time = max(max_time, times[row])


@kernel
def _pane(time: int, turns: int, shift: int, size: int) -> int:
    # The offset is turns * size + shift with 0 <= shift < size. Taking the shift off the remainder
    # instead of off the time cannot overflow.
    pane = time // size
    return pane - (time - pane * size < shift) - turns


@inlined_kernel
def _range_of(times: I64) -> tuple[int, int]:
    """Return the least and the greatest of some times, at least one."""
    least = greatest = times[0]
    for row in range(1, times.shape[0]):
        least = min(least, times[row])
        greatest = max(greatest, times[row])
    return least, greatest


@kernel
def _number_block(
    times: I64, least: int, greatest: int, turns: int, shift: int, size: int, panes: I64
) -> None:
    n_rows = times.shape[0]
    pane_first = _pane(least, turns, shift, size)
    n_borders = _pane(greatest, turns, shift, size) - pane_first
    # Below 0: the panes are so far apart that their distance overflows.
    if not 0 <= n_borders <= _BORDERS_MAX:
        for row in range(n_rows):
            panes[row] = _pane(times[row], turns, shift, size)
        return
    for row in range(n_rows):
        panes[row] = pane_first
    # Borders are counted down from the greatest time, because the first pane may begin before the
    # least int64; no border does.
    border = greatest - (greatest % size - shift) % size
    for _ in range(n_borders):
        for row in range(n_rows):
            panes[row] += times[row] >= border
        border -= size


@kernel
def pane_indices(times: I64, offset: int, size: int, panes: I64) -> tuple[int, int]:
    """Number the panes of event times: the floor of ``(time - offset) / size``.

    Args:
        times: int64[n_rows], event times.
        offset: Where pane 0 begins.
        size: Length of a pane, at least 1: unchecked.
        panes: int64[n_rows], the numbers. They have to be within int64: unchecked, and certain
            for a size of 2 or more and an offset less than half of the range from the epoch.

    Returns:
        The least and the greatest number; INT64_MAX and INT64_MIN for no rows.
    """
    turns = offset // size
    shift = offset - turns * size
    least_pane = _INT64_MAX
    greatest_pane = _INT64_MIN
    for first in range(0, times.shape[0], _BLOCK_ROWS):
        block = times[first : first + _BLOCK_ROWS]
        least, greatest = _range_of(block)
        block_panes = panes[first : first + _BLOCK_ROWS]
        _number_block(block, least, greatest, turns, shift, size, block_panes)
        least_pane = min(least_pane, _pane(least, turns, shift, size))
        greatest_pane = max(greatest_pane, _pane(greatest, turns, shift, size))
    return least_pane, greatest_pane


@kernel
def only_pane(times: I64, offset: int, size: int) -> int:
    """Return the pane that holds all of some event times, or ``NO_PANE`` if there are several.

    Args:
        times: int64[n_rows], event times, at least one: unchecked.
        offset: Where pane 0 begins.
        size: Length of a pane, as for :func:`pane_indices`.
    """
    least, greatest = _range_of(times)
    turns = offset // size
    shift = offset - turns * size
    pane = _pane(least, turns, shift, size)
    return pane if pane == _pane(greatest, turns, shift, size) else _INT64_MIN


@inlined_kernel
def _bounds_of_pane(time: int, shift: int, size: int) -> tuple[int, int]:
    """Return the least and the greatest int64 in the pane of a time."""
    # A pane may begin before the least int64 or end behind the greatest.
    n_before = (time % size - shift) % size
    n_behind = size - 1 - n_before
    first = max(time, _INT64_MIN + n_before) - n_before
    return first, min(time, _INT64_MAX - n_behind) + n_behind


@kernel
def cut_panes(times: I64, offset: int, size: int, starts: I64, panes: I64) -> int:
    """Find the rows whose pane is not that of the row before.

    Args:
        times: int64[n_rows], event times.
        offset: Where pane 0 begins.
        size: Length of a pane, as for :func:`pane_indices`.
        starts: int64[n_most], gets the numbers of these rows, ascending, the first row among them.
        panes: int64[n_most], gets their panes.

    Returns:
        How many there are, or n_most + 1 if there are more than there is room for.
    """
    turns = offset // size
    shift = offset - turns * size
    n_cuts = 0
    first, last = _INT64_MAX, _INT64_MIN
    for first_row in range(0, times.shape[0], _BLOCK_ROWS):
        block = times[first_row : first_row + _BLOCK_ROWS]
        least, greatest = _range_of(block)
        if first <= least and greatest <= last:
            continue
        for row in range(block.shape[0]):
            time = block[row]
            if time < first or time > last:
                if n_cuts == starts.shape[0]:
                    return n_cuts + 1
                first, last = _bounds_of_pane(time, shift, size)
                starts[n_cuts] = first_row + row
                panes[n_cuts] = _pane(time, turns, shift, size)
                n_cuts += 1
    return n_cuts


@short_kernel
def cut_ascending(times: I64, offset: int, size: int, starts: I64, panes: I64) -> int:
    """Do what :func:`cut_panes` does, for times of which none is less than the one before.

    Args:
        times: int64[n_rows], event times.
        offset: Where pane 0 begins.
        size: Length of a pane, as for :func:`pane_indices`.
        starts: int64[n_most], as for :func:`cut_panes`.
        panes: int64[n_most], as for :func:`cut_panes`.

    Returns:
        As :func:`cut_panes`.
    """
    turns = offset // size
    shift = offset - turns * size
    n_cuts = 0
    row = 0
    while row < times.shape[0]:
        if n_cuts == starts.shape[0]:
            return n_cuts + 1
        starts[n_cuts] = row
        panes[n_cuts] = _pane(times[row], turns, shift, size)
        n_cuts += 1
        _, last = _bounds_of_pane(times[row], shift, size)
        # The first row behind the pane is between these.
        row, end = row + 1, times.shape[0]
        while row < end:
            middle = (row + end) // 2
            if times[middle] <= last:
                row = middle + 1
            else:
                end = middle
    return n_cuts


@kernel
def _minus(one: int, other: int) -> int:
    difference = one - other
    if (one ^ other) & (one ^ difference) < 0:
        return _INT64_MIN if one < 0 else _INT64_MAX
    return difference


@kernel
def _closed_until(watermark: int, offset: int, step: int, lateness: int) -> int:
    # A window is late when offset + e * step + lateness <= watermark: up to which e is that so?
    if watermark == _INT64_MIN:
        return _INT64_MIN
    return _minus(_minus(watermark, lateness), offset) // step


@kernel
def late_for_tumble(
    panes: I64, offset: int, size: int, lateness: int, watermarks: I64, late: U8
) -> int:
    """Mark rows whose tumbling window had closed before they came.

    Args:
        panes: int64[n_rows], pane of each row.
        offset: Where pane 0 begins.
        size: Length of a window, at least 1: unchecked.
        lateness: How long a window still takes rows after its end, 0 or more: unchecked.
        watermarks: int64[n_rows], the watermark before each row, or INT64_MIN.
        late: uint8[n_rows], 1 where the window's end plus ``lateness`` is at or before the
            watermark, else 0.

    Returns:
        The number of late rows.
    """
    n_late = 0
    known_watermark = _INT64_MIN
    closed_until = _INT64_MIN
    for row in range(panes.shape[0]):
        if watermarks[row] != known_watermark:
            known_watermark = watermarks[row]
            closed_until = _closed_until(known_watermark, offset, size, lateness)
        late[row] = panes[row] < closed_until
        n_late += late[row]
    return n_late


@kernel
def _last_end(pane: int, is_cumulate: bool, n_panes: int) -> int:
    if is_cumulate:
        return pane - pane % n_panes + n_panes
    return pane + n_panes


@kernel
def first_open_windows(
    panes: I64,
    watermarks: I64,
    offset: int,
    step: int,
    lateness: int,
    is_cumulate: bool,
    n_panes: int,
    first_ends: I64,
    late: U8,
) -> int:
    """Find the first hopping or cumulating window that still takes each row.

    Args:
        panes: int64[n_rows], pane of each row.
        watermarks: int64[n_rows], the watermark before each row, or INT64_MIN.
        offset: Where pane 0 begins.
        step: Length of a pane, at least 1: unchecked.
        lateness: How long a window still takes rows after its end, 0 or more: unchecked.
        is_cumulate: Whether windows cumulate; else they hop.
        n_panes: Panes of a whole window, at least 1: unchecked.
        first_ends: int64[n_rows], the least end index of a window of the row that is not late;
            where all are late, a greater one than any of them.
        late: uint8[n_rows], 1 where all windows of the row are late, else 0.

    Returns:
        The number of rows that are late for all their windows.
    """
    n_late = 0
    known_watermark = _INT64_MIN
    closed_until = _INT64_MIN
    for row in range(panes.shape[0]):
        if watermarks[row] != known_watermark:
            known_watermark = watermarks[row]
            closed_until = _closed_until(known_watermark, offset, step, lateness)
        first_ends[row] = max(panes[row], closed_until) + 1
        late[row] = _last_end(panes[row], is_cumulate, n_panes) <= closed_until
        n_late += late[row]
    return n_late


@kernel
def count_expanded(panes: I64, first_ends: I64, is_cumulate: bool, n_panes: int) -> int:
    """Return how many rows :func:`expand_panes` writes for the same arguments."""
    n_out = 0
    for row in range(panes.shape[0]):
        first_end = max(panes[row] + 1, first_ends[row])
        n_out += max(0, _last_end(panes[row], is_cumulate, n_panes) + 1 - first_end)
    return n_out


@kernel
def expand_panes(
    panes: I64, first_ends: I64, is_cumulate: bool, n_panes: int, source_rows: I64, ends: I64
) -> int:
    """Repeat each row of a pane once per window that the pane belongs to.

    Args:
        panes: int64[n_rows], pane of each row.
        first_ends: int64[n_rows], the least end index that the row counts in; INT64_MIN for all.
        is_cumulate: Whether windows cumulate; else they hop.
        n_panes: Panes of a whole window, at least 1: unchecked.
        source_rows: int64[n_out], the index of the row that each output row repeats; see
            :func:`count_expanded` for n_out.
        ends: int64[n_out], the end index of each output row's window, ascending within a row.

    Returns:
        The number of output rows.
    """
    n_out = 0
    for row in range(panes.shape[0]):
        first_end = max(panes[row] + 1, first_ends[row])
        for end in range(first_end, _last_end(panes[row], is_cumulate, n_panes) + 1):
            source_rows[n_out] = row
            ends[n_out] = end
            n_out += 1
    return n_out
