"""Fixtures of the engine's tests."""

from __future__ import annotations

import pytest

from tests.engine.stalling import Gate


@pytest.fixture
def gate():
    made = Gate()
    yield made
    made.opened.set()
