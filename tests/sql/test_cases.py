"""Every case of every case file is a test: the query answers what the file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sql.case_file import Case, read_cases
from tests.sql.runner import UNSUPPORTED, check

CASE_FILES = sorted((Path(__file__).parent / "cases").glob("*.case"))


def _parameters() -> list[object]:
    return [
        pytest.param(case, id=f"{path.stem}: {case.name}", marks=_marks(case))
        for path in CASE_FILES
        for case in read_cases(path)
    ]


def _marks(case: Case) -> list[pytest.MarkDecorator]:
    missing = sorted(case.requires & UNSUPPORTED)
    reason = f"not supported yet: {', '.join(missing)}"
    return [pytest.mark.xfail(reason=reason, strict=True)] if missing else []


@pytest.mark.parametrize("case", _parameters())
def test_case(case: Case) -> None:
    check(case)


def test_every_unsupported_feature_is_required_by_a_case() -> None:
    required = {
        feature for path in CASE_FILES for case in read_cases(path) for feature in case.requires
    }
    assert required >= UNSUPPORTED
