"""CASE with one condition: DataFusion computes the condition, and values are chosen by it here.

What DataFusion does for ``CASE WHEN x > 0 THEN y ELSE 0 END`` takes ten times as long as the
condition, and for ``coalesce(y, 0)`` likewise. So where the values are columns or numbers, which
cannot fail, it gives the condition and the columns, and a kernel chooses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.engine.column_memory import new_column
from millstream.engine.columns import array_from_buffers
from millstream.kernels.choosing import choose_words
from millstream.planner.nodes import Projection, Transform, quoted

__all__ = ["Choices"]

_WORD_BYTES = 8
_NUMBERS = {pa.int64(): np.int64, pa.float64(): np.float64}

_TOKEN = re.compile(r""""(?:[^"]|"")*"|'(?:[^']|'')*'|\w+|[^\w\s]""")
_INTEGER = re.compile(r"-?\d{1,18}")
_DOUBLE = re.compile(r"-?\d{1,18}(\.\d+)?")
_COALESCE = re.compile(r"coalesce\((\"(?:[^\"]|\"\")*\"), (-?[\d.]+)\)", re.IGNORECASE)

# The place of a column behind those of the node, or a number.
_Value: TypeAlias = int | pa.Scalar


class _Choice(NamedTuple):
    """What a column is made of.

    Attributes:
        place: Of the column, where its condition is; or, without one, the value that may be NULL.
        then: What it is where the condition is true; None if it is what is there, unless NULL.
        otherwise: What it is elsewhere.
    """

    place: int
    then: _Value | None
    otherwise: _Value


class Choices:
    """Makes columns of conditions and values.

    Args:
        node: The transform as planned.

    Attributes:
        node: The transform that is left to DataFusion: conditions in the place of choices, and
            behind all columns those to choose from.
    """

    def __init__(self, node: Transform) -> None:
        self._schema = node.schema
        self._columns: list[str] = []
        self._choices: list[_Choice] = []
        projections, fields = list(node.projections), list(node.schema)
        # With tables, columns are known by more than a name.
        is_plain = not node.tables and node.from_sql == quoted("input")
        types = {quoted(field.name): field.type for field in node.input.schema}
        for place, (projection, field) in enumerate(zip(projections, fields, strict=True)):
            wanted = _taken_apart(projection.sql) if is_plain else None
            if wanted is None or field.type not in _NUMBERS:
                continue
            condition, *texts = wanted
            values = [_value(text, field.type, types) for text in texts]
            if None in values or all(isinstance(value, pa.Scalar) for value in values):
                continue
            if condition is None:
                choice = _Choice(place, None, values[1])
                projections[place] = Projection(texts[0], projection.name)
            else:
                choice = _Choice(place, *(self._placed(v, len(fields)) for v in values))
                if types.get(condition) != pa.bool_():
                    # As CASE does it; of a boolean, nothing remains of it.
                    condition = f"CAST({condition} AS BOOLEAN)"
                projections[place] = Projection(condition, projection.name)
                fields[place] = pa.field(field.name, pa.bool_())
            self._choices.append(choice)
        self._n_columns = len(fields)
        for index, column in enumerate(self._columns):
            projections.append(Projection(column, f"__chosen{index}"))
            fields.append(pa.field(f"__chosen{index}", types[column]))
        self.node = node
        if self._choices:
            self.node = replace(node, projections=tuple(projections), schema=pa.schema(fields))

    def __bool__(self) -> bool:
        return bool(self._choices)

    def made(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return what the transform as planned makes, of what is left to DataFusion.

        Columns behind those of the transform stay there.
        """
        columns = batch.columns
        for place, then, otherwise in self._choices:
            there = columns[place]
            if then is None:
                columns[place] = there if there.null_count == 0 else pc.fill_null(there, otherwise)
                continue
            values = [columns[v] if isinstance(v, int) else v for v in (then, otherwise)]
            columns[place] = _chosen(there, *values, type_=self._schema.field(place).type)
        n_own, n_behind = self._n_columns, self._n_columns + len(self._columns)
        schema = self._schema
        for index in range(n_behind, batch.num_columns):
            schema = schema.append(batch.schema.field(index))
        kept = columns[:n_own] + columns[n_behind:]
        return pa.RecordBatch.from_arrays(kept, schema=schema)

    def _placed(self, value: str | pa.Scalar, n_before: int) -> _Value:
        if isinstance(value, pa.Scalar):
            return value
        if value not in self._columns:
            self._columns.append(value)
        return n_before + self._columns.index(value)


def _taken_apart(sql: str) -> tuple[str | None, str, str] | None:
    """Return a condition, or None where it is not to be NULL, and the texts of two values."""
    coalesced = _COALESCE.fullmatch(sql)
    if coalesced is not None:
        return None, coalesced[1], coalesced[2]
    tokens = [(match[0].upper(), match.start(), match.end()) for match in _TOKEN.finditer(sql)]
    words = [word for word, _, _ in tokens]
    keywords = [word for word in words if word in ("CASE", "WHEN", "THEN", "ELSE", "END")]
    if keywords != ["CASE", "WHEN", "THEN", "ELSE", "END"]:
        return None
    if words[:2] != ["CASE", "WHEN"] or words[-1] != "END":
        return None
    ends = {word: (start, end) for word, start, end in tokens if word in keywords}
    bounds = [(ends["WHEN"], ends["THEN"]), (ends["THEN"], ends["ELSE"])]
    bounds.append((ends["ELSE"], ends["END"]))
    condition, then, otherwise = (sql[after[1] : before[0]].strip() for after, before in bounds)
    return condition, then, otherwise


def _value(text: str, type_: pa.DataType, types: dict[str, pa.DataType]) -> str | pa.Scalar | None:
    """Return a column of a type, or a number as DataFusion would read it there; else None."""
    if text in types:
        return text if types[text] == type_ else None
    if type_ == pa.int64():
        return pa.scalar(int(text), type_) if _INTEGER.fullmatch(text) else None
    return pa.scalar(float(text), type_) if _DOUBLE.fullmatch(text) else None


def _chosen(
    condition: pa.Array,
    then: pa.Array | pa.Scalar,
    otherwise: pa.Array | pa.Scalar,
    *,
    type_: pa.DataType,
) -> pa.Array:
    """Return ``then`` where a condition is true, and ``otherwise`` where it is false or NULL."""
    if any(isinstance(value, pa.Array) and value.null_count > 0 for value in (then, otherwise)):
        return pc.if_else(pc.fill_null(condition, False), then, otherwise)
    dtype = _NUMBERS[type_]
    out = new_column(len(condition), dtype)
    # Kept until the kernel is done.
    numbers = [np.array([v.as_py()], dtype) for v in (then, otherwise) if isinstance(v, pa.Scalar)]
    places = [_place(value, numbers) for value in (then, otherwise)]
    validity, bits = condition.buffers()
    valid_at = validity.address if condition.null_count > 0 else 0
    choose_words(
        bits.address, condition.offset, valid_at, *places[0], *places[1], out.view(np.int64)
    )
    return array_from_buffers(out, type_, None)


def _place(value: pa.Array | pa.Scalar, numbers: Sequence[np.ndarray]) -> tuple[int, int]:
    """Return where a value's words begin, and how far it is from row to row."""
    if isinstance(value, pa.Scalar):
        return numbers[0].ctypes.data, 0
    return value.buffers()[1].address + _WORD_BYTES * value.offset, 1
