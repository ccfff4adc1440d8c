"""Ids: their form, and that nobody else has them."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

from wsgi_messaging.runtime.ids import new_id


def test_they_look_like_those_of_a_uuid() -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", new_id())


def test_threads_get_different_ones() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = [each for many in pool.map(lambda _: [new_id() for _ in range(1000)], range(8)) for each in many]
    assert len(set(ids)) == 8000


def test_a_forked_child_has_another_random_part() -> None:
    ours = new_id()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, new_id().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read()
    os.waitpid(pid, 0)
    assert len(theirs) == 32
    assert theirs[:20] != ours[:20]
