"""Which records accumulators need: columns of them, and the word of each accumulator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers
from millstream.engine.state.places import PLACE_WORDS
from millstream.engine.state.word_states import STATE_DTYPE
from millstream.engine.state.words import WordSpec
from millstream.kernels.compile import I64
from millstream.kernels.programs import Opcode
from millstream.kernels.records import RecordColumn, RecordForm, RecordWord

__all__ = ["RecordLayout"]

# By opcode: whether it takes doubles, and its word.
_WORDS: dict[Opcode, tuple[bool, RecordWord]] = {
    Opcode.SUM_I64: (False, RecordWord.SUM),
    Opcode.SUM_U64: (False, RecordWord.SUM),
    Opcode.MIN_I64: (False, RecordWord.LEAST),
    Opcode.MAX_I64: (False, RecordWord.GREATEST),
    Opcode.SUM_F64: (True, RecordWord.SUM),
    Opcode.MIN_F64: (True, RecordWord.LEAST),
    Opcode.MAX_F64: (True, RecordWord.GREATEST),
}
_N_WORDS = {
    RecordForm.ROWS: 1,
    RecordForm.WORD_SUMS: 2,
    RecordForm.WORDS: 4,
    RecordForm.DOUBLE_SUMS: 2,
    RecordForm.DOUBLES: 4,
}


class RecordLayout:
    """What records hold for a list of accumulators, whose values are not NULL.

    Args:
        specs: The accumulators; those of one column are in one record, as far as they take its
            values alike.

    Attributes:
        forms: Per column of records its form, and the words of one of them; at least one column.
        states: int64[n_accumulators, 2], the column and the word of each accumulator.
        rows: The accumulator that counts all rows, or None.
    """

    def __init__(self, specs: Sequence[WordSpec]) -> None:
        self._specs = list(specs)
        # By column and whether doubles are taken: what is wanted, and an accumulator that takes it.
        wanted: dict[tuple[str | None, bool], set[RecordWord]] = {}
        takers: dict[tuple[str | None, bool], int] = {}
        for index, spec in enumerate(specs):
            if spec.opcode != Opcode.COUNT:
                takes_doubles, word = _WORDS[spec.opcode]
                wanted.setdefault((spec.column, takes_doubles), set()).add(word)
                takers.setdefault((spec.column, takes_doubles), index)
        forms = [_form(takes_doubles, words) for (_, takes_doubles), words in wanted.items()]
        self._takers = list(takers.values()) or [0]
        self.forms = [(int(form), _N_WORDS[form]) for form in forms or [RecordForm.ROWS]]
        numbers = {key: number for number, key in enumerate(wanted)}
        states = []
        for spec in specs:
            if spec.opcode == Opcode.COUNT:
                states.append((0, int(RecordWord.COUNT)))
            else:
                takes_doubles, word = _WORDS[spec.opcode]
                states.append((numbers[spec.column, takes_doubles], int(word)))
        self.states: I64 = np.array(states, np.int64).reshape(len(specs), 2)
        counts = (i for i, s in enumerate(specs) if s.opcode == Opcode.COUNT and s.column is None)
        self.rows = next(counts, None)

    @classmethod
    def of(cls, specs: Sequence[WordSpec]) -> RecordLayout | None:
        """Return the layout for accumulators, or None if records do not have one of them."""
        if all(spec.opcode == Opcode.COUNT or spec.opcode in _WORDS for spec in specs):
            return cls(specs)
        return None

    def columns_of(self, places: I64) -> I64:
        """Tell where the values of columns of records lie.

        Args:
            places: int64[n_parts, n_accumulators or more, PLACE_WORDS].

        Returns:
            int64[n_parts, n_columns, 4], columns as :class:`RecordColumn` says, ``RECORDS`` not
            set. The caller may write to it.
        """
        assert places.shape[2] == PLACE_WORDS, "places as kernels take them"
        columns = np.zeros((len(places), len(self.forms), len(RecordColumn)), np.int64)
        if self.forms[0][0] != RecordForm.ROWS:
            # A place begins with the address and the kind of values.
            columns[:, :, : RecordColumn.RECORDS] = places[:, self._takers, : RecordColumn.RECORDS]
        columns[:, :, RecordColumn.FORM] = [form for form, _ in self.forms]
        return columns

    def arrays(self, words: I64) -> list[pa.Array]:
        """Return accumulators that were dealt out, int64[n_accumulators, n_groups], as arrays."""
        return [
            array_from_buffers(row.view(STATE_DTYPE[spec.opcode]), spec.state_type, None)
            for spec, row in zip(self._specs, words, strict=True)
        ]


def _form(takes_doubles: bool, words: set[RecordWord]) -> RecordForm:
    if words == {RecordWord.SUM}:
        return RecordForm.DOUBLE_SUMS if takes_doubles else RecordForm.WORD_SUMS
    return RecordForm.DOUBLES if takes_doubles else RecordForm.WORDS
