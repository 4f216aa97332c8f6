"""Makes persons, auctions and bids, whole columns at a time.

The proportions and the skew are those of the benchmark that Apache Beam ships: of fifty events, one
is a person, three are auctions and the rest are bids; half of the bids are for hot auctions, three
quarters are by hot bidders, and three quarters of the auctions are by hot sellers. Events are
numbered from 0 and evenly spaced in time. The texts are drawn from pools, since their variety costs
time to make and makes no query harder.

References:
    P. Tucker, K. Tufte, V. Papadimos, D. Maier: NEXMark, a benchmark for queries over data
    streams. 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from perf.cases import Inputs

__all__ = ["EVENTS_PER_SECOND", "FIRST_EVENT_MS", "SIDE_KEYS", "nexmark", "side_input"]

I64: TypeAlias = npt.NDArray[np.int64]

EVENTS_PER_SECOND = 10_000
# Midday, so that a query which asks for the time of day finds some, and a day ends soon enough.
FIRST_EVENT_MS = 1_436_961_600_000
SIDE_KEYS = 10_000

_EVENTS_PER_EPOCH = 50
_PERSONS, _AUCTIONS = 1, 3
_FIRST_PERSON = _FIRST_AUCTION = 1000
_FIRST_CATEGORY, _CATEGORIES = 10, 5
# The last of so many is hot.
_HOT_SELLERS = _HOT_BIDDERS = _HOT_AUCTIONS = 100
_ACTIVE_PERSONS, _ACTIVE_AUCTIONS = 1000, 100
_CHANNELS = 10_000
_HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
_STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
_CITIES = (
    "Phoenix",
    "Los Angeles",
    "San Francisco",
    "Boise",
    "Portland",
    "Bend",
    "Redmond",
    "Seattle",
    "Kent",
    "Cheyenne",
)
_FIRST_NAMES = (
    "Peter",
    "Paul",
    "Luke",
    "John",
    "Saul",
    "Vicky",
    "Kate",
    "Julie",
    "Sarah",
    "Deiter",
)
_LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones")
_POOL = 1000
_EXTRA_CHARACTERS = 20
_SEED = 7


def nexmark(n_events: int) -> Inputs:
    """Make the three streams of the first ``n_events`` events."""
    random = np.random.default_rng(_SEED)
    numbers = np.arange(n_events, dtype=np.int64)
    places = numbers % _EVENTS_PER_EPOCH
    texts = _texts(random)
    return {
        "person": _persons(numbers[places < _PERSONS], texts, random),
        "auction": _auctions(
            numbers[(places >= _PERSONS) & (places < _PERSONS + _AUCTIONS)], texts, random
        ),
        "bid": _bids(numbers[places >= _PERSONS + _AUCTIONS], texts, random),
    }


def side_input() -> pa.Table:
    """Make the table that bids are joined with."""
    keys = np.arange(SIDE_KEYS, dtype=np.int64)
    return pa.table({"key": keys, "value": [f"value-{key}" for key in keys.tolist()]})


def _persons(numbers: I64, texts: pa.Array, random: np.random.Generator) -> pa.Table:
    n = len(numbers)
    first, last = _drawn(_FIRST_NAMES, n, random), _drawn(_LAST_NAMES, n, random)
    return pa.table(
        {
            "id": _FIRST_PERSON + numbers // _EVENTS_PER_EPOCH,
            "name": pc.binary_join_element_wise(first, last, " "),
            "email_address": pc.binary_join_element_wise(
                pc.utf8_lower(first), pc.utf8_lower(last), "@"
            ),
            "city": _drawn(_CITIES, n, random),
            "state": _drawn(_STATES, n, random),
            "date_time": _times(numbers),
            "extra": _taken(texts, n, random),
        }
    )


def _auctions(numbers: I64, texts: pa.Array, random: np.random.Generator) -> pa.Table:
    n = len(numbers)
    initial = _prices(n, random)
    lengths_ms = random.integers(1000, 20_000, n)
    is_hot = random.random(n) < 0.75
    return pa.table(
        {
            "id": _last_auction(numbers),
            "item_name": _taken(texts, n, random),
            "description": _taken(texts, n, random),
            "initial_bid": initial,
            "reserve": initial + _prices(n, random),
            "date_time": _times(numbers),
            "expires": pa.array(_times_ms(numbers) + lengths_ms, pa.timestamp("ms")),
            "seller": _some_person(numbers, is_hot, _HOT_SELLERS, 0, random),
            "category": _FIRST_CATEGORY + random.integers(0, _CATEGORIES, n),
            "extra": _taken(texts, n, random),
        }
    )


def _bids(numbers: I64, texts: pa.Array, random: np.random.Generator) -> pa.Table:
    n = len(numbers)
    last = _last_auction(numbers)
    hot_auction = last // _HOT_AUCTIONS * _HOT_AUCTIONS
    oldest = np.maximum(last - _ACTIVE_AUCTIONS, _FIRST_AUCTION)
    any_auction = oldest + (random.random(n) * (last - oldest + 1)).astype(np.int64)
    auction = np.where(random.random(n) < 0.5, np.maximum(hot_auction, oldest), any_auction)
    channel, url = _channels(n, random)
    return pa.table(
        {
            "auction": auction,
            "bidder": _some_person(numbers, random.random(n) < 0.75, _HOT_BIDDERS, 1, random),
            "price": _prices(n, random),
            "channel": channel,
            "url": url,
            "date_time": _times(numbers),
            "extra": _taken(texts, n, random),
        }
    )


def _times_ms(numbers: I64) -> I64:
    times_ms: I64 = FIRST_EVENT_MS + numbers * 1000 // EVENTS_PER_SECOND
    return times_ms


def _times(numbers: I64) -> pa.Array:
    return pa.array(_times_ms(numbers), pa.timestamp("ms"))


def _last_auction(numbers: I64) -> I64:
    """Return the number of the latest auction that exists when an event happens."""
    epochs, places = np.divmod(numbers, _EVENTS_PER_EPOCH)
    in_epoch = np.clip(places - _PERSONS, 0, _AUCTIONS - 1)
    auctions: I64 = _FIRST_AUCTION + epochs * _AUCTIONS + in_epoch
    return auctions


def _some_person(
    numbers: I64,
    is_hot: npt.NDArray[np.bool_],
    one_in: int,
    shift: int,
    random: np.random.Generator,
) -> I64:
    last = numbers // _EVENTS_PER_EPOCH
    # Hot bidders and hot sellers are different people.
    hot = np.minimum(last // one_in * one_in + shift, last)
    n_active = np.minimum(last + 1, _ACTIVE_PERSONS)
    chosen = last - (random.random(len(numbers)) * n_active).astype(np.int64)
    person: I64 = _FIRST_PERSON + np.where(is_hot, hot, chosen)
    return person


def _prices(n: int, random: np.random.Generator) -> I64:
    """Draw prices in cents, evenly over their orders of magnitude."""
    return np.round(10 ** (random.random(n) * 6) * 100).astype(np.int64)


def _channels(n: int, random: np.random.Generator) -> tuple[pa.Array, pa.Array]:
    names = [*_HOT_CHANNELS, *(f"channel-{number}" for number in range(_CHANNELS))]
    folders = _texts(random).to_pylist()
    urls = [
        f"https://www.nexmark.com/{folders[number % _POOL]}/{folders[number * 7 % _POOL]}/item.htm"
        f"?query=1&channel_id={number}"
        for number in range(len(names))
    ]
    n_hot = len(_HOT_CHANNELS)
    is_hot = random.random(n) < 0.5
    codes = np.where(
        is_hot, random.integers(0, n_hot, n), n_hot + random.integers(0, _CHANNELS, n)
    ).astype(np.int32)
    indices = pa.array(codes)
    return pa.array(names).take(indices), pa.array(urls).take(indices)


def _texts(random: np.random.Generator) -> pa.Array:
    letters = random.integers(ord("a"), ord("z") + 1, (_POOL, _EXTRA_CHARACTERS)).astype(np.uint8)
    return pa.array([row.tobytes().decode() for row in letters])


def _drawn(texts: Sequence[str], n: int, random: np.random.Generator) -> pa.Array:
    return _taken(pa.array(texts), n, random)


def _taken(texts: pa.Array, n: int, random: np.random.Generator) -> pa.Array:
    return texts.take(pa.array(random.integers(0, len(texts), n).astype(np.int32)))
