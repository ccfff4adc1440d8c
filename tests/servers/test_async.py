"""uWSGI's --async: one thread goes on with another response whenever one yields."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.rabbitmq import RabbitMQ
from tests.harness.requirements import missing
from tests.servers.test_misconfigurations import Ini

GIVEN = (10, 20, 30)
SOURCE = f"""\
from wsgi_messaging import MessagingMiddleware, deadline, get_transport, remaining_time

begun = []

def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/pid":
        yield b"ready"
        return
    with deadline(float(environ["QUERY_STRING"])):
        begun.append(environ)
        while len(begun) < {len(GIVEN)}:
            yield b""
        for _ in range(3):
            yield b"%.0f " % remaining_time()
    get_transport(environ).publish("x", "async")
    yield b"%.0f" % remaining_time()

application = MessagingMiddleware(app, deadline=60)
"""


@pytest.fixture
def server(rabbitmq: RabbitMQ) -> Iterator[Ini]:
    env = {"WSGI_MESSAGING_URL": rabbitmq.url, "WSGI_MESSAGING_APP": "async"}
    server = Ini("uwsgi-async", workers=1, env=env, source=SOURCE, add=(f"async = {len(GIVEN) + 1}",))
    if (reason := server.missing()) is not None:
        missing(reason)
    yield server
    server.discard()


def test_each_response_has_its_own_deadline(server: Ini, rabbitmq: RabbitMQ) -> None:
    """Red where a deadline holds until the response is closed: the others have it too, and one keeps it for good."""
    rabbitmq.declare_queue("async")
    server.start()
    with ThreadPoolExecutor(len(GIVEN)) as pool:
        answers = list(pool.map(lambda seconds: server.get(f"/?{seconds}").body.split(), GIVEN))
    for given, answer in zip(GIVEN, answers, strict=True):
        assert [float(seconds) for seconds in answer] == pytest.approx([given] * 3 + [60], abs=5.0), answers
    assert len(rabbitmq.messages("async")) == len(GIVEN)
    assert server.stop() == 0
    assert server.alarms() == []
