"""One SELECT: its clauses in the order in which they act, from FROM to LIMIT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlglot import exp

from millstream.planner.aggregates import aggregate_calls, has_over
from millstream.planner.context import Piece, PlanContext
from millstream.planner.distinct import distinct_rows
from millstream.planner.event_time import assign_windows
from millstream.planner.from_clause import From, lower_from
from millstream.planner.grouping import GroupQuery, group
from millstream.planner.nodes import quoted
from millstream.planner.over import add_window_functions
from millstream.planner.over_clause import named_windows, over_calls
from millstream.planner.place import unwrapped
from millstream.planner.ranking import SortTerm, order_in_windows
from millstream.planner.scope import Relation, identifier_name
from millstream.planner.select_list import (
    SelectItem,
    bind_with_aliases,
    is_star,
    select_items,
    with_aliases,
)
from millstream.planner.stage import Stage
from millstream.planner.streaming_clauses import WindowCall
from millstream.planner.unnest import refuse_unnest, unnest_calls
from millstream.planner.windows import is_group_window

__all__ = ["lower_select"]

_HANDLED = frozenset(
    {
        "distinct",
        "expressions",
        "from_",
        "group",
        "having",
        "joins",
        "limit",
        "order",
        "qualify",
        "where",
        "windows",
    }
)
_REFUSED: Mapping[str, str] = {
    "connect": "CONNECT BY is not supported",
    "emit": "EMIT belongs at the end of the whole query",
    "hint": "hints are not supported; leave them out",
    "into": "SELECT INTO is not supported; give the query a sink",
    "laterals": "LATERAL is not supported",
    "locks": "FOR UPDATE and the like mean nothing for a stream; leave them out",
    "match": "MATCH_RECOGNIZE is not supported",
    "offset": "OFFSET is not supported",
    "pivots": "PIVOT is not supported; use aggregates with FILTER",
    "sample": "TABLESAMPLE is not supported",
}
# What can follow the arguments of a call, and what of it means nothing to DataFusion.
_ARGUMENT_SUFFIXES = (exp.Order, exp.IgnoreNulls, exp.RespectNulls, exp.Limit, exp.HavingMax)
_NO_SUFFIXES: Mapping[type[exp.Expr], tuple[str, ...]] = {
    exp.Limit: ("LIMIT",),
    exp.HavingMax: ("HAVING",),
}


def lower_select(context: PlanContext, select: exp.Select) -> Relation:
    """Lower one SELECT to nodes.

    Raises:
        SqlError: A clause is not supported or does not fit the others.
    """
    _check_clauses(context, select)
    shape = _shape(context, select)
    if shape.unnests:
        # A version of a row would become versions of several, which cannot be told apart.
        context = replace(context, may_revise=False)
    # EMIT CHANGES is about the outermost aggregate; EMIT FINAL is about all of them.
    inner = context.emit if shape.plain or context.emit == "final" else None
    below = replace(context, emit=inner, may_revise=context.may_revise and shape.plain)
    source = lower_from(below, select)
    if source.stage.changes and not shape.plain:
        raise context.source.error(
            f"{source.stage.title} gives results that are still revised, which can only be "
            "filtered and projected; give it a window, or add EMIT FINAL to the query",
            select.args["from_"],
        )
    return _Block(context, select, source, shape).lower()


@dataclass(frozen=True, slots=True)
class _Shape:
    """What can be seen of a block before names are known."""

    grouped: bool
    ranked: bool
    plain: bool
    unnests: bool
    clause: WindowCall | None


def _shape(context: PlanContext, select: exp.Select) -> _Shape:
    terms = [term.unalias() for term in select.expressions]
    qualify = select.args.get("qualify")
    clauses = select.args.get("windows") or ()
    clause = next((w for w in clauses if isinstance(w, WindowCall)), None)
    group_by = select.args.get("group")
    having = select.args.get("having")
    aggregated = any(True for term in terms for _ in aggregate_calls(context, term))
    grouped = group_by is not None or clause is not None or aggregated
    if having is not None and not grouped:
        if not any(True for _ in aggregate_calls(context, having.this)):
            raise context.source.error(
                "HAVING needs GROUP BY or an aggregate; use WHERE", having.this
            )
        grouped = True
    ranked = any(True for term in terms for _ in over_calls(term)) or qualify is not None
    others = any(select.args.get(key) for key in ("distinct", "joins", "limit", "order"))
    windowed = isinstance(getattr(select.args.get("from_"), "this", None), WindowCall)
    plain = not (grouped or ranked or others or windowed)
    unnests = any(True for term in terms for _ in unnest_calls(term))
    return _Shape(grouped, ranked, plain, unnests, clause)


def _check_clauses(context: PlanContext, select: exp.Select) -> None:
    for key, value in select.args.items():
        if not value or key in _HANDLED:
            continue
        place = value[0] if isinstance(value, list) else value
        reason = _REFUSED.get(key, f"{key.strip('_').upper()} is not supported")
        raise context.source.error(reason, place if isinstance(place, exp.Expr) else select)


@dataclass(slots=True)
class _Block:
    """The lowering of one SELECT."""

    context: PlanContext
    select: exp.Select
    source: From
    shape: _Shape

    def lower(self) -> Relation:
        """Take the clauses in order."""
        context, select = self.context, self.select
        group_by = select.args.get("group")
        if self.shape.clause is not None or _has_group_window(group_by):
            self.source.scope.windowed = True
        if self.shape.ranked and _is_renamed(self.source.stage):
            self.source = _flattened(context, self.source)
        items = select_items(context, select, self.source)
        aliases = {item.name: item.node for item in items}
        for item in items:
            self.source.scope.bind(item.node)
        qualify = self._bound("qualify", aliases)
        order = self._order_terms(items, aliases)
        roots = [item.node for item in items]
        self._check_functions(roots)
        after = [*roots, *([qualify] if qualify is not None else []), *order]
        stage = self._rows(aliases, after)
        named = named_windows(context, select)
        for window in named.values():
            _bind_window(self.source, window)
        stage = add_window_functions(context, stage, after, named)
        stage = replace(stage, replace=with_aliases(context, stage.replace, aliases))
        if qualify is not None:
            self._check_qualify(qualify, aliases)
            refuse_unnest(context, qualify, "QUALIFY", stage.replace, aliases)
            stage = replace(stage, where=stage.piece(context, qualify))
        return self._result(stage, items, order)

    def _check_functions(self, roots: Sequence[exp.Expr]) -> None:
        keys = ("where", "group", "having", "qualify", "order")
        clauses = [self.select.args[key] for key in keys if self.select.args.get(key) is not None]
        for root in (*roots, *clauses):
            for call in root.find_all(exp.Anonymous):
                self._check_function(call)
                self._check_arguments(call)

    def _check_function(self, call: exp.Anonymous) -> None:
        name = str(call.name).lower()
        if is_group_window(call):
            if isinstance(call.parent, exp.Group):
                return
            raise self.context.source.error(
                f"{name} belongs into GROUP BY; here, use window_start or window_end", call
            )
        unknown = self.context.typer.unknown_function(name)
        if unknown is not None:
            raise self.context.source.error(unknown, call)
        windows = self.context.typer.window_functions - self.context.typer.aggregates
        if name in windows and not has_over(call):
            raise self.context.source.error(f"{name} needs OVER", call)

    def _check_arguments(self, call: exp.Anonymous) -> None:
        name = str(call.name).lower()
        for argument in call.expressions:
            is_named = isinstance(argument, exp.Alias) and name in self.context.typer.aggregates
            words = ["AS"] if is_named else []
            inner = argument
            while isinstance(inner, _ARGUMENT_SUFFIXES):
                words.extend(_NO_SUFFIXES.get(type(inner), ()))
                inner = inner.this
            for word in words:
                raise self.context.source.error(
                    f"{word} in the parentheses of {name} is not supported", argument
                )
            values = inner.expressions if isinstance(inner, exp.Distinct) else [inner]
            counts_rows = name == "count" and call.expressions == [exp.Star()]
            if any(map(is_star, values)) and not counts_rows:
                raise self.context.source.error(
                    "* stands for no argument but that of count(*); name the columns", call
                )

    def _bound(self, key: str, aliases: Mapping[str, exp.Expr]) -> exp.Expr | None:
        clause = self.select.args.get(key)
        if clause is None:
            return None
        condition: exp.Expr = clause.this
        bind_with_aliases(self.source, condition, aliases)
        return condition

    def _order_terms(
        self, items: Sequence[SelectItem], aliases: Mapping[str, exp.Expr]
    ) -> list[exp.Expr]:
        """Expressions of ORDER BY, with positions resolved."""
        clause = self.select.args.get("order")
        terms = []
        for term in clause.expressions if clause is not None else ():
            node = unwrapped(term.this)
            if isinstance(node, exp.Literal) and not node.is_string:
                text = str(node.this)
                if not text.isdigit() or not 1 <= int(text) <= len(items):
                    raise self.context.source.error(
                        f"ORDER BY position must be from 1 to {len(items)}: {text}", node
                    )
                node = items[int(text) - 1].node
            elif isinstance(node, exp.Column) and len(node.parts) == 1:
                # In ORDER BY, unlike elsewhere, names of the output come first.
                node = aliases.get(identifier_name(node.this), node)
            bind_with_aliases(self.source, node, aliases)
            if all(node != item.node for item in items):
                refuse_unnest(self.context, node, "ORDER BY", aliases=aliases)
            terms.append(node)
        return terms

    def _where(self) -> exp.Expr | None:
        clause = self.select.args.get("where")
        if clause is None:
            return None
        condition: exp.Expr = clause.this
        for parts in aggregate_calls(self.context, condition):
            raise self.context.source.error(
                f"{parts.function} is an aggregate and cannot be used in WHERE; use HAVING",
                parts.node,
            )
        for parts in over_calls(condition):
            raise self.context.source.error(
                f"{parts.function} with OVER cannot be used in WHERE; use QUALIFY", parts.node
            )
        refuse_unnest(self.context, condition, "WHERE")
        self.source.scope.bind(condition, within_window=self.source.window is not None)
        return condition

    def _rows(self, aliases: Mapping[str, exp.Expr], roots: Sequence[exp.Expr]) -> Stage:
        """The rows that the select list is computed from: those of FROM, or groups of them."""
        where = self._where()
        if self.shape.grouped:
            query = GroupQuery(self.select, self.source, aliases, roots, self.shape.clause, where)
            return group(self.context, query)
        stage = self.source.stage
        if self.source.window is not None:
            stage = assign_windows(self.context, self.source, self.source.window)
        return stage if where is None else replace(stage, where=stage.piece(self.context, where))

    def _check_qualify(self, qualify: exp.Expr, aliases: Mapping[str, exp.Expr]) -> None:
        named = {column.name for column in qualify.find_all(exp.Column)}
        roots = [qualify, *(node for name, node in aliases.items() if name in named)]
        if not any(True for root in roots for _ in over_calls(root)):
            raise self.context.source.error(
                "QUALIFY needs a window function; use WHERE or HAVING", qualify
            )

    def _result(
        self, stage: Stage, items: Sequence[SelectItem], order: Sequence[exp.Expr]
    ) -> Relation:
        for item in items if stage.changes else ():
            self._refuse_unnest_of_versions(stage, item)
        outputs = [(item.name, stage.piece(self.context, item.node)) for item in items]
        if self.select.args.get("order") or self.select.args.get("limit"):
            return self._ordered(stage, outputs, order)
        relation = stage.relation(stage.project(self.context, outputs), outputs)
        if self.select.args.get("distinct"):
            clause = self.select.args["distinct"]
            return distinct_rows(self.context, clause, relation, items)
        return relation

    def _refuse_unnest_of_versions(self, stage: Stage, item: SelectItem) -> None:
        for call in unnest_calls(item.node, stage.replace):
            raise self.context.source.error(
                "unnest cannot follow results that are still revised, since it makes several rows "
                "of one; use EMIT FINAL",
                call,
            )

    def _ordered(
        self, stage: Stage, outputs: Sequence[tuple[str, Piece]], order: Sequence[exp.Expr]
    ) -> Relation:
        """ORDER BY and LIMIT within each window."""
        context = self.context
        clause, limit = self.select.args.get("order"), self.select.args.get("limit")
        place = clause if clause is not None else limit
        word = "ORDER BY" if clause is not None else "LIMIT"
        if "window_end" not in stage.window_columns:
            raise context.source.error(
                f"{word} needs a window, since a stream has no end; add one, or pass window_end on "
                "from the subquery",
                place,
            )
        if stage.changes:
            raise context.source.error(
                f"{word} cannot follow results that are still revised; use EMIT FINAL", place
            )
        if clause is None:
            raise context.source.error("LIMIT needs ORDER BY, or any rows would do", limit)
        if self.select.args.get("distinct"):
            raise context.source.error("DISTINCT with ORDER BY is not supported", clause)
        terms = [
            SortTerm(stage.piece(context, node), term)
            for node, term in zip(order, clause.expressions, strict=True)
        ]
        return order_in_windows(context, stage, outputs, terms, self._limit(limit))

    def _limit(self, limit: exp.Expr | None) -> int | None:
        if limit is None:
            return None
        value = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression
        text = str(value.name) if isinstance(value, exp.Literal) else ""
        options = limit.args.get("limit_options")
        plain = options is None or not (
            options.args.get("percent") or options.args.get("with_ties")
        )
        if not text.isdigit() or limit.expressions or not plain:
            raise self.context.source.error("LIMIT takes a whole number of rows", limit)
        return int(text)


def _has_group_window(group_by: exp.Expr | None) -> bool:
    return group_by is not None and any(is_group_window(term) for term in group_by.expressions)


def _bind_window(source: From, window: exp.Window) -> None:
    for key in ("partition_by", "order", "spec"):
        value = window.args.get(key)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, exp.Expr):
                source.scope.bind(part)


def _is_renamed(stage: Stage) -> bool:
    """Whether columns are written in another way than by the names under which they pass."""
    return any(sql != quoted(name) for name, sql in stage.columns.items())


def _flattened(context: PlanContext, source: From) -> From:
    """Joins computed before the rest, so that each column has a name without its table."""
    stage = source.stage
    node = stage.project(context, stage.passed())
    names = {sql: name for name, sql in stage.columns.items()}

    def moved(sql: str) -> str:
        return quoted(names[sql])

    for item in source.scope.items:
        item.columns = {name: moved(sql) for name, sql in item.columns.items()}
    flat = Stage(
        node=node,
        replace=stage.replace,
        columns={name: quoted(name) for name in names.values()},
        event_times={
            moved(sql): replace(time, sql=moved(sql)) for sql, time in stage.event_times.items()
        },
        window_columns={role: moved(sql) for role, sql in stage.window_columns.items()},
        title=stage.title,
        settled=stage.settled,
        before_end=frozenset(map(moved, stage.before_end)),
        inferable={moved(sql): column for sql, column in stage.inferable.items()},
    )
    source.scope.window_prefix = ""
    return replace(source, stage=flat)
