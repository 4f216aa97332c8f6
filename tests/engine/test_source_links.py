"""Pipelines get the columns that they read, under their own names."""

from __future__ import annotations

import pyarrow as pa
import pytest

from millstream.engine.source_link import SourceLink

STREAM = pa.schema({"a": pa.int64(), "b": pa.string(), "c": pa.float64()})
HIDDEN = pa.field("__ms_watermark", pa.int64())
BATCH = pa.record_batch([[1, 2], ["x", "y"], [0.5, 1.5]], schema=STREAM)


class Nowhere:
    """The first link of a pipeline that nobody runs."""

    def emit(self, batch):
        raise AssertionError

    def end_step(self, item):
        raise AssertionError


def link(columns, names):
    schema = pa.schema([STREAM.field(i).with_name(n) for i, n in zip(columns, names, strict=True)])
    return SourceLink("t", tuple(columns), schema, len(STREAM), frozenset(), Nowhere())


@pytest.mark.parametrize("names", [["c", "a"], ["price", "key"]])
@pytest.mark.parametrize("has_hidden", [False, True])
@pytest.mark.parametrize("metadata", [None, {"made": "by hand"}])
def test_columns_are_picked_and_named(names, has_hidden, metadata):
    batch = BATCH.replace_schema_metadata(metadata)
    if has_hidden:
        batch = batch.append_column(HIDDEN, pa.array([7, 8]))
    picked = link([2, 0], names).pick(batch)
    expected = pa.schema([pa.field(names[0], pa.float64()), pa.field(names[1], pa.int64())])
    columns = [[0.5, 1.5], [1, 2]]
    if has_hidden:
        expected, columns = expected.append(HIDDEN), [*columns, [7, 8]]
    assert picked.schema.equals(expected, check_metadata=True)
    assert [column.to_pylist() for column in picked.columns] == columns


def test_a_pipeline_that_reads_no_column_still_gets_rows():
    assert link([], []).pick(BATCH).num_rows == 2
    assert link([], []).pick(BATCH).num_columns == 0
