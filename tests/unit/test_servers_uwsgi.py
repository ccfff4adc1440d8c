"""servers/uwsgi.py, against a stand-in for the module that exists only inside uWSGI."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from wsgi_messaging.runtime import native, worker
from wsgi_messaging.servers import diagnosis, uwsgi


class FakeUwsgi(ModuleType):
    """uWSGI's module in one process: the master, until `fork()`."""

    def __init__(self, *, has_threads: int = 1, master: bool = True, numproc: int = 2, **opt: Any) -> None:
        super().__init__("uwsgi")
        self.version = b"2.0.21"
        self.has_threads = has_threads
        self.numproc = numproc
        self.opt = {key.replace("_", "-"): value for key, value in opt.items()}
        self.master = master
        self.worker = self.mule = 0
        self.spools = False
        self.signals: dict[int, tuple[str, Callable[[int], None]]] = {}
        self.timers: list[tuple[int, int]] = []
        self.raised: list[int] = []

    def worker_id(self) -> int:
        return self.worker

    def mule_id(self) -> int:
        return self.mule

    def masterpid(self) -> int:
        return 4711 if self.master else 0

    def i_am_the_spooler(self) -> bool:
        return self.spools

    def signal_registered(self, number: int) -> bool:
        return number in self.signals

    def register_signal(self, number: int, target: str, handler: Callable[[int], None]) -> None:
        self.signals[number] = (target, handler)

    def signal(self, number: int) -> None:
        self.raised.append(number)

    def add_timer(self, number: int, seconds: int) -> None:
        self.timers.append((number, seconds))

    def fork(self, *, worker: int = 0, mule: int = 0, spools: bool = False) -> None:
        """As uWSGI after a fork: the identity changes, then the one hook is called."""
        self.worker, self.mule, self.spools = worker, mule, spools
        hook: Callable[[], None] | None = getattr(self, "post_fork_hook", None)
        if hook is not None:
            hook()


class Member:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def warm(self) -> None:
        self.calls.append("warm")

    def close(self, timeout: float) -> None:
        self.calls.append("close")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(diagnosis, "say", lambda text, **_: said.append(text))
    return said


@pytest.fixture(autouse=True)
def _as_in_a_new_interpreter(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    monkeypatch.setattr(uwsgi, "_installed", None)
    monkeypatch.setattr(uwsgi, "_loaded_signal", None)
    monkeypatch.setattr(worker, "_marked", None)
    monkeypatch.setattr(worker, "_members", {})
    monkeypatch.setitem(sys.modules, "uwsgidecorators", None)  # not installed, as with Debian's uWSGI


@pytest.fixture
def member() -> Iterator[Member]:
    member = Member()
    worker.enlist(member)
    yield member


@pytest.fixture
def with_decorators(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeUwsgi], ModuleType]:
    def make(api: FakeUwsgi) -> ModuleType:
        """A module that, like uwsgidecorators, takes uWSGI's only hook when it is imported."""
        module = ModuleType("uwsgidecorators")
        chain: list[Callable[[], None]] = []
        vars(module)["postfork_chain"] = chain

        def importing(name: str) -> ModuleType:
            assert name == "uwsgidecorators"
            if name not in imported:
                imported.append(name)
                vars(api)["post_fork_hook"] = lambda: [function() for function in chain]
                vars(api)["spooler"] = "theirs"
            return module

        imported: list[str] = []
        monkeypatch.setattr(uwsgi.importlib, "import_module", importing)  # type: ignore[attr-defined]
        return module

    return make


def marked() -> tuple[str, str, object] | None:
    known = worker.current()
    return None if known is None else (known.server, known.label, known.facts["role"])


def test_the_hook_marks_and_warms_a_worker(member: Member, said: list[str]) -> None:
    api = FakeUwsgi()
    uwsgi.install(api)
    assert (marked(), member.calls) == (None, [])
    api.fork(worker=2)
    assert (marked(), member.calls) == (("uwsgi", "2", "worker"), ["warm"])
    assert said == []


@pytest.mark.parametrize(
    ("identity", "mark"),
    [({"mule": 1}, ("uwsgi", "1", "mule")), ({"spools": True}, ("uwsgi", "0", "spooler"))],
)
def test_mules_and_the_spooler_are_known_and_not_warmed(
    member: Member, identity: dict[str, Any], mark: tuple[str, str, str]
) -> None:
    api = FakeUwsgi()
    uwsgi.install(api)
    api.fork(**identity)
    assert (marked(), member.calls) == (mark, [])


def test_imported_in_a_worker_the_body_runs_at_once(member: Member) -> None:
    """lazy-apps without shared-import: the fork is over, and uWSGI will not call a hook set now."""
    api = FakeUwsgi()
    api.fork(worker=1)
    uwsgi.install(api)
    assert (marked(), member.calls) == (("uwsgi", "1", "worker"), ["warm"])


def test_hooks_that_were_there_are_called_too(member: Member) -> None:
    calls: list[str] = []
    api = FakeUwsgi()
    vars(api)["post_fork_hook"] = lambda: calls.append("fork")
    vars(api)["atexit"] = lambda: calls.append("exit")
    uwsgi.install(api)
    api.fork(worker=1)
    vars(api)["atexit"]()
    assert calls == ["fork", "exit"]
    assert member.calls == ["warm", "close"]


def test_ours_is_called_although_theirs_raised(member: Member) -> None:
    api = FakeUwsgi()

    def failing() -> None:
        raise OSError("theirs")

    vars(api)["atexit"] = failing
    uwsgi.install(api)
    with pytest.raises(OSError, match="theirs"):
        vars(api)["atexit"]()
    assert member.calls == ["close"]


def test_a_later_import_of_uwsgidecorators_does_not_take_the_hook(
    member: Member, with_decorators: Callable[[FakeUwsgi], ModuleType]
) -> None:
    """Fails when the hook is only set on `uwsgi`: the import replaces it, and no worker is ever marked."""
    api = FakeUwsgi()
    module = with_decorators(api)
    uwsgi.install(api)
    uwsgi.importlib.import_module("uwsgidecorators")  # type: ignore[attr-defined]
    assert len(module.postfork_chain) == 1
    api.fork(worker=1)
    assert member.calls == ["warm"]


def test_what_the_application_had_set_before_stays(with_decorators: Callable[[FakeUwsgi], ModuleType]) -> None:
    calls: list[str] = []
    api = FakeUwsgi()
    vars(api)["post_fork_hook"] = lambda: calls.append("mine")
    vars(api)["spooler"] = "mine"
    module = with_decorators(api)
    uwsgi.install(api)
    module.postfork_chain.append(lambda: calls.append("decorated"))
    api.fork(worker=1)
    assert calls == ["mine", "decorated"]
    assert vars(api)["spooler"] == "mine"
    assert marked() == ("uwsgi", "1", "worker")


def test_installing_twice_hooks_once(member: Member) -> None:
    api = FakeUwsgi()
    uwsgi.install(api)
    uwsgi.install(api)
    api.fork(worker=1)
    assert member.calls == ["warm"]


def test_threads_disabled_is_said_and_a_timer_gives_turns(said: list[str]) -> None:
    api = FakeUwsgi(has_threads=0)
    uwsgi.install(api)
    assert len(said) == 1
    assert "2.0.21" in said[0]
    assert "enable-threads = true" in said[0]
    assert "a uWSGI timer gives it a turn" in said[0]
    assert api.timers == [(255, 1)]
    target, handler = api.signals[255]
    assert target == "workers"
    handler(255)


@pytest.mark.parametrize(("master", "worker_id"), [(False, 0), (True, 1)])
def test_threads_disabled_and_no_timer_possible(said: list[str], master: bool, worker_id: int) -> None:
    """A worker's timer is routed to whichever worker comes first: only the master can arrange it."""
    api = FakeUwsgi(has_threads=0, master=master, numproc=1)
    api.fork(worker=worker_id)
    uwsgi.install(api)
    assert "nothing wakes it" in said[0]
    assert api.timers == []


def test_signals_of_the_application_are_left_alone(said: list[str]) -> None:
    api = FakeUwsgi(has_threads=0)
    api.register_signal(255, "worker1", lambda number: None)
    uwsgi.install(api)
    assert api.timers == [(254, 1)]


def test_no_free_signal_is_survived(said: list[str]) -> None:
    api = FakeUwsgi(has_threads=0)
    for number in range(256):
        api.register_signal(number, "worker1", lambda number: None)
    uwsgi.install(api)
    assert "nothing wakes it" in said[0]


def test_lazy_applications_are_warmed_once_they_are_loaded(member: Member) -> None:
    api = FakeUwsgi(lazy_apps=True)
    uwsgi.install(api)
    worker._members.clear()  # the application, and its transport, come after the hook
    api.fork(worker=1)
    assert (member.calls, api.raised) == ([], [255])
    worker.enlist(member)
    api.signals[255][1](255)
    assert member.calls == ["warm"]


def test_several_processes_without_a_master_are_told(said: list[str]) -> None:
    uwsgi.install(FakeUwsgi(master=False, numproc=4))
    assert said == [diagnosis.uwsgi_without_master(4)]


def test_one_process_without_a_master_is_fine(member: Member, said: list[str]) -> None:
    api = FakeUwsgi(master=False, numproc=1)
    uwsgi.install(api)
    api.fork(worker=1)
    assert said == []
    assert member.calls == ["warm"]


@pytest.mark.parametrize(
    ("opt", "text"),
    [
        ({}, diagnosis.UWSGI_LINE),
        ({"mount": b"/a=app.py"}, "single-interpreter = true"),
        ({"mount": [b"/a=app.py", b"/b=app.py"]}, "single-interpreter = true"),
        ({"mount": [b"/a=app.py", b"/b=app.py"], "single_interpreter": True}, diagnosis.UWSGI_LINE),
    ],
)
def test_a_worker_whose_hook_did_not_run_is_adopted_and_told(
    member: Member, said: list[str], monkeypatch: pytest.MonkeyPatch, opt: dict[str, Any], text: str
) -> None:
    api = FakeUwsgi(**opt)
    api.fork(worker=1)
    monkeypatch.setitem(sys.modules, "uwsgi", api)
    uwsgi.adopt(None)
    assert marked() == ("uwsgi", "1", "worker")
    assert len(said) == 1
    assert text in said[0]


def test_outside_uwsgi_nothing_happens(said: list[str]) -> None:
    uwsgi.adopt(None)
    uwsgi.after_fork()
    assert (marked(), said) == (None, [])


def test_skip_atexit_is_said(said: list[str]) -> None:
    uwsgi.install(FakeUwsgi(skip_atexit=True))
    assert said == [diagnosis.UWSGI_SKIP_ATEXIT]


@pytest.mark.parametrize("off", [b"false", b"off", b"No", b"0", [b"true", b"false"]])
def test_an_option_that_is_set_to_no_is_not_set(said: list[str], off: object) -> None:
    """Fails when its name alone counts: what an operator has switched off was warned about all the same."""
    uwsgi.install(FakeUwsgi(skip_atexit=off, lazy_apps=off))
    assert (said, uwsgi._loaded_signal) == ([], None)


@pytest.mark.parametrize(
    ("opt", "is_said"),
    [
        ({"single_interpreter": b"false"}, True),
        ({"single_interpreter": b"true"}, False),
        ({"single_interp": b"true"}, False),  # uWSGI's other name for it
    ],
)
def test_whether_applications_have_interpreters_of_their_own(
    said: list[str], opt: dict[str, Any], is_said: bool
) -> None:
    uwsgi.install(FakeUwsgi(mount=b"/a=app.py", **opt))
    assert said == ([diagnosis.UWSGI_SINGLE] if is_said else [])


@pytest.mark.parametrize(
    ("harakiri", "is_said"),
    [(b"5", True), (b"10", True), (b"11", False), (None, False), (b"60s", False), (b"5s", True)],
)
def test_a_harakiri_that_is_shorter_than_a_publish_may_take(
    member: Member, said: list[str], harakiri: bytes | None, is_said: bool
) -> None:
    vars(member)["longest_wait"] = 10.0
    api = FakeUwsgi(**({"harakiri": harakiri} if harakiri else {}))
    uwsgi.install(api)
    api.fork(worker=1)
    assert said == ([diagnosis.uwsgi_harakiri(int((harakiri or b"0").rstrip(b"s")), 10.0)] if is_said else [])
    assert member.calls == ["warm"]
    api.worker = 0
    api.fork(worker=2)
    assert len(said) == int(is_said)  # the first worker speaks for all


@pytest.mark.parametrize(
    ("since", "options", "is_said"),
    [
        ((3, 10), {"py_call_osafterfork": True}, True),
        ((9, 9), {"py_call_osafterfork": True}, False),
        ((3, 10), {"py_call_osafterfork": True, "py_call_uwsgi_fork_hooks": True}, False),
        ((3, 10), {}, False),
    ],
)
def test_an_option_that_kills_the_workers_of_newer_pythons_is_told_by_the_master(
    monkeypatch: pytest.MonkeyPatch, said: list[str], since: tuple[int, int], options: dict[str, Any], is_said: bool
) -> None:
    monkeypatch.setattr(diagnosis, "UWSGI_DEADLY_SINCE", since)
    api = FakeUwsgi(**options)
    uwsgi.install(api)
    api.fork(worker=1)
    assert said == ([diagnosis.UWSGI_HALF_A_FORK] if is_said else [])


@pytest.mark.parametrize(
    ("count", "options", "is_said"),
    [
        (2, {}, True),
        (2, {"py_call_osafterfork": True}, False),
        (2, {"py_call_osafterfork": b"false"}, True),
        (2, {"py_call_uwsgi_fork_hooks": True}, False),
        (0, {}, False),
    ],
)
def test_threads_of_the_master_that_the_workers_take_for_their_own(
    monkeypatch: pytest.MonkeyPatch, said: list[str], count: int, options: dict[str, Any], is_said: bool
) -> None:
    monkeypatch.setattr(native, "count_inherited_threads", lambda: count)
    monkeypatch.setattr(diagnosis, "UWSGI_DEADLY_SINCE", (9, 9))
    api = FakeUwsgi(**options)
    uwsgi.install(api)
    api.fork(worker=1)
    assert said == ([diagnosis.uwsgi_stale_threads(count)] if is_said else [])
