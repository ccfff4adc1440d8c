"""Numbers on a command line, as `type` of an argument: argparse names the option of one that cannot be meant.

Layer 5: imports the standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

LONGEST = 1_000_000
"""Seconds, eleven days: poll(2) takes no more than twice as many."""


def seconds(text: str) -> float:
    """Above 0."""
    value = _number(text)
    if not 0 < value <= LONGEST:  # what is not a number is neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, up to {LONGEST}")
    return value


def seconds_or_none(text: str) -> float:
    """From 0 on, where 0 has a meaning."""
    value = _number(text)
    if not 0 <= value <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to {LONGEST}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A whole number from `least` on."""
    wanted = f"of {least} or more" if most is None else f"from {least} to {most}"

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {wanted}")
        return value

    return number


port = whole(0, 65535)
