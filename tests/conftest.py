"""What every test run shares: Hypothesis profiles and a place for compiled kernels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent


def kernel_cache_folder() -> Path:
    """Name the folder for compiled kernels: one per way of compiling and per state of the sources.

    Numba's disk cache notices an edit neither in a helper of another file nor in a compiler flag.
    """
    digest = hashlib.sha256()
    for path in sorted((REPOSITORY / "kernels").glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    checked = os.environ.get("NUMBA_BOUNDSCHECK", "0") not in ("", "0")
    mode = "boundscheck" if checked else "plain"
    return REPOSITORY / ".numba_cache" / f"{mode}-{digest.hexdigest()[:16]}"


# Numba reads the variable once, when it is imported; conftest.py is loaded before any test module.
os.environ.setdefault("NUMBA_CACHE_DIR", str(kernel_cache_folder()))

# Kernels compile on first use, which no deadline per example would survive.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# Compiled kernels at the last look, and those that a test of kernels has compiled.
_kernels_seen = [0]
_of_kernel_tests: set[Any] = set()


@pytest.fixture(autouse=True, scope="session")
def windows_are_closed_at_once() -> Iterator[None]:
    """Let bounded runs close windows as soon as they end.

    Inputs of tests are so short that all windows would wait for the end of the input. Tests of how
    windows wait set the rows themselves.
    """
    from millstream.engine import closings

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closings, "ROWS_MAX", 0)
        patch.setattr(closings, "FEWER_ROWS_MAX", 0)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--list-kernels",
        action="store_true",
        help="add kernels that the engine calls and that kernels/signatures.txt lacks to that list",
    )


@pytest.fixture(autouse=True)
def kernels_are_listed(request: pytest.FixtureRequest) -> Iterator[None]:
    """See to it that whoever compiles all kernels of the list waits for none later."""
    yield
    from tests import kernel_signatures

    n_compiled = sum(len(one.overloads) for one in kernel_signatures.dispatchers().values())
    if n_compiled == _kernels_seen[0]:
        return
    _kernels_seen[0] = n_compiled
    # Tests of kernels give them types that the engine never does.
    if "kernels" in request.path.parts[len(REPOSITORY.parts) :]:
        _of_kernel_tests.update(kernel_signatures.compiled())
        return
    from millstream.kernels.signatures import listed_signatures

    missing = kernel_signatures.compiled() - set(listed_signatures()) - _of_kernel_tests
    if missing and request.config.getoption("--list-kernels"):
        kernel_signatures.add_to_list(missing)
        listed_signatures.cache_clear()
        return
    lines = "\n".join(map(str, sorted(missing)))
    assert not missing, f"kernels/signatures.txt lacks (add with --list-kernels):\n{lines}"
