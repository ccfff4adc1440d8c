"""What can go wrong, as a caller can act on it.

Each class is one decision for the application: mend the configuration, try later, mend the message, or find out
what became of it. The text of an error names the cause and what to do; `maybe_sent` says whether the broker may
have the message all the same.

Layer 0: imports nothing of ours.
"""

from __future__ import annotations


class MessagingError(Exception):
    """Anything that this package raises on purpose.

    `maybe_sent` is True when the broker may have received the message (or the request), so that sending it again
    may deliver it twice; False when it certainly has not.
    """

    def __init__(self, text: str, *, maybe_sent: bool = False) -> None:
        super().__init__(text)
        self.maybe_sent = maybe_sent

    def __reduce__(self) -> tuple[object, ...]:
        """Copies, and pickles for a process pool, whatever the constructor asks for."""
        return _remade, (type(self), self.args), self.__dict__


def _remade(kind: type[MessagingError], args: tuple[object, ...]) -> MessagingError:
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class ConfigurationError(MessagingError, ValueError):
    """A setting is wrong; the text names it. Raised where the setting is given, not at first use."""


class Unavailable(MessagingError):
    """No broker could be used in time. Trying later may help."""


class ConnectFailed(Unavailable):
    """A connection could not be opened: refused, no such host, wrong password, no such virtual host, not AMQP.

    `is_permanent` is True when trying again cannot help before somebody mends something.
    """

    def __init__(self, text: str, *, maybe_sent: bool = False, is_permanent: bool = False) -> None:
        super().__init__(text, maybe_sent=maybe_sent)
        self.is_permanent = is_permanent


class ConnectionLost(Unavailable):
    """The connection broke while the operation was under way, and it may not be repeated (`retry=0`)."""


class BrokerBlocked(Unavailable):
    """The broker has raised a memory or disk alarm and takes no messages (RabbitMQ: `connection.blocked`)."""


class NotDelivered(MessagingError):
    """The broker, or this client, refused the message. Sending the same message again will not help."""


class Unroutable(NotDelivered):
    """No queue is bound for the routing key (AMQP 0-9-1: `basic.return`); `reply_code` is the broker's."""

    def __init__(self, text: str, *, reply_code: int) -> None:
        super().__init__(text)
        self.reply_code = reply_code


class Rejected(NotDelivered):
    """The broker refused this message: `basic.nack` (code 0), or a channel error such as 404 or 406."""

    def __init__(self, text: str, *, reply_code: int = 0) -> None:
        super().__init__(text)
        self.reply_code = reply_code


class InvalidMessage(NotDelivered, ValueError):
    """The message cannot be put on the wire: not serialisable, too large, or a property out of range."""


class DeclarationRefused(MessagingError):
    """The broker refused a declaration, a binding or a consumer; `reply_code` is AMQP's: 403, 404, 405, 406, 530."""

    def __init__(self, text: str, *, reply_code: int) -> None:
        super().__init__(text)
        self.reply_code = reply_code


class Expired(MessagingError):
    """The deadline of the call passed.

    Not a builtin `TimeoutError`: servers take an OSError of the application for a client that has hung up, and answer
    nothing (gunicorn, Werkzeug).
    """


class ConnectTimeout(Expired):
    """The deadline passed before any broker could be reached; the text tells the last cause."""


class ConfirmTimeout(Expired):
    """The deadline passed before the broker answered (a confirm, or the answer to a declaration)."""


class ReplyTimeout(Expired):
    """The deadline passed before the reply of an RPC call came."""


class ReplyLost(ReplyTimeout):
    """The reply of an RPC call will not come: the node that has the queue for it is down, or hangs. Known before the
    deadline."""


class RemoteError(MessagingError):
    """The remote endpoint failed: its exception's class name, its text, and its traceback where it was sent."""

    def __init__(self, exc_type: str, value: str, traceback: str = "") -> None:
        super().__init__(f"remote error: {exc_type} {value}\n{traceback}".rstrip(), maybe_sent=True)
        self.exc_type = exc_type
        self.value = value
        self.traceback = traceback


class Closed(MessagingError):
    """The transport was closed in this process; make another one."""
