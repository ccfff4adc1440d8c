"""The start of a connection's thread: once, by whoever is first, and whatever comes in between.

An exception from outside (a signal handler's, `gevent.Timeout`) may come out of any line here, with the thread running
or not. So the thread claims its beginning, or whoever failed to start it claims that there is none.

Layer 1: imports runtime.native and our errors.
"""

from __future__ import annotations

from ..errors import Unavailable
from ..runtime import native
from .watch import Watch


class Start:
    """Of one thread. `open` and `forgo` are for any thread, `begin` is the thread's own."""

    def __init__(self, watch: Watch, thread: native.NativeThread) -> None:
        self._watch = watch
        self._thread = thread
        self._token = native.allocate_lock()
        self._claim = native.allocate_lock()
        self._opener = 0
        self._is_forgone = False

    @property
    def is_under_way_here(self) -> bool:
        """True in a signal handler that came while its thread was at it: nothing goes on before that returns."""
        return self._opener == native.get_ident()

    def open(self) -> None:
        """Start the thread, if nobody has. Raises: `Unavailable` when the system gives no thread, or no descriptor."""
        if not self._token.acquire(False):
            return
        self._opener = native.get_ident()
        try:
            self._watch.open()
            self._thread.start()
        except BaseException as exc:
            self._is_forgone = self._claim.acquire(False)
            if self._is_forgone:
                self._watch.close()
            if isinstance(exc, (OSError, RuntimeError)) and not isinstance(exc, TimeoutError):
                raise Unavailable(f"no thread can be started: {exc}") from exc
            raise
        finally:
            self._opener = 0

    def begin(self) -> bool:
        """False when the thread is to end at once."""
        return self._claim.acquire(False)

    def forgo(self) -> bool:
        """True when the thread was not started, and will not be."""
        if self._token.acquire(False):
            self._is_forgone = self._claim.acquire(False)
        return self._is_forgone
