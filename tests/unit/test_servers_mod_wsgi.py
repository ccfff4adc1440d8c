"""servers/mod_wsgi.py, against a stand-in for the module that exists only inside Apache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from wsgi_messaging import Closed, ConfigurationError, Transport, servers
from wsgi_messaging.runtime import worker
from wsgi_messaging.servers import diagnosis, mod_wsgi, observe_first_request
from wsgi_messaging.testing import MemoryTransport

is_amid_request = mod_wsgi._is_amid_request


class FakeModWsgi(ModuleType):
    """mod_wsgi's module as one interpreter sees it."""

    def __init__(self, process_group: str = "daemon", application_group: str = "") -> None:
        super().__init__("mod_wsgi")
        self.process_group = process_group
        self.application_group = application_group
        self.active_requests: dict[str, object] = {}
        self.subscribers: list[Callable[..., object]] = []

    def subscribe_shutdown(self, callback: Callable[..., object]) -> None:
        self.subscribers.append(callback)

    def stop(self) -> None:
        for callback in self.subscribers:
            callback("process_stopping", shutdown_reason="shutdown_signal")


class OldModWsgi(ModuleType):
    """mod_wsgi before it had `subscribe_shutdown`."""

    def __init__(self, application_group: str) -> None:
        super().__init__("mod_wsgi")
        self.process_group = "daemon"
        self.application_group = application_group
        self.active_requests: dict[str, object] = {}


class Member:
    def __init__(self, ends: bool = True) -> None:
        self.calls: list[str] = []
        self._ends = ends

    def warm(self) -> None:
        self.calls.append("warm")

    def close(self, timeout: float) -> bool:
        self.calls.append(f"close <= {timeout:.1f}")
        return self._ends


@pytest.fixture(autouse=True)
def _as_in_a_new_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mod_wsgi, "_subscribed", False)
    monkeypatch.setattr(mod_wsgi, "_stopped", False)
    monkeypatch.setattr(mod_wsgi, "_is_over", False)
    monkeypatch.setattr(mod_wsgi, "DRAIN_SECONDS", 0.05)
    monkeypatch.setattr(mod_wsgi, "_is_amid_request", lambda _called: False)  # we have frames below it, Apache has none
    monkeypatch.setattr(servers, "_advice", {})
    monkeypatch.setattr(worker, "_marked", None)
    monkeypatch.setattr(worker, "_members", {})


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    def enter(api: Any) -> Any:
        monkeypatch.setitem(sys.modules, "mod_wsgi", api)
        return api

    return enter


@pytest.fixture
def member() -> Iterator[Member]:
    member = Member()
    worker.enlist(member)
    yield member


def test_outside_apache_nothing_happens(inside: Callable[[Any], Any], member: Member) -> None:
    inside(None)
    assert not mod_wsgi.start()
    inside(ModuleType("mod_wsgi"))  # as pip installs it: the tools, without a process group
    assert not mod_wsgi.start()
    assert (worker.current(), member.calls) == (None, [])


def test_subscribes_once_per_interpreter(inside: Callable[[Any], Any]) -> None:
    api = inside(FakeModWsgi())
    assert mod_wsgi.subscribe()
    assert mod_wsgi.subscribe()
    assert len(api.subscribers) == 1
    marked = worker.current()
    assert marked is not None
    assert (marked.server, marked.label) == ("mod_wsgi", "daemon")


def test_the_first_request_subscribes(inside: Callable[[Any], Any]) -> None:
    api = inside(FakeModWsgi())
    environ = {"mod_wsgi.process_group": "daemon", "mod_wsgi.application_group": ""}
    assert observe_first_request(environ) == servers.Advice("mod_wsgi", hooked=True)
    assert len(api.subscribers) == 1


def test_the_first_connection_subscribes(inside: Callable[[Any], Any]) -> None:
    """Without a middleware of ours nobody did, and each process crashed at its end in a sub-interpreter."""
    api = inside(FakeModWsgi(application_group="host|/app"))
    transport = MemoryTransport()
    assert not api.subscribers
    transport.publish("x", "q", mandatory=False)
    api.stop()
    with pytest.raises(Closed):
        transport.publish("y", "q", mandatory=False)


def test_no_connection_is_opened_where_its_thread_would_crash_the_process(inside: Callable[[Any], Any]) -> None:
    inside(OldModWsgi("host|/app"))
    with pytest.raises(ConfigurationError, match="GLOBAL"):
        MemoryTransport().publish("x", "q", mandatory=False)


def test_nothing_begins_behind_the_shutdown(inside: Callable[[Any], Any]) -> None:
    """A request that outlives the drain and is the first to publish: its thread would be alive in an interpreter that
    is destroyed, which is a segmentation fault."""
    api = inside(FakeModWsgi(application_group="host|/app"))
    known = Transport("amqp://127.0.0.1:1?timeout=0.1")
    mod_wsgi.subscribe()
    api.stop()
    for transport in (known, Transport("amqp://127.0.0.1:1?timeout=0.1")):
        with pytest.raises(Closed):
            transport.publish("x", "q")
        assert transport.status().connections == ()


def test_what_comes_late_is_still_served_in_the_main_interpreter(inside: Callable[[Any], Any]) -> None:
    api = inside(FakeModWsgi())
    mod_wsgi.subscribe()
    api.stop()
    MemoryTransport().publish("x", "q", mandatory=False)
    mod_wsgi.prepare()


def test_start_warms(inside: Callable[[Any], Any], member: Member) -> None:
    inside(FakeModWsgi())
    assert mod_wsgi.start()
    assert member.calls == ["warm"]


def test_shutdown_closes_once_although_the_event_comes_twice(inside: Callable[[Any], Any], member: Member) -> None:
    """Fails without the guard: Python 3.13 tells sub-interpreters twice."""
    api = inside(FakeModWsgi(application_group="host|/app"))
    mod_wsgi.subscribe()
    api.stop()
    api.stop()
    assert member.calls == ["close <= 0.7"]


def test_shutdown_waits_for_requests_in_flight_but_not_for_ever(inside: Callable[[Any], Any], member: Member) -> None:
    api = inside(FakeModWsgi())
    api.active_requests["1"] = object()
    mod_wsgi.subscribe()
    began_at = mod_wsgi.native.monotonic()  # type: ignore[attr-defined]
    api.stop()
    assert mod_wsgi.native.monotonic() - began_at >= 0.05  # type: ignore[attr-defined]
    assert member.calls == ["close <= 0.7"]


def test_shutdown_does_not_wait_for_the_request_that_it_stands_on(
    inside: Callable[[Any], Any], member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mod_wsgi, "_is_amid_request", is_amid_request)
    monkeypatch.setattr(mod_wsgi, "DRAIN_SECONDS", 60.0)
    api = inside(FakeModWsgi(application_group="host|/app"))
    api.active_requests["1"] = object()
    mod_wsgi.subscribe()
    began_at = mod_wsgi.native.monotonic()  # type: ignore[attr-defined]
    api.stop()
    assert mod_wsgi.native.monotonic() - began_at < 60.0  # type: ignore[attr-defined]
    assert member.calls == ["close <= 0.7"]


def test_a_thread_that_did_not_end_is_said(inside: Callable[[Any], Any], caplog: pytest.LogCaptureFixture) -> None:
    api = inside(FakeModWsgi(application_group="host|/app"))
    stuck = Member(ends=False)
    worker.enlist(stuck)
    mod_wsgi.subscribe()
    api.stop()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "segmentation fault" in caplog.text


def test_a_thread_that_did_not_end_harms_nothing_in_the_main_interpreter(
    inside: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It was told to use the main interpreter there."""
    api = inside(FakeModWsgi())
    stuck = Member(ends=False)
    worker.enlist(stuck)
    mod_wsgi.subscribe()
    api.stop()
    assert stuck.calls == ["close <= 0.7"]
    assert not caplog.records


def test_a_sub_interpreter_that_cannot_tell_its_end_is_refused_at_each_request(inside: Callable[[Any], Any]) -> None:
    inside(OldModWsgi("host|/app"))
    environ = {"mod_wsgi.process_group": "daemon", "mod_wsgi.application_group": "host|/app"}
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="WSGIApplicationGroup %{GLOBAL}"):
            observe_first_request(environ)


def test_the_main_interpreter_needs_no_subscription(inside: Callable[[Any], Any]) -> None:
    inside(OldModWsgi(""))
    assert not mod_wsgi.subscribe()
    assert diagnosis.SUB_INTERPRETER_REFUSED.format(group="x").endswith("upgrade mod_wsgi.")
