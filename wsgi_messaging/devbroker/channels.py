"""A channel: which part answers a method, and how a channel is closed.

After the broker has sent `channel.close` everything but the answer is ignored (AMQP 0-9-1 section 1.5.2.5):
what a client had under way does no harm.

Layer 5, part of the embedded broker.
"""

from __future__ import annotations

from .consuming import Consuming
from .declaring import Declaring
from .methods import BODY, HEADER, METHOD, method_id
from .ports import Arguments, Carrier, Handlers, Port
from .publishing import Publishing, PublishRules
from .refusals import Refusal
from .vhost import VirtualHost


class Channel:
    """One open channel. `is_closing` means: closed by the broker, the client has not yet answered."""

    def __init__(self, number: int, carrier: Carrier, vhost: VirtualHost, rules: PublishRules) -> None:
        self.is_closing = False
        self._port = Port(number, carrier, vhost)
        self.publishing = Publishing(self._port, rules)
        self.consuming = Consuming(self._port)
        self._handlers: Handlers = {
            **Declaring(self._port).handlers,
            **self.consuming.handlers,
            **self.publishing.handlers,
            "channel.flow": self._flow,
        }

    def frame(self, kind: int, method: str, arguments: Arguments, payload: bytes) -> None:
        """Take a frame; `method` and `arguments` are those of a method frame. Raises: `Refusal`."""
        if self.is_closing:
            return
        if kind == METHOD:
            handler = self._handlers.get(method)
            if self.publishing.is_expecting:
                raise self.publishing.unexpected()
            if handler is None:
                if method == "channel.open":
                    raise Refusal(504, "second 'channel.open' seen")
                if method.startswith("tx."):
                    raise Refusal(540, "transactions are not part of the development broker")
                raise Refusal(503, "unimplemented method")
            handler(arguments)
        elif kind == HEADER:
            self.publishing.header(payload)
        elif kind == BODY:
            self.publishing.body(payload)

    def refuse(self, refusal: Refusal, method: str) -> None:
        """Close the channel for what the client did."""
        self.publishing.flush()
        self.is_closing = True
        self._port.send("channel.close", refusal.code, refusal.text, *method_id(method))
        self.close()

    def close(self) -> None:
        """Take back what was delivered and is not acknowledged; the consumers end."""
        self.consuming.close()

    def _flow(self, arguments: Arguments) -> None:
        if not arguments[0]:
            raise Refusal(540, "active=false")
        self._port.send("channel.flow_ok", True)
