"""Random event times: types, durations in SQL, and rows out of order within a bound."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from tests.equivalence.chooser import Chooser

__all__ = ["TimeShape", "choose_time_shape", "choose_times", "duration_sql", "short_duration_sql"]

_NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_UNITS = (
    ("SECOND", "s", 10**9),
    ("MINUTE", "m", 60 * 10**9),
    ("HOUR", "h", 3600 * 10**9),
    ("DAY", "d", 86400 * 10**9),
    ("MILLISECOND", "ms", 10**6),
    ("MICROSECOND", None, 10**3),
)

# Event times and the number of units, a whole number of some SQL unit, of which windows are made.
_SHAPES: tuple[tuple[pa.DataType, int], ...] = (
    (pa.timestamp("ms"), 1000),
    (pa.timestamp("us"), 1_000_000),
    (pa.timestamp("s"), 60),
    (pa.timestamp("ns"), 1000),
    (pa.timestamp("ms", "UTC"), 500),
    (pa.timestamp("us", "America/New_York"), 3_600_000_000),
    (pa.int64(), 7),
    (pa.int32(), 10),
    (pa.date32(), 1),
)


@dataclass(frozen=True, slots=True)
class TimeShape:
    """Type of an event time, and the length in its units that windows are multiples of."""

    type: pa.DataType
    grain: int


def choose_time_shape(chooser: Chooser) -> TimeShape:
    """Choose a type of event time; milliseconds half of the time."""
    return TimeShape(*(_SHAPES[0] if chooser.chance(40) else chooser.choice(_SHAPES)))


def choose_times(
    chooser: Chooser, shape: TimeShape, n_rows: int, delay: int, *, late_percent: int = 0
) -> list[int]:
    """Make event times in order of arrival, behind the greatest so far by at most `delay` units.

    Steps are often zero and sometimes far. With `late_percent` that many rows are behind by more.
    """
    starts = (0, -20 * shape.grain, 1_700_000_000 if shape.grain > 1 else 19_000)
    greatest = chooser.choice(starts) + chooser.integer(-shape.grain, shape.grain)
    times = []
    for _ in range(n_rows):
        ahead = greatest + _step(chooser, shape.grain)
        time = ahead - (chooser.integer(0, delay) if chooser.chance(60) else 0)
        if late_percent and chooser.chance(late_percent):
            time = ahead - chooser.integer(0, delay + 12 * shape.grain)
        times.append(time)
        greatest = max(greatest, time)
    return times


def _step(chooser: Chooser, grain: int) -> int:
    if chooser.chance(30):
        return 0
    if chooser.chance(8):
        return chooser.integer(0, 40 * grain)
    return chooser.integer(0, grain)


def duration_sql(chooser: Chooser, units: int, data_type: pa.DataType) -> str:
    """Write a duration as SQL in one of the units that it is a multiple of."""
    if pa.types.is_integer(data_type):
        return str(units)
    length_ns = _in_ns(units, data_type)
    names = [(name, ns) for name, _, ns in _UNITS if length_ns % ns == 0]
    if pa.types.is_date(data_type):
        names = [(name, ns) for name, ns in names if name == "DAY"]
    name, ns = chooser.choice(names)
    number = length_ns // ns
    return (
        f"INTERVAL '{number} {name.lower()}s'"
        if chooser.chance(10)
        else f"INTERVAL '{number}' {name}"
    )


def short_duration_sql(chooser: Chooser, units: int, data_type: pa.DataType) -> str | None:
    """Write a duration such as ``10s``, or give None where it has no such form."""
    if pa.types.is_integer(data_type):
        return None
    length_ns = _in_ns(units, data_type)
    suffixes = [(suffix, ns) for _, suffix, ns in _UNITS if suffix and length_ns % ns == 0]
    if pa.types.is_date(data_type):
        suffixes = [(suffix, ns) for suffix, ns in suffixes if suffix == "d"]
    if not suffixes or length_ns <= 0:
        return None
    suffix, ns = chooser.choice(suffixes)
    return f"{length_ns // ns}{suffix}"


def _in_ns(units: int, data_type: pa.DataType) -> int:
    if pa.types.is_date(data_type):
        return units * 86400 * 10**9
    return units * _NS_PER_UNIT[data_type.unit]
