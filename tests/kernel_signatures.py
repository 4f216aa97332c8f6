"""Which kernels have been compiled or loaded in this process, and for what types of arguments."""

from __future__ import annotations

import fcntl
import os
import sys
from typing import Any

from numba.core.dispatcher import Dispatcher

from millstream.kernels.signatures import LIST, KernelSignature, type_text

_PREFIX = "millstream.kernels."


def dispatchers() -> dict[tuple[str, str], Any]:
    """Return the kernels that Python can call, by file and name."""
    return {
        (module_name.removeprefix(_PREFIX), name): value
        for module_name, module in list(sys.modules.items())
        if module_name.startswith(_PREFIX)
        for name, value in vars(module).items()
        if isinstance(value, Dispatcher)
        and value.py_func.__module__ == module_name
        and not value.targetoptions.get("no_cpython_wrapper")
    }


def compiled() -> set[KernelSignature]:
    """Return what has been compiled or loaded so far, but for what only kernels give each other."""
    found = set()
    for (module, kernel), dispatcher in dispatchers().items():
        for arguments in dispatcher.signatures:
            try:
                texts = tuple(type_text(argument, module) for argument in arguments)
            except ValueError:
                continue
            found.add(KernelSignature(module, kernel, texts))
    return found


def add_to_list(signatures: set[KernelSignature]) -> None:
    """Add lines to the list; other processes may do so at the same time."""
    folder = os.open(LIST.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        lines = LIST.read_text(encoding="utf-8").splitlines()
        comments = [line for line in lines if line.startswith("#")]
        kept = {line for line in lines if line and not line.startswith("#")}
        whole = LIST.with_suffix(".new")
        texts = [*comments, *sorted(kept | set(map(str, signatures)))]
        whole.write_text("\n".join(texts) + "\n", encoding="utf-8")
        whole.replace(LIST)
    finally:
        os.close(folder)
