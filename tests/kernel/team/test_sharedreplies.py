"""Replies that workers share: a call is done once, to whichever of them its copies come."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.nfsd.client import FakePeer
from tests.rpc.counter import ADD, COUNTER, Counter, always, call_of, message
from umktls.kernel.team.shared import LONGEST_REPLY, Shared
from umktls.kernel.team.sharedreplies import SharedReplies
from umktls.rpc.server import CallContext, Copy, Dispatcher, Job, Service

Workers = Callable[[Service], list[tuple[Dispatcher, SharedReplies]]]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Makes two of a service."""
    return lambda service: two(service, monkeypatch)


def two(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Dispatcher, SharedReplies]]:
    first = Shared(life=1)
    made = []
    for shared in (first, Shared(first.fd, life=2)):
        monkeypatch.setattr(shared, "lives", {1, 2}.__contains__)
        cache = SharedReplies(shared)
        made.append((Dispatcher([service], cache), cache))
    return made


def run(dispatcher: Dispatcher, xid: int = 1, number: int = 5) -> bytes:
    work = dispatcher.dispatch(call_of(message(ADD, number, xid=xid)), FakePeer())
    return b"".join(work.run() if isinstance(work, Job) else work)


def test_what_one_has_done_another_one_answers(workers: Workers) -> None:
    counter = Counter()
    (one, _), (other, _) = workers(counter.service(cache=True))
    first = run(one)
    assert run(other) == first
    assert run(one) == first
    assert counter.value == 5
    assert run(other, xid=2) != first
    assert counter.value == 10


def test_a_copy_waits_for_the_worker_that_executes(workers: Workers) -> None:
    started, go_on = threading.Event(), threading.Event()
    runs: list[int] = []

    def slow(args: int, context: CallContext) -> int:
        runs.append(args)
        started.set()
        assert go_on.wait(30)
        return args

    service = Service(COUNTER, {"ADD": slow}, blocking={"ADD": always}, cache=True)
    (one, _), (other, _) = workers(service)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, one)
        try:
            assert started.wait(30)
            copy = other.dispatch(call_of(message(ADD, 5)), FakePeer())
            assert isinstance(copy, Copy)
            second = pool.submit(copy.run)
            assert not second.done()
        finally:
            go_on.set()
        assert b"".join(second.result(30)) == first.result(30)
    assert runs == [5]


def test_what_is_dropped_before_it_is_executed_does_not_stand_in_the_way(
    workers: Workers,
) -> None:
    """Nor what a copy waits for already."""
    counter = Counter()
    (one, cache), (other, _) = workers(counter.service(cache=True))
    call = call_of(message(ADD, 5))
    job: Any = one.dispatch(call, FakePeer())
    copy = other.dispatch(call, FakePeer())
    assert isinstance(copy, Copy)
    del job
    gc.collect()
    cache.tidy()
    assert b"".join(copy.run()).endswith(b"\0\0\0\5")
    assert counter.value == 5
    assert run(one) == run(other)
    assert counter.value == 5


def test_of_two_that_come_at_the_same_time_one_is_executed(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other worker has been quicker, by as little as can be."""
    counter = Counter()
    (one, cache), (other, _) = workers(counter.service(cache=True))
    begin = cache.begin
    quicker: list[bytes] = []

    def late(key: Any) -> Any:
        if not quicker:
            quicker.append(run(other))
        return begin(key)

    monkeypatch.setattr(cache, "begin", late)
    assert [run(one)] == quicker
    assert counter.value == 5


BEGIN = """
import sys
from tests.nfsd.client import FakePeer
from tests.rpc.counter import ADD, Counter, call_of, message
from umktls.kernel.team.shared import Shared
from umktls.kernel.team.sharedreplies import SharedReplies
from umktls.rpc.server import Dispatcher
cache = SharedReplies(Shared(int(sys.argv[1]), 3))
job = Dispatcher([Counter().service(cache=True)], cache).dispatch(
    call_of(message(ADD, 5)), FakePeer()
)
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_worker_that_dies_leaves_its_calls_to_the_others() -> None:
    counter = Counter()
    shared = Shared(life=1)
    dispatcher = Dispatcher([counter.service(cache=True)], SharedReplies(shared))
    command = [sys.executable, "-c", BEGIN, str(shared.fd)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, pass_fds=[shared.fd]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        copy = dispatcher.dispatch(call_of(message(ADD, 5)), FakePeer())
        assert isinstance(copy, Copy)
        child.kill()
        assert b"".join(copy.run()).endswith(b"\0\0\0\5")
    assert counter.value == 5


def test_what_is_too_long_is_not_kept(workers: Workers) -> None:
    (_, cache), (_, other) = workers(Counter().service(cache=True))
    key: Any = ("host", ("clear", True), 1, 2, 3, 4, 5, 6)
    running = cache.begin(key)
    assert running is not None
    cache.finish(key, running, [bytes(LONGEST_REPLY)])
    assert other.lookup(key) is None
