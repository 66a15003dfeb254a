"""The engine that uses the kernel TLS of the machine: with a model of it, and with the real one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.conftest import KERNEL_LACKS, patience
from tests.engines.modelsocket import ModelSocket
from tests.engines.talking import TICKETS, engine, halves, talk
from umktls.abi import linux
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UnsupportedError, WorldError
from umktls.kernel.ground.turns import Turn
from umktls.kernel.krpc import connecting
from umktls.kernel.krpc.client import MountConfig
from umktls.kernel.sockets import hosttls
from umktls.kernel.sockets.engines import chosen_engines
from umktls.kernel.sockets.hosttls import BoundEngine, HostIntake
from umktls.kernel.sockets.stream import SendQueue
from umktls.kernel.upcalls import tls
from umktls.ktls.engines import MAX_PLAINTEXT, get_engine
from umktls.ktls.engines.choice import EngineChoice
from umktls.ktls.engines.linux import Content, PassOpener, PassSealer, wrap
from umktls.ktls.session import Session
from umktls.ktls.session.crypto_info import crypto_info
from umktls.ktls.session.errors import BadRecord
from umktls.ktls.session.suites import ALL_SUITES, SUITES, TLS_1_2, TLS_1_3
from umktls.ktls.socket.keyupdate import HANDSHAKE
from umktls.ktls.socket.rx import Receiver
from umktls.rpc.message import NULL_AUTH
from umktls.rpc.record import RecordReader
from umktls.testing.echo import COUNT, SAY
from umktls.testing.hosts import pair

GCM = SUITES["TLS_AES_128_GCM_SHA256"]
SESSION = Session(TLS_1_3, GCM, bytes(range(16)), bytes(range(100, 112)), 7)


@pytest.fixture
def modelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose TCP sockets are those of a kernel with TLS."""
    connect = connecting.connect_tcp

    async def connect_model(config: MountConfig) -> socket.socket:
        return ModelSocket((await connect(config)).detach())

    monkeypatch.setattr(connecting, "connect_tcp", connect_model)
    monkeypatch.setattr(hosttls, "problem", lambda: None)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        yield near, far


def test_the_layout_of_a_key() -> None:
    """struct tls12_crypto_info_aes_gcm_128: version, cipher, iv 8, key 16, salt 4, rec_seq 8."""
    expected = (
        "0403 3300" + "68696a6b6c6d6e6f" + bytes(range(16)).hex() + "64656667" + "00" * 7 + "07"
    )
    assert crypto_info(SESSION).pack() == bytes.fromhex(expected)


@pytest.mark.parametrize("suite", [s for s in ALL_SUITES.values() if s.cipher_type])
def test_every_suite_that_linux_has_fits_its_structure(suite: object) -> None:
    assert isinstance(suite, type(GCM))
    (version,) = suite.versions
    session = Session(version, suite, bytes(suite.key_length), bytes(suite.iv_length))
    value = crypto_info(session).pack()
    assert linux.CryptoInfo.unpack_untrusted(value).cipher_type == suite.cipher_type


def test_what_linux_does_not_have() -> None:
    cbc = ALL_SUITES["AES_128_CBC_SHA"]
    session = Session(TLS_1_2, cbc, bytes(16), bytes(16), 0, bytes(20))
    assert "no crypto_info" in (get_engine("linux").supports(session, "tx") or "")
    newer = ALL_SUITES["ARIA_128_GCM_SHA256"]
    with pytest.raises(UnsupportedError, match="no crypto_info for ARIA"):
        crypto_info(Session(TLS_1_3, newer, bytes(16), bytes(12)))
    for half in (get_engine("linux").sealer, get_engine("linux").opener):
        with pytest.raises(CallerError, match="on a real socket only"):
            half(SESSION)


def test_nothing_is_sealed_or_opened_here() -> None:
    sealer, opener = PassSealer(SESSION), PassOpener(SESSION)
    assert sealer.seal(23, [b"clear ", b"text"]) == b"clear text"
    assert sealer.sequence == 8
    content = sealer.seal(21, [b"al", b"ert"])
    assert isinstance(content, Content)
    assert (content, content.record_type) == (b"alert", 21)
    header, trailer = wrap(22, 6)
    record = header + b"ticket" + trailer
    assert opener.check_header(header) == len(record)
    dest = memoryview(bytearray(6))
    assert opener.open(memoryview(record), dest) == (22, 6)
    assert bytes(dest) == b"ticket"


def test_the_real_kernel_s_refusal_changes_nothing(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    class Refusing(ModelSocket):
        def setsockopt(self, level: int, name: int, value: object, *more: object) -> None:
            if level == linux.SOL_TLS:
                raise OSError(errno.EINVAL, "no")
            super().setsockopt(level, name, value, *more)

    sock = Refusing(ends[0].detach())
    with sock, pytest.raises(UnsupportedError, match="refuses the key: EINVAL"):
        BoundEngine(sock).sealer(SESSION)


async def test_a_record_that_the_real_kernel_does_not_take(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(WorldError, match="send") as caught:
        await hosttls.send_record(ends[0], HANDSHAKE, b"content")
    assert caught.value.errno == errno.EPIPE


async def test_a_bad_record_of_the_real_kernel(ends: tuple[socket.socket, socket.socket]) -> None:
    sock = ModelSocket(ends[0].detach())
    sock.setblocking(False)
    with sock:
        engine_ = BoundEngine(sock)
        engine_.opener(SESSION)
        ends[1].sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        with trio.fail_after(patience(5)), pytest.raises(BadRecord, match="EBADMSG"):
            await HostIntake(sock).fill(Receiver(), RecordReader(1000), Turn())


async def test_a_real_kernel_that_takes_part_of_a_long_message(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """A send that does not wait may end after any record; the rest has the same type."""

    class Slow(ModelSocket):
        full = False

        def sendmsg(self, buffers: Any, *more: Any) -> int:
            self.full = not self.full
            if self.full:
                raise BlockingIOError
            return super().sendmsg([b"".join(buffers)[:MAX_PLAINTEXT]], *more)

    sock = Slow(ends[0].detach())
    data = bytes(range(256)) * 150
    receiver = Receiver()
    receiver.enable(get_engine("software").opener(SESSION), GCM)
    with sock, trio.fail_after(patience(5)):
        BoundEngine(sock).sealer(SESSION)
        wire = PassSealer(SESSION).seal(HANDSHAKE, [data])
        await hosttls.send_records(sock, SendQueue(sock), [wire])
        sock.shutdown(socket.SHUT_WR)
        while count := ends[1].recv_into(receiver.get_buffer()):
            receiver.buffer_filled(count)
    content = []
    while receiver.read_record() is not None:
        content.append(receiver.take_control())
    assert [len(record) for _, record in content] == [16384, 16384, 5632]
    assert {kind for kind, _ in content} == {HANDSHAKE}
    assert b"".join(record for _, record in content) == data


@pytest.mark.usefixtures("modelled")
@pytest.mark.parametrize("name", ["umktls", "linux"])
async def test_calls_by_a_kernel_that_has_tls(certs: Path, tmp_path: Path, name: str) -> None:
    client = {**engine("linux"), "personality": PERSONALITIES[name]}
    with trio.fail_after(patience(30)):
        async with pair(certs, tmp_path, client, {}) as both:
            await talk(both, 1, 60_000, 4)
            assert halves(both.client) == (("linux", "SW"), ("linux", "SW"))
            assert len(both.events("client", "ticket")) == TICKETS
            (early,) = both.events("client", "post-handshake")
            for host in (both.client, both.server):
                assert await host.rekey(None) == 1
                await talk(both, 2, 60_000, 4)
            (sock,) = both.client.sockets.values()
            await tls.disconnect(both.client, sock, "the test wants it")
            alert = await both.event("server", "alert")
            assert await both.rpc.call(COUNT, 1, NULL_AUTH) == 1
            resumed = [event["resumed"] for event in both.events("client", "handshake")]
    assert early["records"] == TICKETS
    assert alert["description"] == "close_notify"
    assert resumed == [False, True]


def test_asking_for_what_this_kernel_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket) -> None:
        raise UnsupportedError("this machine's kernel lacks TLS")

    hosttls.problem.cache_clear()
    monkeypatch.setattr(hosttls, "attach", refuse)
    try:
        with pytest.raises(UnsupportedError, match="linux cannot be used here: this machine's"):
            chosen_engines(EngineChoice("linux", "linux"))
    finally:
        hosttls.problem.cache_clear()


@pytest.fixture
def kernel_tls() -> None:
    problem = hosttls.problem()
    if problem is not None:
        pytest.skip(f"{KERNEL_LACKS} TLS: {problem}")


# In an emulated machine everything takes longer.
SLOWNESS = float(os.environ.get("UMKTLS_SLOWNESS", "1"))


@pytest.mark.timeout(60 * SLOWNESS)
@pytest.mark.usefixtures("kernel_tls")
async def test_calls_by_this_machine_s_kernel(certs: Path, tmp_path: Path) -> None:
    patient = {**engine("linux"), "daemon_seconds": 15 * SLOWNESS, "upcall_seconds": 15 * SLOWNESS}
    with trio.fail_after(30 * SLOWNESS):
        async with pair(certs, tmp_path, patient, patient) as both:
            await talk(both, 1, 300_000, 4)
            assert halves(both.client) == (("linux", "SW"), ("linux", "SW"))
            assert await both.rpc.call(SAY, b"by the kernel", NULL_AUTH) == b"by the kernel"
