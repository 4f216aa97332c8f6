"""Queries over queries answer the same however their input is cut and whoever works on it."""

from __future__ import annotations

import random
import time
from collections import Counter
from itertools import groupby

import pyarrow as pa
import pytest

import millstream as ms
from tests.equivalence.chooser import SeededChooser
from tests.equivalence.nested import TABLE, choose_query, choose_rows

N_SEEDS = 90
TIMEOUT_SECONDS = 30
# Seeds of queries that once gave several answers, or failed.
ONCE_WRONG = [1181, 1301, 1383, 71341, 71383, 76693, 79369]

# Rows per batch, partitions, strategy.
WAYS = [
    (None, 1, None),
    (1, 1, None),
    (1, 2, None),
    (3, 3, None),
    (5, 2, "always_hash"),
    (2, 2, "round_robin"),
]
# Answers, how many rows were late, and these.
Outcome = tuple[list[str], int, list[str]]


def cut(rows: pa.Table, streams: list[str], batch_rows: int | None) -> list[tuple[str, pa.Table]]:
    """Cut rows into batches of one stream each."""
    pieces, start = [], 0
    for stream, run in groupby(streams):
        stop = start + len(list(run))
        step = batch_rows or stop - start
        pieces += [
            (stream, rows.slice(first, min(step, stop - first)))
            for first in range(start, stop, step)
        ]
        start = stop
    return pieces


def folded(table: pa.Table, key_columns: tuple[str, ...]) -> list[str]:
    """The rows that are there in the end."""
    rows = table.to_pylist()
    if "_op" not in table.schema.names:
        return sorted(str(tuple(row.values())) for row in rows)
    last: dict[str, str] = {}
    for row in rows:
        key, op = str([row[column] for column in key_columns]), row.pop("_op")
        if op == "-D":
            del last[key]
        else:
            last[key] = str(tuple(row.values()))
    return sorted(last.values())


def run(
    query: ms.Query, pieces: list[tuple[str, pa.Table]], strategy: str | None, names: set[str]
) -> Outcome:
    results, late = ms.CollectSink(), ms.CollectSink()
    job = query.start(results, late_sink=dict.fromkeys(names, late), strategy=strategy)
    chooser = random.Random(len(pieces))
    for stream, rows in pieces:
        if stream in names:
            job.push(stream, rows)
        if chooser.random() < 0.5:
            # Else rows that wait together hide what happens between them.
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while job.stats().rows_waiting > 0:
                assert time.monotonic() < deadline, "it hangs"
                time.sleep(0.0002)
    job.finish()
    late_rows = [] if late.table() is None else late.table().to_pylist()
    return (
        folded(results.table(), query.key_columns),
        job.stats().rows_late,
        sorted(str(tuple(row.values())) for row in late_rows),
    )


def answers(seed: int) -> dict[str, list[tuple[int | None, int, str | None]]] | None:
    """The different answers of a query, each with the ways that lead to it; None if refused."""
    chooser = SeededChooser(seed, "nested")
    (rows, streams), sql = choose_rows(chooser), choose_query(chooser)
    delay, lateness = chooser.choice((0, 0, 2, 6)), chooser.choice((0, 0, 0, 5))
    found: dict[str, list[tuple[int | None, int, str | None]]] = {}
    for batch_rows, partitions, strategy in WAYS:
        session = ms.Session(partitions=partitions)
        for stream, more in (("a", 0), ("b", 1)):
            session.create_stream(
                stream,
                rows.schema,
                event_time="ts",
                max_out_of_orderness=delay + more,
                allowed_lateness=lateness,
            )
        session.create_table("names", TABLE)
        try:
            query = session.sql(sql)
            names = {name for name in "ab" if f"Source {name} " in query.explain(strategy)}
        except ms.SqlError:
            if strategy is None:
                return None
            continue
        outcome = run(query, cut(rows, streams, batch_rows), strategy, names)
        found.setdefault(str(outcome), []).append((batch_rows, partitions, strategy))
    assert len(found) == 1, f"seed {seed}: {sql}\n{found}"
    return found


@pytest.mark.parametrize("part", range(5))
def test_nested_queries_answer_the_same_however_they_are_cut(part: int) -> None:
    seeds = [*range(N_SEEDS), *ONCE_WRONG]
    outcomes = Counter(answers(seed) is not None for seed in seeds[part::5])
    # A generator whose queries are refused would test nothing.
    assert outcomes[True] > outcomes[False]
