"""The flights example gives DataFusion's answer over the rows that are not late."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import datafusion
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millstream.examples import flights as example

REPOSITORY = Path(__file__).resolve().parents[2]
HOUR = 3600
COVERS_EVERYTHING = "2 days"
BATCH = """
    SELECT date_bin(INTERVAL '1 hour', scheduled) AS hour, name AS airline,
           count(*) AS flights, avg(dep_delay) AS mean_delay
    FROM flights f JOIN airlines a ON f.carrier = a.carrier
    GROUP BY name, date_bin(INTERVAL '1 hour', scheduled)
"""


@pytest.fixture(scope="module")
def flights():
    return example.departures()


@pytest.fixture(scope="module")
def punctual(flights):
    """Keep the rows that are not late, judged one after the other."""
    seconds = flights["scheduled"].cast(pa.int64()).to_pylist()
    kept, latest = [], None
    for row, time in enumerate(seconds):
        hour_end = (time // HOUR + 1) * HOUR
        if latest is None or hour_end > latest - 2 * HOUR:
            kept.append(row)
        latest = time if latest is None else max(latest, time)
    return flights.take(pa.array(kept))


def batch_answer(flights):
    context = datafusion.SessionContext()
    context.register_record_batches("flights", [flights.to_batches()])
    context.register_record_batches("airlines", [example.airlines().to_batches()])
    return in_order(context.sql(BATCH).to_arrow_table())


def in_order(answer):
    # Delays are whole minutes: their sums are exact, and means equal to the last bit.
    schema = {
        "hour": pa.timestamp("s"),
        "airline": pa.string(),
        "flights": pa.int64(),
        "mean_delay": pa.float64(),
    }
    return answer.cast(pa.schema(schema)).sort_by([("hour", "ascending"), ("airline", "ascending")])


def test_flights_come_in_the_order_in_which_they_left(flights):
    assert flights.num_rows == 336_776
    minutes = flights["scheduled"].cast(pa.int64()).to_numpy() // 60
    left = minutes + flights["dep_delay"].fill_null(0).to_numpy()
    assert (left[1:] >= left[:-1]).all()
    assert (minutes[1:] < minutes[:-1]).sum() > 100_000, "delays put scheduled times out of order"


def test_cancelled_flights_have_no_delay(flights):
    assert flights["dep_delay"].null_count == 8_255


def test_a_flight_is_scheduled_in_local_time(flights):
    first = flights.filter(pa.compute.equal(flights["flight"], 1545)).slice(0, 1).to_pylist()[0]
    assert first["scheduled"] == datetime.datetime(2013, 1, 1, 5, 15)
    assert (first["carrier"], first["origin"], first["dest"]) == ("UA", "EWR", "IAH")


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("batch_rows", [4_096, 100_000])
def test_without_late_rows_the_answer_is_the_batch_answer(flights, partitions, batch_rows):
    run = example.stream(
        flights,
        partitions=partitions,
        batch_rows=batch_rows,
        max_out_of_orderness=COVERS_EVERYTHING,
    )
    assert run.stats.rows_late == 0
    assert run.stats.rows_processed == flights.num_rows
    assert in_order(run.rows) == batch_answer(flights)


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("batch_rows", [4_096, 100_000])
def test_late_rows_are_counted_and_left_out(flights, punctual, partitions, batch_rows):
    run = example.stream(flights, partitions=partitions, batch_rows=batch_rows)
    assert run.stats.rows_late == flights.num_rows - punctual.num_rows == 5_586
    assert run.stats.rows_in == flights.num_rows
    assert run.stats.rows_waiting == 0
    assert sum(run.rows["flights"].to_pylist()) == run.stats.rows_processed == punctual.num_rows
    assert in_order(run.rows) == batch_answer(punctual)


def test_the_command_shows_both_ends_of_the_answer_and_writes_all_of_it(
    flights, punctual, tmp_path, capsys
):
    out = tmp_path / "delays.parquet"
    assert example.main(["--rows", "3", "--partitions", "2", "--out", str(out)]) == 0
    shown, progress = capsys.readouterr()
    written = pq.read_table(out)
    assert in_order(written) == batch_answer(punctual)
    assert f"{written.num_rows:,} rows (6 shown)" in shown
    assert shown.count("2013-01-01 05:00") == 3
    assert shown.count("2013-12-31 2") == 3
    assert "336,776 flights in, 5,586 of them late" in shown
    assert "rows per second on 2 partitions, after a warm-up" in shown
    assert progress == "", "there is no progress bar where there is no terminal"


def test_the_command_says_what_is_wrong_with_its_options(tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.main(["--rows", "0"])
    assert "must be a number of at least 1: '0'" in capsys.readouterr().err
    assert example.main(["--out", str(tmp_path / "delays.csv")]) == 1
    assert "SinkError: path must be a folder or a file that ends in" in capsys.readouterr().err


def test_the_command_runs_as_a_module():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-W", "error", "-m", "millstream.examples.flights", "--rows", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "rows per second" in done.stdout
