"""How much of a program needs the interpreter's lock, and what that means for more cores."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from perf.cases import RefusedError

__all__ = ["lock_share", "predicted_rate"]

_SAMPLES_PER_SECOND = 500
_MESSAGE_CHARACTERS_MAX = 300


def lock_share(work: Callable[[], object], seconds: int) -> float:
    """Return the share of the running time of this process's threads in which they hold the lock.

    Threads that wait, for the lock or anything else, do not count as running, and those that only
    wait for a core count either way: so the share does not depend on who else uses the machine.

    Args:
        work: Called over and over while py-spy looks on from another process.
        seconds: How long it looks at what runs, and again at what holds the lock.

    Raises:
        RefusedError: py-spy is not installed or may not look into this process.
    """
    n_running = _n_samples(work, seconds, holding_lock=False)
    n_holding = _n_samples(work, seconds, holding_lock=True)
    return min(n_holding / max(n_running, 1), 1.0)


def predicted_rate(rows_per_cpu_second: float, share: float, n_cores: int) -> float:
    """Predict the rows per second of ``n_cores`` cores that queue for the lock.

    Each core alternates between work that needs the lock and work that does not; the first is
    served in turn. This is the closed network with one queue, solved exactly by mean value
    analysis, under the usual assumption that the pieces of work vary in length.

    Args:
        rows_per_cpu_second: Rows that a core gets through when it never waits.
        share: Part of that time in which it holds the lock.
        n_cores: At least 1.

    References:
        M. Reiser, S. S. Lavenberg: Mean-value analysis of closed multichain queuing networks.
        Journal of the ACM 27, 1980.
    """
    with_lock = share / rows_per_cpu_second
    without_lock = (1 - share) / rows_per_cpu_second
    n_queued, rate = 0.0, 0.0
    for n in range(1, n_cores + 1):
        seconds = with_lock * (1 + n_queued)
        rate = n / (seconds + without_lock)
        n_queued = rate * seconds
    return rate


def _n_samples(work: Callable[[], object], seconds: int, *, holding_lock: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="perf-gil-") as folder:
        stacks = Path(folder) / "stacks"
        command = [
            *(_py_spy(), "record", "--pid", str(os.getpid()), "--nonblocking"),
            *("--rate", str(_SAMPLES_PER_SECOND), "--duration", str(seconds)),
            *("--format", "raw", "--output", str(stacks)),
            *(["--gil"] if holding_lock else []),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as spy:
            said: list[str] = []
            # Reading to the end waits for the end, and keeps the pipe from filling up.
            watcher = threading.Thread(target=lambda: said.append(spy.communicate()[1]))
            watcher.start()
            while watcher.is_alive():
                work()
        if spy.returncode != 0 or not stacks.exists():
            message = "".join(said).strip()[-_MESSAGE_CHARACTERS_MAX:]
            raise RefusedError(f"py-spy failed: {message}")
        return sum(int(line.rpartition(" ")[2]) for line in stacks.read_text().splitlines())


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise RefusedError("the share of the lock is measured by py-spy, which is not installed")
    return found
