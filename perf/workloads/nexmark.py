"""Nexmark: queries over the bids of an auction house."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

from perf.cases import Case, Inputs, Measurement, StreamSpec, Suite
from perf.contenders import DataFusion, DuckDb, Millstream, duckdb_answer
from perf.nexmark.generator import nexmark, side_input
from perf.nexmark.queries import QUERIES, NexmarkQuery

__all__ = ["SUITE", "cases"]

_QUICK = ("q1 currency", "q5 hot items", "q12 bids by bidder", "q13 side input")


def _generate(needs_side_input: bool, n_rows: int) -> Inputs:
    inputs = {"bid": nexmark(n_rows)["bid"]}
    return {**inputs, "side_input": side_input()} if needs_side_input else inputs


def _case(query: NexmarkQuery) -> Case:
    return Case(
        name=query.name,
        rows=2_000_000,
        rows_quick=300_000,
        generate=partial(_generate, query.needs_side_input),
        streams=(StreamSpec(name="bid", event_time="date_time"),),
        sql=query.sql,
        keys=query.keys,
        expected=duckdb_answer(query.batch_sql),
        contenders=(
            Millstream(2, 65_536),
            Millstream(1, 65_536),
            Millstream(2, 8192),
            DataFusion(query.batch_sql),
            DuckDb(query.batch_sql),
        ),
    )


def cases() -> list[Case]:
    """Return one case per query."""
    return [_case(query) for query in QUERIES]


@cache
def _measurements(is_quick: bool) -> Sequence[Measurement]:
    return [
        measurement
        for case in cases()
        if not is_quick or case.name in _QUICK
        for measurement in case.measurements()
        if not is_quick or measurement.contender != Millstream(2, 8192).name
    ]


SUITE = Suite(
    name="nexmark",
    about="Queries of Nexmark over bids, with DataFusion and DuckDB over the whole table.",
    measurements=_measurements,
)
