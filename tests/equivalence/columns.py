"""Random columns: tame values that aggregate exactly, wild ones at the edges of their types."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from tests.equivalence.chooser import Chooser

__all__ = ["KEY_KINDS", "Column", "Kind", "choose_keys", "choose_values", "fill"]

Kind: TypeAlias = Literal["int", "float", "string", "bool", "decimal", "date", "time", "binary"]

_STRINGS = (
    "",
    "a",
    "b",
    "A",
    "ab",
    " a ",
    "é",
    "日本",
    "😀x",
    "it's",
    'a"b',
    "%_",
    "NULL",
    "x" * 40,
)
_FLOATS = (0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7e308, -1.7e308, 1 / 3, 1.0)
# Their sums do not depend on the order of addition either.
_SPECIAL_FLOATS = (math.nan, math.inf, -math.inf)
_EXACT_INTS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a generated stream.

    Attributes:
        name: Its name.
        type: Its Arrow type.
        kind: What expressions treat it as.
        tame: Whether sums of its values are exact in any order and far from overflow.
        nullable: Whether it has NULLs.
    """

    name: str
    type: pa.DataType
    kind: Kind
    tame: bool = True
    nullable: bool = True


_INT_TYPES = (
    pa.int64(),
    pa.int32(),
    pa.int16(),
    pa.int8(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
)

KEY_KINDS: tuple[tuple[pa.DataType, Kind], ...] = (
    (pa.int64(), "int"),
    (pa.string(), "string"),
    (pa.int32(), "int"),
    (pa.bool_(), "bool"),
    (pa.float64(), "float"),
    (pa.date32(), "date"),
    (pa.timestamp("us"), "time"),
    (pa.decimal128(12, 2), "decimal"),
    (pa.large_string(), "string"),
    (pa.dictionary(pa.int32(), pa.string()), "string"),
    (pa.binary(), "binary"),
    (pa.uint64(), "int"),
    (pa.int8(), "int"),
    (pa.float32(), "float"),
)


def choose_keys(chooser: Chooser, n_keys: int) -> list[Column]:
    """Choose key columns ``k0``, ``k1`` ...; half of them plain integers or strings."""
    keys = []
    for index in range(n_keys):
        data_type, kind = chooser.choice(KEY_KINDS[:2] if chooser.chance(50) else KEY_KINDS)
        keys.append(Column(f"k{index}", data_type, kind, tame=False, nullable=chooser.chance(60)))
    return keys


def choose_values(chooser: Chooser) -> list[Column]:
    """Choose value columns: tame numbers, a string, a boolean; sometimes rarer types."""
    columns = [
        Column("x", chooser.choice((pa.int64(), pa.int32())), "int", nullable=chooser.chance(60)),
        Column("y", pa.float64(), "float", nullable=chooser.chance(60)),
        Column("s", pa.string(), "string", nullable=chooser.chance(60)),
        Column("b", pa.bool_(), "bool", nullable=chooser.chance(60)),
    ]
    rarer = (
        Column("wi", chooser.choice(_INT_TYPES), "int", tame=False),
        Column("wf", chooser.choice((pa.float64(), pa.float32())), "float", tame=False),
        Column("d", pa.decimal128(10, 2), "decimal"),
        Column("day", pa.date32(), "date"),
        Column("moment", pa.timestamp(chooser.choice(("s", "ms", "us", "ns"))), "time"),
    )
    return columns + chooser.sample(rarer, 0, 3)


def fill(
    chooser: Chooser, column: Column, n_rows: int, *, n_distinct: int | None = None
) -> pa.Array:
    """Make the values of a column; with `n_distinct` few different ones."""
    null_percent = chooser.choice((20, 50, 90)) if column.nullable else 0
    values: Sequence[Any]
    if n_distinct is None:
        values = [_value(chooser, column) for _ in range(n_rows)]
    else:
        domain = [_value(chooser, column) for _ in range(n_distinct)]
        values = [domain[_skewed(chooser, n_distinct)] for _ in range(n_rows)]
    kept = [None if null_percent and chooser.chance(null_percent) else value for value in values]
    return _array(kept, column.type)


def _array(values: list[Any], data_type: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(data_type):
        return pa.array(values, data_type.value_type).dictionary_encode()
    return pa.array(values, data_type)


def _skewed(chooser: Chooser, n_options: int) -> int:
    return min(chooser.integer(0, n_options - 1), chooser.integer(0, n_options - 1))


def _value(chooser: Chooser, column: Column) -> Any:
    return _VALUES[column.kind](chooser, column)


def _int(chooser: Chooser, column: Column) -> int:
    is_unsigned = pa.types.is_unsigned_integer(column.type)
    bits = int(column.type.bit_width)
    low, high = (0, (1 << bits) - 1) if is_unsigned else (-1 << (bits - 1), (1 << (bits - 1)) - 1)
    if column.tame or chooser.chance(50):
        return chooser.integer(max(low, -_EXACT_INTS_MAX), min(high, _EXACT_INTS_MAX))
    return chooser.choice((low, high, low + 1, high - 1, 0, chooser.integer(0, min(high, 1 << 62))))


def _float(chooser: Chooser, column: Column) -> float:
    if column.tame and chooser.chance(4):
        return chooser.choice(_SPECIAL_FLOATS)
    if column.tame or chooser.chance(50):
        return chooser.integer(-8 * _EXACT_INTS_MAX, 8 * _EXACT_INTS_MAX) / 8
    return chooser.choice(_FLOATS)


def _string(chooser: Chooser, column: Column) -> str:
    del column
    return chooser.choice(_STRINGS) if chooser.chance(80) else f"v{chooser.integer(0, 99)}"


def _decimal(chooser: Chooser, column: Column) -> Decimal:
    del column
    return Decimal(chooser.integer(-(10**10) + 1, 10**10 - 1)).scaleb(-2)


def _binary(chooser: Chooser, column: Column) -> bytes:
    del column
    return chooser.choice((b"", b"\x00", b"\xff", b"\x00\x00", b"abc"))


_VALUES: dict[str, Callable[[Chooser, Column], Any]] = {
    "int": _int,
    "float": _float,
    "string": _string,
    "bool": lambda chooser, _: chooser.chance(50),
    "decimal": _decimal,
    "date": lambda chooser, _: chooser.integer(-800, 20_000),
    "time": lambda chooser, _: chooser.integer(-(10**6), 2 * 10**9),
    "binary": _binary,
}
