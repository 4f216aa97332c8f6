"""Settings of a session: frozen, checked once, with a named limit for everything that can grow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from millstream.errors import SchemaError

__all__ = ["ChangelogMode", "SessionConfig"]

ChangelogMode: TypeAlias = Literal["upsert", "retract"]

# Past this many partitions a single process gains nothing and the all-to-all exchange only costs
# memory.
PARTITIONS_MAX = 256


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Options of a :class:`~millstream.Session`.

    Attributes:
        partitions: Number of partitions, each a thread with its own state and sink; the machine's
            cores by default.
        changelog: ``upsert`` sends ``+I``, ``+U`` and ``-D``; ``retract`` also sends ``-U``, the
            version that a ``+U`` replaces, before it.
        batch_rows: Rows per micro-batch into which ``run`` cuts bounded inputs; None takes tables
            whole.
        batch_rows_max: Rows up to which a partition takes micro-batches that wait together as one,
            and rows that are pushed one by one are gathered.
        batch_bytes_max: Bytes of Arrow data up to which micro-batches are taken together.
        inbox_rows_max: Rows per partition that may wait or be in process before ``push`` blocks.
        inbox_bytes_max: Bytes of Arrow data per partition that may wait or be in process before
            ``push`` blocks.
        linger_seconds: How long the first of several rows pushed one by one waits for the others.
        clock: Seconds of a clock that never goes back. Idleness of sources, latencies and all other
            times in stats are read off it.
        stop_timeout_seconds: How long a stopping job waits for a sink that does not return.

    Raises:
        SchemaError: If a value is out of its range.
    """

    partitions: int = field(default_factory=_cores)
    changelog: ChangelogMode = "upsert"
    batch_rows: int | None = 65_536
    batch_rows_max: int = 1 << 18
    batch_bytes_max: int = 1 << 26
    inbox_rows_max: int = 1 << 20
    inbox_bytes_max: int = 1 << 28
    linger_seconds: float = 0.0
    clock: Callable[[], float] = time.monotonic
    stop_timeout_seconds: float = 1.0

    def __post_init__(self) -> None:
        _check_count("partitions", self.partitions, PARTITIONS_MAX)
        if self.batch_rows is not None:
            _check_count("batch_rows", self.batch_rows)
        _check_count("batch_rows_max", self.batch_rows_max)
        _check_count("batch_bytes_max", self.batch_bytes_max)
        _check_count("inbox_rows_max", self.inbox_rows_max)
        _check_count("inbox_bytes_max", self.inbox_bytes_max)
        if self.changelog not in ("upsert", "retract"):
            raise SchemaError(f"changelog must be 'upsert' or 'retract': {self.changelog!r}")
        if not self.linger_seconds >= 0:
            raise SchemaError(f"linger_seconds must not be negative: {self.linger_seconds!r}")
        if not self.stop_timeout_seconds >= 0:
            raise SchemaError(
                f"stop_timeout_seconds must not be negative: {self.stop_timeout_seconds!r}"
            )


def _check_count(name: str, value: object, greatest: int | None = None) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not is_count:
        raise SchemaError(f"{name} must be an integer of at least 1: {value!r}")
    if greatest is not None and isinstance(value, int) and value > greatest:
        raise SchemaError(f"{name} must be at most {greatest}: {value}")
