"""Numbers that compiled kernels have in them, wherever these are kept on disk."""

from millstream.kernels.programs import Field, Opcode, ValueKind


def numbers(kind):
    return {member.name: member.value for member in kind}


def test_a_number_keeps_its_meaning():
    # A kernel that was compiled before an edit runs on with the numbers of then. Add to these, and
    # change none: another meaning needs another name in another module.
    assert numbers(Opcode) == {
        "COUNT": 0,
        "SUM_I64": 1,
        "SUM_U64": 2,
        "MIN_I64": 3,
        "MAX_I64": 4,
        "BIT_AND": 5,
        "BIT_OR": 6,
        "BIT_XOR": 7,
        "MIN_U64": 8,
        "MAX_U64": 9,
        "SUM_F64": 10,
        "MIN_F64": 11,
        "MAX_F64": 12,
    }
    assert numbers(ValueKind) == {
        "I8": 0,
        "I16": 1,
        "I32": 2,
        "I64": 3,
        "U8": 4,
        "U16": 5,
        "U32": 6,
        "U64": 7,
        "F32": 10,
        "F64": 11,
    }
    assert list(numbers(Field)) == [
        "OPCODE",
        "VALUES",
        "VALUE_KIND",
        "VALIDITY",
        "VALIDITY_OFFSET",
        "STATE",
        "SEEN",
        "LEAST",
        "GREATEST",
        "RESTLESS_BLOCKS",
    ]
    assert list(numbers(Field).values()) == list(range(10))
