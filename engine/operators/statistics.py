"""Statistics from moments: variances, covariances, correlation and linear regression.

A statistic of too few values is NULL, and so is a quotient by a sum of squares that is zero. Where
a value is infinite, all that is computed from distances is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.kernels.compile import F64, Bool

__all__ = ["PAIR_STATISTICS", "STATISTICS"]

Compute = Callable[[F64], pa.Array]

# Columns of a state of single values, and of one of pairs; the first is the count.
_COUNT = 0
_SQUARES = 2
_Y_MEAN, _X_MEAN, _Y_SQUARES, _X_SQUARES, _PRODUCTS = 1, 2, 3, 4, 5


def _nullable(values: npt.NDArray[np.float64], is_valid: Bool) -> pa.Array:
    values = np.ascontiguousarray(values)
    return array_from_buffers(values, pa.float64(), is_valid.view(np.uint8))


def _divided(dividends: F64, divisors: F64) -> F64:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotients: F64 = dividends / divisors
    return quotients


def _mean_of(place: int, freedom: int) -> Compute:
    """Divide a sum by the count less the degrees of freedom that are used up."""

    def compute(moments: F64) -> pa.Array:
        divisors = moments[:, _COUNT] - freedom
        return _nullable(_divided(moments[:, place], divisors), divisors > 0)

    return compute


def _root_of(place: int, freedom: int) -> Compute:
    def compute(moments: F64) -> pa.Array:
        divisors = moments[:, _COUNT] - freedom
        with np.errstate(invalid="ignore"):
            roots = np.sqrt(_divided(moments[:, place], divisors))
        return _nullable(roots, divisors > 0)

    return compute


def _value_of(place: int) -> Compute:
    return lambda moments: _nullable(moments[:, place], moments[:, _COUNT] > 0)


def _number_of_pairs(moments: F64) -> pa.Array:
    return array_from_buffers(moments[:, _COUNT].astype(np.uint64), pa.uint64(), None)


def _correlation(moments: F64) -> pa.Array:
    counts = moments[:, _COUNT]
    with np.errstate(invalid="ignore"):
        y_deviations = np.sqrt(_divided(moments[:, _Y_SQUARES], counts))
        x_deviations = np.sqrt(_divided(moments[:, _X_SQUARES], counts))
    covariances = _divided(moments[:, _PRODUCTS], counts)
    values = _divided(_divided(covariances, y_deviations), x_deviations)
    y_is_nan, x_is_nan = np.isnan(moments[:, _Y_MEAN]), np.isnan(moments[:, _X_MEAN])
    varies = (y_deviations != 0) & (x_deviations != 0)
    # DataFusion's rule for NaN: NULL where one column has it, NaN where both have.
    is_valid = (counts > 1) & varies & ~y_is_nan & ~x_is_nan
    return _nullable(values, is_valid | (y_is_nan & x_is_nan))


def _slope(moments: F64) -> pa.Array:
    slopes = _divided(moments[:, _PRODUCTS], moments[:, _X_SQUARES])
    return _nullable(slopes, _has_line(moments))


def _intercept(moments: F64) -> pa.Array:
    slopes = _divided(moments[:, _PRODUCTS], moments[:, _X_SQUARES])
    with np.errstate(invalid="ignore", over="ignore"):
        intercepts = moments[:, _Y_MEAN] - slopes * moments[:, _X_MEAN]
    return _nullable(intercepts, _has_line(moments))


def _determination(moments: F64) -> pa.Array:
    with np.errstate(invalid="ignore", over="ignore"):
        explained = moments[:, _PRODUCTS] ** 2
        total = moments[:, _X_SQUARES] * moments[:, _Y_SQUARES]
    is_valid = _has_line(moments) & (moments[:, _Y_SQUARES] != 0)
    return _nullable(_divided(explained, total), is_valid)


def _has_line(moments: F64) -> Bool:
    has_line: Bool = (moments[:, _COUNT] > 1) & (moments[:, _X_SQUARES] != 0)
    return has_line


STATISTICS: Mapping[str, Compute] = {
    "var_pop": _mean_of(_SQUARES, 0),
    "var_samp": _mean_of(_SQUARES, 1),
    "stddev_pop": _root_of(_SQUARES, 0),
    "stddev_samp": _root_of(_SQUARES, 1),
}
"""By function: the result from float64[n_groups, MOMENTS_WIDTH]."""

PAIR_STATISTICS: Mapping[str, Compute] = {
    "covar_pop": _mean_of(_PRODUCTS, 0),
    "covar_samp": _mean_of(_PRODUCTS, 1),
    "corr": _correlation,
    "regr_avgx": _value_of(_X_MEAN),
    "regr_avgy": _value_of(_Y_MEAN),
    "regr_count": _number_of_pairs,
    "regr_intercept": _intercept,
    "regr_r2": _determination,
    "regr_slope": _slope,
    "regr_sxx": _value_of(_X_SQUARES),
    "regr_sxy": _value_of(_PRODUCTS),
    "regr_syy": _value_of(_Y_SQUARES),
}
"""By function of y and x: the result from float64[n_groups, CO_MOMENTS_WIDTH]."""
