"""Names on a command line, as `type` of an argument: argparse names the option of one that AMQP cannot carry.

Layer 5: imports the standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

LONGEST = 255


def name_up_to(most: int) -> Callable[[str], str]:
    """A name of at most so many octets in UTF-8."""

    def name(text: str) -> str:
        try:
            octets = len(text.encode())
        except UnicodeEncodeError as exc:  # from bytes that are no UTF-8
            raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from exc
        if octets > most:
            raise argparse.ArgumentTypeError(f"a name of {octets} octets is longer than {most}")
        return text

    return name


amqp_name = name_up_to(LONGEST)
