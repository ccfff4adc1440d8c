"""What is not a transport is refused where it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wsgi_messaging import ConfigurationError, NotificationListener, Notifier, RPCClient, RPCServer, Target


class Endpoint:
    def info(self, ctxt: Any, *_arguments: Any) -> None:
        """Served to nobody."""


@pytest.mark.parametrize("url", ["amqp://user:secret@rabbit//", b"amqp://user:secret@rabbit//"])
@pytest.mark.parametrize(
    "make",
    [
        lambda url: RPCClient(url, Target(topic="t")),
        lambda url: RPCServer(url, Target(topic="t", server="s"), [Endpoint()]),
        lambda url: Notifier(url, "publisher"),
        lambda url: NotificationListener(url, ["notifications"], [Endpoint()]),
    ],
)
def test_a_url_in_place_of_a_transport_is_named_and_not_repeated(make: Callable[[Any], object], url: object) -> None:
    with pytest.raises(ConfigurationError, match="transport: a Transport is wanted, not a URL") as refused:
        make(url)
    assert "secret" not in str(refused.value)
