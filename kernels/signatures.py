"""With what types of arguments the engine calls kernels: a list, and how a line of it is written.

A line names a kernel by its file and its own name, and then the types of its arguments in numba's
notation, with ``const`` before an array that must not be written to::

    splitting.find_changes(const int64[::1], int64[:, ::1], int64)

A named tuple is the name of its class, with the types of its fields in parentheses; other tuples
are in parentheses alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from numba.core import types

__all__ = ["LIST", "KernelSignature", "listed_signatures", "type_text"]

LIST = Path(__file__).with_suffix(".txt")
"""The list: a line each, sorted; lines that begin with ``#`` say something about it."""

_PACKAGE = __package__ or "millstream.kernels"
_TOKEN = re.compile(r"\s*(const\b|\[[:,1 ]+\]|[(),]|[A-Za-z_][\w.]*)")
# What numba takes Python's own numbers for; of other types are the elements of arrays.
_SCALARS = frozenset({types.int64, types.float64, types.boolean})


@dataclass(frozen=True, slots=True, order=True)
class KernelSignature:
    """A kernel and the types of arguments for which it is compiled.

    Attributes:
        module: File of the kernel, without its ending.
        kernel: Name of the kernel.
        arguments: Types of its arguments as in the list.
    """

    module: str
    kernel: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.module}.{self.kernel}({', '.join(self.arguments)})"

    @classmethod
    def parse(cls, line: str) -> KernelSignature:
        """Read a line of the list.

        Raises:
            ValueError: It is not written as such a line is.
        """
        name, _, rest = line.strip().partition("(")
        module, _, kernel = name.partition(".")
        parser = _Parser(f"({rest}", module)
        parsed = parser.tuple_members()
        if not kernel or parser.tokens:
            raise ValueError(f"not a signature of a kernel: {line!r}")
        return cls(module, kernel, tuple(type_text(member, module) for member in parsed))

    @property
    def dispatcher(self) -> Any:
        """The kernel, as numba wraps it."""
        return getattr(import_module(f"{_PACKAGE}.{self.module}"), self.kernel)

    def compile(self) -> None:
        """Compile the kernel for these types, or load it if that has been done."""
        text = f"({', '.join(self.arguments)})"
        self.dispatcher.compile(tuple(_Parser(text, self.module).tuple_members()))


@cache
def listed_signatures() -> tuple[KernelSignature, ...]:
    """Return what is in the list, in its order."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return tuple(KernelSignature.parse(line) for line in lines if line and line[0] != "#")


def type_text(numba_type: Any, module: str) -> str:
    """Write a type of the compiler's as in the list.

    Args:
        numba_type: Of an argument that Python can give.
        module: File of the kernel, without its ending.

    Raises:
        ValueError: It is of another kind, as those that only kernels give each other.
    """
    if isinstance(numba_type, types.NamedTuple | types.NamedUniTuple):
        fields = ", ".join(type_text(member, module) for member in numba_type)
        return f"{numba_type.instance_class.__name__}({fields})"
    if isinstance(numba_type, types.Tuple | types.UniTuple):
        return f"({', '.join(type_text(member, module) for member in numba_type)})"
    if isinstance(numba_type, types.Array) and numba_type.layout in "CA" and numba_type.aligned:
        last = "::1" if numba_type.layout == "C" else ":"
        axes = ", ".join([":"] * (numba_type.ndim - 1) + [last])
        return f"{'' if numba_type.mutable else 'const '}{numba_type.dtype}[{axes}]"
    if numba_type in _SCALARS:
        return str(numba_type)
    raise ValueError(f"no argument that Python gives: {numba_type}")


class _Parser:
    """Reads types from left to right."""

    def __init__(self, text: str, module: str) -> None:
        self._text = text
        self._module = module
        self.tokens: list[str] = []
        place = 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise ValueError(f"not a signature of a kernel: {text!r}")
            self.tokens.append(match[1])
            place = match.end()
        self.tokens.reverse()

    def tuple_members(self) -> list[Any]:
        """Read types in parentheses."""
        members: list[Any] = []
        self._expect("(")
        while self._next() != ")":
            if members:
                self._expect(",")
            members.append(self._type())
        self._expect(")")
        return members

    def _type(self) -> Any:
        tuple_of: Any = types.BaseTuple.from_types
        if self._next() == "(":
            return tuple_of(self.tuple_members())
        is_constant = self._next() == "const"
        if is_constant:
            self.tokens.pop()
        name = self.tokens.pop() if self.tokens else ""
        if self._next() == "(":
            module = import_module(f"{_PACKAGE}.{self._module}")
            return tuple_of(self.tuple_members(), getattr(module, name))
        scalar = getattr(types, name, None)
        if not isinstance(scalar, types.Type):
            raise ValueError(f"no type {name!r} in {self._text!r}")
        if not self._next().startswith("["):
            if scalar not in _SCALARS or is_constant:
                raise ValueError(f"no type {name!r} in {self._text!r}")
            return scalar
        axes = self.tokens.pop()
        layout: Literal["A", "C"] = "C" if "::1" in axes else "A"
        return types.Array(scalar, axes.count(",") + 1, layout, readonly=is_constant)

    def _next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def _expect(self, token: str) -> None:
        if self._next() != token:
            raise ValueError(f"{token!r} is missing in {self._text!r}")
        self.tokens.pop()
