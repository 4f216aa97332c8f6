"""Plan nodes: frozen values that describe what a query does. They never run.

A plan is a tree whose leaves are :class:`Source` and whose root feeds the sink. Nodes refer to
columns of their input by name. Names that begin with ``__`` are the planner's own; names that begin
with ``__ms_`` are reserved for columns which the engine carries along with a batch and which no
node mentions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pyarrow as pa

__all__ = [
    "ARRIVAL_COLUMN",
    "HIDDEN_PREFIX",
    "INPUT",
    "OP_COLUMN",
    "WINDOW_COLUMNS",
    "Aggregate",
    "AggregateCall",
    "AssignWindows",
    "Changelog",
    "Emit",
    "Exchange",
    "ExchangeKind",
    "Node",
    "Over",
    "OverCall",
    "Phase",
    "PlaceOrder",
    "Projection",
    "SortKey",
    "Source",
    "Term",
    "Transform",
    "Union",
    "WatermarkBound",
    "Window",
    "WindowKind",
    "WindowSelect",
    "passing_sql",
]

WINDOW_COLUMNS = ("window_start", "window_end", "window_time")
"""What windows add to rows, in this order."""

INPUT = "input"
"""Name of the table that stands for the rows of a node's input."""

HIDDEN_PREFIX = "__ms_"
OP_COLUMN = "_op"
# In the query of a WindowSelect: the place of each row in the order of arrival, int64.
ARRIVAL_COLUMN = "__arrival"

_UNNEST = re.compile(r'\bunnest"?\s*\(', re.IGNORECASE)

Emit: TypeAlias = Literal["append", "final", "changes"]
ExchangeKind: TypeAlias = Literal["hash", "single", "broadcast", "forward"]
Phase: TypeAlias = Literal["single", "partial", "final"]
WindowKind: TypeAlias = Literal["tumble", "hop", "cumulate", "session"]


@dataclass(frozen=True, slots=True)
class WatermarkBound:
    """One term of a node's watermark: the watermark of ``stream`` minus ``delay``.

    A node's watermark is the least of its terms. The delay is in units of the stream's event time;
    it grows where a window column of an inner query serves as event time of an outer one.
    """

    stream: str
    delay: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """How rows are assigned to windows of event time, in units of the time column's type.

    Attributes:
        kind: Shape of the window.
        time_column: Input column with the event time: integer, date or timestamp, without NULLs.
        time_type: Arrow type of ``time_column`` and of the window columns.
        size: Length of a window; for a session the gap that ends it.
        step: Distance between window starts (hop) or between emissions of a growing window
            (cumulate); equal to ``size`` for tumble and session.
        offset: Shift of the alignment from the epoch.
        is_of_input: Whether it only says when windows close that the input's rows are in already,
            by the end of each; their columns are keys.
    """

    kind: WindowKind
    time_column: str
    time_type: pa.DataType
    size: int
    step: int
    offset: int = 0
    is_of_input: bool = False


@dataclass(frozen=True, slots=True)
class SortKey:
    """One term of an ORDER BY over an input column."""

    column: str
    descending: bool = False
    nulls_first: bool = False


@dataclass(frozen=True, slots=True)
class Projection:
    """One output column of a transform: an expression over the input's columns, and its name."""

    sql: str
    name: str

    @property
    def multiplies(self) -> bool:
        """Whether it may give several rows for one, or none, so that it counts even if unread."""
        return _UNNEST.search(self.sql) is not None


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of a stream as they are pushed; ``schema`` is the part of them that the query reads."""

    stream: str
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Term:
    """One of the things that a predicate says.

    Attributes:
        sql: An expression, in parentheses.
        makes_join: Whether DataFusion makes a join of it, as of EXISTS and of IN over a query.
    """

    sql: str
    makes_join: bool


@dataclass(frozen=True, slots=True)
class Transform:
    """Stateless work by DataFusion: filter, projection, functions, joins with tables.

    It stands for ``SELECT <projections> FROM <from_sql> WHERE <where>``, in which the input is the
    table ``input``.

    Attributes:
        input: Node that gives the rows.
        projections: Output columns in order.
        where: Predicate, or None.
        terms: Where tables are joined, what ``where`` is a conjunction of.
        from_sql: What stands after FROM; names ``input`` and, for joins, tables of the session.
        tables: Tables of the session that ``from_sql`` or a subquery reads, sorted.
        schema: Output schema as typed by DataFusion.
        watermark: As of the input.
        is_ordered: Whether what comes of rows has to come in their order.
        joins_in_turn: Whether tables can be joined with the rows one after the other as
            ``from_sql`` has them, since each says of some values that they are equal.
    """

    input: Node
    projections: tuple[Projection, ...]
    where: str | None
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]
    from_sql: str = '"input"'
    terms: tuple[Term, ...] = ()
    tables: tuple[str, ...] = ()
    is_ordered: bool = True
    joins_in_turn: bool = False

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def picks(self) -> tuple[str, ...] | None:
        """Input columns in output order if this only picks and renames columns, else None."""
        if self.where is not None or self.tables or self.from_sql != '"input"':
            return None
        names = {quoted(name): name for name in self.input.schema.names}
        picked = [names.get(projection.sql) for projection in self.projections]
        return None if None in picked else tuple(name for name in picked if name is not None)


@dataclass(frozen=True, slots=True)
class AssignWindows:
    """Gives each row once per window that it belongs to, with the window's columns appended.

    Serves windowing table functions without GROUP BY. ``window.kind`` is not session.
    """

    input: Node
    window: Window
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class AggregateCall:
    """One aggregate function over input columns.

    Attributes:
        name: Output column.
        function: Lower-case name as DataFusion knows it, such as ``sum``; ``count`` without
            arguments counts rows.
        arguments: Input columns, computed by the transform before. Constants are columns too on the
            kernel path; elsewhere they stand in ``sql``.
        result_type: Arrow type of the output column, as typed by DataFusion.
        sql: The call over the input's columns.
        stable_sql: As DataFusion runs it on the buffered path: where rows come in an order, those
            that agree in it in the order of ``ARRIVAL_COLUMN``.
        distinct: Whether duplicates of the argument count once.
        order_by: Order of the argument for functions that depend on it.
        path: ``kernel`` when state is updated by kernels, ``buffered`` when rows are kept until
            emission.
        reason: Why the path is buffered; empty for kernels.
    """

    name: str
    function: str
    arguments: tuple[str, ...]
    result_type: pa.DataType
    sql: str
    distinct: bool = False
    order_by: tuple[SortKey, ...] = ()
    path: Literal["kernel", "buffered"] = "kernel"
    reason: str = ""
    stable_sql: str = ""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """GROUP BY, with or without a window.

    The output has the keys and one column per call. If there is a window, window_start, window_end
    and window_time (of the window's time type) come before them, as far as somebody reads them.
    Rows are emitted as ``emit`` says: ``final`` when the watermark passes the window's end or the
    input ends; ``changes`` after each micro-batch, each touched group once.

    Attributes:
        input: Node that gives the rows.
        keys: Grouping columns of the input, without the window.
        window: Assignment to windows, or None.
        calls: The aggregates, by output column.
        emit: When groups come out.
        schema: Output schema.
        watermark: Watermark of the input, which closes windows.
        allowed_lateness: Event time for which a closed window can still be revised.
        phase: ``partial`` and ``final`` are the two sides of an exchange; set when a plan is
            distributed.
        ties: ``arrival`` where rows are put in the order of their numbers first: which rows are
            late for a session depends on the order in which they come, and so does which of equal
            rows is the first.
    """

    input: Node
    keys: tuple[str, ...]
    window: Window | None
    calls: tuple[AggregateCall, ...]
    emit: Emit
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]
    allowed_lateness: int = 0
    phase: Phase = "single"
    ties: Literal["none", "arrival"] = "none"

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)

    @property
    def window_columns(self) -> tuple[str, ...]:
        """The columns of the window in the output."""
        if self.window is None:
            return ()
        return tuple(name for name in WINDOW_COLUMNS if name in self.schema.names)


@dataclass(frozen=True, slots=True)
class Changelog:
    """Turns versions of rows into changes: adds ``_op``, drops versions equal to the last one sent.

    The input comes from an Aggregate with ``emit = "changes"`` through transforms that keep its key
    columns.
    """

    input: Node
    key_columns: tuple[str, ...]
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]
    retract: bool = False

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class OverCall:
    """One window function of an OVER.

    Attributes:
        name: Output column.
        function: Lower-case name as DataFusion knows it.
        arguments: Input columns.
        result_type: Arrow type of the output column.
        frame_kind: ROWS or RANGE.
        preceding: Rows, or units of event time, before the current row; None is unbounded. For
            ``lag`` it is how many rows back it looks.
        sql: The function call without its OVER clause, over the input's columns.
        path: ``kernel`` or ``buffered``, as for aggregates; ``carried`` where DataFusion goes on
            from the result of the last row of a key, and no other row has to be kept.
        reason: Why there is no kernel; empty if there is one.
        frame_sql: The frame as DataFusion reads it, for the buffered path; empty where none was
            written or it has no meaning for the function.
        ignores_nulls: Whether ``first_value``, ``last_value`` and ``lag`` look for values that are
            not NULL.
    """

    name: str
    function: str
    arguments: tuple[str, ...]
    result_type: pa.DataType
    frame_kind: Literal["rows", "range"]
    preceding: int | None
    sql: str
    path: Literal["kernel", "buffered", "carried"] = "kernel"
    reason: str = ""
    frame_sql: str = ""
    ignores_nulls: bool = False


@dataclass(frozen=True, slots=True)
class Over:
    """Window functions over the rows of a partition key, ordered by event time or by arrival.

    The output is the input's columns followed by one column per call.

    Attributes:
        input: Node that gives the rows.
        keys: Partition columns of the input.
        order_column: Event time that rows are ordered by, or None for the order of arrival.
        calls: The window functions, by output column.
        schema: Output schema.
        watermark: Watermark of the input, for which rows wait.
        ties: What orders rows further: nothing where they come as they arrived; their numbers in
            the job, and copies of a row by its columns; or the columns alone.
    """

    input: Node
    keys: tuple[str, ...]
    order_column: str | None
    calls: tuple[OverCall, ...]
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]
    ties: Literal["none", "arrival", "columns"] = "none"

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class PlaceOrder:
    """What places in a window come by in the first place.

    Attributes:
        place: Column with the places, which begin at 1; or None where they are in no column.
        column: Column of the input whose best values come first; of numbers or times.
        descending: Whether the best are the greatest.
    """

    place: str | None
    column: str
    descending: bool


@dataclass(frozen=True, slots=True)
class WindowSelect:
    """Keeps the rows of each window until it closes, then runs ``sql`` over them.

    Attributes:
        input: Node that gives rows with the column ``window_end_column``.
        window_end_column: A window is closed when the watermark reaches this value.
        keys: Columns that rows have to share a partition by (with the window); empty for all rows
            of a window.
        sql: DataFusion query over the table ``input``, which holds the rows of one or more closed
            windows.
        computed: What ``sql`` adds to the columns of the input, if it gives these as they are.
        order: What places come by, where there is a single column of places.
        first_rows: How many rows of a window can be in the result, by ``order`` and with those that
            are as good as the last of them; None if any can. Without keys only.
    """

    input: Node
    window_end_column: str
    keys: tuple[str, ...]
    sql: str
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]
    computed: tuple[Projection, ...] | None = None
    order: PlaceOrder | None = None
    first_rows: int | None = None

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


@dataclass(frozen=True, slots=True)
class Union:
    """UNION ALL of inputs with one schema."""

    branches: tuple[Node, ...]
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return self.branches


@dataclass(frozen=True, slots=True)
class Exchange:
    """Gives each row to the partition that owns its key, all rows to one, or all rows to each."""

    input: Node
    kind: ExchangeKind
    keys: tuple[str, ...]
    schema: pa.Schema
    watermark: tuple[WatermarkBound, ...]

    @property
    def inputs(self) -> tuple[Node, ...]:
        return (self.input,)


Node: TypeAlias = (
    Source
    | Transform
    | AssignWindows
    | Aggregate
    | Changelog
    | Over
    | WindowSelect
    | Union
    | Exchange
)


def passing_sql(columns: Sequence[str], computed: Sequence[Projection]) -> str:
    """Return the query that gives columns of ``input`` as they are, and computed ones."""
    listed = [quoted(name) for name in columns]
    listed += [f"{projection.sql} AS {quoted(projection.name)}" for projection in computed]
    return f'SELECT {", ".join(listed)} FROM "input"'


def quoted(name: str) -> str:
    """Quote an identifier for DataFusion."""
    return '"' + name.replace('"', '""') + '"'
