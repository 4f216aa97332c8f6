"""Random queries of a stream joined with tables: columns share names, and WHERE has subqueries."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from tests.equivalence.chooser import Chooser

__all__ = ["choose_joins", "choose_relations"]

_COLUMNS = {
    "t": ["k", "v", "ts"],
    "a": ["k", "x"],
    "b": ["x", "y"],
    "c": ["y", "z"],
    "d": ["k", "y"],
}
_TABLES = ["a", "b", "c", "d"]


def choose_relations(chooser: Chooser) -> dict[str, pa.Table]:
    """Rows of a stream t, in the order of its time ts, and of the tables."""

    def column(n_rows: int) -> pa.Array:
        values = [chooser.integer(0, 5) for _ in range(n_rows)]
        return pa.array([v if chooser.integer(0, 6) else None for v in values], pa.int64())

    relations = {}
    for name, columns in _COLUMNS.items():
        n_rows = chooser.choice([0, 1, 5, 9, 9, 20, 20])
        relations[name] = pa.table({column_name: column(n_rows) for column_name in columns})
    times = pa.array(range(len(relations["t"])), pa.int64())
    relations["t"] = relations["t"].set_column(2, "ts", times)
    return relations


@dataclass
class _Conditions:
    """What is said of the relations that are joined so far."""

    chooser: Chooser
    names: list[str]

    def column(self, names: list[str] | None = None) -> str:
        name = self.chooser.choice(names or self.names)
        return f"{name}.{self.chooser.choice(_COLUMNS[name])}"

    def simple(self) -> str:
        choose, column = self.chooser.choice, self.column
        number = self.chooser.integer(0, 4)
        return choose(
            [
                f"{column()} = {column()}",
                f"{column()} {choose(['<', '>=', '<>'])} {number}",
                f"{column()} IS {choose(['', 'NOT '])}NULL",
                f"({column()} = {number} OR {column()} > {number})",
                f"coalesce({column()}, 1) + {column()} < {number + 2}",
            ]
        )

    def of_subquery(self) -> str:
        choose, column = self.chooser.choice, self.column
        table = choose(_TABLES)
        one, other = (f"s.{name}" for name in _COLUMNS[table])
        sign, is_not = choose(["<", ">", "="]), choose(["", "NOT "])
        call = choose(["max", "min", "sum"])
        return choose(
            [
                # NOT IN with NULLs is nobody's friend.
                f"{column()} {is_not}IN (SELECT {one} FROM {table} AS s WHERE {one} IS NOT NULL)",
                f"{is_not}EXISTS (SELECT 1 FROM {table} AS s WHERE {one} = {column()})",
                f"{column()} {sign} (SELECT {call}({one}) FROM {table} AS s)",
                f"{column()} {sign} (SELECT {call}({one}) FROM {table} AS s"
                f" WHERE {other} = {column()})",
                f"({column()} = 2 OR {is_not}EXISTS (SELECT 1 FROM {table} AS s"
                f" WHERE {other} = {column()}))",
            ]
        )


def choose_joins(chooser: Chooser) -> str:
    """A query of the stream t joined with some tables."""
    names, from_sql = ["t"], "t"
    for name in chooser.sample(_TABLES, 0, 3):
        conditions = _Conditions(chooser, [*names, name])
        link = f"{conditions.column(names)} = {conditions.column([name])}"
        on = chooser.choice([link, f"{link} AND {conditions.simple()}", conditions.simple()])
        either = chooser.choice([on, on, f"{on} AND {conditions.of_subquery()}"])
        from_sql += chooser.choice(
            [
                f" JOIN {name} ON {either}",
                f" LEFT JOIN {name} ON {on}",
                f", {name}",
                f" CROSS JOIN {name}",
            ]
        )
        names.append(name)
    conditions = _Conditions(chooser, names)
    terms = [
        chooser.choice([conditions.simple(), conditions.of_subquery()])
        for _ in range(chooser.integer(0, 2))
    ]
    columns = [f"{conditions.column([name])} AS c_{name}" for name in names]
    where = f" WHERE {' AND '.join(terms)}" if terms else ""
    return f"SELECT {', '.join(columns)} FROM {from_sql}{where}"
