"""What the tests of a cluster share."""

from __future__ import annotations

import pytest

from wsgi_messaging.connection import connecting


class InOrder:
    """No chance: the first broker of a URL is tried first."""

    def shuffle(self, _order: list[object]) -> None: ...

    def random(self) -> float:
        return 0.5


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_CHANCE", InOrder())
