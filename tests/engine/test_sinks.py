"""Each partition has a sink, whatever the user gave; files appear whole or not at all."""

from __future__ import annotations

import threading

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

import millstream as ms
from millstream.engine import file_sinks
from millstream.engine.file_sinks import IpcSink, ParquetSink
from millstream.engine.sinks import CollectSink, Sink, as_sinks
from millstream.errors import SinkError

SCHEMA = pa.schema([("k", pa.int64())])


def batch_of(*values):
    return pa.record_batch({"k": pa.array(values, pa.int64())})


class Recorder:
    """Notes how it was called."""

    def __init__(self):
        self.calls = []

    def open(self, partition, schema):
        self.calls.append(("open", partition))

    def write(self, batch):
        self.calls.append(("write", batch.column("k").to_pylist()))

    def close(self):
        self.calls.append("close")


class AbortableRecorder(Recorder):
    def abort(self):
        self.calls.append("abort")


def run(sinks, batches=(), end="close"):
    for partition, sink in enumerate(sinks):
        sink.open(partition, SCHEMA)
    for partition, batch in batches:
        sinks[partition].write(batch)
    for sink in sinks:
        getattr(sink, end)()


# What is a sink


def test_a_callable_gets_the_batches_of_all_partitions():
    got = []
    run(as_sinks(got.append, None, 2), [(0, batch_of(1)), (1, batch_of(2))])
    assert got == [batch_of(1), batch_of(2)]


@pytest.mark.parametrize("function", [print, [].append, lambda batch, more=0: None, {}.update])
def test_whatever_takes_one_argument_is_a_sink(function):
    assert len(as_sinks(function, None, 3)) == 3


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        (5, "must be a callable that takes a RecordBatch, or have the methods open, write and"),
        ("rows.parquet", "methods open, write and close: 'rows.parquet'"),
        (CollectSink, "must be an object, not its class: CollectSink"),
        (lambda: None, "callable with one RecordBatch, or .*too many positional arguments"),
        (lambda a, b, c: None, "callable with one RecordBatch, or .*missing a required argument"),
    ],
)
def test_what_is_no_sink_is_refused_at_once(sink, message):
    with pytest.raises(SinkError, match=message):
        as_sinks(sink, None, 1)
    with pytest.raises(SinkError, match=message):
        as_sinks(None, [sink], 1)


def test_coroutines_are_refused_because_nothing_awaits_them():
    async def write(batch):
        pass

    with pytest.raises(SinkError, match="nothing awaits it"):
        as_sinks(write, None, 1)


def test_exactly_one_kind_of_sinks_is_given():
    for sink, sinks in ((None, None), (print, [print])):
        with pytest.raises(SinkError, match="exactly one of sink and sinks"):
            as_sinks(sink, sinks, 1)


def test_sinks_are_as_many_as_partitions():
    with pytest.raises(SinkError, match="as many as partitions, 3: 2"):
        as_sinks(None, [print, print], 3)
    with pytest.raises(SinkError, match="must be a sequence"):
        as_sinks(None, print, 1)


# Life of a sink


def test_sinks_of_their_own_know_their_partition():
    recorders = [Recorder(), Recorder()]
    run(as_sinks(None, recorders, 2), [(1, batch_of(7))])
    assert recorders[0].calls == [("open", 0), "close"]
    assert recorders[1].calls == [("open", 1), ("write", [7]), "close"]


def test_a_shared_sink_is_opened_and_closed_once():
    recorder = Recorder()
    run(as_sinks(recorder, None, 3), [(2, batch_of(1)), (0, batch_of(2))])
    assert recorder.calls == [("open", 0), ("write", [1]), ("write", [2]), "close"]


def test_one_sink_may_stand_for_some_of_the_partitions():
    shared, own = Recorder(), Recorder()
    run(as_sinks(None, [shared, own, shared], 3), [(2, batch_of(1)), (1, batch_of(2))])
    assert shared.calls == [("open", 0), ("write", [1]), "close"]
    assert own.calls == [("open", 1), ("write", [2]), "close"]


def test_a_shared_sink_is_aborted_once_if_one_partition_aborts():
    recorder = AbortableRecorder()
    sinks = as_sinks(recorder, None, 3)
    for partition, sink in enumerate(sinks):
        sink.open(partition, SCHEMA)
    sinks[0].close()
    sinks[1].abort()
    sinks[2].abort()
    assert recorder.calls == [("open", 0), "abort"]


def test_a_sink_without_abort_is_closed_instead():
    recorder = Recorder()
    run(as_sinks(recorder, None, 1), end="abort")
    assert recorder.calls == [("open", 0), "close"]


def test_a_subclass_without_abort_is_closed_instead():
    class Subclass(Sink):
        closed = False

        def close(self):
            self.closed = True

    sink = Subclass()
    run(as_sinks(sink, None, 1), end="abort")
    assert sink.closed


def test_a_sink_that_was_not_opened_is_not_aborted():
    recorder = AbortableRecorder()
    as_sinks(recorder, None, 1)[0].abort()
    assert recorder.calls == []


def test_a_sink_is_told_of_one_end_only():
    recorder = AbortableRecorder()
    (sink,) = as_sinks(recorder, None, 1)
    run([sink])
    sink.abort()
    assert recorder.calls == [("open", 0), "close"]


@pytest.mark.parametrize("action", ["open", "write", "close", "abort"])
def test_what_a_sink_raises_is_an_error_with_partition_and_cause(action):
    def fail(*_):
        raise OSError("disk full")

    recorder = AbortableRecorder()
    setattr(recorder, action, fail)
    sinks = as_sinks(None, [print, recorder], 2)
    message = f"sink of partition 1 failed to {action}: OSError: disk full"
    end = "abort" if action == "abort" else "close"
    with pytest.raises(SinkError, match=message) as failure:
        run(sinks, [(1, batch_of(1))], end)
    assert isinstance(failure.value.__cause__, OSError)


def test_a_shared_sink_is_never_entered_twice_at_once():
    inside, most = 0, 0
    waiting = threading.Barrier(4)

    def write(batch):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(1000):
            pass
        inside -= 1

    def work(sink):
        waiting.wait()
        for _ in range(200):
            sink.write(batch_of(1))

    threads = [threading.Thread(target=work, args=(sink,)) for sink in as_sinks(write, None, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


# Collecting


def test_collected_rows_are_a_table():
    sink = CollectSink()
    run(as_sinks(sink, None, 2), [(0, batch_of(1, 2)), (1, batch_of(3))])
    assert sink.table() == pa.table({"k": pa.array([1, 2, 3], pa.int64())})


def test_no_rows_are_an_empty_table():
    sink = CollectSink()
    run(as_sinks(sink, None, 1))
    assert sink.table().schema == SCHEMA
    assert sink.table().num_rows == 0


def test_nothing_is_collected_without_a_job():
    with pytest.raises(SinkError, match="never opened"):
        CollectSink().table()


# Files

BATCHES = [(0, batch_of(1, 2)), (1, batch_of(3)), (0, batch_of()), (0, batch_of(4))]


def read(path):
    name = "parquet" if path.suffix in (".parquet", ".pq") else "ipc"
    if path.suffix == ".arrows":
        return pa.ipc.open_stream(path.read_bytes()).read_all()["k"].to_pylist()
    return pads.dataset(path, format=name).to_table()["k"].to_pylist()


@pytest.mark.parametrize("kind", [ParquetSink, IpcSink])
def test_a_folder_gets_one_file_per_partition(tmp_path, kind):
    folder = tmp_path / "deep" / "results-1.0"
    run(as_sinks(kind(folder), None, 3), BATCHES)
    suffix = ".parquet" if kind is ParquetSink else ".arrow"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"part-0000{partition}{suffix}" for partition in range(3)
    ]
    assert read(folder / f"part-00000{suffix}") == [1, 2, 4]
    assert read(folder / f"part-00001{suffix}") == [3]
    assert read(folder / f"part-00002{suffix}") == []


@pytest.mark.parametrize(
    "name", ["rows.parquet", "rows.pq", "rows.arrow", "rows.ipc", "rows.feather", "rows.arrows"]
)
def test_a_file_gets_the_rows_of_all_partitions(tmp_path, name):
    kind = ParquetSink if name in ("rows.parquet", "rows.pq") else IpcSink
    path = tmp_path / name
    path.write_text("what was there before is replaced")
    run(as_sinks(kind(str(path)), None, 2), BATCHES)
    assert read(path) == [1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [ParquetSink, IpcSink])
@pytest.mark.parametrize("name", ["folder", "rows"])
def test_an_aborted_job_leaves_no_file(tmp_path, kind, name):
    path = tmp_path / (name if name == "folder" else name + kind._suffixes[0])
    run(as_sinks(kind(path), None, 2), BATCHES, end="abort")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "rows.parquet"
    (sink,) = as_sinks(ParquetSink(path), None, 1)
    sink.open(0, SCHEMA)
    sink.write(batch_of(1))
    assert not path.exists()
    assert pads.dataset(tmp_path, format="parquet").files == []
    sink.close()
    assert read(path) == [1]


def test_a_file_that_cannot_be_finished_is_removed(tmp_path, monkeypatch):
    def fail(path):
        raise OSError("disk full")

    monkeypatch.setattr(file_sinks, "_sync", fail)
    (sink,) = as_sinks(IpcSink(tmp_path / "rows.arrow"), None, 1)
    sink.open(0, SCHEMA)
    with pytest.raises(SinkError, match="failed to close: OSError: disk full"):
        sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_schema_that_the_format_lacks_leaves_no_file(tmp_path):
    (sink,) = as_sinks(ParquetSink(tmp_path / "rows.parquet"), None, 1)
    union = pa.dense_union([pa.field("a", pa.int64())])
    with pytest.raises(SinkError, match="partition 0 failed to open: ArrowNotImplementedError"):
        sink.open(0, pa.schema([("u", union)]))
    assert list(tmp_path.iterdir()) == []


def test_small_batches_are_written_together(tmp_path):
    path = tmp_path / "rows.parquet"
    run(as_sinks(ParquetSink(path), None, 1), [(0, batch_of(row)) for row in range(100)])
    assert pq.read_metadata(path).num_row_groups == 1


def test_many_rows_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(file_sinks, "_GATHERED_ROWS_MAX", 10)
    path = tmp_path / "rows.parquet"
    run(as_sinks(ParquetSink(path), None, 1), [(0, batch_of(row, row)) for row in range(12)])
    assert pq.read_metadata(path).num_row_groups == 3


def test_results_of_two_jobs_do_not_mix(tmp_path):
    run(as_sinks(ParquetSink(tmp_path), None, 2), BATCHES)
    with pytest.raises(SinkError, match="must not hold the results of another job"):
        as_sinks(ParquetSink(tmp_path), None, 1)


@pytest.mark.parametrize(("kind", "name"), [(ParquetSink, "rows.arrow"), (IpcSink, "rows.csv")])
def test_a_path_of_another_format_is_refused(tmp_path, kind, name):
    with pytest.raises(SinkError, match="folder or a file that ends in"):
        as_sinks(kind(tmp_path / name), None, 1)


def test_compression_is_the_users_choice(tmp_path):
    path = tmp_path / "rows.parquet"
    run(as_sinks(ParquetSink(path, compression="zstd"), None, 1), [(0, batch_of(1))])
    assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"
    run(as_sinks(IpcSink(tmp_path / "rows.arrow", compression="lz4"), None, 1), [(0, batch_of(1))])
    assert read(tmp_path / "rows.arrow") == [1]


def test_a_sink_that_is_not_open_takes_no_rows(tmp_path):
    with pytest.raises(SinkError, match="must be open"):
        ParquetSink(tmp_path / "rows.parquet").write(batch_of(1))


@pytest.mark.parametrize("as_object", [False, True])
def test_a_sink_of_two_arguments_learns_where_batches_come_from(as_object):
    got: list[tuple[int, ms.BatchInfo]] = []

    class Object:
        def open(self, partition, schema):
            pass

        def write(self, batch, info):
            got.append((batch.num_rows, info))

        def close(self):
            pass

    def function(batch, info):
        got.append((batch.num_rows, info))

    session = ms.Session(partitions=1)
    schema = pa.schema({"x": pa.int64(), "ts": pa.timestamp("s")})
    session.create_stream("t", schema, event_time="ts")
    query = session.sql("SELECT count(*) AS n FROM t GROUP BY x EMIT CHANGES")
    with query.start(Object() if as_object else function) as job:
        for second in (3, 9):
            job.push(
                "t", pa.record_batch([[1], pa.array([second], pa.timestamp("s"))], schema=schema)
            )
    assert got == [(1, ms.BatchInfo(0, 0, {"t": 3})), (1, ms.BatchInfo(0, 1, {"t": 9}))]
