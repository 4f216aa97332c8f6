"""What the planner knows of a session: streams, tables and functions. Schemas, no data."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from millstream.planner.nodes import Node

__all__ = ["Catalog", "QueryPlan", "StreamDefinition"]


@dataclass(frozen=True, slots=True)
class StreamDefinition:
    """A declared stream.

    Attributes:
        name: Name in SQL.
        schema: Arrow schema of the rows that operators see.
        event_time: Column with the event time, or None.
        max_out_of_orderness: How far, in units of the event time's type, a row may be behind the
            greatest event time seen before it counts as late. None: as far as it likes, the
            watermark moves at the end of input only.
        allowed_lateness: Units of event time for which a closed window can still be revised.
        source_partitions: Number of partitions that the source has, numbered from 0, if that is
            known: the watermark waits for all of them. Else it waits for those that have been seen.
        idle_timeout_seconds: Time on the clock after which a source partition without rows stops
            holding the watermark back, or None for never.
        partitioned_by: Columns by which the source is partitioned: rows that agree in them come
            from one source partition.
    """

    name: str
    schema: pa.Schema
    event_time: str | None = None
    max_out_of_orderness: int | None = 0
    allowed_lateness: int = 0
    source_partitions: int | None = None
    idle_timeout_seconds: float | None = None
    partitioned_by: tuple[str, ...] = ()


@dataclass(slots=True)
class Catalog:
    """Streams and tables by name. Names are unique over both.

    Attributes:
        streams: Declared streams.
        tables: Schemas of the session's tables.
        functions: DataFusion function objects to register in every context, by name: Python scalar
            and aggregate UDFs.
        volatile: Names of functions that may tell something else each time.
        infer_event_time: Whether a window over a stream without event time takes the column that
            the query names, as for queries over bounded tables.
    """

    streams: dict[str, StreamDefinition] = field(default_factory=dict)
    tables: dict[str, pa.Schema] = field(default_factory=dict)
    functions: dict[str, object] = field(default_factory=dict)
    volatile: set[str] = field(default_factory=lambda: {"random", "uuid"})
    infer_event_time: bool = False


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """A planned query: the tree before it is distributed, and what its results look like.

    Attributes:
        sql: Text of the query.
        root: Root of the tree; its schema is the query's.
        schema: Output schema, with ``_op`` last where results can be revised.
        key_columns: Output columns that identify a row whose versions follow each other; empty for
            append-only.
        streams: Names of the streams read, sorted; event times as used by the plan (inferred ones
            included).
        strategy: Partitioning strategy that a hint asks for, or None.
    """

    sql: str
    root: Node
    schema: pa.Schema
    key_columns: tuple[str, ...]
    streams: tuple[StreamDefinition, ...]
    strategy: str | None = None
