"""The password is in nothing that anybody reads, at any level, whatever goes wrong."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Iterator

import pytest

from tests.faults.calls import CALLS
from tests.harness.processes import free_port
from tests.harness.proxy import FaultProxy
from tests.harness.rabbitmq import RabbitMQ
from wsgi_messaging import Settings, Transport

MARKER = "marker%2Fpassword"
DECODED = "marker/password"


@pytest.fixture
def everything() -> Iterator[io.StringIO]:
    """All loggers of the process at DEBUG, written with their tracebacks."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("", "amqp", "kombu", "wsgi_messaging")}
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield text
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def _good(url: str, proxy: FaultProxy) -> str:
    return url


def _refused(url: str, proxy: FaultProxy) -> str:
    return f"amqp://marked:{MARKER}@127.0.0.1:{free_port()}//"


def _silent(url: str, proxy: FaultProxy) -> str:
    proxy.silent()
    return url


def _wrong_user(url: str, proxy: FaultProxy) -> str:
    return url.replace("marked:", "no-such-user:")


def _no_vhost(url: str, proxy: FaultProxy) -> str:
    return url.rpartition("/")[0].rstrip("/") + "/no-such"


def _not_tls(url: str, proxy: FaultProxy) -> str:
    return url.replace("amqp:", "amqps:")


@pytest.mark.parametrize("fault", [_good, _refused, _silent, _wrong_user, _no_vhost, _not_tls])
def test_password_appears_nowhere(
    rabbitmq: RabbitMQ,
    proxy: FaultProxy,
    queue: str,
    everything: io.StringIO,
    fault: Callable[[str, FaultProxy], str],
) -> None:
    rabbitmq.api("users/marked", "PUT", {"password": DECODED, "tags": "administrator"})
    rabbitmq.api("permissions/%2F/marked", "PUT", {"configure": ".*", "write": ".*", "read": ".*"})
    url = fault(f"amqp://marked:{MARKER}@{proxy.host}:{proxy.port}//", proxy)
    settings = Settings(url=url, connect_timeout=0.2, app="secrets")
    transport = Transport(settings=settings)
    seen = [repr(settings), str(settings), repr(settings.brokers), repr(transport)]
    for call in CALLS.values():
        try:
            call(transport, queue, 0.3)
        except BaseException as exc:  # noqa: BLE001  (whatever it is, it must hold no password)
            seen += ["".join(traceback.format_exception(exc)), repr(exc), repr(vars(exc))]
        seen += [repr(transport), repr(transport.status())]
    proxy.cut()
    transport.close()
    logging.getLogger("amqp").debug("a record of the lowest level")
    seen.append(everything.getvalue())
    told = "\n".join(seen)
    assert "127.0.0.1" in told
    assert "of the lowest level" in told, "the log is among what was read"
    for secret in (MARKER, DECODED, "marker"):
        assert secret not in told
