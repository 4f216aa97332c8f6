"""What a condition says, term by term."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from millstream.planner.conjunction import conjuncts, is_semi_join


def parsed(sql: str) -> exp.Expr:
    return sqlglot.parse_one(sql, into=exp.Condition)


def test_terms_are_those_that_and_joins() -> None:
    terms = conjuncts(parsed("a AND (b OR c) AND (d AND NOT (e AND f))"))
    assert [term.sql() for term in terms] == ["a", "(b OR c)", "d", "NOT (e AND f)"]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("a IN (SELECT b FROM t)", True),
        ("a = 1 OR NOT EXISTS (SELECT 1 FROM t)", True),
        ("a > ALL (SELECT b FROM t)", True),
        ("a IN (1, 2)", False),
        ("a > (SELECT max(b) FROM t)", False),
        # A value all the same, however it is found.
        ("a > (SELECT max(b) FROM t WHERE EXISTS (SELECT 1 FROM u))", False),
        ("a > (SELECT max(b) FROM t WHERE b IN (SELECT c FROM u))", False),
    ],
)
def test_predicates_that_joins_are_made_of(sql: str, expected: bool) -> None:
    assert is_semi_join(parsed(sql)) is expected
