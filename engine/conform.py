"""Rows as users hand them over, made to fit the schema of a stream exactly, or refused.

A cast may change how a value is represented, never the value: an integer may become a wider or
narrower one that holds it, a float a wider one, text may change its encoding, a timestamp its unit
as long as nothing is cut off. What would need a guess is refused: text as numbers, integers as
timestamps, timestamps with a time zone as ones without.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from millstream.engine.columns import first_null, plain
from millstream.engine.dictionaries import MergeableRows
from millstream.engine.taking import take
from millstream.errors import SchemaError, SourceError

__all__ = ["Conformer", "conform"]

# What times and durations of pandas have beside those of Python.
_NANOSECONDS = ("nanosecond", "nanoseconds")
_DURATION_NS = pa.duration("ns")
# What pyarrow raises when it cannot make an array of Python objects.
_CONVERSION_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)


def conform(data: Any, schema: pa.Schema, stream: str) -> list[pa.RecordBatch]:
    """Make data fit a schema; see :meth:`Conformer.conform`."""
    return Conformer(schema, stream).conform(data)


class Conformer:
    """Makes data fit the schema of one stream.

    Args:
        schema: Schema of the stream.
        stream: Name of the stream, for errors.
    """

    def __init__(self, schema: pa.Schema, stream: str) -> None:
        self._schema = schema
        self._stream = stream
        self._required = [index for index, field in enumerate(schema) if not field.nullable]
        self._mergeable = MergeableRows(schema)

    def conform(self, data: Any) -> list[pa.RecordBatch]:
        """Return the rows of ``data`` as batches of the stream's schema.

        Columns are matched by name, and cast where that keeps every value. Arrow data that fits as
        it is comes back as it is, without a copy and with its own schema metadata; only a column
        whose dictionary has a NULL among its values is encoded anew.

        Args:
            data: A RecordBatch or a list of them, a Table, an object with ``__arrow_c_stream__`` or
                ``__arrow_c_array__``, a dict of columns, a dict of values that is one row, or a
                list of such rows. Floats of Python are rounded to the precision of the column.

        Raises:
            SchemaError: A column is missing, unknown or of a type that does not fit, or a value
                does not fit. The message names the stream, the column, and the row, from 0, where
                there is one.
            SourceError: The object failed while its rows were read.
        """
        if isinstance(data, pa.RecordBatch):
            return [self._conform_batch(data, 0)]
        batches, first_row = [], 0
        for batch in self._batches(data):
            batches.append(self._conform_batch(batch, first_row))
            first_row += batch.num_rows
        return batches

    def _batches(self, data: Any) -> Iterator[pa.RecordBatch]:
        if isinstance(data, pa.Table):
            yield from data.to_batches()
        elif isinstance(data, Mapping):
            if all(_is_column(value) for value in data.values()):
                yield from self._from_columns(data)
            else:
                yield self._from_rows([data])
        elif isinstance(data, list | tuple):
            if data and all(isinstance(item, pa.RecordBatch) for item in data):
                yield from data
            elif data:
                yield self._from_rows(data)
        elif hasattr(data, "__arrow_c_stream__"):
            yield from self._from_stream(data)
        elif hasattr(data, "__arrow_c_array__"):
            yield self._imported(pa.record_batch, data)
        else:
            raise SchemaError(
                f"stream {self._stream!r} takes Arrow data, a dict or a list of dicts:"
                f" {type(data).__name__}"
            )

    def _from_stream(self, data: Any) -> list[pa.RecordBatch]:
        reader = self._imported(pa.RecordBatchReader.from_stream, data)
        try:
            return list(reader)
        except Exception as error:
            # The reader runs code of the source, which may raise anything.
            reason = f"rows for stream {self._stream!r} could not be read: {error}"
            raise SourceError(reason) from error

    def _imported(self, importer: Callable[[Any], Any], data: Any) -> Any:
        try:
            return importer(data)
        except (pa.ArrowException, TypeError) as error:
            raise SchemaError(
                f"stream {self._stream!r} takes Arrow data with columns:"
                f" {type(data).__name__} ({error})"
            ) from error

    def _from_columns(self, data: Mapping[Any, Any]) -> list[pa.RecordBatch]:
        self._check_names(list(data), {name: type(data[name]).__name__ for name in data})
        columns = [self._column(field, data[field.name]) for field in self._schema]
        lengths = {
            field.name: len(column) for field, column in zip(self._schema, columns, strict=True)
        }
        if len(set(lengths.values())) > 1:
            raise SchemaError(
                f"stream {self._stream!r}: columns must have one length:"
                f" {', '.join(f'{name} {length}' for name, length in lengths.items())}"
            )
        batches: list[pa.RecordBatch] = pa.table(columns, self._schema.names).to_batches()
        return batches

    def _column(self, field: pa.Field, values: Any) -> pa.Array | pa.ChunkedArray:
        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        if isinstance(values, list | tuple | range):
            return self._from_values(list(values), field)
        try:
            return pa.array(values)
        except _CONVERSION_ERRORS as error:
            detail = f"{type(values).__name__}, which Arrow cannot read ({error})"
            raise self._mismatch(field, detail) from error

    def _from_rows(self, rows: Sequence[Any]) -> pa.RecordBatch:
        names = set(self._schema.names)
        for index, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise SchemaError(
                    f"stream {self._stream!r}: rows must be dicts:"
                    f" {type(row).__name__} in row {index}"
                )
            if row.keys() != names:
                given = {name: type(row[name]).__name__ for name in row}
                self._check_names(list(row), given, f" in row {index}")
        columns = [
            self._from_values([row[field.name] for row in rows], field) for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(columns, names=self._schema.names)

    def _from_values(self, values: list[Any], field: pa.Field) -> pa.Array:
        """Convert Python values to the type that Arrow infers from them.

        Arrow would also convert to the column's type itself, but in doing so cuts off fractions
        and drops time zones.
        """
        try:
            array = _inferred(values, field.type)
        except _CONVERSION_ERRORS as error:
            row = _first_failing(len(values), lambda end: _inferred(values[:end], field.type))
            detail = f"{type(values[row]).__name__}: {values[row]!r} in row {row} does not fit"
            raise self._mismatch(field, detail) from error
        if types.is_floating(field.type) and types.is_floating(array.type):
            return array.cast(field.type)
        return array

    def _conform_batch(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        schema = batch.schema
        if schema.equals(self._schema):
            for index in self._required:
                self._check_required(self._schema.field(index), batch.column(index), first_row)
            return self._mergeable.of(batch)
        self._check_names(schema.names, dict(zip(schema.names, schema.types, strict=True)))
        columns = [
            self._conform_column(batch.column(field.name), field, first_row)
            for field in self._schema
        ]
        return self._mergeable.of(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def _conform_column(self, array: pa.Array, field: pa.Field, first_row: int) -> pa.Array:
        if array.type != field.type:
            given = array.type
            if not _fits(given, field.type):
                raise self._mismatch(field, str(given))
            try:
                array = _cast(array, field.type)
            except pa.ArrowNotImplementedError as error:
                raise self._mismatch(field, str(given)) from error
            except pa.ArrowInvalid:
                array = self._cast_alone(array, field, first_row)
        if not field.nullable:
            self._check_required(field, array, first_row)
        return array

    def _cast_alone(self, array: pa.Array, field: pa.Field, first_row: int) -> pa.Array:
        """Cast rows without those around them, whose lists Arrow casts with the lists of a slice.

        Raises:
            SchemaError: A value does not fit.
        """
        rows = plain(array)

        def cast_first(n_rows: int) -> pa.Array:
            return _cast(take(rows, pa.array(range(n_rows), pa.int64())), field.type)

        try:
            return cast_first(len(rows))
        except pa.ArrowInvalid as error:
            row = _first_failing(len(rows), cast_first)
            detail = f"{array.type}: {_shown(rows, row)} in row {first_row + row} does not fit"
            raise self._mismatch(field, detail) from error

    def _check_required(self, field: pa.Field, array: pa.Array, first_row: int) -> None:
        row = first_null(array)
        if row is not None:
            raise self._mismatch(field, f"{array.type}: NULL in row {first_row + row}")

    def _check_names(self, names: list[Any], given: Mapping[Any, Any], place: str = "") -> None:
        """Check that the names of columns are those of the stream; ``given`` has their types."""
        known = self._schema.names
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, 1)
                wanted = [self._schema.field(known_name) for known_name in close or known]
                columns = ", ".join(f"{field.name!r} ({field.type})" for field in wanted)
                hint = f"did you mean {columns}?" if close else f"its columns are {columns}"
                raise SchemaError(
                    f"stream {self._stream!r} has no column {name!r} ({given[name]}){place}; {hint}"
                )
            if names.count(name) > 1:
                raise SchemaError(f"stream {self._stream!r}: column {name!r} is given twice")
        for field in self._schema:
            if field.name not in given:
                raise self._mismatch(field, f"no such column{place}")

    def _mismatch(self, field: pa.Field, given: str) -> SchemaError:
        expected = f"{field.type}{'' if field.nullable else ' not null'}"
        return SchemaError(
            f"stream {self._stream!r}, column {field.name!r}: expected {expected}, got {given}"
        )


def _is_column(value: Any) -> bool:
    """Tell a column from a value: a dict of columns is many rows, any other dict is one."""
    return (
        isinstance(value, list | tuple | range)
        or getattr(value, "ndim", 0) > 0
        or hasattr(value, "__arrow_c_array__")
        or hasattr(value, "__arrow_c_stream__")
    )


def _inferred(values: list[Any], wanted: pa.DataType) -> pa.Array:
    # Arrow infers int64 from integers and fails where one is beyond it.
    if types.is_uint64(wanted) and all(value is None or isinstance(value, int) for value in values):
        return pa.array(values, wanted)
    array = pa.array(values)
    type_ = array.type
    if not (types.is_timestamp(type_) or types.is_duration(type_)):
        return array
    # Arrow infers microseconds, also of what has nanoseconds, as times of pandas do.
    if not any(getattr(value, name, 0) for value in values for name in _NANOSECONDS):
        return array
    is_timestamp = types.is_timestamp(type_)
    return pa.array(values, pa.timestamp("ns", type_.tz) if is_timestamp else _DURATION_NS)


def _first_failing(n_rows: int, convert: Callable[[int], object]) -> int:
    """Find the row at which converting the first rows begins to fail, by bisection."""
    low, high = 0, n_rows
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(middle)
        except _CONVERSION_ERRORS:
            high = middle
        else:
            low = middle
    return low


def _shown(array: pa.Array, row: int) -> str:
    """Return a value as Python writes it or, if Python cannot hold it, as Arrow does."""
    scalar = array[row]
    try:
        return repr(scalar.as_py())
    except (ArithmeticError, LookupError, ValueError):
        # Times far away, and without pandas those that differ by nanoseconds.
        if types.is_temporal(scalar.type) and hasattr(scalar, "value"):
            return str(scalar.value)
        return " ".join(array.slice(row, 1).to_string().split())


def _fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    """Tell whether values of a type can become another without a guess at what they mean."""
    given, wanted = _peeled(given), _peeled(wanted)
    if given == wanted or types.is_null(given):
        return True
    if types.is_floating(wanted):
        widens = types.is_floating(given) and given.bit_width < wanted.bit_width
        return bool(widens or types.is_integer(given))
    if types.is_decimal(wanted):
        return bool(types.is_decimal(given) or types.is_integer(given))
    if types.is_timestamp(wanted):
        return types.is_timestamp(given) and (given.tz is None) == (wanted.tz is None)
    return _same_family(given, wanted) or _nested_fits(given, wanted)


def _same_family(given: pa.DataType, wanted: pa.DataType) -> bool:
    return any(is_member(given) and is_member(wanted) for is_member in _FAMILIES)


def _nested_fits(given: pa.DataType, wanted: pa.DataType) -> bool:
    if types.is_map(given) and types.is_map(wanted):
        return _fits(given.key_type, wanted.key_type) and _fits(given.item_type, wanted.item_type)
    if types.is_struct(given) and types.is_struct(wanted):
        # Arrow matches the fields of structs by name, and fills those that it misses with NULLs.
        return given.names == wanted.names and all(
            _fits(left.type, right.type) for left, right in zip(given, wanted, strict=True)
        )
    if _is_list(given) and _is_list(wanted):
        return _fits(given.value_type, wanted.value_type)
    return False


def _is_one_of(*kinds: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda type_: any(is_kind(type_) for is_kind in kinds)


_is_list = _is_one_of(
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
)
_FAMILIES = (
    types.is_integer,
    _is_one_of(types.is_string, types.is_large_string, types.is_string_view),
    _is_one_of(
        types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary
    ),
    types.is_date,
    types.is_time,
    types.is_duration,
)


def _peeled(type_: pa.DataType) -> pa.DataType:
    if types.is_dictionary(type_) or types.is_run_end_encoded(type_):
        return type_.value_type
    return type_


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Cast between types that fit.

    Raises:
        ArrowInvalid: A value would change.
        ArrowNotImplementedError: Arrow has no such cast.
    """
    if types.is_null(array.type):
        return pa.nulls(len(array), wanted)
    array = plain(array)
    if types.is_dictionary(wanted):
        return _cast(array, wanted.value_type).dictionary_encode().cast(wanted)
    if types.is_decimal(wanted) and types.is_integer(array.type):
        # Arrow refuses by the type's range instead of by the values; this is wide enough for all.
        array = array.cast(pa.decimal256(76, wanted.scale))
    return array if array.type == wanted else array.cast(wanted)
