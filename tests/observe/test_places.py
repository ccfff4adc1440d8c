"""The run directory: private, no symbolic links, and files that vanish with the process that wrote them."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.harness.waiting import wait_until
from wsgi_messaging.observe import places
from wsgi_messaging.observe.places import FileName, RunDirectory

SIZE = 64


def written(path: Path, name: FileName, content: bytes = b"x" * SIZE) -> FileName:
    """A file of that name in the directory."""
    with RunDirectory(path, make=True) as directory:
        descriptor = directory.create(name, SIZE)
        os.write(descriptor, content)
        os.close(descriptor)
    return name


def test_it_is_made_private(run_dir: Path) -> None:
    before = os.umask(0)
    try:
        name = written(run_dir, FileName.of_this_process("publish"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((run_dir / str(name)).stat().st_mode) == 0o600


def test_a_symbolic_link_in_its_place_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    run_dir.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        RunDirectory(run_dir, make=True)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_one_that_others_may_write_to_is_refused(run_dir: Path, mode: int) -> None:
    run_dir.mkdir()
    run_dir.chmod(mode)
    with pytest.raises(PermissionError, match="by others"):
        RunDirectory(run_dir)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_one_of_another_user_is_read_by_root_and_not_written_to(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    os.chown(run_dir, 12345, 12345)
    RunDirectory(run_dir).__exit__()
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        RunDirectory(run_dir, make=True)


def test_a_symbolic_link_in_it_is_not_followed(run_dir: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * SIZE)
    run_dir.mkdir(mode=0o700)
    name = FileName.of_this_process("publish")
    (run_dir / str(name)).symlink_to(secret)
    with RunDirectory(run_dir) as directory:
        assert directory.read(name, SIZE) == b""
        with pytest.raises(FileExistsError):
            directory.create(name, SIZE)
    assert secret.read_bytes() == b"s" * SIZE


def test_a_pipe_in_it_does_not_stop_a_reader(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    name = FileName.of_this_process("publish")
    os.mkfifo(run_dir / str(name))
    with RunDirectory(run_dir) as directory:
        assert directory.read(name, SIZE) == b""


def test_a_full_disk_shows_when_the_file_is_made(run_dir: Path) -> None:
    """With an ftruncate instead, the first write into the mapping would be a SIGBUS in somebody's worker."""
    with RunDirectory(run_dir, make=True) as directory:
        name = FileName.of_this_process("publish")
        descriptor = directory.create(name, 8192)
        assert os.fstat(descriptor).st_blocks * 512 >= 8192, "its blocks are there before anything is written"
        os.close(descriptor)
        directory.remove(name)
        with pytest.raises(OSError):
            directory.create(name, 1 << 60)
        assert directory.files() == [], "what was begun is removed"


def test_the_file_of_a_killed_process_is_removed_by_whoever_looks(run_dir: Path) -> None:
    own = written(run_dir, FileName.of_this_process("publish"))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        since = wait_until(lambda: places.started(child.pid), what="the child")
        its = written(run_dir, replace(own, pid=child.pid, started=since))
        with RunDirectory(run_dir) as directory:
            assert set(directory.files()) == {own, its}
            child.send_signal(signal.SIGKILL)
            wait_until(lambda: directory.files() == [own], what="the end of the child, not reaped yet")
        assert child.wait(5.0) == -signal.SIGKILL
    assert [path.name for path in run_dir.iterdir()] == [str(own)]


def test_a_pid_that_is_used_again_is_another_process(run_dir: Path) -> None:
    own = FileName.of_this_process("publish")
    written(run_dir, replace(own, started=own.started - 1))
    with RunDirectory(run_dir) as directory:
        assert directory.files() == []
    assert list(run_dir.iterdir()) == []


def test_another_boot_is_over_and_another_container_is_not_judged(run_dir: Path) -> None:
    own = FileName.of_this_process("publish")
    written(run_dir, replace(own, boot="0badb007"))
    foreign = written(run_dir, replace(own, namespace=own.namespace + 1, pid=1 << 22))
    with RunDirectory(run_dir) as directory:
        assert directory.files() == [foreign]


def test_other_files_are_left_alone(run_dir: Path) -> None:
    run_dir.mkdir(mode=0o700)
    for name in ("notes.txt", "x.status", "../x.status".replace("/", "_")):
        (run_dir / name).write_text("mine")
    with RunDirectory(run_dir) as directory:
        assert directory.files() == []
    assert len(list(run_dir.iterdir())) == 3


def test_the_name_says_everything() -> None:
    name = FileName.of_this_process("consume")
    assert FileName.parse(str(name)) == name
    assert (name.pid, name.role, name.is_dead()) == (os.getpid(), "consume", False)
    assert FileName.parse(str(name).replace("consume", "../../etc")) is None


def test_where_auto_is() -> None:
    assert places.resolve("/run/shop", "shop") == Path("/run/shop")
    found = places.resolve("auto", "shop", {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert found == Path("/run/user/7/wsgi_messaging-shop")
    hostile = places.resolve("auto", "../../etc/shop", {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert hostile.parent == Path("/run/user/7")
    without = places.resolve("auto", "shop", {})
    assert without.name == f"wsgi_messaging-{os.geteuid()}-shop"


def _too_many(path: str) -> str:
    raise OSError(errno.EMFILE, "Too many open files", path)


@pytest.fixture
def no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the process has opened all that it may; for /proc only, so that pytest goes on."""
    opens = os.open

    def refused(path: object, *arguments: object, **options: object) -> int:
        if str(path).startswith("/proc"):
            raise OSError(errno.EMFILE, "Too many open files", path)
        return opens(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    places._here.cache_clear()


def test_who_has_no_descriptor_left_to_look_with_removes_nothing(run_dir: Path, no_descriptor: None) -> None:
    """All workers were taken for dead, and were not seen any more."""
    name = FileName("0" * 8, 1, os.getpid(), 1, "publish", "0" * 8)
    assert name.is_dead() is None
    with RunDirectory(run_dir, make=True) as directory:
        os.close(directory.create(name, SIZE))
        assert directory.files() == [name]


def test_what_could_not_be_known_once_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was remembered for the process's life, and took every other worker's files for those of another boot."""
    places._here.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(places, "_text", _too_many)
        with pytest.raises(OSError):
            FileName.of_this_process("publish")
    assert FileName.of_this_process("publish").is_dead() is False


def test_no_two_applications_share_an_automatic_directory(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    apps = ["магазин", "корзина", "shop/eu", "shop:eu", "shop_eu", "x" * 120 + "-prod", "x" * 120 + "-test"]
    assert len({places.resolve("auto", app, environ) for app in apps}) == len(apps)
    assert places.resolve("auto", "shop_eu", environ) == tmp_path / "wsgi_messaging-shop_eu"
    assert all(len(places.resolve("auto", app, environ).name) < 200 for app in apps)
