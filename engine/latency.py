"""A histogram of latencies with buckets that grow geometrically, for quantiles of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["Latencies", "LatencyHistogram"]

# Each power of two is cut into this many buckets, so that a quantile is off by at most 1/16.
_SUB_BITS = 4
_SUB = 1 << _SUB_BITS
_BUCKETS = 64 << _SUB_BITS


class LatencyHistogram:
    """Counts durations; written by one thread at a time."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.total_ns = 0

    @classmethod
    def merged(cls, histograms: Iterable[LatencyHistogram]) -> LatencyHistogram:
        """Return a histogram of what several have counted."""
        merged = cls()
        for histogram in histograms:
            merged.total_ns += histogram.total_ns
            merged._counts = [
                ours + theirs
                for ours, theirs in zip(merged._counts, histogram._counts, strict=True)
            ]
        return merged

    @property
    def n(self) -> int:
        """Number of durations."""
        return sum(self._counts)

    def record_all(self, durations_ns: Iterable[int]) -> None:
        """Count durations in nanoseconds; negative ones count as zero."""
        counts, total_ns = self._counts, 0
        for duration_ns in durations_ns:
            if duration_ns >= _SUB:
                # As _bucket, without a call for each.
                shift = duration_ns.bit_length() - 1 - _SUB_BITS
                counts[((shift + 1) << _SUB_BITS) + (duration_ns >> shift) - _SUB] += 1
                total_ns += duration_ns
            else:
                positive_ns = max(duration_ns, 0)
                counts[positive_ns] += 1
                total_ns += positive_ns
        self.total_ns += total_ns

    def quantile_us(self, fraction: float) -> float | None:
        """Return the microseconds that ``fraction`` of all stayed within, or None without any."""
        (quantile,) = self.quantiles_us([fraction])
        return quantile

    def quantiles_us(self, fractions: Sequence[float]) -> list[float | None]:
        """Return :meth:`quantile_us` of ascending fractions."""
        counts = self._counts.copy()
        n, seen, bucket = sum(counts), 0, -1
        if n == 0:
            return [None] * len(fractions)
        quantiles: list[float | None] = []
        for fraction in fractions:
            while seen == 0 or seen < fraction * n:
                bucket += 1
                seen += counts[bucket]
            quantiles.append(_upper_bound_ns(bucket) / 1000)
        return quantiles

    def cumulative(self, exponents: Iterable[int]) -> list[int]:
        """Return how many durations stayed below 2 to each of some ascending powers, in ns."""
        counts = self._counts.copy()
        totals, seen, bucket = [], 0, 0
        for exponent in exponents:
            end = _bucket(1 << exponent)
            seen += sum(counts[bucket:end])
            bucket = end
            totals.append(seen)
        return totals


class Latencies:
    """What a partition's thread records.

    Attributes:
        parts: Times from push until the partition has done its part in an item.
        items: Times from push until an item is complete, for those that this partition completed.
    """

    def __init__(self) -> None:
        self.parts = LatencyHistogram()
        self.items = LatencyHistogram()


def _bucket(value: int) -> int:
    if value < _SUB:
        return value
    shift = value.bit_length() - 1 - _SUB_BITS
    return ((shift + 1) << _SUB_BITS) + (value >> shift) - _SUB


def _upper_bound_ns(bucket: int) -> int:
    if bucket < _SUB:
        return bucket
    shift = (bucket >> _SUB_BITS) - 1
    return ((bucket & (_SUB - 1)) + _SUB + 1 << shift) - 1
