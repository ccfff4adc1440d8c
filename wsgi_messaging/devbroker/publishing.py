"""Publishing on a channel: a message put together from its frames, routed, and confirmed.

Confirms are collected while a batch of frames is read and sent at its end, as few frames as can be
(`multiple`). A message that could not be routed is returned before it is confirmed, as RabbitMQ does.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from .arguments import check_expiration
from .messages import Message, sender_selected
from .methods import BASIC_CLASS, CONTENT
from .ports import Arguments, Handlers, Port
from .refusals import Refusal
from .vhost import VirtualHost

_PUBLISH = "basic.publish"


@dataclass
class PublishRules:
    """What the broker as a whole says about publishes; one object, shared by all its channels."""

    max_message_bytes: int = 128 * 1024 * 1024
    nack_next: int = 0
    """So many of the next confirmed publishes are refused with `basic.nack`."""
    confirms_held: bool = False


class Publishing:
    """Answers `basic.publish` and `confirm.select`."""

    def __init__(self, port: Port, rules: PublishRules) -> None:
        self._port = port
        self._rules = rules
        self._method: Arguments | None = None
        self._header: bytes | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self._confirming = False
        self._last_tag = 0
        self._outcomes: deque[tuple[int, bool]] = deque()
        self.handlers: Handlers = {
            "basic.publish": self._publish,
            "confirm.select": self._select,
        }

    @property
    def is_expecting(self) -> bool:
        """True between a `basic.publish` and the last frame of its content."""
        return self._method is not None

    def unexpected(self) -> Refusal:
        """What to say to a frame that is not the content frame that has to come now."""
        if self._method is None:
            return Refusal(505, "expected method frame, got non method frame instead")
        if self._header is None:
            return Refusal(
                505, "expected content header for class 60, got non content header frame instead", method=_PUBLISH
            )
        return Refusal(505, "expected content body, got non content body frame instead", method=_PUBLISH)

    def _select(self, arguments: Arguments) -> None:
        self._confirming = True
        if not arguments[0]:
            self._port.send("confirm.select_ok")

    def _publish(self, arguments: Arguments) -> None:
        if arguments[4]:
            raise Refusal(540, "immediate=true")
        self._method = arguments
        self._header = None

    def header(self, payload: bytes) -> None:
        """A content header frame. Raises: `Refusal` 406 (too large), 501 or 505."""
        if self._method is None or self._header is not None:
            raise self.unexpected()
        if len(payload) < CONTENT.size + 2:
            raise Refusal(501, f"cannot decode a content header of {len(payload)} bytes")
        class_id, _weight, size = CONTENT.unpack_from(payload)
        if class_id != BASIC_CLASS:
            raise Refusal(
                505, f"expected content header for class 60, got one for class {class_id} instead", method=_PUBLISH
            )
        if size > self._rules.max_message_bytes:
            raise Refusal(
                406, f"message size {size} is larger than configured max size {self._rules.max_message_bytes}"
            )
        self._header = payload[CONTENT.size :]
        self._missing = size
        self._body = []
        if not size:
            self._complete()

    def body(self, payload: bytes) -> None:
        """A body frame. Raises: `Refusal` 505, or whatever the complete message meets."""
        if self._header is None or self._method is None or len(payload) > self._missing:
            raise self.unexpected()
        self._missing -= len(payload)
        self._body.append(payload)
        if not self._missing:
            self._complete()

    def _complete(self) -> None:
        method, header = self._method, self._header
        self._method = self._header = None
        if method is None or header is None:
            return
        _, exchange, routing_key, mandatory, _immediate = method
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._accept(Message(exchange, routing_key, header, body), mandatory)

    def _accept(self, message: Message, mandatory: bool) -> None:
        message = checked(message, self._port.vhost, self._port.carrier.user)
        self._port.carrier.published += 1
        if self._confirming:
            self._last_tag += 1
            if self._rules.nack_next:
                self._rules.nack_next -= 1
                self._outcomes.append((self._last_tag, False))
                return
        queues = self._port.vhost.route(message)
        if not queues and mandatory:
            self._port.send_content(
                "basic.return",
                (312, "NO_ROUTE", message.exchange, message.routing_key),
                message.header,
                message.body,
            )
        accepted = self._port.vhost.publish(message, queues, self._port.now)
        if self._confirming:
            self._outcomes.append((self._last_tag, accepted))

    def flush(self) -> None:
        """Send the confirms that are due, unless they are held."""
        if self._rules.confirms_held:
            return
        outcomes = self._outcomes
        while outcomes:
            tag, accepted = outcomes.popleft()
            count = 1
            while outcomes and outcomes[0][1] == accepted:
                tag, _ = outcomes.popleft()
                count += 1
            if accepted:
                self._port.send("basic.ack", tag, count > 1)
            else:
                self._port.send("basic.nack", tag, count > 1, False)


def checked(message: Message, vhost: VirtualHost, user: str) -> Message:
    """The message as it is to be routed. Raises: `Refusal` 403, 404 or 406."""
    if vhost.exchange(message.exchange).internal:
        raise Refusal(403, f"cannot publish to internal exchange '{message.exchange}' in vhost '{vhost.name}'")
    if message.has("user_id"):
        claimed = message.properties.get("user_id", "")
        if claimed != user:
            raise Refusal(406, f"user_id property set to '{claimed}' but authenticated user was '{user}'")
    if message.has("expiration"):
        check_expiration(message.properties.get("expiration", "0"))
    if message.has("headers") and b"CC" in message.header:
        try:
            return sender_selected(message)
        except TypeError as exc:
            raise Refusal(406, f'invalid message: {{unacceptable_type_in_header,"{exc}",longstr}}') from exc
    return message
