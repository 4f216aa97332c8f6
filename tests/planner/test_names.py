"""Names of columns and relations, and what they mean."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.planner import plan_query
from millstream.planner.catalog import StreamDefinition


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT symbol, PRICE, t.quantity FROM trades t", ["symbol", "price", "quantity"]),
        ('SELECT "Flag", symbol AS "My Symbol" FROM trades', ["Flag", "My Symbol"]),
        ("SELECT COUNT(*), Avg(Price) FROM trades", ["count(*)", "avg(price)", "_op"]),
        ("SELECT price * 2, 'A' || symbol FROM trades", ["price * 2", "'A' || symbol"]),
        ("SELECT details.venue FROM trades", ["venue"]),
        ("SELECT N AS Ñandú, k AS ñ FROM ticks", ["Ñandú", "ñ"]),
    ],
)
def test_output_columns_are_called_by_alias_column_or_text(plan, sql, names):
    assert plan(sql).schema.names == names


def test_a_star_gives_the_columns_of_all_relations_in_order(plan):
    assert plan("SELECT * FROM ticks").schema.names == ["k", "n", "at"]
    assert plan("SELECT s.* FROM trades JOIN symbols s ON true").schema.names == ["symbol", "name"]
    assert plan("SELECT * EXCEPT (n) FROM ticks").schema.names == ["k", "at"]


def test_types_and_nullability_of_the_stream_are_kept(catalog):
    schema = pa.schema(
        [
            pa.field("a", pa.dictionary(pa.int32(), pa.string())),
            pa.field("b", pa.string_view()),
            pa.field("c", pa.int8(), nullable=False),
            pa.field("d", pa.timestamp("us", "Europe/Berlin")),
        ]
    )
    catalog.streams["kinds"] = StreamDefinition("kinds", schema)
    assert plan_query("SELECT * FROM kinds", catalog).schema.equals(schema)


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        ("SELECT ^pric FROM trades", "unknown column 'pric'; did you mean 'price'?"),
        (
            "SELECT ^flag FROM trades",
            "unknown column 'flag'; write \"Flag\", since unquoted names are lower-case",
        ),
        ("SELECT ^x.price FROM trades t", "unknown relation 'x'; there are t"),
        ("SELECT k FROM ticks WHERE ^zzz > 1", "unknown column 'zzz'; there are k, n, at"),
        ("SELECT price FROM ^trade", "unknown stream or table 'trade'; did you mean 'trades'?"),
        (
            "SELECT name FROM ^symbols",
            "'symbols' is a table, which can only be joined with a stream that stands before it; "
            "declare it as a stream to query it alone",
        ),
        (
            "SELECT price, ^price FROM trades",
            "two output columns are called 'price'; give one an alias with AS",
        ),
        (
            "SELECT ^price AS _op FROM trades",
            "names that begin with two underscores, and _op, are reserved: '_op'",
        ),
        (
            "SELECT ^symbol FROM trades JOIN symbols ON true",
            "column 'symbol' is ambiguous; write trades.symbol or symbols.symbol",
        ),
        ("SELECT ^summ(price) FROM trades", "unknown function 'summ'; did you mean 'sum'?"),
        ("SELECT ^row_number() FROM trades", "row_number needs OVER"),
        (
            "SELECT window_end FROM ^'file.parquet'",
            "unknown stream or table 'file.parquet'; there are",
        ),
        ("SELECT ^window_end FROM trades", "unknown column 'window_end': the query has no window"),
    ],
)
def test_an_unknown_name_is_refused_with_its_place_and_what_was_meant(refusal, marked, reason):
    assert refusal(marked).reason.startswith(reason)


@pytest.mark.parametrize(
    ("marked", "reason"),
    [
        (
            'SELECT price FROM trades WHERE abs(^symbol + ts) > 2 AND "Flag"',
            "cannot coerce arithmetic expression Utf8 + Timestamp(ms) to valid types",
        ),
        ("SELECT quantity, ^sqrt() FROM trades", "no function matches sqrt()"),
        ("SELECT k, ^sum(k) FROM ticks GROUP BY k", "no function matches sum(Utf8)"),
        ("SELECT 1 + ^cast(k AS nothing) FROM ticks", "unsupported SQL type nothing"),
        ("SELECT k FROM ticks WHERE ^n", "cannot create filter with non-boolean predicate 'n'"),
    ],
)
def test_a_wrong_type_is_refused_at_the_smallest_part_that_is_wrong(refusal, marked, reason):
    assert refusal(marked).reason.startswith(reason)


def test_an_error_in_a_long_query_points_into_its_line(refusal):
    error = refusal("SELECT symbol,\n       ^pric\nFROM trades")
    assert str(error).splitlines()[1:] == ["         pric", "         ^"]
