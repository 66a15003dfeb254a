"""Several system calls with one trip to the kernel."""

from __future__ import annotations

import errno
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest

from tests.conftest import patience
from tests.daemons.fakekernel import FakeKernel
from tests.daemons.fakesocket import SECONDS, FakeSocket
from umktls.abi import rpctls
from umktls.abi.freebsd import TCP_RXTLS_ENABLE, TCP_TLS_MODE_NONE, TCP_TLS_MODE_SW
from umktls.abi.personality import PERSONALITIES
from umktls.abi.rpctls import SYS_rpctls_syscall_15
from umktls.ktls.session import Session
from umktls.ktls.session.suites import SUITES
from umktls.rpc.xdr import Struct
from umktls.upcall.datagrams import encode_reply
from umktls.upcall.rpctls import RPCTLSCD_V1
from umktls.upcall.syscalls import (
    MAX_PART,
    MAX_TOGETHER,
    AdoptArgs,
    CloseArgs,
    RpctlsSyscallArgs,
    SendmsgArgs,
    ShutdownArgs,
)
from umktls.userland.grouping import in_groups
from umktls.userland.libc import Kernel, KernelGone, Record, SystemCallError
from umktls.userland.utrace import utrace_args

SESSION = Session.from_secret(SUITES["TLS_AES_128_GCM_SHA256"], b"s" * 32, 7)
THREADS, ROUNDS = 24, 40
NOWHERE = CloseArgs(99)


@pytest.fixture(params=["umktls", "freebsd14", "linux"])
def fake(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path, RPCTLSCD_V1, request.param) as kernel:
        yield kernel


@pytest.fixture
def near(fake: FakeKernel) -> Iterator[FakeSocket]:
    near, far = socket.socketpair()
    with near, far:
        yield FakeSocket(near, personality=fake.personality)


def unexpected(error: SystemCallError) -> None:
    raise error


def test_each_call_has_an_outcome_of_its_own(fake: FakeKernel, kernel: Kernel) -> None:
    paths = [b"/path/%d" % number for number in range(20)]
    calls = [RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSETPATH, path) for path in paths]
    outcomes = kernel.calls([NOWHERE, *calls, NOWHERE])
    assert [outcome.error is None for outcome in outcomes] == [False, *[True] * 20, False]
    assert outcomes[0].error is not None
    assert outcomes[0].error.errno == errno.EBADF
    # More than the kernel's queue holds, all of them, and in order.
    assert fake.operations == [rpctls.RPCTLS_SYSC_CLSETPATH] * 20
    assert fake.paths[rpctls.RPCTLS_SYSC_CLSETPATH] == Path("/path/19")


def test_what_can_shares_a_datagram() -> None:
    take = RpctlsSyscallArgs(rpctls.RPCTLS_SYSC_CLSOCKET, b"")
    large = SendmsgArgs(1, bytes(MAX_PART), b"", 0)
    adopt = AdoptArgs(rpctls.RPCTLSCD)
    calls = [NOWHERE, NOWHERE, take, NOWHERE, large, take, adopt, NOWHERE]
    groups = [group.calls for group in in_groups(calls)]
    assert groups == [[NOWHERE, NOWHERE], [take, NOWHERE], [large], [take], [adopt], [NOWHERE]]


class Answering:
    """An upcall that is answered by utrace(2), or by a call that fails."""

    def __init__(self, kernel: Kernel, *, taken: bool = True) -> None:
        self.given: list[object] = []
        self._taken = taken
        kernel.answers_by(self._say)

    def _say(self, answer: object) -> Struct:
        self.given.append(answer)
        return utrace_args({"event": "answer"}) if self._taken else NOWHERE


@pytest.mark.parametrize("taken", [True, False])
def test_an_answer_goes_along_with_calls(fake: FakeKernel, kernel: Kernel, taken: bool) -> None:
    upcall = Answering(kernel, taken=taken)
    kernel.utrace_later({"event": "ticket"}, unexpected)
    (outcome,) = kernel.calls([utrace_args({"event": "alert"})], 7)
    assert outcome.error is None
    assert upcall.given == [7]
    assert fake.trips == [["utrace", "utrace", "utrace" if taken else "close"]]
    if taken:  # once is enough
        kernel.calls([NOWHERE], 8)
        assert upcall.given == [7]
    assert kernel.has_answered() == taken
    kernel.calls([NOWHERE], 9)  # it is over
    assert not kernel.has_answered()
    assert 9 not in upcall.given


def test_an_answer_goes_along_with_what_was_put_off(fake: FakeKernel, kernel: Kernel) -> None:
    upcall = Answering(kernel)
    kernel.settle(7)
    assert upcall.given == []  # there is nothing to go along with
    kernel.needed_later(NOWHERE)
    with pytest.raises(SystemCallError):
        kernel.settle(7)
    assert fake.trips == [["close", "utrace"]]
    assert kernel.has_answered()


@pytest.mark.parametrize(
    "calls",
    [[NOWHERE] * MAX_TOGETHER, [SendmsgArgs(99, bytes(MAX_PART), b"", 0), NOWHERE]],
    ids=["too many", "too large"],
)
def test_an_answer_that_would_go_by_itself_is_not_given(
    fake: FakeKernel, kernel: Kernel, calls: list[Struct]
) -> None:
    """Whether the kernel takes it depends on those that it goes along with."""
    Answering(kernel)
    assert len(kernel.calls(calls, 7)) == len(calls)
    assert not any("utrace" in trip for trip in fake.trips)
    assert not kernel.has_answered()


def test_who_settles_hears_of_what_was_needed_and_failed(kernel: Kernel) -> None:
    kernel.needed_later(ShutdownArgs(99, 1), harmless=errno.EBADF)
    kernel.settle()
    for args in (ShutdownArgs(99, 1), NOWHERE):
        kernel.needed_later(args)
    # Whatever it goes along with has not failed.
    assert kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSETPATH, b"/some/path") is None
    with pytest.raises(SystemCallError) as caught:
        kernel.settle()
    assert caught.value.name == "shutdown"
    kernel.settle()


def test_a_socket_comes_along_with_other_answers(
    fake: FakeKernel, kernel: Kernel, near: FakeSocket
) -> None:
    fake.offer(near)
    kernel.utrace_later({"event": "ticket"}, unexpected)
    taken = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert taken is not None
    about = taken.about()
    assert about[:2] == ("tls", "k1")
    assert 0 < about.deadline.left() <= SECONDS
    taken.close()


def test_a_kernel_that_knows_nothing_about_the_socket(
    fake: FakeKernel, kernel: Kernel, near: FakeSocket
) -> None:
    near.has_own_options = False
    fake.offer(near)
    taken = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert taken is not None
    about = taken.about()
    assert about[:2] == ("", "")
    assert 0 < about.deadline.left() <= 15  # not the socket's SECONDS
    taken.close()


def test_both_directions_get_their_keys(fake: FakeKernel, kernel: Kernel, near: FakeSocket) -> None:
    fake.offer(near)
    taken = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert taken is not None
    modes = taken.enable_all({"tx": SESSION, "rx": SESSION})
    assert modes == {"tx": TCP_TLS_MODE_SW, "rx": TCP_TLS_MODE_SW}
    assert (near.state.tx.sequence, near.state.rx.sequence) == (7, 7)
    again = taken.enable_all({"tx": SESSION})["tx"]
    if PERSONALITIES[fake.personality].keys.rekey:
        assert again == TCP_TLS_MODE_SW
    else:
        assert isinstance(again, SystemCallError)
        assert again.errno_name == "EALREADY"
    taken.close()


def test_one_direction_is_refused(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with FakeKernel(tmp_path, RPCTLSCD_V1) as fake, near, far:
        sock = FakeSocket(near)
        sock.refuse_option = TCP_RXTLS_ENABLE
        fake.offer(sock)
        kernel = Kernel(fake.rundir)
        taken = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
        assert taken is not None
        modes = taken.enable_all({"rx": SESSION, "tx": SESSION})
        assert isinstance(modes["rx"], SystemCallError)
        assert modes["rx"].errno == errno.EOPNOTSUPP
        assert modes["tx"] == TCP_TLS_MODE_SW
        assert taken.tls_mode("rx") == TCP_TLS_MODE_NONE
        kernel.close()


def test_the_kernel_goes_in_the_middle(fake: FakeKernel, kernel: Kernel) -> None:
    fake.close()
    with pytest.raises(KernelGone):
        kernel.calls([NOWHERE, NOWHERE])


def test_many_threads_have_calls_under_way(fake: FakeKernel, kernel: Kernel) -> None:
    """Each gets its own answers, also with far more requests than the socket queues."""
    path, setpath = b"/some/path", rpctls.RPCTLS_SYSC_CLSETPATH
    start = threading.Barrier(THREADS)

    def work(number: int) -> list[bool]:
        start.wait(20)
        good = []
        for _ in range(ROUNDS):
            kernel.utrace_later({"event": "ticket", "fd": number}, unexpected)
            outcomes = kernel.calls([NOWHERE, RpctlsSyscallArgs(setpath, path), NOWHERE])
            good.append([outcome.error is None for outcome in outcomes] == [False, True, False])
        return good

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(THREADS), timeout=patience(40)))
    assert all(map(all, results))
    assert Counter(event["fd"] for event in fake.events) == dict.fromkeys(range(THREADS), ROUNDS)


def waiting(kernel: Kernel, count: int) -> tuple[list[threading.Thread], SimpleQueue[KernelGone]]:
    """Threads whose calls are not answered, and what these come to in the end."""
    failures: SimpleQueue[KernelGone] = SimpleQueue()

    def work() -> None:
        try:
            kernel.call(NOWHERE)
        except KernelGone as error:
            failures.put(error)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, failures


def test_all_threads_learn_that_the_kernel_has_gone(fake: FakeKernel, kernel: Kernel) -> None:
    fake.silent = True
    threads, failures = waiting(kernel, 5)
    fake.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert failures.qsize() == 5


def test_closing_ends_calls_that_wait(fake: FakeKernel, kernel: Kernel) -> None:
    fake.silent = True
    (thread,), failures = waiting(kernel, 1)
    kernel.close()
    thread.join(patience(20))
    assert failures.qsize() == 1


def test_a_record_that_the_upcall_has_brought_is_taken_along(
    fake: FakeKernel, kernel: Kernel, near: FakeSocket
) -> None:
    """With the next call, or at the latest at the upcall's end; and if it is gone, no harm is
    done."""
    fake.offer(near)
    sock = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert sock is not None
    fake.trips.clear()
    with kernel.told_of(memoryview(b"\x16update")):
        assert sock.receive_record() == Record(22, b"update")
        assert fake.trips == []
        kernel.utrace({"event": "ticket"})
        assert fake.trips == [["recvmsg", "utrace"]]
        kernel.settle()
        sock.receive_record()  # there may be another one
        assert len(fake.trips) == 2
    with kernel.told_of(memoryview(b"\x15\1\0")):
        assert sock.receive_record() == Record(21, b"\1\0")
    assert fake.trips[2:] == [["recvmsg"]]
    with kernel.told_of(memoryview(b"\x15\1\0")), kernel.told_of(None):
        pass
    sock.receive_record()
    assert len(fake.trips) == 4
    sock.close()


def brings(number: int = 77) -> tuple[bytes, socket.socket, int]:
    """What an upcall brings: the replies to `take`'s calls, made by hand, the first of which has
    the socket's number; and a descriptor, with the other end of it."""
    replies = [
        encode_reply(0, 0, number, SYS_rpctls_syscall_15),
        encode_reply(1, 0, b"mtls", rpctls.SYS_getsockopt),
        encode_reply(2, 0, b"c7", rpctls.SYS_getsockopt),
        encode_reply(3, 0, (5000).to_bytes(4, "little"), rpctls.SYS_getsockopt),
    ]
    near, far = socket.socketpair()
    return encode_reply(0, 0, replies, rpctls.SYS_umktls_together), far, near.detach()


def test_a_socket_that_the_upcall_has_brought_needs_no_trip(
    fake: FakeKernel, kernel: Kernel
) -> None:
    replies, far, descriptor = brings()
    descriptors = [descriptor]
    with far:
        with kernel.brought(memoryview(replies), descriptors):
            assert descriptors == []
            sock = kernel.take(0x1234)
            about = sock.about()
            assert (sock.number, sock.fd) == (77, descriptor)
            assert (about.security, about.connection) == ("mtls", "c7")
            # Once: another socket has to be asked for.
            with pytest.raises(SystemCallError):
                kernel.take(0x1234)
            assert len(fake.trips) == 1
        sock.write_all(b"it is open", about.deadline)
        assert far.recv(100) == b"it is open"
        sock.release()


def test_a_socket_that_nobody_takes_is_closed(fake: FakeKernel, kernel: Kernel) -> None:
    """The descriptor here, and the kernel's."""
    replies, far, descriptor = brings()
    with far:
        with kernel.brought(memoryview(replies), [descriptor]):
            pass
        assert far.recv(1) == b""
    assert fake.trips == [["close"]]
    with kernel.brought(None, []), pytest.raises(SystemCallError):
        kernel.take(0x1234)


def test_a_socket_that_comes_without_its_descriptor(
    fake: FakeKernel, kernel: Kernel, near: FakeSocket
) -> None:
    """This process may have no more of them."""
    fake.offer(near)
    sock = kernel.rpctls_syscall(rpctls.RPCTLS_SYSC_CLSOCKET)
    assert sock is not None
    replies, far, descriptor = brings(sock.number)
    socket.close(descriptor)
    with far, kernel.brought(memoryview(replies), []), pytest.raises(SystemCallError) as missing:
        kernel.take(0x1234)
    sock.release()
    assert missing.value.errno == errno.EMFILE
    assert "may open no more descriptors" in str(missing.value)
    assert near.closed_by_daemon
