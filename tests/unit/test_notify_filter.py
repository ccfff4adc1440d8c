"""NotificationFilter: which notifications match, as oslo.messaging's filter decides."""

from __future__ import annotations

from typing import Any

import pytest

from wsgi_messaging import ConfigurationError
from wsgi_messaging.notify import NotificationFilter

NOTIFICATION: tuple[Any, ...] = (
    {"tenant": "t1", "roles": ["admin"]},
    "compute.host1",
    "compute.instance.create",
    {"message_id": "m1", "timestamp": "2026-11-20 15:09:34.618448"},
    {"state": "active", "size": 3},
)


@pytest.mark.parametrize(
    ("rule", "is_match"),
    [
        ({}, True),
        ({"publisher_id": "^compute.*"}, True),
        ({"publisher_id": "host1"}, False),  # matched from the beginning, not searched
        ({"event_type": r"compute\.instance\..*"}, True),
        ({"event_type": "^image"}, False),
        ({"context": {"tenant": "^t1$"}}, True),
        ({"context": {"tenant": "^t2$"}}, False),
        ({"context": {"missing": ".*"}}, False),
        ({"context": {"roles": "admin"}}, False),  # no text
        ({"metadata": {"timestamp": "2026"}}, True),
        ({"payload": {"state": "^active$"}}, True),
        ({"payload": {"size": "3"}}, False),
        ({"payload": {"state": "active"}, "publisher_id": "^image"}, False),
    ],
)
def test_rules(rule: dict[str, Any], is_match: bool) -> None:
    assert NotificationFilter(**rule).match(*NOTIFICATION) is is_match


@pytest.mark.parametrize("payload", [None, 3, "state", ["state"], {}])
def test_a_payload_of_any_shape_only_fails_to_match(payload: Any) -> None:
    """oslo.messaging raises TypeError for a payload that is a number, and delivers it again and again."""
    rule = NotificationFilter(payload={"state": "active"})
    assert rule.match({}, "p", "e", {}, payload) is False


@pytest.mark.parametrize("rule", [{"publisher_id": "("}, {"context": {"a": "["}}, {"event_type": 3}])
def test_what_is_no_expression_is_named(rule: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(rule))):
        NotificationFilter(**rule)
