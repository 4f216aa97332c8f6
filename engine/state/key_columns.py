"""Key columns as rows of 64-bit words, and back.

Two values of a column are the same key exactly if their words are the same, NULL being a value of
its own. That is what grouping means by equal: one NaN, one zero, NULL equal to NULL.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pyarrow as pa

from millstream.engine.columns import array_from_buffers, fixed_values, has_views, plain, validity
from millstream.engine.state.rooms import WordRoom
from millstream.engine.state.string_table import StringTable
from millstream.errors import SchemaError
from millstream.kernels.bitmaps import expand_bits
from millstream.kernels.compile import I64, U8
from millstream.kernels.hashing import float_words
from millstream.kernels.interning import number_codes

__all__ = ["KeyColumn", "key_column"]


class KeyColumn(ABC):
    """One column of a key.

    Args:
        type_: Type of the values that are given back.

    Attributes:
        n_words: Words per value.
        has_words: Whether a value without encodings is its own word where it lies.
        tells_values: Whether words tell the value by themselves, to any column of the type.
        is_integral: Whether there is one word, and words of different values may lie close to each
            other.
    """

    n_words = 1
    has_words = False
    tells_values = True
    is_integral = False

    def __init__(self, type_: pa.DataType) -> None:
        self.type = type_

    @property
    def state_bytes(self) -> int:
        """Bytes that the column keeps besides its words."""
        return 0

    def encode(self, array: pa.Array, room: WordRoom) -> tuple[list[I64], U8 | None]:
        """Turn values into words.

        Args:
            array: Values of the column's type, or a dictionary of such.
            room: Where words may lie.

        Returns:
            ``n_words`` arrays int64[n_rows], not to be written to: they may be Arrow's own memory.
            And uint8[n_rows] with 1 where a row is NULL and its words, which are 0 then, do not
            tell; None if there is no such row.

        Raises:
            SchemaError: The array is of another type.
        """
        array = plain(array)
        if array.type != self.type:
            raise SchemaError(f"a key of type {self.type} cannot be {array.type}")
        words = self._words(array, room)
        is_null = _null_flags(array)
        if is_null is not None:
            words = [np.where(is_null, 0, values) for values in words]
        return words, is_null

    @abstractmethod
    def _words(self, array: pa.Array, room: WordRoom) -> list[I64]:
        """Return the words of values; those of NULLs do not matter."""

    @abstractmethod
    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        """Turn words back into values, without a copy where the type is 64 bits wide.

        Args:
            words: ``n_words`` contiguous arrays int64[n_rows].
            is_null: uint8[n_rows], 1 for NULL; None if no row is, as far as the words do not tell.
        """

    def retain(self, words: list[I64]) -> list[I64]:
        """Forget what no key refers to any more.

        Args:
            words: The words of all keys that are left.

        Returns:
            The words that stand for these keys from now on.
        """
        return words


class _FixedColumn(KeyColumn):
    """Integers, booleans, dates, times, timestamps and durations: the value itself."""

    is_integral = True

    def __init__(self, type_: pa.DataType) -> None:
        super().__init__(type_)
        self.has_words = type_.bit_width == 64

    def _words(self, array: pa.Array, room: WordRoom) -> list[I64]:
        values = fixed_values(array)
        if values.dtype == np.uint64:
            return [values.view(np.int64)]
        return [values.astype(np.int64, copy=False)]

    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        values = words[0].astype(_storage(self.type), copy=False)
        return array_from_buffers(values, self.type, _seen(is_null))


class _FloatColumn(KeyColumn):
    """Floats: the bits of the value as a double, with one NaN and one zero."""

    def _words(self, array: pa.Array, room: WordRoom) -> list[I64]:
        values = fixed_values(array)
        if values.dtype == np.float16:
            values = values.astype(np.float32)
            values.setflags(write=False)
        words = np.empty(len(values), np.uint64)
        float_words(values, words)
        return [words.view(np.int64)]

    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        storage = np.dtype(f"f{self.type.bit_width // 8}")
        values = words[0].view(np.float64).astype(storage, copy=False)
        return array_from_buffers(values, self.type, _seen(is_null))


class _PairColumn(KeyColumn):
    """Values of 16 bytes: decimals, and intervals of months, days and nanoseconds."""

    n_words = 2

    def _words(self, array: pa.Array, room: WordRoom) -> list[I64]:
        values = fixed_values(array)
        return [np.ascontiguousarray(values[:, 0]), np.ascontiguousarray(values[:, 1])]

    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        return array_from_buffers(np.stack(words, axis=1), self.type, _seen(is_null))


class _NullColumn(KeyColumn):
    """The type of a bare NULL, which has no other value to tell it from."""

    def encode(self, array: pa.Array, room: WordRoom) -> tuple[list[I64], U8 | None]:
        return [np.zeros(len(array), np.int64)], None

    def _words(self, array: pa.Array, room: WordRoom) -> list[I64]:
        return self.encode(array, room)[0]

    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        return pa.nulls(len(words[0]))


class _TextColumn(KeyColumn):
    """Text and binary: the number of the value in a table of values; NULL has one too."""

    tells_values = False
    is_integral = True

    def __init__(self, type_: pa.DataType) -> None:
        super().__init__(type_)
        self._strings = StringTable()

    @property
    def state_bytes(self) -> int:
        return self._strings.state_bytes

    def encode(self, array: pa.Array, room: WordRoom) -> tuple[list[I64], U8 | None]:
        value_type = array.type.value_type if _is_dictionary(array.type) else array.type
        if _is_text(value_type) != _is_text(self.type) or not _is_bytes(value_type):
            raise SchemaError(f"a key of type {self.type} cannot be {array.type}")
        return self._words(array, room), None

    def _words(self, array: pa.Array, room: WordRoom) -> list[I64]:
        if _is_dictionary(array.type) and len(array.dictionary) < len(array):
            # Each entry is looked up once. The last number, for codes that are NULL, is NULL.
            numbers = np.append(self._strings.intern(plain(array.dictionary)), -1)
            codes = array.indices
            if codes.null_count > 0:
                codes = codes.cast(pa.int64()).fill_null(len(numbers) - 1)
            words = room.of(len(array))
            number_codes(fixed_values(codes), numbers, words)
            return [words]
        return [self._strings.intern(plain(array), room)]

    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        if has_views(self.type):
            large = pa.large_string() if _is_text(self.type) else pa.large_binary()
            return self._strings.take(words[0], large).cast(self.type)
        return self._strings.take(words[0], self.type)

    def retain(self, words: list[I64]) -> list[I64]:
        return [self._strings.retain(words[0])]


class _FixedBytesColumn(_TextColumn):
    """Binary values of one size, and decimals of 32 bytes: as binary ones."""

    def encode(self, array: pa.Array, room: WordRoom) -> tuple[list[I64], U8 | None]:
        array = plain(array)
        if array.type != self.type:
            raise SchemaError(f"a key of type {self.type} cannot be {array.type}")
        return self._words(array, room), None

    def decode(self, words: list[I64], is_null: U8 | None) -> pa.Array:
        values = self._strings.take(words[0], pa.large_binary())
        return values.cast(pa.binary(self.type.byte_width)).view(self.type)


def key_column(type_: pa.DataType) -> KeyColumn:
    """Choose how values of a type become words.

    Raises:
        SchemaError: Values of the type cannot be grouped by.
    """
    if _is_dictionary(type_):
        return key_column(type_.value_type)
    if pa.types.is_floating(type_):
        return _FloatColumn(type_)
    if pa.types.is_decimal128(type_) or type_ == pa.month_day_nano_interval():
        return _PairColumn(type_)
    if pa.types.is_null(type_):
        return _NullColumn(type_)
    if _is_bytes(type_):
        return _TextColumn(type_)
    if pa.types.is_fixed_size_binary(type_) or pa.types.is_decimal256(type_):
        return _FixedBytesColumn(type_)
    is_fixed = (
        pa.types.is_boolean(type_)
        or pa.types.is_integer(type_)
        or pa.types.is_temporal(type_)
        or pa.types.is_decimal32(type_)
        or pa.types.is_decimal64(type_)
    )
    if not is_fixed:
        raise SchemaError(f"rows cannot be grouped by a column of type {type_}")
    return _FixedColumn(type_)


def _null_flags(array: pa.Array) -> U8 | None:
    bitmap, bit_offset = validity(array)
    if bitmap is None:
        return None
    is_valid = np.empty(len(array), np.uint8)
    expand_bits(bitmap, bit_offset, is_valid)
    is_valid ^= 1
    return is_valid


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or type_ == pa.string_view()
    )


def _is_bytes(type_: pa.DataType) -> bool:
    is_binary = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    return bool(is_binary or type_ == pa.binary_view() or _is_text(type_))


def _is_dictionary(type_: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(type_))


def _seen(is_null: U8 | None) -> U8 | None:
    return None if is_null is None else is_null ^ np.uint8(1)


def _storage(type_: pa.DataType) -> np.dtype[Any]:
    if pa.types.is_boolean(type_):
        return np.dtype(np.uint8)
    if pa.types.is_unsigned_integer(type_):
        return np.dtype(f"u{type_.bit_width // 8}")
    return np.dtype(f"i{type_.bit_width // 8}")
