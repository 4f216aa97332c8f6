"""A stream joined with tables whose columns share names: the answers of DuckDB."""

from __future__ import annotations

from collections import Counter

import duckdb
import pytest

import millstream as ms
from tests.equivalence.chooser import SeededChooser
from tests.equivalence.joined import choose_joins, choose_relations

N_SEEDS = 300


@pytest.mark.parametrize("part", range(6))
def test_joins_and_subqueries_answer_as_duckdb(part: int) -> None:
    n_rows = 0
    for seed in range(part, N_SEEDS, 6):
        chooser = SeededChooser(seed, "joins")
        relations, sql = choose_relations(chooser), choose_joins(chooser)
        batch_rows, partitions = chooser.choice([1, 3, 100]), chooser.integer(1, 2)
        session = ms.Session(partitions=partitions)
        database = duckdb.connect()
        for name, table in relations.items():
            database.register(name, table)
            if name == "t":
                session.create_stream(name, table.schema, event_time="ts")
            else:
                session.create_table(name, table)
        result = session.sql(sql).run({"t": relations["t"]}, batch_rows=batch_rows)
        got = Counter(zip(*(column.to_pylist() for column in result.columns), strict=True))
        assert got == Counter(database.execute(sql).fetchall()), (seed, sql)
        n_rows += result.num_rows
    # They say something.
    assert n_rows > 100
