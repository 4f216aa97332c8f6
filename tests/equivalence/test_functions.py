"""DataFusion's functions pass through: each gives in a stream query what it gives in DataFusion."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from datafusion import SessionConfig, SessionContext

import millstream as ms
from tests.equivalence.compare import difference

ROWS = pa.table(
    {
        "k": pa.array(["a", "b", "a", None, "b", "c"]),
        "i": pa.array([1, -2, None, 40, 5, 0], pa.int64()),
        "j": pa.array([3, 7, 2, 1, None, 9], pa.int32()),
        "x": pa.array([0.5, -1.25, 2.0, None, 1e3, 0.0]),
        "y": pa.array([1.0, 2.0, 4.0, 8.0, 16.0, 0.25]),
        "d": pa.array(
            [Decimal("1.10"), Decimal("-2.25"), None, Decimal(0), Decimal(7), Decimal(9)]
        ),
        "s": pa.array(["Hello World", "", "naïve 日本", None, "a,b,c", "  pad "]),
        "t": pa.array(["l+", "o", "x", "b", ",", " "]),
        "b": pa.array([True, False, None, True, True, False]),
        "ts": pa.array([datetime(2024, 2, 29, 12, 34, 56, 789000 + n) for n in range(6)]),
        "day": pa.array([date(1969, 12, 31 - n) for n in range(6)]),
    }
)

SCALARS = """
abs(i) | ceil(x) | floor(x) | round(x) | round(x, 1) | trunc(x) | signum(x) | sqrt(y) | cbrt(y)
exp(x / 1000) | ln(y) | log2(y) | log10(y) | log(2, y) | power(y, 2) | pow(2, j) | factorial(j)
sin(x) | cos(x) | tan(x) | asin(x / 1e4) | acos(x / 1e4) | atan(x) | atan2(x, y) | sinh(x / 1e3)
cosh(x / 1e3) | tanh(x) | cot(y) | degrees(x) | radians(x) | gcd(i, j) | lcm(i, j) | pi()
isnan(x) | iszero(x) | nanvl(x, y) | i + j | i - j | i * j | i / j | i % j | -i | x / y | d + d
d * 2 | i & j | i << 1 | i >> 1 | i = j | i <> j | i < j | i >= j | b AND i > 0
b OR i > 0 | NOT b | i IS NULL | s IS NOT NULL | b IS TRUE | b IS NOT FALSE | b IS UNKNOWN
i IS DISTINCT FROM j | i BETWEEN 0 AND 5 | i NOT BETWEEN 0 AND 5 | i IN (1, 5) | k NOT IN ('a')
CASE WHEN i > 0 THEN 'p' WHEN i < 0 THEN 'n' ELSE 'z' END | CASE k WHEN 'a' THEN 1 END
coalesce(i, j, 0) | nullif(i, 1) | nvl(i, -1) | nvl2(i, 1, 2) | greatest(i, j) | least(i, j)
CAST(x AS BIGINT) | TRY_CAST(s AS INT) | i::varchar | CAST(i AS DECIMAL(12, 2)) | x::int
arrow_cast(j, 'Int8') | arrow_typeof(x) | ascii(s) | bit_length(s) | btrim(s) | char_length(s)
character_length(s) | length(s) | octet_length(s) | chr(65 + j) | concat(s, k, 1)
concat_ws('-', k, s, j) | contains(s, 'o') | ends_with(s, 'd') | starts_with(s, 'H') | initcap(s)
lower(s) | upper(s) | lpad(s, 8, '*') | rpad(s, 8, '*') | ltrim(s) | rtrim(s) | trim(s)
trim(BOTH ' ' FROM s) | trim(LEADING 'H' FROM s) | repeat(k, 3) | replace(s, 'l', 'L') | reverse(s)
left(s, 3) | right(s, 3) | split_part(s, ',', 2) | strpos(s, 'o') | position('o' IN s)
substr(s, 2, 3) | substring(s FROM 2 FOR 3) | substr_index(s, ',', 2) | translate(s, 'lo', '01')
find_in_set(k, 'a,b,c') | levenshtein(s, 'Hello') | to_hex(abs(i)) | uuid() IS NOT NULL
overlay(s PLACING 'XX' FROM 2 FOR 1) | s || k | s LIKE 'H%' | s NOT LIKE '%o%' | s ILIKE 'h%'
s LIKE '%\\_%' | s SIMILAR TO '(H|n).*' | s ~ '^[A-Z]' | s !~ 'o' | s ~* '^h'
regexp_like(s, 'l+') | regexp_match(s, '(l+)(o)') | regexp_replace(s, 'l', 'L', 'g')
regexp_count(s, 'l') | regexp_instr(s, 'o') | md5(s) | sha224(s) | sha256(s) | sha512(s)
digest(s, 'sha384') | encode(s, 'base64') | encode(s, 'hex') | decode(encode(s, 'hex'), 'hex')
date_part('year', ts) | date_part('dow', ts) | extract(month FROM ts) | extract(epoch FROM ts)
date_trunc('hour', ts) | date_trunc('month', day) | date_bin(INTERVAL '15 minutes', ts)
date_bin(INTERVAL '1 day', ts, TIMESTAMP '2020-01-01 06:00:00') | ts + INTERVAL '1 hour 5 minutes'
ts - INTERVAL '1 month' | day + INTERVAL '1 day' | ts - TIMESTAMP '2024-01-01 00:00:00'
to_char(ts, '%Y-%m-%d %H') | to_timestamp(i) | to_timestamp_millis(i) | to_timestamp_seconds(i)
to_date('2024-02-29') | from_unixtime(i) | to_unixtime(ts) | make_date(2024, 2, j)
ts AT TIME ZONE 'Europe/Berlin' | day = DATE '1969-12-30' | ts > '2024-02-29 12:34:56.789003'
make_array(i, j) | [i, j] | array_length([i, j]) | array_append([i], 7) | array_concat([i], [j])
array_has([i, 1], 1) | array_position([1, i], 1) | array_sort([i, j]) | array_slice([1, 2, 3], 2, 3)
array_to_string(['p', k], '+') | array_distinct([i, i]) | array_max([i, j]) | cardinality([i, j])
range(1, 4) | string_to_array(s, ',') | flatten([[i], [j]]) | [1, 2, 3][2] | named_struct('a', i)
named_struct('a', i)['a'] | struct(i, k) | MAP {'p': i} | map_keys(MAP {'p': i})
"""

AGGREGATES = """
count(*) | count(i) | count(DISTINCT j) | sum(i) | sum(DISTINCT j) | sum(x) | sum(d) | avg(i)
mean(y) | avg(d) | min(i) | max(x) | min(s) | max(s) | min(d) | max(ts) | min(day) | min(b) | max(b)
median(i) | median(x) | stddev(y) | stddev_pop(y) | stddev_samp(i) | var(y) | var_pop(i)
var_samp(x) | covar_pop(x, y) | covar_samp(i, y) | corr(x, y) | regr_slope(y, x)
regr_intercept(y, x) | regr_count(y, x) | regr_r2(y, x)
regr_avgx(y, x) | regr_avgy(y, x) | regr_sxx(y, x)
regr_syy(y, x) | regr_sxy(y, x) | bool_and(b) | bool_or(b) | bit_and(i) | bit_or(j) | bit_xor(i)
first_value(i ORDER BY y) | last_value(s ORDER BY y DESC) | first_value(k ORDER BY x NULLS FIRST)
nth_value(i, 2 ORDER BY y) | array_agg(i ORDER BY y) | array_agg(DISTINCT j ORDER BY j)
string_agg(k, '+' ORDER BY y) | approx_distinct(i) | approx_median(j)
approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY y)
percentile_cont(0.25) WITHIN GROUP (ORDER BY y)
percentile_cont(y, 0.75) | quantile_cont(y, 0.5) | count(*) FILTER (WHERE i > 0)
sum(i) FILTER (WHERE b) | array_agg(k ORDER BY y) FILTER (WHERE i > 0) | any_value(1)
sum(i) + max(j) * 2 | count(*) * 100.0 / sum(j)
"""


def _expressions(text: str) -> list[str]:
    return [part.strip() for line in text.strip().splitlines() for part in line.split(" | ")]


def _batch(sql: str) -> pa.Table:
    config = SessionConfig().set("datafusion.sql_parser.map_string_types_to_utf8view", "false")
    context = SessionContext(config.with_target_partitions(1))
    context.from_arrow(ROWS, name="r")
    return context.sql(sql).to_arrow_table()


@pytest.mark.parametrize("expression", _expressions(SCALARS))
def test_a_scalar_function_passes_through(expression: str) -> None:
    sql = f"SELECT y, {expression} AS r FROM r"
    assert difference(ms.sql(sql, r=ROWS, batch_rows=2), _batch(sql)) is None


@pytest.mark.parametrize("grouping", ["", " GROUP BY k"])
@pytest.mark.parametrize("expression", _expressions(AGGREGATES))
def test_an_aggregate_function_passes_through(expression: str, grouping: str) -> None:
    keys = "k, " if grouping else ""
    sql = f"SELECT {keys}{expression} AS r FROM r{grouping}"
    got = ms.sql(sql + " EMIT FINAL", r=ROWS, batch_rows=2)
    assert difference(got, _batch(sql)) is None
