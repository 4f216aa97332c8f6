"""Durations are exact, or refused with the value and the unit."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.durations import (
    nanoseconds_per,
    parse_duration,
    time_unit,
    units_per_second,
)
from millstream.errors import SchemaError

CLOCK_UNITS = ("ns", "us", "ms", "s", "day")


@pytest.mark.parametrize(
    ("text", "unit", "units"),
    [
        ("5 seconds", "s", 5),
        ("5 seconds", "ns", 5_000_000_000),
        ("1 minute 30 seconds", "s", 90),
        ("1 minute, 30 seconds", "s", 90),
        ("500ms", "ms", 500),
        ("10s", "ms", 10_000),
        ("5m", "s", 300),
        ("2h", "s", 7_200),
        ("1h30m", "s", 5_400),
        ("1d", "day", 1),
        ("24 hours", "day", 1),
        ("2 weeks", "day", 14),
        ("1.5 seconds", "ms", 1_500),
        ("250 us", "us", 250),
        ("250 \u00b5s", "ns", 250_000),
        ("  10  Seconds ", "s", 10),
        ("0s", "day", 0),
        ("PT1M30S", "s", 90),
        ("P1DT2H", "s", 93_600),
        ("pt0.5s", "ms", 500),
        ("P2W", "day", 14),
    ],
)
def test_text_becomes_whole_units(text, unit, units):
    assert parse_duration(text, unit) == units


@pytest.mark.parametrize(
    ("value", "unit", "message"),
    [
        ("500ms", "s", "whole number of seconds: '500ms'"),
        ("36 hours", "day", "whole number of days: '36 hours'"),
        ("0.5 ns", "ns", "whole number of nanoseconds"),
        (timedelta(microseconds=1), "ms", "whole number of milliseconds"),
        ("-5 seconds", "s", "must not be negative: '-5 seconds'"),
        (timedelta(seconds=-1), "s", "must not be negative"),
        (-1, "integer", "must not be negative: -1"),
        ("1 month", "day", "without months and years: '1 month'"),
        ("2 years", "s", "without months and years"),
        ("P1M", "s", "without months and years"),
        ("P1Y", "s", "without months and years"),
        ("5", "s", "numbers with units.*: '5'"),
        ("", "s", "numbers with units.*: ''"),
        ("seconds", "s", "numbers with units"),
        ("5 parsecs", "s", "numbers with units.*: '5 parsecs'"),
        ("5 seconds!", "s", "numbers with units"),
        ("P", "s", "numbers with units"),
        ("PT", "s", "numbers with units"),
        ("1_000s", "s", "numbers with units"),
        ("5 seconds", "integer", "integer event time must be an integer.*: '5 seconds'"),
        (timedelta(seconds=1), "integer", "integer event time must be an integer"),
        (1.5, "s", r"text, a timedelta or an integer: 1.5 \(float\)"),
        (True, "s", "text, a timedelta or an integer: True"),
        (None, "s", "text, a timedelta or an integer: None"),
        (2**63, "integer", "fit 64 bits"),
        ("100000000 days", "ns", "fit 64 bits when counted in nanoseconds: '100000000 days'"),
    ],
)
def test_what_is_not_a_length_in_units_is_refused(value, unit, message):
    with pytest.raises(SchemaError, match=message):
        parse_duration(value, unit)


@pytest.mark.parametrize("value", [7, np.int32(7), np.uint64(7)])
@pytest.mark.parametrize("unit", [*CLOCK_UNITS, "integer"])
def test_integers_count_in_the_unit_already(value, unit):
    assert parse_duration(value, unit) == 7


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=100_000)))
def test_timedeltas_keep_every_microsecond(delta):
    microseconds = parse_duration(delta, "us")
    assert timedelta(microseconds=microseconds) == delta
    assert parse_duration(delta, "ns") == 1000 * microseconds


@given(st.integers(0, 10**6), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_terms_add_up(days, hours, minutes, seconds):
    expected = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s", "s") == expected
    assert parse_duration(f"P{days}DT{hours}H{minutes}M{seconds}S", "s") == expected


@pytest.mark.parametrize(
    ("type_", "unit"),
    [
        *((pa.timestamp(unit), unit) for unit in ("s", "ms", "us", "ns")),
        (pa.timestamp("us", tz="Europe/Berlin"), "us"),
        (pa.date32(), "day"),
        (pa.date64(), "ms"),
        (pa.int8(), "integer"),
        (pa.uint64(), "integer"),
    ],
)
def test_each_type_of_event_time_has_its_unit(type_, unit):
    assert time_unit(type_) == unit


@pytest.mark.parametrize("type_", [pa.string(), pa.float64(), pa.time64("us"), pa.duration("s")])
def test_other_types_are_no_event_time(type_):
    with pytest.raises(SchemaError, match=r"timestamp, a date or an integer"):
        time_unit(type_)


@pytest.mark.parametrize("unit", CLOCK_UNITS)
def test_a_second_is_as_long_in_every_unit(unit):
    assert units_per_second(unit) * nanoseconds_per(unit) == 10**9


def test_days_are_longer_than_a_second():
    assert units_per_second("day") == Fraction(1, 86_400)


def test_integers_have_no_length():
    with pytest.raises(SchemaError, match="no unit of time"):
        nanoseconds_per("integer")
