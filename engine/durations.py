"""Lengths of event time: from what people write to whole units of a time column.

A time column counts in its own unit: seconds to nanoseconds for timestamps, days for ``date32``,
milliseconds for ``date64``, and whatever the numbers mean for integers. Everything downstream works
with those integers. A length that is not a whole number of units is refused rather than rounded.
"""

from __future__ import annotations

import operator
import re
from datetime import timedelta
from fractions import Fraction
from typing import Literal, SupportsIndex, TypeAlias

import pyarrow as pa

from millstream.errors import SchemaError

__all__ = ["TimeUnit", "nanoseconds_per", "parse_duration", "time_unit", "units_per_second"]

TimeUnit: TypeAlias = Literal["ns", "us", "ms", "s", "day", "integer"]

_NANOSECONDS: dict[str, int] = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "day": 86_400 * 10**9,
}
_SECOND = _NANOSECONDS["s"]
_DURATION_MAX = 2**63 - 1

_SPELLINGS: dict[int, str] = {
    1: "ns nanos nanosecond nanoseconds",
    10**3: "us \u00b5s \u03bcs micros microsecond microseconds",
    10**6: "ms msec millis millisecond milliseconds",
    _SECOND: "s sec secs second seconds",
    60 * _SECOND: "m min mins minute minutes",
    3600 * _SECOND: "h hr hrs hour hours",
    86_400 * _SECOND: "d day days",
    7 * 86_400 * _SECOND: "w week weeks",
}
_WORDS: dict[str, int] = {
    word: nanoseconds for nanoseconds, words in _SPELLINGS.items() for word in words.split()
}
_CALENDAR_WORDS = frozenset(
    ["mo", "mon", "mons", "month", "months", "quarter", "quarters", "y", "yr", "year", "years"]
)

_TERM = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([^\W\d_]+)\s*,?")
_ISO = re.compile(
    r"P(?:(?P<Y>\d+)Y)?(?:(?P<MO>\d+)M)?(?:(?P<W>\d+)W)?(?:(?P<D>\d+)D)?"
    r"(?:T(?:(?P<H>\d+)H)?(?:(?P<M>\d+)M)?(?:(?P<S>\d+(?:\.\d+)?)S)?)?",
    re.IGNORECASE,
)


def time_unit(type_: pa.DataType) -> TimeUnit:
    """Return the unit in which a column of ``type_`` counts event time.

    Raises:
        SchemaError: Values of the type are not points in time that can be counted.

    Examples:
        >>> time_unit(pa.timestamp("ms")), time_unit(pa.date32()), time_unit(pa.int32())
        ('ms', 'day', 'integer')
    """
    if pa.types.is_timestamp(type_):
        unit: TimeUnit = type_.unit
        return unit
    if pa.types.is_date32(type_):
        return "day"
    if pa.types.is_date64(type_):
        return "ms"
    if pa.types.is_integer(type_):
        return "integer"
    raise SchemaError(f"event time must be a timestamp, a date or an integer: {type_}")


def nanoseconds_per(unit: TimeUnit) -> int:
    """Return the length of one ``unit`` in nanoseconds.

    Raises:
        SchemaError: The unit is ``integer``, which has no length.
    """
    if unit == "integer":
        raise SchemaError("an integer event time has no unit of time")
    return _NANOSECONDS[unit]


def units_per_second(unit: TimeUnit) -> Fraction:
    """Return how many ``unit`` make a second, exactly.

    Raises:
        SchemaError: The unit is ``integer``, which has no length.
    """
    return Fraction(_SECOND, nanoseconds_per(unit))


def parse_duration(value: str | timedelta | SupportsIndex, unit: TimeUnit) -> int:
    """Convert a length of event time to whole units of a time column.

    Args:
        value: Text such as ``"5 seconds"``, ``"1 minute 30 seconds"``, ``"500ms"``, ``"1.5h"`` or
            the ISO 8601 form ``"PT1M30S"``; a :class:`datetime.timedelta`; or an integer, which is
            taken to count in ``unit`` already.
        unit: Unit of the time column. Where it is ``integer``, only integers will do.

    Returns:
        Units, from 0 to the greatest 64-bit integer.

    Raises:
        SchemaError: The value is negative, is not a whole number of units, is too long for 64
            bits, or is not a length of time.

    Examples:
        >>> parse_duration("1 minute 30 seconds", "ms")
        90000
        >>> parse_duration("2d", "day")
        2
        >>> parse_duration("500ms", "s")
        Traceback (most recent call last):
        millstream.errors.SchemaError: duration must be a whole number of seconds: '500ms'
    """
    if isinstance(value, str | timedelta):
        units = _whole_units(value, unit)
    elif isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise SchemaError(
            f"duration must be text, a timedelta or an integer: {value!r} ({type(value).__name__})"
        )
    else:
        units = operator.index(value)
    if units < 0:
        raise SchemaError(f"duration must not be negative: {value!r}")
    if units > _DURATION_MAX:
        raise SchemaError(f"duration must fit 64 bits when counted in {_plural(unit)}: {value!r}")
    return units


def _whole_units(value: str | timedelta, unit: TimeUnit) -> int:
    if unit == "integer":
        raise SchemaError(
            f"duration over an integer event time must be an integer in the same unit: {value!r}"
        )
    if isinstance(value, timedelta):
        nanoseconds = Fraction(value // timedelta(microseconds=1) * 1000)
    else:
        nanoseconds = _nanoseconds(value)
    units = nanoseconds / _NANOSECONDS[unit]
    if units.denominator != 1:
        raise SchemaError(f"duration must be a whole number of {_plural(unit)}: {value!r}")
    return units.numerator


def _nanoseconds(text: str) -> Fraction:
    body = text.strip()
    if body.startswith("-"):
        raise SchemaError(f"duration must not be negative: {text!r}")
    if body[:1] in ("P", "p"):
        return _iso_nanoseconds(body, text)
    total, end = Fraction(0), 0
    while end < len(body):
        term = _TERM.match(body, end)
        if term is None:
            raise _unreadable(text)
        total += Fraction(term[1]) * _word_nanoseconds(term[2], text)
        end = term.end()
    if end == 0:
        raise _unreadable(text)
    return total


def _word_nanoseconds(word: str, text: str) -> int:
    word = word.lower()
    if word in _CALENDAR_WORDS:
        raise _calendar(text)
    if word not in _WORDS:
        raise _unreadable(text)
    return _WORDS[word]


def _iso_nanoseconds(body: str, text: str) -> Fraction:
    match = _ISO.fullmatch(body)
    if match is None or not any(match.groups()):
        raise _unreadable(text)
    if match["Y"] or match["MO"]:
        raise _calendar(text)
    return sum(
        (Fraction(match[part] or 0) * _WORDS[part.lower()] for part in ("W", "D", "H", "M", "S")),
        Fraction(0),
    )


def _calendar(text: str) -> SchemaError:
    return SchemaError(f"duration must have a fixed length, without months and years: {text!r}")


def _unreadable(text: str) -> SchemaError:
    return SchemaError(
        "duration must be numbers with units, such as '5 seconds', '1 minute 30 seconds' or "
        f"'500ms': {text!r}"
    )


def _plural(unit: TimeUnit) -> str:
    names = {
        "ns": "nanoseconds",
        "us": "microseconds",
        "ms": "milliseconds",
        "s": "seconds",
        "day": "days",
    }
    return names.get(unit, "integers")
