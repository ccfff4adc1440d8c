"""The settings of a transport: frozen, checked where they are given, from arguments, a mapping or the environment.

A setting has one name everywhere: the field here, the key of a mapping, WSGI_MESSAGING_<NAME> in the environment and
the query string of the URL. No secret is in a repr.

Layer 3.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from .addresses import parse_url
from .connection.hosts import Broker
from .connection.link import LinkOptions, Tls
from .errors import ConfigurationError

logger = logging.getLogger("wsgi_messaging.settings")

PREFIX = "WSGI_MESSAGING_"
URL_VARIABLES = ("WSGI_MESSAGING_URL", "AMQP_URL", "RABBITMQ_URL", "CLOUDAMQP_URL")
"""Where the URL is looked for, in this order."""
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672//"

_QUERY_NAMES = {
    "connection_timeout": "connect_timeout",
    "cacertfile": "tls_ca_file",
    "certfile": "tls_cert_file",
    "keyfile": "tls_key_file",
    "server_name_indication": "tls_server_name",
}
"""RabbitMQ's names for settings in a URL (https://www.rabbitmq.com/docs/uri-query-parameters), by ours."""


def _default_app() -> str:
    return os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "") or "python"


_LONGEST_APP = 255
"""Octets. The broker hangs up on a handshake of more than 4096 (AMQP 0-9-1 section 4.2.3), without a reason."""


def _instead_of(name: str) -> str:
    """What a wrong name in a URL was to be; not itself: it may be a piece of a password that has a "?" in it."""
    import difflib  # for those only who have made a mistake

    usable = [each for each in _NAMES if each not in ("url", *_NO_TEXT)]
    near = difflib.get_close_matches(name, [*usable, *_QUERY_NAMES], 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(usable)}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a transport connects and how long it tries.

    Raises: `ConfigurationError`, naming the setting, for a value that cannot be used.
    """

    url: str = field(default=DEFAULT_URL, repr=False)
    """Where the broker is; several hosts separated by `;` or `,`."""
    app: str = field(default_factory=_default_app)
    """The application's name in the broker's list of connections (app:role:pid@host); up to 255 octets."""
    heartbeat: float = 20.0
    """Seconds; whole ones, as AMQP has it; 0 for none. The broker may lower it."""
    connect_timeout: float = 5.0
    """Seconds for one attempt to connect to one host."""
    timeout: float = 10.0
    """Seconds that a call may take where it names no timeout of its own: connecting, sending and the confirm."""
    prefetch: int = 10
    """Messages that a consumer holds unacknowledged at a time."""
    max_queued: int = 10000
    """Messages accepted and not yet sent, per process; beyond it a publish fails at once."""
    max_queued_bytes: int = 67108864
    """The same, in bytes of their bodies."""
    fail_fast_after: float = 30.0
    """Seconds without any broker after which a publish, a declaration or a call fails at once instead of waiting its
    time; 0 for never."""
    consumer_timeout: float = 1800.0
    """Seconds after which the broker ends a consumer that has not acknowledged (RabbitMQ: consumer_timeout, 30 minutes
    by default); a callback that runs for most of them is warned about. 0 for none."""
    max_message_bytes: int = 134217728
    """The largest body, sent or received; RabbitMQ's default is 128 MiB up to 3.13 and 16 MiB from 4.0."""
    frame_max: int = 131072
    """Octets of the largest frame; the broker may lower it. RabbitMQ from 4.1 on refuses a client with fewer than 8192
    while connecting."""
    login_method: str = "PLAIN"
    """PLAIN, or EXTERNAL: the TLS certificate says who we are."""
    tls_ca_file: str | None = None
    """Certificates to trust, instead of the system's."""
    tls_cert_file: str | None = None
    """Our own certificate, where the broker asks for one."""
    tls_key_file: str | None = None
    tls_verify: bool = True
    """Check the broker's certificate and that it is for the host we meant."""
    tls_server_name: str | None = None
    """The name to expect in the certificate, where it is not the URL's host."""
    credentials: Callable[[], tuple[str, str]] | None = field(default=None, repr=False)
    """A function that gives user and password, asked at each connect instead of the URL; secrets may rotate. It runs on
    a thread (greenlet) of the application."""
    run_dir: str | None = None
    """Where each worker shows its status to the others and to `wsgi-messaging status`: a path or "auto"; None: off."""
    brokers: tuple[Broker, ...] = field(init=False, repr=False, compare=False)
    """The URL, taken apart."""

    def __post_init__(self) -> None:
        if not isinstance(self.url, str):
            raise ConfigurationError(f"url: expected text, not {type(self.url).__name__}")
        brokers, query = parse_url(self.url)
        object.__setattr__(self, "brokers", brokers)
        # Without its query, which is in the fields now: a copy with a field changed must not get it again.
        object.__setattr__(self, "url", ";".join(part.partition("?")[0] for part in self.url.split(";")))
        for name, text in query.items():
            known = _QUERY_NAMES.get(name, name)
            if known in ("url", *_NO_TEXT) or known not in _NAMES:
                raise ConfigurationError(f"url: unknown setting in its query string; {_instead_of(name)}")
            object.__setattr__(self, known, _convert(known, text, f"url, {name}"))
        self._check()

    def _check(self) -> None:
        _check_types(self)
        if len(self.app.encode("utf-8", "replace")) > _LONGEST_APP:
            raise ConfigurationError(f"app: {self.app[:20]!r}... is longer than {_LONGEST_APP} octets")
        _check_range("heartbeat", self.heartbeat, 0, 65535)
        if self.heartbeat != int(self.heartbeat):
            raise ConfigurationError(f"heartbeat: {self.heartbeat!r} is not whole seconds, which is what AMQP can say")
        for name in ("connect_timeout", "timeout"):
            _check_range(name, getattr(self, name), 0.001, 86400)
        _check_range("prefetch", self.prefetch, 0, 65535)
        _check_range("max_queued", self.max_queued, 1, 10**9)
        _check_range("max_queued_bytes", self.max_queued_bytes, 1, 2**62)
        _check_range("fail_fast_after", self.fail_fast_after, 0, 10**9)
        _check_range("consumer_timeout", self.consumer_timeout, 0, 10**9)
        if self.credentials is not None and not callable(self.credentials):
            raise ConfigurationError("credentials: not a function")
        _check_range("max_message_bytes", self.max_message_bytes, 1, 2**31 - 1)
        _check_range("frame_max", self.frame_max, 4096, 2**31 - 1)
        if self.run_dir not in (None, "auto") and not os.path.isabs(str(self.run_dir)):
            raise ConfigurationError(f"run_dir: {self.run_dir!r} is neither an absolute path nor 'auto'")
        if self.login_method not in ("PLAIN", "EXTERNAL"):
            raise ConfigurationError(f"login_method: {self.login_method!r} is neither PLAIN nor EXTERNAL")
        if self.tls_key_file and not self.tls_cert_file:
            raise ConfigurationError("tls_key_file: given without tls_cert_file")

    def __repr__(self) -> str:
        hosts = ", ".join(str(broker) for broker in self.brokers)
        return f"<Settings {hosts} heartbeat={self.heartbeat:g} timeout={self.timeout:g}>"

    @property
    def link_options(self) -> LinkOptions:
        """What the connections need of it; the client properties are theirs to fill in."""
        return LinkOptions(
            connect_timeout=self.connect_timeout,
            heartbeat=self.heartbeat,
            frame_max=self.frame_max,
            max_body=self.max_message_bytes,
            login_method=self.login_method,
            credentials=self.credentials,
            tls=Tls(
                ca_file=self.tls_ca_file,
                cert_file=self.tls_cert_file,
                key_file=self.tls_key_file,
                is_verified=self.tls_verify,
                server_name=self.tls_server_name,
            ),
        )

    def with_changes(self, **changes: Any) -> Settings:
        """A copy with some settings changed. Raises: `ConfigurationError`, for an unknown name too."""
        for name in changes:
            if name not in _NAMES:
                raise ConfigurationError(f"{name}: no such setting; there are {', '.join(_NAMES)}")
        return replace(self, **changes)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], prefix: str = "", *, others: Sequence[str] = ()) -> Settings:
        """From a framework's configuration: the keys that begin with `prefix`, in any case; text is converted.

        `others` are names that the caller takes out of the mapping itself: an error names them among the possible ones.
        """
        given: dict[str, Any] = {}
        for key, value in mapping.items():
            if not key.lower().startswith(prefix.lower()):
                continue
            name = key[len(prefix) :].lower()
            if name not in _NAMES:
                there_are = f"after {prefix!r} may come" if prefix else "there are"
                raise ConfigurationError(f"{key}: no such setting; {there_are} {', '.join((*_NAMES, *others))}")
            given[name] = _convert(name, value, key) if isinstance(value, str) else value
        return cls(**given)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """From environment variables: WSGI_MESSAGING_<NAME>; the URL also from the names that hosting services use.

        A variable with the prefix that is no setting is not an error, it may be another program's: it is logged, once
        in a process, with the nearest setting.
        """
        environ = os.environ if environ is None else environ
        for variable in environ:
            if variable.startswith(PREFIX) and environ.get(variable):
                _warn_if_unknown(variable[len(PREFIX) :])
        given: dict[str, Any] = {
            name: _convert(name, environ[PREFIX + name.upper()], PREFIX + name.upper())
            for name in _NAMES
            if name not in ("url", *_NO_TEXT) and environ.get(PREFIX + name.upper())
        }
        for variable in URL_VARIABLES:
            if environ.get(variable):
                given["url"] = environ[variable]
                break
        return cls(**given)


_NAMES = tuple(each.name for each in fields(Settings) if each.init)
_TYPES: dict[str, str] = {each.name: str(each.type) for each in fields(Settings) if each.name in _NAMES}
_NO_TEXT = ("credentials",)
"""Settings that are no text, and so in no environment, mapping of text or URL."""
_AFTER_PREFIX = tuple(name.upper() for name in _NAMES if name not in _NO_TEXT)
_warned: set[str] = set()
"""Names that were spoken of in this process, or before it was forked."""


def _warn_if_unknown(name: str) -> None:
    if name in _AFTER_PREFIX or name in _warned:
        return
    from difflib import get_close_matches  # only where something is wrong

    _warned.add(name)
    nearest = get_close_matches(name, _AFTER_PREFIX, 1, 0.65)
    hint = f"did you mean {PREFIX}{nearest[0]}?" if nearest else f"there are {', '.join(_AFTER_PREFIX)}"
    logger.warning("%s%s: no setting has this name, so the variable has no effect; %s", PREFIX, name, hint)


def _boolean(text: str) -> bool:
    match text.strip().lower():
        case "1" | "true" | "yes" | "on" | "verify_peer":
            return True
        case "0" | "false" | "no" | "off" | "verify_none":
            return False
    raise ValueError(text)


_CONVERTERS: dict[str, Callable[[str], Any]] = {"float": float, "int": int, "bool": _boolean}
_IN_WORDS = {"float": "a number", "int": "a whole number", "bool": "yes or no", "str": "a text", "str | None": "a text"}


def _convert(name: str, text: str, source: str) -> Any:
    kind = _TYPES[name]
    try:
        return _CONVERTERS.get(kind, str)(text)
    except ValueError as exc:
        raise ConfigurationError(f"{source}: {text!r} is not {_IN_WORDS.get(kind, kind)}") from exc


def _check_types(settings: Settings) -> None:
    for name, kind in _TYPES.items():
        if name in _NO_TEXT:
            continue
        value = getattr(settings, name)
        accepted: tuple[type, ...] = {"float": (int, float), "int": (int,), "bool": (bool,)}.get(kind, (str,))
        is_absent = value is None and "None" in kind
        is_boolean = isinstance(value, bool) and kind in ("float", "int")
        if not is_absent and (is_boolean or not isinstance(value, accepted)):
            raise ConfigurationError(f"{name}: {value!r} is not {_IN_WORDS.get(kind, kind)}")


def _check_range(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigurationError(f"{name}: {value!r} is not between {least:g} and {most:g}")
