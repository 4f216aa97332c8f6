"""Memory of columns: nobody else's while somebody has it, and used again afterwards."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

import millstream as ms
from millstream.engine import column_memory
from millstream.engine.column_memory import like, new_column, new_columns

N_ROWS = column_memory._BYTES_LEAST // 8
N_COLUMNS = column_memory._CHUNK_BYTES // column_memory._BYTES_LEAST


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    gc.collect()
    column_memory._free.clear()
    column_memory._current.chunk = np.empty(0, np.uint8)
    column_memory._current.n_used = 0
    yield
    column_memory._free.clear()


def test_columns_do_not_overlap_and_begin_at_lines_of_the_cache() -> None:
    rng = np.random.default_rng(1)
    columns = []
    for n_rows in rng.integers(N_ROWS, 3 * N_ROWS, 100).tolist():
        column = new_column(n_rows, np.int64)
        column[:] = len(columns)
        columns.append(column)
    for number, column in enumerate(columns):
        assert column.ctypes.data % 64 == 0
        assert (column == number).all()
        assert column.flags.c_contiguous
        assert column.flags.writeable


@pytest.mark.parametrize("n_rows", [0, 1, N_ROWS - 1, N_ROWS, N_COLUMNS * N_ROWS + 1])
@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.uint8, np.int32])
def test_columns_have_the_rows_and_the_type_that_is_asked_for(n_rows, dtype) -> None:
    column = new_column(n_rows, dtype)
    assert (column.shape, column.dtype) == ((n_rows,), np.dtype(dtype))
    assert (like(column).shape, like(column).dtype) == (column.shape, column.dtype)
    several = new_columns(3, n_rows)
    assert (several.shape, several.dtype) == ((3, n_rows), np.dtype(np.int64))


def chunks_of(columns: list[np.ndarray]) -> set[int]:
    """The chunks that columns lie in, by the address of their first byte."""
    return {id(column.base) for column in columns}


def test_a_chunk_is_used_again_when_its_last_column_is_gone() -> None:
    columns = [new_column(N_ROWS, np.int64) for _ in range(N_COLUMNS)]
    assert len(chunks_of(columns)) == 1
    first = min(column.ctypes.data for column in columns)
    # From here on the thread cuts from another chunk.
    other = new_column(N_ROWS, np.int64)
    assert len(chunks_of([*columns, other])) == 2
    kept = columns.pop()[1:]
    columns.clear()
    assert column_memory._free == []
    array = pa.Array.from_buffers(pa.int64(), len(kept), [None, pa.py_buffer(kept)])
    del kept
    assert column_memory._free == []
    del array
    assert len(column_memory._free) == 1
    again = [other, *(new_column(N_ROWS, np.int64) for _ in range(N_COLUMNS))]
    assert column_memory._free == []
    assert again[-1].ctypes.data == first


def test_what_waits_to_be_used_again_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_memory, "_FREE_MAX", 3)
    columns = [new_column(N_ROWS, np.int64) for _ in range(10 * N_COLUMNS)]
    columns.clear()
    assert len(column_memory._free) == 3


def test_threads_cut_from_chunks_of_their_own() -> None:
    columns: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: columns.append(new_column(N_ROWS, np.int64)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(chunks_of(columns)) == 4


def test_results_are_free_as_soon_as_their_table_is_gone() -> None:
    # What the last step computed may be kept for as long as the job.
    n_rows = 256 * N_ROWS
    table = pa.table({"k": np.arange(n_rows) % 7, "v": np.arange(float(n_rows))})
    session = ms.Session(partitions=2)
    session.create_stream("t", table.schema)
    query = session.sql(
        "SELECT sum(v) OVER (PARTITION BY k ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s FROM t"
    )
    gc.collect()
    gc.disable()
    try:
        result = query.run({"t": table})
        assert result.num_rows == n_rows
        n_before = len(column_memory._free)
        del result
        assert len(column_memory._free) > n_before
    finally:
        gc.enable()
