"""Kernel TLS as a kernel's socket interface has it: FreeBSD's, or Linux's.

What a daemon wants is the same for both: set the keys of a direction, see whether they are used,
send and take records that are no application data. How it is said differs:

                  FreeBSD                               Linux
    keys          TCP_TXTLS_ENABLE, TCP_RXTLS_ENABLE    TCP_ULP "tls", then TLS_TX, TLS_RX
                  struct tls_enable, keys by pointer    struct tls12_crypto_info_*
    in use?       TCP_TXTLS_MODE, TCP_RXTLS_MODE        TLS_TX, TLS_RX are there to be got
    record type   TLS_SET_RECORD_TYPE, TLS_GET_RECORD   TLS_SET_RECORD_TYPE, TLS_GET_RECORD_TYPE
                  at level IPPROTO_TCP                  at level SOL_TLS

`interface_of` has the one that a personality's kernel speaks; where it speaks both, FreeBSD's.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple, Protocol

from umktls.abi import linux
from umktls.abi.freebsd import (
    IPPROTO_TCP,
    TCP_RXTLS_ENABLE,
    TCP_RXTLS_MODE,
    TCP_TLS_MODE_NONE,
    TCP_TLS_MODE_SW,
    TCP_TXTLS_ENABLE,
    TCP_TXTLS_MODE,
    TlsEnable,
    TlsEnableRequest,
    TlsGetRecord,
    cmsg_space,
)
from umktls.abi.personality import Kernel as KernelName
from umktls.abi.personality import Personality
from umktls.dataclass import dataclass
from umktls.errors import PeerError, UmktlsError, UnsupportedError
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.crypto_info import crypto_info
from umktls.upcall.syscalls import (
    MAX_ROOM,
    GetsockoptArgs,
    RecvmsgArgs,
    RecvmsgResult,
    Segment,
    SendmsgArgs,
    SetsockoptArgs,
)
from umktls.userland.failures import Outcome, SystemCallError

__all__ = [
    "KtlsInterface",
    "Modes",
    "Record",
    "SetOption",
    "interface_of",
]

# A TLS record's payload, and the room a record of any type may need.
MAX_PAYLOAD = 16384
MODE_SIZE = 4
CONTROL_ROOM = cmsg_space(TlsGetRecord.SIZE)  # as much as for Linux's one byte

_ENABLE: Mapping[Direction, int] = {"tx": TCP_TXTLS_ENABLE, "rx": TCP_RXTLS_ENABLE}
_MODE: Mapping[Direction, int] = {"tx": TCP_TXTLS_MODE, "rx": TCP_RXTLS_MODE}
_CRYPTO_INFO: Mapping[Direction, int] = {"tx": linux.TLS_TX, "rx": linux.TLS_RX}


class Record(NamedTuple):
    """A TLS record's content with its type: 21 alert, 22 handshake, 23 application data."""

    type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SetOption:
    """A setsockopt(2). `memory` is what pointers in the value point to; `harmless` is an errno
    with which it may fail."""

    level: int
    name: int
    value: bytes = field(repr=False)
    memory: Sequence[tuple[int, bytes]] = field(default=(), repr=False)
    harmless: int | None = None

    def args(self, fd: int) -> SetsockoptArgs:
        """The system call's arguments, for descriptor `fd`."""
        segments = tuple(Segment(address, data) for address, data in self.memory)
        return SetsockoptArgs(fd, self.level, self.name, self.value, segments)


class SystemCalls(Protocol):
    """The system calls on a socket, as `umktls.userland.sockets.Socket` has them."""

    def setsockopt(
        self, level: int, name: int, value: bytes, memory: Sequence[tuple[int, bytes]] = ()
    ) -> None: ...

    def getsockopt(self, level: int, name: int, length: int = 256) -> bytes: ...

    def sendmsg(self, data: bytes, control: bytes = b"", flags: int = 0) -> int: ...

    def recvmsg(self, length: int, controllen: int = 0, flags: int = 0) -> RecvmsgResult: ...

    def together(
        self, calls: Sequence[SetsockoptArgs | GetsockoptArgs], answer: Any = None
    ) -> list[Outcome]: ...

    @property
    def number(self) -> int: ...

    def may_answer(self) -> bool: ...


# What became of keys that were set: who makes the records now (TCP_TLS_MODE_*), or why nobody does.
Modes = Mapping[Direction, int | UmktlsError]


class KtlsInterface:
    """What both interfaces have in common.

    Attributes:
        messages: how sendmsg and recvmsg are spoken.
        rekeys: a second key is taken, so that a KeyUpdate can be sent and answered.
    """

    def __init__(self, personality: Personality) -> None:
        self.messages = personality.messages
        self.rekeys = personality.keys.rekey

    def key_options(self, direction: Direction, session: Session) -> list[SetOption]:
        """What has to be set, in this order, for the keys of one direction.

        Raises `UnsupportedError` for a suite that the interface has no words for.
        """
        raise NotImplementedError

    def enable(self, sock: SystemCalls, direction: Direction, session: Session) -> None:
        """Set the keys of one direction. Raises `SystemCallError`, `UnsupportedError`."""
        for option in self.key_options(direction, session):
            try:
                sock.setsockopt(option.level, option.name, option.value, option.memory)
            except SystemCallError as error:
                if error.errno != option.harmless:
                    raise

    def mode(self, sock: SystemCalls, direction: Direction) -> int:
        """Who makes the records of one direction: a TCP_TLS_MODE_*, NONE (0) for nobody."""
        raise NotImplementedError

    def enable_all(
        self, sock: SystemCalls, sessions: Mapping[Direction, Session], answer: Any = None
    ) -> Modes:
        """Set the keys of several directions, each as `enable` does, and look what came of it.
        `answer` is for the upcall, if it can go along and all of them work: then there is nothing
        to tell of any."""
        return {
            direction: self._enabled(sock, direction, sessions[direction]) for direction in sessions
        }

    def _enabled(
        self, sock: SystemCalls, direction: Direction, session: Session
    ) -> int | UmktlsError:
        try:
            self.enable(sock, direction, session)
            return self.mode(sock, direction)
        except (SystemCallError, UnsupportedError) as error:
            return error

    def send_record(self, sock: SystemCalls, record_type: int, data: bytes) -> None:
        """Send one record of any type. Raises `SystemCallError`."""
        sock.sendmsg(data, self.record_type(record_type), self.messages.dontwait)

    def record_args(self, fd: int, record_type: int, data: bytes) -> SendmsgArgs:
        """The same as a system call that is still to be made."""
        return SendmsgArgs(fd, data, self.record_type(record_type), self.messages.dontwait)

    def record_type(self, record_type: int) -> bytes:
        """The control message that gives what is sent its type."""
        abi = self.messages
        return abi.layout.pack(*abi.set_record_type, bytes((record_type,)))

    def taking(self, fd: int) -> RecvmsgArgs:
        """What takes a record from the head that is known already, and not a long one."""
        return RecvmsgArgs(fd, MAX_ROOM, CONTROL_ROOM, self.messages.dontwait)

    def receive_record(self, sock: SystemCalls) -> Record | None:
        """The record at the head of the receive queue; None if there is none to be had.

        Raises `PeerError` for a record without a type, `SystemCallError`.
        """
        abi = self.messages
        try:
            result = sock.recvmsg(MAX_PAYLOAD, CONTROL_ROOM, abi.dontwait)
        except SystemCallError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        if not result.control and not result.data:
            return None
        for message in abi.layout.parse_untrusted(result.control):
            if (message.level, message.type) == abi.get_record_type and message.data:
                return Record(message.data[0], result.data)
        cut = " (MSG_CTRUNC)" if result.flags & abi.ctrunc else ""
        raise PeerError(f"recvmsg gave {len(result.data)} bytes without a record type{cut}")


class FreebsdKtls(KtlsInterface):
    """tcp(4), ktls(4)."""

    def key_options(self, direction: Direction, session: Session) -> list[SetOption]:
        template = TlsEnable(
            cipher_key=0,
            iv=0,
            auth_key=0,
            cipher_algorithm=session.suite.algorithm,
            cipher_key_len=0,
            iv_len=0,
            auth_algorithm=0,
            auth_key_len=0,
            flags=0,
            tls_vmajor=session.version >> 8,
            tls_vminor=session.version & 0xFF,
            rec_seq=session.sequence,
        )
        request = TlsEnableRequest.build(template, session.key, session.iv)
        return [SetOption(IPPROTO_TCP, _ENABLE[direction], request.value, request.memory)]

    def mode(self, sock: SystemCalls, direction: Direction) -> int:
        return int.from_bytes(sock.getsockopt(IPPROTO_TCP, _MODE[direction], MODE_SIZE), "little")

    def enable_all(
        self, sock: SystemCalls, sessions: Mapping[Direction, Session], answer: Any = None
    ) -> Modes:
        """In one go: the modes are asked for before it is known whether the keys were taken. Where
        the answer goes along they need not be: the kernel looks at them before it takes it."""
        fd = sock.number
        calls: list[SetsockoptArgs | GetsockoptArgs] = []
        for direction, session in sessions.items():
            calls += (option.args(fd) for option in self.key_options(direction, session))
        if may_answer := answer is not None and sock.may_answer():
            outcomes = sock.together(calls, answer)
            if not sock.may_answer():
                return {}
        modes = [GetsockoptArgs(fd, IPPROTO_TCP, _MODE[way], MODE_SIZE) for way in sessions]
        if may_answer:
            outcomes += sock.together(modes)
        else:
            outcomes = sock.together([*calls, *modes])
        answers = zip(sessions, outcomes, outcomes[len(calls) :], strict=False)
        return {
            direction: enabled.error or mode.error or int.from_bytes(mode.result, "little")
            for direction, enabled, mode in answers
        }


class LinuxKtls(KtlsInterface):
    """Documentation/networking/tls.rst. Linux does not say who makes the records: SW, if one."""

    def key_options(self, direction: Direction, session: Session) -> list[SetOption]:
        # For the second direction, and for a second key, the ULP is there already.
        attach = SetOption(linux.SOL_TCP, linux.TCP_ULP, linux.TLS_ULP_NAME, (), errno.EEXIST)
        key = crypto_info(session).pack()
        return [attach, SetOption(linux.SOL_TLS, _CRYPTO_INFO[direction], key)]

    def mode(self, sock: SystemCalls, direction: Direction) -> int:
        try:
            sock.getsockopt(linux.SOL_TLS, _CRYPTO_INFO[direction], linux.CRYPTO_INFO_HEADER_SIZE)
        except SystemCallError as error:
            if error.errno in (errno.EBUSY, errno.ENOPROTOOPT, errno.EOPNOTSUPP):
                return TCP_TLS_MODE_NONE
            raise
        return TCP_TLS_MODE_SW


INTERFACES: Mapping[KernelName, type[KtlsInterface]] = {
    "freebsd": FreebsdKtls,
    "linux": LinuxKtls,
}


def interface_of(personality: Personality) -> KtlsInterface:
    """The interface that a daemon uses on that kernel."""
    return INTERFACES[personality.keys.interfaces[0]](personality)
