"""Memory for columns that are made anew with each batch and leave with it.

The system hands memory out page by page, at the first touch of each, and two threads that touch
new pages wait for each other: where results are wide, that takes longer than to compute them. So
columns are cut from chunks, and a chunk that nobody has a column of any more is used again. A
column keeps the chunk that it lies in; what lives long is better allocated elsewhere.
"""

from __future__ import annotations

import mmap
import sys
import threading
import weakref
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from millstream.kernels.compile import U8

__all__ = ["like", "new_column", "new_columns"]

Scalar = TypeVar("Scalar", bound=np.generic)

_CHUNK_BYTES = 1 << 21
# Columns that are smaller are not worth a part of a chunk, which they would keep as a whole.
_BYTES_LEAST = 1 << 16
# Chunks that wait to be used again, 128 MiB at most.
_FREE_MAX = 64
# Columns begin at the lines of a cache.
_ALIGNED = 64


class _Current(threading.local):
    """The chunk that a thread cuts columns from, and where its free part begins."""

    chunk: U8 = np.empty(0, np.uint8)
    n_used = 0


_current = _Current()
_free: list[mmap.mmap] = []


def new_column(n_rows: int, dtype: type[Scalar] | np.dtype[Scalar]) -> npt.NDArray[Scalar]:
    """Return [n_rows] of any content, as :func:`numpy.empty` does."""
    kind = np.dtype(dtype)
    n_bytes = n_rows * kind.itemsize
    if n_bytes < _BYTES_LEAST:
        return np.empty(n_rows, kind)
    return _cut(n_bytes).view(kind)


def new_columns(n_columns: int, n_rows: int) -> npt.NDArray[np.int64]:
    """Return int64[n_columns, n_rows] of any content."""
    return new_column(n_columns * n_rows, np.int64).reshape(n_columns, n_rows)


def like(values: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    """Return [n_rows] of any content, of the type of some values."""
    return new_column(len(values), values.dtype)


def _cut(n_bytes: int) -> U8:
    current = _current
    start = current.n_used
    if start + n_bytes > len(current.chunk):
        current.chunk, start = _new_chunk(n_bytes), 0
    stop = start + n_bytes
    current.n_used = -(-stop // _ALIGNED) * _ALIGNED
    return current.chunk[start:stop]


def _new_chunk(n_bytes: int) -> U8:
    if n_bytes > _CHUNK_BYTES:
        return np.frombuffer(_mapped(-(-n_bytes // _CHUNK_BYTES) * _CHUNK_BYTES), np.uint8)
    try:
        memory = _free.pop()
    except IndexError:
        memory = _mapped(_CHUNK_BYTES)
    chunk = np.frombuffer(memory, np.uint8)
    # All columns refer to this array, so that it goes with the last of them.
    finalizer = weakref.finalize(chunk, _give_back, memory)
    finalizer.atexit = False
    return chunk


def _give_back(memory: mmap.mmap) -> None:
    if len(_free) < _FREE_MAX:
        _free.append(memory)


def _mapped(n_bytes: int) -> mmap.mmap:
    if sys.platform == "win32":
        return mmap.mmap(-1, n_bytes)
    # Not as large pages: where memory is in pieces, the system may take milliseconds to find one.
    return mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
