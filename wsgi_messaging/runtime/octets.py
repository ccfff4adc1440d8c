"""send(2) and recv(2) on a non-blocking socket that keep the interpreter where it is dear to give away.

Python gives the interpreter away around each of them, for some microseconds, and has it back behind threads that
compute 5 ms later (`sys.getswitchinterval()`). Two calls in a row that took longer than they can have needed tell that
others want it: for a moment they go through ctypes' `PyDLL`, which keeps it. Elsewhere they do not: that takes some
2 us more.

Layer 0: imports native.
"""

from __future__ import annotations

import os
from typing import Any

from . import native

DEAR = 0.002
"""Seconds for a call that waits for nothing: somebody else had the interpreter meanwhile, or the processor."""
KEPT_FOR = 1.0
"""Seconds until it is given away again, to see whether it comes back at once."""
KEPT_AT_MOST = 65536
"""Octets that are copied while it is kept: some 10 us."""

try:
    import ctypes

    _system: Any = ctypes.PyDLL(None, use_errno=True)
    _system.send.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    _system.recv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    _system.send.restype = _system.recv.restype = ctypes.c_ssize_t
except (ImportError, AttributeError, OSError, MemoryError):  # MemoryError: where SELinux forbids what ctypes allocates
    _system = None


class Octets:
    """The octets of one socket, for who owns it: nobody else closes it meanwhile."""

    def __init__(self, sock: native.Socket) -> None:
        self._sock = sock
        self._was_dear = False
        self._keeps_until = float("-inf")

    @property
    def is_contended(self) -> bool:
        """True while others want the interpreter."""
        return native.monotonic() < self._keeps_until

    def send(self, data: memoryview) -> int:
        """As the socket's. Raises: OSError, `BlockingIOError` where it takes nothing now."""
        began_at = native.monotonic()
        if began_at < self._keeps_until and len(data) <= KEPT_AT_MOST:
            return _result(_system.send(self._sock.fileno(), data.tobytes(), len(data), 0))
        sent = self._sock.send(data)
        self._was_dear = native.monotonic() - began_at > DEAR and self._is_dear_again()
        return sent

    def recv_into(self, buffer: memoryview) -> int:
        """As the socket's. Raises: OSError, `BlockingIOError` where there is nothing now."""
        began_at = native.monotonic()
        if began_at < self._keeps_until:
            start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
            return _result(_system.recv(self._sock.fileno(), start, min(len(buffer), KEPT_AT_MOST), 0))
        received = self._sock.recv_into(buffer)
        self._was_dear = native.monotonic() - began_at > DEAR and self._is_dear_again()
        return received

    def _is_dear_again(self) -> bool:
        """True, and from the second time in a row on it is kept for a moment."""
        if self._was_dear and _system is not None:
            self._keeps_until = native.monotonic() + KEPT_FOR
        return True


def _result(count: int) -> int:
    if count < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return count
