"""Exchanges: what is bound, and which bindings a message matches.

Layer 5, part of the embedded broker: pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .messages import Message
from .refusals import Refusal

TYPES = ("direct", "topic", "fanout", "headers")
_MATCHES = ("all", "any", "all-with-x", "any-with-x")


@dataclass(frozen=True)
class Binding:
    """From an exchange to a queue or to another exchange."""

    to_queue: bool
    destination: str
    routing_key: str
    arguments: tuple[tuple[str, str], ...]
    """The arguments in a form that compares and hashes; what they say is in `wanted`."""
    wanted: Mapping[str, Any] = field(compare=False)
    words: tuple[str, ...] = field(compare=False)

    @classmethod
    def to(cls, destination: str, *, to_queue: bool, routing_key: str, arguments: Mapping[str, Any]) -> Binding:
        frozen = tuple(sorted((name, repr(value)) for name, value in arguments.items()))
        return cls(to_queue, destination, routing_key, frozen, dict(arguments), words_of(routing_key))


class Exchange:
    """An exchange and its bindings, in the order in which they were made."""

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = dict(arguments or {})
        self.bindings: dict[Binding, None] = {}
        self._by_key: dict[str, dict[Binding, None]] = {}

    @property
    def alternate(self) -> str | None:
        name = self.arguments.get("alternate-exchange")
        return name if isinstance(name, str) else None

    def add(self, binding: Binding) -> None:
        """Bind; the same binding again changes nothing. Raises: `Refusal` 406 for an unknown `x-match`."""
        if self.kind == "headers":
            match = binding.wanted.get("x-match", "all")
            if match not in _MATCHES:
                raise Refusal(
                    406,
                    f'Invalid x-match field value <<"{match}">>; expected all, any, all-with-x, or any-with-x',
                )
        self.bindings[binding] = None
        self._by_key.setdefault(binding.routing_key, {})[binding] = None

    def remove(self, binding: Binding) -> bool:
        """Unbind; False if there was no such binding."""
        if binding not in self.bindings:
            return False
        del self.bindings[binding]
        same_key = self._by_key[binding.routing_key]
        del same_key[binding]
        if not same_key:
            del self._by_key[binding.routing_key]
        return True

    def bound_to(self, destination: str, *, to_queue: bool) -> list[Binding]:
        return [
            binding for binding in self.bindings if binding.destination == destination and binding.to_queue == to_queue
        ]

    def matching(self, message: Message) -> Iterator[Binding]:
        """The bindings that the message takes; one may come up once for each of its routing keys."""
        if self.kind == "fanout":
            yield from self.bindings
        elif self.kind == "headers":
            headers = message.headers
            yield from (binding for binding in self.bindings if headers_match(binding.wanted, headers))
        elif self.kind == "topic":
            for routing_key in message.routing_keys:
                words = words_of(routing_key)
                yield from (binding for binding in self.bindings if topic_matches(binding.words, words))
        else:
            for routing_key in message.routing_keys:
                yield from self._by_key.get(routing_key, ())


def words_of(routing_key: str) -> tuple[str, ...]:
    """The words of a topic's key; an empty key has none."""
    return tuple(routing_key.split(".")) if routing_key else ()


def topic_matches(pattern: tuple[str, ...], words: tuple[str, ...]) -> bool:
    """True when the words fit the pattern: `*` is one word, `#` any number of words, none included."""
    reachable = {0}
    for part in pattern:
        if part == "#":
            reachable = set(range(min(reachable), len(words) + 1)) if reachable else set()
        else:
            reachable = {at + 1 for at in reachable if at < len(words) and part in ("*", words[at])}
    return len(words) in reachable


def headers_match(wanted: Mapping[str, Any], headers: Mapping[str, Any]) -> bool:
    """True when a headers exchange takes a message with these headers.

    Names that begin with `x-` count with `all-with-x` and `any-with-x` only; a wanted void value asks for
    presence.
    """
    match = str(wanted.get("x-match", "all"))
    with_x = match.endswith("-with-x")
    found = [
        name in headers and (value is None or (headers[name] == value and _same_kind(headers[name], value)))
        for name, value in wanted.items()
        if name != "x-match" and (with_x or not name.startswith("x-"))
    ]
    return any(found) if match.startswith("any") else all(found)


def _same_kind(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool)
