"""The error tree: every error that Millstream raises on purpose, sorted by who has to act on it."""

from __future__ import annotations

__all__ = [
    "InternalError",
    "JobFailed",
    "MillstreamError",
    "SchemaError",
    "SinkError",
    "SourceError",
    "SqlError",
]


class MillstreamError(Exception):
    """Root of the tree; catch it to catch everything that Millstream raises on purpose."""


class SqlError(MillstreamError):
    """The query text has to change: it is wrong, or asks for what is not supported.

    Attributes:
        reason: The message without the place.
        sql: The query text, or None where no text is at hand.
        line: Line of the offending text, from 1, or None.
        column: Column of the offending text, from 1, or None.
    """

    def __init__(
        self,
        reason: str,
        *,
        sql: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        self.reason = reason
        self.sql = sql
        self.line = line
        self.column = column
        super().__init__(_with_place(reason, sql, line, column))


class SchemaError(MillstreamError):
    """Data and declaration disagree: a batch does not fit its stream, or a schema cannot work."""


class SourceError(MillstreamError):
    """Input could not be read or was offered at the wrong time, such as a push after finish."""


class SinkError(MillstreamError):
    """The sink raised, with its own error as the cause, or is nothing that can be written to."""


class JobFailed(MillstreamError):
    """A running job stopped because of an error; the error itself is ``__cause__``.

    Attributes:
        stream: Stream whose micro-batch was being processed, or None.
        batch_number: Number of that micro-batch within the job, from 0, or None.
        row: Index within the micro-batch of the first row that fails on its own, or None.
        partition: Partition in which the error was raised, or None.
    """

    def __init__(
        self,
        reason: str,
        *,
        stream: str | None = None,
        batch_number: int | None = None,
        row: int | None = None,
        partition: int | None = None,
    ) -> None:
        self.reason = reason
        self.stream = stream
        self.batch_number = batch_number
        self.row = row
        self.partition = partition
        place = [
            f"{name} {value!r}" if isinstance(value, str) else f"{name} {value}"
            for name, value in (
                ("stream", stream),
                ("micro-batch", batch_number),
                ("row", row),
                ("partition", partition),
            )
            if value is not None
        ]
        super().__init__(reason + (f" ({', '.join(place)})" if place else ""))


class InternalError(MillstreamError):
    """An invariant of Millstream itself is broken; this is a bug to report."""


def _with_place(reason: str, sql: str | None, line: int | None, column: int | None) -> str:
    if sql is None or line is None or column is None:
        return reason
    lines = sql.splitlines()
    if not 1 <= line <= len(lines):
        return reason
    # Tabs keep their width in the caret line, so that the caret stands under its character.
    indent = "".join("\t" if char == "\t" else " " for char in lines[line - 1][: column - 1])
    return f"{reason} (line {line}, column {column})\n  {lines[line - 1]}\n  {indent}^"
