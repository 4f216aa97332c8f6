"""What accumulators do, as data for :func:`millstream.kernels.aggregation.accumulate`.

Compiled kernels have these numbers in them and notice no edit here: a number keeps its meaning.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Field", "Opcode", "ValueKind"]


class Field(IntEnum):
    """Columns of a program. Addresses are of the arrays' first values; 0 stands for no array.

    ``LEAST`` and ``GREATEST`` of a sum are the numbers of later steps that take the least and the
    greatest of the same values, of which nothing but the states may differ; else 0. The last column
    belongs to the kernel, which remembers there how to go on; at first 0.
    """

    OPCODE = 0
    VALUES = 1
    VALUE_KIND = 2
    VALIDITY = 3
    VALIDITY_OFFSET = 4
    STATE = 5
    SEEN = 6
    LEAST = 7
    GREATEST = 8
    RESTLESS_BLOCKS = 9


class ValueKind(IntEnum):
    """How values lie in memory. The last two bits are the logarithm of their bytes."""

    I8 = 0
    I16 = 1
    I32 = 2
    I64 = 3
    U8 = 4
    U16 = 5
    U32 = 6
    U64 = 7
    F32 = 10
    F64 = 11


class Opcode(IntEnum):
    """What an accumulator does with the values of a group.

    Opcodes that read their values alike are neighbours, because they are told apart by ranges.
    Partial states are merged by the same opcodes, with the states as values: counts by ``SUM_I64``,
    all others by their own.

    Attributes:
        COUNT: Counts rows whose value is not NULL, or all rows where there are no values.
        SUM_I64, SUM_U64: Adds integers; wraps around.
        SUM_F64: Adds doubles; integer values are converted to doubles first.
        MIN_I64, MAX_I64: Least and greatest signed integer.
        MIN_U64, MAX_U64: Least and greatest unsigned integer.
        MIN_F64: Least double. NaN is above all numbers, and -0.0 becomes 0.0: which of two equal
            values came first never shows.
        MAX_F64: Greatest double in the same order.
        BIT_AND, BIT_OR, BIT_XOR: Bitwise, of 64-bit words.
    """

    COUNT = 0
    SUM_I64 = 1
    SUM_U64 = 2
    MIN_I64 = 3
    MAX_I64 = 4
    BIT_AND = 5
    BIT_OR = 6
    BIT_XOR = 7
    MIN_U64 = 8
    MAX_U64 = 9
    SUM_F64 = 10
    MIN_F64 = 11
    MAX_F64 = 12
