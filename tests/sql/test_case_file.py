"""The reader of case files takes what it documents and says what it cannot take."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from tests.sql.case_file import CaseFileError, ExpectedError, read_cases
from tests.sql.values import parse_fields, parse_row, parse_type, parse_value

EXAMPLE = """\
# A comment.
== stream t
@ event_time: ts
k string | v float64! | ts timestamp[ms]
a        | 1          | 1s
'x|y'    | nan        | NULL

== case rows
@ requires: hop, session
SELECT k -- the key
FROM t
--
k string
a

== case error
SELECT q FROM t
-- SqlError 1:8
q
"""


def test_a_file_gives_its_cases_with_their_relations(tmp_path: Path) -> None:
    path = tmp_path / "example.case"
    path.write_text(EXAMPLE)
    rows, error = read_cases(path)
    assert rows.sql == "SELECT k -- the key\nFROM t"
    assert rows.requires == {"hop", "session"}
    assert rows.expected == pa.table({"k": ["a"]})
    (stream,) = rows.relations
    assert stream.options == {"event_time": "ts"}
    assert stream.rows.column("k").to_pylist() == ["a", "x|y"]
    assert stream.rows.schema.field("v") == pa.field("v", pa.float64(), nullable=False)
    assert error.expected == ExpectedError("SqlError", 1, 8, ("q",))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("loose text\n", "before the first section"),
        ("== poem x\n", "must be a stream, a table or a case"),
        ("== case x\nSELECT 1\n", "must have a line with --"),
        ("== case x\n@ colour: red\nSELECT 1\n--\na int64\n", "colour"),
        ("== stream t\na int64 | b int64\n1\n", "must have 2 cells"),
        ("== case x\nSELECT\n-- what is this\n", "expected `-- ErrorName"),
        ("== case x\n--\na int64\n== case x\n--\na int64\n", "must differ"),
    ],
)
def test_what_is_not_well_formed_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "wrong.case"
    path.write_text(text)
    with pytest.raises(CaseFileError, match=problem):
        read_cases(path)


@pytest.mark.parametrize(
    ("text", "data_type", "value"),
    [
        ("NULL", pa.string(), None),
        ("''", pa.string(), ""),
        ("'NULL'", pa.string(), "NULL"),
        ("1m30s", pa.timestamp("ms"), 90_000),
        ("-1ms", pa.timestamp("us"), -1000),
        ("7", pa.timestamp("s"), 7),
        ("1970-01-02", pa.date32(), 1),
        ("1970-01-01T00:00:01.5", pa.timestamp("ns"), 1_500_000_000),
        ("1.50", pa.decimal128(5, 2), Decimal("1.50")),
        ("0x00ff", pa.binary(), b"\x00\xff"),
        ("[1, NULL]", pa.list_(pa.int64()), [1, None]),
    ],
)
def test_a_cell_is_read_as_its_type_says(text: str, data_type: pa.DataType, value: object) -> None:
    assert parse_value(text, data_type) == value


@pytest.mark.parametrize(
    ("text", "data_type"),
    [
        ("int64", pa.int64()),
        ("timestamp[us, tz=UTC]", pa.timestamp("us", "UTC")),
        ("decimal128(10, 2)", pa.decimal128(10, 2)),
        ("list<int32>", pa.list_(pa.int32())),
        ("dictionary<string>", pa.dictionary(pa.int32(), pa.string())),
        ("struct<a int64, b string>", pa.struct([("a", pa.int64()), ("b", pa.string())])),
    ],
)
def test_types_are_read_as_arrow_prints_them(text: str, data_type: pa.DataType) -> None:
    assert parse_type(text) == data_type


def test_names_with_spaces_stand_in_double_quotes() -> None:
    schema = parse_fields('"two words" int64 | b string')
    assert schema.names == ["two words", "b"]
    assert parse_row("1 | 'a | b'", schema) == [1, "a | b"]
