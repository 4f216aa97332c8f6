"""Numbers that fold the frames of window functions: counts, sums, extremes and ranks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millstream.engine.column_memory import like, new_column
from millstream.engine.columns import array_from_buffers, fixed_values, plain, validity
from millstream.engine.state.frame_interfaces import FirstWords, FirstWordsFrame, Fold, Frame
from millstream.engine.state.keyed_rows import KeyColumns, KeyedRows
from millstream.kernels.bitmaps import expand_bits
from millstream.kernels.compile import I64, U8
from millstream.kernels.frames import rank_rows
from millstream.kernels.sliding import ADD, GREATEST, LEAST, from_comparable, to_comparable

__all__ = [
    "Accumulator",
    "CountRows",
    "CountValues",
    "Extreme",
    "FirstValue",
    "Inputs",
    "Ranks",
    "Sum",
    "as_array",
]

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class Inputs:
    """The rows of a step and their columns, each looked at once."""

    def __init__(self, rows: KeyedRows, batch: pa.RecordBatch) -> None:
        self.rows = rows
        self.batch = batch
        self._columns: dict[str, tuple[pa.Array, U8 | None]] = {}
        self._values: dict[tuple[str, type[np.generic]], npt.NDArray[Any]] = {}

    def column(self, name: str) -> tuple[pa.Array, U8 | None]:
        """Return a column without encodings, and uint8[n_rows] 1 where it is not NULL, or None."""
        found = self._columns.get(name)
        if found is None:
            array = plain(self.batch.column(name))
            found = self._columns[name] = (array, _valid(array))
        return found

    def values(self, name: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
        """Return a column's values as a 64-bit type: [n_rows], read-only."""
        found = self._values.get((name, dtype))
        if found is None:
            array, _ = self.column(name)
            found = _locked(fixed_values(array).astype(dtype, copy=False))
            self._values[name, dtype] = found
        return found


class Accumulator(Protocol):
    """A number per row that folds its frame."""

    @property
    def values(self) -> npt.NDArray[Any]:
        """[n_rows], of the last step, while the frame is open."""

    def update(self, inputs: Inputs) -> None:
        """Take in a step, while the frame is open and before it folds."""

    def finish(self) -> None:
        """Take the results, after the frame has folded."""


class CountRows:
    """Counts the rows of a frame."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.values: I64 = np.empty(0, np.int64)

    def update(self, inputs: Inputs) -> None:
        """Do nothing: the frame knows."""

    def finish(self) -> None:
        self.values = self._frame.lengths


class CountValues:
    """Counts the values of a column that are not NULL. Nothing is kept before the first NULL."""

    def __init__(self, frame: Frame, column: str) -> None:
        self._frame = frame
        self._column = column
        self._fold: Fold | None = None
        self._values: I64 | None = None

    def update(self, inputs: Inputs) -> None:
        self._values = None
        _, valid = inputs.column(self._column)
        if valid is None and self._fold is None:
            return
        if self._fold is None:
            self._fold = self._frame.new_fold_of_ones()
        n_rows = inputs.rows.n_rows
        ones = np.ones(n_rows, np.int64) if valid is None else valid.astype(np.int64)
        self._fold.put(_locked(ones), has_nulls=valid is not None)

    def finish(self) -> None:
        if self._fold is not None:
            self._values = self._fold.out

    @property
    def values(self) -> I64:
        """int64[n_rows]."""
        if self._values is None:
            # Most who share a count want it only once there are NULLs.
            self._values = self._frame.lengths
        return self._values

    @property
    def seen(self) -> U8 | None:
        """uint8[n_rows], 1 where a frame has a value; None if all have one."""
        return None if self._fold is None else (self.values > 0).view(np.uint8)


class Sum:
    """Adds the values of a column up: as float64, or as 64-bit integers that wrap around."""

    def __init__(self, frame: Frame, column: str, *, is_float: bool) -> None:
        self._column = column
        self._dtype: type[np.int64 | np.float64] = np.float64 if is_float else np.int64
        self._fold = frame.new_fold(ADD, self._dtype, (column, 0))
        self.values: npt.NDArray[Any] = np.empty(0, self._dtype)

    def update(self, inputs: Inputs) -> None:
        _, valid = inputs.column(self._column)
        values = inputs.values(self._column, self._dtype)
        if valid is not None:
            values = _locked(np.where(valid.view(np.bool_), values, self._dtype(0)))
        self._fold.put(values, has_nulls=valid is not None)

    def finish(self) -> None:
        self.values = self._fold.out


class Extreme:
    """The least or the greatest value of a column; NaN is greater than every number."""

    def __init__(self, frame: Frame, column: str, type_: pa.DataType, *, is_greatest: bool) -> None:
        self._column = column
        storage = fixed_values(pa.array([], type_)).dtype
        self._storage = storage
        self._is_float = storage.kind == "f"
        # The highest bit of unsigned integers is turned into a sign.
        self._flip = _INT64_MIN if storage == np.uint64 else 0
        self._is_comparable = not self._is_float and self._flip == 0
        self._of_null = _INT64_MIN if is_greatest else _INT64_MAX
        # Integers that compare as they are may be those that a sum adds up.
        source = (column, "float" if self._is_float else self._flip)
        self._fold = frame.new_fold(GREATEST if is_greatest else LEAST, np.int64, source)
        self.values: npt.NDArray[Any] = np.empty(0, storage)

    def update(self, inputs: Inputs) -> None:
        _, valid = inputs.column(self._column)
        words = inputs.values(self._column, np.float64 if self._is_float else np.int64)
        if not self._is_comparable:
            comparable = like(words.view(np.int64))
            to_comparable(words.view(np.int64), self._is_float, self._flip, comparable)
            words = _locked(comparable)
        if valid is not None:
            words = _locked(np.where(valid.view(np.bool_), words, np.int64(self._of_null)))
        self._fold.put(words, has_nulls=valid is not None)

    def finish(self) -> None:
        out: I64 = self._fold.out
        if not self._is_comparable:
            from_comparable(out, self._is_float, self._flip, out)
        wide = np.float64 if self._is_float else np.int64
        self.values = out.view(wide).astype(self._storage, copy=False)


class FirstValue:
    """The value of a column of a fixed width in the first row of a bounded frame."""

    def __init__(self, frame: FirstWordsFrame, column: str, type_: pa.DataType) -> None:
        self._frame = frame
        self._column = column
        self._storage = fixed_values(pa.array([], type_)).dtype
        self._wide = np.float64 if self._storage.kind == "f" else np.int64
        self._words = frame.new_first_words()
        self._flags: FirstWords | None = None
        self.values: npt.NDArray[Any] = np.empty(0, self._storage)
        self.seen: U8 | None = None

    @staticmethod
    def takes(type_: pa.DataType) -> bool:
        """Tell whether values of a type are kept as words of 64 bits."""
        kinds = pa.types.is_integer, pa.types.is_floating, pa.types.is_temporal
        return type_.bit_width <= 64 if any(is_kind(type_) for is_kind in kinds) else False

    def update(self, inputs: Inputs) -> None:
        _, valid = inputs.column(self._column)
        words = inputs.values(self._column, self._wide).view(np.int64)
        first = self._words.of(words)
        self.values = first.view(self._wide).astype(self._storage, copy=False)
        if valid is not None and self._flags is None:
            # No row so far was NULL.
            self._flags = self._frame.new_first_words(1)
        if self._flags is not None:
            n_rows = inputs.rows.n_rows
            ones = np.ones(n_rows, np.int64) if valid is None else valid.astype(np.int64)
            self.seen = self._flags.of(_locked(ones)).astype(np.uint8)

    def finish(self) -> None:
        """Do nothing: values are looked up at once."""


class Ranks:
    """Ranks rows by event time, with gaps behind rows of one time or without (``is_dense``)."""

    def __init__(self, columns: KeyColumns, *, is_dense: bool) -> None:
        self._is_dense = is_dense
        self._counts = columns.add(np.int64)
        self._last_times = columns.add(np.int64)
        self._last_ranks = columns.add(np.int64)
        self.values: I64 = np.empty(0, np.int64)

    def update(self, inputs: Inputs) -> None:
        rows = inputs.rows
        assert rows.times is not None, "ranks follow event time"
        self.values = new_column(rows.n_rows, np.int64)
        rank_rows(
            rows.group_ids,
            rows.times,
            self._is_dense,
            self._counts.values,
            self._last_times.values,
            self._last_ranks.values,
            self.values,
        )

    def finish(self) -> None:
        """Do nothing: ranks have no frame."""


def as_array(values: npt.NDArray[Any], type_: pa.DataType, seen: U8 | None) -> pa.Array:
    """Wrap results in a type; values as wide as the type are not copied."""
    if values.itemsize * 8 == type_.bit_width:
        return array_from_buffers(values, type_, seen)
    return array_from_buffers(values, pa.from_numpy_dtype(values.dtype), seen).cast(type_)


def _valid(array: pa.Array) -> U8 | None:
    bitmap, bit_offset = validity(array)
    if bitmap is None:
        return None
    valid = np.empty(len(array), np.uint8)
    expand_bits(bitmap, bit_offset, valid)
    return valid


def _locked(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values.setflags(write=False)
    return values
