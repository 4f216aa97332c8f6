"""What the README shows is what happens."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pytest

import millstream as ms
from millstream.__main__ import main
from tests.equivalence.compare import rows_of

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
FENCED = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```\n", re.MULTILINE | re.DOTALL)
BLOCKS = list(FENCED.finditer(README))
COMMANDS = [block["text"].strip() for block in BLOCKS if block["language"] == "bash"]
RUN_EXAMPLE, RUN_TESTS, COMPILE = COMMANDS


def line_of(block):
    return README.count("\n", 0, block.start()) + 2


def examples():
    """Pair each block of Python with the text that follows it right away, or with nothing."""
    for block, following in zip(BLOCKS, [*BLOCKS[1:], None], strict=True):
        if block["language"] == "python":
            shown = following is not None and following["language"] == "text"
            is_next = shown and following.start() == block.end()
            yield block, following["text"] if is_next else ""


def test_examples_print_what_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for block, expected in examples():
        # Empty lines put the code at its place in the README, for errors to point there.
        source = "\n" * (line_of(block) - 1) + block["text"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "README.md", "exec"), namespace)
        assert printed.getvalue() == expected, f"README.md, line {line_of(block)}"


def test_every_block_is_checked():
    followed = [expected for _, expected in examples() if expected]
    texts = [block for block in BLOCKS if block["language"] == "text"]
    assert len(followed) == len(texts)
    assert {block["language"] for block in BLOCKS} == {"bash", "python", "text"}
    assert README.count("```") == 2 * len(BLOCKS)


# Commands


def parts(command):
    return [shlex.split(part) for part in command.split("&&")]


def test_the_commands_install_extras_that_there_are():
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for command, extra in ((RUN_EXAMPLE, "examples"), (RUN_TESTS, "test")):
        make, install, run = parts(command)
        assert make == ["python3", "-m", "venv", ".venv"]
        assert install == [".venv/bin/pip", "install", "-e", f".[{extra}]"]
        assert run[:2] == [".venv/bin/python", "-m"]
        assert extra in extras


def test_the_tests_run_as_they_do_before_a_merge():
    script = (REPOSITORY / ".ci" / "run").read_text()
    steps = [shlex.split(line) for line in script.splitlines() if line.startswith('"$python')]
    steps = [[word for word in step if word != "--quiet"] for step in steps]
    _, install, run = parts(RUN_TESTS)
    assert ["$python", "-m", "pip", *install[1:]] in steps
    assert ["$python", *run[1:]] in steps


def test_the_example_runs():
    _, _, run = parts(RUN_EXAMPLE)
    done = subprocess.run(
        [sys.executable, *run[1:]],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "336,776 flights in" in done.stdout


def test_the_kernels_compile(capsys):
    python, flag, package, *arguments = shlex.split(COMPILE)
    assert (python, flag, package) == (".venv/bin/python", "-m", "millstream")
    main(arguments)
    assert " kernels compiled or found compiled in " in capsys.readouterr().out


# Text


@pytest.fixture
def session():
    made = ms.Session(partitions=2)
    schema = pa.schema({"at": pa.timestamp("us"), "symbol": pa.string(), "price": pa.float64()})
    for name in ("trades", "quotes"):
        made.create_stream(name, schema, event_time="at")
    return made


ROWS_OF_WINDOWS = re.findall(r"^\| (?:tumbling|hopping|growing|session)\b.*$", README, re.MULTILINE)


@pytest.mark.parametrize("row", ROWS_OF_WINDOWS, ids=lambda row: row.split("|")[1].strip())
def test_the_spellings_of_a_window_mean_the_same(session, row):
    spellings = re.findall(r"`([^`]+)`", row)
    assert len(spellings) >= 2
    times = pa.array([1, 20, 45, 70, 200, 3000], pa.int64()).cast(pa.timestamp("s"))
    rows = pa.table({"at": times, "symbol": list("abcabc"), "price": [1.0] * 6})
    answers = []
    for spelling in spellings:
        source = spelling if spelling.startswith("FROM") else f"FROM trades {spelling}"
        query = session.sql(f"SELECT window_start, window_end, count(*) AS n {source}")
        answer = query.run({"trades": rows})
        answers.append(sorted(rows_of(answer)))
    assert answers[0]
    assert all(answer == answers[0] for answer in answers)


def test_all_windows_of_the_table_are_tried():
    assert len(ROWS_OF_WINDOWS) == 4


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT t.symbol FROM trades t JOIN quotes q ON t.symbol = q.symbol",
        "SELECT symbol FROM trades ORDER BY symbol",
        "SELECT symbol FROM trades LIMIT 1",
        "SELECT symbol FROM trades OFFSET 1",
        "SELECT max(n) AS m FROM (SELECT symbol, count(*) AS n FROM trades GROUP BY symbol) c",
        "SELECT sum(price) OVER (ORDER BY at ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING) AS s "
        "FROM trades",
        "SELECT count(*) AS n FROM trades WINDOW TUMBLING(at, INTERVAL '1' MONTH)",
        "SELECT count(*) AS n FROM trades WINDOW TUMBLING(at, INTERVAL '1' YEAR)",
        "SELECT count(*) AS n FROM TUMBLE(trades, at, INTERVAL '1' SECOND) WINDOW TUMBLING(2s)",
        "INSERT INTO trades SELECT * FROM quotes",
        "SELECT * FROM 'trades.parquet'",
    ],
)
def test_what_is_said_to_be_refused_is_refused(session, sql):
    with pytest.raises(ms.SqlError):
        session.sql(sql)


def test_names_in_the_text_exist():
    named = set(re.findall(r"`ms\.(\w+)", README)) | set(
        re.findall(r"^\| `(\w+Error|JobFailed)`", README, re.M)
    )
    assert named
    assert named <= set(ms.__all__)
    counters = set(re.findall(r"\brows_\w+", README)) - {"batch_rows"}
    assert counters <= set(ms.JobStats.__dataclass_fields__)
    settings = re.findall(
        r"`(\w+)`", README[README.index("## Settings") : README.index("## Limits")]
    )
    assert set(settings) - {"batch_rows"} <= set(ms.SessionConfig.__dataclass_fields__)
