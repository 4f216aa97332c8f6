"""Numbers out of a large range made dense."""

from __future__ import annotations

from millstream.kernels.compile import U32, kernel

__all__ = ["compact_numbers"]


@kernel
def compact_numbers(numbers: U32, n_all: int, places: U32, present: U32) -> int:
    """Replace numbers by their rank among those that occur.

    Args:
        numbers: uint32[n], each below ``n_all``: unchecked. Gets the ranks.
        n_all: How many numbers there are.
        places: uint32[n_all], zeros; scratch memory.
        present: uint32[n_all], gets the numbers that occur, ascending.

    Returns:
        How many different numbers occur.
    """
    for row in range(numbers.shape[0]):
        places[numbers[row]] = 1
    n_present = 0
    for number in range(n_all):
        present[n_present] = number
        is_present = places[number]
        places[number] = n_present
        n_present += is_present
    if n_present < n_all:
        for row in range(numbers.shape[0]):
            numbers[row] = places[numbers[row]]
    return n_present
