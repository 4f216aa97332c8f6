"""Data, queries and expected answers of the benchmarks, at sizes that can be checked."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from perf.answers import check_answer
from perf.cases import Settings, throughput
from perf.contenders import DataFusion, DuckDb, duckdb_answer
from perf.nexmark.generator import FIRST_EVENT_MS, nexmark
from perf.workloads import keys, latency, over, pushes, scenarios, w1, windows
from perf.workloads import nexmark as nexmark_suite
from perf.workloads.latency import Arrivals, closed_loop, open_loop, percentiles
from perf.workloads.memory import growth_bytes_per_million_rows

SETTINGS = Settings(is_quick=True, repeats=1, rows=3000)
CASES = [
    w1.W1_CASE,
    *scenarios.cases(),
    *windows.cases(),
    *over.cases(),
    *keys.cases(),
    *nexmark_suite.cases(),
]


def scenario(number: str):
    (case,) = [case for case in scenarios.cases() if case.name.startswith(number)]
    return case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_who_are_compared_agree(case):
    for contender in case.contenders:
        if contender.role != "millstream":
            outcome = throughput(case, contender, SETTINGS)
            assert outcome.rows_in > 0


@pytest.mark.parametrize(
    "case", [w1.W1_CASE, scenario("2"), keys.cases()[0]], ids=lambda case: case.name
)
def test_millstream_takes_part(case):
    for contender in case.contenders:
        if contender.role == "millstream":
            throughput(case, contender, SETTINGS)


@pytest.mark.parametrize("case", pushes.cases(), ids=lambda case: case.name)
def test_small_pushes_have_the_answers_of_large_ones(case):
    for contender in case.contenders:
        if contender.role == "millstream":
            assert throughput(case, contender, SETTINGS).rows_in == SETTINGS.rows


@pytest.mark.parametrize(
    ("number", "n_rows"), [("0", 5000), ("2", 200), ("3a", 1680), ("3b", 1680)]
)
def test_scenarios_have_their_answers(number, n_rows):
    case = scenario(number)
    assert case.expected(case.generate(5000)).num_rows == n_rows


def test_scenario_1_levels_off():
    case = scenarios.cases()[1]
    answer = case.expected(case.generate(5000)).sort_by("timestamp").to_pylist()
    # Prices of a symbol go round in fives, so a hundred of them have the mean of five.
    assert [row["average"] for row in answer[990:]] == [
        120.0 + row % 10 for row in range(990, 5000)
    ]


def test_scenario_2_can_be_worked_out():
    case = scenario("2")
    answer = {row["symbol"]: row for row in case.expected(case.generate(5000)).to_pylist()}
    for k in range(200):
        assert answer[f"SYM{k}"] == {
            "symbol": f"SYM{k}",
            "n": 25,
            "average": 100.0 + k % 100,
            "least": 100.0 + k % 100,
            "greatest": 100.0 + k % 100,
            "volume": 25 * k + 10_000,
        }


def test_w1_is_worked_out_as_duckdb_does():
    inputs = w1.ticks(50_000)
    expected = duckdb_answer(w1.BATCH_SQL)(inputs)
    check_answer(w1.tumbled(inputs), expected, w1.W1_CASE.keys)


def test_threads_of_rivals_are_in_their_names():
    assert DuckDb(w1.BATCH_SQL, 1).name == "duckdb t=1"
    assert DataFusion(w1.BATCH_SQL, 3).name == "datafusion t=3"


def test_nexmark_is_the_same_each_time_and_has_its_proportions():
    first, second = nexmark(10_000), nexmark(10_000)
    assert all(first[name].equals(second[name]) for name in first)
    assert {name: table.num_rows for name, table in first.items()} == {
        "person": 200,
        "auction": 600,
        "bid": 9200,
    }


def test_nexmark_refers_to_what_exists():
    events = nexmark(10_000)
    people, auctions, bids = events["person"], events["auction"], events["bid"]
    assert people["id"].to_pylist() == list(range(1000, 1200))
    assert auctions["id"].to_pylist() == list(range(1000, 1600))
    assert pc.all(pc.is_in(bids["bidder"], people["id"].combine_chunks())).as_py()
    assert pc.all(pc.is_in(auctions["seller"], people["id"].combine_chunks())).as_py()
    # An auction is bid for only once it is there.
    opened = dict(
        zip(
            auctions["id"].to_pylist(), auctions["date_time"].cast("int64").to_pylist(), strict=True
        )
    )
    times = bids["date_time"].cast("int64").to_pylist()
    pairs = zip(bids["auction"].to_pylist(), times, strict=True)
    assert all(opened[auction] <= time for auction, time in pairs)
    assert times == sorted(times)
    assert times[0] >= FIRST_EVENT_MS


def test_nexmark_has_hot_auctions():
    bids = nexmark(50_000)["bid"]
    counts = np.sort(np.unique(bids["auction"].to_numpy(), return_counts=True)[1])[::-1]
    # Every hundredth auction has half of all bids.
    assert counts[:30].sum() > 0.4 * bids.num_rows


def test_percentiles_are_in_microseconds():
    found = percentiles(np.arange(1001, dtype=np.int64) * 1000)
    assert found == pytest.approx(
        {"p50_us": 500.0, "p95_us": 950.0, "p99_us": 990.0, "p99_9_us": 999.0}
    )


class Clock:
    """A clock that moves only by sleeping, each time a little too long, and by slow pushes."""

    def __init__(self) -> None:
        self.ns = 0
        self.pushed_at_ns: list[int] = []

    def now(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9) + 50_000

    def push(self, batch: pa.RecordBatch) -> None:
        self.ns += 10_000_000 if len(self.pushed_at_ns) == 1 else 1000
        self.pushed_at_ns.append(self.ns)

    def finish(self) -> None:
        pass


def test_an_open_loop_counts_from_when_a_push_was_due():
    clock = Clock()
    batches = [pa.record_batch({"v": [1]})] * 5
    due_ns = open_loop(clock, batches, 1000, now_ns=clock.now, sleep=clock.sleep)
    # The first two begin when the sleep ends. The others were due while the second was held up.
    assert due_ns.tolist() == [1_050_000, 2_050_000, 3_000_000, 4_000_000, 5_000_000]
    waits_ns = np.array(clock.pushed_at_ns) - due_ns
    assert waits_ns.tolist() == [1000, 10_000_000, 9_051_000, 8_052_000, 7_053_000]


def test_a_closed_loop_pushes_when_the_results_have_come():
    batches = [pa.record_batch({"push": [number]}) for number in range(3)]
    arrivals, clock = Arrivals(len(batches)), Clock()

    class Slow(Clock):
        """Brings results from another thread, later."""

        def push(self, batch: pa.RecordBatch) -> None:
            assert len(arrivals.batches) == batch.column("push")[0].as_py()
            clock.ns += 1000
            threading.Timer(0.01, arrivals, [batch]).start()

    begun_ns = closed_loop(Slow(), arrivals, batches, now_ns=clock.now)
    assert begun_ns.tolist() == [0, 1000, 2000]
    assert arrivals.batches == batches


def test_filters_are_measured_one_push_at_a_time(monkeypatch):
    monkeypatch.setattr(latency, "open_loop", None)
    (chosen,) = (
        measurement
        for measurement in latency.SUITE.measurements(True)
        if measurement.case == "filter, 1000 rows, one at a time"
        and measurement.contender == "millstream p=1"
    )
    outcome = chosen.run(Settings(is_quick=True, repeats=1, rows=None))
    assert outcome.rows_in == outcome.rows_out == 400_000
    (sample,) = outcome.samples
    assert outcome.metrics["pushes_per_second"] == 400 / sample.wall_seconds
    assert 0 < outcome.metrics["p50_us"] <= outcome.metrics["p95_us"]


def test_growth_is_a_slope():
    rows = np.array([1e6, 2e6, 3e6])
    assert growth_bytes_per_million_rows(rows, np.array([5.0, 5.0, 5.0])) == pytest.approx(0)
    assert growth_bytes_per_million_rows(rows, 7.0 * rows / 1e6) == pytest.approx(7)
