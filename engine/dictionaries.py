"""Dictionary-encoded columns that can be put together with others.

Arrow unifies dictionaries when it concatenates, but not such as have a NULL among their values.
They come from users and out of DataFusion, and are encoded anew at these two borders.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from millstream.engine.columns import plain
from millstream.errors import SchemaError

__all__ = ["MergeableRows", "batch_of", "encoded", "has_few_indices"]

_WIDE_BITS = 32


def batch_of(columns: Sequence[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """Make a batch of columns, encoding the values of those that the schema has as dictionaries.

    Raises:
        SchemaError: There are more distinct values than a dictionary of the schema has indices.
    """
    try:
        return pa.RecordBatch.from_arrays(columns, schema=schema)
    except pa.ArrowInvalid:
        for column, type_ in zip(columns, schema.types, strict=True):
            if pa.types.is_dictionary(type_):
                encoded(column, type_)
        raise


def encoded(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Encode values as a dictionary.

    Args:
        array: The values, which may be encoded otherwise.
        type_: A dictionary type, whose values these can be cast to.

    Raises:
        SchemaError: There are more distinct values than the type has indices.
    """
    found = plain(array).dictionary_encode()
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
        self._places = [
            place for place, type_ in enumerate(schema.types) if _decoded_type(type_) != type_
        ]

    def of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of a batch; the batch itself if it has no such column."""
        for place in self._places:
            column = batch.column(place)
            if _has_null_entry(column):
                field = batch.schema.field(place)
                batch = batch.set_column(place, field, _encoded_anew(column))
        return batch


def has_few_indices(type_: pa.DataType) -> bool:
    """Say whether a type is a dictionary whose indices have less than 32 bits."""
    return bool(pa.types.is_dictionary(type_) and type_.index_type.bit_width < _WIDE_BITS)


def _n_indices(type_: pa.DataType) -> int:
    n_bits: int = type_.bit_width - int(pa.types.is_signed_integer(type_))
    return 1 << n_bits


def _encoded_anew(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        return encoded(array, array.type)
    try:
        return array.cast(_decoded_type(array.type)).cast(array.type)
    except pa.ArrowNotImplementedError:
        # Arrow encodes text within lists and structs, and nothing else. Such rows pass as they are.
        return array


def _has_null_entry(array: pa.Array) -> bool:
    if pa.types.is_dictionary(array.type):
        return bool(array.dictionary.null_count > 0)
    if pa.types.is_struct(array.type):
        return any(_has_null_entry(array.field(place)) for place in range(array.type.num_fields))
    if pa.types.is_map(array.type):
        return _has_null_entry(array.keys) or _has_null_entry(array.items)
    return _is_list(array.type) and _has_null_entry(array.values)


def _decoded_type(type_: pa.DataType) -> pa.DataType:
    """Return a type without the dictionaries in it; of types that Arrow can cast, that is."""
    if pa.types.is_dictionary(type_):
        return type_.value_type
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_decoded_type(field.type)) for field in type_])
    if pa.types.is_map(type_):
        return pa.map_(_decoded_type(type_.key_type), _decoded_type(type_.item_type))
    if not _is_list(type_):
        return type_
    field = type_.value_field.with_type(_decoded_type(type_.value_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(field, type_.list_size)
    return pa.large_list(field) if pa.types.is_large_list(type_) else pa.list_(field)


def _is_list(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(type_)
        or pa.types.is_large_list(type_)
        or pa.types.is_fixed_size_list(type_)
    )
