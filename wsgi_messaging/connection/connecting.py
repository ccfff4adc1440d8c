"""Which broker next, when, and what is said about it: the attempts to connect, between one link and the next.

The first attempt after a loss goes out at once, to another host, and where there is one host only within
`FIRST_WITHIN`, when chance says: whoever has lost a broker that all others have lost would find nobody in the same
instant. A round over all hosts that failed is followed by a jittered pause, which begins when its last attempt ends.
One log line for each host that fails, one more if it comes to refuse us for a reason that waiting cannot mend, and
one when a link is up again; never a line for each attempt.

Layer 2.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..errors import ConnectFailed
from ..runtime import native
from ..runtime.journal import Journal
from .hosts import Broker, Hosts
from .link import Interrupted, Link, LinkOptions, Wait, open_link
from .timing import Backoff

_CHANCE = random.SystemRandom()
"""uWSGI's workers share the state of `random`, which is seeded again only where fork hooks run."""

FIRST_WITHIN = 0.25
"""Seconds over which the first attempts after the loss of an only host are spread."""

STABLE_AFTER = 1.0
"""Seconds that a link must have lived for its loss not to count as a failed attempt."""

FLAPPING_FROM = 2
"""So many short-lived links in a row, and the next is not tried without a pause, nor spoken of."""


class Attempts:
    """The attempts of one connection. The connection's thread alone uses it; anyone may read its attributes."""

    def __init__(
        self,
        name: str,
        brokers: Sequence[Broker],
        options: LinkOptions,
        context: tuple[ssl.SSLContext, Any] | None,
        journal: Journal,
        clock: Callable[[], float] = native.monotonic,
    ) -> None:
        self.retry_at = 0.0
        self.last_failure: ConnectFailed | None = None
        self.is_round_over = False
        """True when the attempt that failed was at the last host of a round."""
        self.is_hopeless = False
        """True when the last round ended with every broker refusing for a reason that waiting cannot mend."""
        self._name = name
        self._options = options
        self._context = context
        self._journal = journal
        self._clock = clock
        self._hosts = Hosts(brokers, _CHANCE.shuffle)
        self._brokers = len(brokers)
        self._backoff = Backoff()
        self._reported: set[tuple[str, bool]] = set()
        """What was said of which host: that it cannot be had, that it refuses for a reason waiting cannot mend."""
        self._opened_at = 0.0
        self._short_lives = 0
        self._unsaid = ""
        self.away_since: float | None = None
        """When the row of failures began that is going on."""
        self.say_at = float("inf")
        """When a link that follows a row of short-lived ones will have lived long enough to be spoken of."""
        self._failures = 0
        self._refusals = 0

    def attempt(self, wait: Wait, now: float) -> Link | None:
        """Try the next broker, beginning at `now`; None when it failed: `retry_at` says when to try again.

        Raises: `Interrupted`, from `wait`.
        """
        broker = self._hosts.take()
        self.is_hopeless = False
        try:
            link = open_link(self._with_credentials(broker), self._options, self._context, wait)
        except ConnectFailed as exc:
            failure = exc
        except Interrupted:
            raise
        except Exception as exc:  # noqa: BLE001  (a defect costs the attempt, not the thread)
            failure = ConnectFailed(f"{broker}: cannot connect ({type(exc).__name__}: {exc})")
        else:
            self._succeeded(link, self._clock())
            return link
        self.away_since = now if self.away_since is None else self.away_since
        self._failed(broker, failure, self._clock())
        return None

    def _with_credentials(self, broker: Broker) -> Broker:
        """The broker with the credentials of now: a function of the application's may rotate them."""
        if self._options.credentials is None:
            return broker
        try:
            userid, password = self._journal.ask(self._options.credentials, self._options.connect_timeout)
        except Exception as exc:
            raise ConnectFailed(f"{broker}: the function for the credentials failed: {type(exc).__name__}") from exc
        return replace(broker, userid=userid, password=password)

    def _failed(self, broker: Broker, failure: ConnectFailed, now: float) -> None:
        self.last_failure = failure
        self._failures += 1
        self._refusals += failure.is_permanent
        if (broker.address, failure.is_permanent) not in self._reported:
            self._reported.add((broker.address, failure.is_permanent))
            self._journal.warning(f"{self._name}: {failure}")
        self.retry_at = now
        self.is_round_over = self._hosts.is_round_over
        if self.is_round_over:
            self.retry_at = now + self._backoff.failed(_CHANCE.random())
            self.is_hopeless = self._refusals >= self._brokers
            self._refusals = 0

    def _succeeded(self, link: Link, now: float) -> None:
        self._opened_at = now
        self.away_since = None
        if self._reported:
            self._unsaid = f"{self._name}: connected to {link.broker} after {self._failures} failed attempts"
            self.say_at = now if self._short_lives < FLAPPING_FROM else now + STABLE_AFTER
            self.say_if_due(now)
        self._hosts.succeeded()
        self._reported.clear()
        self._failures = self._refusals = 0
        self.last_failure = None

    def lost(self, link: Link, cause: str, now: float) -> None:
        """An open link broke: another host is due at once, unless links break as soon as they are open."""
        self.say_at = float("inf")
        self.retry_at = now
        self._short_lives = self._short_lives + 1 if now - self._opened_at < STABLE_AFTER else 0
        if self._short_lives >= FLAPPING_FROM:
            self.retry_at += self._backoff.failed(_CHANCE.random())
        else:
            self._backoff.succeeded()
            if self._brokers == 1:
                self.retry_at += FIRST_WITHIN * _CHANCE.random()
        self._reported.add((link.broker.address, False))
        if self._short_lives <= FLAPPING_FROM:
            self._journal.warning(f"{self._name}: lost {link.broker}: {cause}")

    def say_if_due(self, now: float) -> None:
        """Say that a link is up again, once, when it is time to: as a warning, as its loss was."""
        if now >= self.say_at:
            self.say_at = float("inf")
            self._journal.warning(self._unsaid)
