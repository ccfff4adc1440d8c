"""Settings: from everywhere, checked where they are given, silent about secrets."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from wsgi_messaging import settings as settings_module
from wsgi_messaging.connection.hosts import Broker
from wsgi_messaging.errors import ConfigurationError
from wsgi_messaging.settings import DEFAULT_URL, URL_VARIABLES, Settings

NAMES = [field.name for field in dataclasses.fields(Settings) if field.init]


def test_defaults() -> None:
    settings = Settings()
    assert settings.brokers == (Broker("127.0.0.1", 5672),)
    assert (settings.heartbeat, settings.timeout, settings.connect_timeout) == (20.0, 10.0, 5.0)
    assert settings.tls_verify
    assert settings.app


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().timeout = 1.0  # type: ignore[misc]


BAD: list[tuple[str, Any]] = [
    ("url", None),
    ("url", b"amqp://h"),
    ("url", 7),
    ("url", ""),
    ("app", None),
    ("app", 7),
    *[("heartbeat", value) for value in (-1, 65536, 0.5, float("nan"), float("inf"), "20", True, None)],
    *[("connect_timeout", value) for value in (0, -1, 86401, float("nan"), "5", None, False)],
    *[("timeout", value) for value in (0, -1, 86401, float("inf"), "5", None)],
    *[("prefetch", value) for value in (-1, 65536, 1.5, "10", True, None)],
    *[("max_queued", value) for value in (0, -1, 10**10, 1.5, "10")],
    *[("max_queued_bytes", value) for value in (0, -1, 1.5, "10")],
    *[("fail_fast_after", value) for value in (-1, float("nan"), "30", None)],
    *[("consumer_timeout", value) for value in (-1, float("nan"), "30", None)],
    ("credentials", "guest:guest"),
    *[("max_message_bytes", value) for value in (0, 2**31, 1.5, "10")],
    *[("max_queued_bytes", value) for value in (0, -1, 1.5, "10")],
    *[("fail_fast_after", value) for value in (-1, float("nan"), "5", None, True)],
    *[("consumer_timeout", value) for value in (-1, float("nan"), "5", None, True)],
    *[("credentials", value) for value in (("user", "password"), "user", 7)],
    *[("frame_max", value) for value in (0, 4095, 2**31, 8192.0)],
    *[("login_method", value) for value in ("plain", "AMQPLAIN", "", None)],
    *[("tls_ca_file", value) for value in (7, b"x", True)],
    ("tls_cert_file", 7),
    ("tls_key_file", "key-without-certificate.pem"),
    *[("run_dir", value) for value in ("relative/path", "", 7)],
    *[("tls_verify", value) for value in (0, 1, "no", None)],
    ("tls_server_name", 7),
]


@pytest.mark.parametrize(("name", "value"), BAD, ids=lambda each: repr(each)[:30])
def test_every_bad_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}: "):
        Settings(**{name: value})


def test_every_setting_is_tried_badly() -> None:
    assert {name for name, _value in BAD} == set(NAMES)


@pytest.mark.parametrize("value", [0, 0.0, 5, 60.0, 65535])
def test_whole_seconds_are_a_heartbeat(value: float) -> None:
    assert Settings(heartbeat=value).heartbeat == value


# The URL's query string.


def test_query_names_settings_as_we_and_as_rabbitmq_do() -> None:
    settings = Settings(
        url="amqps://h?heartbeat=7&connection_timeout=2.5&cacertfile=ca&certfile=c&keyfile=k"
        "&server_name_indication=name&prefetch=3&tls_verify=verify_none"
    )
    assert (settings.heartbeat, settings.connect_timeout, settings.prefetch) == (7.0, 2.5, 3)
    assert (settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file) == ("ca", "c", "k")
    assert (settings.tls_server_name, settings.tls_verify) == ("name", False)
    tls = settings.link_options.tls
    assert (tls.ca_file, tls.cert_file, tls.key_file, tls.server_name, tls.is_verified) == (
        "ca",
        "c",
        "k",
        "name",
        False,
    )


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("heartbeat=soon", "url, heartbeat: 'soon' is not a number"),
        ("connection_timeout=x", "url, connection_timeout: 'x' is not a number"),
        ("prefetch=1.5", "url, prefetch: '1.5' is not a whole number"),
        ("tls_verify=perhaps", "url, tls_verify: 'perhaps' is not yes or no"),
        ("heartbeat=-1", "heartbeat: -1.0 is not between 0 and 65535"),
        ("hartbeat=1", "url: unknown setting in its query string; did you mean 'heartbeat'?"),
        ("cacertfil=x", "url: unknown setting in its query string; did you mean 'cacertfile'?"),
        ("url=amqp://x", "url: unknown setting in its query string; there are app, heartbeat"),
        ("credentials=x", "url: unknown setting in its query string; there are app, heartbeat"),
    ],
)
def test_bad_queries_are_named(query: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(url=f"amqp://u:s3cret@h?{query}")
    assert str(caught.value).startswith(problem)
    assert "s3cret" not in str(caught.value)


def test_a_change_wins_over_the_query() -> None:
    settings = Settings(url="amqp://h/v?heartbeat=5&timeout=3")
    changed = settings.with_changes(heartbeat=10.0)
    assert (changed.heartbeat, changed.timeout) == (10.0, 3.0)
    moved = settings.with_changes(url="amqp://other?heartbeat=7")
    assert (moved.brokers[0].host, moved.heartbeat, moved.timeout) == ("other", 7.0, 3.0)


def test_unknown_changes_are_named() -> None:
    with pytest.raises(ConfigurationError, match="^hartbeat: no such setting; there are url, app"):
        Settings().with_changes(hartbeat=1)
    with pytest.raises(ConfigurationError, match="^brokers: no such setting"):
        Settings().with_changes(brokers=())


# A mapping, the environment.


def test_from_mapping() -> None:
    mapping = {"MESSAGING_URL": "amqp://h", "messaging_heartbeat": "5", "MESSAGING_TLS_VERIFY": "no", "DEBUG": True}
    settings = Settings.from_mapping(mapping, prefix="MESSAGING_")
    assert (settings.brokers[0].host, settings.heartbeat, settings.tls_verify) == ("h", 5.0, False)
    assert Settings.from_mapping({"timeout": 3}).timeout == 3
    assert Settings.from_mapping({}) == Settings()


def test_bad_mappings_name_their_key() -> None:
    for mapping, prefix, problem in [
        ({"M_HARTBEAT": 5}, "M_", "M_HARTBEAT: no such setting; after 'M_' may come url"),
        ({"hartbeat": 5}, "", "hartbeat: no such setting; there are url"),
        ({"M_PREFETCH": "many"}, "M_", "M_PREFETCH: 'many' is not a whole number"),
        ({"M_PREFETCH": 1.5}, "M_", "prefetch: 1.5 is not a whole number"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            Settings.from_mapping(mapping, prefix)
        assert str(caught.value).startswith(problem)


def test_from_environ() -> None:
    environ = {"WSGI_MESSAGING_URL": "amqp://h", "WSGI_MESSAGING_HEARTBEAT": "5", "WSGI_MESSAGING_TIMEOUT": ""}
    settings = Settings.from_environ(environ)
    assert (settings.brokers[0].host, settings.heartbeat, settings.timeout) == ("h", 5.0, 10.0)
    assert Settings.from_environ({}).url == DEFAULT_URL.partition("?")[0]


@pytest.mark.parametrize("first", range(len(URL_VARIABLES)))
def test_the_first_of_the_urls_names_wins(first: int) -> None:
    environ = {name: f"amqp://{name.lower().replace('_', '-')}" for name in URL_VARIABLES[first:]}
    expected = URL_VARIABLES[first].lower().replace("_", "-")
    assert Settings.from_environ(environ).brokers[0].host == expected
    assert Settings.from_environ({**environ, URL_VARIABLES[0]: "" if first else environ[URL_VARIABLES[0]]}).brokers[
        0
    ].host == (expected)


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WSGI_MESSAGING_URL", "amqp://from-the-environment")
    assert Settings.from_environ().brokers[0].host == "from-the-environment"
    assert Settings().brokers[0].host == "127.0.0.1", "constructing reads no environment"


def test_bad_environments_name_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="^WSGI_MESSAGING_PREFETCH: 'x' is not a whole number"):
        Settings.from_environ({"WSGI_MESSAGING_PREFETCH": "x"})


@pytest.fixture
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process: nothing was warned about."""
    monkeypatch.setattr(settings_module, "_warned", set())


@pytest.mark.usefixtures("unsaid")
def test_a_misspelt_variable_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"WSGI_MESSAGING_HEARTBEATS": "s3cret", "WSGI_MESSAGING_HEARTBEAT": "5", "OTHER_MESSAGING": "x"}
    for _ in range(3):
        assert Settings.from_environ(environ).heartbeat == 5.0
    assert caplog.record_tuples == [
        (
            "wsgi_messaging.settings",
            logging.WARNING,
            "WSGI_MESSAGING_HEARTBEATS: no setting has this name, so the variable has no effect; "
            "did you mean WSGI_MESSAGING_HEARTBEAT?",
        )
    ]
    Settings.from_environ(environ | {"WSGI_MESSAGING_RUNDIR": "auto"})
    assert caplog.messages[1].endswith("did you mean WSGI_MESSAGING_RUN_DIR?"), "each name has its own"


@pytest.mark.usefixtures("unsaid")
@pytest.mark.parametrize("name", ["CREDENTIALS", "HEALTH_PATH", "BROKERS_OF_MINE"])
def test_a_variable_that_is_like_no_setting_gets_them_all(name: str, caplog: pytest.LogCaptureFixture) -> None:
    Settings.from_environ({f"WSGI_MESSAGING_{name}": "x"})
    (text,) = caplog.messages
    assert text.startswith(f"WSGI_MESSAGING_{name}: no setting")
    assert "; there are URL, APP, HEARTBEAT, " in text
    assert "CREDENTIALS" not in text.partition("; ")[2], "it is no text"


@pytest.mark.usefixtures("unsaid")
def test_what_is_known_or_empty_is_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    given = {"url": "amqp://h", "login_method": "PLAIN", "run_dir": "auto", "tls_verify": "on"}
    environ = {f"WSGI_MESSAGING_{name.upper()}": given.get(name, "8192") for name in NAMES if name != "credentials"}
    environ |= {"WSGI_MESSAGING_HEARTBEATS": "", "AMQP_URL": "amqp://h", "MESSAGING_HEARTBEATS": "5"}
    assert Settings.from_environ(environ).frame_max == 8192
    assert caplog.messages == []


# Secrets.


def test_no_secret_is_shown() -> None:
    settings = Settings(url="amqp://user:s3cret@a:1,b/v?heartbeat=7")
    assert repr(settings) == "<Settings amqp://a:1/v, amqp://b:5672/v heartbeat=7 timeout=10>"
    shown = f"{settings!r} {settings} {settings.brokers!r} {settings.link_options!r}"
    assert "s3cret" not in shown and "user" not in shown
    assert settings.brokers[0].password == "s3cret"


def test_a_name_that_no_handshake_holds_is_refused() -> None:
    """The broker hung up on it, and the log said that user and password were wrong."""
    assert Settings(app="a" * 255).app == "a" * 255
    with pytest.raises(ConfigurationError, match="^app: 'żżż.* is longer than 255 octets$"):
        Settings(app="ż" * 128)
