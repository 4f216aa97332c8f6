"""A rate is only there where the answer was right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import millstream as ms
from perf.__main__ import app, exit_by
from perf.cases import (
    Case,
    Prepared,
    RefusedError,
    Settings,
    StreamSpec,
    Suite,
    throughput,
)
from perf.measure import as_result
from perf.records import Outcome, Result, Sample
from perf.worker import Job, Report, measure, read_job, read_report, write_job
from perf.workloads import SUITES, suite

QUICK = Settings(is_quick=True, repeats=2)


@dataclass(frozen=True)
class Answering:
    """A contender whose answers are given."""

    answer: Callable[[], pa.Table]
    name: str = "somebody"
    role: str = "rival"

    def describe(self, case: Case) -> str:
        return "nothing"

    def prepare(self, case: Case, inputs) -> Prepared:
        return Prepared(run=self.answer)


def counting_case(contender) -> Case:
    return Case(
        name="counting",
        rows=100,
        rows_quick=10,
        generate=lambda n_rows: {"t": pa.table({"v": list(range(n_rows))})},
        streams=(StreamSpec(name="t"),),
        sql="",
        keys=(),
        expected=lambda inputs: pa.table({"n": [inputs["t"].num_rows]}),
        contenders=(contender,),
    )


def result_of(contender) -> Result:
    (measurement,) = counting_case(contender).measurements()
    return as_result("w1", measurement, [measure(measurement, QUICK)])


def test_right_answers_have_a_rate():
    result = result_of(Answering(lambda: pa.table({"n": [10]})))
    assert (result.status, result.rows_in, result.rows_out) == ("ok", 10, 1)
    assert len(result.samples) == 2
    assert result.rate is not None
    assert result.rate > 0


def test_wrong_answers_have_none():
    result = result_of(Answering(lambda: pa.table({"n": [11]})))
    assert (result.status, result.rate, result.samples) == ("wrong", None, ())
    assert "11 instead of 10" in result.reason


@pytest.mark.parametrize("wrong", [pa.table({"n": [9]}), pa.table({"n": [10, 10]})])
def test_answers_that_go_wrong_later_have_none(wrong):
    answers = [pa.table({"n": [10]}), pa.table({"n": [10]}), wrong]
    result = result_of(Answering(lambda: answers.pop(0)))
    assert (result.status, result.rate) == ("wrong", None)


def test_what_breaks_and_what_is_refused_is_a_line_with_its_reason(capsys):
    def breaks() -> pa.Table:
        raise KeyError("k")

    def refuses() -> pa.Table:
        raise RefusedError("joins are for later")

    assert result_of(Answering(breaks)).reason == "KeyError: 'k'"
    assert result_of(Answering(breaks)).status == "failed"
    assert result_of(Answering(refuses)).status == "refused"


def test_expected_answers_are_shared_by_a_folder(tmp_path):
    calls = []

    def expected(inputs) -> pa.Table:
        calls.append(1)
        return pa.table({"n": [10]})

    case = replace(counting_case(Answering(lambda: pa.table({"n": [10]}))), expected=expected)
    for _ in range(2):
        throughput(case, case.contenders[0], replace(QUICK, answers=tmp_path))
    assert calls == [1]


@pytest.mark.parametrize(
    ("status", "code"), [("ok", None), ("refused", None), ("wrong", 1), ("failed", 1)]
)
def test_wrong_and_broken_end_with_an_error(status, code):
    result = Result(
        suite="w1", case="c", contender="x", role="rival", ran="", status=status, reason="why"
    )
    console = Console(quiet=True)
    if code is None:
        exit_by([result], console)
        return
    with pytest.raises(typer.Exit) as ended:
        exit_by([result], console)
    assert ended.value.exit_code == code


def test_jobs_and_reports_pass_through_files(tmp_path):
    job = Job(suite="w1", case="c", contender="x", settings=replace(QUICK, answers=tmp_path))
    write_job(job, tmp_path / "job")
    assert read_job(tmp_path / "job") == job
    outcome = Outcome(rows_in=1, rows_out=2, samples=(Sample(0.5, 0.25),), metrics={"p50_us": 1.0})
    for report in (Report(status="ok", outcome=outcome), Report(status="wrong", reason="why")):
        (tmp_path / "report").write_text(json.dumps(asdict(report)))
        assert read_report(tmp_path / "report") == report


@pytest.mark.parametrize("name", SUITES)
def test_measurements_have_names_of_their_own(name):
    found: Suite = suite(name)
    for is_quick in (True, False):
        names = [
            (measurement.case, measurement.contender)
            for measurement in found.measurements(is_quick)
        ]
        assert len(names) == len(set(names)) > 0


def test_a_choice_of_nothing_is_an_error(tmp_path):
    out = tmp_path / "w1.json"
    arguments = ["w1", "--only", "no such case", "--out", str(out)]
    ended = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert ended.exit_code == 2
    assert "no case and contender of w1 contains 'no such case'" in ended.output
    assert not out.exists()


@pytest.mark.parametrize(("options", "n_times"), [([], 1), (["--quick"], 0)])
def test_kernels_are_compiled_before_anything_is_timed(tmp_path, monkeypatch, options, n_times):
    calls = []

    def compile_kernels(on_progress):
        calls.append(on_progress)
        on_progress(1, 2)

    monkeypatch.setattr(ms, "compile_kernels", compile_kernels)
    arguments = ["w1", "--rows", "50000", "--repeats", "1", "--processes", "1", "--only", "sums"]
    ended = CliRunner().invoke(app, [*arguments, *options, "--out", str(tmp_path / "w1.json")])
    assert ended.exit_code == 0, ended.output
    assert len(calls) == n_times


def test_the_command_line_measures_in_a_fresh_process(tmp_path):
    out = tmp_path / "w1.json"
    arguments = ["w1", "--quick", "--rows", "50000", "--repeats", "1", "--only", "numpy"]
    ended = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert ended.exit_code == 0, ended.output
    assert "limit: numpy sums" in ended.output
    reported = CliRunner().invoke(app, ["report", str(out), "--plots", str(tmp_path)])
    assert reported.exit_code == 0, reported.output
    assert (tmp_path / "w1.png").stat().st_size > 0
    compared = CliRunner().invoke(app, ["compare", str(out), str(out)])
    assert compared.exit_code == 0
    assert "same" in compared.output
