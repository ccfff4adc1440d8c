"""Where a notification goes: onto the broker, into the log, nowhere, or where rules say.

A driver has one method, so an application may bring its own. Several work side by side: the failure of one, or of
one topic, is told after all of them have had their turn.

Layer 4: imports errors.
"""

from __future__ import annotations

import fnmatch
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..errors import ConfigurationError, Expired, MessagingError, Unavailable
from ..observe.instrument import notifying
from ..oslo import envelope
from ..oslo.envelope import Json
from .buffer import Buffer
from .notification import body_of
from .sending import Parcel, Sender

LOGGER = "oslo.messaging.notification"
"""The log driver's logger, with the event's type behind it: the name that existing configurations of logging have."""

_SECRET = ("password", "passwd", "adminpass", "new_pass", "pswd", "secret", "token", "credential", "private_key")
_MASK = "***"
_LEVELS = {"audit": "info", "sample": "info", "warn": "warning"}
"""Priorities that logging knows by another name, or not at all."""


class NotificationFailed(MessagingError):
    """Several parts of one notification failed; `failures` has the error of each.

    A single failure is raised as it is, and so is the one that all share: that the broker could not be had.
    """

    def __init__(self, failures: Sequence[MessagingError]) -> None:
        super().__init__("; ".join(map(str, failures)), maybe_sent=any(each.maybe_sent for each in failures))
        self.failures = tuple(failures)


class Driver(Protocol):
    """Passes one notification on. Raises: what went wrong; the other drivers have their turn all the same."""

    def notify(self, context: Any, message: Json, priority: str, retry: int | None) -> None: ...


def raise_all(failures: Iterable[MessagingError]) -> None:
    """Raise what was collected: one error as it is, several as a `NotificationFailed`, none not at all.

    A broker that could not be had is one error, however many topics it concerns.
    """
    flat: list[MessagingError] = []
    for failure in failures:
        flat.extend(failure.failures if isinstance(failure, NotificationFailed) else [failure])
    is_one_cause = all(isinstance(failure, (Unavailable, Expired)) for failure in flat)
    if len(flat) > 1 and not is_one_cause:
        raise NotificationFailed(flat)
    if flat:
        flat[0].maybe_sent = any(failure.maybe_sent for failure in flat)
        raise flat[0]


def notify_each(
    drivers: Iterable[tuple[str, Driver]], context: Any, message: Json, priority: str, retry: int | None
) -> None:
    """Give a notification to each of some drivers. Raises: what failed, after the last one."""
    failures: list[MessagingError] = []
    for name, driver in drivers:
        try:
            driver.notify(context, message, priority, retry)
        except MessagingError as exc:
            failures.append(exc)
        except Exception as exc:  # noqa: BLE001  (a driver of the application's must not silence the others)
            failure = MessagingError(f"notification driver {name!r} failed: {type(exc).__name__}: {exc}")
            failure.__cause__ = exc
            failures.append(failure)
    raise_all(failures)


class MessagingDriver:
    """Publishes to each topic: "2.0" in an envelope (messagingv2), "1.0" without (messaging).

    Blocks: until each topic's message is confirmed, up to the sender's timeout in all; with a buffer never.
    """

    def __init__(self, sender: Sender, topics: Sequence[str], version: str, buffer: Buffer | None) -> None:
        self._sender = sender
        self._topics = tuple(topics)
        self._version = version
        self._buffer = buffer

    def notify(self, context: Any, message: Json, priority: str, retry: int | None) -> None:
        keys = [f"{topic}.{priority.lower()}" for topic in self._topics]
        instrument, exchange = self._sender.transport.instrument, self._sender.exchange
        with notifying(instrument, exchange, keys, message["event_type"], message["message_id"]) as trace:
            self._pass_on([Parcel(key, body_of(message, context, self._version, trace), retry) for key in keys])

    def _pass_on(self, parcels: list[Parcel]) -> None:
        # A process that ends with its request has no later in which a buffer could be emptied.
        if self._buffer is not None and not self._sender.transport.is_one_shot:
            self._buffer.put(parcels)
            return
        results = self._sender.send(parcels)
        failures = [error for error in results if error is not None]
        self._sender.tally.failed += len(failures)
        self._sender.tally.sent += len(results) - len(failures)
        raise_all(failures)


class LogDriver:
    """Writes a notification as one line of JSON to the logger `oslo.messaging.notification.<event_type>`.

    Values whose key names a secret are masked. Audits and samples are written at level INFO.
    """

    def notify(self, context: Any, message: Json, priority: str, retry: int | None) -> None:
        logger = logging.getLogger(f"{LOGGER}.{message['event_type']}")
        name = _LEVELS.get(priority.lower(), priority.lower())
        level: int = logging.getLevelName(name.upper())
        if logger.isEnabledFor(level):
            plain = json.loads(json.dumps(message, default=envelope.primitive))  # what has keys is a dict now
            logger.log(level, "%s", json.dumps(masked(plain)))


def masked(value: Any) -> Any:
    """A copy of what JSON holds in which what stands under a secret's name is masked, however deep."""
    if isinstance(value, dict):
        return {key: _MASK if _is_secret(key) else masked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    return value


def _is_secret(key: str) -> bool:
    return any(name in key.lower() for name in _SECRET)


class NoopDriver:
    """Does nothing."""

    def notify(self, context: Any, message: Json, priority: str, retry: int | None) -> None:
        pass


_CRITERIA = ("accepted_events", "accepted_priorities")

Rules = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
"""Group, driver, criterion, patterns: what oslo.messaging's routing file holds."""


class RoutingDriver:
    """Gives a notification to those drivers whose rules accept it.

    `rules` is what oslo.messaging's routing file holds, already parsed:
    `{group: {driver: {"accepted_events": ["compute.*"], "accepted_priorities": ["error"]}}}`. The patterns are a
    shell's; a driver without a criterion accepts everything by it; it gets a notification once, though several
    groups name it. Raises: `ConfigurationError` for rules of another shape, and for a driver that is not there.
    """

    def __init__(self, rules: Rules, drivers: Mapping[str, Driver]) -> None:
        self._drivers = drivers
        self._accepting: list[tuple[str, Sequence[str], Sequence[str]]] = []
        for name, criteria in named_drivers(rules):
            if name not in drivers:
                raise ConfigurationError(f"routing: no driver {name!r}; there are {', '.join(drivers)}")
            events = _patterns(name, criteria, "accepted_events")
            priorities = [pattern.lower() for pattern in _patterns(name, criteria, "accepted_priorities")]
            self._accepting.append((name, events, priorities))

    def notify(self, context: Any, message: Json, priority: str, retry: int | None) -> None:
        event, lower = str(message["event_type"]), priority.lower()
        names = {
            name: None
            for name, events, priorities in self._accepting
            if _is_accepted(event, events) and _is_accepted(lower, priorities)
        }
        notify_each([(name, self._drivers[name]) for name in names], context, message, priority, retry)


def named_drivers(rules: Rules) -> list[tuple[str, Mapping[str, Sequence[str]]]]:
    """The drivers of all groups with their criteria. Raises: `ConfigurationError`."""
    found = []
    for group, drivers in _mapping("routing", rules).items():
        for name, criteria in _mapping(f"routing, {group}", drivers).items():
            where = f"routing, {group}, {name}"
            for criterion in _mapping(where, criteria):
                if criterion not in _CRITERIA:
                    raise ConfigurationError(f"{where}: unknown {criterion!r}; there are {', '.join(_CRITERIA)}")
            found.append((name, criteria))
    return found


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if value is None:  # an empty section of a YAML file
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected a mapping, not {type(value).__name__}")
    return value


def _patterns(name: str, criteria: Mapping[str, Sequence[str]] | None, criterion: str) -> list[str]:
    patterns = (criteria or {}).get(criterion, ["*"])
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigurationError(f"routing, {name}, {criterion}: expected a list of patterns, not {patterns!r}")
    return list(patterns)


def _is_accepted(value: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)
