"""Apache with mod_wsgi and hooks/apache-mod_wsgi.conf, in a configuration of its own.

Started by root, Apache's children run as www-data; they must be able to read the Python that mod_wsgi was built for,
which they cannot when that is root's own pyenv. Then the environment of the system's Python (.venv-debian) serves.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tests.harness import processes
from tests.harness.processes import ROOT
from tests.harness.servers import HOOKS, LIVE, Server

MODULES = (Path("/usr/lib/apache2/modules"), Path("/usr/lib64/httpd/modules"), Path("/usr/lib/httpd/modules"))
USERS = ("www-data", "apache", "nobody")
# Embedded: exactly as many children as workers are asked for.
MPM = {
    "prefork": (
        "StartServers {workers}\nMinSpareServers {workers}\nMaxSpareServers {workers}\nMaxRequestWorkers {workers}"
    ),
    "event": "StartServers 1\nServerLimit 8\nThreadsPerChild 25\nMaxRequestWorkers 200",
}
CONFIG = """\
ServerRoot "{folder}"
ServerName localhost
Listen 127.0.0.1:{port}
PidFile "{folder}/httpd.pid"
DefaultRuntimeDir "{folder}"
ErrorLog "{folder}/error.log"
LogLevel info
{modules}
{identity}
<Directory "/">
    Require all granted
</Directory>
{mpm}
WSGISocketPrefix "{folder}/wsgi"
WSGIPythonHome "{home}"
Define WSGI_SCRIPT "{script}"
Define WSGI_PROCESSES {workers}
Define WSGI_THREADS 4
Define WSGI_PYTHON_HOME "{home}"
{embedded}
Include "{hook}"
{extra}
"""


def _user() -> pwd.struct_passwd:
    """Whom Apache's children run as: ourselves, unless we are root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in USERS if name in known)


@cache
def home() -> Path | None:
    """An environment with mod_wsgi whose Python the children can run."""
    for environment in (ROOT / ".venv", ROOT / ".venv-debian"):
        python = environment / "bin" / "python"
        if not (environment / "bin" / "mod_wsgi-express").exists():
            continue
        try:
            done = subprocess.run(
                [str(python), "-c", "import wsgi_messaging"],
                user=_user().pw_uid if os.geteuid() == 0 else None,
                cwd="/",
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return environment
    return None


# MPM prefork ends a child in its signal handler, and with it the sub-interpreter, on top of the request that it serves.
# CPython ends a process in which that is done, whatever the application is.
CUT_OFF = re.compile(r"Fatal Python error: Py_EndInterpreter: thread still has a frame|exit signal Abort \(6\)")


class Apache(Server):
    """mode "daemon" (processes of mod_wsgi's own, main interpreter) or "embedded" (the default sub-interpreter)."""

    reload_signal = signal.SIGUSR1

    def __init__(self, name: str, *, mode: str = "daemon", mpm: str = "event", extra: str = "", **rest: Any) -> None:
        super().__init__(name, **rest)
        self.mode = mode
        self.mpm = mpm
        self.extra = extra
        self.program = processes.program("apache2") or processes.program("httpd")

    def missing(self) -> str | None:
        if self.program is None:
            return "Apache is not installed: apt-get install apache2 apache2-dev"
        if home() is None:
            return "no mod_wsgi whose Python Apache's user may read: make test, or pip install mod_wsgi"
        if self.mode == "daemon" and not Path(_user().pw_dir).is_dir():
            return f"mod_wsgi's daemon processes need the home directory of {_user().pw_name}, {_user().pw_dir}"
        return None

    def alarms(self) -> list[str]:
        is_amid = self.mpm == "prefork" and "thread still has a frame" in self.log_text()
        return [line for line in super().alarms() if not (is_amid and CUT_OFF.search(line))]

    def command(self) -> list[str]:
        assert self.program is not None
        config = self.folder / "httpd.conf"
        config.write_text(self._config())
        return [self.program, "-DFOREGROUND", "-f", str(config)]

    def _config(self) -> str:
        where = next(folder for folder in MODULES if folder.exists())
        environment = home()
        assert environment is not None
        express = str(environment / "bin" / "mod_wsgi-express")
        done = subprocess.run([express, "module-location"], capture_output=True, text=True, check=True)
        # What a distribution has compiled in has no file, and needs no line.
        files = {
            f"mpm_{self.mpm}": where / f"mod_mpm_{self.mpm}.so",
            "unixd": where / "mod_unixd.so",
            "authz_core": where / "mod_authz_core.so",
            "wsgi": Path(done.stdout.strip()),
        }
        user = _user()
        return CONFIG.format(
            folder=self.folder,
            port=self.port,
            modules="\n".join(f'LoadModule {n}_module "{path}"' for n, path in files.items() if path.exists()),
            identity=f"User {user.pw_name}\nGroup #{user.pw_gid}" if os.geteuid() == 0 else "",
            mpm=MPM[self.mpm].format(workers=self.workers),
            home=environment,
            script=LIVE / f"{self.module}.py",
            workers=self.workers,
            embedded="Define WSGI_EMBEDDED" if self.mode == "embedded" else "",
            hook=HOOKS / "apache-mod_wsgi.conf",
            extra=self.extra,
        )
