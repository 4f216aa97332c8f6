"""Streaming SQL inside a Python process: Arrow micro-batches in, Arrow out."""

from importlib import import_module
from typing import TYPE_CHECKING

from millstream.errors import (
    InternalError,
    JobFailed,
    MillstreamError,
    SchemaError,
    SinkError,
    SourceError,
    SqlError,
)

if TYPE_CHECKING:
    from millstream.engine.backpressure import BackpressureEvent
    from millstream.engine.config import SessionConfig
    from millstream.engine.diagnose import Diagnosis, Finding
    from millstream.engine.file_sinks import IpcSink, ParquetSink
    from millstream.engine.job import Job
    from millstream.engine.metrics import MetricsServer
    from millstream.engine.query import Query
    from millstream.engine.session import Session, sql
    from millstream.engine.sinks import BatchInfo, CollectSink, Sink
    from millstream.engine.stats import (
        JobStats,
        LatencyStats,
        OperatorStats,
        PartitionStats,
        SourceStats,
        StreamStats,
    )
    from millstream.engine.strategies import PartitioningStrategy
    from millstream.kernels.ahead import compile_kernels

__version__ = "0.1.0"

__all__ = [
    "BackpressureEvent",
    "BatchInfo",
    "CollectSink",
    "Diagnosis",
    "Finding",
    "InternalError",
    "IpcSink",
    "Job",
    "JobFailed",
    "JobStats",
    "LatencyStats",
    "MetricsServer",
    "MillstreamError",
    "OperatorStats",
    "ParquetSink",
    "PartitionStats",
    "PartitioningStrategy",
    "Query",
    "SchemaError",
    "Session",
    "SessionConfig",
    "Sink",
    "SinkError",
    "SourceError",
    "SourceStats",
    "SqlError",
    "StreamStats",
    "compile_kernels",
    "sql",
]

# The engine takes a while to load, because of its compiler. Who only wants to catch an error or
# look up a version should not have to wait for it.
_HOMES = {
    "BatchInfo": "millstream.engine.sinks",
    "BackpressureEvent": "millstream.engine.backpressure",
    "CollectSink": "millstream.engine.sinks",
    "Diagnosis": "millstream.engine.diagnose",
    "Finding": "millstream.engine.diagnose",
    "IpcSink": "millstream.engine.file_sinks",
    "Job": "millstream.engine.job",
    "JobStats": "millstream.engine.stats",
    "LatencyStats": "millstream.engine.stats",
    "MetricsServer": "millstream.engine.metrics",
    "OperatorStats": "millstream.engine.stats",
    "ParquetSink": "millstream.engine.file_sinks",
    "PartitionStats": "millstream.engine.stats",
    "PartitioningStrategy": "millstream.engine.strategies",
    "Query": "millstream.engine.query",
    "Session": "millstream.engine.session",
    "SessionConfig": "millstream.engine.config",
    "Sink": "millstream.engine.sinks",
    "SourceStats": "millstream.engine.stats",
    "StreamStats": "millstream.engine.stats",
    "compile_kernels": "millstream.kernels.ahead",
    "sql": "millstream.engine.session",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
