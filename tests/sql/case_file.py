"""Reader of case files: streams, tables and queries with their answers, in plain text.

A file is a sequence of sections, each headed by a line that begins with ``==``::

    # A line that begins with a hash is a comment.
    == stream trades
    @ event_time: ts
    @ max_out_of_orderness: 5 seconds
    symbol string | price float64 | ts timestamp[ms]
    A             | 10            | 1s
    B             | NULL          | 3s

    == case a comparison with NULL is not true
    SELECT symbol FROM trades WHERE price > 5
    --
    symbol string
    A

    == case an unknown column is named
    SELECT symbl FROM trades
    -- SqlError 1:8
    symbl

Streams and tables serve every case below them in the file; rows stand in order of arrival. After
``--`` come the expected rows, in any order. After ``-- <Error> [line:column]`` come parts of the
message, one a line.

Directives of a stream: ``event_time``, ``max_out_of_orderness``, ``allowed_lateness``. Directives
of a case:

* ``requires``: features, comma-separated, that the case is about.
* ``session``: options of the session, ``name=value`` comma-separated.
* ``versions``: the rows are those of a changelog, verbatim and in order for each key, at this
  many rows a batch.
* ``ordered``: rows come in the order given (in one partition).
* ``batch_rows``: numbers of rows a batch to run at, in place of the usual ones.
* ``late``: how many rows are late.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from tests.sql.values import parse_fields, parse_row

__all__ = ["Case", "CaseFileError", "ExpectedError", "Relation", "read_cases"]

_STREAM_DIRECTIVES = frozenset({"event_time", "max_out_of_orderness", "allowed_lateness"})
_CASE_DIRECTIVES = frozenset({"requires", "session", "versions", "ordered", "batch_rows", "late"})
_ERROR_HEADER = re.compile(r"--\s+(\w+)(?:\s+(\d+):(\d+))?")


class CaseFileError(Exception):
    """A case file is not well formed."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A stream or a table of a case file, its rows in order of arrival."""

    name: str
    rows: pa.Table
    is_stream: bool
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ExpectedError:
    """An error by the name of its class, its place and parts of its message."""

    error: str
    line: int | None
    column: int | None
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A query with its input and its expected answer: rows or an error."""

    name: str
    sql: str
    relations: tuple[Relation, ...]
    directives: dict[str, str]
    expected: pa.Table | ExpectedError

    @property
    def requires(self) -> frozenset[str]:
        """Names of the features without which the case cannot pass."""
        return frozenset(
            part.strip() for part in self.directives.get("requires", "").split(",")
        ) - {""}

    @property
    def session_options(self) -> dict[str, str]:
        """Options for the session."""
        pairs = (
            part.partition("=") for part in self.directives.get("session", "").split(",") if part
        )
        return {name.strip(): value.strip() for name, _, value in pairs}


def read_cases(path: Path) -> list[Case]:
    """Read all cases of a file.

    Raises:
        CaseFileError: With file and line, if the file is not well formed.
    """
    relations: dict[str, Relation] = {}
    cases: list[Case] = []
    for line_number, heading, lines in _sections(path):
        kind, _, name = heading.partition(" ")
        try:
            if kind in ("stream", "table"):
                relations[name] = _read_relation(name, lines, is_stream=kind == "stream")
            elif kind == "case":
                cases.append(_read_case(name, lines, tuple(relations.values())))
            else:
                raise ValueError(f"a section must be a stream, a table or a case: {heading!r}")
        except (ValueError, KeyError, pa.ArrowException) as error:
            raise CaseFileError(f"{path.name}:{line_number}: {name}: {error}") from error
    names = [case.name for case in cases]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise CaseFileError(f"{path.name}: case names must differ: {sorted(repeated)}")
    return cases


def _sections(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    start, heading, lines = 0, "", list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("#"):
            continue
        if line.startswith("=="):
            if heading:
                yield start, heading, lines
            start, heading, lines = number, line.removeprefix("==").strip(), []
        elif heading:
            lines.append(line.rstrip())
        elif line.strip():
            raise CaseFileError(f"{path.name}:{number}: text before the first section")
    if heading:
        yield start, heading, lines


def _take_directives(lines: list[str], known: frozenset[str]) -> tuple[dict[str, str], list[str]]:
    directives: dict[str, str] = {}
    for index, line in enumerate(lines):
        if not line.startswith("@"):
            return directives, lines[index:]
        name, _, value = line.removeprefix("@").partition(":")
        if name.strip() not in known:
            raise ValueError(f"a directive must be one of {sorted(known)}: {name.strip()!r}")
        directives[name.strip()] = value.strip()
    return directives, []


def _read_relation(name: str, lines: list[str], *, is_stream: bool) -> Relation:
    options, rest = _take_directives(lines, _STREAM_DIRECTIVES if is_stream else frozenset())
    return Relation(name, _read_rows(rest), is_stream, options)


def _read_rows(lines: list[str]) -> pa.Table:
    content = [line for line in lines if line.strip()]
    if not content:
        raise ValueError("rows must begin with a header of names and types")
    schema = parse_fields(content[0])
    rows = [parse_row(line, schema) for line in content[1:]]
    columns = [
        pa.array([row[index] for row in rows], field.type) for index, field in enumerate(schema)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _read_case(name: str, lines: list[str], relations: tuple[Relation, ...]) -> Case:
    directives, rest = _take_directives(lines, _CASE_DIRECTIVES)
    divider = next((index for index, line in enumerate(rest) if line.startswith("--")), None)
    if divider is None:
        raise ValueError("a case must have a line with -- between the query and its answer")
    sql = "\n".join(rest[:divider]).strip("\n")
    return Case(name, sql, relations, directives, _read_answer(rest[divider], rest[divider + 1 :]))


def _read_answer(divider: str, lines: list[str]) -> pa.Table | ExpectedError:
    if divider == "--":
        return _read_rows(lines)
    match = _ERROR_HEADER.fullmatch(divider)
    if match is None:
        raise ValueError(f"expected `-- ErrorName` or `-- ErrorName line:column`: {divider!r}")
    place = (int(match[2]), int(match[3])) if match[2] else (None, None)
    parts = tuple(line.strip() for line in lines if line.strip())
    return ExpectedError(match[1], place[0], place[1], parts)
