"""Accumulators over group ids: one call updates every aggregate of a micro-batch.

What to do is data: a program with one row per accumulator, its columns named by
:class:`~millstream.kernels.programs.Field`.
Rows are taken in blocks small enough that a block's group ids and values stay in the nearest cache
while one accumulator after the other runs its loop over them. Values narrower than 64 bits are
widened, and rows whose value is NULL are squeezed out, once per block and value: the loops of the
accumulators know only 64-bit words and take no branches.

Minima and maxima are the exception: of groups that have seen many values, hardly a row changes
them. A branch that is guessed right costs less than a store, above all where neighbouring rows are
of one group. Where too many rows change them, blocks do without branches for a while.

Sums of doubles are plain: carrying the rounding error along was measured to double their cost.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from millstream.kernels.compile import F64, I64, U8, U16, U32, U64, kernel
from millstream.kernels.compile import _pointer as pointer
from millstream.kernels.programs import Field, Opcode, ValueKind

__all__ = ["accumulate"]


Words: TypeAlias = I64 | F64

_BLOCK_ROWS = 1024
# If an extreme changes more often than once in so many rows, so many blocks take no branches.
_ROWS_PER_CHANGE, _RESTLESS_BLOCKS_MAX = 32, 32

# Memory that is reached by address cannot be indexed with members of an enumeration.
_OPCODE, _VALUES, _VALUE_KIND, _VALIDITY = map(int, list(Field)[:4])
_VALIDITY_OFFSET, _STATE, _SEEN, _LEAST, _GREATEST, _RESTLESS_BLOCKS = map(int, list(Field)[4:])
_F32 = int(ValueKind.F32)
_STEP_BYTES = 8 * len(Field)


@kernel
def _takes_doubles(opcode: int) -> bool:
    return opcode >= Opcode.SUM_F64


@kernel
def _copy(values: Words, n_rows: int, words: Words) -> None:
    for row in range(n_rows):
        words[row] = values[row]


@kernel
def _widen(kind: int, values_at: int, n_rows: int, words: I64) -> None:
    if kind == ValueKind.I8:
        _copy(pointer(values_at, np.int8), n_rows, words)
    elif kind == ValueKind.I16:
        _copy(pointer(values_at, np.int16), n_rows, words)
    elif kind == ValueKind.I32:
        _copy(pointer(values_at, np.int32), n_rows, words)
    elif kind == ValueKind.U8:
        _copy(pointer(values_at, np.uint8), n_rows, words)
    elif kind == ValueKind.U16:
        _copy(pointer(values_at, np.uint16), n_rows, words)
    elif kind == ValueKind.U32:
        _copy(pointer(values_at, np.uint32), n_rows, words)


@kernel
def _widen_to_doubles(kind: int, values_at: int, n_rows: int, doubles: F64) -> None:
    if kind == ValueKind.F32:
        _copy(pointer(values_at, np.float32), n_rows, doubles)
    elif kind == ValueKind.U64:
        _copy(pointer(values_at, np.uint64), n_rows, doubles)
    else:
        _copy(pointer(values_at, np.int64), n_rows, doubles)


@kernel
def _find_valid_rows(validity: U8, bit: int, n_rows: int, rows: U16) -> int:
    n_valid = 0
    for row in range(n_rows):
        rows[n_valid] = row
        n_valid += (validity[(bit + row) >> 3] >> ((bit + row) & 7)) & 1
    return n_valid


@kernel
def _load_block(
    step: I64, first: int, n_rows: int, ids_at: int, scratch_at: int
) -> tuple[int, int, int]:
    """Return addresses of a block's ids and values, and how many rows have a value."""
    kind = step[_VALUE_KIND]
    n_bytes = 1 << (kind & 3)
    values_at = step[_VALUES] + first * n_bytes
    has_values = step[_VALUES] != 0
    if has_values and kind < _F32 and n_bytes < 8:
        _widen(kind, values_at, n_rows, pointer(scratch_at, np.int64))
        values_at = scratch_at
    if has_values and (kind == _F32 or (kind < _F32 and _takes_doubles(step[_OPCODE]))):
        _widen_to_doubles(kind, values_at, n_rows, pointer(scratch_at, np.float64))
        values_at = scratch_at
    if step[_VALIDITY] == 0:
        return ids_at, values_at, n_rows
    taken_ids_at = scratch_at + 8 * _BLOCK_ROWS
    rows = pointer(taken_ids_at + 4 * _BLOCK_ROWS, np.uint16)
    validity = pointer(step[_VALIDITY], np.uint8)
    n_taken = _find_valid_rows(validity, step[_VALIDITY_OFFSET] + first, n_rows, rows)
    ids = pointer(ids_at, np.uint32)
    taken_ids = pointer(taken_ids_at, np.uint32)
    for row in range(n_taken):
        taken_ids[row] = ids[rows[row]]
    if has_values:
        # Rows ascend, so nothing is overwritten before it is read even where both are one array.
        words = pointer(values_at, np.int64)
        taken_words = pointer(scratch_at, np.int64)
        for row in range(n_taken):
            taken_words[row] = words[rows[row]]
    return taken_ids_at, scratch_at, n_taken


@kernel
def _apply_to_words(opcode: int, n_rows: int, ids: U32, values: I64, state: I64) -> None:
    if opcode == Opcode.COUNT:
        for row in range(n_rows):
            state[ids[row]] += 1
    elif opcode == Opcode.SUM_I64 or opcode == Opcode.SUM_U64:
        for row in range(n_rows):
            state[ids[row]] += values[row]
    elif opcode == Opcode.MIN_I64:
        for row in range(n_rows):
            state[ids[row]] = min(state[ids[row]], values[row])
    elif opcode == Opcode.MAX_I64:
        for row in range(n_rows):
            state[ids[row]] = max(state[ids[row]], values[row])
    elif opcode == Opcode.BIT_AND:
        for row in range(n_rows):
            state[ids[row]] &= values[row]
    elif opcode == Opcode.BIT_OR:
        for row in range(n_rows):
            state[ids[row]] |= values[row]
    elif opcode == Opcode.BIT_XOR:
        for row in range(n_rows):
            state[ids[row]] ^= values[row]


@kernel
def _apply_to_unsigned(opcode: int, n_rows: int, ids: U32, values: U64, state: U64) -> None:
    if opcode == Opcode.MIN_U64:
        for row in range(n_rows):
            state[ids[row]] = min(state[ids[row]], values[row])
    elif opcode == Opcode.MAX_U64:
        for row in range(n_rows):
            state[ids[row]] = max(state[ids[row]], values[row])


@kernel
def _lesser(one: float, other: float, zero: float) -> float:
    # Of doubles: adding 0.0 turns -0.0 into 0.0 and changes nothing else; NaN gives way to
    # everything. Of integers, whose zero is 0: just the lesser.
    value = other + zero
    return value if (value < one) | (one != one) else one


@kernel
def _greater(one: float, other: float, zero: float) -> float:
    value = other + zero
    return value if (value > one) | (value != value) else one


@kernel
def _apply_to_doubles(opcode: int, n_rows: int, ids: U32, values: F64, state: F64) -> None:
    if opcode == Opcode.SUM_F64:
        for row in range(n_rows):
            state[ids[row]] += values[row]
    elif opcode == Opcode.MIN_F64:
        for row in range(n_rows):
            state[ids[row]] = _lesser(state[ids[row]], values[row], 0.0)
    elif opcode == Opcode.MAX_F64:
        for row in range(n_rows):
            state[ids[row]] = _greater(state[ids[row]], values[row], 0.0)


@kernel
def _sum(n_rows: int, values: F64) -> float:
    # Four sums at once: an addition waits for the one before it, not for the three beside it.
    sum_0 = sum_1 = sum_2 = sum_3 = 0.0
    for row in range(0, n_rows - 3, 4):
        sum_0 += values[row]
        sum_1 += values[row + 1]
        sum_2 += values[row + 2]
        sum_3 += values[row + 3]
    for row in range(n_rows - n_rows % 4, n_rows):
        sum_0 += values[row]
    return (sum_0 + sum_1) + (sum_2 + sum_3)


@kernel
def _extreme(is_least: bool, n_rows: int, values: F64, so_far: float) -> float:
    # Four at once, as for sums.
    best_0 = best_1 = best_2 = best_3 = so_far
    for row in range(0, n_rows - 3, 4):
        if is_least:
            best_0 = _lesser(best_0, values[row], 0.0)
            best_1 = _lesser(best_1, values[row + 1], 0.0)
            best_2 = _lesser(best_2, values[row + 2], 0.0)
            best_3 = _lesser(best_3, values[row + 3], 0.0)
        else:
            best_0 = _greater(best_0, values[row], 0.0)
            best_1 = _greater(best_1, values[row + 1], 0.0)
            best_2 = _greater(best_2, values[row + 2], 0.0)
            best_3 = _greater(best_3, values[row + 3], 0.0)
    for row in range(n_rows - n_rows % 4, n_rows):
        best_0 = (
            _lesser(best_0, values[row], 0.0) if is_least else _greater(best_0, values[row], 0.0)
        )
    if is_least:
        return _lesser(_lesser(best_0, best_1, 0.0), _lesser(best_2, best_3, 0.0), 0.0)
    return _greater(_greater(best_0, best_1, 0.0), _greater(best_2, best_3, 0.0), 0.0)


@kernel
def _apply_to_doubles_of_one(opcode: int, n_rows: int, values: F64, state: F64) -> None:
    # Updates of one place in memory wait for each other; a register is faster.
    if opcode == Opcode.SUM_F64:
        state[0] += _sum(n_rows, values)
    elif opcode == Opcode.MIN_F64:
        state[0] = _extreme(True, n_rows, values, state[0])
    else:
        state[0] = _extreme(False, n_rows, values, state[0])


@kernel
def _apply_to_words_of_one(opcode: int, n_rows: int, values: I64, state: I64) -> None:
    result = state[0]
    if opcode == Opcode.COUNT:
        result += n_rows
    elif opcode == Opcode.SUM_I64 or opcode == Opcode.SUM_U64:
        for row in range(n_rows):
            result += values[row]
    elif opcode == Opcode.MIN_I64:
        for row in range(n_rows):
            result = min(result, values[row])
    elif opcode == Opcode.MAX_I64:
        for row in range(n_rows):
            result = max(result, values[row])
    elif opcode == Opcode.BIT_AND:
        for row in range(n_rows):
            result &= values[row]
    elif opcode == Opcode.BIT_OR:
        for row in range(n_rows):
            result |= values[row]
    else:
        for row in range(n_rows):
            result ^= values[row]
    state[0] = result


@kernel
def _any_below(row: int, ids: U32, values: Words, state: Words) -> bool:
    """Tell whether a minimum changes by one of four rows; NaN, which compares as false, does."""
    return not (
        (values[row] >= state[ids[row]])
        & (values[row + 1] >= state[ids[row + 1]])
        & (values[row + 2] >= state[ids[row + 2]])
        & (values[row + 3] >= state[ids[row + 3]])
    )


@kernel
def _any_above(row: int, ids: U32, values: Words, state: Words) -> bool:
    return not (
        (values[row] <= state[ids[row]])
        & (values[row + 1] <= state[ids[row + 1]])
        & (values[row + 2] <= state[ids[row + 2]])
        & (values[row + 3] <= state[ids[row + 3]])
    )


@kernel
def _change(is_least: bool, n_rows: int, ids: U32, values: Words, state: Words, zero: float) -> int:
    """Apply a minimum or maximum to 4 rows or more; return how many fours changed something."""
    # The last four may have been looked at in part before, which does no harm.
    n_changes = 0
    if is_least:
        for four in range(0, n_rows, 4):
            first = min(four, n_rows - 4)
            if _any_below(first, ids, values, state):
                n_changes += 1
                for row in range(first, first + 4):
                    state[ids[row]] = _lesser(state[ids[row]], values[row], zero)
    else:
        for four in range(0, n_rows, 4):
            first = min(four, n_rows - 4)
            if _any_above(first, ids, values, state):
                n_changes += 1
                for row in range(first, first + 4):
                    state[ids[row]] = _greater(state[ids[row]], values[row], zero)
    return n_changes


@kernel
def _sum_and_change(
    n_rows: int, ids: U32, values: Words, sums: Words, least: Words, greatest: Words, zero: float
) -> int:
    """Add values up and take their least and greatest; return how many rows changed these."""
    n_changes = 0
    for row in range(n_rows):
        group_id, value = ids[row], values[row]
        sums[group_id] += value
        if not ((value >= least[group_id]) & (value <= greatest[group_id])):
            least[group_id] = _lesser(least[group_id], value, zero)
            greatest[group_id] = _greater(greatest[group_id], value, zero)
            n_changes += 1
    return n_changes


@kernel
def _sum_with_extremes(
    step: I64, least: I64, greatest: I64, n_rows: int, ids: U32, values_at: int
) -> bool:
    """Do three steps over the same values at once, unless too many rows change an extreme."""
    if step[_RESTLESS_BLOCKS] > 0:
        step[_RESTLESS_BLOCKS] -= 1
        return False
    at, least_at, greatest_at = step[_STATE], least[_STATE], greatest[_STATE]
    if _takes_doubles(step[_OPCODE]):
        doubles, sums = pointer(values_at, np.float64), pointer(at, np.float64)
        minima, maxima = pointer(least_at, np.float64), pointer(greatest_at, np.float64)
        n_changes = _sum_and_change(n_rows, ids, doubles, sums, minima, maxima, 0.0)
    else:
        words, totals = pointer(values_at, np.int64), pointer(at, np.int64)
        lower, upper = pointer(least_at, np.int64), pointer(greatest_at, np.int64)
        n_changes = _sum_and_change(n_rows, ids, words, totals, lower, upper, 0)
    if n_changes * _ROWS_PER_CHANGE > n_rows:
        step[_RESTLESS_BLOCKS] = _RESTLESS_BLOCKS_MAX
    return True


@kernel
def _is_one_group(n_rows: int, ids: U32) -> bool:
    differences = np.uint32(0)
    for row in range(n_rows):
        differences |= ids[row] ^ ids[0]
    return bool(differences == 0)


@kernel
def _apply_changes(step: I64, n_rows: int, ids: U32, values_at: int) -> bool:
    """Apply a minimum or maximum where it changes, unless that is everywhere; else return False."""
    opcode = step[_OPCODE]
    is_of_words = opcode == Opcode.MIN_I64 or opcode == Opcode.MAX_I64
    if not (is_of_words or opcode >= Opcode.MIN_F64) or n_rows < 4:
        return False
    if step[_RESTLESS_BLOCKS] > 0:
        step[_RESTLESS_BLOCKS] -= 1
        return False
    if is_of_words:
        words = pointer(values_at, np.int64)
        state = pointer(step[_STATE], np.int64)
        n_changes = _change(opcode == Opcode.MIN_I64, n_rows, ids, words, state, 0)
    else:
        doubles = pointer(values_at, np.float64)
        floats = pointer(step[_STATE], np.float64)
        n_changes = _change(opcode == Opcode.MIN_F64, n_rows, ids, doubles, floats, 0.0)
    if n_changes * _ROWS_PER_CHANGE > n_rows:
        step[_RESTLESS_BLOCKS] = _RESTLESS_BLOCKS_MAX
    return True


@kernel
def _note(step: I64, n_rows: int, ids: U32) -> None:
    if step[_SEEN] != 0:
        seen = pointer(step[_SEEN], np.uint8)
        for row in range(n_rows):
            seen[ids[row]] = 1


@kernel
def _apply(step: I64, n_rows: int, ids: U32, values_at: int, one_group: bool) -> None:
    opcode = step[_OPCODE]
    state_at = step[_STATE]
    if opcode == Opcode.MIN_U64 or opcode == Opcode.MAX_U64:
        unsigned = pointer(values_at, np.uint64)
        _apply_to_unsigned(opcode, n_rows, ids, unsigned, pointer(state_at, np.uint64))
    elif one_group:
        state_of_one_at = state_at + 8 * ids[0]
        if _takes_doubles(opcode):
            doubles, of_one = pointer(values_at, np.float64), pointer(state_of_one_at, np.float64)
            _apply_to_doubles_of_one(opcode, n_rows, doubles, of_one)
        else:
            words, word = pointer(values_at, np.int64), pointer(state_of_one_at, np.int64)
            _apply_to_words_of_one(opcode, n_rows, words, word)
    elif not _apply_changes(step, n_rows, ids, values_at):
        if _takes_doubles(opcode):
            floats, sums = pointer(values_at, np.float64), pointer(state_at, np.float64)
            _apply_to_doubles(opcode, n_rows, ids, floats, sums)
        else:
            longs, totals = pointer(values_at, np.int64), pointer(state_at, np.int64)
            _apply_to_words(opcode, n_rows, ids, longs, totals)


@kernel
def _same_values(step: I64, other: I64) -> bool:
    for field in range(_VALUES, _STATE):
        if step[field] != other[field]:
            return False
    # Integers are loaded as they are for some opcodes and as doubles for others.
    takes_doubles = _takes_doubles(step[_OPCODE])
    return step[_VALUE_KIND] >= _F32 or takes_doubles == _takes_doubles(other[_OPCODE])


@kernel
def accumulate(programs: I64, bounds: I64, group_ids: U32) -> None:
    """Take rows into the states of their groups, for several accumulators at once.

    Rows lie in parts, one after the other. What a program remembers is handed on to the next part.

    Args:
        programs: int64[n_parts, n_accumulators, 10], per part a row per accumulator, columns as
            :class:`Field` says. ``VALUES`` is the address of values of ``VALUE_KIND`` for the rows
            of the part; ``VALIDITY`` that of an Arrow bitmap whose bit ``VALIDITY_OFFSET`` belongs
            to its first row; ``STATE`` that of the groups' states, of its type, or 0 for a
            step to leave out; ``SEEN`` that of one byte per group, set to 1 when the group takes a
            value. The caller keeps them alive. Addresses, and whether kinds suit opcodes, go
            unchecked.
        bounds: int64[n_parts + 1], where each part begins in ``group_ids`` and the last one ends.
        group_ids: uint32[bounds[-1]], the group of each row. States and ``SEEN`` reach beyond the
            greatest: unchecked.
    """
    scratch = np.empty(2 * _BLOCK_ROWS, np.int64)
    scratch_at = int(np.int64(scratch.ctypes.data))
    for part in range(programs.shape[0]):
        before = max(part - 1, 0)
        for index in range(programs.shape[1]):
            programs[part, index, _RESTLESS_BLOCKS] = programs[before, index, _RESTLESS_BLOCKS]
        part_at = int(np.int64(programs.ctypes.data)) + _STEP_BYTES * programs.shape[1] * part
        for start in range(bounds[part], bounds[part + 1], _BLOCK_ROWS):
            n_rows = min(_BLOCK_ROWS, bounds[part + 1] - start)
            block_ids_at = int(np.int64(group_ids.ctypes.data)) + 4 * start
            one_group = _is_one_group(n_rows, pointer(block_ids_at, np.uint32))
            ids_at = values_at = n_taken = loaded_at = 0
            least = greatest = -1
            for index in range(programs.shape[1]):
                step_at = part_at + _STEP_BYTES * index
                step = pointer(step_at, np.int64)
                if step[_STATE] == 0:
                    continue
                if loaded_at == 0 or not _same_values(step, pointer(loaded_at, np.int64)):
                    loaded_at = step_at
                    ids_at, values_at, n_taken = _load_block(
                        step, start - bounds[part], n_rows, block_ids_at, scratch_at
                    )
                if n_taken == 0:
                    continue
                ids = pointer(ids_at, np.uint32)
                is_done = index == least or index == greatest
                if step[_LEAST] > 0 and not one_group:
                    lower = pointer(part_at + _STEP_BYTES * step[_LEAST], np.int64)
                    upper = pointer(part_at + _STEP_BYTES * step[_GREATEST], np.int64)
                    is_done = _sum_with_extremes(step, lower, upper, n_taken, ids, values_at)
                    if is_done:
                        least, greatest = step[_LEAST], step[_GREATEST]
                if not is_done:
                    _apply(step, n_taken, ids, values_at, one_group)
                _note(step, n_taken, ids)
    # Named once more, because memory is freed after the last mention of its array.
    scratch[0] = 0
