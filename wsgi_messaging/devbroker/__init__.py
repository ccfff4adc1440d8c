"""An embedded AMQP 0-9-1 broker for development and tests: `DevBroker`. Not for production.

It speaks the real protocol over TCP on loopback, so any client works (py-amqp, kombu, oslo.messaging,
pika), and follows RabbitMQ 3.10.8 in semantics, reply codes and reply texts. From the bottom: `methods`,
`framing` (bytes), `messages`, `exchanges`, `queues`, `vhost`, `topology` (the pure broker; time is an
argument), `publishing`, `consuming`, `declaring`, `channels`, `sessions` (the protocol; bytes in, bytes
out), `server` (sockets, the one thread), `broker` (what tests use).

Not built: transactions, direct reply-to, streams, policies, clustering, persistence on disk.

Layer 5: imports `connection.codec`, `runtime.native`, `errors` and the standard library.
"""

from .broker import DevBroker
from .node import ConnectionInfo

__all__ = ["ConnectionInfo", "DevBroker"]
