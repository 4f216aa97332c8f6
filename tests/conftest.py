"""What every test run shares: Hypothesis profiles and a place for compiled kernels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

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
