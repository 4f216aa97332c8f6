"""The accumulators of one pane, for keys that have the same numbers in all panes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.state.pane_sums import rows_at
from millstream.engine.state.word_states import STATE_DTYPE
from millstream.engine.state.words import Words, WordSpec
from millstream.kernels.compile import I64, U32
from millstream.kernels.panes import add_pane, add_pane_shortly

__all__ = ["DensePane"]

_CAPACITY_LEAST = 64
# The words of so many keys are added while the GIL is kept.
_FEW_KEYS = 1 << 14


class DensePane:
    """Accumulators of a pane.

    As long as all that comes are partial groups in the order of the keys, they are a block of words
    that others are added to; else they are kept as any others.

    Args:
        words: Accumulators without groups.
        specs: What they are.

    Attributes:
        n_keys_before: How many keys there were before the pane.
        is_adopted: Whether memory came with partial groups, and may be a part of more.
        n_present: How many keys have rows, or None if nobody has counted them.
    """

    __slots__ = (
        "_addresses",
        "_block",
        "_capacity",
        "_room",
        "_specs",
        "_words",
        "is_adopted",
        "n_keys_before",
        "n_present",
    )

    def __init__(self, words: Words, specs: Sequence[WordSpec]) -> None:
        self._words = words
        self._specs = specs
        self.n_keys_before = 0
        self.is_adopted = False
        self.n_present: int | None = None
        self._capacity = 0
        # int64[n_accumulators, n_groups], each row in one piece.
        self._block: I64 | None = None
        self._addresses: I64 | None = None
        # Memory for blocks, if they are copied: int64[n_accumulators, n_most].
        self._room: I64 | None = None

    @property
    def n_groups(self) -> int:
        """Number of keys, from the first on, that there are accumulators of."""
        return self._words.n_groups if self._block is None else self._block.shape[1]

    @property
    def state_bytes(self) -> int:
        """Bytes of accumulators."""
        n_bytes = self._words.state_bytes
        if self._room is not None:
            return n_bytes + self._room.nbytes
        return n_bytes if self._block is None else n_bytes + self._block.nbytes

    def counts(self, step: int) -> I64:
        """View what an accumulator that counts holds: int64[n_groups], not to be kept."""
        return self._words.counts(step) if self._block is None else self._block[step]

    def addresses(self) -> I64:
        """Return where the accumulators lie: int64[n_accumulators], good until something is added.

        They hold something up to the number of groups.
        """
        if self._addresses is None:
            block = self._block
            self._addresses = self._words.addresses() if block is None else rows_at(block)
        return self._addresses

    def take(self, group_ids: U32 | slice) -> list[pa.Array]:
        """Return the accumulators of some keys; a slice is not copied."""
        if self._block is None:
            return self._words.take(group_ids)
        return [
            array_from_buffers(
                words[group_ids].view(STATE_DTYPE[spec.opcode]), spec.state_type, None
            )
            for spec, words in zip(self._specs, self._block, strict=True)
        ]

    def clear(self) -> None:
        """Forget all groups, and use the memory for others; nobody else may have it."""
        self._words.clear()
        self._block = self._addresses = self.n_present = None

    def begin(self, n_keys: int) -> I64:
        """Begin with accumulators of the first keys, which the caller puts here.

        Returns:
            int64[n_accumulators, n_keys], out. None is NULL.
        """
        shape = len(self._specs), n_keys
        if self._room is None or self._room.shape[1] < n_keys:
            self._room = np.empty(shape, np.int64)
        self._block, self._addresses = self._room[:, :n_keys], None
        return self._block

    def adopt(self, block: I64) -> None:
        """Begin with accumulators of the first keys: int64[n_accumulators, n_keys].

        Nobody else writes to them. None is NULL.
        """
        self._block, self._addresses, self.is_adopted = block, None, True

    def add_in_order(self, opcodes: I64, block: I64) -> None:
        """Add accumulators of the first keys by these opcodes."""
        n_keys, self.n_present = block.shape[1], None
        if self._block is None or n_keys > self._block.shape[1]:
            self._leave_block()
            self._reserve(n_keys)
            self._words.make_room(n_keys)
        add = add_pane_shortly if n_keys <= _FEW_KEYS else add_pane
        add(opcodes, rows_at(block), self.addresses(), n_keys)

    def add(self, places: I64, bounds: I64, group_ids: U32, n_keys: int) -> None:
        """Add rows: see :meth:`Words.update_at`."""
        self.n_present = None
        self._leave_block()
        self._reserve(n_keys)
        # Of a key without rows nobody asks, so that it does not matter what is noted of it.
        self._words.update_at(places, bounds, group_ids, n_keys, new_have_rows=True)

    def merge(self, states: Sequence[pa.Array], group_ids: U32, n_keys: int) -> None:
        """Add accumulators: see :meth:`Words.merge`."""
        self.n_present = None
        self._leave_block()
        self._reserve(n_keys)
        self._words.merge(states, group_ids, n_keys)

    def _leave_block(self) -> None:
        if self._block is not None:
            self._words.adopt(list(self._block))
            self._capacity = self._block.shape[1]
            self._block = self._addresses = self._room = None

    def _reserve(self, n_keys: int) -> None:
        if n_keys > self._capacity:
            before, self._capacity = self._capacity, _capacity(self._capacity, n_keys)
            self._words.reallocate(self._capacity, slice(0, before))
            self._addresses, self.is_adopted = None, False


def _capacity(before: int, n_keys: int) -> int:
    # A new pane will hardly get more keys than there are.
    return max(_CAPACITY_LEAST, n_keys, 2 * before)
