"""wsgi_messaging with its defaults: one transport for all callers."""

from __future__ import annotations

import time
from functools import cache, partial

from benchmarks.plan import Figures, NotOffered, Plan
from benchmarks.preload import Preloaded, notification
from benchmarks.sessions import Operation, Session
from wsgi_messaging import Delivery, Message, Settings, Transport


def _transport(plan: Plan) -> Transport:
    return Transport(settings=Settings(url=plan.urls(), app="benchmark", heartbeat=float(min(plan.heartbeat, 20))))


@cache
def _shared(plan: Plan) -> Transport:
    """A worker has one, whatever it does with it."""
    return _transport(plan)


def operations(plan: Plan, action: str) -> list[Operation]:
    transport, body = _shared(plan), plan.body()
    if action in ("publish", "outage"):
        one: Operation = partial(transport.publish, body, plan.queue, persistent=plan.is_persistent)
    elif action == "publish_many":
        one = partial(_publish_many, transport, plan)
    elif action == "notify":
        one = _notifier(transport, plan)
    elif action in ("call", "cast"):
        one = _rpc(transport, plan, action)
    else:
        raise NotOffered(f"no {action}")
    return [one] * plan.callers


def _publish_many(transport: Transport, plan: Plan) -> None:
    body = plan.body()
    batch = [Message(body=body, routing_key=plan.queue, persistent=plan.is_persistent) for _ in range(plan.batch)]
    failed = [error for error in transport.publish_many(batch, timeout=30) if error is not None]
    if failed:
        raise failed[0]


def _rpc(transport: Transport, plan: Plan, action: str) -> Operation:
    from wsgi_messaging.rpc import RPCClient, Target

    client = RPCClient(transport, Target(topic=plan.topic if action == "call" else plan.queue))

    def call() -> None:
        if client.call({}, "add", a=1, b=2) != 3:
            raise RuntimeError("a wrong answer")

    def cast() -> None:
        client.cast({}, "add", a=1, b=2)

    return call if action == "call" else cast


def _notifier(transport: Transport, plan: Plan) -> Operation:
    from wsgi_messaging.notify import Notifier

    notifier = Notifier(transport, "bench.host1", topics=[plan.queue])
    return partial(notifier.info, {}, "order.created", plan.body())


class Endpoint:
    """What is called."""

    def add(self, _context: object, a: int, b: int) -> int:
        return a + b


class Serving:
    """A server that runs until the process ends."""

    def __init__(self, server: object) -> None:
        self._server = server

    def run(self, _seconds: float) -> Figures:
        return {"operations": 0}


def serve(plan: Plan) -> Session:
    from wsgi_messaging.rpc import RPCServer, Target

    server = RPCServer(_transport(plan), Target(topic=plan.topic, server="bench"), [Endpoint()])
    server.start()
    return Serving(server)


def consume(plan: Plan) -> Session:
    return Preloaded(plan, partial(_consume, plan))


def _consume(plan: Plan, count: int) -> float:
    handled = []
    with _transport(plan) as transport:
        begun = time.perf_counter()

        def on_message(delivery: Delivery) -> None:
            handled.append(delivery.json())

        transport.consume(plan.queue, on_message, prefetch=100)
        while len(handled) < count and time.perf_counter() < begun + 120:
            time.sleep(0.001)
        return time.perf_counter() - begun


def listen(plan: Plan) -> Session:
    import wsgi_messaging.notify  # noqa: F401  (unavailable is told before the rounds)

    return Preloaded(plan, partial(_listen, plan), notification, suffix=".info")


class _Sink:
    def __init__(self) -> None:
        self.handled = 0

    def info(self, *_args: object) -> None:
        self.handled += 1


def _listen(plan: Plan, count: int) -> float:
    from wsgi_messaging.notify import NotificationListener
    from wsgi_messaging.rpc import Target

    sink = _Sink()
    with _transport(plan) as transport:
        begun = time.perf_counter()
        listener = NotificationListener(transport, [Target(topic=plan.queue)], [sink])
        listener.start()
        while sink.handled < count and time.perf_counter() < begun + 120:
            time.sleep(0.001)
        return time.perf_counter() - begun
