"""Metrics reach Prometheus as its own library reads them, whatever the jobs are doing."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

import millstream as ms
from millstream.engine.metrics import PageCache

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema({"k": pa.int64(), "ts": pa.timestamp("ms")})
TIMEOUT_SECONDS = 30

WINDOWS = "SELECT k, count(*) AS n FROM t GROUP BY k WINDOW TUMBLING(ts, INTERVAL '1' SECOND)"


def rows(number, n_rows=100):
    values = range(number * n_rows, (number + 1) * n_rows)
    times = pa.array(values, pa.int64()).cast(pa.timestamp("ms"))
    return pa.record_batch([pa.array([v % 5 for v in values], pa.int64()), times], schema=SCHEMA)


def session(partitions=2, **options):
    made = ms.Session(partitions=partitions, **options)
    made.create_stream("t", SCHEMA, event_time="ts", max_out_of_orderness="500 ms")
    return made


def scraped(server):
    """Read the metrics as Prometheus would: families by name."""
    with urllib.request.urlopen(server.url, timeout=TIMEOUT_SECONDS) as response:
        assert response.status == 200
        text = response.read().decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def value(families, name, **labels):
    base = re.sub("_(total|bucket|count|sum)$", "", name)
    family = families.get(base) or families[name]
    (found,) = [s.value for s in family.samples if s.name == name and s.labels == labels]
    return found


@pytest.fixture
def served():
    made = session()
    with made.serve_metrics(max_age_seconds=0) as server:
        yield made, server


def test_nothing_is_served_but_to_this_machine(served):
    _, server = served
    assert server.address == "127.0.0.1"
    assert server.port > 0
    assert server.url == f"http://127.0.0.1:{server.port}/metrics"


def test_a_finished_job_shows_all_that_it_did(served):
    made, server = served
    job = made.sql(WINDOWS).start(lambda batch: None, name="counts")
    for number in range(50):
        job.push("t", rows(number))
    job.push("t", rows(0))
    job.finish()
    families, stats = scraped(server), job.stats()
    assert value(families, "millstream_job_rows_in_total", job="counts") == 5_100
    assert value(families, "millstream_job_rows_processed_total", job="counts") == 5_000
    assert value(families, "millstream_job_rows_late_total", job="counts") == 100
    assert value(families, "millstream_job_rows_out_total", job="counts") == 25
    assert value(families, "millstream_job_rows_waiting", job="counts") == 0
    assert value(families, "millstream_job_state", job="counts", state="finished") == 1
    assert value(families, "millstream_job_state", job="counts", state="running") == 0
    assert value(families, "millstream_stream_rows_in_total", job="counts", stream="t") == 5_100
    for part in stats.partitions:
        labels = {"job": "counts", "partition": str(part.partition)}
        assert value(families, "millstream_rows_in_total", **labels) == part.rows_in
        assert value(families, "millstream_rows_out_total", **labels) == part.rows_out
        assert value(families, "millstream_received_bytes_total", **labels) == part.bytes_in
        assert value(families, "millstream_latency_seconds_count", **labels) == part.latency.n
        assert value(families, "millstream_backpressure_state", **labels, state="healthy") == 1
        assert value(families, "millstream_queue_utilization_ratio", **labels) == 0
    events = {"job": "counts", "strategy": "smart_repartition", "event": "batches"}
    assert value(families, "millstream_strategy_events_total", **events) == 51


def test_event_time_is_in_seconds(served):
    made, server = served
    with made.sql(WINDOWS).start(lambda batch: None) as job:
        job.push("t", rows(0, 10_001))
        families = scraped(server)
        labels = {"job": "job-0", "stream": "t"}
        assert value(families, "millstream_watermark_timestamp_seconds", **labels) == 9.5
        assert value(families, "millstream_watermark_lag_seconds", **labels) == 0.5
        assert value(families, "millstream_watermark_units", **labels) == 9_500
        assert value(families, "millstream_watermark_lag_units", **labels) == 500


def test_shares_of_time_are_complete(served):
    made, server = served
    entered, opened = threading.Event(), threading.Event()

    def sink(batch):
        entered.set()
        opened.wait()

    with made.sql("SELECT k FROM t").start(sink) as job:
        job.push("t", rows(0))
        assert entered.wait(TIMEOUT_SECONDS)
        families = scraped(server)
        for partition in ("0", "1"):
            labels = {"job": "job-0", "partition": partition}
            seconds = {
                activity: value(
                    families, "millstream_activity_seconds_total", **labels, activity=activity
                )
                for activity in ("busy", "idle", "blocked")
            }
            in_states = sum(
                value(families, "millstream_backpressure_seconds_total", **labels, state=state)
                for state in ("healthy", "warning", "critical", "saturated")
            )
            assert sum(seconds.values()) == pytest.approx(in_states, abs=0.5)
        opened.set()


def test_names_and_units_are_as_prometheus_asks(served):
    made, server = served
    made.sql(WINDOWS).start(lambda batch: None).finish()
    for name, family in scraped(server).items():
        assert re.fullmatch("millstream(_[a-z]+)+", name)
        assert family.documentation.endswith(".")
        if "seconds" in name or "bytes" in name or "ratio" in name:
            assert re.search("_(seconds|bytes|ratio)$", name), "the unit comes last"
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples)
        for sample in family.samples:
            assert set(sample.labels) <= {
                "job",
                "partition",
                "stream",
                "state",
                "activity",
                "operator",
                "strategy",
                "event",
                "le",
            }


def test_histograms_are_cumulative(served):
    made, server = served
    with made.sql(WINDOWS).start(lambda batch: None) as job:
        for number in range(30):
            job.push("t", rows(number))
        families = scraped(server)
    for name in ("millstream_latency_seconds", "millstream_job_latency_seconds"):
        series = {}
        for sample in families[name].samples:
            if sample.name.endswith("_bucket"):
                key = sample.labels.get("partition")
                series.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
        for buckets in series.values():
            assert buckets == sorted(buckets)
            counts = [count for _, count in buckets]
            assert counts == sorted(counts)
            assert buckets[-1][0] == float("inf")


def test_scrapes_under_load_are_whole_and_counters_never_fall(served):
    made, server = served
    jobs = [
        made.sql(WINDOWS).start(lambda batch: None),
        made.sql("SELECT k, count(*) AS n FROM t GROUP BY k EMIT CHANGES").start(print_nothing),
    ]
    done, errors = threading.Event(), []

    def push():
        try:
            for number in range(1_000):
                for job in jobs * (not done.is_set()):
                    job.push("t", rows(number))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=push, daemon=True)
    thread.start()
    last = {}
    for _ in range(15):
        counted = counts(scraped(server))
        assert all(count >= last.get(key, 0.0) for key, count in counted.items())
        last = counted
    done.set()
    thread.join(TIMEOUT_SECONDS)
    assert not thread.is_alive()
    assert errors == []
    for job in jobs:
        job.finish()


def counts(families):
    """Collect all that may only grow: by name and labels."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        if family.type in ("counter", "histogram")
        for sample in family.samples
    }


def print_nothing(batch):
    """Take a batch."""


def test_a_job_that_nobody_holds_is_not_shown(served):
    made, server = served
    made.sql("SELECT k FROM t").start(print_nothing, name="gone").finish()
    job = made.sql("SELECT k FROM t").start(print_nothing, name="kept")
    gc.collect()
    shown = {s.labels["job"] for s in scraped(server)["millstream_job_rows_in"].samples}
    assert shown == {"kept"}
    job.finish()
    again = made.sql("SELECT k FROM t").start(print_nothing, name="kept")
    again.push("t", rows(0, 3))
    assert value(scraped(server), "millstream_job_rows_in_total", job="kept") == 3
    again.finish()
    assert job.stats().rows_in == 0


def test_a_name_may_hold_any_text(served):
    made, server = served
    name = 'a "b"\\c\nd'
    with made.sql("SELECT k FROM t").start(print_nothing, name=name):
        assert value(scraped(server), "millstream_job_rows_in_total", job=name) == 0


def test_a_page_is_served_again_while_it_is_young():
    made, now, answers = [], [100.0], []

    def app(environ, start_response):
        made.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"page ", str(len(made)).encode()]

    cache = PageCache(app, 0.5, lambda: now[0])

    def get(path):
        (body,) = cache({"PATH_INFO": path}, lambda *answer: answers.append(answer))
        return body

    assert get("/metrics") == b"page 1"
    now[0] += 0.4
    assert get("/metrics") == b"page 1"
    assert get("/other") == b"page 2"
    now[0] += 0.1
    assert get("/metrics") == b"page 3"
    assert answers == [("200 OK", [("Content-Type", "text/plain")])] * 4
    for number in range(100):
        get(f"/{number}")
    assert len(cache._pages) <= 4


def test_scrapes_in_quick_succession_give_the_same():
    made = session()
    job = made.sql("SELECT k FROM t").start(print_nothing)
    with made.serve_metrics(max_age_seconds=3600) as server:
        before = scraped(server)
        job.push("t", rows(0))
        job.finish()
        assert scraped(server) == before


def test_a_server_may_listen_at_version_6_addresses():
    made = session()
    try:
        server = made.serve_metrics(address="::1")
    except OSError:
        pytest.skip("this machine has none")
    with server:
        assert server.url == f"http://[::1]:{server.port}/metrics"
        assert "millstream_rows_in" in scraped(server)


def test_a_closed_server_serves_no_more():
    made = session()
    server = made.serve_metrics()
    server.close()
    server.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(server.url, timeout=TIMEOUT_SECONDS)
    with made.serve_metrics() as first, pytest.raises(OSError, match="in use"):
        made.serve_metrics(first.port)


def test_a_server_ends_with_its_session():
    made = session()
    server = made.serve_metrics()
    del made
    gc.collect()
    server._thread.join(TIMEOUT_SECONDS)
    assert not server._thread.is_alive()


def test_the_web_server_is_loaded_when_it_is_needed():
    script = (
        "import sys, millstream as ms\n"
        "session = ms.Session()\n"
        "assert 'prometheus_client' not in sys.modules\n"
        "assert 'http.server' not in sys.modules\n"
        "session.serve_metrics()\n"
        "assert 'prometheus_client' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=TIMEOUT_SECONDS * 4,
    )
    assert (done.returncode, done.stderr) == (0, "")
