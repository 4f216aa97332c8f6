"""What is measured: cases, who takes part in them, and how their throughput is taken."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa

from perf.answers import WrongAnswerError, check_answer
from perf.records import Outcome, Result, Role, Sample

__all__ = [
    "Case",
    "Contender",
    "Inputs",
    "Measurement",
    "Prepared",
    "RefusedError",
    "Settings",
    "StreamSpec",
    "Suite",
    "throughput",
    "timed",
]

Inputs: TypeAlias = Mapping[str, pa.Table]

_OP = "_op"


class RefusedError(Exception):
    """An engine says that it does not offer what was asked of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        is_quick: Whether to be done soon rather than to be exact.
        repeats: Timed repeats in each process.
        warm_ups: Repeats before them that are not timed.
        rows: Rows instead of what a case asks for, or None.
        answers: Folder in which processes leave expected answers for each other, or None.
    """

    is_quick: bool
    repeats: int
    warm_ups: int = 1
    rows: int | None = None
    answers: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one process measures.

    Attributes:
        case: What is computed.
        contender: Who computes it.
        role: Part that the contender plays.
        ran: The query or procedure.
        run: Measures; called in a process of its own.
    """

    case: str
    contender: str
    role: Role
    ran: str
    run: Callable[[Settings], Outcome]

    @property
    def full_name(self) -> str:
        """What a choice of measurements is compared with."""
        return f"{self.case} {self.contender}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A command of the harness.

    Attributes:
        name: Of the command.
        about: What it answers, in one line.
        measurements: All that belongs to it; fewer if it has to be quick.
        derive: Works further results out from those measured.
        has_rates: Whether rows per second say something here.
    """

    name: str
    about: str
    measurements: Callable[[bool], Sequence[Measurement]]
    derive: Callable[[Sequence[Result]], Sequence[Result]] | None = None
    has_rates: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """How a stream of a case is declared; its schema is that of the data."""

    name: str
    event_time: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A contender that is ready to go.

    Attributes:
        run: Computes the answer from scratch; this is what is timed.
        expected: Gives another answer to expect than that of the case, for what computes less.
        keys: Columns that order that answer; those of the case if None.
    """

    run: Callable[[], pa.Table]
    expected: Callable[[], pa.Table] | None = None
    keys: tuple[str, ...] | None = None


class Contender(Protocol):
    """Computes answers. Imports its engine only when it prepares, so that others do not pay."""

    @property
    def name(self) -> str:
        """What it is called, with what it was set to."""

    @property
    def role(self) -> Role:
        """Part that it plays."""

    def describe(self, case: Case) -> str:
        """Say what it runs."""

    def prepare(self, case: Case, inputs: Inputs) -> Prepared:
        """Do what need not be timed: lay the data out, make connections and plans."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to compute.

    Attributes:
        name: Within its suite.
        rows: Rows to compute it over.
        rows_quick: The same when there is little time.
        generate: Makes tables by name; all are the same at each call.
        streams: Which of the tables are streams; the others are tables to join with.
        sql: The query as Millstream takes it.
        keys: Columns that order its answer in only one way.
        expected: Computes the answer by other means.
        contenders: Who takes part.
    """

    name: str
    rows: int
    rows_quick: int
    generate: Callable[[int], Inputs]
    streams: tuple[StreamSpec, ...]
    sql: str
    keys: tuple[str, ...]
    expected: Callable[[Inputs], pa.Table]
    contenders: tuple[Contender, ...]

    def measurements(self) -> list[Measurement]:
        """Return one measurement per contender."""
        return [
            Measurement(
                case=self.name,
                contender=contender.name,
                role=contender.role,
                ran=contender.describe(self),
                run=partial(throughput, self, contender),
            )
            for contender in self.contenders
        ]


def timed(run: Callable[[], pa.Table]) -> tuple[pa.Table, Sample]:
    """Run once and return what came out and how long it took."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    answer = run()
    sample = Sample(time.perf_counter() - wall, time.process_time() - cpu)
    return answer, sample


def throughput(case: Case, contender: Contender, settings: Settings) -> Outcome:
    """Measure how fast a contender computes a case.

    Raises:
        WrongAnswerError: Some run of it gave a wrong answer.
        RefusedError: The contender cannot run this.
    """
    inputs = case.generate(settings.rows or (case.rows_quick if settings.is_quick else case.rows))
    prepared = contender.prepare(case, inputs)
    expected = _expected(case, prepared, inputs, settings.answers)
    keys = case.keys if prepared.keys is None else prepared.keys
    # The first answer is checked in all its values before anything is timed.
    rows_out = 0
    for _ in range(max(settings.warm_ups, 1)):
        answer = prepared.run()
        rows_out = answer.num_rows
        check_answer(answer, expected, keys)
        del answer
    samples = []
    for repeat in range(settings.repeats):
        answer, sample = timed(prepared.run)
        samples.append(sample)
        # A changelog may have more or fewer versions of a row, depending on when it was taken up.
        if repeat == settings.repeats - 1 or _OP in answer.schema.names:
            check_answer(answer, expected, keys)
        elif answer.num_rows != rows_out:
            raise WrongAnswerError(
                f"repeat {repeat} gave {answer.num_rows} rows, the first run {rows_out}"
            )
        del answer
    rows_in = sum(inputs[stream.name].num_rows for stream in case.streams)
    return Outcome(rows_in=rows_in, rows_out=rows_out, samples=tuple(samples))


def _expected(case: Case, prepared: Prepared, inputs: Inputs, answers: Path | None) -> pa.Table:
    if prepared.expected is not None:
        return prepared.expected()
    if answers is None:
        return case.expected(inputs)
    path = answers / f"{case.name.replace('/', '_')}.arrow"
    if path.exists():
        with pa.ipc.open_file(path) as reader:
            return reader.read_all()
    expected = case.expected(inputs)
    with pa.ipc.new_file(path, expected.schema) as writer:
        writer.write_table(expected)
    return expected
