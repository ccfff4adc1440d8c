"""The drivers that need no broker, and how several work side by side."""

from __future__ import annotations

import json
import logging
from collections import UserDict, UserList, deque
from typing import Any

import pytest

from wsgi_messaging import ConfigurationError, Unroutable
from wsgi_messaging.notify import LogDriver, NotificationFailed, RoutingDriver
from wsgi_messaging.notify.drivers import masked, notify_each
from wsgi_messaging.notify.notification import new_message


class Recorder:
    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[tuple[str, str]] = []
        self.error = error

    def notify(self, context: Any, message: dict[str, Any], priority: str, retry: int | None) -> None:
        self.seen.append((message["event_type"], priority))
        if self.error is not None:
            raise self.error


def message(event_type: str = "compute.start", payload: Any = None) -> dict[str, Any]:
    return new_message("pub", event_type, "INFO", payload)


RULES = {
    "group_1": {
        "compute": {"accepted_events": ["compute.*"], "accepted_priorities": ["INFO", "error"]},
        "errors": {"accepted_priorities": ["error"]},
    },
    "group_2": {"everything": {}, "compute": {"accepted_events": ["image.?pload"]}},
}


@pytest.mark.parametrize(
    ("event_type", "priority", "expected"),
    [
        ("compute.start", "INFO", {"compute", "everything"}),
        ("compute.start", "DEBUG", {"everything"}),
        ("compute.start", "ERROR", {"compute", "errors", "everything"}),
        ("image.upload", "DEBUG", {"compute", "everything"}),
        ("image.delete", "CRITICAL", {"everything"}),
    ],
)
def test_routing_by_event_and_priority(event_type: str, priority: str, expected: set[str]) -> None:
    drivers = {name: Recorder() for name in ("compute", "errors", "everything")}
    RoutingDriver(RULES, drivers).notify({}, message(event_type), priority, None)
    assert {name for name, driver in drivers.items() if driver.seen} == expected
    assert all(len(driver.seen) <= 1 for driver in drivers.values())


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"g": {"nobody": {}}}, "nobody"),
        ({"g": {"a": {"accepted_event": ["x"]}}}, "accepted_event"),
        ({"g": {"a": {"accepted_events": "x"}}}, "accepted_events"),
        ({"g": ["a"]}, "routing, g"),
        (["g"], "routing"),
    ],
)
def test_routing_rules_of_another_shape_are_refused_where_they_are_given(rules: Any, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        RoutingDriver(rules, {"a": Recorder()})


def test_an_empty_section_is_no_rule() -> None:
    RoutingDriver({"g": {"a": None}, "h": None}, {"a": Recorder()}).notify({}, message(), "INFO", None)  # type: ignore[dict-item]


def test_every_driver_has_its_turn_whatever_the_others_do() -> None:
    unroutable = Unroutable("no queue", reply_code=312)
    first, second, third = Recorder(unroutable), Recorder(KeyError("x")), Recorder()
    with pytest.raises(NotificationFailed) as caught:
        notify_each([("first", first), ("second", second), ("third", third)], {}, message(), "INFO", None)
    assert [len(driver.seen) for driver in (first, second, third)] == [1, 1, 1]
    assert caught.value.failures[0] is unroutable
    assert "'second'" in str(caught.value.failures[1])


def test_a_single_failure_is_raised_as_it_is() -> None:
    with pytest.raises(Unroutable):
        notify_each([("a", Recorder(Unroutable("no", reply_code=312))), ("b", Recorder())], {}, message(), "INFO", None)


@pytest.mark.parametrize(
    ("priority", "level"),
    [
        ("AUDIT", "INFO"),
        ("DEBUG", "DEBUG"),
        ("INFO", "INFO"),
        ("WARN", "WARNING"),
        ("ERROR", "ERROR"),
        ("CRITICAL", "CRITICAL"),
        ("SAMPLE", "INFO"),
    ],
)
def test_log_driver_writes_one_line_of_json(priority: str, level: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sent = message("image.create", {"name": "é", "admin_password": "hunter2", "list": [{"auth_token": "t"}]})
    LogDriver().notify({}, sent, priority, None)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("oslo.messaging.notification.image.create", level)
    written = json.loads(record.getMessage())
    assert written["payload"] == {"name": "é", "admin_password": "***", "list": [{"auth_token": "***"}]}
    assert sent["payload"]["admin_password"] == "hunter2"


def test_masking_keeps_everything_else() -> None:
    value = {"a": [1, 2], "b": None, "Secret_Key": {"deep": 1}}
    assert masked(value) == {"a": [1, 2], "b": None, "Secret_Key": "***"}


def test_what_only_becomes_a_mapping_in_json_is_masked_as_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = {"password": "hunter2"}
    payload = [{1: secret}.values(), deque([secret]), UserDict(secret), UserList([secret]), (secret,)]
    LogDriver().notify({}, message("e", payload), "INFO", None)
    (record,) = caplog.records
    masked_one = {"password": "***"}
    assert json.loads(record.getMessage())["payload"] == [[masked_one]] * 2 + [masked_one] + [[masked_one]] * 2
