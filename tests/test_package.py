"""What is shipped: a wheel and an sdist that install into a fresh environment and carry what a deployer needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from tests.harness.requirements import missing

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, made of what git knows, and the wheel made of it."""
    folder = tmp_path_factory.mktemp("dist")
    try:
        run(sys.executable, "-m", "build", "--version", cwd=folder)
    except AssertionError:
        missing("build is not installed: make test, or pip install build")
    source = folder / "source"
    run("git", "clone", "-q", ROOT, source, cwd=folder)
    run(sys.executable, "-m", "build", "--outdir", folder / "out", source, cwd=folder)
    return {path.suffix: path for path in (folder / "out").iterdir()}


def test_the_sdist_has_all_it_takes_to_work_on_it(shipped: dict[str, Path]) -> None:
    with tarfile.open(shipped[".gz"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for wanted in (
        "hooks/uwsgi.ini",
        "examples/api.py",
        "tests/conftest.py",
        "tools/environment",
        "Makefile",
        "LICENSE",
    ):
        assert wanted in names


def test_the_wheel_installs_and_finds_its_hooks(shipped: dict[str, Path], tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    binaries = environment / "bin"
    run(binaries / "pip", "install", "-q", "--disable-pip-version-check", shipped[".whl"], cwd=tmp_path)
    copied = run(binaries / "wsgi-messaging", "hooks", "--copy", tmp_path / "deploy", cwd=tmp_path)
    assert copied
    for hook in (ROOT / "hooks").iterdir():
        assert (tmp_path / "deploy" / hook.name).read_bytes() == hook.read_bytes()
    examples = environment / "share" / "wsgi-messaging" / "examples"
    assert {path.name for path in examples.iterdir()} >= {"api.py", "demo.py", "nova_api.py"}
    deploy = {path.name for path in (ROOT / "examples" / "deploy").iterdir()}
    assert {path.name for path in (examples / "deploy").iterdir()} == deploy
    code = "import wsgi_messaging, sys; print(sorted(m for m in sys.modules if m in ('kombu', 'wsgi_messaging.rpc')))"
    assert run(binaries / "python", "-c", code, cwd=tmp_path).strip() == "[]"
    installed = run(binaries / "pip", "list", "--format=freeze", "--disable-pip-version-check", cwd=tmp_path)
    assert f"wsgi-messaging=={version()}" in installed.splitlines()


def version() -> str:
    names: dict[str, str] = {}
    exec((ROOT / "wsgi_messaging" / "version.py").read_text(), names)
    return names["__version__"]


def test_a_type_checker_sees_that_it_is_typed(shipped: dict[str, Path]) -> None:
    listing = run(sys.executable, "-m", "zipfile", "-l", shipped[".whl"], cwd=Path(os.sep))
    assert "wsgi_messaging/py.typed" in listing
