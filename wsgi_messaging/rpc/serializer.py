"""Serializers: what an application's own types become before they are JSON, and after.

Layer 4: imports nothing of ours.
"""

from __future__ import annotations

from typing import Any, Protocol


class Serializer(Protocol):
    """As oslo.messaging's: an entity is an argument, a result or a payload; a context is what travels beside it."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any: ...

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any: ...

    def serialize_context(self, ctxt: Any) -> Any: ...

    def deserialize_context(self, ctxt: Any) -> Any: ...


class NoOpSerializer:
    """Leaves everything as it is; subclass it to change a part."""

    def serialize_entity(self, ctxt: Any, entity: Any) -> Any:
        return entity

    def deserialize_entity(self, ctxt: Any, entity: Any) -> Any:
        return entity

    def serialize_context(self, ctxt: Any) -> Any:
        return ctxt

    def deserialize_context(self, ctxt: Any) -> Any:
        return ctxt
