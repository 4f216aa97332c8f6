"""Checks of answers: a rate is worth nothing if what came out is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["WrongAnswerError", "check_answer", "last_versions"]

# Sums of floats differ by the order of addition, and by no more than this.
_RELATIVE_ERROR_MAX = 1e-9
_OP = "_op"
_POSITION = "__position"


class WrongAnswerError(Exception):
    """An answer differs from what is right; the message has the first difference."""


def check_answer(actual: pa.Table, expected: pa.Table, keys: Sequence[str]) -> None:
    """Compare an answer with the expected one, in any order of rows and columns.

    Args:
        actual: The answer; if it is a changelog, the last version of each row counts.
        expected: What is right.
        keys: Columns that order the rows of both in only one way.

    Raises:
        WrongAnswerError: They differ in columns, number of rows, or a value.
    """
    if _OP in actual.schema.names:
        actual = last_versions(actual, keys)
    missing = [name for name in expected.schema.names if name not in actual.schema.names]
    if missing:
        raise WrongAnswerError(f"the answer has no column {', '.join(missing)}")
    if actual.num_rows != expected.num_rows:
        raise WrongAnswerError(
            f"the answer has {actual.num_rows} rows instead of {expected.num_rows}"
        )
    actual = _as_schema(actual.select(expected.schema.names), expected.schema)
    expected = _as_schema(expected, expected.schema)
    actual, expected = _sorted(actual, keys), _sorted(expected, keys)
    for name in expected.schema.names:
        _check_column(name, actual, expected, keys)


def last_versions(changes: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Fold a changelog: return the last version of each row, without those that are gone."""
    positions = pa.array(np.arange(changes.num_rows))
    last = (
        changes.select(list(keys))
        .append_column(_POSITION, positions)
        .group_by(list(keys))
        .aggregate([(_POSITION, "max")])
    )
    folded = changes.take(last.column(f"{_POSITION}_max"))
    return folded.filter(pc.not_equal(folded.column(_OP), "-D")).drop_columns([_OP])


def _as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    # Engines differ in how they lay text out, and in whether counts are signed.
    plain = pa.schema([field.with_type(_plain_type(field.type)) for field in schema])
    try:
        columns = [
            column.cast(field.type) for column, field in zip(table.columns, plain, strict=True)
        ]
    except pa.ArrowInvalid as error:
        raise WrongAnswerError(f"the answer does not fit its types: {error}") from error
    return pa.table(columns, names=plain.names)


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    return pa.string() if is_text or type_ == pa.string_view() else type_


def _sorted(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    if not keys:
        return table
    indices = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys])
    return table.take(indices)


def _check_column(name: str, actual: pa.Table, expected: pa.Table, keys: Sequence[str]) -> None:
    got, want = actual.column(name).combine_chunks(), expected.column(name).combine_chunks()
    if got.equals(want):
        return
    if pa.types.is_floating(want.type) and got.is_null().equals(want.is_null()):
        differs = _is_apart(got, want)
    else:
        same = pc.or_kleene(
            pc.fill_null(pc.equal(got, want), False),
            pc.and_(pc.is_null(got), pc.is_null(want)),
        )
        differs = np.asarray(pc.invert(same).to_numpy(zero_copy_only=False))
    if not differs.any():
        return
    row = int(differs.argmax())
    place = ", ".join(f"{key} = {expected.column(key)[row].as_py()!r}" for key in keys)
    raise WrongAnswerError(
        f"{int(differs.sum())} of {len(want)} values of {name} are wrong; the first is"
        f" {got[row].as_py()!r} instead of {want[row].as_py()!r} at {place or f'row {row}'}"
    )


def _is_apart(got: pa.Array, want: pa.Array) -> npt.NDArray[np.bool_]:
    is_close: npt.NDArray[np.bool_] = np.isclose(
        got.fill_null(0.0).to_numpy(zero_copy_only=False),
        want.fill_null(0.0).to_numpy(zero_copy_only=False),
        rtol=_RELATIVE_ERROR_MAX,
        atol=_RELATIVE_ERROR_MAX,
        equal_nan=True,
    )
    return ~is_close
