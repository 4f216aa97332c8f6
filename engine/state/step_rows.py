"""Rows of several steps, and the groups that each of them touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.kernels.compile import I64, U32
from millstream.kernels.touched import find_touched

__all__ = ["AssignedSteps", "StepRows", "StepStates", "distinct_groups"]


@dataclass(frozen=True, slots=True)
class StepRows:
    """Rows of several steps, by their groups.

    Attributes:
        group_ids: uint32[n_rows].
        bounds: int64[n_parts + 1], where each part of them begins and the last one ends.
        parts: int64[n_steps + 1], the first part of each step, and the number of parts.
        n_groups: int64[n_steps + 1], the number of groups before and after each step.
        touched: uint32[n], the groups of each step, each once and in ascending order.
        touched_bounds: int64[n_steps + 1], where those of each step begin, and the end.
    """

    group_ids: U32
    bounds: I64
    parts: I64
    n_groups: I64
    touched: U32
    touched_bounds: I64

    @classmethod
    def of(
        cls, group_ids: U32, bounds: I64, parts: I64, *, n_before: int, n_groups: int
    ) -> StepRows:
        """Find out what steps touch.

        Args:
            group_ids: uint32[n_rows], the group of each row, numbered as they first came.
            bounds: int64[n_parts + 1], where each part begins and the last one ends.
            parts: int64[n_steps + 1], the first part of each step, and the number of parts.
            n_before: Number of groups before.
            n_groups: Number of groups with these rows.
        """
        counts = np.empty(len(parts), np.int64)
        counts[0] = n_before
        touched, touched_bounds = np.empty(len(group_ids), np.uint32), np.empty_like(counts)
        marks = np.zeros(n_groups, np.uint8)
        find_touched(group_ids, bounds[parts], counts, marks, touched, touched_bounds)
        touched = touched[: touched_bounds[-1]]
        return cls(group_ids, bounds, parts, counts, touched, touched_bounds)


class AssignedSteps(NamedTuple):
    """Rows of several steps that have their groups, and are yet to be added.

    Attributes:
        rows: The rows.
        places: int64[n_parts, n_accumulators, PLACE_WORDS], where the values lie.
        values: What they lie in.
    """

    rows: StepRows
    places: I64
    values: object


@dataclass(frozen=True, slots=True)
class StepStates:
    """What the groups that several steps touch hold after each of them.

    Attributes:
        group_ids: uint32[n], the groups, step by step.
        bounds: int64[n_steps + 1], where those of each step begin, and the end.
        states: One array[n] per accumulator.
    """

    group_ids: U32
    bounds: I64
    states: list[pa.Array]


def distinct_groups(touched: Sequence[U32], n_groups: int) -> U32:
    """Return each group once and in ascending order.

    Args:
        touched: uint32[n_rows] each, one or more.
        n_groups: Number of groups.
    """
    group_ids = touched[0] if len(touched) == 1 else np.concatenate(touched)
    bounds, one = np.array([0, len(group_ids)], np.int64), np.array([0, 1], np.int64)
    return StepRows.of(group_ids, bounds, one, n_before=n_groups, n_groups=n_groups).touched
