"""The queries of Nexmark that need no join of two streams and no changelog of a ranking.

They follow the wording in which Apache Flink's users know them. What they ask by processing time,
these ask by event time, so that there is one right answer. Left out are 3, 4, 6, 8, 9 and 20, which
join two streams, and 18 and 19, which rank without a window. Number 10 writes files.
"""

from __future__ import annotations

from dataclasses import dataclass

from perf.contenders import BatchSql

__all__ = ["QUERIES", "NexmarkQuery"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NexmarkQuery:
    """One query.

    Attributes:
        name: Number and what it asks.
        sql: For Millstream.
        batch_sql: The same over the whole table.
        keys: Columns that order the answer in only one way.
        needs_side_input: Whether it joins with the side input.
    """

    name: str
    sql: str
    batch_sql: BatchSql
    keys: tuple[str, ...]
    needs_side_input: bool = False


# Bids have no key, and several can be equal in all they show; ordered by all columns, equal rows
# are next to each other.
_BID_KEYS = ("date_time", "auction", "bidder", "price", "extra")


def _stateless(name: str, sql: str, keys: tuple[str, ...], **options: bool) -> NexmarkQuery:
    return NexmarkQuery(name=name, sql=sql, batch_sql=BatchSql(sql), keys=keys, **options)


def _windowed(
    name: str, select: str, *, groups: str, clause: str, bucket: str, keys: tuple[str, ...]
) -> NexmarkQuery:
    """Make a query that groups by a tumbling window and ``groups``."""
    return NexmarkQuery(
        name=name,
        sql=f"SELECT window_start, {select} FROM bid GROUP BY {groups} WINDOW {clause}",
        batch_sql=BatchSql(
            f"SELECT BUCKET({bucket}, date_time) AS window_start, {select}"
            f" FROM bid GROUP BY 1, {groups}"
        ),
        keys=keys,
    )


_DAY = {
    "clause": "TUMBLING(date_time, INTERVAL '1' DAY)",
    "bucket": "INTERVAL '1 day'",
}
_RANKS = (
    "count(*) AS total_bids,"
    " count(*) FILTER (WHERE price < 10000) AS rank1_bids,"
    " count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,"
    " count(*) FILTER (WHERE price >= 1000000) AS rank3_bids"
)
_DISTINCT = (
    "count(DISTINCT bidder) AS total_bidders,"
    " count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,"
    " count(DISTINCT auction) AS total_auctions,"
    " count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions"
)

_Q5_PANES = (
    "WITH p AS (SELECT BUCKET(INTERVAL '2 seconds', date_time) AS pane, auction FROM bid),"
    " counted AS (SELECT {start} AS window_start, auction, count(*) AS num"
    " FROM p CROSS JOIN (VALUES {shifts}) AS shifts(i) GROUP BY 1, 2)"
    " SELECT window_start, auction, num FROM (SELECT *, rank() OVER"
    " (PARTITION BY window_start ORDER BY num DESC) AS place FROM counted) AS ranked"
    " WHERE place = 1"
)
_Q5_DUCKDB = _Q5_PANES.format(
    start="pane - INTERVAL '1 second' * i", shifts="(0), (2), (4), (6), (8)"
)
_Q5_DATAFUSION = _Q5_PANES.format(
    start="pane - i",
    shifts=", ".join(f"(INTERVAL '{seconds} seconds')" for seconds in (0, 2, 4, 6, 8)),
)
_Q11_BATCH = (
    "WITH marked AS (SELECT bidder, date_time, CASE WHEN date_time - lag(date_time) OVER"
    " (PARTITION BY bidder ORDER BY date_time) <= INTERVAL '10 seconds' THEN 0 ELSE 1 END"
    " AS is_first FROM bid), numbered AS (SELECT bidder, date_time, sum(is_first) OVER"
    " (PARTITION BY bidder ORDER BY date_time ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    " AS session FROM marked) SELECT bidder, count(*) AS bid_count,"
    " min(date_time) AS window_start, max(date_time) + INTERVAL '10 seconds' AS window_end"
    " FROM numbered GROUP BY bidder, session"
)

QUERIES: tuple[NexmarkQuery, ...] = (
    _stateless(
        "q0 pass through", "SELECT auction, bidder, price, date_time, extra FROM bid", _BID_KEYS
    ),
    _stateless(
        "q1 currency",
        "SELECT auction, bidder, 0.908e0 * price AS price, date_time, extra FROM bid",
        _BID_KEYS,
    ),
    _stateless(
        "q2 selection",
        "SELECT auction, price, date_time FROM bid WHERE auction % 123 = 0",
        ("date_time", "auction", "price"),
    ),
    NexmarkQuery(
        name="q5 hot items",
        sql="SELECT window_start, auction, num FROM (SELECT window_start, window_end, auction, num,"
        " rank() OVER (PARTITION BY window_start, window_end ORDER BY num DESC) AS place"
        " FROM (SELECT window_start, window_end, auction, count(*) AS num FROM TABLE(HOP(TABLE bid,"
        " DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND))"
        " GROUP BY window_start, window_end, auction) AS counted) AS ranked WHERE place <= 1",
        batch_sql=BatchSql(_Q5_DUCKDB, datafusion=_Q5_DATAFUSION),
        keys=("window_start", "auction"),
    ),
    NexmarkQuery(
        name="q7 highest bid",
        sql="SELECT auction, price, bidder, date_time, extra FROM (SELECT *, rank() OVER"
        " (PARTITION BY window_start, window_end ORDER BY price DESC) AS place"
        " FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND))) AS ranked"
        " WHERE place <= 1",
        batch_sql=BatchSql(
            "SELECT auction, price, bidder, date_time, extra FROM (SELECT *, rank() OVER"
            " (PARTITION BY BUCKET(INTERVAL '10 seconds', date_time) ORDER BY price DESC) AS place"
            " FROM bid) AS ranked WHERE place = 1"
        ),
        keys=_BID_KEYS,
    ),
    NexmarkQuery(
        name="q11 sessions of bidders",
        sql="SELECT bidder, count(*) AS bid_count, window_start, window_end FROM bid"
        " GROUP BY bidder WINDOW SESSION(date_time, INTERVAL '10' SECOND)",
        batch_sql=BatchSql(_Q11_BATCH),
        keys=("bidder", "window_start"),
    ),
    _windowed(
        "q12 bids by bidder",
        "bidder, count(*) AS bid_count",
        groups="bidder",
        clause="TUMBLING(date_time, INTERVAL '10' SECOND)",
        bucket="INTERVAL '10 seconds'",
        keys=("window_start", "bidder"),
    ),
    _stateless(
        "q13 side input",
        "SELECT bid.auction, bid.bidder, bid.price, bid.date_time, side_input.value FROM bid"
        " JOIN side_input ON bid.auction % 10000 = side_input.key",
        ("date_time", "auction", "bidder", "price"),
        needs_side_input=True,
    ),
    _stateless(
        "q14 calculation",
        "SELECT auction, bidder, 0.908e0 * price AS price,"
        " CASE WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'"
        " WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20"
        " THEN 'nightTime' ELSE 'otherTime' END AS bid_time_type, date_time, extra,"
        " length(extra) - length(replace(extra, 'c', '')) AS c_counts FROM bid"
        " WHERE 0.908e0 * price > 1000000 AND 0.908e0 * price < 50000000",
        _BID_KEYS,
    ),
    NexmarkQuery(
        name="q15 statistics by day",
        sql=f"SELECT window_start, {_RANKS}, {_DISTINCT} FROM bid"
        " WINDOW TUMBLING(date_time, INTERVAL '1' DAY)",
        batch_sql=BatchSql(
            f"SELECT BUCKET(INTERVAL '1 day', date_time) AS window_start, {_RANKS}, {_DISTINCT}"
            " FROM bid GROUP BY 1"
        ),
        keys=("window_start",),
    ),
    _windowed(
        "q16 channels by day",
        f"channel, {_RANKS}, {_DISTINCT}",
        groups="channel",
        keys=("window_start", "channel"),
        **_DAY,
    ),
    _windowed(
        "q17 auctions by day",
        f"auction, {_RANKS}, min(price) AS min_price, max(price) AS max_price,"
        " avg(price) AS avg_price, sum(price) AS sum_price",
        groups="auction",
        keys=("window_start", "auction"),
        **_DAY,
    ),
    _stateless(
        "q21 channel number",
        "SELECT auction, bidder, price, channel, date_time, CASE WHEN lower(channel) = 'apple'"
        " THEN '0' WHEN lower(channel) = 'google' THEN '1' WHEN lower(channel) = 'facebook'"
        " THEN '2' WHEN lower(channel) = 'baidu' THEN '3'"
        " ELSE split_part(url, 'channel_id=', 2) END AS channel_id FROM bid",
        ("date_time", "auction", "bidder", "price", "channel"),
    ),
    _stateless(
        "q22 folders",
        "SELECT auction, bidder, price, channel, date_time, split_part(url, '/', 4) AS dir1,"
        " split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3 FROM bid",
        ("date_time", "auction", "bidder", "price", "channel"),
    ),
)
