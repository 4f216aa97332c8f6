"""Work in several processes at once."""

import os
import time
from functools import partial

import pytest

from perf.records import Sample
from perf.side_by_side import side_by_side


def ready(folder):
    done = []

    def work():
        begun = time.monotonic()
        done.append(begun)
        (folder / f"{os.getpid()}-{len(done)}").write_text(f"{begun}")
        return Sample(float(len(done)), 0.25)

    return work


def broken(folder):
    try:
        (folder / "first").touch(exist_ok=False)
    except FileExistsError:
        return ready(folder)
    raise ValueError("this process is to fail")


def test_repeats_begin_at_once_and_are_as_long_as_the_longest(tmp_path):
    samples = side_by_side(partial(ready, tmp_path), 2, 3)
    assert samples == (Sample(1.0, 0.5), Sample(2.0, 0.5), Sample(3.0, 0.5))
    for repeat in (1, 2, 3):
        begun = [float(path.read_text()) for path in tmp_path.glob(f"*-{repeat}")]
        assert len(begun) == 2
        assert max(begun) - min(begun) < 1


def test_a_process_that_fails_is_no_measurement(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="a process failed"):
        side_by_side(partial(broken, tmp_path), 2, 2)
    assert "this process is to fail" in capfd.readouterr().err
