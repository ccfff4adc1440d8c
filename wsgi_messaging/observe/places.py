"""The run directory, where the workers of a host show each other what their connections do, and who of them lives.

Rules: the directory is its owner's alone to write to (made with mode 0700), each file in it is 0600; none of them is
reached through a symbolic link; a file's name says which process wrote it, so that the file of a dead one is known
without opening it, even after a SIGKILL, and whoever reads removes it. It must lie on a local file system.

Layer 1.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

AUTO = "auto"
"""The run directory that is found without naming one."""
PREFIX = "wsgi_messaging-"

_NAME = re.compile(r"([0-9a-f]+)-(\d+)-(\d+)-(\d+)-([a-z]+)-([0-9a-f]+)\.status")


def resolve(run_dir: str, app: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The path that a setting means: itself, or for "auto" the application's own under $XDG_RUNTIME_DIR.

    Where that is not set (a system service), it lies under the folder for temporary files and has the user in its
    name. An application whose name makes no file name gets one with a hash in it, which no other one has.
    """
    if run_dir != AUTO:
        return Path(run_dir)
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", app)[:100]
    name = app if plain == app else f"{plain}-{sha256(app.encode('utf-8', 'replace')).hexdigest()[:8]}"
    return automatic_parent(environ) / f"{automatic_prefix(environ)}{name}"


def automatic_parent(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the automatic run directories of all applications of this user are."""
    return Path(environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())


def automatic_prefix(environ: Mapping[str, str] = os.environ) -> str:
    """How the names of the automatic run directories of this user begin."""
    return PREFIX if environ.get("XDG_RUNTIME_DIR") else f"{PREFIX}{os.geteuid()}-"


@dataclass(frozen=True, slots=True)
class FileName:
    """Which process wrote a file, and for which of its connections."""

    boot: str
    namespace: int
    pid: int
    started: int
    role: str
    serial: str

    def __str__(self) -> str:
        return f"{self.boot}-{self.namespace}-{self.pid}-{self.started}-{self.role}-{self.serial}.status"

    @classmethod
    def of_this_process(cls, role: str) -> FileName:
        """A name that no other connection of any process has. Raises: `OSError`, as `started`."""
        boot, namespace = _here(os.getpid())
        return cls(boot, namespace, os.getpid(), started(os.getpid()) or 0, role, os.urandom(4).hex())

    @classmethod
    def parse(cls, name: str) -> FileName | None:
        """None for a file that is not ours."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        boot, namespace, pid, since, role, serial = found.groups()
        return cls(boot, int(namespace), int(pid), int(since), role, serial)

    def is_dead(self) -> bool | None:
        """Whether the process that wrote it has ended; None where this process cannot know: it is another container's,
        or there is no descriptor left to look with."""
        try:
            boot, namespace = _here(os.getpid())
            if self.boot != boot:
                return True
            return None if self.namespace != namespace else started(self.pid) != self.started
        except OSError:
            return None


def started(pid: int) -> int | None:
    """When a process was started, in clock ticks since the boot; None when it has ended (a zombie has).

    With its pid that names it for as long as the machine runs (proc(5), /proc/pid/stat, field 22). Without a /proc it
    is 0 for every process that is there. Raises: `OSError` where that cannot be known now (no descriptor is left).
    """
    try:
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.exists("/proc/self/stat") or not _answers(pid) else 0
    return None if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@cache
def _here(_pid: int) -> tuple[str, int]:
    """This boot and this namespace of pids; by pid, because a child may be put into a namespace of its own.

    Raises: `OSError` where no descriptor is left, which is not remembered.
    """
    try:
        return _text("/proc/sys/kernel/random/boot_id")[:8], os.stat("/proc/self/ns/pid").st_ino
    except (FileNotFoundError, PermissionError):
        return "0", 0


def _text(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


class RunDirectory:
    """An open run directory. Use it as a context manager; everything in it is reached through its descriptor."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        """Open it, made if `make`. Raises: `OSError`, with the path: not there, not a directory, not safe."""
        if make:
            with suppress(FileExistsError):
                os.mkdir(path, 0o700)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        found = os.fstat(self._descriptor)
        self.owner = found.st_uid
        problem = _problem(found, may_be_others=not make)
        if problem:
            os.close(self._descriptor)
            raise PermissionError(1, problem, str(path))

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_error: object) -> None:
        os.close(self._descriptor)

    def files(self) -> list[FileName]:
        """The status files of processes that live, as far as can be known; those of dead ones are removed."""
        living = []
        for text in sorted(os.listdir(self._descriptor)):
            name = FileName.parse(text)
            if name is None:
                continue
            if name.is_dead():
                self.remove(name)
            else:
                living.append(name)
        return living

    def create(self, name: FileName, size: int) -> int:
        """The descriptor of a new file of `size` octets of its own: a full disk shows here, not as a SIGBUS later."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(str(name), flags, 0o600, dir_fd=self._descriptor)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            os.close(descriptor)
            self.remove(name)
            raise
        return descriptor

    def read(self, name: FileName, size: int) -> bytes:
        """What stands in a file; nothing when it is gone or not what we write."""
        try:
            descriptor = os.open(
                str(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._descriptor
            )
        except OSError:
            return b""
        try:
            found = os.fstat(descriptor)
            is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == self.owner and found.st_size == size
            return os.pread(descriptor, size, 0) if is_ours else b""
        finally:
            os.close(descriptor)

    def remove(self, name: FileName) -> None:
        """Remove a file if it is there and may be removed."""
        with suppress(OSError):
            os.unlink(str(name), dir_fd=self._descriptor)


def _problem(found: os.stat_result, *, may_be_others: bool) -> str | None:
    """Why a directory cannot be trusted; root may read that of any one user."""
    if found.st_uid != os.geteuid() and not (may_be_others and os.geteuid() == 0):
        return f"belongs to user {found.st_uid} and not to {os.geteuid()}"
    if found.st_mode & 0o022:
        return f"may be written to by others (mode {stat.S_IMODE(found.st_mode):04o}); chmod 0700"
    return None
