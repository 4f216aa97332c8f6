"""The row that was sent last for each group, and what of a batch of rows is news beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.state.equality import equal_values
from millstream.engine.state.row_store import RowStore
from millstream.engine.state.state_columns import resized
from millstream.engine.taking import take, take_rows
from millstream.kernels.compile import I64, U8, U16, U32, Bool
from millstream.kernels.news import NewsField, write_news, write_news_shortly
from millstream.kernels.versions import (
    BEFORE,
    Change,
    ColumnField,
    WordField,
    pair_versions,
    replace_versions,
)

__all__ = ["SentRows", "Versions"]

_CAPACITY_LEAST = 64
_NULLS_PER_WORD = 64
_AFTER = -1
_FOUND = slice(ColumnField.VALUES, ColumnField.WIDTH)
# The news of so many groups are made while the GIL is kept.
_FEW_ROWS = 1 << 11
# Below this many rows that nobody refers to, rewriting costs more than it frees.
_GARBAGE_ROWS_MIN = 4096
# Of floats by their width: the bits without the sign, and those of an infinity.
_FLOATS = {
    16: ((1 << 15) - 1, 0x7C00),
    32: ((1 << 31) - 1, 0x7F80_0000),
    64: ((1 << 63) - 1, 0x7FF0_0000_0000_0000),
}


class Versions(NamedTuple):
    """Rows beside those that were sent last before them.

    Attributes:
        changes: uint8[n_rows] of :class:`Change`.
        n_new: Rows of groups without one until now.
        n_updated: Rows that take the place of others.
        n_moved: Rows that take the place of others with another key.
        words: int64[n_rows, n_words], what was sent before of rows that are updated or moved.
        group_ids: uint32[n_rows].
        positions: int64[n_rows], where the columns without words were before, if there are any.
    """

    changes: U8
    n_new: int
    n_updated: int
    n_moved: int
    words: I64
    group_ids: U32
    positions: I64 | None


class SentRows:
    """Rows by group, one each, most of their values as words that one kernel compares.

    Values of variable width and nested ones are kept as Arrow rows. Those of keys never change, for
    they are what a group is; only the windows of sessions do.

    Args:
        schema: Schema of the rows.
        key_columns: Columns with the keys of groups.
        keys_move: Whether keys of fixed width may change, as the windows of sessions do.
        are_given_back: Whether rows are ever asked for. If not, keys without words are not kept.
    """

    def __init__(
        self,
        schema: pa.Schema,
        key_columns: Sequence[str],
        *,
        keys_move: bool,
        are_given_back: bool,
    ) -> None:
        self._schema = schema
        self._columns: list[tuple[int, pa.DataType]] = []
        constant: list[int] = []
        variable: list[int] = []
        words: list[tuple[int, int, int]] = []
        program = np.zeros((len(schema), len(ColumnField)), np.int64)
        for place, field in enumerate(schema):
            is_key = field.name in key_columns
            if not _has_words(field.type):
                (constant if is_key else variable).append(place)
                continue
            width = field.type.bit_width
            step = program[len(self._columns)]
            step[ColumnField.WIDTH], step[ColumnField.WORD] = width, len(words)
            self._columns.append((place, field.type))
            floats = _FLOATS[width] if pa.types.is_floating(field.type) else (0, 0)
            words += [(*floats, int(is_key and keys_move))] * (2 if width == 128 else 1)
        self._program = program[: len(self._columns)]
        self._null_word = len(words)
        words += [(0, 0, 0)] * -(-len(self._columns) // _NULLS_PER_WORD)
        self._words = np.array(words, np.int64).reshape(len(words), len(WordField))
        self._are_given_back = are_given_back
        keeps_keys = bool(constant) and are_given_back
        self._constant = _ArrowColumns(schema, constant) if keeps_keys else None
        self._variable = _ArrowColumns(schema, variable) if variable else None
        self._sent = np.empty((0, len(words)), np.int64)
        self._replaced = np.empty((0, len(words)), np.int64)
        self._is_sent = np.empty(0, np.uint8)
        self.n_rows = 0

    @property
    def capacity(self) -> int:
        """Number of groups that there is room for."""
        return len(self._is_sent)

    @property
    def has_variable(self) -> bool:
        """Whether some values are kept as Arrow rows that may change."""
        return self._variable is not None

    @property
    def state_bytes(self) -> int:
        """Bytes of all rows."""
        arrow = sum(columns.state_bytes for columns in self._arrow_columns())
        return self._sent.nbytes + self._replaced.nbytes + self._is_sent.nbytes + arrow

    def reserve(self, n_groups: int) -> None:
        """Make room for at least ``n_groups``."""
        if n_groups > self.capacity:
            capacity = max(_CAPACITY_LEAST, n_groups, 2 * self.capacity)
            self._reallocate(capacity, slice(0, self.capacity))

    def are_sent(self, group_ids: U32) -> Bool:
        """Say of groups whether a row of theirs was sent: bool[n]."""
        return self._is_sent[group_ids].view(np.bool_)

    def replace(self, columns: Sequence[pa.Array], group_ids: U32) -> Versions:
        """Compare rows with those sent last, and put them in their place where they differ.

        Args:
            columns: The columns of the schema.
            group_ids: uint32[n_rows], the group of each row. There has to be room for them. A group
                may come again, with a later row, unless some values are kept as Arrow rows.
        """
        n_rows = len(group_ids)
        changes = np.zeros(n_rows, np.uint8)
        positions = None
        if self._variable is not None:
            positions = self._variable.positions[group_ids]
            known = np.flatnonzero(self._is_sent[group_ids])
            if len(known) > 0:
                are_equal = self._variable.are_equal(columns, known, positions[known])
                changes[known[~are_equal]] = Change.UPDATED
        self._locate(columns)
        words = self._words_for(n_rows)
        n_new, n_updated, n_moved = replace_versions(
            self._program,
            self._words,
            self._null_word,
            group_ids,
            self._sent,
            self._is_sent,
            words,
            changes,
        )
        self.n_rows += n_new
        if self._constant is not None and n_new > 0:
            self._constant.put(columns, np.flatnonzero(changes == Change.NEW), group_ids)
        if self._variable is not None and n_new + n_updated + n_moved > 0:
            self._variable.put(columns, np.flatnonzero(changes), group_ids)
        return Versions(changes, n_new, n_updated, n_moved, words, group_ids, positions)

    def describe(self, place: int, column: I64) -> bool:
        """Fill in what :meth:`write_news` has to know of where a column is kept.

        Args:
            place: The column.
            column: int64[len(NewsField)], in and out.

        Returns:
            Whether values of the column are kept in one word, or not at all.
        """
        index = next((i for i, (known, _) in enumerate(self._columns) if known == place), None)
        if index is None:
            column[NewsField.WORD] = -1
            return self._variable is None and self._constant is None
        width, word = self._program[index, [ColumnField.WIDTH, ColumnField.WORD]].tolist()
        column[NewsField.WORD] = word
        column[NewsField.MASK] = -1 if width >= 64 else (1 << width) - 1
        column[NewsField.MAGNITUDE] = self._words[word, WordField.MAGNITUDE]
        column[NewsField.INFINITY] = self._words[word, WordField.INFINITY]
        return width <= 64 and not self._words[word, WordField.IS_KEY]

    def write_news(
        self, columns: I64, group_ids: U32, codes: U16, news: I64, ops: U16, at: int
    ) -> int:
        """Make rows of groups, and keep those that differ from the ones sent last in their place.

        Args:
            columns: int64[n_columns, len(NewsField)], what the columns are made of, described by
                :meth:`describe`. No value is NULL.
            group_ids: uint32[n_rows], each once.
            codes: uint16[2], what stands in ``ops`` for new rows and for updated ones.
            news: int64[n_columns, n_most], gets the words of rows that differ.
            ops: uint16[n_most], gets their codes.
            at: Where the first of them goes.

        Returns:
            Where the next would go.
        """
        self.reserve(int(group_ids.max()) + 1)
        write = write_news_shortly if len(group_ids) <= _FEW_ROWS else write_news
        at, n_new = write(columns, group_ids, self._sent, self._is_sent, codes, news, ops, at)
        self.n_rows += n_new
        return at

    def pairs(
        self, columns: Sequence[pa.Array], versions: Versions, *, shows_updated: bool
    ) -> tuple[list[pa.Array], U8]:
        """List rows that are news, each behind the one in whose place it comes.

        Args:
            columns: What was given to :meth:`replace`, which was called last.
            versions: What it returned.
            shows_updated: Whether to list rows, too, whose key those that come after them have.

        Returns:
            The columns, and for each row uint8 of :class:`Change`, with ``BEFORE`` added for those
            in whose place others come.
        """
        n_most = len(versions.changes) + versions.n_updated + versions.n_moved
        words = np.empty((n_most, len(self._words)), np.int64)
        kinds, places = np.empty(n_most, np.uint8), np.empty(n_most, np.int64)
        n_rows = pair_versions(
            versions.changes,
            versions.group_ids,
            versions.words,
            self._sent,
            shows_updated,
            words,
            kinds,
            places,
        )
        words, kinds, places = words[:n_rows], kinds[:n_rows], places[:n_rows]
        arrays = self._decoded(words)
        if self._constant is not None:
            # A group's keys are the same before and after.
            self._constant.pair(columns, places, None, arrays)
        if self._variable is not None and versions.positions is not None:
            is_before = kinds >= BEFORE
            positions = np.where(is_before, versions.positions[places], _AFTER)
            self._variable.pair(columns, places, positions, arrays)
        return arrays, kinds

    def take(self, group_ids: U32) -> pa.RecordBatch:
        """Return the rows of groups that have one."""
        arrays = self._decoded(self._sent[group_ids])
        for columns in self._arrow_columns():
            columns.give(group_ids, arrays)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def forget(self, group_ids: U32) -> None:
        """Drop the rows of groups that have one: uint32[n] without duplicates."""
        self._is_sent[group_ids] = 0
        self.n_rows -= len(group_ids)

    def retain(self, group_ids: U32) -> None:
        """Keep the rows of these groups only, renumbered from 0 in this order.

        Args:
            group_ids: uint32[n]; there may be no room for some, which have no row then.
        """
        self.reserve(int(group_ids.max(initial=0)) + 1)
        self._reallocate(max(_CAPACITY_LEAST, 2 * len(group_ids)), group_ids)
        self.n_rows = int(np.count_nonzero(self._is_sent))
        self.drop_garbage()

    def drop_garbage(self) -> None:
        """Free what no group refers to any more, if it is much."""
        for columns in self._arrow_columns():
            if columns.n_rows >= 2 * self.n_rows + _GARBAGE_ROWS_MIN:
                columns.rewrite(np.flatnonzero(self._is_sent))

    def _arrow_columns(self) -> list[_ArrowColumns]:
        return [columns for columns in (self._constant, self._variable) if columns is not None]

    def _words_for(self, n_rows: int) -> I64:
        """Return room for the words of some rows, which lasts until more of them come."""
        if n_rows > len(self._replaced):
            self._replaced = np.empty((2 * n_rows, len(self._words)), np.int64)
        return self._replaced[:n_rows]

    def _reallocate(self, capacity: int, kept: U32 | slice) -> None:
        chosen = self._sent[kept]
        self._sent = np.empty((capacity, len(self._words)), np.int64)
        self._sent[: len(chosen)] = chosen
        self._is_sent = resized(self._is_sent, capacity, kept)
        for columns in self._arrow_columns():
            columns.positions = resized(columns.positions, capacity, kept)

    def _locate(self, columns: Sequence[pa.Array]) -> None:
        """Tell the kernel where values are."""
        found = []
        for place, type_ in self._columns:
            array = columns[place]
            assert array.type == type_, f"the column must be {type_}: {array.type}"
            validity, values = array.buffers()
            validity_at = validity.address if array.null_count > 0 else 0
            found.append((values.address, validity_at, array.offset))
        if found:
            self._program[:, _FOUND] = found

    def _decoded(self, words: I64) -> list[pa.Array]:
        """Return the columns with words of rows, and None in the place of others."""
        assert self._are_given_back, "rows are kept whole only where they are asked for"
        arrays: list[pa.Array] = [None] * len(self._schema)
        null_words = words[:, self._null_word :]
        null_columns = np.bitwise_or.reduce(null_words, axis=0).tolist()
        for index, (place, type_) in enumerate(self._columns):
            null_word, bit = divmod(index, _NULLS_PER_WORD)
            seen = None
            if null_columns[null_word] >> bit & 1:
                seen = (~(null_words[:, null_word] >> np.int64(bit)) & 1).astype(np.uint8)
            values = _values(words, self._program[index, ColumnField.WORD], type_)
            arrays[place] = array_from_buffers(values, type_, seen)
        return arrays


class _ArrowColumns:
    """The columns that are kept as Arrow rows, and where among them the row of each group is.

    Attributes:
        positions: int64[capacity], kept in step with the groups by the owner.
    """

    def __init__(self, schema: pa.Schema, places: Sequence[int]) -> None:
        self._places = places
        self._schema = pa.schema([schema.field(place) for place in places])
        self._rows = RowStore(self._schema)
        self.positions: I64 = np.empty(0, np.int64)

    @property
    def n_rows(self) -> int:
        return self._rows.n_rows

    @property
    def state_bytes(self) -> int:
        return self._rows.state_bytes + self.positions.nbytes

    def are_equal(self, columns: Sequence[pa.Array], rows: I64, positions: I64) -> Bool:
        """Compare some rows with those at positions."""
        before, after = self._rows.take(positions), self._chosen(columns, rows)
        equal = np.ones(len(rows), np.bool_)
        for one, other in zip(before.columns, after.columns, strict=True):
            equal &= equal_values(one, other)
        return equal

    def put(self, columns: Sequence[pa.Array], rows: I64, group_ids: U32) -> None:
        """Keep some rows as those of their groups."""
        first = self._rows.append(self._chosen(columns, rows))
        self.positions[group_ids[rows]] = np.arange(first, first + len(rows))

    def give(self, group_ids: U32, arrays: list[pa.Array]) -> None:
        """Put the values of groups at the places of their columns."""
        rows = self._rows.take(self.positions[group_ids])
        for place, array in zip(self._places, rows.columns, strict=True):
            arrays[place] = array

    def pair(
        self,
        columns: Sequence[pa.Array],
        rows: I64,
        positions: I64 | None,
        arrays: list[pa.Array],
    ) -> None:
        """Put values at the places of their columns.

        Args:
            columns: All columns of a batch.
            rows: int64[n], rows of the batch.
            positions: int64[n], where a row is kept that stands in the place of that of the batch,
                or ``_AFTER``. None if there are no such rows.
            arrays: Takes the values, [n] per column.
        """
        kept = None
        if positions is not None:
            is_kept = positions != _AFTER
            kept = self._rows.take(positions[is_kept])
            rows = rows.copy()
            rows[is_kept] = len(columns[0]) + np.arange(kept.num_rows)
        indices = array_from_buffers(rows, pa.int64(), None)
        for index, place in enumerate(self._places):
            column = columns[place]
            if kept is not None:
                column = pa.concat_arrays([column, kept.column(index)])
            arrays[place] = take(column, indices)

    def rewrite(self, group_ids: I64) -> None:
        """Keep only the rows of these groups."""
        self._rows.rewrite(self.positions[group_ids])
        self.positions[group_ids] = np.arange(len(group_ids))

    def _chosen(self, columns: Sequence[pa.Array], rows: I64) -> pa.RecordBatch:
        arrays = [columns[place] for place in self._places]
        batch = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        if len(rows) == batch.num_rows:
            return batch
        return take_rows(batch, rows)


def _has_words(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_boolean(type_)
        or pa.types.is_integer(type_)
        or pa.types.is_floating(type_)
        or pa.types.is_temporal(type_)
        or pa.types.is_decimal32(type_)
        or pa.types.is_decimal64(type_)
        or pa.types.is_decimal128(type_)
    )


def _values(words: I64, word: int, type_: pa.DataType) -> npt.NDArray[np.generic]:
    """Return the values that words stand for, in the storage of their type."""
    if type_.bit_width == 128:
        return np.ascontiguousarray(words[:, word : word + 2])
    if pa.types.is_boolean(type_):
        return words[:, word].astype(np.uint8)
    return words[:, word].astype(f"u{type_.bit_width // 8}")
