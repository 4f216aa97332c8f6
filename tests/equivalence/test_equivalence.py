"""Millstream answers generated queries as a batch engine does over the whole input."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.equivalence.check import choose_way, run_case
from tests.equivalence.chooser import HypothesisChooser
from tests.equivalence.fuzz import check_seed
from tests.equivalence.generate import FEATURES, GENERATORS, ONCE_WRONG, UNFINISHED
from tests.equivalence.oracle import OracleError

N_CASES = 2000
N_SEEDS = N_CASES // len(GENERATORS)

XFAIL = pytest.mark.xfail(reason="not finished", strict=True)


@pytest.mark.parametrize(
    "feature",
    [pytest.param(name, marks=[XFAIL] if name in UNFINISHED else []) for name in GENERATORS],
)
def test_generated_queries_answer_as_datafusion(feature: str) -> None:
    shown = [UNFINISHED[feature]] if feature in UNFINISHED else []
    n_answered = 0
    for seed in [*range(N_SEEDS), *shown, *ONCE_WRONG.get(feature, ())]:
        try:
            check_seed(feature, seed)
            n_answered += 1
        except OracleError:
            continue
        except Exception as error:
            error.add_note(f"feature {feature!r}, seed {seed}")
            raise
    assert n_answered > N_SEEDS // 2


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow],
)
@given(st.data())
def test_queries_that_hypothesis_finds_answer_as_datafusion(data: st.DataObject) -> None:
    chooser = HypothesisChooser(data)
    case = GENERATORS[chooser.choice(FEATURES)](chooser)
    batch_rows, partitions, strategy = choose_way(chooser)
    try:
        run_case(case, batch_rows, partitions, strategy)
    except OracleError:
        return
