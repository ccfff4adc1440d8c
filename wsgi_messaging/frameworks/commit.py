"""A message that waits for a commit: made ready before it, while its errors can still undo the transaction.

Layer 5: imports messages.
"""

from __future__ import annotations

from typing import Any

from ..messages import Message, encode_body


def sealed(body: Any, routing_key: str, exchange: str, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Transport.publish` for this message, its body encoded now: later changes are not in it.

    Raises: `InvalidMessage`; `TypeError` for an argument that `publish` does not have.
    """
    data, content_type, encoding = encode_body(body, options.get("content_type"))
    arguments = {
        **options,
        "body": data,
        "routing_key": routing_key,
        "exchange": exchange,
        "content_type": content_type,
        "properties": {"content_encoding": encoding, **(options.get("properties") or {})},
    }
    Message(**arguments).encoded("")
    return arguments
