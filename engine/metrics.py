"""Metrics for Prometheus, read off the jobs of a session when they are asked for.

Nothing is counted here: a scrape takes a snapshot of each job, so that between scrapes metrics cost
no more than the counters that jobs keep anyway.
"""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from millstream.engine.backpressure import PRESSURE_STATES
from millstream.engine.event_time import WATERMARK_END
from millstream.engine.job_registry import JobRegistry
from millstream.engine.latency import LatencyHistogram
from millstream.engine.runtime import Runtime
from millstream.engine.stats import JobStats, PartitionStats, StreamStats

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["JobCollector", "MetricsServer", "PageCache"]

# What a page depends on, and how many different ones are kept.
_REQUEST = ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_ACCEPT", "HTTP_ACCEPT_ENCODING")
_PAGES_MAX = 4

# State sizes may be this old in a scrape, because they can take a while to add up.
_STATE_AGE_SECONDS = 1.0
# Bounds of the latency histograms are powers of four of nanoseconds, from 16 us to 17 s: such
# bounds are exact, and every line of a scrape has its price. Finer quantiles are in the stats.
_EXPONENTS = range(14, 35, 2)
_BOUNDS = [str((1 << exponent) / 1e9) for exponent in _EXPONENTS]
_JOB_STATES = ("running", "finished", "cancelled", "failed")

# Name, explanation, value.
_JobMetric = tuple[str, str, Callable[[JobStats], float]]
_StreamMetric = tuple[str, str, Callable[[StreamStats], float | None]]
_PartitionMetric = tuple[str, str, Callable[[PartitionStats], float]]

_JOB_COUNTERS: tuple[_JobMetric, ...] = (
    ("job_rows_in", "Rows taken by push.", lambda job: job.rows_in),
    (
        "job_rows_processed",
        "Rows whose effect is in state or at a sink.",
        lambda job: job.rows_processed,
    ),
    ("job_rows_late", "Rows dropped for being late.", lambda job: job.rows_late),
    ("job_rows_dead_lettered", "Rows set aside.", lambda job: job.rows_dead_lettered),
    ("job_rows_out", "Rows written to sinks.", lambda job: job.rows_out),
)
_JOB_GAUGES: tuple[_JobMetric, ...] = (
    ("job_rows_waiting", "Rows in queues or in process.", lambda job: job.rows_waiting),
    (
        "job_queue_utilization_ratio",
        "Share of what the job may hold that it does hold, by the nearest limit.",
        lambda job: job.queue_utilization,
    ),
)
_PARTITION_COUNTERS: tuple[_PartitionMetric, ...] = (
    ("rows_in", "Source rows taken up.", lambda part: part.rows_in),
    ("batches_in", "Micro-batches taken up.", lambda part: part.batches_in),
    ("received_bytes", "Bytes of Arrow data taken up.", lambda part: part.bytes_in),
    ("rows_processed", "Source rows done with.", lambda part: part.rows_processed),
    ("rows_late", "Rows dropped for being late.", lambda part: part.rows_late),
    ("rows_dead_lettered", "Rows set aside.", lambda part: part.rows_dead_lettered),
    ("rows_out", "Rows written to the sink.", lambda part: part.rows_out),
    ("batches_out", "Batches written to the sink.", lambda part: part.batches_out),
)
_PARTITION_GAUGES: tuple[_PartitionMetric, ...] = (
    ("queue_rows", "Source rows in micro-batches not finished with.", lambda part: part.queue_rows),
    ("queue_bytes", "Bytes of micro-batches not finished with.", lambda part: part.queue_bytes),
    (
        "queue_utilization_ratio",
        "How full the queue is, by the nearest limit.",
        lambda part: part.queue_utilization,
    ),
    ("state_rows", "Groups and rows in state.", lambda part: part.state_rows),
    ("state_bytes", "Bytes in state.", lambda part: part.state_bytes),
)


_WATERMARK_GAUGES: tuple[_StreamMetric, ...] = (
    ("timestamp_seconds", "Watermark, in seconds of Unix time.", lambda of: of.watermark_seconds),
    ("units", "Watermark, in units of the event time column.", lambda of: of.watermark),
    (
        "lag_seconds",
        "Event time by which the watermark is behind the latest row.",
        lambda of: of.lag_seconds,
    ),
    (
        "lag_units",
        "Event time by which the watermark is behind the latest row, in units of its column.",
        lambda of: of.lag,
    ),
)


class JobCollector(Collector):
    """Gives the metrics of all jobs of a session.

    Args:
        jobs: The jobs.
    """

    def __init__(self, jobs: JobRegistry) -> None:
        self._jobs = jobs

    def collect(self) -> Iterable[Metric]:
        jobs = [(job, job.stats(state_age_max=_STATE_AGE_SECONDS)) for job in self._jobs.jobs()]
        all_stats = [stats for _, stats in jobs]
        for metric in itertools.chain(
            _job_metrics(all_stats),
            _partition_metrics(all_stats),
            _time_metrics(all_stats),
            _pressure_metrics(all_stats),
            _event_time_metrics(all_stats),
            _latencies(jobs),
        ):
            # Let the threads of the jobs have the interpreter in between.
            time.sleep(0)
            yield metric


def _job_metrics(jobs: list[JobStats]) -> Iterator[Metric]:
    for name, help_, value in _JOB_COUNTERS:
        counter = CounterMetricFamily(f"millstream_{name}", help_, labels=["job"])
        for job in jobs:
            counter.add_metric([job.name], value(job))
        yield counter
    for name, help_, value in _JOB_GAUGES:
        gauge = GaugeMetricFamily(f"millstream_{name}", help_, labels=["job"])
        for job in jobs:
            gauge.add_metric([job.name], value(job))
        yield gauge
    states = GaugeMetricFamily(
        "millstream_job_state", "1 for the state that the job is in.", labels=["job", "state"]
    )
    strategy = CounterMetricFamily(
        "millstream_strategy_events",
        "What the partitioning strategy has counted.",
        labels=["job", "strategy", "event"],
    )
    for job in jobs:
        for state in _JOB_STATES:
            states.add_metric([job.name, state], job.state == state)
        for event, count in job.strategy_counters.items():
            strategy.add_metric([job.name, job.strategy, event], count)
    yield states
    yield strategy


def _partition_metrics(jobs: list[JobStats]) -> Iterator[Metric]:
    labels = ["job", "partition"]
    for name, help_, value in _PARTITION_COUNTERS:
        counter = CounterMetricFamily(f"millstream_{name}", help_, labels=labels)
        for job in jobs:
            for part in job.partitions:
                counter.add_metric([job.name, str(part.partition)], value(part))
        yield counter
    for name, help_, value in _PARTITION_GAUGES:
        gauge = GaugeMetricFamily(f"millstream_{name}", help_, labels=labels)
        for job in jobs:
            for part in job.partitions:
                gauge.add_metric([job.name, str(part.partition)], value(part))
        yield gauge


def _time_metrics(jobs: list[JobStats]) -> Iterator[Metric]:
    activities = CounterMetricFamily(
        "millstream_activity_seconds",
        "Time of the partition's thread by what it did.",
        labels=["job", "partition", "activity"],
    )
    operators = CounterMetricFamily(
        "millstream_operator_seconds",
        "Time of the partition's thread by node of the plan.",
        labels=["job", "partition", "operator"],
    )
    for job in jobs:
        for part in job.partitions:
            labels = [job.name, str(part.partition)]
            activities.add_metric([*labels, "busy"], part.busy_seconds)
            activities.add_metric([*labels, "idle"], part.idle_seconds)
            activities.add_metric([*labels, "blocked"], part.blocked_seconds)
            for operator in part.operators:
                operators.add_metric([*labels, operator.name], operator.seconds)
    yield activities
    yield operators


def _pressure_metrics(jobs: list[JobStats]) -> Iterator[Metric]:
    labels = ["job", "partition", "state"]
    states = GaugeMetricFamily(
        "millstream_backpressure_state", "1 for the state that the queue is in.", labels=labels
    )
    seconds = CounterMetricFamily(
        "millstream_backpressure_seconds", "Time that the queue was in a state.", labels=labels
    )
    for job in jobs:
        for part in job.partitions:
            for state in PRESSURE_STATES:
                values = [job.name, str(part.partition), state]
                states.add_metric(values, part.pressure == state)
                seconds.add_metric(values, part.pressure_seconds[state])
    yield states
    yield seconds


def _event_time_metrics(jobs: list[JobStats]) -> Iterator[Metric]:
    labels = ["job", "stream"]
    rows = CounterMetricFamily(
        "millstream_stream_rows_in", "Rows of the stream taken by push.", labels=labels
    )
    silent = GaugeMetricFamily(
        "millstream_stream_silent_seconds", "Time since rows were last pushed.", labels=labels
    )
    gauges = [
        (value, GaugeMetricFamily(f"millstream_watermark_{name}", help_, labels=labels))
        for name, help_, value in _WATERMARK_GAUGES
    ]
    results_lag = GaugeMetricFamily(
        "millstream_results_lag_seconds",
        "Event time by which the results of a partition are behind the watermark.",
        labels=["job", "partition"],
    )
    for job in jobs:
        for stream in job.streams:
            values = [job.name, stream.stream]
            rows.add_metric(values, stream.rows_in)
            silent.add_metric(values, stream.silent_seconds)
            for value, gauge in gauges:
                reading = value(stream)
                if reading is not None and stream.watermark != WATERMARK_END:
                    gauge.add_metric(values, reading)
        for part in job.partitions:
            if part.watermark_lag_seconds is not None:
                results_lag.add_metric([job.name, str(part.partition)], part.watermark_lag_seconds)
    yield from (rows, silent, *(gauge for _, gauge in gauges), results_lag)


def _latencies(jobs: list[tuple[Runtime, JobStats]]) -> Iterator[Metric]:
    of_job = HistogramMetricFamily(
        "millstream_job_latency_seconds",
        "Time from push until all results of a micro-batch are at the sinks.",
        labels=["job"],
    )
    of_partition = HistogramMetricFamily(
        "millstream_latency_seconds",
        "Time from push until the partition has done its part of a micro-batch.",
        labels=["job", "partition"],
    )
    for job, stats in jobs:
        _add_histogram(of_job, [job.name], job.observer.latencies())
        for part in stats.partitions:
            labels = [job.name, str(part.partition)]
            _add_histogram(of_partition, labels, job.observer.latencies(part.partition))
    yield from (of_job, of_partition)


def _add_histogram(
    family: HistogramMetricFamily, labels: list[str], histogram: LatencyHistogram
) -> None:
    *below, n = histogram.cumulative([*_EXPONENTS, 63])
    buckets = [(bound, float(count)) for bound, count in zip(_BOUNDS, below, strict=True)]
    buckets.append(("+Inf", float(n)))
    family.add_metric(labels, buckets, sum_value=histogram.total_ns / 1e9)


class PageCache:
    """Serves a page again while it is young, so that scraping more often does not cost more.

    Args:
        app: Makes the pages.
        max_age_seconds: Age up to which a page is served again.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self, app: WSGIApplication, max_age_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._app = app
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._pages: dict[tuple[object, ...], _Page] = {}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = tuple(environ.get(name) for name in _REQUEST)
        with self._lock:
            page = self._pages.get(request)
            if page is None or self._clock() - page.made_at >= self._max_age_seconds:
                page = self._make(environ)
                if len(self._pages) >= _PAGES_MAX:
                    self._pages.clear()
                self._pages[request] = page
        start_response(page.status, page.headers)
        return [page.body]

    def _make(self, environ: WSGIEnvironment) -> _Page:
        made_at, started = self._clock(), []

        def start(status: str, headers: list[tuple[str, str]], *_: object) -> Callable[..., object]:
            started.append((status, headers))
            return started.append

        body = b"".join(self._app(environ, start))
        ((status, headers),) = started
        return _Page(status, headers, body, made_at)


class _Page(NamedTuple):
    status: str
    headers: list[tuple[str, str]]
    body: bytes
    made_at: float


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Keep silent: who scrapes, and how often, is no news."""


class MetricsServer:
    """Serves the metrics of a session's jobs over HTTP, in threads of its own.

    Made by :meth:`Session.serve_metrics`; as a context manager it is closed at the end of the
    block.

    Args:
        jobs: The jobs.
        address: Address to listen at.
        port: Port to listen at; 0 takes one that is free.
        max_age_seconds: How old the metrics may be.

    Attributes:
        address: The address.
        port: The port.
        url: Where the metrics are.

    Raises:
        OSError: If the address cannot be listened at.
    """

    def __init__(self, jobs: JobRegistry, address: str, port: int, max_age_seconds: float) -> None:
        registry = CollectorRegistry()
        registry.register(JobCollector(jobs))
        is_version_6 = ":" in address
        self._server = make_server(
            address,
            port,
            PageCache(make_wsgi_app(registry), max_age_seconds, time.monotonic),
            server_class=_Server6 if is_version_6 else _Server,
            handler_class=_Handler,
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="millstream-metrics", daemon=True
        )
        self._thread.start()
        self._is_closed = False
        self.address = address
        self.port: int = self._server.server_port
        self.url = f"http://{f'[{address}]' if is_version_6 else address}:{self.port}/metrics"

    def close_later(self) -> None:
        """Close from another thread: the garbage collector may call this from the server's own."""
        threading.Thread(target=self.close, name="millstream-metrics-close", daemon=True).start()

    def close(self) -> None:
        """Stop serving. Closing again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
