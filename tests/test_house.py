"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

import millstream

REPOSITORY = Path(__file__).resolve().parent.parent
LAYERS = ("engine", "kernels", "planner")
MODULE_LINES_MAX = 500


def modules(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def attributes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


SOURCES = [
    *modules(*LAYERS),
    REPOSITORY / "millstream" / "__init__.py",
    REPOSITORY / "millstream" / "errors.py",
    *modules("millstream/examples"),
]


def test_public_names_exist():
    assert [name for name in millstream.__all__ if not hasattr(millstream, name)] == []


def test_version_is_that_of_the_package():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert millstream.__version__ == project["version"]


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_are_reached_by_links(layer):
    link = REPOSITORY / "millstream" / layer
    assert link.is_symlink()
    assert os.readlink(link) == f"../{layer}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_modules_say_what_they_are_and_stay_short(path):
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), "a module begins with what it is for"
    assert source.count("\n") < MODULE_LINES_MAX


@pytest.mark.parametrize("folder", sorted({path.parent for path in SOURCES}), ids=name)
def test_folders_of_modules_are_packages(folder):
    # Import names, doctests and the layers' contracts all stop at a folder without it.
    assert (folder / "__init__.py").is_file()


@pytest.mark.parametrize("path", modules("kernels"), ids=name)
def test_kernels_call_only_kernels_of_their_own_file(path):
    # Numba's disk cache misses edits in other files: an old kernel would run on in silence. Of what
    # stands in the exceptions, nothing ever changes; see the tests of programs.
    others = {
        module
        for module in imported(ast.parse(path.read_text()))
        if module.startswith("millstream.kernels.")
        and not module.startswith(("millstream.kernels.compile.", "millstream.kernels.programs."))
    }
    # Neither of these has a kernel.
    assert path.name in ("__init__.py", "ahead.py") or others == set()


@pytest.mark.parametrize("path", modules("kernels"), ids=name)
def test_kernels_are_compiled_by_the_one_decorator(path):
    names = set(imported(ast.parse(path.read_text())))
    allowed = ("compile.py", "signatures.py")
    assert path.name in allowed or not any(name.startswith("numba") for name in names)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_errors_are_not_swallowed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            assert not (broad and silent), f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_only_the_command_line_reads_the_environment(path):
    assert not {"os.environ", "os.getenv"} & set(attributes(ast.parse(path.read_text())))


def test_kernels_of_the_tests_are_cached_apart():
    assert os.environ["NUMBA_CACHE_DIR"] == numba.config.CACHE_DIR
