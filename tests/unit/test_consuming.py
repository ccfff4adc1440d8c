"""Subscriptions: made, refused, ended by either side, and made again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.wire import closed, inbound, methods, split
from wsgi_messaging.connection import codec, frames, topology
from wsgi_messaging.connection.channels import Channels, Refused
from wsgi_messaging.connection.consuming import (
    ACCEPTED_AT_MOST,
    ACK_AT_MOST,
    ACK_WITHIN,
    LAST_CALL,
    RETRY_AFTER,
    TURN_AFTER,
    Consumers,
)
from wsgi_messaging.connection.control import Control
from wsgi_messaging.connection.frames import Inbound
from wsgi_messaging.connection.position import MARK
from wsgi_messaging.connection.subscription import ACCEPTED_WITHIN, Delivered, Subscription
from wsgi_messaging.connection.topology import Topology
from wsgi_messaging.errors import Closed, ConnectFailed, DeclarationRefused
from wsgi_messaging.runtime.mailbox import Mailbox

NOW = 100.0
OPENING = ["channel.open", "basic.qos", "basic.consume"]
MAKING = ["channel.open", "queue.declare", "queue.bind", "basic.qos", "basic.consume"]


class Desk:
    def __init__(self) -> None:
        self.channels = Channels()
        self.topology = Topology()
        self.warnings: list[str] = []
        self.control = Control(self.channels)
        self.consumers = Consumers(self.channels, self.control, self.topology, self.warnings.append)
        self.notified: list[str] = []

    def declare(self, queue: str, *, durable: bool = False) -> None:
        self.topology.record(
            topology.declare_queue(
                queue, passive=False, durable=durable, exclusive=False, auto_delete=False, arguments={}
            )
        )
        self.topology.record(topology.bind_queue(queue, "exchange", "key", {}))

    def add(self, queue: str = "q") -> Subscription:
        subscription = Subscription(
            queue, tag=f"tag-{queue}", prefetch=7, mailbox=Mailbox(), notify=lambda: self.notified.append(queue)
        )
        self.consumers.add(subscription, NOW)
        return subscription

    def active(self, queue: str = "q") -> Subscription:
        subscription = self.add(queue)
        self.advance()
        self.accept(subscription)
        return subscription

    def accept(self, subscription: Subscription) -> None:
        self.answer(inbound(subscription.channel, frames.BASIC_CONSUME_OK, "s", subscription.tag))
        assert subscription.is_active

    def advance(self, now: float = NOW) -> list[tuple[int, str]]:
        return methods(self.consumers.advance(now))

    def answer(self, answer: Inbound, now: float = NOW) -> list[tuple[int, str]]:
        return methods(self.channels.dispatch(answer, now))


def taken(subscription: Subscription) -> Delivered:
    """The next delivery of a subscription."""
    delivered = subscription.mailbox.get(0)  # type: ignore[attr-defined]
    assert isinstance(delivered, Delivered)
    return delivered


def delivery(channel: int, tag: int = 1) -> Inbound:
    return inbound(channel, frames.BASIC_DELIVER, "sLbss", "tag", tag, False, "", "q", body=b"body")


def cancelled(subscription: Subscription) -> Inbound:
    return inbound(subscription.channel, frames.BASIC_CANCEL, "sb", subscription.tag, True)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_subscribe(desk: Desk) -> None:
    subscription = desk.add()
    assert desk.consumers.due_at() <= NOW
    written = desk.consumers.advance(NOW)
    assert methods(written) == [(3, name) for name in OPENING]
    assert codec.arguments("lBb", 0, 7, False) in written
    assert not subscription.is_active and not desk.notified
    desk.accept(subscription)
    assert desk.notified == ["q"]
    assert desk.consumers.due_at() == float("inf")
    assert desk.advance() == []
    assert len(desk.consumers) == 1


@pytest.mark.parametrize(("durable_queue", "durable"), [(True, False), (True, True), (False, False)])
def test_a_transient_exchange_is_made_once_more_when_the_consumer_is_back(
    desk: Desk, durable_queue: bool, durable: bool
) -> None:
    """The durable queue is still there, so that nothing else would tell that it gets no messages any more."""
    desk.topology.record(
        topology.declare_exchange(
            "exchange", "fanout", passive=False, durable=durable, auto_delete=False, internal=False, arguments={}
        )
    )
    desk.declare("q", durable=durable_queue)
    subscription = desk.active()
    assert not desk.control.is_busy
    desk.channels.lost(), desk.consumers.lost()
    desk.advance()
    desk.accept(subscription)
    is_renewed = durable_queue and not durable
    assert desk.control.is_busy is is_renewed
    if not is_renewed:
        return
    [(channel, opening), (_channel, declaring)] = methods(desk.control.advance(NOW))
    assert (opening, declaring) == ("channel.open", "exchange.declare")
    assert desk.answer(inbound(channel, frames.method_id(40, 11))) == [(channel, "queue.bind")]
    desk.answer(inbound(channel, frames.CHANNEL_CLOSE, "BsBB", 404, "no queue", 50, 20))
    assert len(desk.warnings) == 1 and "queue 'q' may get nothing any more: binding of queue 'q'" in desk.warnings[0]


def test_one_more_than_the_broker_allows_is_refused_and_disturbs_no_other(desk: Desk) -> None:
    desk.channels.most = 2
    first, second = desk.active("a"), desk.active("b")
    third = desk.add("c")
    assert desk.advance() == []
    assert isinstance(third.error, DeclarationRefused) and third.error.reply_code == 530
    assert "allows 2 channels" in str(third.error) and desk.notified[-1] == "c"
    assert first.is_active and second.is_active and len(desk.consumers) == 2


def test_who_had_a_channel_waits_for_one_where_the_broker_allows_fewer_now(desk: Desk) -> None:
    first, second = desk.active("a"), desk.active("b")
    desk.consumers.lost()
    desk.channels.lost()
    desk.channels.most = 1
    assert [name for _channel, name in desk.advance()] == OPENING
    assert first.error is None and second.error is None
    desk.channels.most = 2
    assert desk.advance(NOW + RETRY_AFTER - 0.1) == []
    assert [name for _channel, name in desk.advance(NOW + RETRY_AFTER)] == OPENING


def test_each_has_a_channel_of_its_own(desk: Desk) -> None:
    assert {desk.active("a").channel, desk.active("b").channel} == {3, 4}


def test_deliveries_go_to_the_mailbox_and_can_be_settled(desk: Desk) -> None:
    subscription = desk.active()
    desk.answer(delivery(3, 5))
    delivered = subscription.mailbox.get(0)
    assert delivered is not None and delivered.inbound.body == b"body"
    assert methods(desk.consumers.settle(delivered, frames.BASIC_ACK, False, 0.0)) == [(3, "basic.ack")]
    assert desk.consumers.delivered == 1


def test_what_came_over_a_lost_connection_is_not_settled(desk: Desk) -> None:
    """Its tag means another message now, or none: that would be a channel error."""
    subscription = desk.active()
    desk.answer(delivery(3))
    desk.answer(delivery(3, 2))
    delivered = subscription.mailbox.get(0)
    assert delivered is not None
    desk.channels.lost(), desk.consumers.lost()
    assert len(subscription.mailbox) == 0, "the rest comes again over the next connection"
    assert not subscription.is_active
    assert desk.advance() == [(3, name) for name in OPENING]
    desk.accept(subscription)
    assert desk.consumers.settle(delivered, frames.BASIC_ACK, False, 0.0) == b""
    desk.consumers.acknowledge(delivered, 0.0)
    assert desk.advance() == []
    desk.answer(delivery(3))
    again = subscription.mailbox.get(0)
    assert again is not None and again.generation != delivered.generation


def test_what_may_be_acknowledged_soon_is_gathered(desk: Desk) -> None:
    subscription = desk.active()
    assert desk.consumers.due_at() == float("inf")
    for tag in (1, 2, 3):
        desk.answer(delivery(3, tag))
        desk.consumers.acknowledge(taken(subscription), NOW + tag / 1000, ACK_WITHIN)
    assert desk.consumers.due_at() == NOW + 0.001 + ACK_WITHIN
    assert desk.advance(NOW + ACK_WITHIN) == []
    written = desk.consumers.advance(desk.consumers.due_at())
    assert codec.read_arguments("Lb", split(written)[0].payload[4:]) == [3, True]
    assert desk.consumers.due_at() == float("inf")
    assert desk.advance(NOW + 100) == []


def test_many_are_acknowledged_at_once(desk: Desk) -> None:
    subscription = desk.active()
    for tag in range(ACK_AT_MOST):
        desk.answer(delivery(3, tag + 1))
        desk.consumers.acknowledge(taken(subscription), NOW, ACK_WITHIN)
    assert desk.advance(NOW) == [(3, "basic.ack")]


def test_what_is_settled_in_one_turn_is_acknowledged_together(desk: Desk) -> None:
    """The broker's work for an acknowledgement is nearly the same, however many it is for."""
    subscription = desk.active()
    for tag in range(1, 6):
        desk.answer(delivery(3, tag))
    delivered = [taken(subscription) for _ in range(5)]
    assert methods(desk.consumers.settle(delivered[3], frames.BASIC_REJECT, True, NOW)) == [(3, "basic.reject")]
    for each in (delivered[2], delivered[0], delivered[4]):
        desk.consumers.acknowledge(each, NOW)
    assert acknowledged(desk) == [(1, False), (3, False), (5, False)], "the second is still unsettled"
    desk.consumers.acknowledge(delivered[1], NOW)
    assert acknowledged(desk) == [(2, False)]
    for tag in (6, 7):
        desk.answer(delivery(3, tag))
    for each in [taken(subscription), taken(subscription)]:
        desk.consumers.acknowledge(each, NOW)
    assert acknowledged(desk) == [(7, True)]
    assert acknowledged(desk) == []


def acknowledged(desk: Desk) -> list[tuple[int, bool]]:
    """The tags, and whether those before them, that are acknowledged now."""
    written = [codec.read_arguments("Lb", frame.payload[4:]) for frame in split(desk.consumers.advance(NOW))]
    return [(tag, multiple) for tag, multiple in written]


def test_what_is_settled_is_acknowledged_before_its_channel_ends(desk: Desk) -> None:
    subscription = desk.active()
    desk.answer(delivery(3))
    desk.consumers.acknowledge(taken(subscription), NOW)
    assert methods(desk.consumers.remove(subscription)) == [(3, "basic.ack"), (3, "channel.close")]
    assert desk.advance(NOW) == []


def test_what_was_to_be_acknowledged_over_a_lost_connection_is_forgotten(desk: Desk) -> None:
    subscription = desk.active()
    desk.answer(delivery(3))
    desk.consumers.acknowledge(taken(subscription), NOW, ACK_WITHIN)
    desk.channels.lost(), desk.consumers.lost()
    desk.advance()
    desk.accept(subscription)
    assert desk.consumers.due_at() == float("inf")
    assert desk.advance(NOW + 100) == []


def test_a_missing_queue_is_the_callers_error(desk: Desk) -> None:
    subscription = desk.add()
    desk.advance()
    assert desk.answer(closed(3, 404, "NOT_FOUND - no queue 'q'")) == [(3, "channel.close-ok")]
    assert isinstance(subscription.error, DeclarationRefused)
    assert subscription.error.reply_code == 404
    assert desk.notified == ["q"]
    assert len(desk.consumers) == 0
    assert not desk.warnings


def test_a_missing_queue_of_ours_is_made_again(desk: Desk) -> None:
    desk.declare("q")
    subscription = desk.add()
    desk.advance()
    written = desk.answer(closed(3, 404))
    assert [name for _channel, name in written] == [
        "channel.close-ok",
        "channel.open",
        "queue.declare",
        "queue.bind",
        "basic.qos",
        "basic.consume",
    ]
    desk.accept(subscription)
    assert subscription.error is None


def with_name(desk: Desk, *names: str) -> list[Subscription]:
    """Active consumers of one queue, `amq.gen-1`, that the broker named and that is gone since."""
    declaration = topology.declare_queue(
        "", passive=False, durable=False, exclusive=True, auto_delete=False, arguments={}
    )
    desk.topology.record(replace(declaration, queue="amq.gen-1", is_named_by_broker=True))
    binding = topology.bind_queue("amq.gen-1", "exchange", "key", {})
    desk.topology.record(replace(binding, is_named_by_broker=True))
    active = [desk.active("amq.gen-1") for _name in names]
    desk.channels.lost()
    desk.consumers.lost()
    desk.advance()
    return active


def queue_of(arguments: bytes) -> str:
    return arguments[3 : 3 + arguments[2]].decode()


def test_a_queue_that_the_broker_named_is_replaced(desk: Desk) -> None:
    [subscription] = with_name(desk, "a")
    written = split(desk.channels.dispatch(closed(subscription.channel, 404), NOW))
    queues = {frames.BASIC_CONSUME: "no consume", topology.QUEUE_BIND: "no bind", topology.QUEUE_DECLARE: "no declare"}
    for frame in written:
        method = int.from_bytes(frame.payload[:4], "big")
        if method in queues:
            queues[method] = queue_of(frame.payload[4:])
    assert set(queues.values()) == {""}, "the one declared last, in one write"
    desk.answer(inbound(subscription.channel, topology.QUEUE_DECLARE_OK, "sll", "amq.gen-2", 0, 0))
    assert subscription.queue == queue_of(subscription.consume) == "amq.gen-2"
    assert [made.queue for made in desk.topology.of_queue("amq.gen-2")] == ["amq.gen-2"] * 2
    desk.accept(subscription)
    assert desk.warnings == []


def test_two_consumers_of_it_share_the_new_one(desk: Desk) -> None:
    one, two = with_name(desk, "one", "two")
    desk.answer(closed(one.channel, 404))
    assert desk.answer(closed(two.channel, 404)) == [(two.channel or 4, "channel.close-ok")], "it is being made"
    desk.answer(inbound(one.channel, topology.QUEUE_DECLARE_OK, "sll", "amq.gen-2", 0, 0))
    desk.accept(one)
    assert two.queue == queue_of(two.consume) == "amq.gen-2"
    assert [name for _channel, name in desk.advance(NOW + RETRY_AFTER)] == OPENING, "and declares nothing"


def test_two_consumers_of_one_that_we_named_do_not_wait_for_each_other(desk: Desk) -> None:
    desk.declare("q")
    for subscription in [desk.active(), desk.active()]:
        assert [name for _channel, name in desk.answer(closed(subscription.channel, 404))][1:] == MAKING


def test_a_queue_that_we_named_keeps_its_name(desk: Desk) -> None:
    desk.declare("q")
    desk.declare("r")
    before = desk.topology.of_route("exchange", "key")
    subscription = desk.active()
    desk.answer(closed(subscription.channel, 404))
    desk.answer(inbound(subscription.channel, topology.QUEUE_DECLARE_OK, "sll", "q", 0, 0))
    assert subscription.queue == "q" and desk.topology.of_route("exchange", "key") == before


# A queue that is its consumer's own.

OLD = "mine_0"


class Own:
    """A consumer of `OLD`, which was declared through us, and what it was told."""

    def __init__(self, desk: Desk, *, is_active: bool = True) -> None:
        self.desk = desk
        self.told: list[tuple[str, str]] = []
        desk.declare(OLD)
        self.subscription = Subscription(
            OLD,
            tag="tag",
            prefetch=7,
            mailbox=Mailbox(),
            notify=lambda: desk.notified.append(OLD),
            on_replaced=lambda queue, name: self.told.append((queue, name)),
        )
        desk.consumers.add(self.subscription, NOW)
        desk.advance()
        if is_active:
            desk.accept(self.subscription)

    def refuse(self, code: int, now: float = NOW) -> list[str]:
        """The names of the methods that are written in answer."""
        return [name for _channel, name in self.desk.answer(closed(self.subscription.channel, code), now)]

    @property
    def queue(self) -> str:
        return self.subscription.queue


def test_an_own_queue_whose_node_is_down_is_replaced_at_once(desk: Desk) -> None:
    own = Own(desk)
    assert own.refuse(404) == ["channel.close-ok", *MAKING], "it may only be gone: by its name first"
    assert own.queue == OLD
    assert own.refuse(404) == ["channel.close-ok", *MAKING]
    assert own.told == [(OLD, own.queue)] and own.queue.startswith("mine_") and len(own.queue) == len("mine_") + 32
    assert queue_of(own.subscription.consume) == own.queue
    assert [queue_of(made.arguments) for made in desk.topology.of_queue(own.queue)] == [own.queue] * 2
    assert desk.topology.of_queue(OLD) == []
    assert desk.warnings == [f"queue {OLD!r} cannot be had (404 NO); another one takes its place"]
    desk.accept(own.subscription)
    assert desk.consumers.due_at() == float("inf")


def test_one_replacement_after_the_other_takes_its_time_and_is_said_once(desk: Desk) -> None:
    own = Own(desk)
    own.refuse(404), own.refuse(404)
    for number in range(1, 5):
        now = NOW + number * RETRY_AFTER
        assert own.refuse(404, now - RETRY_AFTER) == ["channel.close-ok"]
        assert desk.consumers.due_at() == now
        assert [name for _channel, name in desk.advance(now)] == MAKING
        assert len(own.told) == 1 + number
    assert len(desk.warnings) == 1
    desk.accept(own.subscription)
    own.refuse(404), own.refuse(404)
    assert len(desk.warnings) == 2, "another time"


@pytest.mark.parametrize("code", [403, 406])
def test_an_own_queue_that_is_there_is_not_replaced(desk: Desk, code: int) -> None:
    """A delivery that was not acknowledged in time (406), a permission that was taken away (403)."""
    own = Own(desk)
    queue = own.subscription.queue
    own.refuse(code)
    for number in range(1, 4):
        desk.advance(NOW + number * RETRY_AFTER)
        own.refuse(code, NOW + number * RETRY_AFTER)
    assert not own.told and own.subscription.queue == queue
    assert len(desk.warnings) == 1 and "it will be tried again" in desk.warnings[0]


def test_what_an_own_queue_was_never_granted_is_the_callers_error(desk: Desk) -> None:
    own = Own(desk, is_active=False)
    own.refuse(403)
    assert isinstance(own.subscription.error, DeclarationRefused) and not own.told


def test_an_own_queue_may_be_lost_before_it_was_ever_consumed(desk: Desk) -> None:
    own = Own(desk, is_active=False)
    own.refuse(404)
    assert own.refuse(404) == ["channel.close-ok", *MAKING] and len(own.told) == 1


def test_an_own_queue_that_is_not_answered_for_is_replaced(desk: Desk) -> None:
    """Its node hangs."""
    own = Own(desk, is_active=False)
    now = NOW
    for number in range(6):
        within = min(ACCEPTED_WITHIN * 2**number, ACCEPTED_AT_MOST)
        channel = own.subscription.channel
        assert desk.consumers.due_at() == now + within
        assert desk.advance(now + within - 0.1) == []
        now += within
        assert desk.advance(now) == [] and desk.consumers.due_at() == now + LAST_CALL
        now += LAST_CALL
        closing = desk.advance(now)
        assert closing[0] == (channel, "channel.close")
        if number:
            assert closing[1:] == [] and desk.consumers.due_at() == now + RETRY_AFTER
            now += RETRY_AFTER
            closing += desk.advance(now)
        assert [name for _channel, name in closing[1:]] == MAKING
        assert len(own.told) == number + 1
    assert desk.warnings == [f"queue {OLD!r} cannot be had (no answer for 15 s); another one takes its place"]
    desk.accept(own.subscription)
    desk.channels.lost(), desk.consumers.lost()
    desk.advance(now)
    assert desk.consumers.due_at() == now + ACCEPTED_WITHIN


def test_an_answer_that_lay_in_the_socket_of_a_stopped_process_counts(desk: Desk) -> None:
    own = Own(desk, is_active=False)
    long_after = NOW + 10 * ACCEPTED_WITHIN
    assert desk.advance(long_after) == []
    desk.accept(own.subscription)
    assert desk.advance(long_after + LAST_CALL) == [] and not own.told


def test_an_own_queue_whose_consumer_is_ended_meanwhile_is_not_replaced(desk: Desk) -> None:
    own = Own(desk, is_active=False)
    desk.consumers.stop(own.subscription)
    assert desk.advance(NOW + ACCEPTED_WITHIN) == []
    assert desk.advance(NOW + ACCEPTED_WITHIN + LAST_CALL) == [(3, "channel.close")]
    assert not own.told and desk.consumers.due_at() == float("inf")


def test_any_other_queue_has_all_the_time(desk: Desk) -> None:
    subscription = desk.add()
    desk.advance()
    assert desk.consumers.due_at() == float("inf")
    desk.accept(subscription)


def test_acknowledgements_of_an_own_queue_are_gathered_as_ever(desk: Desk) -> None:
    own = Own(desk)
    desk.channels.dispatch(delivery(3), NOW)
    desk.consumers.acknowledge(taken(own.subscription), NOW, ACK_WITHIN)
    assert desk.consumers.due_at() == NOW + ACK_WITHIN
    assert desk.advance(NOW + ACK_WITHIN) == [(3, "basic.ack")]


def test_ours_that_cannot_be_made_again_is_an_error_once(desk: Desk) -> None:
    desk.declare("q")
    subscription = desk.add()
    desk.advance()
    desk.answer(closed(3, 404))
    desk.answer(closed(3, 404))
    assert isinstance(subscription.error, DeclarationRefused)
    assert len(desk.consumers) == 0


def test_a_queue_whose_exchange_is_missing_is_not_consumed_unbound(desk: Desk) -> None:
    """The exchange is somebody else's, and comes back later than the queue can: nothing would ever have come."""
    desk.declare("q")
    subscription = desk.active()
    desk.answer(cancelled(subscription))
    now = NOW
    desk.answer(closed(subscription.channel, 404, "NOT_FOUND - no queue 'q'"), now)
    for _ in range(3):
        desk.answer(closed(subscription.channel, 404, "NOT_FOUND - no exchange 'exchange'"), now)
        now += RETRY_AFTER
        assert [name for _channel, name in desk.advance(now)] == MAKING
    desk.accept(subscription)


def test_one_that_the_broker_named_and_that_cannot_be_bound_is_not_left_behind(desk: Desk) -> None:
    [subscription] = with_name(desk, "a")
    desk.answer(closed(subscription.channel, 404))
    desk.answer(inbound(subscription.channel, topology.QUEUE_DECLARE_OK, "sll", "amq.gen-2", 0, 0))
    desk.answer(closed(subscription.channel, 404, "NOT_FOUND - no exchange 'exchange'"))
    written = desk.consumers.advance(NOW + RETRY_AFTER)
    assert [name for _channel, name in methods(written)] == ["channel.open", "queue.delete", *MAKING[1:]]
    assert queue_of(split(written)[1].payload[4:]) == "amq.gen-2"
    desk.accept(subscription)


def test_cancelled_by_the_broker_it_subscribes_again_at_once(desk: Desk) -> None:
    desk.declare("q")
    subscription = desk.active()
    assert desk.answer(cancelled(subscription)) == [(3, "channel.close"), *[(4, name) for name in OPENING]]
    assert not subscription.is_active
    desk.answer(closed(4, 404))
    desk.accept(subscription)
    assert len(desk.warnings) == 1
    assert "the consumer of queue 'q' was cancelled by the broker" in desk.warnings[0]


def test_a_queue_that_stays_away_is_tried_every_second_and_said_once(desk: Desk) -> None:
    subscription = desk.active()
    desk.answer(cancelled(subscription))
    now = NOW
    for _ in range(5):
        desk.answer(closed(subscription.channel, 404), now)
        assert desk.consumers.due_at() == now + RETRY_AFTER
        assert desk.advance(now + RETRY_AFTER - 0.01) == []
        now += RETRY_AFTER
        assert [name for _channel, name in desk.advance(now)] == OPENING
    desk.accept(subscription)
    assert len(desk.warnings) == 1
    desk.answer(cancelled(subscription), now)
    assert len(desk.warnings) == 2, "another loss is another line"


def test_a_channel_closed_under_an_active_consumer(desk: Desk) -> None:
    """RabbitMQ ends a consumer that does not acknowledge for half an hour with 406."""
    subscription = desk.active()
    written = desk.answer(closed(3, 406, "PRECONDITION_FAILED - delivery acknowledgement timed out"))
    assert [name for _channel, name in written] == ["channel.close-ok", *OPENING]
    desk.accept(subscription)
    assert "ended: 406 PRECONDITION_FAILED" in desk.warnings[0]


def test_others_are_not_touched(desk: Desk) -> None:
    one, two = desk.active("one"), desk.active("two")
    desk.answer(cancelled(one))
    assert two.is_active and two.channel == 4


def test_stop_and_remove(desk: Desk) -> None:
    subscription = desk.active()
    desk.answer(delivery(3))
    delivered = subscription.mailbox.get(0)
    assert delivered is not None
    assert methods(desk.consumers.stop(subscription)) == [(3, "basic.cancel")]
    assert desk.consumers.settle(delivered, frames.BASIC_ACK, False, 0.0) != b"", "what is being handled can be settled"
    assert methods(desk.consumers.remove(subscription)) == [(3, "channel.close")]
    assert desk.consumers.settle(delivered, frames.BASIC_ACK, False, 0.0) == b""
    assert desk.consumers.remove(subscription) == b""
    assert len(desk.consumers) == 0
    assert desk.answer(delivery(3)) == [], "what still comes is nobody's"


def test_stop_before_it_was_made(desk: Desk) -> None:
    subscription = desk.add()
    assert desk.consumers.stop(subscription) == b""
    assert desk.consumers.remove(subscription) == b""
    assert desk.advance() == []


def test_cancelled_ones_stay_cancelled_over_a_reconnect(desk: Desk) -> None:
    subscription = desk.active()
    desk.consumers.stop(subscription)
    desk.channels.lost(), desk.consumers.lost()
    assert desk.advance(NOW + 100) == []
    assert len(desk.consumers) == 0


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_the_brokers_cancel_that_crosses_ours_ends_it_all_the_same(desk: Desk, how: str) -> None:
    subscription = desk.active()
    desk.consumers.stop(subscription)
    written = desk.answer(cancelled(subscription) if how == "cancel" else closed(3, 404))
    assert "basic.consume" not in [name for _channel, name in written]
    desk.consumers.remove(subscription)
    assert desk.advance(NOW + 100) == []
    assert not desk.warnings


def test_refuse_new_tells_only_those_who_wait(desk: Desk) -> None:
    old = desk.active("old")
    desk.channels.lost(), desk.consumers.lost()
    new = desk.add("new")
    desk.consumers.refuse_new(ConnectFailed("no", is_permanent=True))
    assert isinstance(new.error, ConnectFailed) and new.error.is_permanent
    assert old.error is None
    assert desk.notified == ["old", "new"]
    assert len(desk.consumers) == 1


def of_stream(channel: int, offset: int) -> Inbound:
    """As RabbitMQ delivers from a stream."""
    table = MARK + offset.to_bytes(8, "big")
    return delivery(channel, offset + 1)._replace(header=b"\x20\x00" + len(table).to_bytes(4, "big") + table)


def reconnected(desk: Desk) -> object:
    """The offset that the one consumer is subscribed with over the next connection."""
    desk.channels.lost(), desk.consumers.lost()
    return offset_asked_for(desk.consumers.advance(NOW))


def offset_asked_for(written: bytes) -> object:
    consume = split(written)[-1].payload[4:]
    return codec.read_arguments("BssbbbbF", consume)[-1].get("x-stream-offset")


def test_a_streams_consumer_goes_on_where_it_was(desk: Desk) -> None:
    """It began anew: at what came next, and what came meanwhile was lost on it; or at the first message of all."""
    subscription = desk.active()
    for offset in range(5, 9):
        desk.answer(of_stream(3, offset))
    delivered = [taken(subscription) for _ in range(4)]
    desk.consumers.settle(delivered[0], frames.BASIC_ACK, False, NOW)
    desk.consumers.acknowledge(delivered[2], NOW)
    assert reconnected(desk) == 6, "the first that was not settled"
    desk.accept(subscription)
    desk.consumers.settle(delivered[1], frames.BASIC_ACK, False, NOW)
    assert reconnected(desk) == 6, "it was for the connection that is gone"
    desk.accept(subscription)
    for offset in range(6, 9):
        desk.answer(of_stream(3, offset))
    for _ in range(3):
        desk.consumers.acknowledge(taken(subscription), NOW)
    assert reconnected(desk) == 9


@pytest.mark.parametrize("code", [404, 406])
def test_a_stream_that_is_gone_or_none_is_read_as_it_was_asked_for(desk: Desk, code: int) -> None:
    """A queue whose messages have the header of a stream: RabbitMQ refuses the argument with 406."""
    subscription = desk.active()
    desk.answer(of_stream(3, 5))
    assert reconnected(desk) == 5
    written = desk.channels.dispatch(closed(3, code), NOW)
    assert offset_asked_for(written) is None
    desk.accept(subscription)
    desk.answer(of_stream(3, 6))
    assert reconnected(desk) is None


def test_a_streams_consumer_that_was_ended_for_its_slowness_goes_on_where_it_was(desk: Desk) -> None:
    desk.active()
    desk.answer(of_stream(3, 5))
    written = desk.channels.dispatch(closed(3, 406, "PRECONDITION_FAILED - delivery acknowledgement timed out"), NOW)
    assert offset_asked_for(written) == 5


def refused(desk: Desk) -> None:
    desk.channels.lost()
    desk.consumers.lost(Refused(541, "INTERNAL_ERROR"))


def test_what_ends_the_connection_twice_is_refused_and_the_others_come_back(desk: Desk) -> None:
    """An x-stream-offset that RabbitMQ does not know: the connection was closed again and again, up to the timeout."""
    active, bad, good = desk.active("active"), desk.add("bad"), desk.add("good")
    desk.advance()
    desk.notified.clear()
    refused(desk)
    assert not desk.notified, "it may have been either of them, or something else"
    written = desk.advance()
    assert [bad.channel, good.channel] == [4, 0], "one at a time"
    assert written == [(channel, name) for channel in (3, 4) for name in OPENING]
    assert desk.consumers.due_at() == NOW + TURN_AFTER
    refused(desk)
    assert desk.notified == ["bad"]
    assert isinstance(bad.error, DeclarationRefused)
    assert bad.error.reply_code == 541
    desk.advance(NOW + TURN_AFTER)
    desk.accept(active), desk.accept(good)
    assert len(desk.consumers) == 2


def test_suspects_that_are_accepted_come_back_one_after_the_other(desk: Desk) -> None:
    one, two = desk.add("one"), desk.add("two")
    desk.advance()
    refused(desk)
    desk.advance()
    desk.accept(one)
    desk.advance(NOW + TURN_AFTER)
    desk.accept(two)
    refused(desk)
    desk.advance(NOW + TURN_AFTER)
    assert one.channel and two.channel, "they were active: it is not their fault"


def test_give_up_ends_all(desk: Desk) -> None:
    old, new = desk.active("old"), desk.add("new")
    desk.consumers.give_up(Closed("closed"))
    assert isinstance(old.error, Closed) and isinstance(new.error, Closed)
    assert old.is_cancelled and new.is_cancelled
    assert desk.notified == ["old", "old", "new"]
    assert len(desk.consumers) == 0


def test_a_method_for_nobody_is_passed_over(desk: Desk) -> None:
    assert desk.consumers.on_method(delivery(9), NOW) == b""
    subscription = desk.active()
    assert desk.answer(inbound(subscription.channel, frames.BASIC_QOS_OK)) == []


def test_delivered_keeps_what_came() -> None:
    assert Delivered._fields == ("subscription", "generation", "inbound", "tag")


def test_a_callback_that_nears_the_brokers_patience_is_warned_about_once() -> None:
    desk = Desk()
    subscription = desk.active()
    subscription.warn_after = 10.0
    subscription.begun_at["one"] = NOW
    subscription.begun_at["two"] = NOW + 5.0
    desk.advance(NOW + 10.0)
    assert desk.warnings == []
    desk.advance(NOW + 10.5)
    desk.advance(NOW + 99.0)
    assert len(desk.warnings) == 1
    assert "consumer_timeout" in desk.warnings[0]


def test_a_callback_that_runs_for_too_long_is_warned_about_once(desk: Desk) -> None:
    subscription = desk.active()
    subscription.warn_after = 60.0
    subscription.begun_at["one"] = NOW
    desk.advance(NOW + 60)
    assert not desk.warnings
    for _ in range(2):
        desk.advance(NOW + 61)
    assert len(desk.warnings) == 1
    assert "has run for 61 s" in desk.warnings[0]
