"""What RabbitMQ's log says of an application's workers: quicker to ask than rabbitmqctl."""

from __future__ import annotations

import re

from tests.harness.rabbitmq import RabbitMQ


def connected(rabbitmq: RabbitMQ, app: str) -> set[str]:
    """The pids from which the application has connected to publish."""
    return set(re.findall(rf"(?<![\w-]){app}:publish:(\d+)@", rabbitmq.log_text()))


def ends(rabbitmq: RabbitMQ, app: str, since: int = 0) -> dict[str, bool]:
    """By pid, for each of those connections that has ended since a mark in the log: whether it said good-bye."""
    entries = re.split(r"\n(?=\d{4}-\d\d-\d\d )", rabbitmq.log_since(since))
    ended = re.compile(rf"closing AMQP connection .*(?<![\w-]){app}:publish:(\d+)@")
    found = ((ended.search(entry), entry) for entry in entries)
    return {match[1]: "unexpectedly" not in entry for match, entry in found if match}
