"""Sets of pairs against Python's own sets."""

import numpy as np
import pytest

from millstream.kernels.pairs import add_pairs, list_pairs, move_pairs

NO_NULLS = np.empty(0, np.uint8)


def entries_for(n_slots, n_words=1):
    return np.zeros((n_slots, 1 + n_words), np.int64)


def add(entries, owners, words, is_null=NO_NULLS, row=0, n_pairs=0):
    """Add pairs; words are int64[n_words, n_rows]."""
    new_rows = np.empty(len(owners), np.uint32)
    addresses = np.array([word.ctypes.data for word in words], np.int64)
    row, n_pairs, n_new = add_pairs(owners, addresses, is_null, row, entries, n_pairs, new_rows, 0)
    return row, n_pairs, new_rows[:n_new].tolist()


def firsts(owners, words, is_null=None):
    """Return the rows that bring a pair for the first time."""
    seen, rows = set(), []
    for row, pair in enumerate(zip(owners.tolist(), *words.tolist(), strict=True)):
        if (is_null is None or not is_null[row]) and pair not in seen:
            seen.add(pair)
            rows.append(row)
    return rows


def pairs_of(entries):
    return sorted(tuple(entry) for entry in entries.tolist() if entry[0] != 0)


@pytest.mark.parametrize("n_words", [1, 2])
@pytest.mark.parametrize("n_rows", [0, 1, 511, 512, 513, 3000])
@pytest.mark.parametrize("has_nulls", [False, True])
def test_first_rows_of_pairs_are_told(n_words, n_rows, has_nulls):
    rng = np.random.default_rng(n_rows)
    owners = rng.integers(0, 7, n_rows).astype(np.uint32)
    words = rng.integers(-9, 9, (n_words, n_rows))
    words[:, rng.random(n_rows) < 0.1] = -(2**63)
    is_null = (rng.random(n_rows) < 0.3).astype(np.uint8) if has_nulls else NO_NULLS
    entries = entries_for(8192, n_words)
    expected = firsts(owners, words, is_null if has_nulls else None)
    assert add(entries, owners, words, is_null) == (n_rows, len(expected), expected)
    # A second time they are all there.
    again = add(entries, owners, words, is_null, n_pairs=len(expected))
    assert again == (n_rows, len(expected), [])


def test_a_full_set_is_left_at_the_row_without_room_and_gone_on_with():
    owners = np.zeros(1000, np.uint32)
    words = np.arange(1000, dtype=np.int64).reshape(1, -1) // 2
    entries = entries_for(64)
    row, n_pairs, new_rows = add(entries, owners, words)
    assert (row, n_pairs) == (80, 40)
    assert new_rows == list(range(0, 80, 2))
    larger = entries_for(1024)
    move_pairs(entries, larger)
    assert pairs_of(larger) == pairs_of(entries)
    row, n_pairs, new_rows = add(larger, owners, words, row=row, n_pairs=n_pairs)
    assert (row, n_pairs) == (1000, 500)
    assert new_rows == list(range(80, 1000, 2))


def test_rows_of_pairs_that_are_there_need_no_room():
    owners = np.zeros(40, np.uint32)
    words = np.arange(40, dtype=np.int64).reshape(1, -1)
    entries = entries_for(64)
    assert add(entries, owners, words)[:2] == (40, 40)
    assert add(entries, owners, words, n_pairs=40) == (40, 40, [])


def test_equal_values_of_other_owners_and_other_values_of_one_owner_are_apart():
    owners = np.array([0, 1, 0, 1, 4_000_000_000, 4_000_000_000], np.uint32)
    words = np.array([[5, 5, 6, 5, 5, 5]], np.int64)
    assert add(entries_for(8), owners, words) == (6, 4, [0, 1, 2, 4])


def test_the_second_word_tells_values_apart():
    owners = np.zeros(3, np.uint32)
    words = np.array([[1, 1, 1], [2, 3, 2]], np.int64)
    assert add(entries_for(8, 2), owners, words) == (3, 2, [0, 1])


def test_pairs_are_listed_under_the_numbers_that_their_owners_get():
    rng = np.random.default_rng(3)
    owners = rng.integers(0, 10, 500).astype(np.uint32)
    words = rng.integers(0, 50, (2, 500))
    entries = entries_for(2048, 2)
    _, n_pairs, rows = add(entries, owners, words)
    # Owners 8 and 9 are out of reach, 1 is left out.
    numbers = np.array([3, -1, 9, 0, 1, 2, 8, 7], np.int64)
    listed, values = np.empty(n_pairs, np.uint32), np.empty((2, n_pairs), np.int64)
    n_listed = list_pairs(entries, numbers, listed, values)
    got = sorted(zip(listed[:n_listed].tolist(), *values[:, :n_listed].tolist(), strict=True))
    assert got == sorted(
        (int(numbers[owners[row]]), *words[:, row].tolist())
        for row in rows
        if owners[row] < 8 and owners[row] != 1
    )
