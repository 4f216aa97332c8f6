"""Types and values of case files: `price float64` in a header, `1m30s` or `'a|b'` in a row."""

from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

__all__ = ["parse_fields", "parse_row", "parse_type", "parse_value"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_NS_PER_SUFFIX = {**_NS_PER_UNIT, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86400 * 10**9}
_FIELD = re.compile(r'(?:"([^"]+)"|(\S+))\s+(\S.*)')
_DURATION = re.compile(r"-?(?:\d+(?:ns|us|ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"(\d+)(ns|us|ms|s|m|h|d)")
_CELL = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|[^|']*?)\s*(?:\||$)""")


def parse_type(text: str) -> pa.DataType:
    """Read an Arrow type as Arrow prints it: `int64`, `timestamp[ms, tz=UTC]`, `list<int64>`.

    Raises:
        ValueError: If the text names no type known here.
    """
    if match := re.fullmatch(r"decimal(128|256)\((\d+),\s*(-?\d+)\)", text):
        factory = pa.decimal128 if match[1] == "128" else pa.decimal256
        return factory(int(match[2]), int(match[3]))
    if match := re.fullmatch(r"timestamp\[(s|ms|us|ns),\s*(?:tz=)?([^\]]+)\]", text):
        return pa.timestamp(match[1], match[2])
    if match := re.fullmatch(r"list<(.+)>", text):
        return pa.list_(parse_type(match[1]))
    if match := re.fullmatch(r"dictionary<(.+)>", text):
        return pa.dictionary(pa.int32(), parse_type(match[1]))
    if match := re.fullmatch(r"struct<(.+)>", text):
        return pa.struct([_parse_field(part) for part in match[1].split(", ")])
    return pa.type_for_alias(text)


def parse_fields(line: str) -> pa.Schema:
    """Read a header such as `symbol string | price float64!`; `!` forbids NULL."""
    return pa.schema([_parse_field(cell) for cell in _cells(line)])


def _parse_field(text: str) -> pa.Field:
    match = _FIELD.fullmatch(text)
    if match is None:
        raise ValueError(f"a header cell must be a name and a type: {text!r}")
    name, type_text = match[1] or match[2], match[3]
    return pa.field(name, parse_type(type_text.removesuffix("!")), not type_text.endswith("!"))


def parse_row(line: str, schema: pa.Schema) -> list[Any]:
    """Read one row, a cell per field.

    Raises:
        ValueError: If the number of cells is not that of the fields, or a cell is not of its type.
    """
    cells = _cells(line)
    if len(cells) != len(schema):
        raise ValueError(f"a row must have {len(schema)} cells, this has {len(cells)}: {line!r}")
    return [parse_value(cell, field.type) for cell, field in zip(cells, schema, strict=True)]


def _cells(line: str) -> list[str]:
    cells, position = [], 0
    while position <= len(line):
        match = _CELL.match(line, position)
        if match is None:
            raise ValueError(f"a cell must be plain or wholly in quotes: {line[position:]!r}")
        cells.append(match[1])
        if match.end() == len(line) and not match[0].endswith("|"):
            break
        position = match.end()
    return cells


def parse_value(text: str, data_type: pa.DataType) -> Any:
    """Read a cell as a value for pyarrow; `NULL` and an empty cell are None."""
    if text in ("NULL", ""):
        return None
    if pa.types.is_dictionary(data_type):
        return parse_value(text, data_type.value_type)
    if pa.types.is_string(data_type) or pa.types.is_large_string(data_type):
        return ast.literal_eval(text) if text.startswith("'") else text
    if pa.types.is_binary(data_type):
        return bytes.fromhex(text.removeprefix("0x"))
    if pa.types.is_boolean(data_type):
        return {"true": True, "false": False}[text]
    if pa.types.is_decimal(data_type):
        return Decimal(text)
    if pa.types.is_temporal(data_type):
        return _parse_temporal(text, data_type)
    if pa.types.is_floating(data_type):
        return float(text)
    if pa.types.is_integer(data_type):
        return int(text)
    return _parse_nested(text)


def _parse_nested(text: str) -> Any:
    return ast.literal_eval(text.replace("NULL", "None"))


def _parse_temporal(text: str, data_type: pa.DataType) -> Any:
    """Read a temporal cell: `12s` counts from the epoch, a bare integer is in units of the type."""
    if pa.types.is_interval(data_type):
        return pa.MonthDayNano([0, 0, _duration_ns(text)])
    if pa.types.is_date32(data_type):
        return _instant_ns(text, 86400 * 10**9) // (86400 * 10**9)
    if pa.types.is_date64(data_type):
        return _instant_ns(text, 10**6) // 10**6
    ns_per_unit = _NS_PER_UNIT[data_type.unit]
    return _instant_ns(text, ns_per_unit) // ns_per_unit


def _instant_ns(text: str, ns_per_unit: int) -> int:
    if re.fullmatch(r"-?\d+", text):
        return int(text) * ns_per_unit
    if _DURATION.fullmatch(text):
        return _duration_ns(text)
    instant = datetime.fromisoformat(text)
    since_epoch = (instant if instant.tzinfo else instant.replace(tzinfo=UTC)) - _EPOCH
    return since_epoch // timedelta(microseconds=1) * 1000


def _duration_ns(text: str) -> int:
    parts = _DURATION_PART.findall(text)
    total = sum(int(number) * _NS_PER_SUFFIX[suffix] for number, suffix in parts)
    return -total if text.startswith("-") else total
