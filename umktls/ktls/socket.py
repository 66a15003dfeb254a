"""A KTLS socket as its kernel and its daemon see it: two halves, socket options, sendmsg, recvmsg.

Theory of operation
-------------------
The kernel owns one KtlsSocketState per TCP connection. It moves bytes between TCP and the two
halves, `tx` and `rx`; a daemon that has taken the socket reaches the same halves by system calls,
which come here. What setsockopt(2) refuses stands in checks.py. Nothing changes before all checks
have passed.

sendmsg(2): a call is at least one record of its own, of the type that a TLS_SET_RECORD_TYPE control
message says. recvmsg(2): a call returns at most one record, its type in a TLS_GET_RECORD control
message that comes with its first byte, MSG_EOR with its last. Without room for the control message
the payload is delivered all the same, whatever its type, as in FreeBSD.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass

from umktls.abi.freebsd import (
    IPPROTO_TCP,
    MSG_CTRUNC,
    MSG_EOR,
    MSG_PEEK,
    TCP_RXTLS_ENABLE,
    TCP_RXTLS_MODE,
    TCP_TLS_MODE_IFNET,
    TCP_TLS_MODE_NONE,
    TCP_TLS_MODE_SW,
    TCP_TXTLS_ENABLE,
    TCP_TXTLS_MODE,
    TLS_GET_RECORD,
    TLS_MAJOR_VER_ONE,
    TLS_MINOR_VER_TWO,
    TLS_SET_RECORD_TYPE,
    TlsEnable,
    TlsGetRecord,
    pack_control,
    parse_control_untrusted,
)
from umktls.abi.personality import DEFAULT_PERSONALITY, Personality
from umktls.errors import CallerError, UnsupportedError
from umktls.ktls.checks import (
    KEYS_CHECKS,
    LAST_CHECKS,
    STRUCTURE_CHECKS,
    Attempt,
    Sysctls,
    refuse_dropped,
    run_checks,
)
from umktls.ktls.engines import Buffer, Engine
from umktls.ktls.errors import WouldBlock
from umktls.ktls.rx import Receiver, Record
from umktls.ktls.session import Direction, Session
from umktls.ktls.states import State
from umktls.ktls.suites import suite_for
from umktls.ktls.tx import Transmitter

Copyin = Callable[[int, int], bytes]
"""(address, length) -> the caller's memory. Raises an UmktlsError with EFAULT."""

SEND_HIGH_WATER = 2 * 1024 * 1024
_INT = struct.Struct("<i")


@dataclass(slots=True)
class Conditions:
    """What the socket options ask about the TCP connection. The kernel keeps it true."""

    dropped: bool = False
    listening: bool = False
    tcp: bool = True


class KtlsSocketState:
    """See the module's theory of operation.

    Attributes:
        tx, rx: the halves.
        conditions: of the TCP connection below.
        send_high_water: the longest message with a record type of its own, in bytes.
    """

    def __init__(
        self,
        tx_engine: Engine,
        rx_engine: Engine,
        personality: Personality = DEFAULT_PERSONALITY,
        sysctls: Sysctls | None = None,
    ) -> None:
        self.personality = personality
        self.sysctls = sysctls or Sysctls()
        self.conditions = Conditions()
        self.send_high_water = SEND_HIGH_WATER
        self.tx = Transmitter(self.sysctls.maxlen)
        self.rx = Receiver(
            pause_for_rekey=personality.rekey,
            truncation_error=personality.truncation_error,
            bad_record_sticks=personality.bad_record_sticks,
        )
        self._engines: dict[Direction, Engine] = {"tx": tx_engine, "rx": rx_engine}
        self._versions: dict[Direction, tuple[int, int]] = {}

    def engine_name(self, direction: Direction) -> str | None:
        """Who makes this direction's records, None while it is in clear."""
        return self._engines[direction].name if self._enabled(direction) else None

    def mode(self, direction: Direction) -> int:
        """TCP_TLS_MODE_* of a direction."""
        return self._engines[direction].mode if self._enabled(direction) else TCP_TLS_MODE_NONE

    def _enabled(self, direction: Direction) -> bool:
        return self._half(direction).state is not State.CLEAR

    def _half(self, direction: Direction) -> Transmitter | Receiver:
        return self.tx if direction == "tx" else self.rx

    # Socket options

    def setsockopt(self, level: int, name: int, value: bytes, copyin: Copyin) -> None:
        """Set one option.

        Raises:
            UmktlsError: as checks.py says; ENOPROTOOPT for an option that cannot be set.
        """
        handler = _SETTERS.get((level, name))
        if handler is None:
            raise _no_such_option(level, name, "set")
        handler(self, value, copyin)

    def getsockopt(self, level: int, name: int, length: int) -> bytes:
        """An option's value, cut to `length`. Raises UnsupportedError (ENOPROTOOPT)."""
        direction = _MODE_OPTIONS.get((level, name))
        if direction is None:
            raise _no_such_option(level, name, "got")
        return _INT.pack(self.mode(direction))[:length]

    def _enable_tx(self, value: bytes, copyin: Copyin) -> None:
        self._enable("tx", value, copyin)

    def _enable_rx(self, value: bytes, copyin: Copyin) -> None:
        self._enable("rx", value, copyin)

    def _enable(self, direction: Direction, value: bytes, copyin: Copyin) -> None:
        refuse_dropped(self.conditions.dropped)
        enable = self._read_structure(direction, value)
        attempt = Attempt(
            direction,
            enable,
            self._enabled(direction),
            self.conditions.tcp,
            self.conditions.listening,
            self.sysctls,
            self.personality,
        )
        run_checks(STRUCTURE_CHECKS, attempt)
        key = copyin(enable.cipher_key, enable.cipher_key_len)
        iv = copyin(enable.iv, enable.iv_len) if enable.iv_len else b""
        run_checks(KEYS_CHECKS, attempt)
        session = self._session(direction, enable, key, iv)
        run_checks(LAST_CHECKS, attempt)
        self._install(direction, session)

    def _read_structure(self, direction: Direction, value: bytes) -> TlsEnable:
        enable = TlsEnable.unpack_untrusted(value)
        first_form = len(value) == TlsEnable.SIZE_V0
        if first_form and direction == "rx" and not self.personality.rx_struct_v0:
            raise CallerError("RX TLS refused: struct tls_enable in its first form is for TX only")
        return enable

    def _session(self, direction: Direction, enable: TlsEnable, key: bytes, iv: bytes) -> Session:
        """The session that was asked for, if the direction's engine can serve it."""
        engine = self._engines[direction]
        version = enable.tls_vmajor << 8 | enable.tls_vminor
        suite = suite_for(enable.cipher_algorithm, enable.cipher_key_len)
        if suite is None:
            raise UnsupportedError(
                f"{direction.upper()} TLS refused: no suite has cipher {enable.cipher_algorithm} "
                f"with keys of {enable.cipher_key_len} bytes",
                errno.EPROTONOSUPPORT,
            )
        if self._versions.get(direction, (version, suite.number)) != (version, suite.number):
            raise CallerError(f"{direction.upper()} TLS refused: a new key is for the same suite")
        session = Session(version, suite, key, iv, enable.rec_seq)
        reason = engine.supports(session, direction)
        if reason is not None:
            raise UnsupportedError(
                f"{direction.upper()} TLS refused by engine {engine.name}: {reason}",
                errno.EPROTONOSUPPORT,
            )
        return session

    def _install(self, direction: Direction, session: Session) -> None:
        """The point of no return."""
        engine = self._engines[direction]
        again = self._enabled(direction)
        if direction == "tx":
            (self.tx.rekey if again else self.tx.enable)(engine.sealer(session), session.suite)
        else:
            (self.rx.rekey if again else self.rx.enable)(engine.opener(session), session.suite)
        self._versions[direction] = (session.version, session.suite.number)

    def _set_tx_mode(self, value: bytes, copyin: Copyin) -> None:
        """TCP_TXTLS_MODE: ask for another place to seal in."""
        if len(value) < _INT.size:
            raise CallerError(f"TCP_TXTLS_MODE takes an int, not {len(value)} bytes")
        (mode,) = _INT.unpack_from(value)
        if mode not in (TCP_TLS_MODE_SW, TCP_TLS_MODE_IFNET):
            raise CallerError(f"TCP_TXTLS_MODE can be SW or IFNET, not {mode}")
        if self._enabled("tx") and mode != self.mode("tx"):
            raise UnsupportedError(
                f"engine {self._engines['tx'].name} cannot change its mode to {mode}", errno.ENXIO
            )

    # Messages

    def sendmsg(self, data: Buffer, control: bytes = b"", flags: int = 0) -> list[Buffer]:
        """What goes to TCP for one sendmsg(2).

        Raises:
            CallerError: EINVAL for a control message that is none of ours, an empty record or
                MSG_EOR; EMSGSIZE for a typed message over `send_high_water`.
            KeyExhausted: no sequence numbers are left.
        """
        record_type = _record_type(control)
        if self.tx.state is State.CLEAR:
            if record_type is not None:
                raise CallerError("a record type for a socket that sends no records")
            return [data] if len(data) else []
        if flags & MSG_EOR or not len(data):
            raise CallerError("a KTLS socket sends no empty record and takes no MSG_EOR")
        if record_type is None:
            return self.tx.seal_message((data,))
        if len(data) > self.send_high_water:
            raise CallerError(f"{len(data)} bytes cannot be sent at once", errno.EMSGSIZE)
        if self.personality.split_keeps_type:
            return self.tx.seal_message((data,), record_type)
        limit = self.tx.payload_limit
        first = self.tx.seal_message((data[:limit],), record_type)
        return first + (self.tx.seal_message((data[limit:],)) if len(data) > limit else [])

    def recvmsg(self, length: int, controllen: int, flags: int = 0) -> tuple[bytes, bytes, int]:
        """One recvmsg(2): data, control messages, flags. All empty at the end of the stream.

        Raises:
            WouldBlock: nothing is there yet.
            RecordError, KeyExpired: as Receiver.read_record.
        """
        peek = bool(flags & MSG_PEEK)
        if self.rx.state is State.CLEAR:
            data = self.rx.read_clear(length, peek=peek)
            if not data and length and not self.rx.eof:
                raise WouldBlock("nothing was received yet")
            return data, b"", 0
        record = self.rx.read_record()
        if record is None:
            if self.rx.eof:
                return b"", b"", 0
            raise WouldBlock("no whole record was received yet")
        return self._deliver(record, length, controllen, peek)

    def _deliver(
        self, record: Record, length: int, controllen: int, peek: bool
    ) -> tuple[bytes, bytes, int]:
        data = record.payload[record.offset : record.offset + length].tobytes()
        control = _get_record(record) if controllen and not record.offset else b""
        msg_flags = MSG_CTRUNC if len(control) > controllen else 0
        if record.offset + len(data) == len(record.payload):
            msg_flags |= MSG_EOR
        if not peek:
            self.rx.consume(len(data))
        return data, control[:controllen], msg_flags


def _record_type(control: bytes) -> int | None:
    """The type that a control buffer asks for, None where it is empty."""
    if not control:
        return None
    messages = parse_control_untrusted(control)
    first = messages[0]
    wanted = (IPPROTO_TCP, TLS_SET_RECORD_TYPE, 1)
    if len(messages) != 1 or (first.level, first.type, len(first.data)) != wanted:
        raise CallerError("the only control message to send is one TLS_SET_RECORD_TYPE")
    return first.data[0]


def _get_record(record: Record) -> bytes:
    """TLS_GET_RECORD for a record. The version is the wire's: 3.3, for TLS 1.3 too."""
    header = TlsGetRecord(
        record.type, TLS_MAJOR_VER_ONE, TLS_MINOR_VER_TWO, len(record.payload)
    ).pack()
    return pack_control(IPPROTO_TCP, TLS_GET_RECORD, header)


def _no_such_option(level: int, name: int, verb: str) -> UnsupportedError:
    return UnsupportedError(
        f"no option {name} at level {level} can be {verb} on a KTLS socket", errno.ENOPROTOOPT
    )


_SETTERS: dict[tuple[int, int], Callable[[KtlsSocketState, bytes, Copyin], None]] = {
    (IPPROTO_TCP, TCP_TXTLS_ENABLE): KtlsSocketState._enable_tx,
    (IPPROTO_TCP, TCP_RXTLS_ENABLE): KtlsSocketState._enable_rx,
    (IPPROTO_TCP, TCP_TXTLS_MODE): KtlsSocketState._set_tx_mode,
}
_MODE_OPTIONS: dict[tuple[int, int], Direction] = {
    (IPPROTO_TCP, TCP_TXTLS_MODE): "tx",
    (IPPROTO_TCP, TCP_RXTLS_MODE): "rx",
}
