"""A histogram of latencies with buckets that grow geometrically, for quantiles of all of them."""

from __future__ import annotations

__all__ = ["LatencyHistogram"]

# Each power of two is cut into this many buckets, so that a quantile is off by at most 1/16.
_SUB_BITS = 4
_SUB = 1 << _SUB_BITS


class LatencyHistogram:
    """Counts durations; written by one thread at a time."""

    def __init__(self) -> None:
        self._counts = [0] * (64 << _SUB_BITS)
        self.n = 0

    def record(self, duration_ns: int) -> None:
        """Count one duration in nanoseconds; negative ones count as zero."""
        self._counts[_bucket(max(duration_ns, 0))] += 1
        self.n += 1

    def quantile_us(self, fraction: float) -> float | None:
        """Return the microseconds that ``fraction`` of all stayed within, or None without any."""
        if self.n == 0:
            return None
        wanted = fraction * self.n
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= wanted:
                return _upper_bound_ns(bucket) / 1000
        return None


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
