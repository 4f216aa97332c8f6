"""Links and exchanges keep rows in their steps and steps in order, whatever comes when."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.engine.event_time import WATERMARK_END
from millstream.engine.exchange import Mail, Receiver, Sender
from millstream.engine.in_flight import InFlight
from millstream.engine.operators.base import Counters
from millstream.engine.pipeline import OperatorLink, SinkLink, union_ports
from millstream.engine.step import AtHand, Contribution, SourceItem, Step
from millstream.planner.nodes import WatermarkBound

TIMEOUT_SECONDS = 30


def rows(*values):
    return pa.record_batch({"k": pa.array(values, pa.int64())})


def mail_of(post=lambda receiver, contribution: None, events=None):
    """Mail that notes in ``events`` which items are held and acknowledged."""
    events = [] if events is None else events
    return Mail(
        post,
        lambda item, *_: events.append(("hold", item.batch_number)),
        lambda item, *_: events.append(("acknowledge", item.batch_number)),
    )


def item_of(number, *, watermark=0, is_final=False, n_sources=1):
    watermarks = {"s": watermark}
    step = Step(number, watermarks, is_final, n_sources)
    return SourceItem(number, "s", None, step, 0, {}, watermarks)


class Recorder:
    """A link that notes rows and the numbers of steps."""

    def __init__(self):
        self.events = []

    def emit(self, batch):
        self.events.extend(batch["k"].to_pylist())

    def end_step(self, item):
        self.events.append(f"end {item.step.number}")


# Exchanges


def sent(kind, batches, n_partitions=3, partition=1):
    """Send batches in one step and give what each receiver is handed."""
    posted = [[] for _ in range(n_partitions)]

    def post(receiver, contribution):
        assert (contribution.exchange, contribution.sender) == (7, partition)
        posted[receiver].append(contribution)

    sender = Sender(
        7, kind, ("k",), partition, n_partitions, mail_of(post), AtHand(), is_eager=False
    )
    for batch in batches:
        sender.emit(batch)
    sender.end_step(item_of(0))
    assert [len(contributions) for contributions in posted] == [1] * n_partitions
    return [
        [value for batch in only.batches for value in batch["k"].to_pylist()] for (only,) in posted
    ]


@given(st.lists(st.lists(st.integers(-5, 5), min_size=1), max_size=4), st.integers(1, 5))
def test_a_row_goes_to_the_partition_that_owns_its_key(values, n_partitions):
    parts = sent("hash", [rows(*part) for part in values], n_partitions, 0)
    flat = [value for part in values for value in part]
    assert sorted(value for part in parts for value in part) == sorted(flat)
    owner = {value: index for index, part in enumerate(parts) for value in part}
    for index, part in enumerate(parts):
        assert part == [value for value in flat if owner[value] == index], "rows keep their order"


def test_equal_keys_of_different_senders_meet():
    owners = [sent("hash", [rows(*range(100))], 4, partition) for partition in range(4)]
    assert owners[0] == owners[1] == owners[2] == owners[3]
    assert all(owners[0])


def test_a_single_receiver_gets_all_rows():
    assert sent("single", [rows(1, 2), rows(3)]) == [[1, 2, 3], [], []]


def test_forwarded_rows_stay_in_their_partition():
    assert sent("forward", [rows(1, 2), rows(3)]) == [[], [1, 2, 3], []]


def test_broadcast_rows_reach_every_partition():
    assert sent("broadcast", [rows(1, 2)]) == [[1, 2]] * 3


def test_a_sender_starts_each_step_with_nothing():
    got = []
    sender = Sender(
        0,
        "single",
        (),
        0,
        1,
        mail_of(lambda receiver, contribution: got.append(contribution)),
        AtHand(),
        is_eager=False,
    )
    for number in range(2):
        sender.emit(rows(number))
        sender.end_step(item_of(number))
    assert [batch["k"].to_pylist() for part in got for batch in part.batches] == [[0], [1]]


@given(st.data(), st.integers(1, 3), st.integers(1, 4))
def test_a_receiver_takes_steps_in_order_whatever_arrives_first(data, n_senders, n_steps):
    contributions = [
        Contribution(0, item_of(number), sender, [rows(10 * number + sender)])
        for number in range(n_steps)
        for sender in range(n_senders)
    ]
    link = Recorder()
    receiver = Receiver(n_senders, AtHand(), mail_of(), link)
    for contribution in data.draw(st.permutations(contributions)):
        receiver.take(contribution)
    expected = []
    for number in range(n_steps):
        expected += [10 * number + sender for sender in range(n_senders)]
        expected.append(f"end {number}")
    assert link.events == expected


def test_a_receiver_waits_for_every_sender():
    link = Recorder()
    receiver = Receiver(2, AtHand(), mail_of(), link)
    receiver.take(Contribution(0, item_of(0), 1, [rows(1)]))
    receiver.take(Contribution(0, item_of(1), 1, [rows(2)]))
    receiver.take(Contribution(0, item_of(1), 0, []))
    assert link.events == []
    receiver.take(Contribution(0, item_of(0), 0, []))
    assert link.events == [1, "end 0", 2, "end 1"]


def test_a_step_says_how_many_sources_it_has():
    link = Recorder()
    receiver = Receiver(None, AtHand(), mail_of(), link)
    receiver.take(Contribution(0, item_of(0, n_sources=1), 2, [rows(1)]))
    receiver.take(Contribution(0, item_of(1, n_sources=2), 0, [rows(2)]))
    assert link.events == [1, "end 0"]
    receiver.take(Contribution(0, item_of(1, n_sources=2), 1, [rows(3)]))
    assert link.events == [1, "end 0", 2, 3, "end 1"]


def test_what_follows_a_receiver_knows_the_step_that_is_processed():
    at_hand = AtHand()
    seen = []

    class Follower(Recorder):
        def emit(self, batch):
            seen.append(at_hand.item.step.number)

    receiver = Receiver(1, at_hand, mail_of(), Follower())
    receiver.take(Contribution(0, item_of(1), 0, [rows(1)]))
    at_hand.item = item_of(5)
    receiver.take(Contribution(0, item_of(0), 0, [rows(1)]))
    assert seen == [0, 1]


def test_early_rows_are_processed_before_their_step_ends_and_then_acknowledged():
    link, events = Recorder(), []
    receiver = Receiver(1, AtHand(), mail_of(events=events), link)
    receiver.take(Contribution(0, item_of(0), 0, [rows(1)], early_for=0))
    assert link.events == [1]
    assert events == [("acknowledge", 0)]
    receiver.take(Contribution(0, item_of(0), 0, [rows(2)]))
    assert link.events == [1, 2, "end 0"]


def test_early_rows_of_a_step_ahead_wait_for_the_step_before():
    link, events = Recorder(), []
    receiver = Receiver(2, AtHand(), mail_of(events=events), link)
    receiver.take(Contribution(0, item_of(0), 0, []))
    receiver.take(Contribution(0, item_of(1), 0, [rows(5)], early_for=1))
    assert link.events == []
    assert events == []
    receiver.take(Contribution(0, item_of(0), 1, [rows(3)]))
    assert link.events == [3, "end 0", 5]
    assert events == [("acknowledge", 1)]


def test_an_eager_sender_keeps_its_item_open_until_early_rows_have_arrived():
    posted, events = [], []
    at_hand = AtHand()
    at_hand.item = item_of(4)
    mail = mail_of(lambda receiver, contribution: posted.append(contribution), events)
    sender = Sender(0, "single", (), 0, 1, mail, at_hand, is_eager=True)
    sender.emit(rows(*range(100)))
    assert posted == []
    sender.emit(rows(*range(10_000)))
    assert [part.early_for for part in posted] == [0]
    assert sum(batch.num_rows for batch in posted[0].batches) == 10_100
    assert events == [("hold", 4)]


# Unions


@given(st.data(), st.integers(1, 3), st.integers(1, 4))
def test_a_union_ends_a_step_when_all_its_inputs_have(data, n_ports, n_steps):
    """Ports advance in any order, each through its own steps."""
    link = Recorder()
    ports = union_ports(n_ports, rows(0).schema, link, AtHand())
    turns = data.draw(st.permutations([port for port in range(n_ports) for _ in range(n_steps)]))
    reached = [0] * n_ports
    for port in turns:
        number = reached[port]
        reached[port] += 1
        ports[port].emit(rows(10 * number + port))
        ports[port].end_step(item_of(number))
    for number in range(n_steps):
        end = link.events.index(f"end {number}")
        begin = link.events.index(f"end {number - 1}") + 1 if number else 0
        assert sorted(link.events[begin:end]) == [10 * number + port for port in range(n_ports)]
    assert len(link.events) == n_steps * (n_ports + 1)


def test_rows_of_a_step_ahead_wait_for_the_other_input():
    link = Recorder()
    left, right = union_ports(2, rows(0).schema, link, AtHand())
    left.emit(rows(1))
    left.end_step(item_of(0))
    left.emit(rows(2))
    left.end_step(item_of(1))
    assert link.events == [1]
    right.emit(rows(3))
    right.end_step(item_of(0))
    assert link.events == [1, 3, "end 0", 2]
    right.end_step(item_of(1))
    assert link.events == [1, 3, "end 0", 2, "end 1"]


def test_what_follows_a_union_knows_the_item_of_rows_that_have_waited():
    at_hand, seen = AtHand(), []

    class Follower:
        def emit(self, batch):
            seen.append((batch["k"][0].as_py(), at_hand.item.batch_number))

        def end_step(self, item):
            seen.append((f"end {item.step.number}", at_hand.item.batch_number))

    left, right = union_ports(2, rows(0).schema, Follower(), at_hand)
    for port, number in ((left, 0), (left, 1), (left, 2), (right, 0), (right, 1), (right, 2)):
        at_hand.item = item_of(number)
        port.emit(rows(10 * number + (port is right)))
        port.end_step(at_hand.item)
    expected = []
    for number in range(3):
        expected += [(10 * number, number), (10 * number + 1, number), (f"end {number}", number)]
    assert seen == expected


# Operators and sinks


class Operator:
    state_rows = state_bytes = 0

    def __init__(self):
        self.calls = []

    def process_batch(self, batch, out):
        self.calls.append("rows")

    def end_batch(self, out):
        self.calls.append("end of batch")

    def process_watermark(self, watermark, out):
        self.calls.append(watermark)

    def end_input(self, out):
        self.calls.append("end of input")
        out.emit(rows(0))


def test_an_operator_sees_rows_then_their_end_then_the_watermark():
    operator, link = Operator(), Recorder()
    stage = OperatorLink(operator, (WatermarkBound("s", 3),), link)
    stage.emit(rows(1))
    stage.end_step(item_of(0, watermark=10))
    assert operator.calls == ["rows", "end of batch", 7]
    assert link.events == ["end 0"]


def test_a_watermark_that_has_not_risen_is_not_told_again():
    operator = Operator()
    stage = OperatorLink(operator, (WatermarkBound("s"),), Recorder())
    for number, watermark in enumerate([10, 10, 4, 11]):
        stage.end_step(item_of(number, watermark=watermark))
    assert [call for call in operator.calls if isinstance(call, int)] == [10, 11]


def test_the_input_ends_after_the_last_watermark_and_before_the_step():
    operator, link = Operator(), Recorder()
    stage = OperatorLink(operator, (WatermarkBound("s", 3),), link)
    stage.end_step(item_of(0, watermark=WATERMARK_END, is_final=True))
    assert operator.calls == ["end of batch", WATERMARK_END, "end of input"]
    assert link.events == [0, "end 0"]


class StepRecorder:
    """A sink that wants to know the steps."""

    def __init__(self):
        self.events = []

    def open(self, partition, schema):
        pass

    def write(self, batch):
        self.events.append(batch.num_rows)

    def end_step(self, number):
        self.events.append(f"end {number}")

    def close(self):
        pass

    def abort(self):
        pass


def test_a_step_is_acknowledged_when_its_rows_are_at_the_sink():
    sink, counters, done = StepRecorder(), Counters(), []
    link = SinkLink(sink, 1, counters, done.append, 0, AtHand())
    link.emit(rows(1, 2))
    link.emit(rows(3))
    assert done == []
    item = item_of(4)
    link.end_step(item)
    assert sink.events == [2, 1, "end 4"]
    assert (counters.rows_out, counters.batches_out) == (3, 2)
    assert done == [(item,)]


def test_steps_that_were_processed_as_one_are_acknowledged_together():
    done, at_hand = [], AtHand()
    link = SinkLink(StepRecorder(), 1, Counters(), done.append, 0, at_hand)
    first, second, third, last = map(item_of, range(4))
    at_hand.merged = [first, second]
    link.end_step(third)
    link.end_step(last)
    assert done == [(first, second, third), (last,)]


# The bound on what is under way


def in_flight(rows_max=10, bytes_max=10, steps_max=3):
    return InFlight(rows_max, bytes_max, steps_max)


def test_room_is_given_until_the_rows_are_too_many():
    flight = in_flight(bytes_max=1000)
    assert flight.enter(6, 0, 0)
    assert not flight.enter(5, 0, 0)
    assert flight.enter(4, 0, 0)
    assert not flight.enter(1, 0, 0)
    assert flight.snapshot() == (10, 0)
    flight.leave(6, 0)
    assert flight.enter(5, 0, 0)
    assert flight.snapshot() == (15, 6)


def test_room_is_given_until_the_bytes_are_too_many():
    flight = in_flight(rows_max=1000)
    assert flight.enter(1, 6, 0)
    assert not flight.enter(1, 5, 0)
    flight.leave(1, 6)
    assert flight.enter(1, 5, 0)


def test_a_batch_beyond_the_limit_goes_alone():
    flight = in_flight()
    assert flight.enter(100, 100, 0)
    assert not flight.enter(1, 1, 0)
    flight.leave(100, 100)
    assert flight.enter(1, 1, 0)
    assert not flight.enter(100, 100, 0)


def test_a_batch_that_was_refused_leaves_no_trace():
    flight = in_flight()
    assert flight.enter(10, 10, 0)
    flight.withdraw(10, 10)
    assert flight.snapshot() == (0, 0)
    assert flight.wait_empty(0)


def test_steps_without_rows_are_waited_for():
    flight = in_flight()
    flight.force_step()
    assert not flight.wait_empty(0)
    flight.leave_step()
    assert flight.wait_empty(0)


def test_steps_without_rows_take_room_too():
    flight = in_flight()
    for _ in range(3):
        assert flight.enter_step()
    assert not flight.enter(1, 1, 0)
    flight.force_step()
    flight.leave_step()
    assert not flight.enter(1, 1, 0)
    flight.leave_step()
    assert flight.enter(1, 1, 0)


class Waiter:
    """A thread that calls something which blocks."""

    def __init__(self, function):
        self.result = None
        self._started = threading.Event()

        def work():
            self._started.set()
            self.result = function()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        assert self._started.wait(TIMEOUT_SECONDS)

    def join(self):
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), "it still waits"
        return self.result


@pytest.mark.parametrize("timeout_seconds", [None, TIMEOUT_SECONDS])
def test_who_waits_for_room_goes_on_when_there_is(timeout_seconds):
    flight = in_flight()
    flight.enter(10, 0, 0)
    waiter = Waiter(lambda: flight.enter(10, 0, timeout_seconds))
    flight.leave(10, 0)
    assert waiter.join() is True
    assert flight.snapshot() == (20, 10)


def test_nobody_waits_or_enters_once_it_is_closed():
    flight = in_flight()
    flight.enter(10, 0, 0)
    for _ in range(3):
        flight.force_step()
    waits = (lambda: flight.enter(10, 0, None), flight.enter_step, flight.wait_empty)
    waiters = [Waiter(wait) for wait in waits]
    flight.close()
    assert [waiter.join() for waiter in waiters] == [False, False, False]
    flight.leave(10, 0)
    assert not flight.enter(1, 0, None)
    assert flight.snapshot() == (10, 10)
