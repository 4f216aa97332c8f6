import inspect

import numba
import numpy as np
import pytest

import millstream as ms
from millstream.__main__ import main
from millstream.kernels import sessions
from millstream.kernels.signatures import LIST, KernelSignature, listed_signatures, type_text
from tests import kernel_signatures

LINES = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]


def constant(values):
    values.flags.writeable = False
    return values


def test_lines_are_sorted_and_none_comes_twice():
    assert sorted(set(LINES)) == LINES


@pytest.mark.parametrize("line", LINES)
def test_lines_name_a_kernel_with_so_many_arguments(line):
    signature = KernelSignature.parse(line)
    assert str(signature) == line
    parameters = inspect.signature(signature.dispatcher.py_func).parameters
    assert len(signature.arguments) == len(parameters)
    assert not signature.dispatcher.targetoptions.get("no_cpython_wrapper")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "int64"),
        (True, "bool"),
        (0.5, "float64"),
        (np.zeros(3, np.uint8), "uint8[::1]"),
        (constant(np.zeros(3, np.int32)), "const int32[::1]"),
        (np.zeros((2, 3), np.float32), "float32[:, ::1]"),
        (np.zeros((2, 3), bool)[:, ::2], "bool[:, :]"),
        ((np.zeros(1), 1), "(float64[::1], int64)"),
        ((1, 2), "(int64, int64)"),
        ((), "()"),
    ],
)
def test_what_python_gives_is_written_and_read(value, text):
    compiled = numba.typeof(value)
    assert type_text(compiled, "sessions") == text
    line = f"sessions.kernel(int64, {text})"
    assert str(KernelSignature.parse(line)) == line


def test_named_tuples_are_of_the_class_of_that_name_in_the_file():
    fields = {name: np.zeros((1, 1), np.int64) for name in sessions.SessionArrays._fields}
    arrays = numba.typeof(sessions.SessionArrays(**fields))
    text = f"SessionArrays({', '.join(['int64[:, ::1]'] * len(fields))})"
    assert type_text(arrays, "sessions") == text
    (argument,) = KernelSignature.parse(f"sessions.close({text})").arguments
    assert argument == text


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sessions",
        "sessions.close",
        "close(int64)",
        "sessions.close(int64",
        "sessions.close(int64))",
        "sessions.close(int64 int64)",
        "sessions.close(const int64)",
        "sessions.close(uint8)",
        "sessions.close(text[::1])",
        "sessions.close(int64; int64)",
    ],
)
def test_what_is_no_signature_is_refused(line):
    with pytest.raises(ValueError, match=r"no type|missing in|not a signature"):
        KernelSignature.parse(line)


@pytest.mark.parametrize("value", [np.uint64(1), np.zeros((2, 2), order="F"), "text"])
def test_what_the_list_cannot_say_is_refused(value):
    with pytest.raises(ValueError, match="no argument that Python gives"):
        type_text(numba.typeof(value), "sessions")


def test_all_kernels_of_the_list_are_compiled():
    seen = []
    folder = ms.compile_kernels(lambda *numbers: seen.append(numbers))
    assert seen == [(number, len(LINES)) for number in range(1, len(LINES) + 1)]
    assert set(listed_signatures()) <= kernel_signatures.compiled()
    assert any(folder.glob("*.nbc"))
    assert ms.compile_kernels() == folder


def test_the_command_tells_how_many_and_where(capsys):
    main(["compile-kernels"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"{len(LINES)} kernels compiled or found compiled in ")
    assert printed.rstrip().endswith(str(ms.compile_kernels()))


def test_the_command_line_says_what_it_can_do(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "compile-kernels" in capsys.readouterr().out
