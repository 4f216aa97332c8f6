"""A generated case: streams, a query, and the same question for a batch engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from tests.equivalence.chooser import Chooser
from tests.equivalence.columns import Column, choose_keys, choose_values, fill
from tests.equivalence.event_times import TimeShape, choose_time_shape, choose_times

__all__ = ["TIME_UNITS", "Case", "Stream", "choose_stream"]

# Column of an oracle's tables: the event time as an integer in its own unit.
TIME_UNITS = "__t"
_ROWS_MAX = 40


@dataclass(frozen=True, slots=True)
class Stream:
    """A generated stream, its rows in order of arrival.

    It has the columns ``id`` (number of the row), ``ts`` (event time), keys and values.
    """

    name: str
    rows: pa.Table
    keys: tuple[Column, ...]
    values: tuple[Column, ...]
    time: TimeShape
    max_out_of_orderness: int
    allowed_lateness: int = 0

    @property
    def times(self) -> list[int]:
        """Event times in their own unit."""
        units: list[int] = time_units(self.rows.column("ts")).to_pylist()
        return units

    @property
    def oracle_rows(self) -> pa.Table:
        """The rows with the event time as an integer beside it."""
        return self.rows.append_column(TIME_UNITS, time_units(self.rows.column("ts")))


def time_units(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give event times as int64 in their own unit."""
    return (times.cast(pa.int32()) if pa.types.is_date32(times.type) else times).cast(pa.int64())


@dataclass(frozen=True, slots=True)
class Case:
    """A query and what decides whether its answer is right.

    Attributes:
        feature: What it is about.
        sql: The query for Millstream.
        oracle_sql: The query for DataFusion, over the tables `oracle_tables`.
        streams: Streams that the query reads.
        tables: Tables of the session.
        oracle_tables: What the batch engine reads: by default the rows of the streams, and the
            tables.
        portable: Whether DuckDB gives the same answer to ``oracle_sql``.
        time_columns: Columns that the oracle gives as integers, and the types of event time that
            they have.
        rows_late: How many rows are late for all of their windows.
        unordered_lists: Columns with lists whose order is not promised.
        session_options: Options of the session.
        rebuild: Makes the case again for its first stream with other rows, where more than the
            stream's rows depends on them.
    """

    feature: str
    sql: str
    oracle_sql: str
    streams: tuple[Stream, ...]
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    oracle_tables: Mapping[str, pa.Table] = field(default_factory=dict)
    portable: bool = False
    time_columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    rows_late: int = 0
    unordered_lists: frozenset[str] = frozenset()
    session_options: Mapping[str, object] = field(default_factory=dict)
    rebuild: Callable[[Stream], Case] | None = None

    def with_rows(self, indices: Sequence[int]) -> Case:
        """Give the same case with only these rows of its first stream."""
        stream = self.streams[0]
        rows = stream.rows.take(pa.array(indices, pa.int64()))
        changed = replace(stream, rows=rows)
        if self.rebuild is not None:
            return self.rebuild(changed)
        return replace(self, streams=(changed, *self.streams[1:]))

    def all_oracle_tables(self) -> dict[str, pa.Table]:
        """Give the batch engine's tables by name."""
        streams = {stream.name: stream.oracle_rows for stream in self.streams}
        return {**streams, **self.tables, **self.oracle_tables}


def choose_stream(
    chooser: Chooser,
    *,
    name: str = "t",
    n_keys: int | None = None,
    late_percent: int = 0,
    time: TimeShape | None = None,
) -> Stream:
    """Choose a stream with its rows; sometimes without any."""
    shape = time or choose_time_shape(chooser)
    keys = choose_keys(chooser, chooser.integer(1, 2) if n_keys is None else n_keys)
    values = choose_values(chooser)
    n_rows = 0 if chooser.chance(4) else chooser.integer(1, _ROWS_MAX)
    delay = chooser.choice((0, shape.grain // 2, 3 * shape.grain))
    times = choose_times(chooser, shape, n_rows, delay, late_percent=late_percent)
    arrays = {"id": pa.array(range(n_rows), pa.int64()), "ts": _times(times, shape.type)}
    n_distinct = chooser.choice((1, 2, 3, 8))
    arrays |= {key.name: fill(chooser, key, n_rows, n_distinct=n_distinct) for key in keys}
    arrays |= {column.name: fill(chooser, column, n_rows) for column in values}
    nullable = {column.name: column.nullable for column in [*keys, *values]}
    schema = pa.schema(
        [pa.field(label, array.type, nullable.get(label, False)) for label, array in arrays.items()]
    )
    rows = pa.Table.from_arrays(list(arrays.values()), schema=schema)
    return Stream(name, rows, tuple(keys), tuple(values), shape, delay)


def _times(times: list[int], data_type: pa.DataType) -> pa.Array:
    if pa.types.is_date32(data_type) or pa.types.is_int32(data_type):
        return pa.array(times, pa.int32()).cast(data_type)
    return pa.array(times, pa.int64()).cast(data_type)
