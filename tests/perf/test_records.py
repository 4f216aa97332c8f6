"""Records survive the disk, and comparisons tell change from noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perf.compare import differences
from perf.gil import predicted_rate
from perf.records import (
    Outcome,
    Record,
    RecordError,
    Result,
    Sample,
    best_rival_rate,
    merged,
    read_record,
    write_record,
)

RESULT = Result(
    suite="w1",
    case="c",
    contender="millstream p=1 b=8",
    role="millstream",
    ran="SELECT 1",
    rows_in=1000,
    rows_out=10,
    samples=(Sample(0.1, 0.2), Sample(0.3, 0.2), Sample(0.2, 0.2)),
)
RIVAL = replace(RESULT, contender="duckdb", role="rival", samples=(Sample(0.4, 0.4),))


def record(*results: Result) -> Record:
    return Record(machine={"cores": 2}, settings={"quick": True}, results=results)


def seconds(result: Result, *walls: float) -> Result:
    return replace(result, samples=tuple(Sample(wall, wall) for wall in walls))


def test_rates_are_those_of_the_median_repeat():
    assert RESULT.rate == pytest.approx(5000)
    assert RESULT.cpu_rate == pytest.approx(5000)
    assert RESULT.spread == pytest.approx(1.0)


def test_records_survive_the_disk(tmp_path):
    path = tmp_path / "folder" / "record.json"
    before = record(RESULT, replace(RESULT, status="failed", reason="why", samples=()))
    write_record(before, path)
    assert read_record(path) == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}'])
def test_other_files_are_no_records(tmp_path, content):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(RecordError):
        read_record(path)


def test_processes_are_joined_by_all_samples_and_medians_of_metrics():
    outcomes = [
        Outcome(rows_in=1, rows_out=1, samples=(Sample(n, n),), metrics={"p50_us": n})
        for n in (1.0, 9.0, 2.0)
    ]
    joined = merged(outcomes)
    assert [sample.wall_seconds for sample in joined.samples] == [1.0, 9.0, 2.0]
    assert joined.metrics == {"p50_us": 2.0}


def test_the_best_rival_is_no_limit_and_has_a_right_answer():
    limit = seconds(replace(RIVAL, contender="numpy", role="limit"), 0.001)
    wrong = replace(RIVAL, contender="polars", status="wrong", samples=())
    assert best_rival_rate([RESULT, RIVAL, limit, wrong], "w1", "c") == pytest.approx(2500)
    assert best_rival_rate([RESULT, limit, wrong], "w1", "c") is None


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (seconds(RESULT, 1.0, 1.2), seconds(RESULT, 0.8, 0.9), "better"),
        (seconds(RESULT, 1.0, 1.2), seconds(RESULT, 1.3, 1.4), "worse"),
        (seconds(RESULT, 1.0, 1.2), seconds(RESULT, 1.1, 1.5), "same"),
        (RESULT, replace(RESULT, status="wrong", samples=()), "broken"),
        (replace(RESULT, status="refused", samples=()), RESULT, "mended"),
        (
            replace(RESULT, metrics={"p95_us": 100.0}),
            replace(RESULT, metrics={"p95_us": 110.0}),
            "same",
        ),
        (
            replace(RESULT, metrics={"p95_us": 100.0}),
            replace(RESULT, metrics={"p95_us": 200.0}),
            "worse",
        ),
    ],
)
def test_change_is_told_from_noise(before, after, verdict):
    (difference,) = differences(record(before), record(after))
    assert difference.verdict == verdict


def test_results_of_one_record_are_new_or_gone():
    verdicts = [found.verdict for found in differences(record(RESULT), record(RIVAL))]
    assert verdicts == ["gone", "new"]


def test_a_slower_machine_is_taken_out_by_the_rivals():
    before = record(seconds(RESULT, 1.0), seconds(RIVAL, 2.0))
    after = record(seconds(RESULT, 3.0), seconds(RIVAL, 6.0))
    assert differences(before, after)[0].beside_rivals == pytest.approx(1.0)


def test_cores_without_a_lock_scale_and_with_nothing_else_do_not():
    assert predicted_rate(100.0, 0.0, 8) == pytest.approx(800)
    assert predicted_rate(100.0, 1.0, 8) == pytest.approx(100)
    # One core never waits; two wait for each other in a quarter of the cases of half and half:
    # by hand, 2 / (0.5 * (1 + 0.5) + 0.5) = 1.6.
    assert predicted_rate(1.0, 0.5, 1) == pytest.approx(1.0)
    assert predicted_rate(1.0, 0.5, 2) == pytest.approx(1.6)
    assert predicted_rate(1.0, 0.1, 10_000) == pytest.approx(10, rel=1e-3)
