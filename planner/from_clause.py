"""FROM: which stream a query block reads, under which names, and through which window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
from sqlglot import exp

from millstream.planner.catalog import StreamDefinition
from millstream.planner.context import PlanContext
from millstream.planner.nodes import Source, WatermarkBound, quoted
from millstream.planner.scope import Relation, Scope, ScopeItem, identifier_name, nearest
from millstream.planner.streaming_clauses import WindowCall
from millstream.planner.windows import WindowSyntax, read_window_call

__all__ = ["From", "lower_from"]


@dataclass(frozen=True, slots=True)
class From:
    """What a query block reads.

    Attributes:
        relation: The rows of the one stream or subquery among the entries.
        scope: Names that the block can use.
        window: Window of a windowing table function, or None.
    """

    relation: Relation
    scope: Scope
    window: WindowSyntax | None


def lower_from(context: PlanContext, select: exp.Select) -> From:
    """Lower the FROM clause of a block.

    Raises:
        SqlError: Nothing that streams is read, or a name is unknown.
    """
    clause = select.args.get("from_")
    if clause is None:
        raise context.source.error("a query needs FROM with a stream to read", select)
    entry = clause.this
    window = None
    data = entry
    if isinstance(entry, WindowCall):
        window = read_window_call(context, entry, clause=False)
        data = window.data
    relation, alias = lower_entry(context, data)
    if window is not None:
        alias = _alias(entry) or alias
    scope = Scope([_item(alias, relation)], context.source)
    if window is not None:
        scope.windowed, scope.window_alias = True, alias
    return From(relation, scope, window)


def lower_entry(context: PlanContext, entry: exp.Expr | None) -> tuple[Relation, str]:
    """Lower what stands in FROM, without its window: its rows and its name."""
    if isinstance(entry, exp.Column):
        entry = exp.Table(this=entry.this, db=entry.args.get("table"))
    if isinstance(entry, exp.Table):
        return _lower_table(context, entry)
    raise context.source.error("FROM takes the name of a stream", entry)


def _lower_table(context: PlanContext, table: exp.Table) -> tuple[Relation, str]:
    extra = next(
        (key for key, value in table.args.items() if value and key not in ("this", "alias")), None
    )
    if extra is not None or not isinstance(table.this, exp.Identifier):
        raise context.source.error("FROM takes the plain name of a stream", table)
    name = identifier_name(table.this)
    alias = _alias(table) or name
    stream = context.streams.get(name) or context.catalog.streams.get(name)
    if stream is None:
        raise _unknown_stream(context, table, name)
    context.streams[name] = stream
    return stream_relation(stream), alias


def stream_relation(stream: StreamDefinition) -> Relation:
    """The rows of a stream as a relation."""
    bound = (WatermarkBound(stream.name),)
    schema = pa.schema([pa.field(f.name, f.type, f.nullable) for f in stream.schema])
    node = Source(stream=stream.name, schema=schema, watermark=bound)
    times = {} if stream.event_time is None else {stream.event_time: bound}
    columns = {column: column for column in schema.names}
    return Relation(node, columns, times, f"stream {stream.name!r}")


def _unknown_stream(context: PlanContext, table: exp.Table, name: str) -> Exception:
    if name in context.catalog.tables:
        return context.source.error(
            f"{name!r} is a table, which can only be joined with a stream; declare it as a stream "
            "to query it alone",
            table,
        )
    known = [*context.catalog.streams, *context.catalog.tables]
    return context.source.error(f"unknown stream or table {name!r}{nearest(name, known)}", table)


def _alias(entry: exp.Expr) -> str | None:
    alias = entry.args.get("alias")
    if isinstance(alias, exp.TableAlias) and alias.this is not None:
        return identifier_name(alias.this)
    return None


def _item(alias: str, relation: Relation) -> ScopeItem:
    sql: Mapping[str, str] = {name: quoted(column) for name, column in relation.columns.items()}
    fields = {name: relation.field(name) for name in relation.columns}
    return ScopeItem(alias, sql, fields)
