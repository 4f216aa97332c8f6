"""Comparing answers: as multisets of rows, floats within a tolerance, changelogs folded by key."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

__all__ = ["ChangelogError", "difference", "fold", "rows_of", "versions_by_key"]

OP_COLUMN = "_op"
_RELATIVE = 1e-9
_ABSOLUTE = 1e-9
_ROWS_SHOWN_MAX = 12

Row = tuple[Any, ...]


class ChangelogError(AssertionError):
    """A changelog contradicts itself."""


def rows_of(table: pa.Table, unordered_lists: Iterable[str] = ()) -> list[Row]:
    """Give the rows of a table as tuples of plain Python values.

    Times and dates become their storage integers, so that no precision is lost; every NaN becomes
    the string ``NaN``, so that it equals itself; lists become tuples, sorted in the columns that
    `unordered_lists` names.
    """
    sorted_lists = set(unordered_lists)
    columns = [
        _plain_column(table.column(index), table.schema.field(index).name in sorted_lists)
        for index in range(table.num_columns)
    ]
    return list(zip(*columns, strict=True)) if columns else [()] * table.num_rows


def _plain_column(column: pa.ChunkedArray, sort_lists: bool) -> list[Any]:
    values: list[Any] = column.cast(_storage_type(column.type)).to_pylist()
    if pa.types.is_floating(column.type) or pa.types.is_nested(column.type):
        values = [_plain_value(value) for value in values]
    if sort_lists:
        values = [value if value is None else tuple(sorted(value, key=_order)) for value in values]
    return values


def _storage_type(data_type: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(data_type):
        return _storage_type(data_type.value_type)
    if pa.types.is_date32(data_type) or pa.types.is_time32(data_type):
        return pa.int32()
    if pa.types.is_interval(data_type) or not pa.types.is_temporal(data_type):
        return data_type
    return pa.int64()


def _plain_value(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, list):
        return tuple(_plain_value(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _plain_value(item)) for name, item in value.items())
    return value


def _order(value: Any) -> tuple[str, Any]:
    return ("", 0) if value is None else (type(value).__name__, value)


def fold(table: pa.Table, key_columns: Sequence[str]) -> pa.Table:
    """Apply a changelog: give the last version of each row that is not gone, without ``_op``.

    A table without ``_op`` passes through.

    Raises:
        ChangelogError: If a row is new twice, revised or removed without being there, revised
            without a change, or taken back (``-U``, ``-D``) with values that it did not have.
    """
    if OP_COLUMN not in table.schema.names:
        return table
    data = table.drop_columns([OP_COLUMN])
    key_at = [data.schema.get_field_index(name) for name in key_columns]
    live: dict[Row, tuple[int, Row]] = {}
    retracted: set[Row] = set()
    operations = table.column(OP_COLUMN).to_pylist()
    for index, (operation, row) in enumerate(zip(operations, rows_of(data), strict=True)):
        key = tuple(row[position] for position in key_at)
        _check_change(operation, row, live.get(key), key in retracted)
        if operation == "-U":
            retracted.add(key)
        elif operation == "-D":
            del live[key]
        else:
            retracted.discard(key)
            live[key] = (index, row)
    if retracted:
        raise ChangelogError(f"-U without the +U that follows it: {sorted(map(repr, retracted))}")
    return data.take(pa.array(sorted(index for index, _ in live.values()), pa.int64()))


def _check_change(
    operation: str, row: Row, before: tuple[int, Row] | None, retracted: bool
) -> None:
    last = before[1] if before else None
    problem = None
    if operation == "+I":
        problem = "is new though it is there" if last is not None else None
    elif operation not in ("+U", "-U", "-D"):
        problem = "has no operation that is known"
    elif last is None:
        problem = "is not there"
    elif operation == "+U":
        problem = "is revised without a change" if row == last else None
    elif row != last:
        problem = "is taken back with other values than it had"
    if operation in ("+I", "-D", "-U") and retracted:
        problem = "does not follow its -U"
    if problem:
        raise ChangelogError(f"{operation} {row}: the row {problem}; before: {last}")


def versions_by_key(table: pa.Table, key_columns: Sequence[str]) -> dict[Row, list[Row]]:
    """Give the rows of a changelog in order for each key; the order of keys is not promised."""
    key_at = [table.schema.get_field_index(name) for name in key_columns]
    versions: dict[Row, list[Row]] = {}
    for row in rows_of(table):
        versions.setdefault(tuple(row[position] for position in key_at), []).append(row)
    return versions


def difference(
    got: pa.Table,
    expected: pa.Table,
    *,
    ordered: bool = False,
    unordered_lists: Iterable[str] = (),
    same_types: bool = True,
) -> str | None:
    """Describe how two tables differ, or give None if they agree.

    Names and types of columns must be equal but for nullability and for the encoding of strings
    and dictionaries.
    """
    if same_types and (problem := _schema_difference(got.schema, expected.schema)):
        return problem
    got_rows = rows_of(got, unordered_lists)
    expected_rows = rows_of(expected, unordered_lists)
    if ordered:
        pairs = zip(got_rows, expected_rows, strict=False)
        first = next((n for n, pair in enumerate(pairs) if not _rows_match(*pair)), None)
        if first is None and len(got_rows) == len(expected_rows):
            return None
        shown = _shown("got", got_rows) + _shown("expected", expected_rows)
        return f"rows differ from row {first} on\n{shown}"
    surplus, missing = _unmatched(got_rows, expected_rows)
    if not surplus and not missing:
        return None
    counts = f"{len(got_rows)} rows, expected {len(expected_rows)}; columns {got.schema.names}"
    return f"{counts}\n{_shown('not expected', surplus)}{_shown('missing', missing)}"


def _shown(title: str, rows: Sequence[Row]) -> str:
    lines = [f"  {row}" for row in rows[:_ROWS_SHOWN_MAX]]
    if len(rows) > _ROWS_SHOWN_MAX:
        lines.append(f"  ... {len(rows) - _ROWS_SHOWN_MAX} more")
    return "\n".join([f"{title}:", *(lines or ["  (none)"])]) + "\n"


def _schema_difference(got: pa.Schema, expected: pa.Schema) -> str | None:
    if got.names != expected.names:
        return f"columns are {got.names}, expected {expected.names}"
    wrong = [
        f"{field.name} is {field.type}, expected {other.type}"
        for field, other in zip(got, expected, strict=True)
        if _bare_type(field.type) != _bare_type(other.type)
    ]
    return "; ".join(wrong) or None


def _bare_type(data_type: pa.DataType) -> pa.DataType:
    """Strip what may differ: names and nullability inside, and encodings."""
    if pa.types.is_dictionary(data_type):
        return _bare_type(data_type.value_type)
    if pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return pa.string()
    if pa.types.is_large_binary(data_type) or pa.types.is_binary_view(data_type):
        return pa.binary()
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return pa.list_(pa.field("item", _bare_type(data_type.value_type)))
    if pa.types.is_struct(data_type):
        return pa.struct([pa.field(field.name, _bare_type(field.type)) for field in data_type])
    return data_type


def _unmatched(got: list[Row], expected: list[Row]) -> tuple[list[Row], list[Row]]:
    """Pair equal rows, then rows equal within the tolerance; give what is left on either side."""
    got_counts, expected_counts = Counter(got), Counter(expected)
    surplus = list((got_counts - expected_counts).elements())
    missing = list((expected_counts - got_counts).elements())
    unpaired = []
    for row in surplus:
        match = next(
            (index for index, other in enumerate(missing) if _rows_match(row, other)), None
        )
        if match is None:
            unpaired.append(row)
        else:
            missing.pop(match)
    return unpaired, missing


def _rows_match(left: Row, right: Row) -> bool:
    return len(left) == len(right) and all(map(_values_match, left, right))


def _values_match(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or math.isclose(left, right, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return _rows_match(left, right)
    return bool(left == right)
