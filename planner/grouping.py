"""GROUP BY, HAVING and the aggregates of a block, with or without a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pyarrow as pa
from sqlglot import exp

from millstream.planner.aggregates import Aggregates, call_parts, has_over
from millstream.planner.closing import (
    NEVER,
    TIME_COLUMN,
    Closing,
    own_window,
    window_below,
    with_lateness,
)
from millstream.planner.context import Piece, PlanContext
from millstream.planner.event_time import (
    assign_windows,
    delayed,
    window_times,
)
from millstream.planner.from_clause import From
from millstream.planner.grouping_sets import GroupTerms, read_group_terms
from millstream.planner.nodes import (
    INPUT,
    WINDOW_COLUMNS,
    Aggregate,
    AggregateCall,
    Emit,
    Node,
    Transform,
    Union,
    quoted,
)
from millstream.planner.over_clause import over_calls
from millstream.planner.place import span_of, unwrapped
from millstream.planner.row_order import row_order
from millstream.planner.scope import alias_of, bound_column, bound_sql, window_role
from millstream.planner.select_list import bind_with_aliases
from millstream.planner.stage import EventTime, Stage
from millstream.planner.streaming_clauses import WindowCall
from millstream.planner.unnest import refuse_unnest
from millstream.planner.windows import (
    WindowSyntax,
    read_group_window,
    read_window_call,
)

__all__ = ["GroupQuery", "group"]


@dataclass(frozen=True, slots=True)
class GroupQuery:
    """What grouping needs to know of its block.

    Attributes:
        select: The block.
        source: What it reads.
        aliases: Select list by output name.
        roots: Expressions over the groups: the select list and what follows it.
        clause: The WINDOW clause, or None.
        where: Condition on rows, or None.
    """

    select: exp.Select
    source: From
    aliases: Mapping[str, exp.Expr]
    roots: Sequence[exp.Expr]
    clause: WindowCall | None
    where: exp.Expr | None


def group(context: PlanContext, query: GroupQuery) -> Stage:
    """Lower grouping: rows to groups, with HAVING pending.

    Raises:
        SqlError: The clauses do not fit each other.
    """
    terms = read_group_terms(context, query.select, query.source, query.aliases, query.roots)
    syntax = _window_of(context, query, terms)
    stage = query.source.stage
    if query.source.window is not None and syntax is None:
        stage = assign_windows(context, query.source, query.source.window)
    windowed = syntax is not None
    n_sets = len(terms.sets)
    block = GroupBlock(context, query.select, query.aliases, stage, windowed, n_sets)
    for term in terms.keys:
        if syntax is None or window_role(term) is None:
            block.keys.setdefault(term, f"__k{len(block.keys)}")
    having = _having(context, query)
    roots = (*query.roots, *([having] if having is not None else []))
    for root in roots:
        block.aggregates.expect(root)
    # Rendering finds the aggregates, which decide what the transform below them has to compute.
    for root in roots:
        block.render(root)
    if having is not None:
        refuse_unnest(context, having, "HAVING", block.replace, query.aliases)
    rows, groups = _split_where(context, query, windowed=windowed)
    stage = replace(stage, where=_conjunction(context, stage, query.where, rows))
    grouped = _lower(context, query, block, stage, syntax, terms)
    place = query.where if having is None else having
    conditions = groups if having is None else [*groups, having]
    return replace(grouped, where=_conjunction(context, grouped, place, conditions))


@dataclass(slots=True)
class GroupBlock:
    """Replaces keys and aggregates in expressions that are computed after grouping.

    Attributes:
        context: Of the block.
        select: The block.
        aliases: Select list by output name.
        stage: The rows that are grouped.
        windowed: Whether groups are of windows.
        n_sets: Number of grouping sets.
        keys: Column by expression for all that is grouped by.
        groupings: Column by expressions for calls of ``grouping``.
        aggregates: The aggregates found so far.
    """

    context: PlanContext
    select: exp.Select
    aliases: Mapping[str, exp.Expr]
    stage: Stage
    windowed: bool
    n_sets: int
    keys: dict[exp.Expr, str] = field(default_factory=dict)
    groupings: dict[tuple[str, ...], str] = field(default_factory=dict)
    aggregates: Aggregates = field(init=False)

    def __post_init__(self) -> None:
        type_of = cache(lambda sql: self.stage.type_of(self.context, sql))
        self.aggregates = Aggregates(self.context, self._argument, type_of)

    def render(self, node: exp.Expr) -> str:
        """SQL of an expression over the groups.

        Raises:
            SqlError: A column is neither grouped nor aggregated.
        """
        return self.context.source.splice(node, self.replace)

    def replace(self, node: exp.Expr) -> str | None:
        """SQL for a key, an aggregate or a window column; None for what merely holds some."""
        if self._is_of_subquery(node):
            return self._of_subquery(node)
        key = self.keys.get(unwrapped(node))
        if key is not None and span_of(node) is not None:
            return quoted(key)
        parts = call_parts(node)
        if parts is not None and not has_over(node):
            if parts.function == "grouping":
                return self._grouping(node, parts.arguments)
            if parts.function in self.context.typer.aggregates:
                return self.aggregates.sql(parts)
        return self._column(node) if isinstance(node, exp.Column) else None

    def _is_of_subquery(self, node: exp.Expr) -> bool:
        """Whether a node stands in a query inside an expression of the block."""
        above = node.find_ancestor(exp.Query)
        return above is not None and above is not self.select

    def _of_subquery(self, node: exp.Expr) -> str | None:
        """SQL for a column of the block in a subquery, whose own names and aggregates stay."""
        if not isinstance(node, exp.Column) or bound_sql(node) is None:
            return None
        key = self.keys.get(node)
        sql = self._column(node) if key is None else quoted(key)
        return f"{quoted(INPUT)}.{sql}"

    def _column(self, node: exp.Column) -> str | None:
        role = window_role(node)
        if role is not None and self.windowed:
            return quoted(role)
        alias = alias_of(node)
        if alias is not None:
            return f"({self.render(self.aliases[alias])})"
        if bound_sql(node) is None:
            return None
        name = bound_column(node)
        raise self.context.source.error(
            f"column {name!r} is neither grouped nor aggregated; add it to GROUP BY or aggregate "
            f"it, such as first_value({name})",
            node,
        )

    def _argument(self, node: exp.Expr) -> str | None:
        if self.windowed and window_role(node) is not None:
            raise self.context.source.error(
                f"{window_role(node)} is the same for all rows of a group; use it without an "
                "aggregate",
                node,
            )
        return bound_sql(node)

    def _grouping(self, node: exp.Expr, arguments: Sequence[exp.Expr]) -> str:
        names = tuple(self.keys.get(unwrapped(argument), "") for argument in arguments)
        if not names or "" in names:
            raise self.context.source.error("grouping takes expressions of GROUP BY", node)
        if self.n_sets == 1:
            # A single set leaves no key out.
            return "arrow_cast(0, 'Int32')"
        return quoted(self.groupings.setdefault(names, f"__g{len(self.groupings)}"))


def _window_of(context: PlanContext, query: GroupQuery, terms: GroupTerms) -> WindowSyntax | None:
    """The window by which rows are grouped, if they are."""
    found: list[WindowSyntax] = []
    if query.source.window is not None and _covers_window(query.source.window, terms):
        _check_session_keys(context, query.source, query.source.window, terms)
        found.append(query.source.window)
    if query.clause is not None:
        found.append(read_window_call(context, query.clause, clause=True))
    found.extend(read_group_window(context, term) for term in terms.windows)
    if len(found) > 1 or (found and query.source.window not in (None, found[0])):
        raise context.source.error(
            "a query can have one window on each level; put one into a subquery", found[-1].place
        )
    return found[0] if found else None


def _covers_window(syntax: WindowSyntax, terms: GroupTerms) -> bool:
    """Whether a group lies within one window; the start alone does not tell growing ones apart."""
    roles = {window_role(term) for term in terms.keys}
    if roles & {"window_end", "window_time"}:
        return True
    return "window_start" in roles and syntax.kind in ("tumble", "hop")


def _check_session_keys(
    context: PlanContext, source: From, syntax: WindowSyntax, terms: GroupTerms
) -> None:
    if not syntax.partition_by:
        return
    for term in syntax.partition_by:
        source.scope.bind(term, within_window=False)
    keys = {term for term in terms.keys if window_role(term) is None}
    partition = {unwrapped(term) for term in syntax.partition_by}
    if any(kept is not None and not partition <= kept for kept in terms.sets):
        raise context.source.error(
            "PARTITION BY of a session must be in every grouping set, since rows of other keys "
            "have other sessions; compute totals in an outer query, or leave PARTITION BY out",
            syntax.partition_by[0],
        )
    if keys != partition:
        raise context.source.error(
            "PARTITION BY of a session must list what GROUP BY lists beside the window",
            syntax.partition_by[0],
        )


def _having(context: PlanContext, query: GroupQuery) -> exp.Expr | None:
    clause = query.select.args.get("having")
    if clause is None:
        return None
    condition: exp.Expr = clause.this
    for parts in over_calls(condition):
        raise context.source.error(
            f"{parts.function} with OVER cannot be used in HAVING; use QUALIFY", parts.node
        )
    bind_with_aliases(query.source, condition, query.aliases)
    return condition


def _split_where(
    context: PlanContext, query: GroupQuery, *, windowed: bool
) -> tuple[list[exp.Expr], list[exp.Expr]]:
    """Conditions on rows, and conditions on window columns, which hold for whole groups."""
    if query.where is None:
        return [], []
    terms = list(query.where.flatten()) if isinstance(query.where, exp.And) else [query.where]
    if not windowed or not any(_window_columns(term) for term in terms):
        return [query.where], []
    rows: list[exp.Expr] = []
    groups: list[exp.Expr] = []
    for term in terms:
        if not _window_columns(term):
            rows.append(term)
        elif len(_window_columns(term)) == len(list(term.find_all(exp.Column))):
            groups.append(term)
        else:
            raise context.source.error(
                "a condition cannot mix window columns with others here; put the window into a "
                "subquery",
                term,
            )
    return rows, groups


def _window_columns(root: exp.Expr) -> list[exp.Expr]:
    return [column for column in root.find_all(exp.Column) if window_role(column) is not None]


def _conjunction(
    context: PlanContext, stage: Stage, place: exp.Expr | None, conditions: Sequence[exp.Expr]
) -> Piece | None:
    pieces = [stage.piece(context, condition) for condition in conditions]
    if len(pieces) <= 1:
        return pieces[0] if pieces else None
    sql = " AND ".join(f"({piece.sql})" for piece in pieces)
    return Piece(place, sql, beside=tuple(conditions))


def _lower(
    context: PlanContext,
    query: GroupQuery,
    block: GroupBlock,
    stage: Stage,
    syntax: WindowSyntax | None,
    terms: GroupTerms,
) -> Stage:
    if syntax is not None:
        closing = own_window(context, query.source, syntax)
    else:
        closing = window_below(context, stage, terms)
    closing = with_lateness(context, stage, closing, n_sets=len(terms.sets))
    aggregates = [
        _aggregate(context, block, _rows(context, block, stage, closing, kept), closing)
        for kept in terms.sets
    ]
    node = _united(context, block, aggregates, query.select)
    grouped = _grouped_stage(block, node, closing if syntax else NEVER)
    return _with_windows_below(block, stage, grouped, closing) if syntax is None else grouped


def _rows(
    context: PlanContext,
    block: GroupBlock,
    stage: Stage,
    closing: Closing,
    kept: frozenset[exp.Expr] | None,
) -> Transform:
    """The aggregate's input: keys of one grouping set, arguments and event time."""
    keys = {name: term for term, name in block.keys.items() if kept is None or term in kept}
    columns = [(name, stage.piece(context, term)) for name, term in keys.items()]
    columns.extend(block.aggregates.columns.items())
    if closing.window is not None:
        columns.append((TIME_COLUMN, Piece(None, closing.time_sql)))
    if not columns:
        columns.append(("__x0", Piece(None, stage.narrowest())))
    node = stage.project(context, columns)
    for name, term in keys.items():
        check_key_type(context, term, node.schema.field(name).type)
    return node


def check_key_type(context: PlanContext, place: exp.Expr, data_type: pa.DataType) -> None:
    """Check that rows can be told apart by a column.

    Raises:
        SqlError: The type is nested, or an extension.
    """
    inner = data_type.value_type if pa.types.is_dictionary(data_type) else data_type
    if isinstance(inner, pa.BaseExtensionType):
        storage = context.typer.type_name(inner.storage_type)
        raise context.source.error(
            f"rows cannot be grouped by values of {inner}; use arrow_cast(..., '{storage}')", place
        )
    if pa.types.is_nested(inner):
        raise context.source.error(f"rows cannot be grouped by a {inner}", place)


def _aggregate(context: PlanContext, block: GroupBlock, node: Node, closing: Closing) -> Aggregate:
    calls = block.aggregates.typed(node.schema)
    keys = tuple(name for name in block.keys.values() if name in node.schema.names)
    window = closing.window
    if not calls and not keys and window is None:
        # The one group of all rows needs a column, though nobody reads it.
        calls = (AggregateCall("__a0", "count", (), pa.int64(), "count(*)"),)
    fields: list[pa.Field] = []
    if window is not None:
        fields.extend(pa.field(name, window.time_type, nullable=False) for name in WINDOW_COLUMNS)
    fields.extend(node.schema.field(key) for key in keys)
    fields.extend(pa.field(c.name, c.result_type, c.function != "count") for c in calls)
    emit: Emit = context.emit or ("changes" if window is None else "final")
    is_session = window is not None and window.kind == "session"
    return Aggregate(
        input=node,
        keys=keys,
        window=window,
        calls=calls,
        emit=emit,
        schema=pa.schema(fields),
        watermark=closing.watermark,
        allowed_lateness=closing.lateness,
        ties="arrival" if is_session and row_order(node) == "mixed" else "none",
    )


def _united(
    context: PlanContext,
    block: GroupBlock,
    aggregates: Sequence[Aggregate],
    select: exp.Select,
) -> Node:
    """One node for all grouping sets."""
    if len(aggregates) == 1:
        return aggregates[0]
    if aggregates[0].emit == "changes":
        raise context.source.error(
            "grouping sets have no changelog, since their keys are not unique; add EMIT FINAL",
            select.args["group"],
        )
    types = {name: a.schema.field(name).type for a in aggregates for name in a.keys}
    branches = tuple(
        context.transform(aggregate, _set_columns(context, block, aggregate, types))
        for aggregate in aggregates
    )
    fields = [field.with_nullable(True) for field in branches[0].schema]
    return Union(
        branches=branches,
        schema=pa.schema(fields),
        watermark=aggregates[0].watermark,
    )


def _is_revised(node: Aggregate) -> bool:
    """Whether a group can come out more than once."""
    return node.emit == "changes" or (node.emit == "final" and node.allowed_lateness > 0)


def _set_columns(
    context: PlanContext, block: GroupBlock, aggregate: Aggregate, types: Mapping[str, pa.DataType]
) -> list[tuple[str, Piece]]:
    """Columns of one grouping set, with NULL for keys that it leaves out."""
    columns = [(name, Piece(None, quoted(name))) for name in aggregate.schema.names]
    before = len(columns) - len(aggregate.keys) - len(aggregate.calls)
    keys = [(name, Piece(None, quoted(name))) for name in block.keys.values()]
    for index, (name, _) in enumerate(keys):
        if name not in aggregate.keys:
            null = f"arrow_cast(NULL, '{context.typer.type_name(types[name])}')"
            keys[index] = (name, Piece(None, null))
    columns[before : before + len(aggregate.keys)] = keys
    for names, column in block.groupings.items():
        bits = "".join("0" if name in aggregate.keys else "1" for name in names)
        columns.append((column, Piece(None, f"arrow_cast({int(bits, 2)}, 'Int32')")))
    return columns


def _grouped_stage(block: GroupBlock, node: Node, closing: Closing) -> Stage:
    """The groups as rows. Window columns are those of the block's own window, if it has one."""
    window = closing.window
    roles = {} if window is None else {name: quoted(name) for name in WINDOW_COLUMNS}
    times = {} if window is None else window_times(window, closing.watermark, closing.lateness)
    changes = isinstance(node, Aggregate) and _is_revised(node)
    return Stage(
        node=node,
        replace=block.replace,
        columns={name: quoted(name) for name in node.schema.names},
        event_times={
            quoted(name): EventTime(name, quoted(name), node.schema.field(name).type, bounds)
            for name, bounds in times.items()
        },
        window_columns=roles,
        title="the grouped query",
        keys=(*roles.values(), *(quoted(key) for key in block.keys.values())),
        changes=changes,
        settled=window is not None and not changes,
    )


def _with_windows_below(block: GroupBlock, stage: Stage, grouped: Stage, closing: Closing) -> Stage:
    """The groups as rows, with the window columns of the input, which are keys here."""
    columns = {name: sql for name, sql in grouped.columns.items() if name not in WINDOW_COLUMNS}
    if closing.window is None:
        return grouped
    keys = {bound_sql(term): quoted(name) for term, name in block.keys.items()}
    roles = {role: keys[sql] for role, sql in stage.window_columns.items() if sql in keys}
    wait = closing.lateness + closing.delay
    times = {
        keys[sql]: replace(time, sql=keys[sql], watermark=delayed(time.watermark, wait))
        for sql, time in stage.event_times.items()
        if sql in keys and keys[sql] in roles.values()
    }
    return replace(
        grouped,
        columns=columns,
        window_columns=roles,
        event_times=times,
        settled=not grouped.changes,
    )
