"""Joins of rows with tables, one after the other, and how they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millstream.planner.nodes import Term, quoted

__all__ = ["Join", "join_in_turn", "joined_sql"]


@dataclass(frozen=True, slots=True)
class Join:
    """A table that the rows before it are joined with.

    Attributes:
        table: Its name.
        alias: What the query calls it.
        words: ``INNER JOIN``, ``LEFT JOIN`` or ``CROSS JOIN``.
        condition: SQL with ``ON`` or ``USING`` before it, or nothing.
        is_keyed: Whether the condition says of some values that they are equal, and has no
            subquery.
        reads: Tables that subqueries of the condition read.
        later: Terms of the condition with subqueries, which hold of joined rows as well.
        filter: What its rows have to meet before they are joined, or None.
    """

    table: str
    alias: str
    words: str
    condition: str = ""
    is_keyed: bool = False
    reads: frozenset[str] = frozenset()
    later: tuple[Term, ...] = ()
    filter: str | None = None

    @property
    def table_sql(self) -> str:
        """The table, or what its filter leaves of it, with its name."""
        table = f"{quoted(self.table)} AS {quoted(self.alias)}"
        if self.filter is None:
            return table
        return f"(SELECT * FROM {table} WHERE {self.filter}) AS {quoted(self.alias)}"


def joined_sql(rows: str, joins: Sequence[Join]) -> str:
    """Write what stands after FROM, each table before the rows that are joined with it.

    DataFusion makes a hash table of what stands first and looks up in it what stands last: that
    of a table can stay from one micro-batch to the next.
    """
    sql = rows
    for number, join in enumerate(joins):
        before = f"({sql})" if number else sql
        sql = f"{join.table_sql} {join.words.replace('LEFT', 'RIGHT')} {before}{join.condition}"
    return sql


def join_in_turn(joins: Sequence[Join]) -> bool:
    """Say whether rows can be joined with one table after the other, each by its own values."""
    return bool(joins) and all(join.is_keyed for join in joins)
