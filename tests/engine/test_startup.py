"""A script with one query is quick to start; the limits leave room for a busy machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 300
RUNS = 3
IMPORT_SECONDS_MAX = 2.0
FIRST_QUERY_SECONDS_MAX = 4.0

SCRIPT = """
import json, sys, threading, time

started = time.perf_counter()
import millstream as ms

imported = time.perf_counter()
modules, threads = sorted(sys.modules), threading.active_count()

import pyarrow as pa

t = pa.table({"k": ["a", "b", "a"], "ts": pa.array([1, 2, 70_000], pa.timestamp("ms"))})
sql = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, INTERVAL '1' MINUTE)"
answer = ms.sql(sql, t=t)
print(json.dumps({
    "import_seconds": imported - started,
    "query_seconds": time.perf_counter() - imported,
    "rows": sorted(map(list, zip(*answer.to_pydict().values()))),
    "modules": modules,
    "threads": threads,
}))
"""


def first_query(cache_folder):
    """Run the script in a process of its own and return what it measured."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "NUMBA_CACHE_DIR": str(cache_folder),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT],
        capture_output=True,
        text=True,
        env=environment,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def first_run(cache_folder):
    """Compile the kernels that the query needs."""
    return first_query(cache_folder)


@pytest.fixture(scope="module")
def later_runs(cache_folder, first_run):
    return [first_query(cache_folder) for _ in range(RUNS)]


def kernels_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_kernels_are_compiled_once_on_a_machine(cache_folder, first_run):
    compiled = kernels_in(cache_folder)
    assert compiled
    first_query(cache_folder)
    assert kernels_in(cache_folder) == compiled


def test_the_first_answer_is_that_of_all_others(first_run, later_runs):
    for run in (first_run, *later_runs):
        assert run["rows"] == [["a", 1], ["a", 1], ["b", 1]]


def test_importing_is_quick(later_runs):
    assert min(run["import_seconds"] for run in later_runs) < IMPORT_SECONDS_MAX


def test_the_first_query_is_quick_once_kernels_are_compiled(later_runs):
    assert min(run["query_seconds"] for run in later_runs) < FIRST_QUERY_SECONDS_MAX


def test_importing_starts_no_threads(first_run):
    assert first_run["threads"] == 1


@pytest.mark.parametrize("module", ["duckdb", "polars", "rich", "asyncio", "hypothesis"])
def test_importing_leaves_out_what_no_query_needs(module, first_run):
    assert module not in first_run["modules"]
