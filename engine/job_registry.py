"""The jobs of a session, by name."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable

from millstream.engine.runtime import Runtime
from millstream.errors import SchemaError

__all__ = ["JobRegistry"]


class JobRegistry:
    """Knows the latest job of each name, for as long as somebody holds it.

    A name is free again when its job has ended. A job that is started without one gets the first
    free name of ``job-0``, ``job-1`` and so on, so that a session which starts jobs for ever does
    not fill a metrics database with names.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: weakref.WeakValueDictionary[str, Runtime] = weakref.WeakValueDictionary()

    def start(self, name: str | None, make: Callable[[str], Runtime]) -> Runtime:
        """Start a job under a name.

        Args:
            name: Its name, or None for a free one.
            make: Starts it, given the name.

        Raises:
            SchemaError: The name is none, or that of a running job.
        """
        with self._lock:
            if name is None:
                name = next(
                    free
                    for free in map("job-{}".format, itertools.count())
                    if not self._is_taken(free)
                )
            elif not isinstance(name, str) or not name:
                raise SchemaError(f"the name of a job must be a string that is not empty: {name!r}")
            elif self._is_taken(name):
                raise SchemaError(f"a job named {name!r} is running already")
            runtime = make(name)
            self._jobs[name] = runtime
            return runtime

    def jobs(self) -> list[Runtime]:
        """Return all jobs that somebody holds, the latest of each name."""
        return list(self._jobs.values())

    def _is_taken(self, name: str) -> bool:
        runtime = self._jobs.get(name)
        return runtime is not None and runtime.state == "running"
