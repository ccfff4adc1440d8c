"""`wsgi-messaging hooks`: where the drop-in configuration files are, and a copy of them to edit.

Layer 5: imports errors.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

DISTRIBUTION = "wsgi-messaging"
FILES = {
    "gunicorn": ("gunicorn.conf.py", "gunicorn -c gunicorn.conf.py app:app"),
    "uwsgi": ("uwsgi.ini", "uwsgi --ini uwsgi.ini --http-socket 127.0.0.1:8000 --module app:app"),
    "mod_wsgi": (
        "apache-mod_wsgi.conf",
        "Include it in a virtual host, after the line: Define WSGI_SCRIPT /path/app.wsgi",
    ),
    "werkzeug": ("werkzeug-serve.sh", "sh werkzeug-serve.sh app:app"),
}


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "hooks",
        description="List the drop-in configuration files for the servers, or copy them to edit them.",
        epilog="Exit status: 0 done, 1 a file exists already or cannot be written, 2 wrong usage.",
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--list", action="store_true", help="print each server, its file, and how to use it")
    action.add_argument("--copy", metavar="DIR", type=Path, help="copy the files into DIR (made if missing)")
    parser.add_argument("--server", choices=sorted(FILES), help="only the file of this server")
    parser.add_argument("--force", action="store_true", help="overwrite what is in DIR already")


def run(args: argparse.Namespace) -> int:
    source = find("hooks")
    names = [args.server] if args.server else list(FILES)
    if args.list:
        print(f"# {source}")
        for name in names:
            print(f"{name:<9} {FILES[name][0]:<21} {FILES[name][1]}")
        return 0
    return _copy([source / FILES[name][0] for name in names], args.copy, overwrite=args.force)


def find(folder: str) -> Path:
    """Where `hooks` or `examples` is in this installation.

    A checkout comes first: an editable installation leaves an old copy under its prefix as well.

    Raises: ConfigurationError: the installation carries none.
    """
    checkout = Path(__file__).resolve().parent.parent.parent
    if (checkout / folder).is_dir() and (checkout / "setup.cfg").is_file():
        return checkout / folder
    shared = ("share", DISTRIBUTION, folder)
    try:
        recorded = importlib.metadata.distribution(DISTRIBUTION).files or []
    except importlib.metadata.PackageNotFoundError:
        recorded = []
    for file in recorded:
        if file.parts[-4:-1] == shared and (path := Path(str(file.locate())).resolve()).is_file():
            return path.parent
    installed = Path(sysconfig.get_path("data")).joinpath(*shared)
    if installed.is_dir():
        return installed
    raise ConfigurationError(f"this installation has no {folder}/: they are in the source distribution")


def _copy(files: list[Path], target: Path, *, overwrite: bool) -> int:
    existing = [file.name for file in files if (target / file.name).exists()]
    if existing and not overwrite:
        print(f"{target} has {', '.join(existing)} already; --force overwrites", file=sys.stderr)
        return 1
    try:
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copyfile(file, target / file.name)
            print(target / file.name)
    except OSError as exc:
        print(f"cannot copy to {target}: {exc}", file=sys.stderr)
        return 1
    return 0
