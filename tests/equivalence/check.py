"""Deciding whether Millstream answers a generated case as a batch engine does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

import millstream as ms
from tests.equivalence.case import Case
from tests.equivalence.chooser import Chooser
from tests.equivalence.compare import difference, fold
from tests.equivalence.execution import Outcome, cut, push_through, run_whole
from tests.equivalence.oracle import answer_of_datafusion

__all__ = ["Mismatch", "choose_way", "plan", "run_case", "run_ragged_case"]

BATCH_ROWS: tuple[int | None, ...] = (None, 1, 2, 7)
PARTITIONS = (1, 2, 3, 8)
STRATEGIES = (
    None,
    None,
    "always_hash",
    "smart_repartition",
    "sticky_partition",
    "round_robin",
    "fan_in",
)


class Mismatch(AssertionError):
    """Millstream's answer is not the batch engine's, or rows were lost."""


def plan(case: Case, partitions: int) -> ms.Query:
    """Declare a case's streams and tables in a session, and plan its query."""
    session = ms.Session(partitions=partitions, **dict(case.session_options))
    for stream in case.streams:
        lateness: dict[str, Any] = {}
        if stream.allowed_lateness:
            lateness["allowed_lateness"] = stream.allowed_lateness
        session.create_stream(
            stream.name,
            stream.rows.schema,
            event_time="ts",
            max_out_of_orderness=stream.max_out_of_orderness,
            **lateness,
        )
    for name, table in case.tables.items():
        session.create_table(name, table)
    return session.sql(case.sql)


def run_case(
    case: Case,
    batch_rows: int | None,
    partitions: int,
    strategy: str | None = None,
    *,
    expected: pa.Table | None = None,
) -> None:
    """Run a case and compare its answer.

    Args:
        case: The case.
        batch_rows: Rows per micro-batch; None takes all rows at once.
        partitions: Number of partitions.
        strategy: How rows are given to partitions; None leaves it to the query.
        expected: The batch engine's answer, if it is at hand.

    Raises:
        Mismatch: If the answers differ or rows are not accounted for.
        OracleError: If the batch engine does not answer.
    """
    expected = answer_of_datafusion(case) if expected is None else expected
    query = plan(case, partitions)
    strategy = _fitting(query, strategy)
    inputs = {stream.name: stream.rows for stream in case.streams}
    way = f"batch_rows={batch_rows} partitions={partitions} strategy={strategy}"
    if len(inputs) > 1:
        # Only `run` interleaves streams by event time.
        _check(case, query, run_whole(query, inputs, batch_rows, strategy), expected, way)
    else:
        outcome = push_through(query, cut(inputs, batch_rows), strategy)
        _check(case, query, outcome, expected, way)


def run_ragged_case(
    case: Case, chooser: Chooser, partitions: int, *, expected: pa.Table | None = None
) -> None:
    """Run a case in batches of chosen sizes, empty ones between them; otherwise as `run_case`."""
    expected = answer_of_datafusion(case) if expected is None else expected
    query = plan(case, partitions)
    pieces = [
        piece for stream in case.streams for piece in _ragged(chooser, stream.rows, stream.name)
    ]
    _check(case, query, push_through(query, pieces), expected, f"ragged partitions={partitions}")


def choose_way(chooser: Chooser) -> tuple[int | None, int, str | None]:
    """Choose rows per batch, a number of partitions and a strategy."""
    return chooser.choice(BATCH_ROWS), chooser.choice(PARTITIONS), chooser.choice(STRATEGIES)


def _fitting(query: ms.Query, strategy: str | None) -> str | None:
    """Leave out the one strategy that makes no sense for a query without keys."""
    if strategy == "always_hash":
        try:
            query.explain(strategy)
        except ms.SqlError:
            return None
    return strategy


def _ragged(chooser: Chooser, table: pa.Table, name: str) -> list[tuple[str, pa.RecordBatch]]:
    whole = pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in table.columns], schema=table.schema
    )
    pieces, start = [], 0
    while start < whole.num_rows:
        n_rows = chooser.choice((1, 0, 3, 10))
        pieces.append((name, whole.slice(start, n_rows)))
        start += n_rows
    return pieces


def _check(case: Case, query: ms.Query, outcome: Outcome, expected: pa.Table, way: str) -> None:
    for problem in _problems(case, query, outcome, expected):
        raise Mismatch(f"{way}: {problem}\n{describe(case)}")


def _problems(case: Case, query: ms.Query, outcome: Outcome, expected: pa.Table) -> Sequence[str]:
    problems = []
    counts = outcome.counts
    if counts is not None:
        if not counts.is_conserved or counts.rows_waiting:
            problems.append(f"rows were lost: {counts}")
        if counts.rows_late != case.rows_late:
            problems.append(f"{counts.rows_late} rows are late, expected {case.rows_late}")
    folded = fold(outcome.rows, query.key_columns)
    # DataFusion's schema of an answer without rows is that of a plan before types are coerced.
    found = difference(
        folded,
        expected,
        unordered_lists=case.unordered_lists,
        same_types=expected.num_rows > 0,
    )
    return problems + ([found] if found else [])


def describe(case: Case) -> str:
    """Write a case so that it can be read and repeated: its declarations, rows and queries."""
    parts = [
        f"stream {stream.name}: max_out_of_orderness={stream.max_out_of_orderness} units"
        f" allowed_lateness={stream.allowed_lateness}\n{_rows(stream.rows)}"
        for stream in case.streams
    ]
    parts += [f"table {name}\n{_rows(table)}" for name, table in case.tables.items()]
    parts += [f"options {dict(case.session_options)}"] if case.session_options else []
    return "\n".join([*parts, f"query:  {case.sql}", f"oracle: {case.oracle_sql}"])


def _rows(table: pa.Table) -> str:
    header = ", ".join(f"{field.name} {field.type}" for field in table.schema)
    return "\n".join([f"  {header}", *(f"  {tuple(row.values())}" for row in table.to_pylist())])
