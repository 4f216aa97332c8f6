"""Compiles all kernels ahead of time, so that no query waits for its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from millstream.kernels.signatures import listed_signatures

__all__ = ["compile_kernels"]


def compile_kernels(on_progress: Callable[[int, int], None] | None = None) -> Path:
    """Compile all kernels for all types of arguments with which the engine calls them.

    A query compiles the kernels that it needs when it first needs them, some of them in the midst
    of its input. What is compiled stays on disk, for this type of processor; this is for the build
    of an image, or for the first start of a service. It takes about a minute, and a second where
    all has been compiled before. No query runs meanwhile at full speed, since compiling holds
    Python's lock.

    Args:
        on_progress: Is called after each kernel with the number of those that are done and of all.

    Returns:
        The folder in which they are kept. It can be chosen by the environment variable
        ``NUMBA_CACHE_DIR``, for the build and for who runs queries alike.
    """
    signatures = listed_signatures()
    for number, signature in enumerate(signatures, 1):
        signature.compile()
        if on_progress is not None:
            on_progress(number, len(signatures))
    return Path(signatures[-1].dispatcher.stats.cache_path)
