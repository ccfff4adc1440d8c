"""connection/unsettled.py: as few acknowledgements as will do, and none for what is not settled."""

from __future__ import annotations

import sys
import time
from random import Random

import pytest

from tests.unit.wire import split
from wsgi_messaging.connection import codec
from wsgi_messaging.connection.unsettled import Unsettled


class Channel:
    """What RabbitMQ does: an acknowledgement of what is not unacknowledged (any more) closes the channel."""

    def __init__(self) -> None:
        self.under_test = Unsettled()
        self.unacknowledged: list[int] = []
        self.last = self.frames = 0

    def deliver(self) -> int:
        self.last += 1
        self.unacknowledged.append(self.last)
        self.under_test.delivered(self.last)
        return self.last

    def reject(self, tag: int) -> None:
        self.under_test.settled(tag)
        self.unacknowledged.remove(tag)

    def write(self) -> set[int]:
        """What is acknowledged now."""
        done: set[int] = set()
        for frame in split(self.under_test.written(1)):
            tag, multiple = codec.read_arguments("Lb", frame.payload[4:])
            assert tag in self.unacknowledged, "PRECONDITION_FAILED - unknown delivery tag"
            done.update(each for each in self.unacknowledged if each == tag or (multiple and each < tag))
            self.unacknowledged = [each for each in self.unacknowledged if each not in done]
            self.frames += 1
        return done


@pytest.mark.parametrize("seed", range(20))
def test_exactly_what_was_settled_is_acknowledged(seed: int) -> None:
    random, channel = Random(seed), Channel()
    held: list[int] = []
    for _ in range(300):
        held += [channel.deliver() for _ in range(random.randrange(8))]
        settled = set(random.sample(held, random.randrange(len(held) + 1)))
        for tag in random.sample(sorted(settled), len(settled)):
            if random.random() < 0.2:
                channel.reject(tag)
                settled.discard(tag)
                held.remove(tag)
            else:
                channel.under_test.acknowledge(tag)
        assert channel.write() == settled
        held = [tag for tag in held if tag not in settled]
        assert len(channel.under_test) == len(held) == len(channel.unacknowledged)


def test_in_order_one_does_for_all() -> None:
    channel = Channel()
    for _turn in range(10):
        for tag in [channel.deliver() for _ in range(50)]:
            channel.under_test.acknowledge(tag)
        assert len(channel.write()) == 50
    assert channel.frames == 10


def test_what_one_long_execution_keeps_back_is_not_kept_itself() -> None:
    channel = Channel()
    long = channel.deliver()
    for _ in range(1000):
        channel.under_test.acknowledge(channel.deliver())
        assert channel.write() == {channel.last}
    assert len(channel.under_test) == 1
    assert sys.getsizeof(channel.under_test._order) < 5000, "of 1000 tags"
    channel.under_test.acknowledge(long)
    assert channel.write() == {long}


def test_a_backlog_does_not_make_each_acknowledgement_dearer() -> None:
    """A queue that is emptied with a prefetch of 0: where each looked past those before it, 16 times as many would take
    8 times as long each."""

    def seconds_each(count: int) -> float:
        under_test = Unsettled()
        for tag in range(count):
            under_test.delivered(tag)
        began_at = time.thread_time()
        for tag in range(count):
            under_test.acknowledge(tag)
            under_test.written(1)
        return (time.thread_time() - began_at) / count

    few, many = (min(seconds_each(count) for _ in range(3)) for count in (5_000, 80_000))
    assert many < 4 * few
