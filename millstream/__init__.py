"""Streaming SQL inside a Python process: Arrow micro-batches in, Arrow out."""

from millstream.engine.config import SessionConfig
from millstream.engine.file_sinks import IpcSink, ParquetSink
from millstream.engine.job import Job
from millstream.engine.query import Query
from millstream.engine.session import Session, sql
from millstream.engine.sinks import CollectSink, Sink
from millstream.engine.stats import JobStats, PartitionStats
from millstream.engine.strategies import PartitioningStrategy
from millstream.errors import (
    InternalError,
    JobFailed,
    MillstreamError,
    SchemaError,
    SinkError,
    SourceError,
    SqlError,
)

__version__ = "0.1.0"

__all__ = [
    "CollectSink",
    "InternalError",
    "IpcSink",
    "Job",
    "JobFailed",
    "JobStats",
    "MillstreamError",
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
    "SqlError",
    "sql",
]
