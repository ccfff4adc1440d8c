"""What a test needs and this machine may lack: skipped with the reason on a laptop, failed in CI."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def in_ci() -> bool:
    """Whether a missing broker or server is a failure (CI set to anything but 0, false or nothing)."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def missing(reason: str) -> NoReturn:
    """Skip the test for `reason`; in CI fail it."""
    if in_ci():
        pytest.fail(f"{reason} (CI is set, so this is not skipped)", pytrace=False)
    pytest.skip(reason)
