"""The error tree as callers catch it."""

from __future__ import annotations

import copy
import pickle

import pytest

from wsgi_messaging import errors

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
    errors.Expired: (errors.MessagingError, TimeoutError),
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
