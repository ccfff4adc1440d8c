"""One way to speak to gevent, eventlet and plain threads, for the programs that the tests run.

Nothing of the package is imported here: a program decides when to patch, before or after that import.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Hub(Protocol):
    """What a program needs of its library. `greenlet` stands for whatever `spawn` gives."""

    name: str

    def patch(self) -> None: ...

    def spawn(self, run: Callable[..., object], *args: object) -> Any: ...

    def join(self, greenlets: list[Any]) -> None:
        """Wait for all; raises what one of them raised."""

    def sleep(self, seconds: float) -> None: ...

    def kill(self, greenlet: Any) -> None:
        """Raise GreenletExit in it and wait for its end."""

    def timeout(self, seconds: float) -> AbstractContextManager[object]:
        """Ends its block after `seconds`, quietly, with the library's own Timeout."""

    def call_in_hub(self, run: Callable[[], object]) -> None:
        """Have `run` called by the hub's own greenlet, soon."""

    def call_in_pool(self, run: Callable[[], object]) -> None:
        """Call `run` on a thread of the library's pool; wait for its end."""


class Gevent:
    name = "gevent"

    def patch(self) -> None:
        from gevent import monkey

        monkey.patch_all()

    def spawn(self, run: Callable[..., object], *args: object) -> Any:
        import gevent

        return gevent.spawn(run, *args)

    def join(self, greenlets: list[Any]) -> None:
        import gevent

        gevent.joinall(greenlets, raise_error=True)

    def sleep(self, seconds: float) -> None:
        import gevent

        gevent.sleep(seconds)

    def kill(self, greenlet: Any) -> None:
        greenlet.kill()

    def timeout(self, seconds: float) -> AbstractContextManager[object]:
        import gevent

        timeout: AbstractContextManager[object] = gevent.Timeout(seconds, False)
        return timeout

    def call_in_hub(self, run: Callable[[], object]) -> None:
        import gevent

        gevent.get_hub().loop.run_callback(run)

    def call_in_pool(self, run: Callable[[], object]) -> None:
        import gevent

        gevent.get_hub().threadpool.apply(run)


class Eventlet:
    name = "eventlet"

    def patch(self) -> None:
        import eventlet

        eventlet.monkey_patch()

    def spawn(self, run: Callable[..., object], *args: object) -> Any:
        import eventlet

        return eventlet.spawn(run, *args)

    def join(self, greenlets: list[Any]) -> None:
        for greenlet in greenlets:
            greenlet.wait()

    def sleep(self, seconds: float) -> None:
        import eventlet

        eventlet.sleep(seconds)

    def kill(self, greenlet: Any) -> None:
        greenlet.kill()
        self.sleep(0)

    def timeout(self, seconds: float) -> AbstractContextManager[object]:
        import eventlet

        timeout: AbstractContextManager[object] = eventlet.Timeout(seconds, False)
        return timeout

    def call_in_hub(self, run: Callable[[], object]) -> None:
        from eventlet import hubs

        hubs.get_hub().schedule_call_global(0, run)

    def call_in_pool(self, run: Callable[[], object]) -> None:
        from eventlet import tpool

        tpool.execute(run)


class Threads:
    """No hub: what the same work costs with threads. It kills nothing."""

    name = "threads"

    def patch(self) -> None:
        """Nothing is patched."""

    def spawn(self, run: Callable[..., object], *args: object) -> Any:
        thread = threading.Thread(target=run, args=args, daemon=True)
        thread.start()
        return thread

    def join(self, greenlets: list[Any]) -> None:
        for thread in greenlets:
            thread.join()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


HUBS: dict[str, Callable[[], Any]] = {"gevent": Gevent, "eventlet": Eventlet, "threads": Threads}
