"""The error tree as callers catch it."""

from __future__ import annotations

import copy
import pickle
import threading
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from werkzeug.serving import make_server

from wsgi_messaging import errors

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TREE = {
    errors.ConfigurationError: (errors.MessagingError, ValueError),
    errors.Unavailable: (errors.MessagingError,),
    errors.ConnectFailed: (errors.Unavailable,),
    errors.ConnectionLost: (errors.Unavailable,),
    errors.BrokerBlocked: (errors.Unavailable,),
    errors.NotDelivered: (errors.MessagingError,),
    errors.Unroutable: (errors.NotDelivered,),
    errors.Rejected: (errors.NotDelivered,),
    errors.InvalidMessage: (errors.NotDelivered, ValueError),
    errors.Expired: (errors.MessagingError,),
    errors.ConnectTimeout: (errors.Expired,),
    errors.ConfirmTimeout: (errors.Expired,),
    errors.ReplyTimeout: (errors.Expired,),
    errors.DeclarationRefused: (errors.MessagingError,),
    errors.Closed: (errors.MessagingError,),
}


@pytest.mark.parametrize(("kind", "parents"), list(TREE.items()), ids=lambda each: getattr(each, "__name__", ""))
def test_tree(kind: type[Exception], parents: tuple[type[Exception], ...]) -> None:
    assert kind.__bases__ == parents


def test_no_builtin_is_shadowed() -> None:
    assert not [name for name in vars(errors) if name in ("ConnectionError", "TimeoutError")]


@pytest.mark.parametrize("kind", [each for each in vars(errors).values() if isinstance(each, type)])
def test_none_is_an_error_of_the_system(kind: type) -> None:
    """A server that meets an OSError thinks that its client has hung up, and answers nothing."""
    assert not issubclass(kind, OSError)


def test_an_error_that_nobody_catches_is_a_500() -> None:
    def application(_environ: WSGIEnvironment, _start_response: StartResponse) -> list[bytes]:
        raise errors.ConnectTimeout("no broker could be reached")

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with pytest.raises(urllib.error.HTTPError) as answer:
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=20.0)
        answer.value.close()
        assert answer.value.code == 500
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


MADE = [
    errors.MessagingError("text", maybe_sent=True),
    errors.ConnectFailed("text", is_permanent=True),
    errors.Unroutable("text", reply_code=312),
    errors.Rejected("text", reply_code=404),
    errors.Rejected("text"),
    errors.DeclarationRefused("text", reply_code=406),
    errors.ConfirmTimeout("text", maybe_sent=True),
    errors.RemoteError("ValueError", "no", "Traceback"),
]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_copies_and_pickles_hold_all(error: errors.MessagingError, again: object) -> None:
    """They cross threads as copies and process pools as pickles."""
    twin = again(error)  # type: ignore[operator]
    assert type(twin) is type(error)
    assert (str(twin), vars(twin)) == (str(error), vars(error))
    assert twin is not error


def test_defaults() -> None:
    assert not errors.MessagingError("text").maybe_sent
    assert not errors.ConnectFailed("text").is_permanent
    assert errors.Rejected("text").reply_code == 0
    remote = errors.RemoteError("ValueError", "no")
    assert str(remote) == "remote error: ValueError no"
    assert remote.maybe_sent
    assert (remote.exc_type, remote.value, remote.traceback) == ("ValueError", "no", "")
