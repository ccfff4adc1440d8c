"""`wsgi-messaging doctor`: broken deployments are named with what breaks, why and the line to write; good ones not.

For most of them the line is then written, and the finding goes away: the remedy is one.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.peers import Peer, broker_of
from tests.harness.processes import ROOT, free_port
from tests.harness.requirements import missing
from tests.harness.secret import dev_broker
from wsgi_messaging.cli import hooks, main
from wsgi_messaging.cli.doctor_rules.gunicorn_source import HOOKS
from wsgi_messaging.lifetime import SHORT_HEARTBEAT
from wsgi_messaging.servers import diagnosis

HOOKS_LINE = "from wsgi_messaging.servers.gunicorn import post_fork, post_worker_init, worker_abort, worker_exit\n"
UWSGI = """[uwsgi]
master = true
enable-threads = true
shared-import = wsgi_messaging.servers.uwsgi
py-call-uwsgi-fork-hooks = true
single-interpreter = true
hook-master-start = unix_signal:15 gracefully_kill_them_all
"""
APACHE = """WSGIDaemonProcess app processes=2 threads=15
WSGIScriptAlias / /srv/app.wsgi process-group=app application-group=%{GLOBAL}
"""
HAPROXY = """defaults
    mode tcp
    timeout client {client}
    timeout server 3m
listen rabbit
    bind :5672
    server one 10.0.0.1:5672
"""
NGINX = "events {{}}\nstream {{\n  server {{\n    listen 5672;\n    {line}\n    proxy_pass 10.0.0.1:5672;\n  }}\n}}\n"
OSLO = "[DEFAULT]\ntransport_url = rabbit://u:s3cret@h/\n[oslo_messaging_rabbit]\namqp_durable_queues = {}\n"
FIXED = ["--gunicorn-version", "27.0.1", "--uwsgi-version", "2.0.21"]


@dataclass
class Diagnosis:
    """What the command said, and did."""

    status: int
    findings: list[dict[str, Any]]

    @property
    def grave(self) -> list[str]:
        return [finding["rule"] for finding in self.findings if finding["severity"] != "note"]

    def of(self, rule: str) -> dict[str, Any]:
        found: dict[str, Any] = next(finding for finding in self.findings if finding["rule"] == rule)
        return found


Doctor = Callable[..., Diagnosis]


@pytest.fixture
def doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Doctor:
    for variable in ("WSGI_MESSAGING_TIMEOUT", "WSGI_MESSAGING_HEARTBEAT", "WSGI_MESSAGING_URL", "AMQP_URL"):
        monkeypatch.delenv(variable, raising=False)

    def doctor(name: str, text: str, *arguments: str) -> Diagnosis:
        files = []
        if name:
            (tmp_path / name).write_text(text)
            files = [str(tmp_path / name)]
        status = main(["doctor", *files, "--json", *FIXED, *arguments])
        captured = capsys.readouterr()
        assert "s3cret" not in captured.out + captured.err
        found = json.loads(captured.out)
        assert found["ok"] == (status == 0)
        return Diagnosis(status, found["findings"])

    return doctor


@dataclass
class Broken:
    """A deployment, what is wrong with it, and words of the cause and of the line to write."""

    name: str
    text: str
    rule: str
    cause: str
    fix: str
    severity: str = "warning"
    arguments: tuple[str, ...] = ()
    mended_by: str = ""
    """"append": the fix behind the text; "prepend": before it; "last": in place of the last line; "": not shown."""


FORK_LINE = "py-call-uwsgi-fork-hooks = true"
GUNICORN, INI, CONF = "gunicorn.conf.py", "uwsgi.ini", "site.conf"
OWN_FORK = "def post_fork(server, worker):\n    pass\n"
BROKEN = {
    # gunicorn
    "no hooks": Broken(
        GUNICORN, "bind = ':8000'\n", "gunicorn-hooks", "by atexit only", HOOKS_LINE[:45], mended_by="append"
    ),
    "one hook forgotten": Broken(
        GUNICORN, HOOKS_LINE.replace(", worker_exit", ""), "gunicorn-hooks", "by atexit only", "worker_exit",
        mended_by="append",
    ),
    "hook redefined after the import": Broken(
        GUNICORN, HOOKS_LINE + OWN_FORK, "gunicorn-hook-replaced", "it replaces ours", "chain(post_fork",
        mended_by="append",
    ),
    "own hook lost to the import": Broken(
        GUNICORN, OWN_FORK + HOOKS_LINE, "gunicorn-hook-lost", "the last post_fork of the file", "chain(post_fork"
    ),
    "hook misspelt": Broken(
        GUNICORN, HOOKS_LINE + "def postfork(server, worker):\n    pass\n", "gunicorn-hook-name", "exact names",
        "def post_fork(server, worker):",
    ),
    "hook with too few arguments": Broken(
        GUNICORN, HOOKS_LINE + "def child_exit(worker):\n    pass\n", "gunicorn-hook-arguments", "arity of: 2",
        "def child_exit(server, worker):", "error",
    ),
    "preload and gevent without patch": Broken(
        GUNICORN, "worker_class = 'gevent'\npreload_app = True\n" + HOOKS_LINE, "gunicorn-preload-gevent",
        "BEFORE gevent.monkey.patch_all()", "monkey.patch_all()", "error", mended_by="prepend",
    ),
    "patched after an import": Broken(
        GUNICORN,
        "import logging\nfrom gevent import monkey\nmonkey.patch_all()\nworker_class = 'gevent'\npreload_app = True\n"
        + HOOKS_LINE,
        "gunicorn-patch-order", "before every other import", "from gevent import monkey", mended_by="prepend",
    ),
    "eventlet on gunicorn 27": Broken(
        GUNICORN, HOOKS_LINE + "worker_class = 'eventlet'\n", "gunicorn-eventlet", "removed it in 26.0",
        "worker_class = \"gevent\"", "error", mended_by="append",
    ),
    "worker timeout shorter than a publish": Broken(
        GUNICORN, HOOKS_LINE + "timeout = 5\n", "gunicorn-timeout", "a publish may take 10 s", "timeout = 15",
        mended_by="append",
    ),
    "graceful timeout shorter than a publish": Broken(
        GUNICORN, HOOKS_LINE + "graceful_timeout = 3\n", "gunicorn-graceful-timeout", "3 s after",
        "graceful_timeout = 15", mended_by="append",
    ),
    "not Python": Broken(GUNICORN, "workers = = 3\n", "unreadable", "cannot start", "syntax", "error"),
    # uWSGI
    "no enable-threads": Broken(
        INI, UWSGI.replace("enable-threads = true\n", ""), "uwsgi-threads", "2.0.21 runs with Python threads disabled",
        "enable-threads = true", "error", mended_by="append",
    ),
    "enable-threads = false": Broken(
        INI, UWSGI.replace("enable-threads = true", "enable-threads = false"), "uwsgi-threads", "threads disabled",
        "enable-threads = true", "error", mended_by="append",
    ),
    "enable_threads": Broken(
        INI, UWSGI.replace("enable-threads", "enable_threads"), "uwsgi-spelling", "with dashes only",
        "enable-threads = true",
    ),
    "processes without master": Broken(
        INI, UWSGI.replace("master = true", "processes = 4"), "uwsgi-master", "survive SIGTERM", "master = true",
        "error", mended_by="append",
    ),
    "no master": Broken(
        INI, UWSGI.replace("master = true\n", ""), "uwsgi-master", "nobody who watches", "master = true",
        mended_by="append",
    ),
    "lazy-apps without shared-import": Broken(
        INI, UWSGI.replace("shared-import = wsgi_messaging.servers.uwsgi", "lazy-apps = true"), "uwsgi-shared-import",
        "imported after the fork", "shared-import = wsgi_messaging.servers.uwsgi", mended_by="append",
    ),
    "import instead of shared-import": Broken(
        INI, UWSGI.replace("shared-import", "import"), "uwsgi-shared-import", "always does before the fork",
        "shared-import = ", mended_by="append",
    ),
    "a comment behind shared-import": Broken(
        INI, UWSGI.replace("servers.uwsgi", "servers.uwsgi ; ours"), "uwsgi-shared-import",
        "comments on lines of their", "shared-import = wsgi_messaging.servers.uwsgi", mended_by="append",
    ),
    "skip-atexit": Broken(
        INI, UWSGI + "skip-atexit = true\n", "uwsgi-skip-atexit", "keeps our exit hook from running", "; remove",
        mended_by="last",
    ),
    "harakiri": Broken(
        INI, UWSGI + "harakiri = 8\n", "uwsgi-harakiri", "kills a worker that waits 8 s", "harakiri = 15",
        mended_by="append",
    ),
    "no py-call-uwsgi-fork-hooks": Broken(
        INI, UWSGI.replace(f"{FORK_LINE}\n", ""), "uwsgi-osafterfork", "without telling Python", FORK_LINE,
        mended_by="append",
    ),
    "patched before the fork that Python is told of": Broken(
        INI, UWSGI + "gevent = 20\ngevent-early-monkey-patch = true\n", "uwsgi-gevent-early", "do not go together",
        "gevent-monkey-patch = true", "error", mended_by="last",
    ),
    "several mounts": Broken(
        INI, UWSGI.replace("single-interpreter = true", "mount = /a=a.py\nmount = /b=b.py"), "uwsgi-interpreters",
        "an interpreter of its own", "single-interpreter = true", mended_by="append",
    ),
    "cheaper beyond processes": Broken(
        INI, UWSGI + "processes = 2\ncheaper = 2\n", "uwsgi-cheaper", "more processes than 2", "processes = 4", "error",
        mended_by="append",
    ),
    "die-on-term": Broken(
        INI, UWSGI + "die-on-term = true\n", "uwsgi-die-on-term", "without their exit hook", "unix_signal:15",
        mended_by="last",
    ),
    "no mercy": Broken(
        INI, UWSGI + "worker-reload-mercy = 2\n", "uwsgi-mercy", "2 s after", "worker-reload-mercy = 15",
        mended_by="append",
    ),
    # mod_wsgi
    "embedded": Broken(
        CONF, "WSGIScriptAlias / /srv/app.wsgi application-group=%{GLOBAL}\n", "mod_wsgi-embedded",
        "embedded in Apache's", "WSGIDaemonProcess app", mended_by="last",
    ),
    "sub-interpreter": Broken(
        CONF, APACHE.replace(" application-group=%{GLOBAL}", ""), "mod_wsgi-interpreter", "sub-interpreter",
        "application-group=%{GLOBAL}", mended_by="last",
    ),
    "a daemon that nothing names": Broken(
        CONF, "WSGIDaemonProcess shop threads=15\nWSGIScriptAlias / /srv/shop.py\n", "mod_wsgi-interpreter",
        "sub-interpreter", "/srv/shop.py process-group=shop application-group=%{GLOBAL}", mended_by="last",
    ),
    "groups by directives": Broken(
        CONF,
        APACHE.split("\n")[0]
        + "\nWSGIProcessGroup app\nWSGIApplicationGroup %{GLOBAL}\nWSGIScriptAlias / /srv/app.wsgi\n",
        "mod_wsgi-preload", "names both groups", "process-group=app application-group=%{GLOBAL}", mended_by="last",
    ),
    "a group without daemon": Broken(
        CONF, APACHE.replace("process-group=app", "process-group=other"), "mod_wsgi-group", "no WSGIDaemonProcess",
        "WSGIDaemonProcess other", "error", mended_by="append",
    ),
    "restarts after few requests": Broken(
        CONF, APACHE.replace("threads=15", "threads=15 maximum-requests=10"), "mod_wsgi-restarts",
        "maximum-requests=10", "maximum-requests=10000",
    ),
    "restarts all the time": Broken(
        CONF, APACHE.replace("threads=15", "restart-interval=10"), "mod_wsgi-restarts", "closed in order",
        "restart-interval=6000",
    ),
    "no time to shut down": Broken(
        CONF, APACHE.replace("threads=15", "shutdown-timeout=1"), "mod_wsgi-shutdown-timeout", "kills the process",
        "shutdown-timeout=5",
    ),
    "request-timeout": Broken(
        CONF, APACHE.replace("threads=15", "request-timeout=5"), "mod_wsgi-request-timeout", "ends the whole process",
        "request-timeout=20",
    ),
    "WSGIDestroyInterpreter Off": Broken(
        CONF, APACHE + "WSGIDestroyInterpreter Off\n", "mod_wsgi-destroy", "only mod_wsgi's own event",
        "WSGIDestroyInterpreter On", mended_by="last",
    ),
    # between us and the broker
    "haproxy gives up first": Broken(
        "haproxy.cfg", HAPROXY.format(client="5s"), "proxy-idle", "after 5 s of silence", "timeout client 60s", "error"
    ),
    "haproxy with braces": Broken(
        "haproxy.cfg",
        "frontend web\n  http-request redirect scheme https unless { ssl_fc }\n" + HAPROXY.format(client="5s"),
        "proxy-idle", "after 5 s of silence", "timeout client 60s", "error",
    ),
    "haproxy's named defaults": Broken(
        "haproxy.cfg",
        "defaults short\n  timeout client 5s\ndefaults tcp from short\n  mode tcp\ndefaults\n  timeout client 3h\n"
        "listen rabbit from tcp\n  bind :5672\n",
        "proxy-idle", "after 5 s of silence", "timeout client 60s", "error",
    ),
    "haproxy's numbers are milliseconds": Broken(
        "haproxy.cfg", HAPROXY.format(client="5000"), "proxy-idle", "after 5 s of", "timeout client 60s", "error"
    ),
    "nginx gives up first": Broken(
        "nginx.conf", NGINX.format(line="proxy_timeout 15s;"), "proxy-idle", "after 15 s", "proxy_timeout 60s;"
    ),
    "nginx in one line": Broken(
        "nginx.conf",
        "stream {  # proxy_timeout 60s;\n  upstream r { server h; }\n"
        "  server { listen 5672; proxy_pass r; proxy_timeout 5s; }\n}\n",
        "proxy-idle", "after 5 s", "proxy_timeout 60s;", "error",
    ),
    "a balancer gives up first": Broken(
        "", "", "proxy-idle", "after 10 s", "WSGI_MESSAGING_HEARTBEAT=5", "error", ("--proxy-idle-timeout", "10")
    ),
    "transient queues on 4.3": Broken(
        "neutron.conf", OSLO.format("false"), "broker-transient-queues", "from 4.3 on", "amqp_durable_queues = true",
        "error", ("--broker-version", "4.3.0"),
    ),
    "quorum queues on 3.7": Broken(
        "", "", "broker-quorum-queues", "came with 3.8", "rabbit_quorum_queue = false", "error",
        ("--broker-version", "3.7.28", "--queues", "quorum", "--proxy-idle-timeout", "300"),
    ),
}  # fmt: skip


def mended(broken: Broken, fix: str) -> str:
    match broken.mended_by:
        case "append":
            return broken.text + fix + "\n"
        case "prepend":
            return fix + "\n" + broken.text
        case _:
            return "\n".join([*broken.text.rstrip("\n").split("\n")[:-1], fix, ""])


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_deployment_is_named_and_its_line_mends_it(doctor: Doctor, what: str) -> None:
    broken = BROKEN[what]
    found = doctor(broken.name, broken.text, *broken.arguments)
    assert found.status == 1
    finding = found.of(broken.rule)
    assert finding["severity"] == broken.severity
    assert finding["breaks"]
    assert broken.cause in finding["why"]
    assert broken.fix in finding["fix"]
    if broken.name:
        assert finding["file"].endswith(broken.name)
    if broken.mended_by:
        after = doctor(broken.name, mended(broken, finding["fix"]), *broken.arguments)
        assert (after.status, after.grave) == (0, [])


@pytest.mark.parametrize("file", ["gunicorn.conf.py", "uwsgi.ini", "apache-mod_wsgi.conf"])
@pytest.mark.parametrize("uwsgi_version", ["2.0.21", "2.0.31"])
def test_the_shipped_files_have_nothing_to_mend(doctor: Doctor, file: str, uwsgi_version: str) -> None:
    text = (hooks.find("hooks") / file).read_text()
    found = doctor(file, text, "--uwsgi-version", uwsgi_version)
    assert (found.status, found.findings) == (0, [])


GOOD = {
    "own hook chained": (
        GUNICORN,
        HOOKS_LINE + "from wsgi_messaging.servers.gunicorn import chain\ndef mine(server, worker):\n    pass\n"
        "post_fork = chain(mine, post_fork)\n",
    ),
    "own hook that calls ours": (
        GUNICORN,
        HOOKS_LINE + "from wsgi_messaging.servers import gunicorn as messaging\n"
        "def post_fork(server, worker):\n    messaging.post_fork(server, worker)\n",
    ),
    "assigned from the module": (
        GUNICORN,
        "import wsgi_messaging.servers.gunicorn\n"
        + "".join(
            f"{name} = wsgi_messaging.servers.gunicorn.{name}\n"
            for name in ("post_fork", "post_worker_init", "worker_abort", "worker_exit")
        ),
    ),
    "assigned several at once": (
        GUNICORN,
        "import wsgi_messaging.servers.gunicorn as ours\n"
        "post_fork, post_worker_init = ours.post_fork, ours.post_worker_init\n"
        "(worker_abort, worker_exit) = [ours.worker_abort, ours.worker_exit]\n",
    ),
    "saved with a byte order mark": (GUNICORN, "\ufeff" + HOOKS_LINE),
    "star import": (GUNICORN, "from wsgi_messaging.servers.gunicorn import *\n"),
    "import strings": (
        GUNICORN,
        "".join(
            f"{name} = 'wsgi_messaging.servers.gunicorn.{name}'\n"
            for name in ("post_fork", "post_worker_init", "worker_abort", "worker_exit")
        ),
    ),
    "gevent patched first": (
        GUNICORN,
        "from gevent import monkey\nmonkey.patch_all()\nimport os\nworker_class = 'gevent'\npreload_app = True\n"
        + HOOKS_LINE,
    ),
    "gthread is not killed by its timeout": (GUNICORN, HOOKS_LINE + "threads = 4\ntimeout = 5\n"),
    "the transport's timeout is shorter": (
        GUNICORN,
        HOOKS_LINE + "timeout = 8\nraw_env = ['WSGI_MESSAGING_TIMEOUT=3']\n",
    ),
    "times that are computed": (GUNICORN, HOOKS_LINE + "import os\ntimeout = int(os.environ.get('T', '5'))\n"),
    "harakiri above the timeout in env": (INI, UWSGI + "env = WSGI_MESSAGING_TIMEOUT=3\nharakiri = 8\n"),
    "a master that comes with another option": (INI, UWSGI.replace("master = true", "touch-reload = /srv/touch")),
    "lazy-apps": (INI, UWSGI + "lazy-apps = true\n"),
    "cheaper": (INI, UWSGI + "processes = 8\ncheaper = 2\n"),
    "gevent": (INI, UWSGI + "gevent = 100\n"),
    "another section": (INI, UWSGI + "[other]\nskip-atexit = true\n"),
    "embedded only when it is defined": (
        CONF,
        "<IfDefine EMBEDDED>\nWSGIScriptAlias / /srv/app.wsgi\n</IfDefine>\n" + APACHE,
    ),
    "variables and continuations": (
        CONF,
        "Define GROUP app\nWSGIDaemonProcess ${GROUP} \\\n  processes=2 \\\n  threads=15\n"
        "<VirtualHost *:80>\nWSGIScriptAlias / /srv/app.wsgi \\\n"
        "  process-group=${GROUP} application-group=%{GLOBAL}\n</VirtualHost>\n",
    ),
    "gevent's worker is alive while its requests wait": (
        GUNICORN,
        HOOKS_LINE + "worker_class = 'gevent'\ntimeout = 3\n",
    ),
    "as many processes as processors": (INI, UWSGI + "cheaper = 1\nprocesses = %k\n"),
    "its own section": (INI, f"[uwsgi]\nini = :base\nprocesses = 4\n\n{UWSGI.replace('[uwsgi]', '[base]')}"),
    "an apostrophe in a word": (CONF, f"SetEnvIf User-Agent O'Reilly bot\n{APACHE}"),
    "haproxy with braces": (
        "haproxy.cfg",
        "defaults\n  mode http\nfrontend web\n  http-request redirect scheme https unless { ssl_fc }\n"
        + HAPROXY.format(client="3m"),
    ),
    "haproxy's named defaults": (
        "haproxy.cfg",
        "defaults slow\n  mode tcp\n  timeout client 3h\n  timeout server 3h\ndefaults web\n  mode http\n"
        "  timeout client 5s\n  timeout server 5s\nlisten rabbit from slow\n  bind :5672\n",
    ),
    "haproxy's other sections": (
        "haproxy.cfg",
        HAPROXY.format(client="3m") + "ring logs\n  timeout connect 5s\n  timeout server 10s\n",
    ),
    "haproxy with time": ("haproxy.cfg", HAPROXY.format(client="3m")),
    "haproxy for the web": (
        "haproxy.cfg",
        "defaults\n  mode http\n  timeout client 5s\nfrontend web\n  bind :80\n",
    ),
    "nginx's own default": ("nginx.conf", NGINX.format(line="")),
    "durable queues on 4.3": ("neutron.conf", OSLO.format("true")),
}


@pytest.mark.parametrize("what", GOOD)
def test_a_good_deployment_has_nothing_to_mend(doctor: Doctor, what: str) -> None:
    found = doctor(*GOOD[what], "--broker-version", "4.3.0")
    assert (found.status, found.grave) == (0, [])


def test_the_files_that_the_documentation_has_for_gunicorn_have_nothing_to_mend(doctor: Doctor) -> None:
    page = (hooks.find("hooks").parent / "docs" / "servers" / "gunicorn.rst").read_text()
    blocks = re.findall(r"\.\. code-block:: python\n(?:   :.*\n)*\n((?:(?:   .*)?\n)+)", page)
    samples = [textwrap.dedent(block) for block in blocks]
    assert sum("chain(" in sample for sample in samples) == 2
    for sample in samples:
        assert doctor(GUNICORN, sample).findings == []


def test_the_defines_of_the_command_line_count(doctor: Doctor) -> None:
    name, text = GOOD["embedded only when it is defined"]
    assert "mod_wsgi-embedded" in doctor(name, text, "--define", "EMBEDDED").grave


@pytest.mark.parametrize(("since", "severity"), [((3, 10), "error"), ((9, 9), "note")])
def test_half_a_fork_kills_the_workers_of_newer_pythons(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, since: tuple[int, int], severity: str
) -> None:
    monkeypatch.setattr(diagnosis, "UWSGI_DEADLY_SINCE", since)
    found = doctor(INI, UWSGI.replace(FORK_LINE, "py-call-osafterfork = true")).of("uwsgi-osafterfork")
    assert (found["severity"], FORK_LINE in found["fix"]) == (severity, True)
    both = doctor(INI, UWSGI + "py-call-osafterfork = true\n")
    assert both.findings == []  # uWSGI takes the other one then


def test_the_shipped_file_is_right_for_every_python(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "UWSGI_DEADLY_SINCE", (3, 10))
    assert doctor(INI, (ROOT / "hooks" / "uwsgi.ini").read_text()).findings == []


def test_newer_uwsgi_has_threads_anyway(doctor: Doctor) -> None:
    text = UWSGI.replace("enable-threads = true\n", "")
    assert doctor(INI, text, "--uwsgi-version", "2.0.27").findings[0]["severity"] == "note"
    assert doctor(INI, text, "--uwsgi-version", "2.0.26").status == 1


def test_older_gunicorn_has_its_eventlet_worker(doctor: Doctor) -> None:
    text = HOOKS_LINE + "worker_class = 'eventlet'\n"
    assert doctor(GUNICORN, text, "--gunicorn-version", "25.3").status == 0


def test_the_command_line_of_gunicorn_wins(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--gunicorn-args", "-k gevent --preload --timeout 4 app:app")
    assert doctor(GUNICORN, HOOKS_LINE, *arguments).grave == ["gunicorn-preload-gevent"]
    assert doctor(GUNICORN, HOOKS_LINE, "--gunicorn-args", "--timeout 4 app:app").grave == ["gunicorn-timeout"]
    assert doctor("", "", "--gunicorn-args", "app:app -w 4").grave == ["gunicorn-hooks"]
    monkeypatch.chdir(tmp_path)
    Path("gunicorn.conf.py").write_text(HOOKS_LINE)
    assert doctor("", "", "--gunicorn-args", "app:app -w 4").status == 0, "gunicorn reads it by itself"
    Path("gunicorn.conf.py").unlink()
    assert doctor("", "", "--gunicorn-args", "-c python:wsgi_messaging.servers.gunicorn app:app").status == 0
    (tmp_path / "elsewhere.py").write_text(HOOKS_LINE)
    assert doctor("", "", "--gunicorn-args", f"-c {tmp_path}/elsewhere.py app:app").status == 0


def test_included_files_are_read(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "common.ini").write_text("[uwsgi]\nskip-atexit = true\n")
    found = doctor(INI, UWSGI + "ini = common.ini\ninclude = missing.ini\n")
    assert found.of("uwsgi-skip-atexit")["file"].endswith("common.ini")
    assert found.of("uwsgi-include")["severity"] == "note"


def test_yaml(doctor: Doctor) -> None:
    text = "".join(f"  {line}\n" for line in UWSGI.replace(" = ", ": ").splitlines()[1:])
    assert doctor("uwsgi.yaml", f"uwsgi:\n{text}").findings == []
    found = doctor("uwsgi.yaml", f"uwsgi:\n{text}  harakiri: 5\n").of("uwsgi-harakiri")
    assert (found["fix"], found["line"]) == ("  harakiri: 15", 8)


def test_files_are_not_executed(doctor: Doctor, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    assert doctor(GUNICORN, f"open({str(witness)!r}, 'w')\n" + HOOKS_LINE).status == 0
    assert not witness.exists()


def test_heartbeats_against_the_proxy(doctor: Doctor) -> None:
    text = HAPROXY.format(client="30s")
    assert doctor("haproxy.cfg", text).status == 0
    assert doctor("haproxy.cfg", text, "--heartbeat", "60").of("proxy-idle")["severity"] == "error"
    assert doctor("haproxy.cfg", text, "--heartbeat", "0").of("proxy-idle")["severity"] == "error"
    assert doctor("haproxy.cfg", text, "--heartbeat", "40").of("proxy-idle")["severity"] == "warning"


def test_a_timeout_for_several_sections_is_one_line_to_write(doctor: Doctor) -> None:
    text = "defaults\n  mode tcp\n  timeout client 5s\n  timeout server 5s\n"
    sections = "frontend f\n  bind :5672\n  default_backend b\nbackend b\n  server one 10.0.0.1:5672\n"
    found = doctor("haproxy.cfg", text + sections)
    said = [(each["line"], each["breaks"].partition(")")[0]) for each in found.findings]
    assert said == [(3, "haproxy (frontend f: timeout client"), (4, "haproxy (backend b: timeout server")]
    assert [each["fix"] for each in found.findings] == ["timeout client 60s", "timeout server 60s"]
    found = doctor("haproxy.cfg", text + sections + sections.replace("frontend f", "frontend g"))
    assert found.findings[0]["breaks"].startswith("haproxy (frontend f, frontend g: timeout client)")


def test_no_heartbeat_is_advised_that_the_transport_warns_of_or_that_the_proxy_still_cuts(doctor: Doctor) -> None:
    advised = {}
    for idle in range(1, 60):
        fix = doctor("", "", "--proxy-idle-timeout", str(idle), "--heartbeat", "60").of("proxy-idle")["fix"]
        if found := re.search(r"HEARTBEAT=(\d+)", fix):
            advised[idle] = int(found[1])
    assert list(advised) == list(range(10, 60))
    assert all(SHORT_HEARTBEAT <= beat <= idle / 2 for idle, beat in advised.items())
    fix = doctor("", "", "--proxy-idle-timeout", "5", "--heartbeat", "0").of("proxy-idle")["fix"]
    assert fix == "WSGI_MESSAGING_HEARTBEAT=20\nidle timeout of the proxy: 60 s"


# With a broker.


def test_queues_that_the_broker_at_the_url_refuses(doctor: Doctor) -> None:
    with Peer(broker_of("4.3.2")) as peer:
        url = f"amqp://u:s3cret@127.0.0.1:{peer.port}//"
        found = doctor("neutron.conf", OSLO.format("false"), "--url", url)
        good = doctor("neutron.conf", OSLO.format("true"), "--url", url)
    assert found.of("broker-transient-queues")["severity"] == "error"
    assert "4.3.2" in found.of("broker-transient-queues")["why"]
    assert (good.status, good.findings) == (0, [])


def test_the_agreed_heartbeat_is_the_brokers_when_that_is_shorter(doctor: Doctor) -> None:
    with dev_broker(heartbeat=6) as broker:
        assert doctor("", "", "--url", broker.url, "--proxy-idle-timeout", "10").status == 0
    with dev_broker(heartbeat=0) as broker:
        assert doctor("", "", "--url", broker.url + "?heartbeat=0").grave == ["broker-heartbeat"]


def test_a_broker_that_cannot_be_used(doctor: Doctor) -> None:
    found = doctor("", "", "--url", f"amqp://u:s3cret@127.0.0.1:{free_port()}//")
    assert found.status == 1
    assert "connection refused" in found.of("broker-unreachable")["why"]
    assert "wsgi-messaging check" in found.of("broker-unreachable")["fix"]


# What people see.


def test_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / INI
    path.write_text(UWSGI + "skip-atexit = true\nharakiri = 3\n")
    assert main(["doctor", str(path)]) == 1
    text = capsys.readouterr().out
    assert f"{path}:8: warning: " in text
    assert "    why: " in text
    assert "    write:\n        harakiri = 15\n" in text
    assert text.rstrip().splitlines()[-2].endswith(": 0 errors, 2 warnings")
    assert "\x1b" not in text


def test_the_text_blames_the_broker_where_the_file_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(hooks.find("hooks") / GUNICORN)
    assert main(["doctor", "--url", f"amqp://127.0.0.1:{free_port()}//", file]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "the broker: 1 error, 0 warnings"
    assert main(["doctor", "--proxy-idle-timeout", "5", file]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "the proxy: 1 error, 0 warnings"


@pytest.mark.parametrize(
    "arguments",
    [(), ("no-such-file",), ("--gunicorn-args", "--timeout soon"), ("--gunicorn-args", "'"), (__file__,)],
)
def test_wrong_usage(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    if arguments == (__file__,):
        arguments = (str(Path(__file__).with_name("peers.py")),)
    assert main(["doctor", *arguments]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("option", ["--broker-version", "--gunicorn-version", "--uwsgi-version"])
def test_a_version_that_is_none_is_named(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails when that of a broker is taken for one about which nothing is known, and so for a good one."""
    file = tmp_path / "neutron.conf"
    file.write_text(OSLO.format("false"))
    assert main(["doctor", str(file), option, "v4.3.0"]) == 2
    assert "'v4.3.0' is not a version" in capsys.readouterr().err


def test_queues_of_a_version_need_no_file(doctor: Doctor) -> None:
    assert doctor("", "", "--broker-version", "4.3.0", "--queues", "transient").status == 1
    assert doctor("", "", "--broker-version", "4.3.0", "--queues", "quorum").status == 0


def test_apache_sections_that_do_not_close(doctor: Doctor) -> None:
    assert "closes what is not open" in doctor(CONF, APACHE + "</VirtualHost>\n").of("unreadable")["why"]


@pytest.mark.parametrize("line", ["rabbit_quorum_queue\n", "rabbit_quorum_queue\n  more = true\n"])
def test_an_option_without_a_value_in_an_oslo_configuration(doctor: Doctor, line: str) -> None:
    """oslo.config refuses the file ("No ':' or '=' found in assignment"). Fails with a traceback."""
    found = doctor("neutron.conf", OSLO.format("true") + line).of("unreadable")
    assert "rabbit_quorum_queue" in found["why"]


# Against the servers themselves.


def test_the_hooks_and_their_arguments_are_gunicorns() -> None:
    config = pytest.importorskip("gunicorn.config")
    settings = config.make_settings()
    for name, count in HOOKS.items():
        hook = settings[name].get()
        assert hook.__code__.co_argcount == count, name


def test_uwsgis_own_folder_in_a_path(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "common.ini").write_text(UWSGI)
    (tmp_path / "conf" / "app.ini").write_text("[uwsgi]\nini = %dcommon.ini\nprocesses = 4\n")
    monkeypatch.chdir(tmp_path)
    assert doctor("", "", "conf/app.ini").findings == []


def test_what_uwsgi_itself_makes_of_underscores_and_comments(tmp_path: Path) -> None:
    uwsgi = shutil.which("uwsgi", path=str(Path(__file__).parents[2] / ".venv" / "bin"))
    if uwsgi is None:
        missing("there is no uWSGI in .venv: make environments")
    path = tmp_path / INI
    path.write_text("[uwsgi]\nstrict = true\nenable_threads = true\n")
    done = subprocess.run([uwsgi, "--ini", str(path)], capture_output=True, text=True, timeout=20)
    assert "unknown config directive: enable_threads" in done.stdout + done.stderr
    path.write_text("[uwsgi]\nshow-config = true\nshared-import = a.b ; mine\nprocesses = 2\ncheaper = 2\n")
    done = subprocess.run([uwsgi, "--ini", str(path)], capture_output=True, text=True, timeout=20)
    assert "shared-import = a.b ; mine" in done.stdout + done.stderr
    assert "invalid cheaper value: must be lower than processes" in done.stdout + done.stderr
