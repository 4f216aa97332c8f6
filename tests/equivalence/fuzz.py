"""Runs generated cases without end: ``python -m tests.equivalence.fuzz --cases 100000 --seed 1``.

Stops at the first mismatch, or with ``--keep-going`` at the end, and prints for each the feature,
the seed and the case with as few rows as still show it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from tests.equivalence.case import Case
from tests.equivalence.check import choose_way, describe, run_case, run_ragged_case
from tests.equivalence.chooser import SeededChooser
from tests.equivalence.generate import FEATURES, GENERATORS, generate
from tests.equivalence.oracle import OracleError
from tests.equivalence.small_scale import small_scale

__all__ = ["check_seed", "fewest_rows", "main"]

_REDUCTIONS_MAX = 400


def main(arguments: list[str] | None = None) -> int:
    """Run as the command line says; return 1 if there was a mismatch."""
    options = _parser().parse_args(arguments)
    features = options.features.split(",") if options.features else list(FEATURES)
    unknown = set(features) - GENERATORS.keys()
    console = Console()
    if unknown:
        console.print(f"unknown features: {sorted(unknown)}; known are {sorted(GENERATORS)}")
        return 2
    n_failed, unanswered = 0, Counter[str]()
    with Progress(*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console) as progress:  # fmt: skip
        task = progress.add_task("cases", total=options.cases)
        for number in range(options.cases):
            feature, seed = features[number % len(features)], options.seed + number
            progress.update(task, advance=1, description=f"{n_failed} failed")
            try:
                check_seed(feature, seed)
            except OracleError:
                unanswered[feature] += 1
            except Exception as error:  # Whatever is raised is a finding.
                n_failed += 1
                report = _report(feature, seed, error)
                console.print(report, markup=False, highlight=False, soft_wrap=True)
                if not options.keep_going:
                    break
    if unanswered:
        console.print(f"not answered by the batch engine: {dict(unanswered)}")
    console.print(f"{n_failed} failed")
    return 1 if n_failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.equivalence.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    parser.add_argument("--features", default="", help="comma-separated; all that work by default")
    parser.add_argument("--keep-going", action="store_true", help="go on after a mismatch")
    return parser


def check_seed(feature: str, seed: int) -> None:
    """Check the case of a seed in a way that the seed decides.

    Raises:
        Mismatch: If Millstream does not answer as it should.
        OracleError: If the batch engine does not answer.
    """
    _check_in_chosen_way(generate(feature, seed), feature, seed)


def _check_in_chosen_way(case: Case, feature: str, seed: int) -> None:
    chooser = SeededChooser(seed, f"way of {feature}")
    batch_rows, partitions, strategy = choose_way(chooser)
    is_ragged = len(case.streams) == 1 and chooser.chance(30)
    with small_scale(SeededChooser(seed, f"scale of {feature}")):
        if is_ragged:
            run_ragged_case(case, chooser, partitions)
        else:
            run_case(case, batch_rows, partitions, strategy)


def fewest_rows(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Drop rows of the first stream, in ever smaller pieces, as long as the case still fails."""
    rows = list(range(case.streams[0].rows.num_rows))
    piece, n_tries = max(len(rows) // 2, 1), 0
    best = case
    while rows and n_tries < _REDUCTIONS_MAX:
        for start in range(0, len(rows), piece):
            kept = rows[:start] + rows[start + piece :]
            n_tries += 1
            smaller = case.with_rows(kept)
            if fails(smaller):
                rows, best = kept, smaller
                break
        else:
            if piece == 1:
                break
            piece = max(piece // 2, 1)
    return best


def _report(feature: str, seed: int, error: Exception) -> str:
    kind = type(error)

    def fails(case: Case) -> bool:
        try:
            _check_in_chosen_way(case, feature, seed)
        except OracleError:
            return False
        except Exception as found:
            return type(found) is kind
        return False

    smallest = fewest_rows(generate(feature, seed), fails)
    try:
        _check_in_chosen_way(smallest, feature, seed)
    except Exception as found:
        error = found
    head = f"feature {feature!r}, seed {seed}: {kind.__name__}: {error}"
    return head if "query:  " in head else f"{head}\n{describe(smallest)}"


if __name__ == "__main__":
    sys.exit(main())
