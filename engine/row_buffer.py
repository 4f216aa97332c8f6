"""Single rows on their way to a micro-batch.

Making an Arrow batch costs as much for one row as for a thousand. Rows that are pushed one by one
are therefore checked and kept as Python values, and a thread of their own takes all that wait as
one micro-batch. When nothing else is going on it takes the first row at once; under load, rows
gather while the batch before them is being made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

import pyarrow as pa

from millstream.engine.deadline import Deadline
from millstream.errors import SchemaError

__all__ = ["RowBuffer", "can_buffer"]

_Check: TypeAlias = Callable[[Any], bool]
_Deliver: TypeAlias = Callable[[pa.RecordBatch, Deadline], bool]


def can_buffer(schema: pa.Schema) -> bool:
    """Say whether single rows of a schema can be checked value by value, without Arrow."""
    return all(_check(field) is not None for field in schema)


class RowBuffer:
    """Gathers rows of one stream and delivers them as record batches, in their order.

    Args:
        stream: Name of the stream.
        schema: Its schema, for which :func:`can_buffer` holds.
        deliver: Takes a batch, or returns False if there is no room in time; may raise, which is
            then raised in :meth:`add`.
        rows_max: Rows that may wait, and rows of a batch.
        linger_seconds: For how long the first row waits for company.
        event_time: Column that must not be NULL, or None.
    """

    def __init__(
        self,
        stream: str,
        schema: pa.Schema,
        deliver: _Deliver,
        *,
        rows_max: int,
        linger_seconds: float,
        event_time: str | None = None,
    ) -> None:
        self._stream = stream
        self._schema = schema
        self._deliver = deliver
        self._rows_max = rows_max
        self._linger_seconds = linger_seconds
        # What is wrong with a row has to be found before it is among others.
        self._fields = {
            field.name: field.with_nullable(field.nullable and field.name != event_time)
            for field in schema
        }
        self._checks = [(name, _required(field)) for name, field in self._fields.items()]
        self._names = frozenset(schema.names)
        self._rows: list[Mapping[str, Any]] = []
        self._changed = threading.Condition()
        self._delivering = threading.Lock()
        self._error: BaseException | None = None
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row; waits while as many wait as may.

        Raises:
            SchemaError: The row does not fit the stream; it has not been taken.
        """
        self._check(row)
        with self._changed:
            if self._error is not None:
                raise self._error
            while len(self._rows) >= self._rows_max and self._error is None:
                self._changed.wait()
            self._rows.append(row)
            if len(self._rows) == 1:
                self._wake()

    def flush(self, deadline: Deadline) -> bool:
        """Deliver all rows that were added before, in the caller's thread.

        Returns:
            False if the time ran out; some rows still wait then.

        Raises:
            SchemaError: A value cannot become one of its column after all.
        """
        if self._thread is None:
            return True
        while self._rows:
            if not self._deliver_waiting(deadline):
                return False
        # Whoever delivers now has finished when this lock is free.
        if not self._acquire_delivery(deadline):
            return False
        self._delivering.release()
        if self._error is not None:
            raise self._error
        return True

    @property
    def n_waiting(self) -> int:
        """Rows that were added and not delivered yet."""
        return len(self._rows)

    def close(self) -> None:
        """End the thread. Rows that still wait are dropped; flush before."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _check(self, row: Mapping[str, Any]) -> None:
        if row.keys() != self._names:
            self._refuse_names(row)
        for name, fits in self._checks:
            if not fits(row[name]):
                field = self._fields[name]
                required = "" if field.nullable else " and not NULL"
                raise SchemaError(
                    f"stream {self._stream!r}: column {name!r} must be a value of type"
                    f" {field.type}{required}: {row[name]!r}"
                )

    def _refuse_names(self, row: Mapping[str, Any]) -> None:
        missing = sorted(self._names - row.keys())
        if missing:
            raise SchemaError(f"stream {self._stream!r}: a row lacks the columns {missing}")
        unknown = sorted(map(str, row.keys() - self._names))
        raise SchemaError(f"stream {self._stream!r} has no columns {unknown}")

    def _wake(self) -> None:
        """Start or notify the delivering thread. The caller holds the condition."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name=f"millstream-rows-{self._stream}", daemon=True
            )
            self._thread.start()
        else:
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._rows and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
            if self._linger_seconds > 0:
                time.sleep(self._linger_seconds)
            try:
                self._deliver_waiting(Deadline(None))
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._rows.clear()
                    self._changed.notify_all()
                return

    def _deliver_waiting(self, deadline: Deadline) -> bool:
        if not self._acquire_delivery(deadline):
            return False
        try:
            with self._changed:
                rows, self._rows = self._rows[: self._rows_max], self._rows[self._rows_max :]
                self._changed.notify_all()
            if not rows or self._deliver(self._batch(rows), deadline):
                return True
            with self._changed:
                self._rows = rows + self._rows
            return False
        finally:
            self._delivering.release()

    def _acquire_delivery(self, deadline: Deadline) -> bool:
        remaining = deadline.remaining()
        return self._delivering.acquire(timeout=-1 if remaining is None else remaining)

    def _batch(self, rows: list[Mapping[str, Any]]) -> pa.RecordBatch:
        columns = []
        for field in self._schema:
            values = [row[field.name] for row in rows]
            try:
                columns.append(pa.array(values, field.type))
            except (pa.ArrowInvalid, OverflowError, UnicodeError) as error:
                raise SchemaError(
                    f"stream {self._stream!r}: column {field.name!r}: {error}"
                ) from error
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _required(field: pa.Field) -> _Check:
    check = _check(field)
    assert check is not None, "the caller has asked can_buffer"
    return check


def _check(field: pa.Field) -> _Check | None:
    """Return what tells whether a Python value can become one of a column as it is, or None."""
    fits = _fits(field.type)
    if fits is None or not field.nullable:
        return fits
    return lambda value: value is None or fits(value)


def _fits(type_: pa.DataType) -> _Check | None:
    if pa.types.is_integer(type_):
        signed = pa.types.is_signed_integer(type_)
        width = type_.bit_width
        least = -(1 << width - 1) if signed else 0
        greatest = (1 << width - 1) - 1 if signed else (1 << width) - 1
        return lambda value: type(value) is int and least <= value <= greatest
    if pa.types.is_float64(type_):
        # Greater integers could be rounded on the way.
        return lambda value: type(value) is float or (type(value) is int and abs(value) <= 1 << 53)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return _is_text
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return lambda value: type(value) is bytes
    if pa.types.is_boolean(type_):
        return lambda value: type(value) is bool
    if type_ == pa.timestamp("us"):
        return lambda value: type(value) is datetime and value.tzinfo is None
    if type_ == pa.timestamp("ns"):
        # In 64 bits nanoseconds reach from the year 1677 to the year 2262.
        return lambda value: (
            type(value) is datetime and value.tzinfo is None and 1678 <= value.year <= 2261
        )
    return None


def _is_text(value: Any) -> bool:
    """Say whether a value is text that UTF-8 can hold, which half of a surrogate pair is not."""
    if type(value) is not str:
        return False
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
