"""Runs a case of a case file against the public interface."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

import millstream as ms
from tests.equivalence.compare import OP_COLUMN, difference, fold, versions_by_key
from tests.equivalence.execution import Outcome, cut, push_through, run_whole
from tests.sql.case_file import Case, ExpectedError

__all__ = ["UNSUPPORTED", "check"]

# Features that case files require and that do not work yet. A case that needs one of them has to
# fail.
UNSUPPORTED: frozenset[str] = frozenset()

BATCH_ROWS: tuple[int | None, ...] = (1, 3, None)
PARTITIONS = (1, 2, 3)


def check(case: Case) -> None:
    """Run a case in every way that must not matter to its answer.

    Raises:
        AssertionError: If an answer is not the expected one.
    """
    if isinstance(case.expected, ExpectedError):
        _check_error(case, case.expected)
        return
    for partitions in PARTITIONS:
        query = _plan(case, partitions)
        inputs = {r.name: r.rows for r in case.relations if r.name in query.streams}
        if "versions" in case.directives:
            _check_versions(case, query, inputs, case.expected)
            continue
        for batch_rows in _batch_rows(case):
            way = f"partitions={partitions} batch_rows={batch_rows}"
            outcome = push_through(query, cut(inputs, batch_rows))
            _check_rows(case, query, outcome, case.expected, f"push {way}")
            _check_counts(case, outcome, inputs, way)
        # The other way in, where streams are interleaved by event time.
        outcome = run_whole(query, inputs, batch_rows=partitions)
        _check_rows(case, query, outcome, case.expected, f"run partitions={partitions} each")


def _batch_rows(case: Case) -> tuple[int | None, ...]:
    given = case.directives.get("batch_rows")
    return tuple(int(part) for part in given.split(",")) if given else BATCH_ROWS


def _plan(case: Case, partitions: int) -> ms.Query:
    options: dict[str, Any] = dict(case.session_options)
    session = ms.Session(partitions=partitions, **options)
    for relation in case.relations:
        if relation.is_stream:
            options = {name: _option(value) for name, value in relation.options.items()}
            session.create_stream(relation.name, relation.rows.schema, **options)
        else:
            session.create_table(relation.name, relation.rows)
    return session.sql(case.sql)


def _option(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _check_rows(
    case: Case, query: ms.Query, outcome: Outcome, expected: pa.Table, way: str
) -> None:
    assert outcome.rows.schema.names == query.schema.names, way
    folded = fold(outcome.rows, query.key_columns)
    ordered = "ordered" in case.directives and "partitions=1 " in way
    problem = difference(folded, expected, ordered=ordered)
    assert problem is None, f"{way}: {problem}"


def _check_versions(
    case: Case, query: ms.Query, inputs: dict[str, pa.Table], expected: pa.Table
) -> None:
    outcome = push_through(query, cut(inputs, int(case.directives["versions"])))
    _check_counts(case, outcome, inputs, "versions")
    assert query.schema.names[-1] == OP_COLUMN
    assert outcome.rows.schema.names == expected.schema.names
    keys = query.key_columns
    assert versions_by_key(outcome.rows, keys) == versions_by_key(expected, keys)


def _check_counts(case: Case, outcome: Outcome, inputs: dict[str, pa.Table], way: str) -> None:
    counts = outcome.counts
    assert counts is not None
    assert counts.is_conserved, f"{way}: rows were lost: {counts}"
    # A stream that a query reads in two places counts twice.
    assert counts.rows_in >= sum(table.num_rows for table in inputs.values()), way
    assert counts.rows_waiting == 0, f"{way}: rows still wait after the end: {counts}"
    assert counts.rows_late == int(case.directives.get("late", 0)), f"{way}: {counts}"


def _check_error(case: Case, expected: ExpectedError) -> None:
    error = _error_of(case)
    assert error is not None, f"expected {expected.error}, but the query ran"
    kind = getattr(ms, expected.error)
    assert isinstance(error, kind), f"expected {expected.error}: {type(error).__name__}: {error}"
    message = str(error).lower()
    for part in expected.parts:
        assert part.lower() in message, f"the message must say {part!r}: {error}"
    if expected.line is not None:
        place = (getattr(error, "line", None), getattr(error, "column", None))
        assert place == (expected.line, expected.column), f"{place}: {error}"


def _error_of(case: Case) -> ms.MillstreamError | None:
    try:
        query = _plan(case, partitions=1)
        inputs = {r.name: r.rows for r in case.relations if r.name in query.streams}
        run_whole(query, inputs, None)
    except ms.MillstreamError as error:
        return error
    return None
