"""Notifications off the request path: a bounded line to one thread, which declares, publishes and tries again.

Whoever notifies never waits and never fails for the broker's sake; what does not fit is dropped and counted. What
the broker could not take in time is tried again, together with what came later, as often as each may be. At the end
of the process the line is flushed, within the time that the end has.

Layer 4: imports runtime, errors.
"""

from __future__ import annotations

import logging
import sys
import weakref

from ..errors import Expired, MessagingError, Unavailable
from ..runtime import native, worker
from ..runtime.mailbox import Mailbox
from ..runtime.process import PerProcess
from ..runtime.waiting import Completion, is_application_side, start_application_thread
from .sending import Parcel, Sender

logger = logging.getLogger("wsgi_messaging.notify")

_IDLE = 3600.0
"""Seconds that the thread sleeps at a time when there is nothing to send."""
_BATCH = 100
"""Messages that are published at a time."""
_LAST = 5.0
"""Seconds that the thread of a notifier that was dropped without a close has for what is in the line."""
_PAUSE = 0.2
"""Seconds between two attempts where the failure came at once."""


class _Line:
    """What one process has: the line, and its thread once something stands in it."""

    def __init__(self, sender: Sender) -> None:
        self.close_by: float | None = None
        self.ended = Completion()
        self._sender = sender
        self._items: Mailbox[Parcel | Completion] = Mailbox()
        self._in_hand: list[Parcel] = []
        self._marks: list[Completion] = []
        self._closing = Completion()
        self._start_token = native.allocate_lock()
        self._has_warned = False

    @property
    def waiting(self) -> int:
        return len(self._items) + len(self._in_hand)

    def put(self, parcels: list[Parcel], limit: int) -> bool:
        """Append all of them, or none where they do not fit. Blocks: never.

        There is no lock, so that a signal handler may come in; callers at the same moment may exceed the limit by
        what each of them brings.
        """
        if self.close_by is not None or self.waiting + len(parcels) > limit:
            return False
        if not self.start() and self.ended.is_set:
            return False
        for parcel in parcels:
            self._items.put(parcel)
        return True

    def start(self) -> bool:
        """Start the thread where there is none. False when it has ended, or none could be started now.

        A greenlet that is started where no hub runs, on a thread of the hub's pool, would never do anything; and where
        there are no threads for a moment, there may be one later. Either way the next call starts it.
        """
        if self.ended.is_set:
            return False
        if self._start_token.locked() or (native.is_patched() and not is_application_side()):
            return True
        if self._start_token.acquire(False):
            try:
                start_application_thread("wsgi-messaging-notify", self._run)
            except RuntimeError:
                if sys.is_finalizing():
                    self.ended.set()
                self._start_token.release()
                return False
            self._sender.warm()  # now: at the end of a process Python 3.12 starts no thread for the connection
        return True

    def flush(self, timeout: float) -> bool:
        """Wait until what is in the line now was sent or given up. False when it was not within `timeout`."""
        reached = Completion()
        self._items.put(reached)
        return self.start() and reached.wait(timeout)

    def end(self, close_by: float) -> None:
        """Take no more, send what there is until `close_by`, and end the thread. Returns at once."""
        self.close_by = close_by
        self._closing.set()
        if self._start_token.acquire(False):
            self.ended.set()
        self._items.close()

    # The thread.

    def _run(self) -> None:
        try:
            while self._gather():
                self._send()
        except Exception:
            logger.exception("the notifications' thread failed")
        finally:
            self._start_token.release()  # the next call starts another thread, where this one was ended too early
            if self.close_by is not None:
                self.ended.set()

    def _gather(self) -> bool:
        """Take a batch in hand, behind what is to be tried again, so that one route's failure stops no other.

        Blocks: until there is something to do. False at the end.
        """
        wait = 0.0 if self._in_hand else _IDLE
        for _ in range(_BATCH):
            item = self._items.get(wait)
            if isinstance(item, Parcel):
                self._in_hand.append(item)
                wait = 0.0
                continue
            if item is not None:
                self._marks.append(item)
            break
        return bool(self._in_hand or self._marks) or self.close_by is None

    def _send(self) -> None:
        began_at = native.monotonic()
        timeout = self._sender.timeout
        if self.close_by is not None:
            timeout = min(timeout, max(0.0, self.close_by - began_at))
        if self._in_hand:
            try:
                results = self._sender.send(self._in_hand, timeout)
            except Exception as exc:  # noqa: BLE001  (told as what became of these messages)
                results = [_told(exc)] * len(self._in_hand)
            self._has_warned = self._has_warned and any(results)
            outcome = zip(self._in_hand, results, strict=True)
            self._in_hand = [parcel for parcel, error in outcome if not self._settle(parcel, error)]
        if not self._in_hand:
            while self._marks:
                self._marks.pop().set()
        elif native.monotonic() - began_at < _PAUSE:
            (self._closing if self.close_by is None else Completion()).wait(_PAUSE)

    def _settle(self, parcel: Parcel, error: MessagingError | None) -> bool:
        """Count what became of a parcel. False when it is to be tried again."""
        parcel.tries += 1
        is_passing = isinstance(error, (Unavailable, Expired))
        is_over = self.close_by is not None and native.monotonic() >= self.close_by
        if is_passing and parcel.may_try_again and not is_over:
            self._warn(error)
            return False
        if error is None:
            self._sender.tally.sent += 1
        else:
            self._warn(error)
            self._sender.tally.failed += 1
        return True

    def _warn(self, error: MessagingError | None) -> None:
        """One line when it begins to fail, not one for each message."""
        if not self._has_warned:
            self._has_warned = True
            unforeseen = error if type(error) is MessagingError else None
            logger.warning("notifications cannot be sent: %s", error, exc_info=unforeseen)


class Buffer:
    """A line of at most `size` messages to a sender; a member of the worker, flushed at its end.

    Threads: any thread or greenlet. After fork: the child has an empty line of its own.
    """

    def __init__(self, sender: Sender, size: int) -> None:
        self._sender = sender
        self._size = size
        self._process: PerProcess[_Line] = PerProcess(lambda: _Line(sender), _forget)
        weakref.finalize(self, _end, self._process).atexit = False
        worker.enlist(self)

    @property
    def waiting(self) -> int:
        """Messages in the line of this process."""
        line = self._process.peek()
        return 0 if line is None else line.waiting

    def put(self, parcels: list[Parcel]) -> bool:
        """Hand messages over. Blocks: never. False when they did not fit, or it is closed: they are counted dropped."""
        is_taken = self._process.get().put(parcels, self._size)
        if not is_taken:
            self._sender.tally.dropped += len(parcels)
        return is_taken

    def flush(self, timeout: float) -> bool:
        """Blocks: until what was handed over before is settled, up to `timeout` seconds. False when it was not."""
        line = self._process.peek()
        return True if line is None else line.flush(timeout)

    def warm(self) -> None:
        """Nothing: the transport warms itself."""

    def close(self, timeout: float) -> bool:
        """Take no more in this process, and send what there is.

        Blocks: up to `timeout`. False when some was not sent.
        """
        line = self._process.peek()
        if line is None:
            return True
        failed_before = self._sender.tally.failed
        if line.waiting:
            line.start()
        line.end(native.monotonic() + timeout)
        has_ended = line.ended.wait(timeout)
        unsent = line.waiting + self._sender.tally.failed - failed_before
        if unsent:
            logger.warning("the end came before %d notifications could be sent", unsent)
        return has_ended and not unsent


def _told(failure: Exception) -> MessagingError:
    """A failure as one of ours."""
    if isinstance(failure, MessagingError):
        return failure
    told = MessagingError(f"{type(failure).__name__}: {failure}")
    told.__cause__ = failure
    return told


def _forget(_line: _Line) -> None:
    """A parent's line: the parent sends it."""


def _end(process: PerProcess[_Line]) -> None:
    """The notifier was dropped without a close: its thread sends what there is, and ends."""
    line = process.peek()
    if line is not None:
        line.end(native.monotonic() + _LAST)
