"""FROM: which rows a query block reads, under which names, and through which window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregates import aggregate_calls
from millstream.planner.catalog import StreamDefinition
from millstream.planner.conjunction import conjuncts, is_semi_join
from millstream.planner.context import INPUT, PlanContext
from millstream.planner.joins import Join
from millstream.planner.nodes import Source, Term, WatermarkBound, quoted
from millstream.planner.over_clause import over_calls
from millstream.planner.scope import (
    Relation,
    Scope,
    ScopeItem,
    bound_sql,
    identifier_name,
    nearest,
    tables_of_subqueries,
    window_role,
)
from millstream.planner.stage import EventTime, Inferable, Stage
from millstream.planner.streaming_clauses import WindowCall
from millstream.planner.unnest import refuse_unnest
from millstream.planner.windows import WindowSyntax, read_window_call

__all__ = ["From", "lower_from"]

_JOIN_ARGUMENTS = frozenset({"this", "on", "using", "side", "kind"})


@dataclass(frozen=True, slots=True)
class From:
    """What a query block reads.

    Attributes:
        stage: The rows, with pending joins.
        scope: Names that the block can use.
        window: Window of a windowing table function, or None.
    """

    stage: Stage
    scope: Scope
    window: WindowSyntax | None


def lower_from(context: PlanContext, select: exp.Select) -> From:
    """Lower the FROM clause of a block and its joins.

    Raises:
        SqlError: Nothing that streams is read, a name is unknown, or a join is not supported.
    """
    clause = select.args.get("from_")
    if clause is None:
        raise context.source.error("a query needs FROM with a stream to read", select)
    entry, joins, n_before = _stream_first(context, clause.this, select.args.get("joins") or [])
    window = None
    data = entry
    if isinstance(entry, WindowCall):
        window = read_window_call(context, entry, clause=False)
        data = window.data
    relation, alias = _lower_entry(context, data)
    if window is not None and entry is not None:
        alias = _alias(entry) or alias
    stage, item = _stage(context, relation, alias, joined=bool(joins))
    below = frozenset(relation.window_columns.values())
    scope = Scope([item], context.source, context.catalog.tables, windows_below=below)
    if window is not None:
        scope.windowed, scope.window_alias = True, alias
        scope.window_prefix = f"{quoted(alias)}." if joins else ""
    for join in joins:
        stage = _join(context, stage, scope, join)
    # What * stands for is in the order of the query.
    stream, *others = scope.items
    scope.items = [*others[:n_before], stream, *others[n_before:]]
    return From(stage, scope, window)


def _stream_first(
    context: PlanContext, entry: exp.Expr | None, joins: Sequence[exp.Join]
) -> tuple[exp.Expr | None, Sequence[exp.Join], int]:
    """Begin FROM with what streams, if tables alone stand before it.

    They are joined by commas or CROSS JOIN, or it is one that has a condition. Then order means
    nothing, and the stream's rows may stand first.

    Returns:
        The first entry, its joins, and how many of these stand before it in the query.
    """
    entries = [entry, *(join.this for join in joins)]
    place = next((n for n, one in enumerate(entries) if not _is_table(context, one)), 0)
    conditions = [join.args.get("on") for join in joins[:place]]
    is_conditioned = any(condition is not None for condition in conditions)
    if place == 0 or not all(map(_is_inner, joins[:place])) or (place > 1 and is_conditioned):
        return entry, joins, 0
    moved = [exp.Join(this=table, on=on) for table, on in zip(entries, conditions, strict=False)]
    return entries[place], [*moved, *joins[place:]], place


def _is_table(context: PlanContext, entry: exp.Expr | None) -> bool:
    """Whether an entry of FROM is the plain name of a table of the session."""
    if not isinstance(entry, exp.Table) or not isinstance(entry.this, exp.Identifier):
        return False
    name = identifier_name(entry.this)
    return name in context.catalog.tables and not (
        name in context.ctes or name in context.streams or name in context.catalog.streams
    )


def _is_inner(join: exp.Join) -> bool:
    """Whether a join is one by a comma, CROSS JOIN, or JOIN ... ON."""
    words = {key for key, value in join.args.items() if value}
    kind = str(join.args.get("kind") or "").upper()
    return words <= {"this", "on", "kind"} and kind in ("", "INNER", "CROSS")


def _lower_entry(context: PlanContext, entry: exp.Expr | None) -> tuple[Relation, str]:
    """Lower what stands in FROM, without its window: its rows and its name."""
    if isinstance(entry, exp.Column):
        entry = exp.Table(this=entry.this, db=entry.args.get("table"))
    if isinstance(entry, exp.Subquery) and isinstance(entry.unnest(), exp.Query):
        alias = _alias(entry) or "subquery"
        relation = context.lower_query(context, entry)
        relation = replace(relation, title=f"subquery {alias!r}")
        return _renamed(context, relation, entry), alias
    if isinstance(entry, exp.Table):
        return _lower_table(context, entry)
    raise context.source.error("FROM takes the name of a stream, or a subquery", entry)


def _lower_table(context: PlanContext, table: exp.Table) -> tuple[Relation, str]:
    name = _plain_name(context, table)
    alias = _alias(table) or name
    if name in context.ctes:
        return _renamed(context, _lower_cte(context, name), table), alias
    stream = context.streams.get(name) or context.catalog.streams.get(name)
    if stream is None:
        raise _unknown_stream(context, table, name)
    context.streams[name] = stream
    return _renamed(context, _stream_relation(stream), table), alias


def _lower_cte(context: PlanContext, name: str) -> Relation:
    # Each use is lowered on its own, from a copy, since binding notes in the tree what names mean.
    cte = context.ctes[name]
    relation = context.lower_query(replace(context, ctes=cte.visible), cte.query.this.copy())
    return _renamed(context, replace(relation, title=f"query {name!r}"), cte.query)


def _plain_name(context: PlanContext, table: exp.Table) -> str:
    extra = next(
        (key for key, value in table.args.items() if value and key not in ("this", "alias")), None
    )
    if extra is not None or not isinstance(table.this, exp.Identifier):
        reason = {
            "sample": "TABLESAMPLE is not supported",
            "pivots": "PIVOT is not supported; use aggregates with FILTER",
            "version": "FOR SYSTEM_TIME AS OF is not supported",
        }.get(extra or "", "FROM takes the plain name of a stream")
        raise context.source.error(reason, table)
    return identifier_name(table.this)


def _stream_relation(stream: StreamDefinition) -> Relation:
    bound = (WatermarkBound(stream.name),)
    schema = pa.schema([pa.field(f.name, f.type, f.nullable) for f in stream.schema])
    return Relation(
        node=Source(stream=stream.name, schema=schema, watermark=bound),
        columns={column: column for column in schema.names},
        event_times={} if stream.event_time is None else {stream.event_time: bound},
        title=f"stream {stream.name!r}",
    )


def _renamed(context: PlanContext, relation: Relation, entry: exp.Expr) -> Relation:
    """Give the columns of a relation the names listed after its alias, as in ``t AS x(a, b)``."""
    alias = entry.args.get("alias")
    listed = alias.args.get("columns") if isinstance(alias, exp.TableAlias) else None
    if not listed:
        return relation
    names = [identifier_name(column) for column in listed]
    return relation.renamed(names, context.source, entry)


def _unknown_stream(context: PlanContext, table: exp.Table, name: str) -> Exception:
    if name in context.catalog.tables:
        return context.source.error(
            f"{name!r} is a table, which can only be joined with a stream that stands before it; "
            "declare it as a stream to query it alone",
            table,
        )
    known = [*context.catalog.streams, *context.catalog.tables, *context.ctes]
    return context.source.error(f"unknown stream or table {name!r}{nearest(name, known)}", table)


def _alias(entry: exp.Expr) -> str | None:
    alias = entry.args.get("alias")
    if isinstance(alias, exp.TableAlias) and alias.this is not None:
        return identifier_name(alias.this)
    return None


def _stage(
    context: PlanContext, relation: Relation, alias: str, *, joined: bool
) -> tuple[Stage, ScopeItem]:
    prefix = f"{quoted(alias)}." if joined else ""
    sql = {name: prefix + quoted(column) for name, column in relation.columns.items()}
    fields = {name: relation.field(name) for name in relation.columns}
    inferable: Mapping[str, Inferable] = {}
    if isinstance(relation.node, Source) and not relation.event_times:
        stream = relation.node.stream
        inferable = {
            sql[name]: Inferable(name, stream, column, fields[name].type)
            for name, column in relation.columns.items()
        }
    stage = Stage(
        node=relation.node,
        replace=bound_sql,
        columns=sql,
        event_times={
            sql[name]: EventTime(name, sql[name], fields[name].type, bounds)
            for name, bounds in relation.event_times.items()
        },
        window_columns={role: sql[name] for role, name in relation.window_columns.items()},
        title=relation.title,
        keys=tuple(sql[name] for name in relation.key_columns),
        changes=relation.changes,
        settled=relation.settled,
        before_end=frozenset(sql[name] for name in relation.before_end),
        inferable=inferable,
        from_sql=f"{quoted(INPUT)} AS {quoted(alias)}" if joined else quoted(INPUT),
    )
    return stage, ScopeItem(alias, sql, fields)


def _join(context: PlanContext, stage: Stage, scope: Scope, join: exp.Join) -> Stage:
    words = _join_words(context, join)
    table = join.this
    name = _table_name(context, table)
    alias = _alias(table) or name
    if any(item.alias == alias for item in scope.items):
        raise context.source.error(f"{alias!r} stands twice in FROM; give one an alias", table)
    schema = context.catalog.tables[name]
    nullable = words == "LEFT JOIN"
    scope.items.append(
        ScopeItem(
            alias=alias,
            columns={column: f"{quoted(alias)}.{quoted(column)}" for column in schema.names},
            fields={f.name: f.with_nullable(f.nullable or nullable) for f in schema},
        )
    )
    condition, later = _join_condition(context, scope, join, words)
    if words == "INNER JOIN" and not condition:
        words = "CROSS JOIN"
    columns = dict(stage.columns)
    for column, sql in scope.items[-1].columns.items():
        columns[column if column not in columns else f"__c{len(columns)}"] = sql
    joined = Join(name, alias, words, condition, _is_keyed(join), _reads(context, join), later)
    return replace(stage, columns=columns, joins=(*stage.joins, joined))


def _join_words(context: PlanContext, join: exp.Join) -> str:
    extra = [key for key, value in join.args.items() if value and key not in _JOIN_ARGUMENTS]
    side = str(join.args.get("side") or "").upper()
    kind = str(join.args.get("kind") or "").upper()
    conditioned = join.args.get("on") is not None or join.args.get("using")
    words = {
        ("", ""): "INNER JOIN" if conditioned else "CROSS JOIN",
        ("", "INNER"): "INNER JOIN",
        ("", "CROSS"): "CROSS JOIN",
        ("LEFT", ""): "LEFT JOIN",
        ("LEFT", "OUTER"): "LEFT JOIN",
    }.get((side, kind))
    if words is None or extra:
        method = str(join.args.get("method") or "").upper()
        written = " ".join(word for word in (method, side, kind, "JOIN") if word)
        raise context.source.error(
            f"{written} is not supported; a stream takes INNER, LEFT and CROSS JOIN with tables",
            join,
        )
    return words


def _table_name(context: PlanContext, table: exp.Expr) -> str:
    if not isinstance(table, exp.Table):
        raise context.source.error(
            "a stream can be joined with tables of the session only, not with subqueries", table
        )
    name = _plain_name(context, table)
    if name == INPUT and name in context.catalog.tables:
        raise context.source.error(
            f"a table called {INPUT!r} cannot be joined, since the name is the planner's own", table
        )
    if name in context.ctes or name in context.catalog.streams:
        raise context.source.error(
            f"joins of two streams are not supported; {name!r} must be a table of the session",
            table,
        )
    if name not in context.catalog.tables:
        raise context.source.error(
            f"unknown table {name!r}{nearest(name, context.catalog.tables)}", table
        )
    return name


def _reads(context: PlanContext, join: exp.Join) -> frozenset[str]:
    """Tables that subqueries of the condition read."""
    on = join.args.get("on")
    if on is None:
        return frozenset()
    return frozenset(tables_of_subqueries(context.source, context.catalog.tables, on))


def _is_keyed(join: exp.Join) -> bool:
    """Whether some values of a table's rows have to be equal to such of the rows before it."""
    condition = join.args.get("on")
    if condition is None:
        return bool(join.args.get("using"))
    terms = [term.unnest() for term in conjuncts(condition)]
    return condition.find(exp.Query) is None and any(isinstance(term, exp.EQ) for term in terms)


def _join_condition(
    context: PlanContext, scope: Scope, join: exp.Join, words: str
) -> tuple[str, tuple[Term, ...]]:
    """Write the condition, but for terms that are asked of joined rows."""
    using = join.args.get("using")
    if using:
        names = [identifier_name(column) for column in using]
        for name, column in zip(names, using, strict=True):
            scope.merge(name, column)
        return f" USING ({', '.join(map(quoted, names))})", ()
    condition = join.args.get("on")
    if condition is None:
        return "", ()
    scope.bind(condition)
    refuse_unnest(context, condition, "a condition of a join")
    for parts in (*aggregate_calls(context, condition), *over_calls(condition)):
        raise context.source.error(
            f"{parts.function} is about several rows and cannot be used in a condition of a join",
            parts.node,
        )
    for column in condition.find_all(exp.Column):
        if window_role(column) is not None:
            raise context.source.error("a window column cannot be joined on with a table", column)
    with_query = [term for term in conjuncts(condition) if term.find(exp.Query) is not None]
    splice = partial(context.source.splice, replace=bound_sql)
    if words == "LEFT JOIN":
        for term in with_query:
            _check_outer_condition(context, term)
    elif with_query:
        rest = [f"({splice(term)})" for term in conjuncts(condition) if term not in with_query]
        later = tuple(Term(f"({splice(term)})", is_semi_join(term)) for term in with_query)
        return f" ON {' AND '.join(rest)}" if rest else "", later
    return f" ON {splice(condition)}", ()


def _check_outer_condition(context: PlanContext, term: exp.Expr) -> None:
    """Check that a subquery in the condition of an outer join is one value for all rows."""
    queries = term.find_all(exp.Query)
    reads_rows = any(bound_sql(c) is not None for q in queries for c in q.find_all(exp.Column))
    if is_semi_join(term) or reads_rows:
        raise context.source.error(
            "ON of a LEFT JOIN can have a subquery only for a value that is the same for all rows;"
            " EXISTS, IN and correlated subqueries belong in WHERE",
            term,
        )
