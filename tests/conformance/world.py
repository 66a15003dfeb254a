"""One socket of one kernel, its peer, and the shortest words for what rows do with them."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.ktls.helpers import receive
from umktls.abi import freebsd, linux
from umktls.abi.freebsd import IPPROTO_TCP, TlsEnable, TlsEnableRequest, TlsGetRecord
from umktls.abi.linux import CRYPTO_INFO_LAYOUTS, CryptoInfo
from umktls.abi.personality import PERSONALITIES, Kernel
from umktls.errors import UmktlsError, WorldError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import MAX_PLAINTEXT, Buffer, get_engine
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.counters import Sysctls
from umktls.ktls.session.suites import ALL_SUITES, TLS_1_0, TLS_1_2, TLS_1_3, Suite

ENGINE = get_engine("software")
AES128 = ALL_SUITES["TLS_AES_128_GCM_SHA256"]
AES128_12 = ALL_SUITES["AES_128_GCM_SHA256"]
ENABLE: dict[Direction, int] = {"tx": freebsd.TCP_TXTLS_ENABLE, "rx": freebsd.TCP_RXTLS_ENABLE}
TLS: dict[Direction, int] = {"tx": linux.TLS_TX, "rx": linux.TLS_RX}
ROOM = 24  # CMSG_SPACE of either kernel's control message
HANDSHAKE, ALERT, DATA = 22, 21, 23
KEY_UPDATE = b"\x18\0\0\1\0"
TICKET = b"\4\0\0\1t"
EMPTY_ENABLE = TlsEnable(0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 0)


def keys(
    suite: Suite = AES128,
    version: int | None = None,
    sequence: int = 0,
    epoch: int = 0,
    nonce: int | None = None,
) -> Session:
    """Any session of that suite; another `epoch`, another key."""
    version = version or suite.versions[-1]

    def bytes_of(length: int, step: int) -> bytes:
        return bytes((epoch * 29 + i * step + 1) & 0xFF for i in range(length))

    iv = b"" if suite.mac and version != TLS_1_0 else bytes_of(suite.iv_length, 3)
    mac_key = bytes_of(suite.tag_length, 5) if suite.mac else b""
    if nonce is None and suite.explicit(version) and not suite.mac:
        nonce = 77
    return Session(version, suite, bytes_of(suite.key_length, 7), iv, sequence, mac_key, nonce)


def enable_value(session: Session, **fields: Any) -> TlsEnableRequest:
    """The FreeBSD option's value for a session, with fields changed."""
    template = replace(
        EMPTY_ENABLE,
        cipher_algorithm=session.suite.algorithm,
        auth_algorithm=session.suite.auth_algorithm,
        tls_vminor=session.version & 0xFF,
        rec_seq=session.sequence,
    )
    request = TlsEnableRequest.build(template, session.key, session.iv, session.mac_key)
    changed = replace(TlsEnable.unpack_untrusted(request.value), **fields)
    return TlsEnableRequest(changed.pack(), request.memory)


def crypto_info(session: Session) -> CryptoInfo:
    """The Linux option's value for a session."""
    layout = CRYPTO_INFO_LAYOUTS[session.suite.cipher_type]
    explicit = session.suite.explicit(session.version)
    return CryptoInfo(
        session.version,
        session.suite.cipher_type,
        (session.nonce or 0).to_bytes(8, "big") if explicit else session.iv[layout.salt :],
        session.key,
        session.iv[: layout.salt],
        session.sequence.to_bytes(8, "big"),
    )


class World:
    """A socket of the personality's kernel. Nothing is enabled yet."""

    def __init__(self, personality: str) -> None:
        self.personality = PERSONALITIES[personality]
        self.sysctls = Sysctls(cbc_enable=True)
        self.socket = self.another()
        self.abi = self.personality.messages

    def another(self) -> KtlsSocket:
        """One more socket of this kernel."""
        return KtlsSocket(ENGINE, ENGINE, self.personality, self.sysctls)

    @property
    def interface(self) -> Kernel:
        return self.personality.keys.interfaces[0]

    # Options

    def enable(self, direction: Direction, session: Session | None = None) -> None:
        """Set a key the way this kernel has it."""
        session = session or keys()
        if self.interface == "freebsd":
            self.freebsd_enable(direction, session)
        else:
            self.linux_enable(direction, session)

    def enable_both(self, session: Session | None = None) -> None:
        self.enable("tx", session)
        self.enable("rx", session)

    def freebsd_enable(self, direction: Direction, session: Session, **fields: Any) -> None:
        self.set_request(direction, enable_value(session, **fields))

    def set_request(
        self, direction: Direction, request: TlsEnableRequest, value: bytes | None = None
    ) -> None:
        memory = dict(request.memory)

        def copyin(address: int, length: int) -> bytes:
            found = memory.get(address)
            if found is None:
                raise UmktlsError("bad address", errno.EFAULT)
            return found[:length].ljust(length, b"\0")

        chosen = request.value if value is None else value
        self.socket.setsockopt(IPPROTO_TCP, ENABLE[direction], chosen, copyin)

    def linux_enable(self, direction: Direction, session: Session) -> None:
        if not self.socket.ulp:
            self.ulp()
        self.set_tls(TLS[direction], crypto_info(session).pack())

    def ulp(self, name: bytes = b"tls\0") -> None:
        self.set(linux.SOL_TCP, linux.TCP_ULP, name)

    def set_tls(self, number: int, value: bytes) -> None:
        self.set(linux.SOL_TLS, number, value)

    def get_tls(self, number: int, length: int) -> bytes:
        return self.socket.getsockopt(linux.SOL_TLS, number, length)

    def set(self, level: int, number: int, value: bytes) -> None:
        self.socket.setsockopt(level, number, value, lambda address, length: bytes(length))

    def set_mode(self, mode: int) -> None:
        self.set(IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, struct.pack("<i", mode))

    def mode(self, direction: Direction) -> int:
        number = freebsd.TCP_TXTLS_MODE if direction == "tx" else freebsd.TCP_RXTLS_MODE
        return int(struct.unpack("<i", self.socket.getsockopt(IPPROTO_TCP, number, 4))[0])

    # The peer

    def peer(self, session: Session | None = None) -> Peer:
        return Peer(session or keys())

    def arrive(self, data: bytes) -> None:
        """Bytes from TCP."""
        receive(self.socket.rx, data)

    def fin(self) -> None:
        """The end of TCP's stream."""
        self.socket.rx.buffer_filled(0)

    def shut(self) -> None:
        """shutdown(SHUT_WR) of the socket itself."""
        self.socket.conditions.shut = True

    # Messages

    def set_type(self, record_type: int) -> bytes:
        """The control message that sets a type."""
        return self.abi.layout.pack(*self.abi.set_record_type, bytes([record_type]))

    def send(self, data: bytes, record_type: int | None = None, flags: int = 0) -> bytes:
        control = b"" if record_type is None else self.set_type(record_type)
        return b"".join(map(bytes, self.socket.sendmsg(data, control, flags)))

    def recv(self, length: int = 65536, room: int = ROOM, flags: int = 0) -> tuple[bytes, int, int]:
        """Data, type of the record (0 where none was told), flags; never waiting."""
        data, control, out = self.socket.recvmsg(length, room, flags | self.abi.dontwait)
        return data, self.type_of(control), out

    def type_of(self, control: bytes) -> int:
        if not control:
            return 0
        (message,) = self.abi.layout.parse_untrusted(control)
        assert (message.level, message.type) == self.abi.get_record_type
        if self.abi.get_record_type[0] == IPPROTO_TCP:
            return TlsGetRecord.unpack_untrusted(message.data).tls_type
        assert len(message.data) == 1
        return message.data[0]

    def outcomes(self, count: int, room: int = ROOM) -> list[bytes | int]:
        """What that many calls of recvmsg give: data, or the error's number."""
        found: list[bytes | int] = []
        for _ in range(count):
            try:
                found.append(self.recv(room=room)[0])
            except UmktlsError as error:
                found.append(error.errno)
        return found


class FailingSealer:
    """A sealer that fails now and then: with each record whose number is not in `good`."""

    def __init__(self, session: Session, good: Container[int]) -> None:
        self._sealer = ENGINE.sealer(session)
        self._good = good
        self.sequence = session.sequence

    def seal(
        self, record_type: int, parts: Sequence[Buffer], payload_limit: int = MAX_PLAINTEXT
    ) -> Buffer:
        if self.sequence not in self._good:
            self.sequence += 1
            raise WorldError("no memory", errno.ENOMEM)
        self._sealer.sequence = self.sequence
        wire = self._sealer.seal(record_type, parts, payload_limit)
        self.sequence = self._sealer.sequence
        return wire


class Peer:
    """Makes records, and opens those of the socket."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._sealer = ENGINE.sealer(session)
        self._opener = ENGINE.opener(session)

    def seal(self, data: bytes, record_type: int = DATA) -> bytes:
        return bytes(self._sealer.seal(record_type, (data,)))

    def open(self, wire: bytes) -> list[tuple[int, bytes]]:
        """The records in `wire`, which has nothing else."""
        found = []
        while wire:
            size = self._opener.check_header(wire[:5])
            dest = memoryview(bytearray(size))
            record_type, length = self._opener.open(memoryview(wire)[:size], dest)
            found.append((record_type, bytes(dest[:length])))
            wire = wire[size:]
        return found


def errno_of(call: Callable[..., Any], *arguments: Any, **named: Any) -> int:
    """The number of the error that the call raises."""
    with pytest.raises(UmktlsError) as caught:
        call(*arguments, **named)
    return caught.value.errno


def flipped(data: bytes, index: int) -> bytes:
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


VERSION_NAMES = {0x0301: "1_0", 0x0302: "1_1", TLS_1_2: "1_2", TLS_1_3: "1_3"}


def sending(w: World) -> Peer:
    """The peer of a socket whose sending half has its keys."""
    w.enable("tx")
    return w.peer()


def receiving(w: World) -> Peer:
    """The same of the receiving half."""
    w.enable("rx")
    return w.peer()


def readable_when_whole(w: World, peer: Peer) -> None:
    """A record of the peer that comes byte by byte is not there before its last one."""
    record = peer.seal(bytes(64))
    for byte in record[:-1]:
        w.arrive(bytes([byte]))
        assert not w.socket.readable()
        assert errno_of(w.recv) == errno.EAGAIN
    w.arrive(record[-1:])
    assert w.socket.readable()
