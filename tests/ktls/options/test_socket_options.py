"""TCP_TXTLS_ENABLE and its kin: every refusal with its errno, and which comes first."""

from __future__ import annotations

import errno
import itertools
import struct
from dataclasses import replace

import pytest

from tests.ktls.helpers import ENGINE, seal, session, transmitter
from tests.ktls.options.enabling import GOOD, KEYS, OPTION, Call, Fault, enable_socket, set_fields
from umktls.abi import freebsd
from umktls.abi.freebsd import IPPROTO_TCP, TlsEnable, TlsEnableRequest
from umktls.abi.personality import PERSONALITIES
from umktls.errors import CallerError, UmktlsError
from umktls.ktls.calls import KtlsSocket
from umktls.ktls.engines.software import SoftwareEngine
from umktls.ktls.options.checks import Sysctls
from umktls.ktls.session import Direction, Session
from umktls.ktls.session.suites import SUITES
from umktls.ktls.socket.state import Conditions
from umktls.ktls.socket.states import State

# spec: uipc_ktls.c's checks in their order.
FAULTS = [
    Fault(
        "dropped",
        errno.ECONNRESET,
        "dropped",
        lambda c: setattr(c.conditions, "dropped", True),
    ),
    Fault("size", errno.EINVAL, "size", lambda c: setattr(c, "cut", 63)),
    Fault(
        "kern.ipc.tls.enable",
        errno.ENOTSUP,
        "enable",
        lambda c: setattr(c.sysctls, "enable", False),
    ),
    Fault("not TCP", errno.EINVAL, "tcp", lambda c: setattr(c.conditions, "tcp", False)),
    Fault("again", errno.EALREADY, "again", lambda c: setattr(c, "enabled_before", True)),
    Fault(
        "CBC is off",
        errno.ENOTSUP,
        "cipher",
        set_fields(cipher_algorithm=freebsd.CRYPTO_AES_CBC),
    ),
    Fault(
        "no ext_pgs",
        errno.ENXIO,
        "ext_pgs",
        lambda c: setattr(c.sysctls, "mb_use_ext_pgs", False),
        "tx",
    ),
    Fault("vmajor", errno.EINVAL, "version", set_fields(tls_vmajor=2)),
    Fault("flags", errno.EINVAL, "flags", set_fields(flags=1)),
    Fault("cipher", errno.EINVAL, "cipher", set_fields(cipher_algorithm=99)),
    Fault("GCM with MAC", errno.EINVAL, "auth", set_fields(auth_algorithm=7)),
    Fault("copyin", errno.EFAULT, "copyin", lambda c: setattr(c, "fault_at_copyin", True)),
    Fault("key length", errno.EINVAL, "key", set_fields(cipher_key_len=24)),
    Fault(
        "listening",
        errno.EINVAL,
        "listening",
        lambda c: setattr(c.conditions, "listening", True),
    ),
]
DIRECTIONS: tuple[Direction, ...] = ("tx", "rx")
ONE_FAULT = [
    (fault, direction)
    for fault in FAULTS
    for direction in DIRECTIONS
    if fault.direction in (None, direction)
]
TWO_FAULTS = [
    (first, second)
    for first, second in itertools.combinations(FAULTS, 2)
    if first.touches != second.touches and first.number != second.number
]


def refused(call: Call) -> int:
    with pytest.raises(UmktlsError) as caught:
        call.run()
    return caught.value.errno


@pytest.mark.parametrize("direction", ["tx", "rx"])
def test_without_a_fault_it_works(direction: Direction) -> None:
    socket = Call(direction).run()
    assert socket.mode(direction) == freebsd.TCP_TLS_MODE_SW
    assert socket.engine_name(direction) == "software"
    other: Direction = "rx" if direction == "tx" else "tx"
    assert socket.mode(other) == freebsd.TCP_TLS_MODE_NONE
    assert socket.engine_name(other) is None


@pytest.mark.parametrize(
    ("fault", "direction"), ONE_FAULT, ids=[f"{f.name}-{d}" for f, d in ONE_FAULT]
)
def test_each_fault_has_its_errno(fault: Fault, direction: Direction) -> None:
    call = Call(direction)
    fault.inject(call)
    assert refused(call) == fault.number


@pytest.mark.parametrize(
    ("first", "second"), TWO_FAULTS, ids=[f"{a.name} before {b.name}" for a, b in TWO_FAULTS]
)
def test_of_two_faults_the_first_in_the_kernel_s_order_is_told(first: Fault, second: Fault) -> None:
    call = Call("tx")
    second.inject(call)
    first.inject(call)
    assert refused(call) == first.number


def test_every_pair_is_of_faults_that_can_be_told_apart() -> None:
    assert len(TWO_FAULTS) > 50


INVALID = {
    "minor 0": {"tls_vminor": 0},
    "minor 5": {"tls_vminor": 5},
    "key length 0": {"cipher_key_len": 0},
    "key length -1": {"cipher_key_len": -1},
    "key length 1025": {"cipher_key_len": 1025},
    "auth key length -1": {"auth_key_len": -1},
    "auth key length 1025": {"auth_key_len": 1025},
    "iv length -1": {"iv_len": -1},
    "iv length 17": {"iv_len": 17},
    "GCM, 1.3, iv 4": {"iv_len": 4},
    "GCM, 1.2, iv 12": {"tls_vminor": 3},
    "GCM, 1.0": {"tls_vminor": 1, "iv_len": 4},
    "GCM, 1.1": {"tls_vminor": 2, "iv_len": 4},
    "GCM, auth key": {"auth_key_len": 20},
    "ChaCha20, 1.0": {"cipher_algorithm": 41, "cipher_key_len": 32, "tls_vminor": 1},
    "ChaCha20, 1.1": {"cipher_algorithm": 41, "cipher_key_len": 32, "tls_vminor": 2},
    "ChaCha20, iv 4": {"cipher_algorithm": 41, "cipher_key_len": 32, "iv_len": 4},
    "ChaCha20, MAC": {"cipher_algorithm": 41, "cipher_key_len": 32, "auth_algorithm": 7},
    "ChaCha20, key 16": {"cipher_algorithm": 41, "cipher_key_len": 16},
    "AES-192": {"cipher_key_len": 24},
}
CBC = {"cipher_algorithm": freebsd.CRYPTO_AES_CBC, "iv_len": 16, "auth_key_len": 20}
INVALID_CBC = {
    "1.3, SHA-1": {"tls_vminor": 4, "auth_algorithm": freebsd.CRYPTO_SHA1_HMAC},
    "1.3, SHA-256": {"tls_vminor": 4, "auth_algorithm": freebsd.CRYPTO_SHA2_256_HMAC},
    "1.1, SHA-256": {"tls_vminor": 2, "auth_algorithm": freebsd.CRYPTO_SHA2_256_HMAC},
    "1.1, SHA-384": {"tls_vminor": 2, "auth_algorithm": freebsd.CRYPTO_SHA2_384_HMAC},
    "1.0, SHA-256": {"tls_vminor": 1, "auth_algorithm": freebsd.CRYPTO_SHA2_256_HMAC},
    "1.0, iv 12": {"tls_vminor": 1, "auth_algorithm": freebsd.CRYPTO_SHA1_HMAC, "iv_len": 12},
    "1.2, no MAC": {"tls_vminor": 3, "auth_algorithm": 0},
    "1.2, no MAC key": {
        "tls_vminor": 3,
        "auth_algorithm": freebsd.CRYPTO_SHA1_HMAC,
        "auth_key_len": 0,
    },
}


@pytest.mark.parametrize("direction", ["tx", "rx"])
@pytest.mark.parametrize("name", INVALID)
def test_invalid_structures(name: str, direction: Direction) -> None:
    call = Call(direction)
    call.fields.update(INVALID[name])
    assert refused(call) == errno.EINVAL


@pytest.mark.parametrize("direction", ["tx", "rx"])
@pytest.mark.parametrize("name", INVALID_CBC)
def test_invalid_cbc_structures(name: str, direction: Direction) -> None:
    call = Call(direction, sysctls=Sysctls(cbc_enable=True))
    call.fields.update(CBC | INVALID_CBC[name])
    assert refused(call) == errno.EINVAL


@pytest.mark.parametrize(("kernel", "vminor"), [("freebsd13", 2), ("freebsd13", 3), ("umktls", 1)])
def test_cbc_that_a_kernel_cannot_receive(kernel: str, vminor: int) -> None:
    call = Call("rx", PERSONALITIES[kernel], sysctls=Sysctls(cbc_enable=True))
    call.fields.update(CBC | {"tls_vminor": vminor, "auth_algorithm": freebsd.CRYPTO_SHA1_HMAC})
    assert refused(call) == errno.EPROTONOSUPPORT


class Useless(SoftwareEngine):
    name = "useless"

    def supports(self, session: Session, direction: Direction) -> str | None:
        return "it does nothing"


def test_what_the_engine_cannot_do_is_eprotonosupport() -> None:
    call = Call("tx", engine=Useless())
    with pytest.raises(UmktlsError, match="useless: it does nothing") as caught:
        call.run()
    assert caught.value.errno == errno.EPROTONOSUPPORT


def test_the_listening_socket_s_error_comes_after_the_suite_s() -> None:
    call = Call("tx", conditions=Conditions(listening=True), engine=Useless())
    assert refused(call) == errno.EPROTONOSUPPORT


@pytest.mark.parametrize(
    ("kernel", "direction", "number"),
    [
        ("freebsd13", "tx", None),
        ("freebsd14", "rx", errno.EINVAL),
        ("freebsd15", "rx", None),
        ("umktls", "rx", None),
    ],
)
def test_the_first_form_of_the_structure(
    kernel: str, direction: Direction, number: int | None
) -> None:
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES[kernel])
    request = TlsEnableRequest.build(replace(GOOD, rec_seq=77), KEYS.key, KEYS.iv)
    value = TlsEnable.unpack_untrusted(request.value).pack_v0()
    memory = dict(request.memory)
    if number is None:
        socket.setsockopt(IPPROTO_TCP, OPTION[direction], value, lambda a, n: memory[a][:n])
        assert (socket.tx if direction == "tx" else socket.rx).sequence == 0
        return
    with pytest.raises(UmktlsError) as caught:
        socket.setsockopt(IPPROTO_TCP, OPTION[direction], value, lambda a, n: memory[a][:n])
    assert caught.value.errno == number


@pytest.mark.parametrize("name", sorted(SUITES))
@pytest.mark.parametrize("direction", ["tx", "rx"])
def test_all_suites_at_any_sequence_number(name: str, direction: Direction) -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    enable_socket(socket, direction, session(SUITES[name], 2**40 + 5))
    half = socket.tx if direction == "tx" else socket.rx
    assert half.suite is SUITES[name]
    assert half.sequence == 2**40 + 5


@pytest.mark.parametrize(
    ("fault", "direction"), ONE_FAULT, ids=[f"{f.name}-{d}" for f, d in ONE_FAULT]
)
def test_nothing_changes_where_anything_is_refused(fault: Fault, direction: Direction) -> None:
    call = Call(direction)
    fault.inject(call)
    refused(call)
    assert call.socket is not None
    before = State.SEALED if call.enabled_before else State.CLEAR
    states = {"tx": call.socket.tx.state, "rx": call.socket.rx.state}
    assert states.pop(direction) is before
    assert set(states.values()) == {State.CLEAR}


def test_a_new_key_where_the_kernel_rekeys() -> None:
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["umktls"])
    enable_socket(socket, "tx", session(sequence=9))
    enable_socket(socket, "rx", session(sequence=9))
    socket.sendmsg(b"under the old key")
    enable_socket(socket, "tx", session(epoch=1))
    enable_socket(socket, "rx", session(epoch=1))
    assert (socket.tx.sequence, socket.rx.sequence) == (0, 0)
    assert socket.tx.records == 1


def test_a_new_key_is_for_the_same_suite() -> None:
    socket = KtlsSocket(ENGINE, ENGINE, PERSONALITIES["umktls"])
    enable_socket(socket, "tx", session())
    with pytest.raises(CallerError) as caught:
        enable_socket(socket, "tx", session(SUITES["TLS_CHACHA20_POLY1305_SHA256"]))
    assert caught.value.errno == errno.EINVAL
    enable_socket(socket, "rx", session(SUITES["TLS_CHACHA20_POLY1305_SHA256"]))


def test_modes() -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    for option in (freebsd.TCP_TXTLS_MODE, freebsd.TCP_RXTLS_MODE):
        assert socket.getsockopt(IPPROTO_TCP, option, 4) == bytes(4)
    enable_socket(socket, "tx", session())
    assert socket.getsockopt(IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, 4) == b"\1\0\0\0"
    assert socket.getsockopt(IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, 2) == b"\1\0"
    assert socket.getsockopt(IPPROTO_TCP, freebsd.TCP_RXTLS_MODE, 4) == bytes(4)


def set_mode(socket: KtlsSocket, value: bytes) -> None:
    socket.setsockopt(IPPROTO_TCP, freebsd.TCP_TXTLS_MODE, value, lambda a, n: b"")


def test_setting_the_mode() -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    for mode in (freebsd.TCP_TLS_MODE_SW, freebsd.TCP_TLS_MODE_IFNET):
        set_mode(socket, struct.pack("<i", mode))
    assert socket.mode("tx") == freebsd.TCP_TLS_MODE_NONE
    enable_socket(socket, "tx", session())
    set_mode(socket, struct.pack("<i", freebsd.TCP_TLS_MODE_SW))
    for value, number in [
        (struct.pack("<i", freebsd.TCP_TLS_MODE_IFNET), errno.EOPNOTSUPP),
        (struct.pack("<i", freebsd.TCP_TLS_MODE_NONE), errno.EINVAL),
        (struct.pack("<i", freebsd.TCP_TLS_MODE_TOE), errno.EINVAL),
        (b"\1\0\0", errno.EINVAL),
    ]:
        with pytest.raises(UmktlsError) as caught:
            set_mode(socket, value)
        assert caught.value.errno == number


@pytest.mark.parametrize("option", [(6, 1), (6, 43), (41, 39), (282, 1)])
def test_options_there_are_not(option: tuple[int, int]) -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    with pytest.raises(UmktlsError) as caught:
        socket.setsockopt(*option, bytes(64), lambda a, n: b"")
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(UmktlsError) as caught:
        socket.getsockopt(*option, 4)
    assert caught.value.errno == errno.ENOPROTOOPT


def test_the_receive_mode_cannot_be_set() -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    with pytest.raises(UmktlsError) as caught:
        socket.setsockopt(IPPROTO_TCP, freebsd.TCP_RXTLS_MODE, bytes(4), lambda a, n: b"")
    assert caught.value.errno == errno.ENOPROTOOPT


def test_maxlen_limits_what_is_sealed() -> None:
    socket = KtlsSocket(ENGINE, ENGINE, sysctls=Sysctls(maxlen=100))
    enable_socket(socket, "tx", session())
    socket.sendmsg(b"x" * 250)
    assert socket.tx.records == 3
    assert socket.tx.bytes == 250


def test_a_socket_s_first_record_has_the_number_that_was_set() -> None:
    socket = KtlsSocket(ENGINE, ENGINE)
    enable_socket(socket, "tx", session(sequence=7))
    wire = b"".join(socket.sendmsg(b"data"))
    assert wire == seal(transmitter(sequence=7), b"data")
