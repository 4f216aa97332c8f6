"""What the compiler made of kernels: how many of their instructions work on vectors, and which."""

from __future__ import annotations

import importlib
import os
import pkgutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from perf.cases import Case
from perf.tables import Cells

__all__ = ["KernelCode", "code_cells", "compiled_kernels", "packed_instructions"]

_ROWS = 200_000
_PARTITIONS = (1, 2)
_BATCH_ROWS = 65_536
_OFTEN = 4
# Moves, and what only prepares a register.
_NO_WORK = ("vmov", "vbroadcast", "vpbroadcast", "vpxor", "vxor", "vzero", "kmov")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCode:
    """The machine code of one kernel for one set of argument types, with all that it calls.

    Attributes:
        name: Module and function.
        n_instructions: All instructions.
        packed: Instructions that compute on vectors of 256 or 512 bits, by name.
    """

    name: str
    n_instructions: int
    packed: Counter[str]


def compiled_kernels(cases: Sequence[Case]) -> list[KernelCode]:
    """Run cases on one partition and on two, and look at the kernels that they made compile.

    For a process that has not imported numba yet: code from numba's cache cannot be looked at.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        for case in cases:
            _run(case)
        codes = [_code(name, assembly) for name, assembly in _assemblies()]
    return sorted(codes, key=lambda code: (-sum(code.packed.values()), code.name))


def packed_instructions(assembly: str) -> tuple[int, Counter[str]]:
    """Count the instructions of x86 assembly, and those that compute on wide vectors by name."""
    n_instructions, packed = 0, Counter[str]()
    for line in assembly.splitlines():
        words = line.split(maxsplit=1)
        if not words or words[0].startswith((".", "#")) or words[0].endswith(":"):
            continue
        n_instructions += 1
        is_wide = len(words) == 2 and ("%ymm" in words[1] or "%zmm" in words[1])
        if is_wide and not words[0].startswith(_NO_WORK):
            packed[words[0]] += 1
    return n_instructions, packed


def code_cells(codes: Sequence[KernelCode]) -> Cells:
    """Lay out kernels, those with most work on vectors first."""
    rows = []
    for code in codes:
        n_packed = sum(code.packed.values())
        often = ", ".join(name for name, _ in code.packed.most_common(_OFTEN))
        rows.append((code.name, often, f"{code.n_instructions:,}", f"{n_packed:,}"))
    return Cells(
        title="Kernels with what they call: instructions, and those that compute on vectors.",
        header=("kernel", "on vectors, most often", "instructions", "on vectors"),
        rows=tuple(rows),
        is_bad=(False,) * len(rows),
    )


def _code(name: str, assembly: str) -> KernelCode:
    n_instructions, packed = packed_instructions(assembly)
    return KernelCode(name=name, n_instructions=n_instructions, packed=packed)


def _run(case: Case) -> None:
    import millstream as ms

    inputs = case.generate(_ROWS)
    for partitions in _PARTITIONS:
        session = ms.Session(partitions=partitions)
        for stream in case.streams:
            session.create_stream(
                stream.name, inputs[stream.name].schema, event_time=stream.event_time
            )
        session.sql(case.sql).run(inputs, batch_rows=_BATCH_ROWS)


def _assemblies() -> Iterator[tuple[str, str]]:
    from numba.core.dispatcher import Dispatcher

    package = importlib.import_module("millstream.kernels")
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, kernel in vars(module).items():
            # Those with an underscore are part of the others.
            is_own = isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__
            if is_own and not name.startswith("_"):
                for assembly in kernel.inspect_asm().values():
                    yield f"{found.name}.{name}", assembly
