"""The SQL by which DataFusion computes a transform."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping

import pyarrow as pa

from millstream.planner.nodes import HIDDEN_PREFIX, Projection, Transform, quoted

__all__ = ["TransformSql"]

# Whether a row is wanted, where that is not left to DataFusion.
_KEPT = HIDDEN_PREFIX + "kept"
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_COLUMN = re.compile(r'(?:"(?:[^"]|"")*"\.)?"(?:[^"]|"")*"')
_IMPURE = re.compile(r"\b(random|uuid)\b", re.IGNORECASE)


class TransformSql:
    """Writes the query of a transform.

    DataFusion moves conditions below joins, and finds their columns there by name alone; what is of
    one relation is then taken of another. Where several relations have a column of a name that a
    condition reads, its value is computed as a column instead, by which rows are filtered
    afterwards. What DataFusion makes a join of can only be a condition, and stays where it is.

    Args:
        node: The transform.
        tables: Tables of the session that it reads, by name.
        functions: Names of user-defined functions.

    Attributes:
        kept_by: Name of the last column of the query, of booleans, if it has one beside those of
            the node: whether a row is wanted.
    """

    def __init__(
        self, node: Transform, tables: Mapping[str, pa.Table], functions: Collection[str]
    ) -> None:
        self._node = node
        self._functions = functions
        self._where = node.where
        self._kept: str | None = None
        values = [term.sql for term in node.terms if not term.makes_join]
        if _are_ambiguous(values, node, tables):
            self._kept = " AND ".join(values)
            joins = [term.sql for term in node.terms if term.makes_join]
            self._where = " AND ".join(joins) or None
        self.kept_by = None if self._kept is None else _KEPT

    def text(self, hidden: tuple[str, ...]) -> str:
        """Return the query with the node's projections and these columns of the input."""
        node = self._node
        select = [
            f"{self._wanted(projection)} AS {quoted(projection.name)}"
            for projection in node.projections
        ]
        # Only the input has such names, whatever FROM calls it.
        select += [f"{quoted(name)} AS {quoted(name)}" for name in hidden]
        if self._kept is not None:
            select.append(f"coalesce({self._kept}, FALSE) AS {quoted(_KEPT)}")
        where = f" WHERE {self._where}" if self._where is not None else ""
        return f"SELECT {', '.join(select)} FROM {node.from_sql}{where}"

    def _wanted(self, projection: Projection) -> str:
        """Compute something only for rows that are wanted: on others it might fail."""
        kept, sql = self._kept, projection.sql
        if kept is None or projection.multiplies or _COLUMN.fullmatch(sql):
            return sql
        if _IMPURE.search(kept) or any(name in kept for name in self._functions):
            # It may say something else when it is asked again.
            return sql
        return f"CASE WHEN {kept} THEN {sql} END"


def _are_ambiguous(conditions: list[str], node: Transform, tables: Mapping[str, pa.Table]) -> bool:
    """Say whether conditions name columns of which several joined relations have one."""
    names = Counter(node.input.schema.names)
    for name, table in tables.items():
        n_joined = max(node.from_sql.count(f"{quoted(name)} AS "), 1)
        names.update(dict.fromkeys(table.schema.names, n_joined))
    read = (match[1].replace('""', '"') for sql in conditions for match in _QUOTED.finditer(sql))
    return any(names[name] > 1 for name in read)
