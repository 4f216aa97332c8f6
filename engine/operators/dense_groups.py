"""The quick way of partial groups to the operator that owns them, as rows have theirs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.operators.calls import Calls
from millstream.engine.state.dense_panes import DensePanes
from millstream.engine.state.key_table import KeyPart
from millstream.engine.state.pane_words import PaneWords
from millstream.engine.state.places import NOWHERE, have_nulls, place_of
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64
from millstream.planner.nodes import Aggregate as AggregateNode

__all__ = ["DenseGroups", "words_of"]

# Groups up to which those of several partitions wait for each other.
_WAITING_ROWS_MAX = 1 << 16


class DenseGroups:
    """Takes those partial groups that :class:`DensePanes` is good for.

    Args:
        key_types: Types of the key columns, one or more.
        specs: The accumulators.
        keeps_panes: As for :class:`DensePanes`.

    Attributes:
        panes: The groups. Before it is asked for anything, :meth:`settle` has to be called.
    """

    def __init__(
        self,
        key_types: Sequence[pa.DataType],
        specs: Sequence[WordSpec],
        *,
        keeps_panes: bool = False,
    ) -> None:
        self.panes = DensePanes(key_types, specs, merges=True, keeps_panes=keeps_panes)
        self._waiting: list[PaneWords] = []
        self._n_waiting = 0

    @classmethod
    def for_node(
        cls, node: AggregateNode, rows_schema: pa.Schema, calls: Calls
    ) -> DenseGroups | None:
        """Return one for an aggregate, or None if it has keys or calls that do not suit it."""
        specs = words_of(calls)
        if specs is None or not node.keys:
            return None
        assert node.window is not None, "groups of panes"
        key_types = [rows_schema.field(key).type for key in node.keys]
        return cls(key_types, specs, keeps_panes=node.window.kind != "tumble")

    @classmethod
    def suits(cls, node: AggregateNode, rows_schema: pa.Schema) -> bool:
        """Say whether :meth:`for_node` returns one."""
        return cls.for_node(node, rows_schema, Calls(node.calls, rows_schema, {})) is not None

    @property
    def has_groups(self) -> bool:
        """Whether there are groups, waiting ones included."""
        return bool(self._waiting or self.panes.numbers())

    def add(self, groups: PaneWords) -> bool:
        """Add groups as they come out of state or, returning False, do not."""
        if not self.panes.takes(groups.pane):
            return False
        self._waiting.append(groups)
        self._n_waiting += groups.n_groups
        # What comes from several partitions in a step is added in one go.
        if self._n_waiting >= _WAITING_ROWS_MAX:
            self.settle()
        return True

    def add_arrays(self, panes: I64, keys: Sequence[pa.Array], states: Sequence[pa.Array]) -> bool:
        """Add groups with the pane of each or, returning False, none of them.

        Args:
            panes: int64[n_groups].
            keys: Key columns.
            states: Accumulators.
        """
        pane = int(panes[0])
        if not self.panes.takes(pane) or not bool((panes == pane).all()):
            return False
        rows = [NOWHERE] if self.panes.counts_rows else []
        places = np.array([[*map(place_of, states), *rows]], np.int64)
        if have_nulls(places):
            return False
        self.settle()
        self.panes.add([KeyPart(keys, (), len(panes))], [pane], places)
        return True

    def settle(self) -> None:
        """Add what waits."""
        if self._waiting:
            waiting, self._waiting, self._n_waiting = self._waiting, [], 0
            self.panes.add_words(waiting)


def words_of(calls: Calls) -> list[WordSpec] | None:
    """Return the accumulators of calls, or None if they are not all words, or not enough."""
    words = [spec for spec in calls.specs if isinstance(spec, WordSpec)]
    return None if calls.keeps_rows or len(words) < len(calls.specs) else words
