"""Calls that are repeated: executed once, and told to nobody else."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.rpc.counter import (
    ADD,
    COUNTER,
    CREDENTIAL,
    GET,
    Counter,
    FakePeer,
    always,
    answer,
    call_of,
    failed,
    message,
)
from umktls.rpc.certificate import PeerCertificate
from umktls.rpc.message import AcceptStat, AuthSys
from umktls.rpc.replycache import ReplyCache, Running, call_key
from umktls.rpc.server import CallContext, Copy, Dispatcher, Job, Lane, Service, asker


def test_a_repeated_call_is_executed_once() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    first = answer(dispatcher, message(ADD, 5))
    again = answer(dispatcher, message(ADD, 5), FakePeer(address=("192.0.2.1", 999)))
    assert first == again
    assert counter.value == 5


def test_what_counts_as_another_call() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    answer(dispatcher, message(ADD, 1))
    answer(dispatcher, message(ADD, 1, xid=2))
    answer(dispatcher, message(ADD, 2))
    answer(dispatcher, message(ADD, 1), FakePeer(address=("192.0.2.2", 700)))
    answer(dispatcher, message(ADD, 1), FakePeer(address="a local socket"))
    answer(dispatcher, message(ADD, 1, credential=CREDENTIAL.to_opaque()))
    assert counter.value == 7


def certificate_of(name: bytes) -> PeerCertificate:
    return PeerCertificate(name * 32, name, b"CA", b"1", (), ())


CLEAR = FakePeer(tls=False, verified=False)
TLS = FakePeer(verified=False)
ANN = FakePeer(certificate=certificate_of(b"a"))
# What the very same CA says, of the same holder or of another one.
CAS = (b"i" * 32, b"r" * 32)
NAMED = PeerCertificate(b"n" * 32, b"CN=ann", b"CN=CA", b"1", (b"DNS:ann",), CAS)
RENEWED = replace(NAMED, fingerprint=b"m" * 32, serial=b"2")
OTHERS = [
    replace(RENEWED, subject=b"CN=bob"),
    replace(RENEWED, names=(b"DNS:bob",)),
    replace(RENEWED, names=()),
    replace(RENEWED, authorities=(b"I" * 32, b"r" * 32)),  # another CA of the same name
    replace(RENEWED, authorities=CAS[:1]),
    replace(RENEWED, authorities=()),
    replace(RENEWED, subject=b"", fingerprint=b"s" * 32),
]
# Who may not be told, on one host, what another one of them has asked.
ASKERS = [
    CLEAR,
    replace(CLEAR, reserved_port=False),
    TLS,
    replace(TLS, reserved_port=False),
    FakePeer(),
    ANN,
    replace(ANN, certificate=certificate_of(b"b")),
    replace(ANN, user=CREDENTIAL),
    replace(ANN, user=AuthSys(1, b"host", 1001, 100, ())),
    replace(ANN, certificate=NAMED),
    *(replace(ANN, certificate=certificate) for certificate in OTHERS),
]


def test_nobody_else_is_told_what_one_has_asked() -> None:
    """The security of a connection is part of who asks: same host, same bytes, but another one."""
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    replies = [answer(dispatcher, message(ADD, 1), peer) for peer in ASKERS]
    assert counter.value == len(ASKERS)
    assert len(set(map(asker, ASKERS))) == len(ASKERS)
    # And each, by another connection of the same security, gets what it was told.
    for peer, reply in zip(ASKERS, replies, strict=True):
        address = ("192.0.2.1", peer.address[1] + 1)
        assert answer(dispatcher, message(ADD, 1), replace(peer, address=address)) == reply
    assert counter.value == len(ASKERS)


def test_who_has_a_new_certificate_is_known_again() -> None:
    """A call whose reply was lost is not executed twice because of that."""
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    before = replace(ANN, certificate=NAMED)
    reply = answer(dispatcher, message(ADD, 1), before)
    assert answer(dispatcher, message(ADD, 1), replace(ANN, certificate=RENEWED)) == reply
    assert counter.value == 1
    other_user = replace(ANN, certificate=RENEWED, user=CREDENTIAL)
    answer(dispatcher, message(ADD, 1), other_user)
    assert counter.value == 2


def test_behind_a_certificate_the_port_says_nothing() -> None:
    assert asker(replace(ANN, reserved_port=False)) == asker(ANN)


def test_a_copy_in_clear_does_not_wait_for_a_call_in_tls() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    call = call_of(message(ADD, 5))
    running = dispatcher.dispatch(call, TLS)
    assert isinstance(dispatcher.dispatch(call, replace(TLS, address=("192.0.2.1", 9))), Copy)
    clear = dispatcher.dispatch(call, CLEAR)
    assert isinstance(clear, Job)
    assert not isinstance(clear, Copy)
    del running


def test_who_has_no_right_to_a_kept_reply_any_more() -> None:
    counter = Counter()
    entitled: list[int] = []

    def may(args: int, context: CallContext) -> bool:
        entitled.append(args)
        return len(entitled) != 2

    dispatcher = Dispatcher([counter.service(cache=True, entitled=may)])
    first = answer(dispatcher, message(ADD, 5))
    assert entitled == []  # there was nothing to give
    assert answer(dispatcher, message(ADD, 5)) == first
    assert answer(dispatcher, message(ADD, 5)) != first
    assert counter.value == 10
    assert answer(dispatcher, message(ADD, 5)) == first  # what was kept has not been changed
    assert entitled == [5, 5, 5]


def test_without_a_cache_a_repeated_call_is_executed_again() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service()])
    for _ in range(2):
        answer(dispatcher, message(ADD, 5))
    assert counter.value == 10


def test_idempotent_calls_are_not_kept() -> None:
    cache = ReplyCache()
    dispatcher = Dispatcher([Counter().service(cache=True)], cache)
    answer(dispatcher, message(GET))
    assert len(cache) == 0
    answer(dispatcher, message(ADD, 1))
    assert len(cache) == 1


def test_a_failure_is_kept_too(caplog: pytest.LogCaptureFixture) -> None:
    runs = []

    def broken(args: int, context: CallContext) -> int:
        runs.append(args)
        raise ZeroDivisionError

    dispatcher = Dispatcher([Service(COUNTER, {"ADD": broken}, cache=True)])
    replies = [answer(dispatcher, message(ADD, 5)) for _ in range(2)]
    assert replies == [failed(AcceptStat.SYSTEM_ERR)] * 2
    assert runs == [5]


def test_a_copy_of_a_call_that_is_being_executed_gets_its_reply() -> None:
    started, go_on = threading.Event(), threading.Event()
    runs = []

    def slow(args: int, context: CallContext) -> int:
        runs.append(args)
        started.set()
        assert go_on.wait(30)
        return args

    dispatcher = Dispatcher([Service(COUNTER, {"ADD": slow}, blocking={"ADD": always}, cache=True)])
    call = call_of(message(ADD, 5))
    first = dispatcher.dispatch(call, FakePeer())
    copy = dispatcher.dispatch(call, FakePeer(address=("192.0.2.1", 999)))
    assert isinstance(first, Job)
    assert isinstance(copy, Job)
    assert copy.lane is Lane.COPY
    with ThreadPoolExecutor(2) as pool:
        replies = [pool.submit(job.run) for job in (copy, first)]
        try:
            assert started.wait(30)
            assert not replies[0].done()
        finally:
            go_on.set()
        texts = [b"".join(reply.result(30)) for reply in replies]
    assert texts[0] == texts[1]
    assert texts[0].endswith(b"\0\0\0\5")
    known = dispatcher.dispatch(call, FakePeer())
    assert isinstance(known, list)
    assert b"".join(known) == texts[0]
    assert runs == [5]


def test_a_copy_does_not_wait_for_ever() -> None:
    assert Running().wait(0) == []


def test_any_number_of_copies_get_the_reply() -> None:
    running = Running()
    running.finish(b"reply")
    assert [running.wait(0) for _ in range(3)] == [[b"reply"]] * 3


def test_a_job_that_is_given_up_does_not_stand_in_the_way() -> None:
    counter = Counter()
    dispatcher = Dispatcher([counter.service(cache=True)])
    call = call_of(message(ADD, 5))
    job: Any = dispatcher.dispatch(call, FakePeer())
    assert isinstance(dispatcher.dispatch(call, FakePeer()), Copy)
    del job
    gc.collect()
    job = dispatcher.dispatch(call, FakePeer())
    assert isinstance(job, Job)
    job.run()
    assert counter.value == 5


def test_a_call_that_is_being_executed_is_known_however_many_were_given_up() -> None:
    keys = [call_key(call_of(message(ADD, 1, xid=n)), "peer", asker(TLS)) for n in range(20)]
    cache = ReplyCache(entries=3)
    kept = [(key, cache.begin(key)) for key in keys[:5]]
    for key in keys[5:]:
        assert cache.lookup(key) is None
        cache.begin(key)  # and nobody keeps what this returns
        gc.collect()
        assert cache.lookup(key) is None
    assert [cache.lookup(key) for key, _ in kept] == [running for _, running in kept]
    first = kept[0][1]
    assert first is not None
    cache.finish(keys[0], first, [b"reply"])
    assert cache.lookup(keys[0]) == [b"reply"]


def test_the_cache_forgets_the_oldest() -> None:
    keys = [call_key(call_of(message(ADD, 1, xid=n)), "peer", asker(TLS)) for n in range(5)]
    few = ReplyCache(entries=2)
    small = ReplyCache(size=20)
    for cache in (few, small):
        for key in keys[:2]:
            cache.finish(key, Running(), [b"12345", b"67890"])
        assert cache.lookup(keys[0]) == [b"1234567890"]
        cache.finish(keys[2], Running(), [b"1234567890"])
        assert [cache.lookup(key) is not None for key in keys[:3]] == [True, False, True]
    small.finish(keys[3], Running(), [bytes(21)])
    assert len(small) == 0
    small.finish(keys[4], Running(), [b"x"])
    small.finish(keys[4], Running(), [b"y"])
    assert small.lookup(keys[4]) == [b"y"]
    assert len(small) == 1
