"""News of a changelog made from what groups hold, without rows of all groups on the way."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from millstream.engine.column_memory import new_columns
from millstream.engine.operators.grouping import Grouping
from millstream.engine.state.places import have_nulls
from millstream.engine.state.sent_rows import SentRows
from millstream.engine.state.step_rows import AssignedSteps
from millstream.kernels.compile import I64, U16, U32
from millstream.kernels.news import NewsField
from millstream.planner.nodes import Aggregate, Node, Transform
from millstream.planner.nodes import Changelog as ChangelogNode

__all__ = ["News", "NewsMaker", "picked_columns"]


class News(NamedTuple):
    """Rows that differ from those sent before.

    Attributes:
        columns: All but the operation.
        ops: uint16[n_rows], the two characters of the operation.
    """

    columns: list[pa.Array]
    ops: U16

    @property
    def n_rows(self) -> int:
        """How many there are."""
        return len(self.ops)


class _Column(NamedTuple):
    """What a column of news is made of.

    Attributes:
        type_: Type of the values.
        key: The key column that it is, or None.
        state: The accumulator that holds the value, or None. If both are None, the pane tells it.
        divisor: The accumulator by which a state is divided, or None.
        factor: What a pane is multiplied by.
        term: What is added to it then.
    """

    type_: pa.DataType
    key: int | None = None
    state: int | None = None
    divisor: int | None = None
    factor: int = 1
    term: int = 0


class NewsMaker:
    """Makes news of groups by one call of a kernel, where words of state are all it takes.

    Args:
        columns: What the columns of rows are made of.
        described: int64[n_columns, len(NewsField)], how :class:`SentRows` keeps them.
        key_words: Per key column the row of the key table that has its words.
        grouping: The state of the aggregate.
        sent: What was sent.
        codes: uint16[2], the characters of the operation of new rows, and of updated ones.
    """

    def __init__(
        self,
        columns: list[_Column],
        described: I64,
        key_words: list[int],
        grouping: Grouping,
        sent: SentRows,
        codes: U16,
    ) -> None:
        self._columns = columns
        self._program = described
        self._grouping = grouping
        self._sent = sent
        self._codes = codes
        self._is_decoded = [_is_decoded(column.type_) for column in columns]
        # Per column the word of the key table that it is, or -1 and the accumulator.
        self._places = [
            (0 if column.key is None else key_words[column.key], 0)
            if column.state is None
            else (-1, column.state)
            for column in columns
        ]
        self._divided = [i for i, column in enumerate(columns) if column.divisor is not None]
        self._divisors = [column.divisor for column in columns if column.divisor is not None]
        described[:, NewsField.FACTOR] = [column.factor for column in columns]
        described[:, NewsField.TERM] = [column.term for column in columns]

    @classmethod
    def for_changelog(
        cls, node: ChangelogNode, grouping: Grouping, sent: SentRows, codes: U16
    ) -> NewsMaker | None:
        """Return one that makes the news of a changelog, or None if rows are more than words.

        Args:
            node: The changelog, which takes back no rows and tells no former ones.
            grouping: The state of the aggregate that feeds it.
            sent: What the changelog has sent.
            codes: As for the class.
        """
        names = picked_columns(node.input)
        if names is None:
            return None
        known = _columns_of(grouping)
        described = np.zeros((len(names), len(NewsField)), np.int64)
        columns = []
        for place, name in enumerate(names):
            column = known.get(name)
            if column is None or column.type_ != node.schema.field(place).type:
                return None
            if not sent.describe(place, described[place]):
                return None
            columns.append(column)
        key_words = grouping.state.key_words()
        return (
            None if key_words is None else cls(columns, described, key_words, grouping, sent, codes)
        )

    def make(self, group_ids: U32) -> News | None:
        """Make the news of groups, uint32[n] each once; None if something of a group is NULL.

        What is returned is sent: the next news are beside it.
        """
        if not self._locate():
            return None
        words, ops = self._room(len(group_ids))
        n_rows = self._sent.write_news(self._program, group_ids, self._codes, words, ops, 0)
        return News(self._arrays(words, n_rows), ops[:n_rows])

    def make_of_steps(self, steps: AssignedSteps) -> tuple[News, list[int]] | None:
        """Add the rows of several steps, and make the news of each.

        Returns:
            The news, those of one step after those of the other, and where those of each step
            begin and the last ones end. None if something is NULL, and then nothing is added.
        """
        state = self._grouping.state
        if have_nulls(steps.places) or not self._locate():
            return None
        words, ops = self._room(len(steps.rows.touched))
        bounds = [0]
        for group_ids in state.each_step(steps):
            at = bounds[-1]
            if len(group_ids) > 0:
                # Where there was no NULL and none comes, there is none.
                is_located = self._locate()
                assert is_located, "no value of a group is NULL"
                at = self._sent.write_news(self._program, group_ids, self._codes, words, ops, at)
            bounds.append(at)
        n_rows = bounds[-1]
        return News(self._arrays(words, n_rows), ops[:n_rows]), bounds

    def _room(self, n_rows: int) -> tuple[I64, U16]:
        return new_columns(len(self._columns), n_rows), np.empty(n_rows, np.uint16)

    def _locate(self) -> bool:
        """Tell the kernel where the groups are, if none has a NULL."""
        state = self._grouping.state
        keys, states = state.key_addresses(), state.state_addresses()
        if keys is None or states is None:
            return False
        self._program[:, NewsField.VALUES] = [
            states[accumulator] if word < 0 else keys[word] for word, accumulator in self._places
        ]
        if self._divided:
            self._program[self._divided, NewsField.DIVISOR] = states[self._divisors]
        return True

    def _arrays(self, words: I64, n_rows: int) -> list[pa.Array]:
        """Return the first rows of int64[n_columns, n_most] as columns."""
        whole, stride, n_bytes = pa.py_buffer(words), words.strides[0], n_rows * words.itemsize
        arrays = []
        for place, (column, is_decoded) in enumerate(
            zip(self._columns, self._is_decoded, strict=True)
        ):
            if is_decoded:
                assert column.key is not None, "other values are words"
                row = words[place, :n_rows]
                arrays.append(self._grouping.state.decoded_key(column.key, [row]))
            else:
                buffers = [None, whole.slice(place * stride, n_bytes)]
                arrays.append(pa.Array.from_buffers(column.type_, n_rows, buffers, 0))
        return arrays


def _is_decoded(type_: pa.DataType) -> bool:
    """Whether words of a key are not yet its values."""
    return not (_has_width(type_) and type_.bit_width == 64)


def _has_width(type_: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(type_) or pa.types.is_decimal(type_))


def picked_columns(node: Node) -> list[str] | None:
    """Return which columns of an aggregate a node gives; None if it does more than choose them."""
    if isinstance(node, Aggregate):
        return list(node.schema.names)
    if not isinstance(node, Transform) or node.picks is None:
        return None
    below = picked_columns(node.input)
    if below is None:
        return None
    sources = dict(zip(node.input.schema.names, below, strict=True))
    return [sources[name] for name in node.picks]


def _columns_of(grouping: Grouping) -> dict[str, _Column]:
    """Return the columns of an aggregate that words tell, by name."""
    node = grouping.node
    names = iter(node.schema)
    columns: dict[str, _Column] = {}
    if grouping.grid is not None:
        for name in node.window_columns:
            field, line = next(names), grouping.grid.line(name)
            if line is not None and not _is_decoded(field.type):
                columns[field.name] = _Column(field.type, factor=line[0], term=line[1])
    for index, _ in enumerate(node.keys):
        field = next(names)
        # Of narrower floats, words are those of doubles.
        if not pa.types.is_floating(field.type) or field.type.bit_width == 64:
            columns[field.name] = _Column(field.type, key=index)
    for words in grouping.calls.word_results:
        field = next(names)
        if words is not None:
            columns[field.name] = _Column(field.type, state=words.value, divisor=words.divisor)
    return columns
