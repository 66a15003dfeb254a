"""A call of TCP_TXTLS_ENABLE or TCP_RXTLS_ENABLE, and what can be wrong with it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tests.ktls.helpers import ENGINE, session
from umktls.abi import freebsd
from umktls.abi.freebsd import IPPROTO_TCP, TlsEnable, TlsEnableRequest
from umktls.abi.personality import PERSONALITIES, Personality
from umktls.errors import CallerError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines import Engine
from umktls.ktls.options.checks import Sysctls
from umktls.ktls.session import Direction, Session
from umktls.ktls.socket.state import Conditions

TX, RX = freebsd.TCP_TXTLS_ENABLE, freebsd.TCP_RXTLS_ENABLE
OPTION: dict[Direction, int] = {"tx": TX, "rx": RX}
GOOD = TlsEnable(
    cipher_key=0,
    iv=0,
    auth_key=0,
    cipher_algorithm=freebsd.CRYPTO_AES_NIST_GCM_16,
    cipher_key_len=0,
    iv_len=0,
    auth_algorithm=0,
    auth_key_len=0,
    flags=0,
    tls_vmajor=3,
    tls_vminor=4,
    rec_seq=0,
)
KEYS = session()


@dataclass
class Call:
    """One setsockopt, good until a fault is put in."""

    direction: Direction
    personality: Personality = PERSONALITIES["freebsd14"]
    conditions: Conditions = field(default_factory=Conditions)
    sysctls: Sysctls = field(default_factory=Sysctls)
    fields: dict[str, Any] = field(default_factory=dict)
    cut: int | None = None
    fault_at_copyin: bool = False
    enabled_before: bool = False
    engine: Engine = ENGINE
    socket: KtlsSocket | None = None

    def run(self) -> KtlsSocket:
        self.socket = socket = KtlsSocket(self.engine, self.engine, self.personality, Sysctls())
        if self.enabled_before:
            request = TlsEnableRequest.build(GOOD, KEYS.key, KEYS.iv)
            memory = dict(request.memory)
            socket.setsockopt(
                IPPROTO_TCP, OPTION[self.direction], request.value, lambda a, n: memory[a][:n]
            )
        socket.conditions, socket.sysctls = self.conditions, self.sysctls
        request = TlsEnableRequest.build(GOOD, KEYS.key, KEYS.iv)
        enable = replace(TlsEnable.unpack_untrusted(request.value), **self.fields)
        memory = dict(request.memory)

        def copyin(address: int, length: int) -> bytes:
            if self.fault_at_copyin:
                raise CallerError("bad address", errno.EFAULT)
            return memory.get(address, b"")[:length].ljust(length, b"\0")

        value = enable.pack()[: self.cut]
        socket.setsockopt(IPPROTO_TCP, OPTION[self.direction], value, copyin)
        return socket


def enable_socket(socket: KtlsSocket, direction: Direction, keys: Session, vminor: int = 4) -> None:
    template = replace(
        GOOD,
        cipher_algorithm=keys.suite.algorithm,
        rec_seq=keys.sequence,
        tls_vminor=vminor,
    )
    request = TlsEnableRequest.build(template, keys.key, keys.iv)
    memory = dict(request.memory)
    socket.setsockopt(
        IPPROTO_TCP, OPTION[direction], request.value, lambda address, n: memory[address][:n]
    )


@dataclass(frozen=True)
class Fault:
    """`touches` names what it changes: two faults that change the same cannot be put together."""

    name: str
    number: int
    touches: str
    inject: Callable[[Call], Any]
    direction: Direction | None = None


def set_fields(**fields: int) -> Callable[[Call], None]:
    return lambda call: call.fields.update(fields)
