"""The rows of a block between two of its clauses, and how expressions are written over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from sqlglot import exp

from millstream.planner.context import INPUT, Piece, PlanContext
from millstream.planner.joins import Join
from millstream.planner.nodes import Node, Transform, WatermarkBound, quoted
from millstream.planner.place import Replace
from millstream.planner.scope import Relation

__all__ = ["EventTime", "Inferable", "Stage"]


@dataclass(frozen=True, slots=True)
class EventTime:
    """A column that a watermark follows.

    Attributes:
        name: What the user calls it.
        sql: How it is written over the rows.
        data_type: Its Arrow type.
        watermark: The watermark that it follows.
    """

    name: str
    sql: str
    data_type: pa.DataType
    watermark: tuple[WatermarkBound, ...]


@dataclass(frozen=True, slots=True)
class Inferable:
    """A column of a stream without event time, which a window may declare to be it."""

    name: str
    stream: str
    column: str
    data_type: pa.DataType


@dataclass(frozen=True, slots=True)
class Stage:
    """Rows and the words for them. A clause takes one stage and gives the next.

    Attributes:
        node: Node that gives the rows.
        replace: How columns, and what was computed so far, are written over the rows.
        columns: SQL by name of all that can be passed on.
        event_times: Columns that watermarks follow, by their SQL.
        window_columns: SQL of window columns by role.
        title: What messages call the rows.
        keys: SQL of the group's keys where later rows replace earlier ones.
        changes: Whether later rows replace earlier ones.
        settled: Whether no row is ever late, as where they come from closed windows or have waited
            for their time.
        before_end: SQL of event times that lie before the end of the row's window; its other
            columns, which do so too, need not be among them.
        inferable: Columns that could become event time, by their SQL.
        where: Condition that the next transform has to apply.
        from_sql: The rows in FROM of the next transform.
        joins: What they are joined with there, in order.
    """

    node: Node
    replace: Replace
    columns: Mapping[str, str]
    event_times: Mapping[str, EventTime]
    window_columns: Mapping[str, str]
    title: str
    keys: tuple[str, ...] = ()
    changes: bool = False
    settled: bool = False
    before_end: frozenset[str] = frozenset()
    inferable: Mapping[str, Inferable] = field(default_factory=dict)
    where: Piece | None = None
    from_sql: str = quoted(INPUT)
    joins: tuple[Join, ...] = ()

    def render(self, context: PlanContext, node: exp.Expr) -> str:
        """SQL of an expression over the rows."""
        return context.source.splice(node, self.replace)

    def piece(self, context: PlanContext, node: exp.Expr) -> Piece:
        """An expression with its SQL, for a transform."""
        return Piece(node, self.render(context, node), lambda part: self.render(context, part))

    def passed(self) -> list[tuple[str, Piece]]:
        """All columns as they are, for a transform that computes more beside them."""
        return [(name, Piece(None, sql)) for name, sql in self.columns.items()]

    def project(self, context: PlanContext, columns: Sequence[tuple[str, Piece]]) -> Transform:
        """Apply what is pending and compute columns.

        Raises:
            SqlError: DataFusion refuses one of them.
        """
        return context.transform(
            self.node, columns, where=self.where, from_sql=self.from_sql, joins=self.joins
        )

    def type_of(self, context: PlanContext, sql: str) -> pa.DataType:
        """Type of an expression over the rows."""
        return self.project(context, [("value", Piece(None, sql))]).schema.field(0).type

    def narrowest(self) -> str:
        """SQL of the column whose values take the least room."""

        def width(name: str) -> int:
            try:
                return int(self.node.schema.field(name).type.bit_width)
            except ValueError:
                return 1 << 16

        return min(
            self.columns.values(),
            key=lambda sql: min(
                (width(name) for name in self.node.schema.names if sql.endswith(quoted(name))),
                default=1 << 17,
            ),
        )

    def refers(self, node: exp.Expr) -> bool:
        """Whether an expression depends on the rows, so that it is no constant."""
        return any(self.replace(part) is not None for part in node.walk())

    def is_before_end(self, sql: str) -> bool:
        """Whether an event time is known to lie before the end of the row's window."""
        columns = self.window_columns
        return sql in {*self.before_end, columns.get("window_start"), columns.get("window_time")}

    def relation(self, node: Transform, columns: Sequence[tuple[str, Piece]]) -> Relation:
        """What a transform of the rows gives; columns that it picks keep what they are good for."""
        sql_by_name = {name: piece.sql for name, piece in columns}
        roles = {sql: role for role, sql in self.window_columns.items()}
        return Relation(
            node=node,
            columns={name: name for name in node.schema.names},
            event_times={
                name: self.event_times[sql].watermark
                for name, sql in sql_by_name.items()
                if sql in self.event_times
            },
            title=self.title,
            window_columns={
                roles[sql]: name for name, sql in reversed(sql_by_name.items()) if sql in roles
            },
            changes=self.changes,
            settled=self.settled,
            before_end=frozenset(n for n, sql in sql_by_name.items() if self.is_before_end(sql)),
            key_columns=tuple(name for name, sql in sql_by_name.items() if sql in self.keys),
        )
