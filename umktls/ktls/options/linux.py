"""Linux's socket options: TCP_ULP and those of level SOL_TLS (tcp_ulp.c, tls_main.c).

The upper layer protocol comes first: without it there is no level SOL_TLS. Keys come as one of the
``struct tls12_crypto_info_*`` and go back the same way, with the IV and the sequence number as they
are now. Both directions have the same version and cipher.
"""

from __future__ import annotations

import errno
import struct

from umktls.abi import linux
from umktls.abi.linux import CRYPTO_INFO_HEADER_SIZE, CRYPTO_INFO_LAYOUTS, CryptoInfo
from umktls.errors import CallerError, UmktlsError, UnsupportedError
from umktls.ktls.options.option import Copyin, Getter, Option, Setter, no_such_option
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import TLS_1_3, suite_of_cipher_type
from umktls.ktls.socket.state import KtlsSocketState
from umktls.ktls.socket.states import State

_INT = struct.Struct("<I")
_SHORT = struct.Struct("<H")
_NUMBERS: dict[Direction, int] = {"tx": linux.TLS_TX, "rx": linux.TLS_RX}
_OTHER: dict[Direction, Direction] = {"tx": "rx", "rx": "tx"}


def _set_ulp(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    if not value:
        raise CallerError("TCP_ULP takes a name")
    name = value[: linux.TCP_ULP_NAME_MAX - 1].split(b"\0")[0]
    if name != linux.TLS_ULP_NAME:
        raise UnsupportedError(f"no upper layer protocol {name!r}", errno.ENOENT)
    if state.ulp:
        raise CallerError("the socket has an upper layer protocol", errno.EEXIST)
    conditions = state.conditions
    here = conditions.connected and conditions.established and not conditions.dropped
    if not here or conditions.listening:
        raise CallerError("TCP_ULP is for established connections", errno.ENOTCONN)
    state.ulp = True


def _get_ulp(state: KtlsSocketState, length: int) -> bytes:
    name = linux.TLS_ULP_NAME.ljust(linux.TCP_ULP_NAME_MAX, b"\0")
    return name[:length] if state.ulp else b""


def _need_ulp(state: KtlsSocketState, number: int, verb: str) -> None:
    if not state.ulp:
        raise no_such_option(linux.SOL_TLS, number, verb)


# Keys


def _set_key(direction: Direction) -> Setter:
    def set_option(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
        _need_ulp(state, _NUMBERS[direction], "set")
        before = state.session(direction)
        try:
            _set_crypto_info(state, direction, before, value)
        except UmktlsError:
            # A value without a header is refused before anything is counted.
            if before is not None and len(value) >= CRYPTO_INFO_HEADER_SIZE:
                state.counters.rekey_errors[direction] += 1
            raise

    return set_option


def _set_crypto_info(
    state: KtlsSocketState, direction: Direction, before: Session | None, value: bytes
) -> None:
    if len(value) < CRYPTO_INFO_HEADER_SIZE:
        raise CallerError(f"crypto_info of {len(value)} bytes has no version and cipher type")
    if before is not None and not (state.personality.keys.rekey and before.version == TLS_1_3):
        raise CallerError(f"{direction.upper()} has a key, and this one stays", errno.EBUSY)
    info = CryptoInfo.unpack_untrusted(value)
    # For a first key the other direction decides, for a second one the key before it.
    model = before or state.session(_OTHER[direction])
    if model is not None and (model.version, model.suite.cipher_type) != (
        info.version,
        info.cipher_type,
    ):
        raise CallerError(f"{direction.upper()} TLS refused: another version or cipher")
    session = _session(state, info)
    reason = state.unsupported(direction, session)
    if reason is not None:
        raise UnsupportedError(f"{direction.upper()} TLS refused by {reason}", errno.ENOENT)
    state.install(direction, session)


def _session(state: KtlsSocketState, info: CryptoInfo) -> Session:
    suite = suite_of_cipher_type(info.cipher_type, info.version)
    assert suite is not None, "CryptoInfo lets nothing else pass"
    explicit = suite.explicit(info.version)
    return Session(
        info.version,
        suite,
        info.key,
        info.salt if explicit else info.salt + info.iv,
        int.from_bytes(info.rec_seq, "big"),
        nonce=int.from_bytes(info.iv, "big") if explicit else None,
        framing=state.personality.receiving.framing,
    )


def _get_key(direction: Direction) -> Getter:
    def get_option(state: KtlsSocketState, length: int) -> bytes:
        _need_ulp(state, _NUMBERS[direction], "got")
        if length < CRYPTO_INFO_HEADER_SIZE:
            raise CallerError(f"no room for a crypto_info in {length} bytes")
        session = state.session(direction)
        if session is None:
            raise CallerError(f"{direction.upper()} has no key", errno.EBUSY)
        layout = CRYPTO_INFO_LAYOUTS.get(session.suite.cipher_type)
        if layout is None:
            raise CallerError(f"{session.suite.name} has no crypto_info")
        if length not in (CRYPTO_INFO_HEADER_SIZE, layout.size):
            raise CallerError(f"a crypto_info for {layout.name} has {layout.size} bytes")
        return _crypto_info(session).pack()[:length]

    return get_option


def _crypto_info(session: Session) -> CryptoInfo:
    layout = CRYPTO_INFO_LAYOUTS[session.suite.cipher_type]
    salt, iv = session.iv[: layout.salt], session.iv[layout.salt :]
    if not iv:  # TLS 1.2's explicit nonce
        iv = (session.nonce or 0).to_bytes(layout.iv, "big")
    sequence = session.sequence.to_bytes(layout.rec_seq, "big")
    cipher_type = session.suite.cipher_type
    return CryptoInfo(session.version, cipher_type, iv, session.key, salt, sequence)


# The rest


def _set_zerocopy(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    _need_ulp(state, linux.TLS_TX_ZEROCOPY_RO, "set")
    if len(value) != _INT.size:
        raise CallerError(f"TLS_TX_ZEROCOPY_RO takes an int, not {len(value)} bytes")
    state.zerocopy_ro = _flag(value)


def _flag(value: bytes) -> bool:
    (number,) = _INT.unpack_from(value)
    if number > 1:
        raise CallerError(f"{number} is neither 0 nor 1")
    return bool(number)


def _get_zerocopy(state: KtlsSocketState, length: int) -> bytes:
    _need_ulp(state, linux.TLS_TX_ZEROCOPY_RO, "got")
    if length != _INT.size:
        raise CallerError(f"TLS_TX_ZEROCOPY_RO is an int, not {length} bytes")
    return _INT.pack(state.zerocopy_ro)


def _refuse_padding_option(state: KtlsSocketState, length: int) -> None:
    session = state.session("rx") or state.session("tx")
    if session is None or session.version != TLS_1_3:
        raise CallerError("TLS_RX_EXPECT_NO_PAD is for TLS 1.3")
    if length < _INT.size:
        raise CallerError(f"TLS_RX_EXPECT_NO_PAD is an int, not {length} bytes")


def _set_no_pad(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    _need_ulp(state, linux.TLS_RX_EXPECT_NO_PAD, "set")
    _refuse_padding_option(state, len(value))
    expected = _flag(value)
    if any(value[_INT.size :]):
        raise CallerError("TLS_RX_EXPECT_NO_PAD: what is behind the int has to be zero")
    if state.rx.state is State.CLEAR:
        raise CallerError("TLS_RX_EXPECT_NO_PAD: nothing is received as records")
    state.expect_no_pad = expected


def _get_no_pad(state: KtlsSocketState, length: int) -> bytes:
    _need_ulp(state, linux.TLS_RX_EXPECT_NO_PAD, "got")
    _refuse_padding_option(state, length)
    if state.rx.state is State.CLEAR:
        raise CallerError("TLS_RX_EXPECT_NO_PAD: nothing is received as records")
    return _INT.pack(state.expect_no_pad)


def _set_max_payload(state: KtlsSocketState, value: bytes, copyin: Copyin) -> None:
    _need_ulp(state, linux.TLS_TX_MAX_PAYLOAD_LEN, "set")
    if state.open_record:
        raise CallerError("a record is open (MSG_MORE)", errno.EBUSY)
    if len(value) != _SHORT.size:
        raise CallerError(f"TLS_TX_MAX_PAYLOAD_LEN takes 2 bytes, not {len(value)}")
    (limit,) = _SHORT.unpack(value)
    session = state.session("tx") or state.session("rx")
    least = linux.TLS_MIN_PAYLOAD_SIZE[session.version if session else 0]
    if not least <= limit <= linux.TLS_MAX_PAYLOAD_SIZE:
        raise CallerError(f"a record's payload can have {least} to 16384 bytes, not {limit}")
    state.tx.payload_limit = limit


def _get_max_payload(state: KtlsSocketState, length: int) -> bytes:
    _need_ulp(state, linux.TLS_TX_MAX_PAYLOAD_LEN, "got")
    if length < _SHORT.size:
        raise CallerError(f"TLS_TX_MAX_PAYLOAD_LEN has 2 bytes, not {length}")
    return _SHORT.pack(state.tx.payload_limit)


def _option(name: str, number: int, set_: Setter, get: Getter, handled: str) -> Option:
    return Option("linux", "SOL_TLS", name, linux.SOL_TLS, number, set_, get, handled)


LINUX_OPTIONS = (
    Option(
        "linux",
        "SOL_TCP",
        "TCP_ULP",
        linux.SOL_TCP,
        linux.TCP_ULP,
        _set_ulp,
        _get_ulp,
        'the only name is "tls"; the socket is otherwise as before',
    ),
    _option(
        "TLS_TX",
        linux.TLS_TX,
        _set_key("tx"),
        _get_key("tx"),
        "all crypto_info layouts; got: IV and rec_seq as they are now",
    ),
    _option("TLS_RX", linux.TLS_RX, _set_key("rx"), _get_key("rx"), "as TLS_TX"),
    _option(
        "TLS_TX_ZEROCOPY_RO",
        linux.TLS_TX_ZEROCOPY_RO,
        _set_zerocopy,
        _get_zerocopy,
        "kept and given back; without a card it has no effect",
    ),
    _option(
        "TLS_RX_EXPECT_NO_PAD",
        linux.TLS_RX_EXPECT_NO_PAD,
        _set_no_pad,
        _get_no_pad,
        "kept; its effect is in the counters TlsDecryptRetry and TlsRxNoPadViolation",
    ),
    _option(
        "TLS_TX_MAX_PAYLOAD_LEN",
        linux.TLS_TX_MAX_PAYLOAD_LEN,
        _set_max_payload,
        _get_max_payload,
        "the longest payload of a record",
    ),
)
