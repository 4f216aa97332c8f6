"""What the planning of one query shares: catalog, types, text, and the streams found so far."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from sqlglot import exp

from millstream.planner.catalog import Catalog, StreamDefinition
from millstream.planner.conjunction import is_semi_join
from millstream.planner.filter_first import filtered_first
from millstream.planner.joins import Join, join_in_turn, joined_sql
from millstream.planner.merge import merged
from millstream.planner.nodes import INPUT, Emit, Node, Projection, Term, Transform, quoted
from millstream.planner.place import SourceText, span_of
from millstream.planner.push_down import push_down
from millstream.planner.scope import Relation, tables_of_subqueries
from millstream.planner.typing import Typer, TypingError

__all__ = ["INPUT", "Cte", "Piece", "PlanContext"]


@dataclass(frozen=True, slots=True)
class Piece:
    """An expression of the query together with the SQL that it became.

    Attributes:
        node: The expression in the tree, for error places.
        sql: Its SQL over the input.
        render: Gives the SQL of any part of ``node``, to find which part is at fault.
        beside: Other expressions that went into ``sql``.
    """

    node: exp.Expr | None
    sql: str
    render: Callable[[exp.Expr], str] | None = None
    beside: tuple[exp.Expr, ...] = ()


@dataclass(frozen=True, slots=True)
class Cte:
    """A query of a WITH clause and those before it, which it can name."""

    query: exp.CTE
    visible: Mapping[str, Cte]


@dataclass(frozen=True, slots=True)
class PlanContext:
    """Passed to every part of the planner.

    Attributes:
        catalog: What the query can name.
        typer: Types pieces of SQL.
        source: Text of the query.
        lower_query: Lowers a query that stands inside another one.
        emit: What the query says about emission, as far as it reaches the block at hand.
        may_revise: Whether results of the block at hand reach the sink as they are, so that a
            window can give a second version of them within the allowed lateness.
        streams: Streams read so far; shared by all contexts of one query.
        ctes: Queries of WITH clauses by name.
    """

    catalog: Catalog
    typer: Typer
    source: SourceText
    lower_query: Callable[[PlanContext, exp.Expr], Relation]
    emit: Emit | None = None
    may_revise: bool = True
    streams: dict[str, StreamDefinition] = field(default_factory=dict)
    ctes: Mapping[str, Cte] = field(default_factory=dict)

    def transform(
        self,
        node: Node,
        columns: Sequence[tuple[str, Piece]],
        *,
        where: Piece | None = None,
        from_sql: str = quoted(INPUT),
        joins: tuple[Join, ...] = (),
    ) -> Transform:
        """Make a transform and type it.

        Raises:
            SqlError: DataFusion refuses one of the pieces.
        """
        projections = tuple(Projection(piece.sql, name) for name, piece in columns)
        of_subqueries = self._subquery_tables((*(p for _, p in columns), where))
        of_joins = {name for join in joins for name in (join.table, *join.reads)}
        tables = tuple(sorted(of_joins | of_subqueries))
        rows_sql, from_sql = from_sql, joined_sql(from_sql, joins)
        later = tuple(term for join in joins for term in join.later)
        where_sql = _with_later(where, later)
        clause = "" if where_sql is None else f" WHERE {where_sql}"
        visible = {INPUT: node.schema, **{name: self.catalog.tables[name] for name in tables}}
        tail = f" FROM {from_sql}{clause}"
        try:
            schema = self.typer.schema(_select(projections) + tail, visible)
        except TypingError as failure:
            pieces = [piece for _, piece in columns]
            raise self._locate(failure, pieces, where, from_sql, visible) from failure
        if len(schema) != len(projections):
            self._check_widths((piece for _, piece in columns), from_sql, visible)
        plain = {quoted(name): name for name in node.schema.names} if not tables else {}
        projections = tuple(
            _without_views(projection, field, plain)
            for projection, field in zip(projections, schema, strict=True)
        )
        fields = [
            node.schema.field(plain[projection.sql]).with_name(projection.name)
            if projection.sql in plain
            else field
            for projection, field in zip(projections, schema, strict=True)
        ]
        terms = later
        if where is not None and joins:
            before = rows_sql, joins
            left, rows_sql, joins = _moved(where, rows_sql, joins)
            terms = left + later
            if (rows_sql, joins) != before:
                where_sql = " AND ".join(term.sql for term in terms) or None
                from_sql = joined_sql(rows_sql, joins)
        transform = Transform(
            input=node,
            projections=projections,
            where=where_sql,
            schema=pa.schema(
                [_plain_field(f, p, plain) for f, p in zip(fields, projections, strict=True)]
            ),
            watermark=node.watermark,
            from_sql=from_sql,
            terms=terms,
            tables=tables,
            joins_in_turn=not of_subqueries and join_in_turn(joins),
        )
        return filtered_first(merged(transform), self.catalog.volatile)

    def _subquery_tables(self, pieces: Iterable[Piece | None]) -> set[str]:
        """Tables of the session that subqueries inside expressions read."""
        return {
            name
            for piece in pieces
            if piece is not None
            for node in (piece.node, *piece.beside)
            if node is not None
            for name in tables_of_subqueries(self.source, self.catalog.tables, node)
        }

    def _check_widths(
        self, pieces: Iterable[Piece], from_sql: str, visible: Mapping[str, pa.Schema]
    ) -> None:
        """Check that each expression gives one column."""
        for piece in pieces:
            width = len(self.typer.schema(f"SELECT {piece.sql} FROM {from_sql}", visible))
            if width != 1:
                raise self.source.error(
                    f"this gives {width} columns, one for each field of a struct; select its "
                    "fields by name",
                    piece.node,
                )

    def _locate(
        self,
        failure: TypingError,
        pieces: Sequence[Piece],
        where: Piece | None,
        from_sql: str,
        visible: Mapping[str, pa.Schema],
    ) -> Exception:
        for piece in (*pieces, *([where] if where is not None else [])):
            found = self._fault(f"SELECT {piece.sql} AS value FROM {from_sql}", visible)
            if found is None or piece.node is None:
                continue
            return self._narrow(piece, piece.node, found, from_sql, visible)
        if where is None or where.node is None:
            return self.source.error(str(failure), None)
        return self.source.error(self._readable(str(failure), where, where.node), where.node)

    def _narrow(
        self,
        piece: Piece,
        node: exp.Expr,
        failure: TypingError,
        from_sql: str,
        visible: Mapping[str, pa.Schema],
    ) -> Exception:
        """Follow the failure down to the smallest part of the expression that fails by itself."""
        for child in node.iter_expressions() if piece.render is not None else ():
            if span_of(child) is None or isinstance(
                child, exp.Identifier | exp.DataType | exp.Query
            ):
                continue
            assert piece.render is not None
            found = self._fault(f"SELECT {piece.render(child)} FROM {from_sql}", visible)
            # Words such as ANY (...) are nothing by themselves, which is not what is wrong.
            if found is not None and found.of_syntax <= failure.of_syntax:
                return self._narrow(piece, child, found, from_sql, visible)
        return self.source.error(self._readable(str(failure), piece, node), node)

    def _readable(self, message: str, piece: Piece, node: exp.Expr) -> str:
        """A message with the words of the query for names that the planner made up."""
        for part in node.walk() if piece.render is not None else ():
            span = span_of(part)
            if span is None or isinstance(part, exp.Identifier):
                continue
            assert piece.render is not None
            made_up = re.fullmatch(r'"(__\w+)"', piece.render(part))
            if made_up is not None:
                message = message.replace(made_up[1], self.source.text(span))
        return message

    def _fault(self, sql: str, visible: Mapping[str, pa.Schema]) -> TypingError | None:
        try:
            self.typer.schema(sql, visible)
        except TypingError as failure:
            return failure
        return None


def _with_later(where: Piece | None, later: Sequence[Term]) -> str | None:
    """Write a condition, and what joins leave to it."""
    if where is not None and not later:
        return where.sql
    conditions = [] if where is None else [f"({where.sql})"]
    return " AND ".join([*conditions, *(term.sql for term in later)]) or None


def _moved(
    where: Piece, rows: str, joins: tuple[Join, ...]
) -> tuple[tuple[Term, ...], str, tuple[Join, ...]]:
    """Move what a condition says to where it can be asked; return what is left, rows and joins."""
    if where.node is None or where.render is None or where.beside:
        nodes = [node for node in (where.node, *where.beside) if node is not None]
        return (Term(f"({where.sql})", any(map(is_semi_join, nodes))),), rows, joins
    left, rows, joins = push_down(where.node, where.render, rows, joins)
    return tuple(Term(f"({where.render(t)})", is_semi_join(t)) for t in left), rows, joins


def _select(projections: Sequence[Projection]) -> str:
    return "SELECT " + ", ".join(f"{p.sql} AS {quoted(p.name)}" for p in projections)


def _is_view(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(data_type) or pa.types.is_binary_view(data_type))


def _without_views(projection: Projection, field: pa.Field, plain: Mapping[str, str]) -> Projection:
    if projection.sql in plain or not _is_view(field.type):
        return projection
    target = "Utf8" if pa.types.is_string_view(field.type) else "Binary"
    return replace(projection, sql=f"arrow_cast({projection.sql}, '{target}')")


def _plain_field(field: pa.Field, projection: Projection, plain: Mapping[str, str]) -> pa.Field:
    if projection.sql in plain or not _is_view(field.type):
        return field
    target = pa.string() if pa.types.is_string_view(field.type) else pa.binary()
    return field.with_type(target)
