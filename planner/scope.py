"""Names: what a query block can see, and which column an identifier means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import ascii_lowercase, ascii_uppercase

import pyarrow as pa
from sqlglot import exp

from millstream.planner.nodes import INPUT, WINDOW_COLUMNS, Node, WatermarkBound, quoted
from millstream.planner.place import SPAN, SourceText, span_of

__all__ = [
    "Relation",
    "Scope",
    "ScopeItem",
    "alias_of",
    "bound_column",
    "bound_sql",
    "identifier_name",
    "is_of_subquery",
    "nearest",
    "note_alias",
    "tables_of_subqueries",
    "window_role",
]

_SQL = "millstream_sql"
_COLUMN = "millstream_column"
_ROLE = "millstream_window_role"
_ALIAS = "millstream_alias"

EventTimes = Mapping[str, tuple[WatermarkBound, ...]]


@dataclass(frozen=True, slots=True)
class Relation:
    """Rows that a query block gives or reads: a node, and what its columns are called and good for.

    Attributes:
        node: Node that gives the rows.
        columns: Column of ``node`` by visible name, in order. Renaming costs no node.
        event_times: Columns, by visible name, that can serve as event time, each with its
            watermark.
        window_columns: Visible name by role for the window columns that are there.
        changes: Whether later rows replace earlier ones that have the same values in
            ``key_columns``.
        key_columns: Visible names of the group's keys where ``changes`` is set.
        settled: Whether no row is ever late, as where they come from closed windows or have waited
            for their time.
        before_end: Visible names of event times that lie before the end of the row's window.
        title: What messages call it.
    """

    node: Node
    columns: Mapping[str, str]
    event_times: EventTimes
    title: str
    window_columns: Mapping[str, str] = field(default_factory=dict)
    changes: bool = False
    key_columns: tuple[str, ...] = ()
    settled: bool = False
    before_end: frozenset[str] = frozenset()

    def field(self, name: str) -> pa.Field:
        """The Arrow field of a visible column, under its visible name."""
        return self.node.schema.field(self.columns[name]).with_name(name)

    def renamed(self, names: Sequence[str], source: SourceText, place: exp.Expr) -> Relation:
        """The same rows with other names for the first columns.

        Raises:
            SqlError: There are more names than columns, or two columns would share one.
        """
        old = list(self.columns)
        if len(names) > len(old):
            raise source.error(
                f"{len(names)} names for the {len(old)} columns of {self.title}", place
            )
        new = dict(zip(old, [*names, *old[len(names) :]], strict=True))
        if len(set(new.values())) < len(new):
            raise source.error(f"two columns of {self.title} would have one name", place)
        return replace(
            self,
            columns={new[name]: column for name, column in self.columns.items()},
            event_times={new[name]: bounds for name, bounds in self.event_times.items()},
            window_columns={role: new[name] for role, name in self.window_columns.items()},
            key_columns=tuple(new[name] for name in self.key_columns),
            before_end=frozenset(new[name] for name in self.before_end),
        )


@dataclass(slots=True)
class ScopeItem:
    """One entry of FROM: its name, and SQL and type for each of its columns."""

    alias: str
    columns: Mapping[str, str]
    fields: Mapping[str, pa.Field]


@dataclass(slots=True)
class Scope:
    """The columns that a query block can name.

    Attributes:
        items: Entries of FROM in order.
        tables: Schemas of the session's tables, which subqueries in expressions can read.
        windowed: Whether the block itself has a window, whose columns can be named.
        window_alias: Name by which a windowing table function's columns can be qualified, if any.
        window_prefix: What stands before a window column in SQL, where there are joins.
        windows_below: Names of columns that are those of a window of the input.
        merged: Columns that JOIN ... USING made one with those of the same name before them, each
            with the name of its entry.
    """

    items: list[ScopeItem]
    source: SourceText
    tables: Mapping[str, pa.Schema]
    windowed: bool = False
    window_alias: str | None = None
    window_prefix: str = ""
    windows_below: frozenset[str] = frozenset()
    merged: set[tuple[str, str]] = field(default_factory=set)

    def knows(self, name: str) -> bool:
        """Whether an unqualified name is a column of the input or of the block's window."""
        if self.windowed and name in WINDOW_COLUMNS:
            return True
        return any(name in item.columns for item in self.items)

    def merge(self, name: str, place: exp.Expr) -> None:
        """Make one column of those that the last entry and one before it call ``name``.

        Raises:
            SqlError: One of them has no such column, or several have it.
        """
        *before, last = self.items
        for items in ([last], before):
            known = list(dict.fromkeys(column for item in items for column in item.columns))
            if name not in known:
                called = " and ".join(repr(item.alias) for item in items)
                have = "has" if len(items) == 1 else "have"
                raise self.source.error(
                    f"{called} {have} no column {name!r}{nearest(name, known)}", place
                )
        self._the_owner(name, before, place)
        self.merged.add((last.alias, name))

    def _the_owner(
        self, name: str, items: Sequence[ScopeItem], place: exp.Expr
    ) -> ScopeItem | None:
        """The one of several entries that an unqualified name means a column of, if any."""
        owners = [
            item for item in items if name in item.columns and (item.alias, name) not in self.merged
        ]
        if len(owners) > 1:
            names = " or ".join(f"{item.alias}.{name}" for item in owners)
            raise self.source.error(f"column {name!r} is ambiguous; write {names}", place)
        return next(iter(owners), None)

    def bind(self, root: exp.Expr, *, within_window: bool = True) -> None:
        """Decide for every column under ``root`` what it means and note it in the tree.

        Args:
            root: Expression to bind; columns of equal meaning become equal nodes.
            within_window: Whether the block's window columns can be named here.

        Raises:
            SqlError: A name is unknown or ambiguous.
        """
        for column in list(root.find_all(exp.Column)):
            if _SQL in column.meta or isinstance(column.this, exp.Star):
                continue
            if not self._inside_subquery(column, root):
                self._bind_column(column, within_window)
                if is_of_subquery(column, root):
                    _qualify(column)

    def _inside_subquery(self, column: exp.Column, root: exp.Expr) -> bool:
        """Whether a column belongs to a subquery over tables, where DataFusion finds it."""
        parts = [identifier_name(part) for part in column.parts]
        for query in _queries_above(column, root):
            for entry in _entries(query):
                called, columns = self._entry_of_subquery(entry)
                if parts[0] in columns or (len(parts) > 1 and parts[0] == called):
                    return True
        return False

    def _entry_of_subquery(self, entry: exp.Expr) -> tuple[str | None, list[str]]:
        """What stands in FROM of a subquery: its name, and the columns that it is known to have."""
        alias = entry.args.get("alias")
        name = None if alias is None or alias.this is None else identifier_name(alias.this)
        listed = [] if alias is None else alias.args.get("columns") or []
        columns = [identifier_name(column) for column in listed]
        if isinstance(entry, exp.Subquery):
            return name, columns or self._columns_of_subquery(entry)
        if isinstance(entry, exp.Table) and not (columns and isinstance(entry.this, exp.Anonymous)):
            own = self._table_columns(entry)
            return name or identifier_name(entry.this), [*columns, *own]
        return name, columns

    def _columns_of_subquery(self, query: exp.Expr) -> list[str]:
        """Names of the columns that a query gives, but for those of expressions without one."""
        while isinstance(query, exp.Subquery | exp.SetOperation):
            query = query.this
        columns: list[str] = []
        for term in query.expressions if isinstance(query, exp.Select) else ():
            if isinstance(term, exp.Alias):
                columns.append(identifier_name(term.args["alias"]))
            elif term.is_star:
                # Which of the entries does not matter: a name more only hides one of the stream.
                for entry in _entries(query):
                    columns.extend(self._entry_of_subquery(entry)[1])
            elif isinstance(term, exp.Column):
                columns.append(identifier_name(term.this))
        return columns

    def _table_columns(self, table: exp.Table) -> list[str]:
        return list(self.tables[_table_of_subquery(self.source, self.tables, table)].names)

    def _bind_column(self, column: exp.Column, within_window: bool) -> None:
        parts = [identifier_name(part) for part in column.parts if isinstance(part, exp.Identifier)]
        self._check_window_name(parts, column)
        if within_window and self._means_window(parts, column):
            sql = self.window_prefix + quoted(parts[-1])
            _note(column, parts[-1], sql, parts[-1], role=parts[-1])
            return
        item, name, rest = self._find(parts, column)
        sql = item.columns[name] + "".join(
            f"['{part.replace(chr(39), chr(39) * 2)}']" for part in rest
        )
        _note(column, ".".join((item.columns[name], *rest)), sql, (rest or [name])[-1])

    def _check_window_name(self, parts: list[str], column: exp.Column) -> None:
        """Check that a name is not of the block's window and of a column that has it by chance."""
        name = parts[0]
        owner = next((item.alias for item in self.items if name in item.columns), None)
        if not self.windowed or len(parts) > 1 or name not in WINDOW_COLUMNS or owner is None:
            return
        if name in self.windows_below:
            return
        if self.window_alias is None:
            advice = f"write {owner}.{name} for the former, or rename it in a subquery"
        else:
            advice = f"write {self.window_alias}.{name} for the latter"
        raise self.source.error(
            f"{name!r} is ambiguous, a column of {owner!r} and of the window; {advice}", column
        )

    def _means_window(self, parts: list[str], column: exp.Column) -> bool:
        if not self.windowed or parts[-1] not in WINDOW_COLUMNS or len(parts) > 2:
            return False
        if len(parts) == 2:
            return parts[0] == self.window_alias
        shadowed = any(parts[0] in item.columns for item in self.items)
        return not (shadowed and _inside_call(column))

    def _find(self, parts: list[str], column: exp.Column) -> tuple[ScopeItem, str, list[str]]:
        for item in self.items:
            if len(parts) > 1 and item.alias == parts[0] and parts[1] in item.columns:
                return item, parts[1], parts[2:]
        owner = self._the_owner(parts[0], self.items, column)
        if owner is not None and (
            len(parts) == 1 or pa.types.is_struct(owner.fields[parts[0]].type)
        ):
            return owner, parts[0], parts[1:]
        raise self.source.error(self._unknown(parts), column)

    def _unknown(self, parts: list[str]) -> str:
        aliases = [item.alias for item in self.items]
        if len(parts) > 1 and parts[0] not in aliases:
            return f"unknown relation {parts[0]!r}{nearest(parts[0], aliases)}"
        name = parts[1] if len(parts) > 1 else parts[0]
        visible = [
            known
            for item in self.items
            if len(parts) == 1 or item.alias == parts[0]
            for known in item.columns
        ]
        if name in WINDOW_COLUMNS and not self.windowed:
            return f"unknown column {name!r}: the query has no window here"
        if name in WINDOW_COLUMNS and self.windowed:
            return f"{name!r} is known only after grouping; use it in SELECT or HAVING"
        return f"unknown column {name!r}{nearest(name, visible)}"


def tables_of_subqueries(
    source: SourceText, tables: Mapping[str, pa.Schema], expression: exp.Expr
) -> set[str]:
    """Names of the tables that subqueries inside an expression read.

    Raises:
        SqlError: One is no table of the session.
    """
    return {
        _table_of_subquery(source, tables, table)
        for query in expression.find_all(exp.Query)
        for table in query.find_all(exp.Table)
        # Else it is a call of a table function.
        if isinstance(table.this, exp.Identifier)
    }


def _table_of_subquery(
    source: SourceText, tables: Mapping[str, pa.Schema], table: exp.Table
) -> str:
    name = identifier_name(table.this)
    if name not in tables or name == INPUT:
        raise source.error(
            f"a subquery in an expression can read tables of the session only: {name!r} is none",
            table,
        )
    return name


# As in DataFusion, which leaves letters beyond ASCII as they are.
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def identifier_name(identifier: exp.Expr) -> str:
    """The name that an identifier stands for: as it is if quoted, else in lower case."""
    if not isinstance(identifier, exp.Identifier) and isinstance(identifier.this, exp.Identifier):
        identifier = identifier.this
    name = str(identifier.name)
    return name if identifier.args.get("quoted") else name.translate(_LOWER)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message that names what was probably meant, or lists what there is."""
    known = list(dict.fromkeys(known))
    same = [candidate for candidate in known if candidate.lower() == name.lower()]
    if same:
        return f"; write {quoted(same[0])}, since unquoted names are lower-case"
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not known:
        return ""
    listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"; there are {listed}"


def bound_sql(node: exp.Expr) -> str | None:
    """SQL of a bound column over the block's input, or None if ``node`` is no bound column."""
    sql: str | None = node.meta.get(_SQL)
    return sql if isinstance(node, exp.Column) else None


def bound_column(node: exp.Expr) -> str | None:
    """Plain name of a bound column, or None if ``node`` is no bound column."""
    name: str | None = node.meta.get(_COLUMN)
    return name if isinstance(node, exp.Column) else None


def window_role(node: exp.Expr) -> str | None:
    """Which column of the block's own window a bound column is, or None."""
    role: str | None = node.meta.get(_ROLE)
    return role if isinstance(node, exp.Column) else None


def alias_of(node: exp.Expr) -> str | None:
    """Name of the output column that a bound column stands for, or None."""
    alias: str | None = node.meta.get(_ALIAS) if isinstance(node, exp.Column) else None
    return alias


def note_alias(column: exp.Column, name: str) -> None:
    """Bind a column to the output column of that name."""
    column.meta[_ALIAS] = name
    column.meta[_SQL] = ""


def _note(column: exp.Column, key: str, sql: str, name: str, *, role: str | None = None) -> None:
    # The tree's parts are about to go, and with them the place of a column that has none of its
    # own.
    spans = [span for part in column.parts if (span := span_of(part)) is not None]
    if spans:
        column.meta.setdefault(SPAN, (spans[0][0], spans[-1][1]))
    for part in ("table", "db", "catalog"):
        column.set(part, None)
    column.set("this", exp.Identifier(this=key if role is None else f"window {key}", quoted=True))
    column.meta[_SQL] = sql
    column.meta[_COLUMN] = name
    if role is not None:
        column.meta[_ROLE] = role


def _qualify(column: exp.Column) -> None:
    """Name the input of the block explicitly, since a subquery's own columns would come first."""
    sql: str = column.meta[_SQL]
    if not re.match(r'"(?:[^"]|"")*"\.', sql):
        column.meta[_SQL] = f'"input".{sql}'


def _queries_above(node: exp.Expr, root: exp.Expr) -> Iterator[exp.Expr]:
    """Queries within ``root`` that ``node`` is in, the innermost first."""
    while True:
        if isinstance(node, exp.Query):
            yield node
        if node is root or node.parent is None:
            return
        node = node.parent


def _entries(query: exp.Expr) -> Iterator[exp.Expr]:
    """What stands in FROM of a query."""
    first = query.args.get("from_")
    pending = [*([first] if first is not None else []), *(query.args.get("joins") or [])]
    while pending:
        entry = pending.pop().this
        pending.extend(entry.args.get("joins") or [])
        if isinstance(entry, exp.Subquery) and isinstance(entry.this, exp.Table):
            pending.append(entry)
        else:
            yield entry


def is_of_subquery(node: exp.Expr, root: exp.Expr) -> bool:
    """Whether ``node`` stands in a query within ``root``."""
    return next(_queries_above(node, root), None) is not None


def _inside_call(column: exp.Column) -> bool:
    return column.find_ancestor(exp.Anonymous) is not None
