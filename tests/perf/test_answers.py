"""Checks of answers let nothing wrong pass, and nothing right fail."""

from __future__ import annotations

from decimal import Decimal

import pyarrow as pa
import pytest

from perf.answers import WrongAnswerError, check_answer, last_versions

EXPECTED = pa.table({"k": ["a", "b", None], "n": [1, 2, 3], "x": [0.1, None, 2.0]})


def changed(**columns: list[object]) -> pa.Table:
    return pa.table({**EXPECTED.to_pydict(), **columns})


def test_order_of_rows_and_columns_does_not_matter():
    answer = EXPECTED.take(pa.array([2, 0, 1])).select(["x", "n", "k"])
    check_answer(answer, EXPECTED, ("k",))


def test_last_bits_of_floats_do_not_matter():
    check_answer(changed(x=[0.1 + 1e-13, None, 2.0]), EXPECTED, ("k",))


def test_layouts_of_text_and_widths_of_counts_do_not_matter():
    answer = pa.table(
        {
            "k": EXPECTED["k"].cast(pa.large_string()),
            "n": EXPECTED["n"].cast(pa.uint64()),
            "x": EXPECTED["x"],
        }
    )
    check_answer(answer, EXPECTED, ("k",))
    answer = answer.set_column(0, "k", EXPECTED["k"].dictionary_encode())
    check_answer(answer, EXPECTED, ("k",))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (changed(n=[1, 2, 4]), "1 of 3 values of n are wrong; the first is 4 instead of 3"),
        (changed(n=[1, None, 3]), "1 of 3 values of n"),
        (changed(x=[0.1, 0.0, 2.0]), "1 of 3 values of x"),
        (changed(x=[0.1, None, 2.0001]), "1 of 3 values of x"),
        (EXPECTED.slice(1), "2 rows instead of 3"),
        (pa.concat_tables([EXPECTED, EXPECTED]), "6 rows instead of 3"),
        (EXPECTED.drop_columns(["x"]), "has no column x"),
        (changed(n=[1, 2, 2**40]).set_column(1, "n", pa.array([1.5, 2.0, 3.0])), "its types"),
    ],
)
def test_wrong_answers_are_found(answer, message):
    with pytest.raises(WrongAnswerError, match=message):
        check_answer(answer, EXPECTED, ("k",))


def test_decimals_are_compared_exactly():
    expected = pa.table({"k": [1], "x": [Decimal("0.10")]})
    answer = pa.table({"k": [1], "x": pa.array([Decimal("0.1000")], pa.decimal128(20, 4))})
    check_answer(answer, expected, ("k",))
    wrong = pa.table({"k": [1], "x": pa.array([Decimal("0.1001")], pa.decimal128(20, 4))})
    with pytest.raises(WrongAnswerError):
        check_answer(wrong, expected, ("k",))


def test_of_a_changelog_the_last_versions_count():
    changes = pa.table(
        {
            "k": ["a", "b", "a", "b", "a"],
            "n": [1, 1, 2, 1, 3],
            "_op": ["+I", "+I", "+U", "-D", "+U"],
        }
    )
    assert last_versions(changes, ("k",)).to_pylist() == [{"k": "a", "n": 3}]
    check_answer(changes, pa.table({"k": ["a"], "n": [3]}), ("k",))
    with pytest.raises(WrongAnswerError, match="1 rows instead of 2"):
        check_answer(changes, pa.table({"k": ["a", "b"], "n": [3, 1]}), ("k",))
