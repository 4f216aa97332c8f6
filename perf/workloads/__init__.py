"""The suites: one module each, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from perf.cases import Suite

__all__ = ["SUITES", "suite"]

SUITES = (
    "scenarios",
    "w1",
    "windows",
    "over",
    "pushes",
    "keys",
    "nexmark",
    "scaling",
    "latency",
    "memory",
    "startup",
)


def suite(name: str) -> Suite:
    """Return the suite of a name in :data:`SUITES`."""
    found: Suite = import_module(f"perf.workloads.{name}").SUITE
    assert found.name == name, "a suite has the name of its module"
    return found
