"""The row of each group that comes first or last in an order.

What a row holds does not matter here: kernels find the rows, and callers take the values of those
few that are better than what their group had.
"""

from __future__ import annotations

from millstream.kernels.compile import I64, U8, U32, kernel

__all__ = ["NO_ROW", "pick_by_arrival", "pick_by_words", "run_picks"]

NO_ROW = -1
"""In ``winners``: no row of the batch has been picked for the group."""


@kernel
def pick_by_arrival(
    valid: U8, group_ids: U32, takes_last: bool, seen: U8, winners: I64, changed: U32
) -> int:
    """Find for each group the first row ever or the last row of a batch.

    Args:
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        takes_last: Whether the last row of each group is picked, else the first of each group that
            has no pick yet.
        seen: uint8[capacity], whether a group has a pick, updated.
        winners: int64[capacity], ``NO_ROW`` everywhere; out: the picked row of changed groups.
        changed: uint32[n_rows], out: the groups that have a new pick.

    Returns:
        How many groups have changed.
    """
    has_nulls = valid.shape[0] > 0
    n_changed = 0
    for row in range(group_ids.shape[0]):
        group = group_ids[row]
        if (has_nulls and valid[row] == 0) or (seen[group] and not takes_last):
            continue
        seen[group] = 1
        if winners[group] == NO_ROW:
            changed[n_changed] = group
            n_changed += 1
        winners[group] = row
    return n_changed


@kernel
def run_picks(
    group_ids: U32,
    valid: U8,
    takes_first: bool,
    is_before: bool,
    first_place: int,
    places: I64,
    out: I64,
) -> None:
    """Find for each row the first or last row of its group so far.

    Args:
        group_ids: uint32[n_rows]. Unchecked.
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        takes_first: Whether the first row of each group is picked, else the last.
        is_before: Whether a row itself does not count for it.
        first_place: Place of the first row of the batch; the others follow.
        places: int64[capacity], the pick of each group, or ``NO_ROW``; updated.
        out: int64[n_rows], out: the places of the picks.
    """
    has_nulls = valid.shape[0] > 0
    for row in range(group_ids.shape[0]):
        group = group_ids[row]
        place = places[group]
        if is_before:
            out[row] = place
        is_valid = not has_nulls or valid[row] != 0
        if is_valid and (place == NO_ROW or not takes_first):
            place = first_place + row
            places[group] = place
        if not is_before:
            out[row] = place


@kernel
def pick_by_words(
    orders: I64,
    valid: U8,
    group_ids: U32,
    takes_last: bool,
    bests: I64,
    seen: U8,
    winners: I64,
    changed: U32,
) -> int:
    """Find for each group the row with the least or greatest order, if it beats the group's own.

    Args:
        orders: int64[n_words, n_rows], at least one word; the first is compared first.
        valid: uint8[n_rows], 0 for rows to leave out; or empty if there are none.
        group_ids: uint32[n_rows]. Unchecked.
        takes_last: Whether the greatest order wins, and of equal ones the later row; else the least
            order wins, and of equal ones the earlier row.
        bests: int64[capacity, n_words], the order of each group's pick, updated.
        seen: uint8[capacity], whether a group has a pick, updated.
        winners: int64[capacity], ``NO_ROW`` everywhere; out: the picked row of changed groups.
        changed: uint32[n_rows], out: the groups that have a new pick.

    Returns:
        How many groups have changed.
    """
    has_nulls = valid.shape[0] > 0
    n_words = orders.shape[0]
    n_changed = 0
    for row in range(group_ids.shape[0]):
        if has_nulls and valid[row] == 0:
            continue
        group = group_ids[row]
        is_taken = True
        if seen[group]:
            is_taken = takes_last
            for word in range(n_words):
                if orders[word, row] != bests[group, word]:
                    is_taken = (orders[word, row] > bests[group, word]) == takes_last
                    break
        if not is_taken:
            continue
        for word in range(n_words):
            bests[group, word] = orders[word, row]
        seen[group] = 1
        if winners[group] == NO_ROW:
            changed[n_changed] = group
            n_changed += 1
        winners[group] = row
    return n_changed
