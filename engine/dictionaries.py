"""Dictionary-encoded columns that can be put together with others.

Arrow unifies dictionaries when it concatenates, but not such as have a NULL among their values.
They come from users and out of DataFusion, and are encoded anew at these two borders.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from millstream.engine.columns import plain
from millstream.errors import SchemaError

__all__ = ["MergeableRows", "batch_of", "encoded", "has_few_indices", "of_type"]

_WIDE_BITS = 32
# More rows than there are ever.
_ROWS_MAX = 1 << 62


def batch_of(columns: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch of columns, encoding the values of those that the schema has as dictionaries.

    Raises:
        SchemaError: There are more distinct values than a dictionary of the schema has indices.
    """
    arrays = [
        of_type(column, type_) if pa.types.is_dictionary(type_) else column
        for column, type_ in zip(columns, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def rows_that_fit(schema: pa.Schema) -> int:
    """Return how many rows always fit into a batch, whatever is in its dictionaries."""
    indices = [
        _n_indices(type_.index_type) for type_ in schema.types if pa.types.is_dictionary(type_)
    ]
    return min(indices, default=_ROWS_MAX)


def of_type(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Give values a type, also one of dictionaries, which Arrow casts nothing but text to.

    Args:
        array: The values, which may be encoded otherwise.
        type_: A type that these, or those that they encode, can be cast to.

    Raises:
        SchemaError: There are more distinct values than a dictionary has indices.
    """
    if array.type.equals(type_):
        return array
    return _encoded_within(array, type_) if _has_dictionary(type_) else array.cast(type_)


def encoded(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Encode values as a dictionary, anew if they are one.

    Args:
        array: The values, which may be encoded otherwise.
        type_: A dictionary type, whose values these can be cast to.

    Raises:
        SchemaError: There are more distinct values than the type has indices.
    """
    found = _encodable(plain(array)).dictionary_encode()
    n_values, n_most = len(found.dictionary), _n_indices(type_.index_type)
    if n_values > n_most:
        raise SchemaError(
            f"a batch of type {type_} holds at most {n_most:,} distinct values: {n_values:,};"
            " declare a type with wider indices, such as int32"
        )
    return pa.DictionaryArray.from_arrays(
        found.indices.cast(type_.index_type),
        found.dictionary.cast(type_.value_type),
        ordered=type_.ordered,
    )


class MergeableRows:
    """Encodes columns of batches anew whose dictionary has a NULL among its values.

    Args:
        schema: Schema of the batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._places = [place for place, type_ in enumerate(schema.types) if _has_dictionary(type_)]

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of a batch; the batch itself if it has no such column."""
        for place in self._places:
            column = batch.column(place)
            if _has_null_entry(column):
                field = batch.schema.field(place)
                column = _encoded_within(column, column.type)
                batch = batch.set_column(place, field, column)
        return batch


def has_few_indices(type_: pa.DataType) -> bool:
    """Say whether a type is a dictionary whose indices have less than 32 bits."""
    return bool(pa.types.is_dictionary(type_) and type_.index_type.bit_width < _WIDE_BITS)


def _n_indices(type_: pa.DataType) -> int:
    n_bits: int = type_.bit_width - int(pa.types.is_signed_integer(type_))
    return 1 << n_bits


def _encodable(values: pa.Array) -> pa.Array:
    """Widen decimals that Arrow encodes no dictionaries of."""
    type_ = values.type
    if pa.types.is_decimal32(type_) or pa.types.is_decimal64(type_):
        return values.cast(pa.decimal128(type_.precision, type_.scale))
    return values


def _encoded_within(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Encode the dictionaries anew that a type is or consists of."""
    if pa.types.is_dictionary(type_):
        return encoded(array, type_)
    if pa.types.is_struct(type_) and type_.num_fields > 0:
        fields = list(type_)
        children = [
            _encoded_within(array.field(place), field.type) for place, field in enumerate(fields)
        ]
        mask = array.is_null() if array.null_count > 0 else None
        return pa.StructArray.from_arrays(children, fields=fields, mask=mask)
    if not (_is_list(type_) and array.type.id == type_.id):
        return array if array.type.equals(type_) else array.cast(type_)
    # Lists of the same lengths, at the same places, over other entries.
    n_buffers = 1 if pa.types.is_fixed_size_list(type_) else 2
    return pa.Array.from_buffers(
        type_,
        len(array),
        array.buffers()[:n_buffers],
        offset=array.offset,
        children=[_encoded_within(array.values, type_.field(0).type)],
    )


def _has_null_entry(array: pa.Array) -> bool:
    if pa.types.is_dictionary(array.type):
        return bool(array.dictionary.null_count > 0)
    if pa.types.is_struct(array.type):
        return any(_has_null_entry(array.field(place)) for place in range(array.type.num_fields))
    return _is_list(array.type) and _has_null_entry(array.values)


def _has_dictionary(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return True
    return any(_has_dictionary(type_.field(place).type) for place in range(type_.num_fields))


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
        or pa.types.is_map(type_)
    )
