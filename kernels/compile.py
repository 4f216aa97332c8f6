"""How kernels are compiled: one decorator, the types of their arrays, access to memory by address.

Numba's disk cache watches the file of the kernel that it compiled and no other. A cached kernel
therefore keeps the machine code that it got from this file even after an edit here. That is why
what kernels take from here has to stay as small as it is: too small to ever need a change of
meaning. A change all the same calls for a new name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

__all__ = [
    "F32",
    "F64",
    "I8",
    "I16",
    "I32",
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Bool",
    "address_array",
    "inlined_kernel",
    "kernel",
    "load_word",
    "short_kernel",
]

I8: TypeAlias = npt.NDArray[np.int8]
I16: TypeAlias = npt.NDArray[np.int16]
I32: TypeAlias = npt.NDArray[np.int32]
I64: TypeAlias = npt.NDArray[np.int64]
U8: TypeAlias = npt.NDArray[np.uint8]
U16: TypeAlias = npt.NDArray[np.uint16]
U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]
F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
Bool: TypeAlias = npt.NDArray[np.bool_]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Scalar = TypeVar("Scalar", bound=np.generic)


def kernel(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile ``function`` on its first call, without the GIL, and keep the machine code on disk.

    Types are taken from the arguments of each call, so that one kernel serves writable arrays and
    Arrow's read-only ones. Division follows NumPy instead of raising, and floating-point
    operations keep their order. Bounds are not checked, except where the environment sets
    ``NUMBA_BOUNDSCHECK=1``, as one of the test runs does.

    A kernel whose name begins with an underscore can be called by kernels alone: what Python would
    need to call it takes a fifth of the time that all compilation takes.
    """
    return _compiled(function, no_cpython_wrapper=function.__name__.startswith("_"))


def short_kernel(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile ``function`` as :func:`kernel` does, but so that it keeps the GIL.

    For work of a few microseconds: to give the GIL away and have it back takes longer than that
    where other threads wait for it.
    """
    return _compiled(function, nogil=False)


def inlined_kernel(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile a part of kernels, as :func:`kernel` does, into the loops that call it.

    For small bodies in hot loops that LLVM would rather call: a call costs about a nanosecond, and
    one with an array two atomic updates of its reference count besides.
    """
    return _compiled(function, no_cpython_wrapper=True, forceinline=True)


def _compiled(
    function: Callable[Parameters, Result], **options: bool
) -> Callable[Parameters, Result]:
    # Not all options are in the declared types of numba.
    njit: Any = numba.njit
    options = {"nogil": True, **options}
    compiled: Callable[Parameters, Result] = njit(
        cache=True, error_model="numpy", no_cfunc_wrapper=True, **options
    )(function)
    return compiled


def _pointer_at(typing_context: Any, address: Any, scalar: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    pointer_type: Any = types.CPointer
    return pointer_type(scalar.dtype)(address, scalar), generate


_pointer: Any = intrinsic(_pointer_at)


@kernel
def address_array(
    address: int | np.integer[Any], length: int | np.integer[Any], scalar: type[Scalar]
) -> npt.NDArray[Scalar]:
    """View memory as a one-dimensional array; for use inside kernels only.

    Args:
        address: Where the first value is: the whole address as int64 or uint64. Unchecked.
        length: Number of values; 0 makes the address irrelevant. Unchecked.
        scalar: Type of the values, such as ``np.int64``; a constant of the kernel.

    Returns:
        An array that does not own its memory: the caller keeps it alive for as long as the call.
    """
    view: npt.NDArray[Scalar] = carray(_pointer(address, scalar), (length,))
    return view


def _load_word_at(typing_context: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer_type: Any = types.CPointer
        pointer = builder.inttoptr(arguments[0], context.get_value_type(pointer_type(types.uint64)))
        return builder.load(pointer, align=1)

    return types.uint64(address), generate


_load_word: Any = intrinsic(_load_word_at)


@kernel
def load_word(address: np.uint64) -> np.uint64:
    """Read the 8 bytes at an address, aligned or not, as a little-endian word.

    Args:
        address: Where the first byte is; all 8 must be readable. Unchecked.

    Returns:
        The word.
    """
    word: np.uint64 = _load_word(address)
    return word
