"""What a version of RabbitMQ means to an application that uses this package.

Layer 5: pure.
"""

from __future__ import annotations

import re

Version = tuple[int, int, int]

# From which version on, until which one (exclusive; None is no end), and what that means. Sources: RabbitMQ's release
# notes of the version named first, https://github.com/rabbitmq/rabbitmq-server/tree/main/release-notes
_FACTS: tuple[tuple[Version, Version | None, str], ...] = (
    ((0, 0, 0), (3, 8, 0), "older than 3.8: no quorum queues; upgrade"),
    ((3, 8, 15), (4, 3, 0), "closes the channel of a consumer that keeps a message unacknowledged for 30 minutes"),
    ((4, 3, 0), None, "cancels a quorum queue's consumer that keeps a message unacknowledged for 30 minutes"),
    ((3, 8, 0), (4, 0, 0), "refuses messages of more than 128 MiB; from 4.0 on the default is 16 MiB"),
    ((3, 8, 0), (4, 0, 0), "from 4.0 on mirrored classic queues lose their mirrors: use quorum queues"),
    ((4, 0, 0), None, "refuses messages of more than 16 MiB by default (max_message_size)"),
    ((4, 0, 0), None, "has no mirrored classic queues: a queue that must survive a node is a quorum queue"),
    ((4, 0, 0), None, "drops or dead-letters a quorum queue's message at its 20th return by default (delivery-limit)"),
    ((4, 1, 0), None, "refuses a client whose frames are smaller than 8192 octets (frame_max)"),
    ((3, 8, 0), (4, 3, 0), "takes transient non-exclusive queues; 4.3 refuses them: declare shared queues durable"),
    (
        (4, 3, 0),
        None,
        "refuses transient queues that are not exclusive: declare shared queues durable"
        " (amqp_durable_queues or rabbit_quorum_queue where oslo.messaging shares them)",
    ),
)


def parsed(version: str) -> Version | None:
    """The three numbers at the beginning of a version; None where there are none."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def meaning(product: str, version: str) -> list[str]:
    """What to know of that broker."""
    numbers = parsed(version)
    if product != "RabbitMQ" or numbers is None:
        about = "for development and tests only" if "devbroker" in product else "untested with this package"
        return [f"{product} is not RabbitMQ: {about}"]
    return [text for since, until, text in _FACTS if since <= numbers and (until is None or numbers < until)]
