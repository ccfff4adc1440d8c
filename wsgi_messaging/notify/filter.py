r"""Which notifications an endpoint wants, as regular expressions on their fields.

Layer 4: imports `re` and our errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError

Pattern = re.Pattern[str]


class NotificationFilter:
    r"""An endpoint's `filter_rule`: only what matches every expression given reaches its methods.

    `context`, `metadata` and `payload` are mappings of a key to an expression. As in oslo.messaging an expression
    must match from the beginning of a value, and a key that is missing, or whose value is no text, does not match.

    Raises: `ConfigurationError` for what is no regular expression.
    """

    def __init__(
        self,
        context: Mapping[str, str] | None = None,
        publisher_id: str | None = None,
        event_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        payload: Mapping[str, str] | None = None,
    ) -> None:
        self._publisher_id = _compiled("publisher_id", publisher_id)
        self._event_type = _compiled("event_type", event_type)
        self._context = _all_compiled("context", context)
        self._metadata = _all_compiled("metadata", metadata)
        self._payload = _all_compiled("payload", payload)

    def match(self, context: Any, publisher_id: Any, event_type: Any, metadata: Any, payload: Any) -> bool:
        """True when a notification is wanted. Never raises, whatever the values are."""
        return (
            _fits(self._publisher_id, publisher_id)
            and _fits(self._event_type, event_type)
            and _all_fit(self._context, context)
            and _all_fit(self._metadata, metadata)
            and _all_fit(self._payload, payload)
        )


def _compiled(name: str, expression: str | None) -> Pattern | None:
    try:
        return None if expression is None else re.compile(expression)
    except (re.error, TypeError) as exc:
        raise ConfigurationError(f"{name}: {expression!r} is no regular expression: {exc}") from exc


def _all_compiled(name: str, expressions: Mapping[str, str] | None) -> dict[str, Pattern]:
    compiled = {key: _compiled(f"{name}, {key}", expression) for key, expression in (expressions or {}).items()}
    return {key: pattern for key, pattern in compiled.items() if pattern is not None}


def _fits(pattern: Pattern | None, value: Any) -> bool:
    return pattern is None or (isinstance(value, str) and pattern.match(value) is not None)


def _all_fit(patterns: Mapping[str, Pattern], values: Any) -> bool:
    if not patterns:
        return True
    return isinstance(values, Mapping) and all(
        key in values and _fits(pattern, values[key]) for key, pattern in patterns.items()
    )
