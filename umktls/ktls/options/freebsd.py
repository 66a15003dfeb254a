"""FreeBSD's socket options: TCP_TXTLS_ENABLE and its kin (tcp_usrreq.c, uipc_ktls.c).

What an ENABLE refuses stands in checks.py. Once on, TLS stays for the life of the socket. The mode
of a sending socket can be switched between SW and IFNET, if the socket was given an engine for
the other one.
"""

from __future__ import annotations

import errno
import secrets
import struct

from umktls.abi.freebsd import (
    IPPROTO_TCP,
    TCP_RXTLS_ENABLE,
    TCP_RXTLS_MODE,
    TCP_TLS_MODE_IFNET,
    TCP_TLS_MODE_SW,
    TCP_TXTLS_ENABLE,
    TCP_TXTLS_MODE,
    TlsEnable,
)
from umktls.errors import CallerError, UnsupportedError
from umktls.ktls.options.checks import (
    KEYS_CHECKS,
    KNOB_CHECKS,
    LAST_CHECKS,
    STRUCTURE_CHECKS,
    Attempt,
    refuse_dropped,
    run_checks,
)
from umktls.ktls.options.option import Copyin, Getter, Option, Setter
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.framing import MAX_PLAINTEXT
from umktls.ktls.session.suites import suite_for
from umktls.ktls.socket.state import KtlsSocketState

_INT = struct.Struct("<i")


def _enable(direction: Direction) -> Setter:
    def set_option(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
        refuse_dropped(state.dropped)
        attempt = _attempt(state, direction, _read_structure(state, direction, value))
        run_checks(KNOB_CHECKS, attempt)
        state.counters.enable_calls += 1
        run_checks(STRUCTURE_CHECKS, attempt)
        session = _session(state, attempt, copyin)
        reason = state.unsupported(direction, session)
        if reason is not None:
            raise UnsupportedError(
                f"{direction.upper()} TLS refused by {reason}", errno.EPROTONOSUPPORT
            )
        run_checks(LAST_CHECKS, attempt)
        if direction == "tx" and attempt.before is None:
            state.tx.payload_limit = min(state.sysctls.maxlen, MAX_PLAINTEXT)
        state.install(direction, session)

    return set_option


def _read_structure(state: KtlsSocketState, direction: Direction, value: bytes) -> TlsEnable:
    enable = TlsEnable.unpack_untrusted(value)
    first_form = len(value) == TlsEnable.SIZE_V0
    if first_form and direction == "rx" and not state.personality.keys.rx_struct_v0:
        raise CallerError("RX TLS refused: struct tls_enable in its first form is for TX only")
    return enable


def _attempt(state: KtlsSocketState, direction: Direction, enable: TlsEnable) -> Attempt:
    return Attempt(
        direction,
        enable,
        state.session(direction),
        state.conditions.tcp,
        state.conditions.listening,
        state.conditions.spliced,
        state.sysctls,
        state.personality.keys,
    )


def _session(state: KtlsSocketState, attempt: Attempt, copyin: Copyin) -> Session:
    """The session that was asked for. Keys are copied in here, in the kernel's order."""
    enable = attempt.enable
    mac_key = copyin(enable.auth_key, enable.auth_key_len) if enable.auth_key_len else b""
    key = copyin(enable.cipher_key, enable.cipher_key_len)
    iv = copyin(enable.iv, enable.iv_len) if enable.iv_len and not attempt.iv_ignored else b""
    run_checks(KEYS_CHECKS, attempt)
    version = enable.tls_vmajor << 8 | enable.tls_vminor
    auth_algorithm = enable.auth_algorithm if attempt.cbc else 0
    suite = suite_for(enable.cipher_algorithm, enable.cipher_key_len, version, auth_algorithm)
    assert suite is not None, "the checks let nothing else pass"
    before = attempt.before
    if before is not None and (before.version, before.suite) != (version, suite):
        raise CallerError(f"{attempt.direction.upper()} TLS refused: another suite than before")
    explicit = suite.explicit(version) and not suite.mac
    nonce = secrets.randbits(64) if explicit and attempt.is_tx else None
    return Session(
        version,
        suite,
        key,
        iv,
        enable.rec_seq,
        mac_key,
        nonce,
        state.personality.receiving.framing,
        wraps=state.personality.keys.sequence_end is None,
    )


def _get_mode(direction: Direction) -> Getter:
    def get_option(state: KtlsSocketState, length: int) -> bytes:
        refuse_dropped(state.dropped)
        _refuse_listening(state)
        return _INT.pack(state.mode(direction))[:length]

    return get_option


def _refuse_listening(state: KtlsSocketState) -> None:
    if state.conditions.listening:
        raise CallerError("a listening socket has no TLS mode")


def _set_mode(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    """ktls_set_tx_mode: ask for another place to seal in."""
    refuse_dropped(state.dropped)
    if len(value) < _INT.size:
        raise CallerError(f"TCP_TXTLS_MODE takes an int, not {len(value)} bytes")
    (mode,) = _INT.unpack_from(value)
    _refuse_listening(state)
    if mode not in (TCP_TLS_MODE_SW, TCP_TLS_MODE_IFNET):
        raise CallerError(f"TCP_TXTLS_MODE can be SW or IFNET, not {mode}")
    if mode == TCP_TLS_MODE_IFNET:
        _refuse_ifnet(state)
    if state.session("tx") is not None and state.mode("tx") != mode:
        state.switch_tx(mode)


def _refuse_ifnet(state: KtlsSocketState) -> None:
    if state.mode("tx") == TCP_TLS_MODE_IFNET:
        raise CallerError("the card seals already", errno.EALREADY)
    if state.ifnet_disabled:
        raise UnsupportedError("the card was given up: it had to send too much again", errno.ENXIO)


def _option(
    name: str, number: int, set_: Setter | None, get: Getter | None, handled: str
) -> Option:
    return Option("freebsd", "IPPROTO_TCP", name, IPPROTO_TCP, number, set_, get, handled)


FREEBSD_OPTIONS = (
    _option(
        "TCP_TXTLS_ENABLE",
        TCP_TXTLS_ENABLE,
        _enable("tx"),
        None,
        "struct tls_enable in both sizes; keys by pointer; every check of the kernel in its order",
    ),
    _option(
        "TCP_TXTLS_MODE",
        TCP_TXTLS_MODE,
        _set_mode,
        _get_mode("tx"),
        "NONE, SW, IFNET, TOE; set: SW or IFNET where an engine for it is there",
    ),
    _option(
        "TCP_RXTLS_ENABLE",
        TCP_RXTLS_ENABLE,
        _enable("rx"),
        None,
        "as for sending; what waits unread becomes records",
    ),
    _option("TCP_RXTLS_MODE", TCP_RXTLS_MODE, None, _get_mode("rx"), "NONE, SW, IFNET, TOE"),
)
